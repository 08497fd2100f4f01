#!/usr/bin/env python3
"""The state contract through the real binary: every way of computing the logits of a text writes the same bytes.

For each tiny golden model (both kernel sets) and, where the files are present, both real models: whole prompt against chunks,
other sequences beside it, thread counts, a snapshot restored from disk in the middle, drafts rolled back, and combinations.
usage: logits_contract_test.py --heddle BINARY
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "test" / "golden" / "data"
TINY = ["llama", "llama_rope3", "qwen3", "gemma3", "lfm2", "qwen3_5"]
REAL = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma3": "gemma-3-270m-q4-k-m.gguf"}


def logits_hash(heddle, model, ids, out, *flags):
    command = [heddle, "logits", "--model", str(model), "--ids", str(ids), "--out", str(out), *map(str, flags)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"failed ({run.returncode}): {' '.join(command)}\n{run.stderr}")
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    out.unlink()
    return digest


def check_model(heddle, name, model, ids, folder, base_flags, variants):
    path = folder / "ids.json"
    path.write_text(json.dumps(ids))
    expected = logits_hash(heddle, model, path, folder / "logits.safetensors", *base_flags)
    failures = 0
    for flags in variants:
        got = logits_hash(heddle, model, path, folder / "logits.safetensors", *base_flags, *flags)
        if got != expected:
            failures += 1
            print(f"DIFFERENT {name} {' '.join(map(str, [*base_flags, *flags]))}", flush=True)
    print(f"{name} {' '.join(map(str, base_flags)) or '(default)'}: {len(variants) - failures} of {len(variants)} equal", flush=True)
    return failures


def variants_of(length, rng, count):
    fixed = [["--chunk", c] for c in (1, 7, 63, 64, 65)]
    fixed += [["--threads", 1], ["--batch-with", 3], ["--restore-at", 64], ["--draft-at", 33], ["--draft-at", 63]]
    for _ in range(count):
        fixed.append(["--chunk", rng.randint(1, length), "--batch-with", rng.randint(0, 3), "--threads", rng.randint(1, 2),
                      "--restore-at", rng.randint(1, length - 1), "--draft-at", rng.randint(1, length - 1)])
    return fixed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    rng = random.Random(5)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for tiny in TINY:
            length = 150
            ids = [rng.randrange(256) for _ in range(length)]
            for flags in ([], ["--dtype", "f32"], ["--kernels", "reference"]):
                failures += check_model(args.heddle, tiny, GOLDEN / tiny, ids, folder, flags, variants_of(length, rng, 6))
        models = os.environ.get("HEDDLE_MODELS_DIR", "")
        for real, file in REAL.items():
            path = pathlib.Path(models) / file
            if not models or not path.exists():
                print(f"SKIPPED {real}: {file} is not in HEDDLE_MODELS_DIR")
                continue
            ids = json.loads((GOLDEN / "real" / f"{real}.json").read_text())["ids"][:200]
            variants = [["--chunk", 1], ["--chunk", 7, "--batch-with", 2], ["--chunk", 65, "--restore-at", 100],
                        ["--chunk", 64, "--draft-at", 95, "--threads", 1], ["--restore-at", 128, "--draft-at", 129]]
            failures += check_model(args.heddle, real, path, ids, folder, [], variants)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
