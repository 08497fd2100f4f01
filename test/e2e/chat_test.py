#!/usr/bin/env python3
"""heddle chat on a real terminal (a pty) and on a pipe, with the real small model.

usage: chat_test.py --heddle BINARY
"""
import argparse
import os
import pathlib
import re
import stat
import subprocess
import tempfile
import termios

import pexpect

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"


class Terminal:
    """heddle chat on a pty, with its own state folder."""

    def __init__(self, heddle, model, folder, max_tokens=48):
        environment = {**os.environ, "XDG_STATE_HOME": str(folder), "LC_ALL": "C.UTF-8", "TERM": "xterm"}
        self.child = pexpect.spawn(heddle, ["chat", "-m", str(model), "--temperature", "0", "-n", str(max_tokens)], env=environment,
                                   encoding="utf-8", timeout=120, dimensions=(30, 100))
        self.child.expect("Ctrl-D leaves")
        self.prompt()

    def prompt(self):
        """Waits for the prompt; what was printed before it, without the editor's control sequences."""
        self.child.expect(r"\n(?:\x1b\[[0-9;?]*[a-zA-Z]|\r)*> ")
        # Keys typed from now on are the editor's: the terminal must not take a Ctrl-D or a Ctrl-C for itself.
        modes = termios.tcgetattr(self.child.child_fd)[3]
        assert not modes & (termios.ICANON | termios.ISIG), oct(modes)
        return plain(self.child.before)

    def say(self, text):
        self.child.send(text + "\r")
        return self.prompt()

    def close(self):
        self.child.sendeof()
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert self.child.exitstatus == 0, (self.child.exitstatus, self.child.signalstatus)


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\x07\x08]", "", text)


def pipe(heddle, model, lines, *flags, status=0):
    result = subprocess.run([heddle, "chat", "-m", str(model), "-n", "48", "--stats", *flags], input="\n".join(lines) + "\n",
                            capture_output=True, text=True, timeout=300)
    assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
    return result.stdout, result.stderr


def test_a_pipe(heddle, model, folder):
    out, err = pipe(heddle, model, ["What is the capital of France?", "/undo", "/nonsense"], "--temperature", "0", status=1)
    assert "Paris" in out and "forgotten" in out and "no command /nonsense" in err, (out, err)
    out, _ = pipe(heddle, model, ['"""', "What is the capital", "of France?", '"""', "And of \\", "Italy?"], "--temperature", "0")
    assert "Paris" in out and "Rome" in out, out
    assert not (folder / "heddle").exists(), "a pipe left a history"


def usage_of(err):
    return re.findall(r"read (\d+) of (\d+) prompt tokens.*wrote (\d+)", err)


def test_save_and_load(heddle, model, folder):
    """Save, quit, load, say: the text and the usage of one uninterrupted run, at temperature 0 and with a seed."""
    first, second = "Name three colours and say nothing else.", "Which of them is the sky?"
    for flags in (("--temperature", "0"), ("--temperature", "0.8", "--seed", "11")):
        file = folder / "talk"
        whole, whole_err = pipe(heddle, model, [first, second], *flags)
        head, head_err = pipe(heddle, model, [first, f"/save {file}"], *flags)
        covered = int(re.search(r"saved 2 messages and the state after (\d+) tokens", head).group(1))
        # The settings come from the file.
        tail, tail_err = pipe(heddle, model, [f"/load {file}", second])
        assert f"state after {covered} tokens" in tail, tail
        answer = tail.split("the last answer was:\n")[1]
        head_answer = head.split("saved 2 messages")[0]
        assert head_answer + answer[len(head_answer):] == whole, (whole, head, tail)
        assert answer.startswith(head_answer), (answer, head_answer)
        usage = usage_of(whole_err)
        assert usage_of(head_err) + usage_of(tail_err) == usage, (whole_err, head_err, tail_err)
        read, prompt = map(int, usage_of(tail_err)[0][:2])
        assert prompt - read == covered, (usage, covered)
        loaded, _ = pipe(heddle, model, [second], "--load", str(file))
        assert loaded == tail
        print(f"   {' '.join(flags)}: the loaded second turn read {read} of {prompt} prompt tokens; {covered} were in the file")


def test_refused_files(heddle, model, folder):
    file = folder / "talk"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "damaged").write_bytes(data)
    (folder / "text").write_text("not a conversation, but long enough to be one in its first bytes")
    for name, reason in (("damaged", "damaged conversation"), ("text", "no conversation"), ("missing", "no such file")):
        out, err = pipe(heddle, model, [f"/load {folder / name}"], status=1)
        assert reason in err and str(folder / name) in err, err
    _, err = pipe(heddle, model, [f"/save {folder / 'text'}"], status=1)
    assert "stays as it is" in err and (folder / "text").read_text().startswith("not a"), err


