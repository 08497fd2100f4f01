#pragma once
// Many texts through one tokenizer: one JSON value a line in, one a line out. What `heddle tokenize
// --lines` runs.
#include <iosfwd>

#include "base/result.h"
#include "text/tokenizer/tokenizer.h"

namespace heddle::text {

struct LinesOptions {
  bool decode =
      false;  // a line is a list of ids, and becomes a string; otherwise the other way round
  EncodeOptions encode;
  DecodeOptions decoding;
};

// Error: the number of the line that is not what it should be.
Status tokenize_lines(const Tokenizer& tokenizer, const LinesOptions& options, std::istream& in,
                      std::ostream& out);

}  // namespace heddle::text
