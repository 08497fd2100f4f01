#!/usr/bin/env python3
"""Loading the real models: resident memory never above the file, a quarter of it and the state; the first token soon."""
import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SECONDS = 5  # half a second is the bar on an idle machine and a release build: tools/measure_loading.py --check


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    models = sorted(pathlib.Path(os.environ.get("HEDDLE_MODELS_DIR") or "/nonexistent").glob("*.gguf"))
    if not models:
        print("skipped: no models (HEDDLE_MODELS_DIR)")
        return 0
    return subprocess.run([sys.executable, ROOT / "tools" / "measure_loading.py", *models, "--heddle", args.heddle, "--repetitions", "2",
                           "--check", "--seconds", str(SECONDS)]).returncode


if __name__ == "__main__":
    sys.exit(main())
