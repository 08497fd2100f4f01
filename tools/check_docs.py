#!/usr/bin/env python3
"""Checks that what the documentation names exists.

usage: tools/check_docs.py [--root DIR]

  `src/FOLDER/FILE.cpp: function`   the file exists and names the function (docs/one_token.md is made of these)
  `src/...`, `tools/...`, `test/...`  the path exists (with * as a wildcard; capitals stand for a name of your choice)
  the map in README.md               every folder of the block that begins with src/
  `heddle WORD`                      a subcommand, src/cli/WORD.cpp
  docs/performance.md                is what tools/write_performance.py makes of its data
  [text](path#heading)               relative links, and headings inside the same repository
Prints one line per error, and exits with 1 if there is any.
"""

import argparse
import glob
import os
import re
import subprocess
import sys

STEP = re.compile(r"^(src/[\w/.]+\.(?:cpp|h|cu))\s*:\s*`?\s*([A-Za-z_~][\w:~]*)(?:\(\))?$")
PATH = re.compile(r"^\.?/?((?:src|tools|test|docs|bench|cmake|\.ci|\.github)/[\w/.*-]*)$")
COMMAND = re.compile(r"(?:^|[\s/$`])heddle ([a-z][a-z-]*)\b")
SPAN = re.compile(r"(`+)(.+?)\1")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDER = re.compile(r"(^|[/_.])[A-Z]{2,}[A-Z_]*(?=$|[/_.])")  # src/mixers/NAME/mixer.cpp


class Docs:
    def __init__(self, root):
        self.root = root
        self.errors = []
        self.checked = 0

    def path(self, name):
        return os.path.join(self.root, name)

    def report(self, file, number, message):
        self.errors.append(f"{file}:{number}: {message}")

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def check_step(self, file, number, source, function):
        self.checked += 1
        if not os.path.isfile(self.path(source)):
            self.report(file, number, f"`{source}: {function}`: there is no such file")
            return
        text = self.read(source)
        for part in function.split("::"):
            if not re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text):
                self.report(file, number, f"`{source}: {function}`: the file does not name {part}")

    def check_path(self, file, number, name):
        if PLACEHOLDER.search(name):
            return
        self.checked += 1
        if not glob.glob(self.path(name.rstrip("/"))):
            self.report(file, number, f"`{name}` does not exist")

    def check_command(self, file, number, word):
        self.checked += 1
        if not os.path.isfile(self.path(f"src/cli/{word.replace('-', '_')}.cpp")):
            self.report(file, number, f"`heddle {word}`: there is no src/cli/{word.replace('-', '_')}.cpp")

    def check_link(self, file, number, target):
        if re.match(r"[a-z][a-z+.-]*:", target):
            return
        self.checked += 1
        name, _, heading = target.partition("#")
        linked = os.path.normpath(os.path.join(os.path.dirname(file), name)) if name else file
        if not os.path.exists(self.path(linked)):
            self.report(file, number, f"link to {target}: {linked} does not exist")
        elif heading and linked.endswith(".md") and heading not in headings(self.read(linked)):
            self.report(file, number, f"link to {target}: {linked} has no such heading")

    def check_code(self, file, number, code):
        step = STEP.match(code.strip())
        if step:
            self.check_step(file, number, *step.groups())
        elif PATH.match(code.strip()):
            self.check_path(file, number, PATH.match(code.strip()).group(1))
        for word in COMMAND.findall(code):
            self.check_command(file, number, word)

    def check_map(self, file, first, block):
        """Folders of an indented map; a line without a name continues the line before."""
        stack = []
        for number, line in enumerate(block, first):
            match = re.match(r"(\s*)([\w.-]+(?:/[\w.-]+)*/)(?=\s|$)", line)
            if not match:
                continue
            indent = len(match.group(1))
            while stack and stack[-1][0] >= indent:
                stack.pop()
            name = "".join(part for _, part in stack) + match.group(2)
            stack.append((indent, match.group(2)))
            if not PLACEHOLDER.search(name):
                self.checked += 1
                if not os.path.isdir(self.path(name)):
                    self.report(file, number, f"the map names {name}, which does not exist")

    def check_file(self, file):
        lines = self.read(file).split("\n")
        block, opened, fence = [], 0, None
        for number, line in enumerate(lines, 1):
            mark = re.match(r"\s*(```+|~~~+)", line)
            if mark and (fence is None or line.strip() == fence):
                if fence is None:
                    fence, block, opened = mark.group(1), [], number
                else:
                    if any(re.match(r"\s*src/(\s|$)", entry) for entry in block):
                        self.check_map(file, opened + 1, block)
                    fence = None
                continue
            if fence is not None:
                block.append(line)
                # A transcript's prompt or a plain command; the program's own output says what it likes.
                if re.match(r"\s*(\$ )?(\S*/)?heddle [a-z]", line):
                    self.check_code(file, number, line.strip())
                continue
            for _, code in SPAN.findall(line):
                self.check_code(file, number, code)
            for step in re.findall(r"`(src/[\w/.]+\.(?:cpp|h|cu))`\s*:\s*`([A-Za-z_~][\w:~]*)(?:\(\))?`", line):
                self.check_step(file, number, *step)
            for link in LINK.findall(SPAN.sub("", line)):
                self.check_link(file, number, link[0] or link[1])
        if fence is not None:
            self.report(file, opened, "a code block is not closed")


def headings(text):
    """Anchors as the forges make them."""
    found = set()
    for line in text.split("\n"):
        match = re.match(r"#+\s+(.*?)\s*#*$", line)
        if match:
            name = re.sub(r"[^\w\- ]", "", match.group(1).lower()).replace(" ", "-")
            found.add(name)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    root = parser.parse_args().root
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z", "*.md"], capture_output=True, check=True).stdout
    files = [name for name in listed.decode("utf-8").split("\0") if name and os.path.isfile(os.path.join(root, name))]
    docs = Docs(root)
    for file in files:
        docs.check_file(file)
    # A page that a script writes equals what it writes.
    page = os.path.join(root, "tools", "write_performance.py")
    if os.path.isfile(page):
        done = subprocess.run([sys.executable, page, "--check"], capture_output=True, text=True)
        docs.checked += 1
        if done.returncode != 0:
            docs.errors.append((done.stdout + done.stderr).strip())
    for error in docs.errors:
        print(error)
    print(f"docs: {len(files)} pages, {docs.checked} names and links, {len(docs.errors)} errors")
    return 1 if docs.errors else 0


if __name__ == "__main__":
    sys.exit(main())
