#!/usr/bin/env python3
"""Checks the rules of the house that a machine can check, over every tracked file.

usage: tools/check_layers.py [--root DIR]

  includes      a folder of src/ includes only folders below it; CUDA headers in *.cu and backend/cuda* only; JSON, HTTP
                and command-line libraries in no header
  mixer names   state/ and engine/ know growth classes, never the name of a mixer
  size          source files are under 600 lines, functions under 80; a folder of src/ shows at most 25 files
  environment   getenv in cli/ only
  leftovers     no absolute paths of a machine, no hosts of registries, no markers of unfinished work
Prints one line per violation, and exits with 1 if there is any.
"""

import argparse
import collections
import os
import re
import subprocess
import sys

# What each folder may include: itself and everything listed.
ORDER = ["base", "backend", "tensor", "state", "ops", "sublayer", {"mixers", "ffn"}, "model", "engine", "serving",
         {"server", "bench", "eval", "train"}, "place", "plan", "cli"]
ALLOWED = {}
below = set()
for step in ORDER:
    beside = step if isinstance(step, set) else {step}
    for folder in beside:
        ALLOWED[folder] = below | {folder}
    below = below | beside
# Text stays at the bottom; the engine and all above it use it.
ALLOWED["text"] = {"base", "text"}
for folder in below - ALLOWED["model"]:
    ALLOWED[folder].add("text")

MAX_LINES = 600
MAX_FUNCTION_LINES = 80
MAX_FILES = 25
SOURCE = (".cpp", ".h", ".cu", ".cuh")
HEADER = (".h", ".cuh")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
NOT_FUNCTION = re.compile(r"^(namespace|inline namespace|struct|class|enum|union|extern \"C\"|#|template <.*> (struct|class)|"
                          r".*=\s*\{$|using|constexpr .*\[\])")
CUDA_HEADER = re.compile(r"^(cuda|cublas|cudnn|cufft|curand|cusolver|cusparse|nccl|nvtx|nvToolsExt|cub/|thrust/|cooperative_groups)")
NOT_IN_HEADERS = re.compile(r"^(nlohmann/(?!json_fwd)|CLI/|toml\+\+/)")
GETENV = re.compile(r"\b(secure_)?getenv\s*\(")
MACHINE_PATH = re.compile(r"(?<![\w.$}>*-])/(work|home|root|tmp|mnt|Users)/[\w.]")
# Written in pieces, so that this file passes its own check.
REGISTRY = re.compile("|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", r"deb\." + "debian", r"registry\." + "npmjs",
                                "crates" + r"\.io", r"proxy\." + "golang", "hugging" + r"face\.co/", r"archive\." + "ubuntu"]))
MARKER = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")(?=[\s:(]|$)")
# Files that hold text of other people, or data: only their paths are ours.
DATA = re.compile(r"^(LICENSE|test/golden/data/|test/fuzz/corpus/|test/[\w/]*data/|src/[\w/]*(testdata|data)/)")
CONTAINER_ROOT = {"tools/fresh_machine.sh"}  # names paths inside the root that it makes


def tracked_files(root):
    listed = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, check=True).stdout
    names = [name for name in listed.decode("utf-8").split("\0") if name]
    return [name for name in names if os.path.isfile(os.path.join(root, name))]


def mixer_names(files):
    return sorted({match.group(1) for name in files if (match := re.match(r"src/mixers/(\w+)/mixer\.cpp$", name))})


def strip_comments(lines):
    """The lines without comments; strings stay, which is close enough for these rules."""
    inside = False
    for line in lines:
        out = ""
        while line:
            if inside:
                end = line.find("*/")
                line, inside = ("", True) if end < 0 else (line[end + 2:], False)
            else:
                block, single = line.find("/*"), line.find("//")
                if single >= 0 and (block < 0 or single < block):
                    out, line = out + line[:single], ""
                elif block >= 0:
                    out, line, inside = out + line[:block], line[block + 2:], True
                else:
                    out, line = out + line, ""
        yield out


