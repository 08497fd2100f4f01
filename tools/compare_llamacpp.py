#!/usr/bin/env python3
"""Heddle and llama.cpp side by side on one machine in one run.

usage: tools/compare_llamacpp.py PEER --models FILE.gguf... --out RESULTS.jsonl
           [--heddle BINARY] [--threads 2] [--repetitions 5] [--prompt 512,8192] [--output 128]
           [--depth 0,4096,16384] [--deep-output 32] [--only REGEX] [--resume] [--bars FILE]
       tools/compare_llamacpp.py --table RESULTS.jsonl [--bars FILE]

PEER holds llama-bench, itself or in bin/. For every model and test llama.cpp first runs once with -fa 0 and once with -fa 1; the
better of the two then runs --repetitions times, in turn with Heddle, also after a depth, so that both meet the same memory: what a
virtual machine reads may double or halve within a minute. The machine's limits are measured by every process of Heddle; a share of
the limit is of the one that the same process measured (for llama.cpp: Heddle's process of the same turn), and the median of these. Every
process adds lines to --out, so that --resume goes on where a run was cut off; --only takes the tests whose "MODEL TEST@DEPTH"
matches. At the end: medians, ratios, shares of the limit (reads for decode, int8 or fp32 arithmetic for prompts) and PASS or FAIL
against the bars (docs/performance/bars.json). Exits with 1 if a bar is missed.
"""
import argparse
import collections
import fnmatch
import json
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BARS = ROOT / "docs" / "performance" / "bars.json"
Test = collections.namedtuple("Test", "prompt output depth")
LONG_PROMPT = 2048  # from here on a warm-up run would cost as much as a measurement


