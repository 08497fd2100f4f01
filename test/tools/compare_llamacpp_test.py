#!/usr/bin/env python3
"""tools/compare_llamacpp.py with two benches that print fixed speeds: which -fa counts, repetitions, resuming, bars; and the page
that tools/write_performance.py makes of it."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
COMPARE = ROOT / "tools" / "compare_llamacpp.py"

# Speeds: prompts 100 with -fa 0 and 120 with -fa 1, decoding 50 and 40. Every call leaves a line in `calls`.
PEER = """#!{python}
import json, sys
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
open({calls!r}, "a").write("peer " + " ".join(sys.argv[1:]) + "\\n")
flash, count = int(args["-fa"]), int(args["-r"])
for depth in args["-d"].split(","):
    for prompt in [int(n) for n in args["-p"].split(",") if n != "0"]:
        print(json.dumps(dict(n_prompt=prompt, n_gen=0, n_depth=int(depth), avg_ts=1, samples_ts=[100.0 + 20 * flash] * count)))
    for output in [int(n) for n in args["-n"].split(",") if n != "0"]:
        print(json.dumps(dict(n_prompt=0, n_gen=output, n_depth=int(depth), avg_ts=1, samples_ts=[50.0 - 10 * flash] * count)))
"""
HEDDLE = """#!{python}
import json, sys
args = dict(zip(sys.argv[3::2], sys.argv[4::2]))
open({calls!r}, "a").write("heddle " + " ".join(sys.argv[1:]) + "\\n")
print(json.dumps(dict(machine=dict(read_gb_s=20, int8_gop_s=900, fp32_gflop_s=200, target="avx2", threads=2), model="m")))
for depth in args["-d"].split(","):
    for kind, option, speed in (("pp", "-p", 240.0), ("tg", "-n", 55.0)):
        for n in [n for n in args[option].split(",") if n != "0"]:
            print(json.dumps(dict(test=kind + n, depth=int(depth), samples=[speed] * int(args["-r"]), limit="limit",
                                  limit_tokens_per_s=1000.0)))
"""


class CompareTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)
        (self.path / "bin").mkdir()
        self.calls = self.path / "calls"
        for name, text in (("bin/llama-bench", PEER), ("heddle", HEDDLE)):
            file = self.path / name
            file.write_text(text.format(python=sys.executable, calls=str(self.calls)))
            file.chmod(0o755)
        self.bars = self.path / "bars.json"
        self.write_bars(2.0)

    def write_bars(self, ratio):
        self.bars.write_text(json.dumps({"bars": [{"model": "m-*", "test": "pp512", "depth": 0, "ratio": ratio}]}))

    def run_compare(self, *extra):
        command = [sys.executable, COMPARE, self.path, "--models", "m-Q4_0.gguf", "--heddle", self.path / "heddle", "--repetitions", "3",
                   "--out", self.path / "out.jsonl", "--bars", self.bars, *extra]
        return subprocess.run([str(part) for part in command], capture_output=True, text=True)

    def lines(self):
        return [json.loads(line) for line in (self.path / "out.jsonl").read_text().splitlines()]

    def test_better_flash_repetitions_and_bars(self):
        done = self.run_compare("--prompt", "512,8192", "--depth", "0,4096")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"m-Q4_0 +pp512 +0 +240\.0 +120\.0 +1 +2\.00 +24\.0% +12\.0% +PASS")
        self.assertRegex(done.stdout, r"m-Q4_0 +tg32 +4096 +55\.0 +50\.0 +0 +1\.10")
        for test, depth in (("pp512", 0), ("pp8192", 0), ("tg128", 0), ("tg32", 4096)):
            for engine in ("heddle", "llama.cpp"):
                counted = sum(len(line["samples"]) for line in self.lines()
                              if (line["engine"], line["test"], line["depth"], line["stage"]) == (engine, test, depth, "measure"))
                self.assertEqual(counted, 3, (engine, test, depth))
        # In turn, also after a depth.
        for key, value in (("test", "pp512"), ("depth", 4096)):
            measured = [(line["engine"], len(line["samples"])) for line in self.lines() if line["stage"] == "measure" and line[key] == value]
            self.assertEqual(measured, [("llama.cpp", 1), ("heddle", 1)] * 3)

    def test_missed_bar(self):
        self.write_bars(2.5)
        done = self.run_compare("--prompt", "512", "--output", "0", "--depth", "0")
        self.assertEqual(done.returncode, 1)
        self.assertIn("FAIL: 2.5x", done.stdout)

    def test_shares_are_of_the_limit_of_the_same_process(self):
        self.run_compare("--prompt", "512", "--output", "0", "--depth", "0")
        turns = iter([(100.0, 200.0), (200.0, 400.0), (100.0, 400.0)])  # memory doubles between two turns, and once inside one
        lines = self.lines()
        for line in lines:
            if (line["engine"], line["stage"]) == ("heddle", "measure"):
                line["samples"][0], line["limit_tokens_per_s"] = next(turns)
        (self.path / "out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        done = subprocess.run([sys.executable, str(COMPARE), "--table", str(self.path / "out.jsonl"), "--bars", str(self.bars)],
                              capture_output=True, text=True)
        # Shares of 50, 50 and 25%; the peer's 120 tokens/s of 60, 30 and 30%.
        self.assertRegex(done.stdout, r"m-Q4_0 +pp512 +0 +100\.0 +120\.0 +1 +0\.83 +50\.0% +30\.0%")

    def test_resume_runs_only_what_is_missing(self):
        self.assertEqual(self.run_compare("--prompt", "512", "--depth", "").returncode, 0)
        whole = self.lines()
        (self.path / "out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in whole[:-2]))
        self.calls.write_text("")
        self.assertEqual(self.run_compare("--prompt", "512", "--depth", "", "--resume").returncode, 0)
        self.assertEqual(len(self.calls.read_text().splitlines()), 2)
        self.assertEqual(len(self.lines()), len(whole))

    def test_page(self):
        self.run_compare("--prompt", "512", "--depth", "0")
        machine = self.path / "machine"
        machine.mkdir()
        (self.path / "out.jsonl").rename(machine / "llamacpp.jsonl")
        (machine / "hardware.jsonl").write_text(json.dumps({"date": "2026-01-01", "cpu": "Loom", "family": "1/2/3", "cores": 2, "threads_per_core": "1",
                                                            "caches": {}, "memory_gib": 1, "virtual": "", "isa": []}) + "\n")
        page = self.path / "page.md"
        write = [sys.executable, str(ROOT / "tools" / "write_performance.py"), "--data", str(self.path), "--page", str(page)]
        self.assertNotEqual(subprocess.run([*write, "--check"], capture_output=True).returncode, 0)
        self.assertEqual(subprocess.run(write).returncode, 0)
        self.assertEqual(subprocess.run([*write, "--check"]).returncode, 0)
        self.assertIn("| m-Q4_0 | pp512 | 0 | 240 (240 to 240) | 120 (120 to 120) | 100 / 120 | 1 | **2.00** |", page.read_text())
        self.assertIn("## Loom, family 1\n", page.read_text())
        page.write_text(page.read_text().replace("**2.00**", "**3.00**"))
        self.assertNotEqual(subprocess.run([*write, "--check"], capture_output=True).returncode, 0)


if __name__ == "__main__":
    unittest.main()
