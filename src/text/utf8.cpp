#include "text/utf8.h"

namespace heddle::text {

Utf8Step utf8_step(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  Utf8Step step;
  const uint8_t lead = at(0);
  if (lead < 0x80) {
    return {lead, 1, true, false};
  }
  int32_t length = 0;
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
    step.code_point = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    step.code_point = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    step.code_point = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return step;
  }
  for (int32_t i = 1; i < length; ++i) {
    step.length = i;
    if (static_cast<size_t>(i) >= text.size()) {
      step.truncated = true;
      return step;
    }
    const uint8_t byte = at(static_cast<size_t>(i));
    if (byte < low || byte > high) {
      return step;
    }
    low = 0x80;
    high = 0xBF;
    step.code_point = (step.code_point << 6) | (byte & 0x3F);
  }
  step.length = length;
  step.valid = true;
  return step;
}

int64_t valid_utf8_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (static_cast<uint8_t>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Utf8Step step = utf8_step(text.substr(i));
    if (!step.valid) {
      break;
    }
    i += static_cast<size_t>(step.length);
  }
  return static_cast<int64_t>(i);
}

int64_t invalid_utf8_prefix(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const Utf8Step step = utf8_step(text.substr(i));
    if (step.valid) {
      break;
    }
    i += static_cast<size_t>(step.length);
  }
  return static_cast<int64_t>(i);
}

void append_utf8(uint32_t c, std::string& out) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out.push_back(static_cast<char>(0xC0 | (c >> 6)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | (c >> 12)));
    out.push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | (c >> 18)));
    out.push_back(static_cast<char>(0x80 | ((c >> 12) & 0x3F)));
    out.push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

std::string sanitize_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const auto valid = static_cast<size_t>(valid_utf8_prefix(text));
    out.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (!text.empty()) {
      out.append(kReplacementCharacter);
      text.remove_prefix(static_cast<size_t>(utf8_step(text).length));
    }
  }
  return out;
}

}  // namespace heddle::text
