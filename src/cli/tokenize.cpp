// heddle tokenize: text to token ids and back.
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "cli/common.h"
#include "serving/tokenizer_files.h"
#include "text/template/value.h"
#include "text/tokenizer/tokenize_lines.h"
#include "text/utf8.h"

namespace heddle::cli {
namespace {

struct TokenizeFlags {
  std::string model;
  std::string text;
  std::string file;
  std::string lines;
  bool ids = false;
  bool decode = false;
  bool no_special = false;
  bool no_parse_special = false;
  bool keep_special = false;
  bool continuation = false;
  ModelFlags load;
};

Result<std::string> input_of(const TokenizeFlags& flags, bool has_text) {
  if (has_text) return flags.text;
  if (!flags.file.empty()) return read_text_file(flags.file);
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

void print_tokens(const text::Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool json) {
  if (json) {
    fmt::print("[{}]\n", fmt::join(ids, ","));
    return;
  }
  for (const int32_t id : ids) {
    const auto piece = text::to_json(text::sanitize_utf8(tokenizer.token_bytes(id)));
    fmt::print("{:>8}  {}\n", id, *piece);
  }
}

Status decode(const text::Tokenizer& tokenizer, const std::string& input,
              const text::DecodeOptions& options) {
  HEDDLE_TRY(const text::Value json, text::parse_json(input));
  HEDDLE_TRY(const std::vector<int32_t> ids, token_ids(json, "--decode"));
  fmt::print("{}", tokenizer.decode(ids, options));
  return {};
}

Status tokenize(const TokenizeFlags& flags, bool has_text) {
  std::string path = flags.model;
  if (!std::filesystem::exists(std::filesystem::path(path) /
                               "tokenizer.json")) {  // else a tokenizer alone will do
    HEDDLE_TRY(path, flags.load.resolve(flags.model));
  }
  HEDDLE_TRY(const text::Tokenizer tokenizer, serving::load_tokenizer(path));
  text::LinesOptions options;
  options.decode = flags.decode;
  options.encode.add_special = !flags.no_special;
  options.encode.parse_special = !flags.no_parse_special;
  options.decoding.skip_special = !flags.keep_special;
  options.decoding.text_start = !flags.continuation;
  if (!flags.lines.empty()) {
    std::ifstream file(flags.lines);
    if (!file) return fail("{}: cannot open", flags.lines);
    return text::tokenize_lines(tokenizer, options, file, std::cout);
  }
  HEDDLE_TRY(const std::string input, input_of(flags, has_text));
  if (flags.decode) return decode(tokenizer, input, options.decoding);
  print_tokens(tokenizer, tokenizer.encode(input, options.encode), flags.ids);
  return {};
}

}  // namespace

void add_tokenize(Command app) {
  auto flags = std::make_shared<TokenizeFlags>();
  Command command = app.subcommand("tokenize", "Show the tokens of a text");
  command.option("model", flags->model, "Model directory, GGUF file or Hugging Face name")
      .required();
  const Option text = command.option("-t,--text", flags->text, "Text (default: standard input)");
  command.option("-f,--file", flags->file, "Read the text from a file").excludes(text);
  command.option("--ids", flags->ids, "Print one JSON list of ids");
  command.option("--decode", flags->decode, "The input is a JSON list of ids; print its text");
  command.option("--lines", flags->lines,
                 "A file with one JSON value a line (a string, with --decode a list of ids); "
                 "so is the output");
  command.option("--no-special", flags->no_special, "Put no special tokens around the text");
  command.option("--no-parse-special", flags->no_parse_special,
                 "Control tokens in the text are ordinary text");
  command.option("--keep-special", flags->keep_special, "Decode control tokens as their text");
  command.option("--continue", flags->continuation,
                 "The ids continue a text: keep a SentencePiece leading space");
  command.footer("Example: heddle tokenize model.gguf --text 'Hello world' --ids");
  command.runs([flags, text] {
    const Status done = tokenize(*flags, text.given());
    return done ? 0 : report(done.error());
  });
}

}  // namespace heddle::cli
