#!/usr/bin/env python3
"""Writes docs/gpu.md from the lines of `heddle bench kernels --device cuda:0 --json` in docs/gpu/*.jsonl.

usage: tools/write_gpu_performance.py [--check]

--check writes nothing and exits with 1 if the page is not what the data gives.
"""
import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEAD = """# Kernels on a GPU

Written by `tools/write_gpu_performance.py` from `docs/gpu/*.jsonl`: change those, not this page. To measure again, on a machine with a
GPU:

```
cmake --preset cuda && cmake --build --preset cuda --target heddle gpu_tests
tools/gpu_suite.sh build/cuda RESULTS      # tests, compute-sanitizer, benches
```

Launches are replayed from graphs over operands that leave the second level cache; times are medians. The limit is the larger of the
bytes that a launch cannot do without over the bandwidth of plain reads, measured in the same process, and its
operations over the data sheet's dense bf16 rate. Attention is `query heads/kv heads x width`, `sequences x depth`; `tokens` are those
that every sequence brings.
"""


def page():
    parts = [HEAD]
    for path in sorted((ROOT / "docs/gpu").glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        machine = lines[0]["machine"]
        parts.append(f"\n## {machine['device']}\n\nReads {machine['read_gb_s']:.0f} GB/s; bf16 {machine['bf16_tflop_s']:.0f} TFLOP/s by "
                     "the data sheet.\n\n| kernel | shape | tokens | µs | GB/s | TFLOP/s | of the limit |\n|---|---|---|---|---|---|---|\n")
        for line in lines[1:]:
            parts.append(f"| {line['kernel']} | {line['shape']} | {line['tokens']} | {line['us']:.1f} | {line['gb_s']:.0f} | "
                         f"{line['tflop_s']:.1f} | {line['limit_percent']:.0f}% of {line['limit']} |\n")
    return "".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    target = ROOT / "docs/gpu.md"
    text = page()
    if parser.parse_args().check:
        sys.exit(0 if target.exists() and target.read_text() == text else "docs/gpu.md is not what docs/gpu/*.jsonl gives")
    target.write_text(text)


if __name__ == "__main__":
    main()
