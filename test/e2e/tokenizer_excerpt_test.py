#!/usr/bin/env python3
"""2,000 lines with llama-tokenize's ids for the two real models (test/text/tokenizer_excerpt.jsonl: line, ids of
SmolLM2-135M-Instruct, ids of gemma-3-270m; written by the peer). Both ways; the models lie in $HEDDLE_MODELS_DIR.

Exits with 77 (skipped), and says so, when neither model is there.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("compare_tokenizer", ROOT / "tools" / "compare_tokenizer.py")
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    heddle = args.heddle.split()
    folder = pathlib.Path(os.environ.get("HEDDLE_MODELS_DIR", ""))
    rows = [json.loads(line) for line in
            (ROOT / "test/text/tokenizer_excerpt.jsonl").read_text(encoding="utf-8").split("\n") if line]
    lines = [row[0] for row in rows]
    bad = ran = 0
    for column, pattern in ((1, "SmolLM2-135M*.gguf"), (2, "gemma-3-270m*.gguf")):
        models = sorted(folder.glob(pattern)) if os.environ.get("HEDDLE_MODELS_DIR") else []
        if not models:
            print(f"SKIPPED: no {pattern} in HEDDLE_MODELS_DIR ('{folder}')")
            continue
        ran += 1
        expected = [row[column] for row in rows]
        got = compare.heddle_lines(heddle, models[0], lines, "--no-special")
        bad += compare.report(models[0].name, "excerpt", len(lines),
                              [t for t in zip(lines, got, expected) if t[1] != t[2]])
        # SmolLM2 lacks tokens for some bytes, so only the other one gives every line back.
        texts = compare.heddle_lines(heddle, models[0], expected, "--decode", "--keep-special")
        if column == 2:
            bad += compare.report(models[0].name, "excerpt decoded", len(lines),
                                  [t for t in zip(expected, texts, lines) if t[1] != t[2].replace("\u2581", " ")])
    if ran == 0:
        return 77
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
