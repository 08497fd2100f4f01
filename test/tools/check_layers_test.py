#!/usr/bin/env python3
"""tools/check_layers.py and tools/check_docs.py find what they promise to find, in a small repository with one of each."""

import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
UNFINISHED = "TO" + "DO"  # in pieces, so that this file passes the check itself
PATH = "/" + "work/main"


def run_check(script, files):
    """Exit status and printed lines of a check, over a repository of `files` (name -> text)."""
    with tempfile.TemporaryDirectory() as root:
        for name, text in files.items():
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", "-C", root] + command, check=True, capture_output=True)
        result = subprocess.run([sys.executable, os.path.join(ROOT, "tools", script), "--root", root],
                                capture_output=True, text=True, check=False)
        return result.returncode, result.stdout.splitlines()


class LayersTest(unittest.TestCase):
    def only_violation(self, files):
        status, lines = run_check("check_layers.py", files)
        self.assertEqual(status, 1, lines)
        self.assertEqual(len(lines), 2, lines)
        return lines[0]

    def test_a_clean_tree_passes(self):
        status, lines = run_check("check_layers.py", {
            "src/base/a.h": "#include <vector>\n",
            "src/engine/b.cpp": '#include "state/c.h"\n#include <nlohmann/json.hpp>\nint f() {\n  return 1;\n}\n',
            "src/mixers/sliding_window/mixer.cpp": '#include "ops/d.h"\n',
            "src/cli/main.cpp": 'const char* home = getenv("HOME");\n'})
        self.assertEqual((status, len(lines)), (0, 1), lines)

    def test_an_include_upwards(self):
        line = self.only_violation({"src/state/a.h": '#include "engine/b.h"\n'})
        self.assertIn("src/state/a.h:1: state/ includes engine/b.h", line)

    def test_benches_and_servers_lie_side_by_side(self):
        self.assertIn("bench/ includes server/b.h", self.only_violation({"src/bench/a.h": '#include "server/b.h"\n'}))
        self.assertIn("serving/ includes bench/b.h", self.only_violation({"src/serving/a.h": '#include "bench/b.h"\n'}))

    def test_a_crowded_folder(self):
        files = {f"src/base/f{number}.h": "" for number in range(26)}
        self.assertIn("26 files at one level", self.only_violation(files))

    def test_text_uses_base_only(self):
        self.assertIn("text/ includes tensor/b.h", self.only_violation({"src/text/a.h": '#include "tensor/b.h"\n'}))

    def test_json_in_a_header(self):
        self.assertIn("stays out of headers", self.only_violation({"src/text/a.h": "#include <nlohmann/json.hpp>\n"}))

    def test_cuda_outside_its_place(self):
        self.assertIn("CUDA", self.only_violation({"src/ops/a.cpp": "#include <cuda_runtime.h>\n"}))
        self.assertEqual(run_check("check_layers.py", {"src/ops/a.cu": "#include <cuda_runtime.h>\n"})[0], 0)

    def test_a_mixer_named_in_the_engine(self):
        files = {"src/mixers/sliding_window/mixer.cpp": "", "src/engine/a.cpp": '// sliding_window\nauto k = "sliding_window";\n'}
        self.assertIn("src/engine/a.cpp:2: names the mixer sliding_window", self.only_violation(files))

    def test_environment_outside_cli(self):
        self.assertIn("getenv", self.only_violation({"src/server/a.cpp": 'auto p = getenv("X");\n'}))

    def test_a_file_too_long(self):
        self.assertIn("600 lines", self.only_violation({"src/base/a.cpp": "int x;\n" * 600}))
        self.assertEqual(run_check("check_layers.py", {"src/base/a.cpp": "int x;\n" * 599})[0], 0)

    def test_a_function_too_long(self):
        for head in ("int f() {\n", "Result<int> f(int a,\n              int b) {\n"):
            files = {"src/base/a.cpp": head + "  g();\n" * 78 + "}\n"}
            self.assertIn("a function of", self.only_violation(files))
        self.assertEqual(run_check("check_layers.py", {"src/base/a.cpp": "int f() {\n" + "  g();\n" * 77 + "}\n"})[0], 0)

    def test_leftovers(self):
        self.assertIn("unfinished", self.only_violation({"src/base/a.cpp": f"// {UNFINISHED}: later\n"}))
        self.assertIn("absolute path", self.only_violation({"docs/a.md": f"see {PATH}/x\n"}))
        self.assertIn("registry", self.only_violation({"tools/a.sh": "curl https://py" + "pi.org/simple\n"}))


class DocsTest(unittest.TestCase):
    CODE = {"src/base/a.cpp": "int work_hard() { return 1; }\n", "src/cli/chat.cpp": "\n"}

    def errors(self, text):
        return run_check("check_docs.py", {**self.CODE, "README.md": text})[1][:-1]

    def test_what_exists_passes(self):
        text = ("# A title\n1. `src/base/a.cpp: work_hard` and [this](src/base/a.cpp), [here](#a-title)\n"
                "`src/cli/NAME.cpp`, `heddle chat`\n```\nsrc/\n  base/   one\n  cli/    two\n```\n")
        self.assertEqual(self.errors(text), [])

    def test_what_does_not_exist_is_named(self):
        for text, word in (("`src/base/a.cpp: rest`", "rest"), ("`src/base/b.cpp: work_hard`", "no such file"),
                           ("`tools/none.py`", "does not exist"), ("`heddle dance`", "dance"),
                           ("[x](docs/none.md)", "none.md"), ("[x](#nothing)", "no such heading"),
                           ("```\nsrc/\n  text/   gone\n```", "src/text/"), ("```\nheddle dance --now\n```", "dance"),
                           ("```\nopen", "not closed")):
            errors = self.errors(text)
            self.assertEqual(len(errors), 1, (text, errors))
            self.assertIn(word, errors[0])


if __name__ == "__main__":
    unittest.main()
