#!/usr/bin/env python3
"""heddle bench: lines that scripts rely on, shares that add up, kernels within their budget of error."""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "test" / "golden" / "data" / "qwen3_5"


def lines_of(heddle, *arguments):
    done = subprocess.run([heddle, "bench", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def steps(heddle):
    lines = lines_of(heddle, "-m", MODEL, "-p", "40,0", "-n", "3", "-d", "0,70", "-t", "2", "-r", "2", "--profile")
    machine = lines[0]
    assert all(machine["machine"][key] > 0 for key in ("read_gb_s", "int8_gop_s", "fp32_gflop_s")), machine
    assert machine["sampling"] == "sampled as the server does by default", machine
    assert lines_of(heddle, "-m", MODEL, "-p", "2", "-n", "0", "-r", "1", "--greedy")[0]["sampling"] == "greedy"
    tests = [(line["test"], line["depth"]) for line in lines if "test" in line]
    assert tests == [("pp40", 0), ("tg3", 0), ("pp40", 70), ("tg3", 70)], tests
    for line in (line for line in lines if "test" in line):
        speed = line["tokens_per_s"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"] and len(line["samples"]) == 2, line
        assert line["limit_percent"] > 0 and line["limit"], line
    for test, depth in tests:
        parts = {line["part"]: line for line in lines if line.get("profile") == test and line["depth"] == depth}
        assert abs(sum(part["share_percent"] for part in parts.values()) - 100) < 0.1, parts
        assert {"attention", "delta rule", "ffn down", "norm", "output matrix", "sample"} <= set(parts), parts.keys()
        for part in ("output matrix", "sample"):
            assert parts[part]["calls"] == (1 if test == "pp40" else 3), parts[part]


def kernels(heddle):
    for target, only in (("auto", "rms norm"), ("scalar", "rope 12 x 64"), ("auto", "delta rule")):
        lines = lines_of(heddle, "kernels", "--only", only, "--target", target, "--seconds", "0")
        found = [line for line in lines if "kernel" in line]
        assert found, (target, only)
        for line in found:
            assert only in f"{line['kernel']} {line['shape']}" and line["us"]["median"] > 0, line
            assert 0 <= line["error_over_budget"] <= 1, line
    for line in lines_of(heddle, "kernels", "--only", "sample temperature 1 of 49152", "--seconds", "0")[1:]:
        assert line["kernel"] == "sample" and line["tokens"] in (1, 64) and line["limit"] == "read bandwidth", line
    nothing = lines_of(heddle, "kernels", "--only", "no such kernel")
    assert len(nothing) == 1 and "machine" in nothing[0], nothing


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    heddle = parser.parse_args().heddle
    steps(heddle)
    kernels(heddle)
    refused = subprocess.run([heddle, "bench"], capture_output=True, text=True)
    assert refused.returncode != 0 and "--model or --preset" in refused.stderr, refused
    print("bench: steps, profile and kernels hold")


if __name__ == "__main__":
    sys.exit(main())