def name_of(test):
    return f"pp{test.prompt}" if test.prompt else f"tg{test.output}"


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed ({done.returncode}): {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def numbers_of(tests):
    """The options of either bench for tests that share a process: all prompts and outputs at all depths."""
    prompts = sorted({test.prompt for test in tests if test.prompt})
    outputs = sorted({test.output for test in tests if test.output})
    depths = sorted({test.depth for test in tests})
    text = lambda values: ",".join(map(str, values)) or "0"
    return ["-p", text(prompts), "-n", text(outputs), "-d", text(depths)]


class Heddle:
    def __init__(self, binary, threads):
        self.binary, self.threads = binary, threads

    def measure(self, model, tests, repetitions, flash=None):
        command = [self.binary, "bench", "--json", "-m", model, "-t", self.threads, "-r", repetitions, *numbers_of(tests)]
        lines = run(command)
        machine = next(line["machine"] for line in lines if "machine" in line)
        for line in lines:
            if "test" not in line:
                continue
            yield {"engine": "heddle", "test": line["test"], "depth": line["depth"], "samples": line["samples"],
                   "limit": line["limit"], "limit_tokens_per_s": line["limit_tokens_per_s"], "machine": machine}


class Peer:
    def __init__(self, binary, threads):
        self.binary, self.threads = binary, threads

    def measure(self, model, tests, repetitions, flash):
        command = [self.binary, "-m", model, "-t", self.threads, "-r", repetitions, "-fa", flash, "-o", "jsonl", *numbers_of(tests)]
        if any(test.prompt >= LONG_PROMPT for test in tests):
            command.append("--no-warmup")
        for line in run(command):
            test = Test(line["n_prompt"], line["n_gen"], line.get("n_depth", 0))
            yield {"engine": "llama.cpp", "test": name_of(test), "depth": test.depth, "flash": flash,
                   "samples": line.get("samples_ts") or [line["avg_ts"]], "build": line.get("build_commit")}


class Log:
    """The lines of the run, in memory and, as they come, in the file."""

    def __init__(self, path, resume):
        self.lines = []
        if resume and path and path.exists():
            self.lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        self.file = path.open("a" if resume else "w") if path else None

    def add(self, line):
        self.lines.append(line)
        if self.file:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()

    def count(self, **keys):
        return sum(len(line["samples"]) for line in self.lines if all(line.get(key) == value for key, value in keys.items()))


def groups_of(tests):
    """Tests that share a process: those without a depth but long prompts, each long prompt, those after depths."""
    short = [test for test in tests if test.depth == 0 and test.prompt < LONG_PROMPT]
    long = [[test] for test in tests if test.depth == 0 and test.prompt >= LONG_PROMPT]
    deep = [test for test in tests if test.depth > 0]
    return [group for group in [short, *long, deep] if group]


def measure_into(log, engine, model, stage, tests, repetitions, flash=None):
    for line in engine.measure(model, tests, repetitions, flash):
        log.add({"model": pathlib.Path(model).stem, "stage": stage, "threads": engine.threads, **line})


def compare_group(log, ours, peer, model, group, repetitions):
    name = pathlib.Path(model).stem
    say = lambda text: print(f"  {time.strftime('%H:%M:%S')} {name}: {text}", file=sys.stderr, flush=True)
    key = lambda test: {"model": name, "test": name_of(test), "depth": test.depth}
    for flash in (0, 1):
        missing = [test for test in group if not log.count(stage="probe", flash=flash, **key(test))]
        if missing:
            say(f"llama.cpp -fa {flash} once: {', '.join(f'{name_of(t)}@{t.depth}' for t in missing)}")
            measure_into(log, peer, model, "probe", missing, 1, flash)
    while True:
        missing = [test for test in group if log.count(stage="measure", engine="heddle", **key(test)) < repetitions]
        theirs = collections.defaultdict(list)
        for test in group:
            if log.count(stage="measure", engine="llama.cpp", **key(test)) < repetitions:
                theirs[better_flash(log.lines, **key(test))].append(test)
        if not missing and not theirs:
            return
        for flash, tests in theirs.items():
            say(f"llama.cpp -fa {flash}: {', '.join(f'{name_of(t)}@{t.depth}' for t in tests)}")
            measure_into(log, peer, model, "measure", tests, 1, flash)
        if missing:
            say(f"heddle: {', '.join(f'{name_of(t)}@{t.depth}' for t in missing)}")
            measure_into(log, ours, model, "measure", missing, 1)


def better_flash(lines, model, test, depth):
    speeds = {line["flash"]: line["samples"][0] for line in lines
              if line["stage"] == "probe" and (line["model"], line["test"], line["depth"]) == (model, test, depth)}
    return max(speeds, key=speeds.get)


def share_of(lines, limits):
    """Median percentage of the limits that were measured beside each line: where memory changes between two speeds, the median of all
    speeds may be of the one and that of all limits of the other."""
    return 100 * median([sample / limit for line, limit in zip(lines, limits) for sample in line["samples"]])


def summarise(lines):
    """One dictionary per (model, test, depth) that both engines ran, in the order of the lines."""
    cells = {}
    for line in lines:
        cells.setdefault((line["model"], line["test"], line["depth"]), []).append(line)
    results = []
    for (model, test, depth), cell in cells.items():
        ours = [line for line in cell if line["engine"] == "heddle" and line["stage"] == "measure"]
        theirs = [line for line in cell if line["engine"] == "llama.cpp" and line["stage"] == "measure"]
        if not ours or not theirs:
            continue
        samples = [sample for line in ours for sample in line["samples"]]
        peer_samples = [sample for line in theirs for sample in line["samples"]]
        probes = {line["flash"]: line["samples"][0] for line in cell if line["stage"] == "probe"}
        limits = [line["limit_tokens_per_s"] for line in ours]
        speed, peer_speed = median(samples), median(peer_samples)
        results.append({"model": model, "test": test, "depth": depth, "threads": ours[0]["threads"], "speed": speed, "min": min(samples),
                        "max": max(samples), "count": len(samples), "peer_speed": peer_speed, "peer_min": min(peer_samples),
                        "peer_max": max(peer_samples), "flash": theirs[0]["flash"], "probes": probes, "ratio": speed / peer_speed,
                        "limit": ours[0]["limit"], "limit_percent": share_of(ours, limits),
                        "peer_limit_percent": share_of(theirs, limits)})
    return results


def bar_of(bars, result):
    for bar in bars["bars"]:
        if (fnmatch.fnmatch(result["model"].lower(), bar["model"]) and fnmatch.fnmatch(result["test"], bar["test"])
                and result["depth"] == bar["depth"]):
            return bar
    return None


def verdict(bar, result):
    """"" without a bar, else PASS, or FAIL and what was asked for."""
    if bar is None:
        return ""
    missed = []
    if result["ratio"] < bar.get("ratio", 0):
        missed.append(f"{bar['ratio']}x")
    if result["limit_percent"] < bar.get("limit_percent", 0):
        missed.append(f"{bar['limit_percent']}% of the limit")
    return "FAIL: " + " and ".join(missed) if missed else "PASS"


def any_verdicts(bars, results):
    """(text, verdict) of the bars that one of several models must reach; those without a result are left out."""
    for bar in bars.get("any", []):
        cells = [r for r in results if r["model"].lower() in bar["models"] and (r["test"], r["depth"]) == (bar["test"], bar["depth"])]
        if cells:
            best = max(cells, key=lambda r: r["limit_percent"])
            ok = best["limit_percent"] >= bar["limit_percent"]
            yield (f"{bar['test']} of one of {', '.join(bar['models'])}: {best['limit_percent']:.1f}% of the {best['limit']} "
                   f"({best['model']}), {bar['limit_percent']}% wanted", "PASS" if ok else "FAIL")


def print_table(lines, bars):
    """True if no bar is missed."""
    results = summarise(lines)
    machines = [line["machine"] for line in lines if line.get("machine")]
    if machines:
        middle = lambda key: median([machine[key] for machine in machines])
        print(f"machine, median of {len(machines)} measurements: reads {middle('read_gb_s'):.1f} GB/s, int8 {middle('int8_gop_s'):.0f} GOP/s, "
              f"fp32 {middle('fp32_gflop_s'):.0f} GFLOP/s, {machines[0]['target']}")
    print(f"{'model':32} {'test':7} {'depth':>6} {'heddle':>9} {'llama.cpp':>10} {'-fa':>3} {'ratio':>6} {'of limit':>9} {'peer':>7}  bar")
    ok = True
    for r in results:
        word = verdict(bar_of(bars, r), r)
        ok &= not word.startswith("FAIL")
        print(f"{r['model'][:32]:32} {r['test']:7} {r['depth']:6} {r['speed']:9.1f} {r['peer_speed']:10.1f} {r['flash']:3} {r['ratio']:6.2f} "
              f"{r['limit_percent']:8.1f}% {r['peer_limit_percent']:6.1f}%  {word}")
    for text, word in any_verdicts(bars, results):
        ok &= word == "PASS"
        print(f"{text}: {word}")
    return ok


def tests_of(args):
    tests = [Test(prompt, 0, 0) for prompt in args.prompt if prompt]
    for depth in args.depth:
        tests += [Test(0, output, depth) for output in (args.output if depth == 0 else args.deep_output) if output]
    return tests


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(part) for part in text.split(",") if part]
    parser.add_argument("peer", type=pathlib.Path, nargs="?")
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--heddle", default=str(ROOT / "build" / "release" / "heddle"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--prompt", type=numbers, default=[512, 8192])
    parser.add_argument("--output", type=numbers, default=[128])
    parser.add_argument("--depth", type=numbers, default=[0, 4096, 16384])
    parser.add_argument("--deep-output", type=numbers, default=[32])
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--bars", type=pathlib.Path, default=BARS)
    parser.add_argument("--table", type=pathlib.Path, metavar="RESULTS.jsonl")
    args = parser.parse_args()
    bars = json.loads(args.bars.read_text())
    if args.table:
        return 0 if print_table([json.loads(line) for line in args.table.read_text().splitlines()], bars) else 1
    if not args.peer or not args.models:
        parser.error("PEER and --models, or --table")
    binary = next((p for p in (args.peer / "bin" / "llama-bench", args.peer / "llama-bench") if p.exists()), None)
    if binary is None:
        sys.exit(f"{args.peer}: no llama-bench in it or in its bin/")
    ours, peer = Heddle(args.heddle, args.threads), Peer(binary, args.threads)
    log = Log(args.out, args.resume)
    for model in args.models:
        wanted = lambda test: re.search(args.only, f"{pathlib.Path(model).stem} {name_of(test)}@{test.depth}")
        for group in groups_of([test for test in tests_of(args) if wanted(test)]):
            compare_group(log, ours, peer, model, group, args.repetitions)
    return 0 if print_table(log.lines, bars) else 1


if __name__ == "__main__":
    sys.exit(main())
