// heddle tokenize: text to token ids and back.
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "cli/common.h"
#include "server/runtime.h"
#include "text/tokenize_lines.h"

namespace heddle::cli {
namespace {

struct TokenizeFlags {
  std::string model;
  std::string text;
  std::string file;
  bool ids = false;
  bool raw = false;
  bool plain = false;
  bool decode = false;
  bool lines = false;
  ModelFlags load;
};

Result<std::string> input_of(const TokenizeFlags& flags, bool has_text) {
  if (has_text) return flags.text;
  if (!flags.file.empty()) return read_text_file(flags.file);
  return std::string(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
}

void print_tokens(const text::Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool json) {
  if (json) {
    fmt::print("{}\n", nlohmann::json(ids).dump());
    return;
  }
  for (const int32_t id : ids) {
    const nlohmann::json piece = std::string(tokenizer.token_bytes(id));
    fmt::print("{:>8}  {}\n", id,
               piece.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}

Status decode(const text::Tokenizer& tokenizer, const std::string& input) {
  const nlohmann::json json = nlohmann::json::parse(input, nullptr, false);
  std::vector<int32_t> ids;
  if (!json.is_array()) return fail("--decode expects a JSON list of token ids");
  for (const auto& item : json) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0 || item.get<int64_t>() > INT32_MAX)
      return fail("--decode: entry {} is not a token id", ids.size());
    ids.push_back(item.get<int32_t>());
  }
  text::DecodeOptions options;
  options.skip_special = false;
  fmt::print("{}", tokenizer.decode(ids, options));
  return {};
}

Status tokenize(const TokenizeFlags& flags, bool has_text) {
  HEDDLE_TRY(const std::string path, flags.load.resolve(flags.model));
  HEDDLE_TRY(const text::Tokenizer tokenizer, server::load_tokenizer(path));
  text::EncodeOptions encode;
  encode.add_special = !flags.raw;
  encode.parse_special = !flags.plain;
  if (flags.lines) {
    text::LinesOptions options;
    options.decode = flags.decode;
    options.encode = encode;
    options.decoding.skip_special = false;
    return text::tokenize_lines(tokenizer, options, std::cin, std::cout);
  }
  HEDDLE_TRY(const std::string input, input_of(flags, has_text));
  if (flags.decode) return decode(tokenizer, input);
  print_tokens(tokenizer, tokenizer.encode(input, encode), flags.ids);
  return {};
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command = app.add_subcommand("tokenize", "Show the tokens of a text");
  command->add_option("model", flags->model, "Model directory, GGUF file or Hugging Face name")
      ->required();
  auto* text = command->add_option("-t,--text", flags->text, "Text (default: standard input)");
  command->add_option("-f,--file", flags->file, "Read the text from a file")->excludes(text);
  command->add_flag("--ids", flags->ids, "Print one JSON list of ids");
  command->add_flag("--raw", flags->raw, "Put no special tokens around the text");
  command->add_flag("--plain", flags->plain, "Control tokens in the text are ordinary text");
  command->add_flag("--decode", flags->decode, "The input is a JSON list of ids; print its text");
  command->add_flag("--lines", flags->lines,
                    "Standard input holds one JSON value a line (a string, with --decode a list of "
                    "ids), and so does the output");
  command->footer("Example: heddle tokenize model.gguf --text 'Hello world' --ids");
  command->callback([flags, text] {
    const Status done = tokenize(*flags, text->count() > 0);
    throw CLI::RuntimeError(done ? 0 : report(done.error()));
  });
}

}  // namespace heddle::cli
