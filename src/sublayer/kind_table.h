#pragma once
// Every kind of sub-layer that was built in, and how to find one by name.
#include <span>
#include <string>
#include <string_view>

#include "sublayer/sublayer.h"

namespace heddle::sublayer {

// Generated (cmake/generated_tables.cmake), in the library heddle_kinds: one entry per folder of
// src/mixers and src/ffn.
std::span<const Kind* const> kind_table();

inline Result<const Kind*> find_kind(std::string_view name) {
  std::string known;
  for (const Kind* kind : kind_table()) {
    if (kind->name == name) return kind;
    known += known.empty() ? "" : ", ";
    known += kind->name;
  }
  return fail("unknown kind of sub-layer {}: expected one of {}", name, known);
}

}  // namespace heddle::sublayer