def test_terminal(heddle, model, folder):
    terminal = Terminal(heddle, model, folder)
    assert "Paris" in terminal.say("What is the capital of France?")
    # Ctrl-C at the prompt clears the line and nothing else.
    terminal.child.send("this is not to be said")
    terminal.child.send("\x03")
    terminal.prompt()
    # A message of several lines, both ways.
    terminal.child.send('"""\r')
    for line in ("Say only", "the word blue."):
        terminal.child.expect(r"\. ")
        terminal.child.send(line + "\r")
    terminal.child.expect(r"\. ")
    terminal.say('"""')
    terminal.child.send("Say only \\\r")
    terminal.child.expect(r"\. ")
    terminal.say("the word green.")
    terminal.say(f"/save {folder / 'lines'}")
    saved = (folder / "lines").read_bytes()
    assert b"Say only\\nthe word blue." in saved and b"Say only \\nthe word green." in saved
    assert b"not to be said" not in saved
    assert "begun anew" in terminal.say("/reset") and "Paris" in terminal.say("What is the capital of France?")
    assert "Paris" in terminal.say("/retry")
    for command, answer in (("/stats", "speeds are shown"), ("/undo", "forgotten"), ("/help", "Ctrl-C stops"),
                            ("/system You are brief.", "begun anew"), ("/undo", "nothing has been said"), ("/bogus", "no command")):
        assert answer in terminal.say(command), command
    terminal.close()


def test_terminal_interrupt(heddle, model, folder):
    """Ctrl-C stops an answer and keeps what was said."""
    terminal = Terminal(heddle, model, folder, 2000)
    terminal.child.send("Write a very long story about a river, with many chapters.\r")
    terminal.child.expect(r"[a-z]{3,} [a-z]+ [a-z]+ [a-z]+ [a-z]+")  # some words of the answer
    terminal.child.expect(r"[a-z]+ [a-z]+ [a-z]+")
    terminal.child.sendintr()
    text = terminal.prompt()
    assert "[stopped]" in text, text
    file = folder / "stopped"
    assert "saved 2 messages" in terminal.say(f"/save {file}")
    assert b"river" in file.read_bytes()
    terminal.close()


def test_terminal_history(heddle, model, folder):
    """What was typed comes back in the next run; the file is its owner's alone."""
    file = folder / "heddle" / "chat_history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, oct(file.stat().st_mode)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    terminal = Terminal(heddle, model, folder)
    terminal.say("/reset")
    terminal.child.send("/stats\r")
    terminal.prompt()
    terminal.close()
    terminal = Terminal(heddle, model, folder)
    terminal.child.send("\x1b[A\x1b[A\r")  # twice up: /reset
    assert "begun anew" in terminal.prompt()
    terminal.child.send("/hexlp\x1b[D\x1b[D\x7f\r")  # twice left, backspace: /help
    assert "Ctrl-C stops" in terminal.prompt()
    terminal.close()
    assert "this is not to be said" not in file.read_text(errors="replace")
    # Text beyond ASCII can be edited.
    terminal = Terminal(heddle, model, folder, 1)
    terminal.child.send("Grüß 世界x\x7f\r")
    terminal.prompt()
    terminal.close()
    unsafe = folder / "other"
    (unsafe / "heddle").mkdir(parents=True)
    (unsafe / "heddle" / "chat_history").symlink_to(folder / "talk")
    before = (folder / "talk").read_bytes()
    child = pexpect.spawn(heddle, ["chat", "-m", str(model)], env={**os.environ, "XDG_STATE_HOME": str(unsafe)}, encoding="utf-8", timeout=60)
    child.expect("history is not kept")
    child.expect("Ctrl-D leaves")
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    assert (folder / "talk").read_bytes() == before


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    model = pathlib.Path(os.environ.get("HEDDLE_MODELS_DIR", "")) / MODEL
    if not os.environ.get("HEDDLE_MODELS_DIR") or not model.exists():
        print(f"SKIPPED: {MODEL} is not in HEDDLE_MODELS_DIR")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.environ["XDG_STATE_HOME"] = name
        for test in (test_a_pipe, test_save_and_load, test_refused_files, test_terminal, test_terminal_interrupt, test_terminal_history):
            test(args.heddle, model, folder)
            print(f"ok {test.__name__}", flush=True)


if __name__ == "__main__":
    main()
