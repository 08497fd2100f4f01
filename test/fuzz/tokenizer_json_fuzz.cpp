// tokenizer.json from anybody: refused with a reason, or a tokenizer that gives text back.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "text/tokenizer/tokenizer.h"
#include "text/tokenizer/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heddle::text;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  // The file, and after a zero byte the text to encode.
  const size_t cut = std::min(input.find('\0'), input.size());
  TokenizerFiles files;
  files.tokenizer = std::string(input.substr(0, cut));
  auto vocabulary = vocabulary_from_json(files);
  if (!vocabulary) return 0;
  auto tokenizer = Tokenizer::create(std::move(*vocabulary));
  if (!tokenizer) return 0;
  const std::string_view text =
      cut < size ? input.substr(cut + 1) : "Hello 123 \xF0\x9F\xA6\x99 \xFF w\xC3\xB6rld";
  const auto ids = tokenizer->encode(text.substr(0, 4096));
  StreamDecoder stream(*tokenizer);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  streamed += stream.flush();
  if (streamed != tokenizer->decode(ids)) __builtin_trap();
  return 0;
}
