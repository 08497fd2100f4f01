#!/usr/bin/env python3
"""Heddle and llama.cpp side by side on one machine in one run.

usage: tools/compare_llamacpp.py PEER --models FILE.gguf... [--heddle BINARY] [--threads 2] [--repetitions 5]
           [--prompt 512,8192] [--output 128] [--depth 0,4096,16384] [--out RESULTS.jsonl]

PEER holds llama-bench, itself or in bin/. For every model each test is run with both engines in turn; llama.cpp with -fa 0 and
-fa 1, the better of which counts. Prints a table of medians and ratios; --out keeps every figure as JSON lines.
"""
import argparse
import json
import pathlib
import subprocess
import sys


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"failed ({done.returncode}): {' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def heddle(args, model, prompt, output, depth):
    command = [args.heddle, "bench", "-m", model, "-t", args.threads, "-r", args.repetitions, "-d", depth]
    command += ["-p", prompt, "-n", 0] if prompt else ["-p", 0, "-n", output]
    lines = run([str(part) for part in command])
    machine = next(line["machine"] for line in lines if "machine" in line)
    test = next(line for line in lines if "test" in line)
    return test, machine


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def peer(args, binary, model, prompt, output, depth, flash):
    command = [binary, "-m", model, "-t", args.threads, "-r", args.repetitions, "-fa", flash, "-o", "jsonl"]
    command += ["-p", prompt, "-n", 0] if prompt else ["-p", 0, "-n", output]
    if depth:
        command += ["-d", depth]
    lines = run([str(part) for part in command])
    samples = lines[-1].get("samples_ts")
    return median(samples) if samples else lines[-1]["avg_ts"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=pathlib.Path)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--heddle", default="build/release/heddle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    numbers = lambda text: [int(part) for part in text.split(",") if part]
    parser.add_argument("--prompt", type=numbers, default=[512, 8192])
    parser.add_argument("--output", type=numbers, default=[128])
    parser.add_argument("--depth", type=numbers, default=[0, 4096, 16384])
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    binary = next((p for p in (args.peer / "bin" / "llama-bench", args.peer / "llama-bench") if p.exists()), None)
    if binary is None:
        sys.exit(f"{args.peer}: no llama-bench in it or in its bin/")
    out = args.out.open("w") if args.out else None
    print(f"{'model':34} {'test':8} {'depth':>6} {'heddle':>9} {'llama.cpp':>10} {'ratio':>6} {'of limit':>9}")
    for model in args.models:
        name = pathlib.Path(model).stem
        tests = [(p, 0, 0) for p in args.prompt] + [(0, n, d) for n in args.output for d in args.depth]
        for prompt, output, depth in tests:
            ours, machine = heddle(args, model, prompt, output, depth)
            theirs = {flash: peer(args, binary, model, prompt, output, depth, flash) for flash in (0, 1)}
            best = max(theirs.values())
            speed = ours["tokens_per_s"]["median"]
            print(f"{name[:34]:34} {ours['test']:8} {depth:6} {speed:9.1f} {best:10.1f} {speed / best:6.2f} "
                  f"{ours['limit_percent']:8.1f}%", flush=True)
            if out:
                record = {"model": name, "test": ours["test"], "depth": depth, "threads": args.threads, "heddle": ours["tokens_per_s"],
                          "limit_percent": ours["limit_percent"], "limit": ours["limit"], "peer_fa0": theirs[0], "peer_fa1": theirs[1],
                          "ratio": speed / best, "machine": machine}
                out.write(json.dumps(record) + "\n")
                out.flush()


if __name__ == "__main__":
    main()
