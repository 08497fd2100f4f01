#include "cli/common_line_editor.h"

#include <fcntl.h>
#include <langinfo.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>

namespace heddle::cli {
namespace {

constexpr int kHistoryEntries = 1000;
constexpr off_t kHistoryBytes = 8 << 20;

// The file exists in a folder of ours, is ours alone, and is of a sane size.
Status prepare(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  std::filesystem::create_directories(folder.parent_path(), error);
  ::mkdir(folder.c_str(), 0700);
  const int file =
      ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (file < 0) return fail("{}: {}", path, std::strerror(errno));
  struct stat status {};
  const bool usable = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode) &&
                      ::fchmod(file, 0600) == 0 && status.st_size <= kHistoryBytes;
  ::close(file);
  if (!usable) return fail("{}: not a file of our own below {} MiB", path, kHistoryBytes >> 20);
  return {};
}

}  // namespace

std::string state_file(const std::string& name) {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  std::filesystem::path folder;
  if (state != nullptr && *state == '/') {  // the specification wants relative paths ignored
    folder = state;
  } else if (home != nullptr && *home != '\0') {
    folder = std::filesystem::path(home) / ".local" / "state";
  } else {
    return {};
  }
  return (folder / "heddle" / name).string();
}

LineEditor::LineEditor(std::string history) : file_(std::move(history)) {
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0) return;
  // The editor counts columns in the locale's characters.
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(::nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
  editor_ = ::el_init("heddle", stdin, stdout, stderr);
  history_ = ::history_init();
  if (editor_ == nullptr || history_ == nullptr) return;
  HistEvent event;
  ::history(history_, &event, H_SETSIZE, kHistoryEntries);
  ::history(history_, &event, H_SETUNIQUE, 1);
  ::el_set(editor_, EL_CLIENTDATA, this);
  ::el_set(editor_, EL_PROMPT, prompt_of);
  ::el_set(editor_, EL_EDITOR, "emacs");
  ::el_set(editor_, EL_HIST, ::history, history_);
  ::el_set(editor_, EL_SIGNAL, 0);
  // At the prompt Ctrl-C is a key like any other: no signal can arrive between two reads.
  ::el_set(editor_, EL_SETTY, "-d", "-isig", nullptr);
  ::el_set(editor_, EL_ADDFN, "heddle-cancel", "Clear the line", on_cancel);
  ::el_set(editor_, EL_BIND, "^C", "heddle-cancel", nullptr);
  ::el_set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  if (file_.empty()) return;
  if (const Status ready = prepare(file_); !ready) {
    fmt::print(stderr, "history is not kept: {}\n", ready.error().message);
    file_.clear();
    return;
  }
  ::history(history_, &event, H_LOAD, file_.c_str());  // fails on an empty file, which is no error
}

LineEditor::~LineEditor() {
  if (editor_ != nullptr) ::el_end(editor_);
  if (history_ != nullptr) ::history_end(history_);
}

const char* LineEditor::prompt_of(EditLine* editor) {
  LineEditor* self = nullptr;
  ::el_get(editor, EL_CLIENTDATA, &self);
  return self->prompt_;
}

unsigned char LineEditor::on_cancel(EditLine* editor, int) {
  LineEditor* self = nullptr;
  ::el_get(editor, EL_CLIENTDATA, &self);
  self->cancelled_ = true;
  return CC_NEWLINE;
}

LineEditor::Outcome LineEditor::read(const char* prompt, std::string& line) {
  line.clear();
  if (editor_ == nullptr) {
    return std::getline(std::cin, line) ? Outcome::line : Outcome::end;
  }
  prompt_ = prompt;
  cancelled_ = false;
  // The editor would show the prompt first and set the terminal up with the first key: a Ctrl-D
  // typed in between was lost, and a Ctrl-C there was a signal.
  ::el_set(editor_, EL_PREP_TERM, 1);
  int count = 0;
  const char* text = ::el_gets(editor_, &count);
  if (cancelled_) {
    fmt::print("\n");
    return Outcome::cleared;
  }
  if (text == nullptr || count <= 0) return Outcome::end;
  line.assign(text, static_cast<size_t>(count));
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  return Outcome::line;
}

void LineEditor::remember(const std::string& text) {
  if (history_ == nullptr || text.empty()) return;
  HistEvent event;
  ::history(history_, &event, H_ENTER, text.c_str());
  if (!file_.empty()) ::history(history_, &event, H_SAVE, file_.c_str());
}

}  // namespace heddle::cli
