#!/usr/bin/env python3
"""Whether a change keeps every bit of the logits: hashes of `heddle logits`, recorded with one binary, checked with another.

usage: tools/same_bits.py record FILE --heddle BINARY [--models DIR]
       tools/same_bits.py check  FILE --heddle BINARY [--models DIR] [--target NAME]

The tiny models of test/golden/data and, where the files are in the models' folder (HEDDLE_MODELS_DIR, else
~/.cache/heddle/models), the real ones; as stored, with float32 keys and values, and in float32 throughout; every target of the
machine; the whole text in a step, and three ways that cut it up, put other sequences beside it, restore it and draft.
`check` compares what both have, names what only one has, and exits with 1 if a hash differs or nothing was compared.
FILE is JSON: {"MODEL PRECISION TARGET FLAGS": hash}. Hashes of one file hold for every machine that has the target.
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

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "test" / "golden" / "data"
TINY = ["llama", "llama_rope3", "qwen3", "gemma3", "lfm2", "qwen3_5"]
REAL = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma3": "gemma-3-270m-q4-k-m.gguf"}
PRECISIONS = {"stored": [], "kv-f32": ["--kv-dtype", "f32"], "f32": ["--dtype", "f32"]}
FLAGS = {
    "whole": ["--chunk", "512"],
    "chunks": ["--chunk", "7", "--threads", "1"],
    "batch": ["--chunk", "65", "--batch-with", "2", "--draft-at", "33"],
    "restored": ["--chunk", "64", "--restore-at", "70", "--draft-at", "95"],
}
TOKENS = {"tiny": 150, "real": 130}


def targets_of(heddle):
    info = json.loads(subprocess.run([heddle, "info", "--json"], capture_output=True, text=True, check=True).stdout)
    return info["targets"]


def inputs(models, folder):
    """(name, model, file of ids) of everything that is there."""
    rng = random.Random(11)
    for name in TINY:
        ids = folder / f"{name}.json"
        ids.write_text(json.dumps([rng.randrange(256) for _ in range(TOKENS["tiny"])]))
        yield name, GOLDEN / name, ids
    for name, file in REAL.items():
        if not (models / file).exists():
            print(f"not here: {file}", file=sys.stderr)
            continue
        ids = folder / f"{name}-real.json"
        ids.write_text(json.dumps(json.loads((GOLDEN / "real" / f"{name}.json").read_text())["ids"][:TOKENS["real"]]))
        yield name + "-real", models / file, ids


def hashes(args):
    targets = [args.target] if args.target else targets_of(args.heddle)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        out = folder / "logits.safetensors"
        for model, path, ids in inputs(args.models, folder):
            for precision, precision_flags in PRECISIONS.items():
                for target in targets:
                    if target == "scalar" and model.endswith("-real"):
                        continue  # minutes each, and the tiny models have every kernel
                    for way, flags in FLAGS.items():
                        command = [args.heddle, "logits", "-m", str(path), "--ids", str(ids), "-o", str(out), "--target", target,
                                   *precision_flags, *flags]
                        run = subprocess.run(command, capture_output=True, text=True, check=False)
                        if run.returncode != 0:
                            sys.exit(f"failed ({run.returncode}): {' '.join(command)}\n{run.stderr}")
                        found[f"{model} {precision} {target} {way}"] = hashlib.sha256(out.read_bytes()).hexdigest()
            print(f"{model}: done", file=sys.stderr, flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "check"])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--heddle", required=True)
    default = os.environ.get("HEDDLE_MODELS_DIR") or pathlib.Path.home() / ".cache" / "heddle" / "models"
    parser.add_argument("--models", type=pathlib.Path, default=default)
    parser.add_argument("--target", help="only this one (default: all that the machine has)")
    args = parser.parse_args()
    if args.what == "record":
        found = hashes(args)
        args.file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{len(found)} hashes in {args.file}")
        return 0
    recorded = json.loads(args.file.read_text())
    found = hashes(args)
    both = sorted(recorded.keys() & found.keys())
    different = [name for name in both if recorded[name] != found[name]]
    for name in different:
        print(f"DIFFERENT {name}")
    print(f"{len(both) - len(different)} of {len(both)} equal; {len(recorded.keys() - found.keys())} only recorded, "
          f"{len(found.keys() - recorded.keys())} only here")
    return 1 if different or not both else 0


if __name__ == "__main__":
    sys.exit(main())
