#!/usr/bin/env python3
"""Time to the first token and memory of `heddle generate`, from a warm page cache.

usage: tools/measure_loading.py MODEL.gguf... [--heddle BINARY] [--repetitions 5] [--out LOADING.jsonl] [--check] [--seconds S]

For every model: seconds from the start of the process to the first byte of the answer (median of the repetitions), resident memory
at its highest, and both beside the file's size. --check exits with 1 where the first token took more than --seconds, or the highest
resident memory was more than the file, a quarter of it and the state of the few tokens.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ALLOWED = 1.25  # of the file's size


def first_token(binary, model):
    """(seconds to the first byte of the answer, seconds in all, highest resident bytes, kernel's and own CPU seconds)"""
    start = time.monotonic()
    child = subprocess.Popen([binary, "generate", "-m", model, "-n", "1", "-p", "The capital of France is", "--temperature", "0"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = child.stdout.read(1)
    seconds = time.monotonic() - start
    child.stdout.read()
    errors = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0 or not first:
        sys.exit(f"{binary} generate -m {model}: exit {child.returncode}\n{errors[-2000:]}")
    return seconds, time.monotonic() - start, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime


def state_bytes(binary, model):
    """Of one page of 64 tokens, which is what a short prompt takes."""
    text = subprocess.run([binary, "inspect", model], capture_output=True, text=True, check=True).stdout
    match = re.search(r"KV bytes per token\s+(\d+)", text)
    return 64 * int(match.group(1)) if match else 0


def measure(binary, model, repetitions):
    first_token(binary, model)  # the file into the page cache
    runs = [first_token(binary, model) for _ in range(repetitions)]
    size = os.path.getsize(model)
    middle = lambda column: sorted(run[column] for run in runs)[len(runs) // 2]
    peak = max(run[2] for run in runs)
    state = state_bytes(binary, model)
    return {"model": pathlib.Path(model).stem, "file_bytes": size, "first_token_s": round(middle(0), 4),
            "first_token_min_s": round(min(run[0] for run in runs), 4), "first_token_max_s": round(max(run[0] for run in runs), 4),
            "cpu_s": round(middle(3), 4), "peak_bytes": peak, "state_bytes": state, "peak_over_file": round((peak - state) / size, 4),
            "repetitions": repetitions}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--heddle", default=str(ROOT / "build" / "release" / "heddle"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.5)
    args = parser.parse_args()
    lines, missed = [], []
    for model in args.models:
        line = measure(args.heddle, model, args.repetitions)
        lines.append(line)
        print(f"{line['model']:34} first token {line['first_token_s']:.3f} s ({line['first_token_min_s']:.3f} to "
              f"{line['first_token_max_s']:.3f}), CPU {line['cpu_s']:.2f} s; resident at most {line['peak_bytes'] / 1e6:.1f} MB, "
              f"without state {line['peak_over_file']:.3f} of the file's {line['file_bytes'] / 1e6:.1f} MB", flush=True)
        if line["first_token_s"] > args.seconds:
            missed.append(f"{line['model']}: first token after {line['first_token_s']:.3f} s, at most {args.seconds} wanted")
        if line["peak_over_file"] > ALLOWED:
            missed.append(f"{line['model']}: resident memory {line['peak_over_file']:.3f} of the file, at most {ALLOWED} wanted")
    if args.out:
        args.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for text in missed if args.check else []:
        print(text, file=sys.stderr)
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
