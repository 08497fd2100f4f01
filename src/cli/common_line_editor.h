#pragma once
// Lines typed by a person or piped by a program. On a terminal they are edited, and remembered
// across runs in a file that only its owner reads.
#include <histedit.h>

#include <optional>
#include <string>

#include "base/result.h"

namespace heddle::cli {

class LineEditor {
 public:
  // history: the file, made with its folder if missing; empty: nothing is kept. Says what cannot
  // be.
  explicit LineEditor(std::string history);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  enum class Outcome { line, cleared, end };
  // One line without its end. cleared: Ctrl-C at the prompt. On a pipe `prompt` is not shown.
  Outcome read(const char* prompt, std::string& line);
  // One entry of the history, and of its file.
  void remember(const std::string& text);
  bool terminal() const { return editor_ != nullptr; }

 private:
  static const char* prompt_of(EditLine* editor);
  static unsigned char on_cancel(EditLine* editor, int key);

  std::string file_;
  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
  const char* prompt_ = "";
  bool cancelled_ = false;
};

// $XDG_STATE_HOME/heddle/NAME (default ~/.local/state), its folder made and private; empty without
// a home.
std::string state_file(const std::string& name);

}  // namespace heddle::cli
