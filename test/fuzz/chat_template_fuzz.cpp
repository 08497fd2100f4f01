// Templates and JSON from outside: any bytes must end in a text or an error. Input: a template,
// optionally followed by a zero byte and the JSON of the messages.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "text/template/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heddle::text;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  auto parsed =
      ChatTemplate::parse(std::string(input.substr(0, zero)), {.bos = "<s>", .eos = "</s>"});
  const std::string_view text =
      zero == std::string_view::npos
          ? R"([{"role": "user", "content": "hi"}, {"role": "assistant", "content": null}])"
          : input.substr(zero + 1);
  const auto messages = parse_json(text);
  if (messages) (void)to_json(*messages);
  if (!parsed || !messages) return 0;
  RenderOptions options;
  options.limits = {.steps = 200'000, .bytes = 1 << 24, .output_bytes = 1 << 20, .depth = 300};
  (void)parsed->render(*messages, nullptr, options);
  return 0;
}
