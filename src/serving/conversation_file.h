#pragma once
// A conversation as one file: what was said, and the exact state after it.
//
//   "HDLCHAT1"        8 bytes
//   u32 version, u32 zero
//   u64 text bytes, u64 snapshot bytes
//   text              JSON: model, weights, system, messages, sampling, max_tokens, retries
//   snapshot          as state/snapshot_file.h writes it; empty where nothing was kept
//   XXH3-128          of everything before it
//
// Little endian. Everything in it is from outside: bounded, checked, and refused by name. The
// checksum finds damage, not malice: a state is worth as much as whoever saved it.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "engine/sampling.h"

namespace heddle::serving {

struct Message {
  std::string role;  // "user" or "assistant"
  std::string content;
  friend bool operator==(const Message&, const Message&) = default;
};

struct ConversationSettings {
  std::string system;  // empty: none
  int64_t max_tokens = 1024;
  engine::SamplingParams sampling;  // every answer has a seed of its own, made from this one
};

struct ConversationFile {
  std::string model;  // architecture
  Hash128 weights;
  ConversationSettings settings;
  std::vector<Message> messages;  // user and assistant in turn, user first, assistant last
  int64_t retries = 0;            // of the last answer
  std::vector<std::byte> snapshot;
};

constexpr int64_t kMaxConversationText = int64_t{64} << 20;
constexpr std::string_view kConversationMagic = "HDLCHAT1";

Result<std::vector<std::byte>> encode_conversation(const ConversationFile& conversation);
// `where` names the source in messages. The snapshot is not looked into.
Result<ConversationFile> decode_conversation(std::span<const std::byte> bytes,
                                             std::string_view where);

}  // namespace heddle::serving