def check_functions(name, lines, report):
    """Function lengths, by the shape that clang-format gives: a body opens at the end of an unindented line, or of the
    indented rest of a long signature, and closes with a brace at the start of a line."""
    opened, start = None, None
    for number, line in enumerate(lines, 1):
        indent = len(line) - len(line.lstrip())
        if opened is None:
            if indent == 0 and line and line[0].isalpha():
                start = number
            if line.endswith("{") and start and not NOT_FUNCTION.match(lines[start - 1]) and (indent == 0 or indent >= 4):
                opened, start = start, None
        elif line == "}" or line.startswith("};"):
            if number - opened + 1 >= MAX_FUNCTION_LINES:
                report(name, opened, f"a function of {number - opened + 1} lines, the limit is {MAX_FUNCTION_LINES - 1}")
            opened = None


def check_source(name, lines, mixers, report):
    folder = name.split("/")[1] if name.startswith("src/") and name.count("/") > 1 else None
    is_test = name.endswith("_test.cpp")
    cuda_file = name.endswith((".cu", ".cuh")) or name.startswith("src/backend/cuda")
    if len(lines) >= MAX_LINES and not DATA.match(name):
        report(name, len(lines), f"{len(lines)} lines, the limit is {MAX_LINES - 1}")
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        kind, header = match.groups()
        target = header.split("/")[0]
        if kind == "<" and CUDA_HEADER.match(header) and not cuda_file:
            report(name, number, f"includes <{header}>: CUDA headers belong in *.cu and backend/cuda*")
        if name.endswith(HEADER) and NOT_IN_HEADERS.match(header):
            report(name, number, f"includes {header}: this library stays out of headers, for build time and layering")
        if folder and kind == '"' and target in ALLOWED and target not in ALLOWED.get(folder, set()):
            report(name, number, f"{folder}/ includes {header}: {folder} may use {', '.join(sorted(ALLOWED[folder]))}")
        if folder and kind == '"' and not is_test and header.startswith("test/"):
            report(name, number, f"includes {header}: src/ does not use test/")
    check_functions(name, lines, report)
    if not folder:
        return
    if folder not in ALLOWED:
        report(name, 1, f"folder src/{folder} is unknown: give it a place in the order of tools/check_layers.py")
    code = list(strip_comments(lines))
    for number, line in enumerate(code, 1):
        if folder != "cli" and not is_test and GETENV.search(line):
            report(name, number, "getenv outside cli/")
        if folder in ("state", "engine") and not is_test:
            for mixer in mixers:
                if re.search(rf"\b{mixer}\b|\"{mixer}\"|mixers/{mixer}/", line):
                    report(name, number, f"names the mixer {mixer}: state/ and engine/ know growth classes only")


def check_text(name, lines, report):
    if name.endswith(".jsonl"):  # data of tests: any text may stand there
        return
    for number, line in enumerate(lines, 1):
        if MARKER.search(line):
            report(name, number, f"unfinished: {MARKER.search(line).group(0)}")
        if REGISTRY.search(line):
            report(name, number, f"names the host of a registry: {REGISTRY.search(line).group(0)}")
        if name not in CONTAINER_ROOT and MACHINE_PATH.search(line):
            report(name, number, f"an absolute path of one machine: {line.strip()[:80]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    root = parser.parse_args().root
    files = tracked_files(root)
    mixers = mixer_names(files)
    violations = []

    def report(name, number, message):
        violations.append(f"{name}:{number}: {message}")

    for name in files:
        if DATA.match(name):
            continue
        try:
            with open(os.path.join(root, name), encoding="utf-8") as file:
                lines = file.read().split("\n")
        except UnicodeDecodeError:
            continue
        if lines and lines[-1] == "":
            lines.pop()
        if name.endswith(SOURCE):
            check_source(name, lines, mixers, report)
        if name != "tools/check_layers.py":
            check_text(name, lines, report)
    for folder, count in sorted(collections.Counter(os.path.dirname(name) for name in files).items()):
        if folder.startswith("src/") and count > MAX_FILES:
            report(folder, count, f"{count} files at one level, the limit is {MAX_FILES}")
    for violation in violations:
        print(violation)
    print(f"layers: {len(files)} files, {len(mixers)} mixers, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
