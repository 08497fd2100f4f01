#!/usr/bin/env python3
"""Measures everything that docs/performance.md shows, and writes the page.

usage: tools/measure_performance.py [--peer DIR] [--models FILE.gguf...] [--heddle BINARY] [--threads 2] [--resume]
           [--stages hardware,kernels,steps,loading,llamacpp] [--out docs/performance/MACHINE]

Stages: hardware (what the machine is), kernels (`heddle bench kernels`), steps (`heddle bench --profile` of every model), loading
(tools/measure_loading.py), llamacpp (tools/compare_llamacpp.py; needs --peer). Each writes OUT/STAGE.jsonl; stages that are not
named keep theirs. OUT is by default named after the processor: VENDOR-FAMILY-MODEL. An hour on two cores, of which the comparison is most; nothing else should run meanwhile. --resume goes on with
a comparison that was cut off.
"""
import argparse
import datetime
import json
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
STAGES = ["hardware", "kernels", "steps", "loading", "llamacpp"]
ISA = ["avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"]


def output(command):
    print("+", *command, file=sys.stderr, flush=True)
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"failed ({done.returncode}): {' '.join(map(str, command))}")
    return done.stdout


def lscpu():
    fields = {}
    for line in subprocess.run(["lscpu"], capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}).stdout.splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def hardware():
    cpu = lscpu()
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    flags = cpu.get("Flags", "").split()
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {"date": datetime.date.today().isoformat(), "cpu": cpu.get("Model name", platform.machine()),
            "family": f"{cpu.get('CPU family', '?')}/{cpu.get('Model', '?')}/{cpu.get('Stepping', '?')}", "cores": int(cpu.get("CPU(s)", 0)),
            "threads_per_core": cpu.get("Thread(s) per core", "?"), "caches": {level: cpu[f"{level} cache"] for level in ("L1d", "L2", "L3")
                                                                             if f"{level} cache" in cpu},
            "memory_gib": round(int(memory.group(1)) / 2**20, 1) if memory else None, "virtual": cpu.get("Hypervisor vendor", ""),
            "isa": [flag for flag in ISA if flag in flags], "commit": commit}


def machine_name():
    cpu = lscpu()
    vendor = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}.get(cpu.get("Vendor ID"), cpu.get("Vendor ID", platform.machine()).lower())
    return "-".join([vendor, *(cpu[key] for key in ("CPU family", "Model") if key in cpu)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=pathlib.Path)
    parser.add_argument("--models", nargs="+", default=[])
    parser.add_argument("--heddle", default=str(ROOT / "build" / "release" / "heddle"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stages", type=lambda text: text.split(","), default=STAGES)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "performance" / machine_name())
    args = parser.parse_args()
    unknown = [stage for stage in args.stages if stage not in STAGES]
    if unknown:
        parser.error(f"stages {', '.join(unknown)}: expected {', '.join(STAGES)}")
    if "llamacpp" in args.stages and not args.peer and args.stages != STAGES:
        parser.error("the stage llamacpp needs --peer")
    args.out.mkdir(parents=True, exist_ok=True)
    bench = [args.heddle, "bench"]
    if "hardware" in args.stages:
        (args.out / "hardware.jsonl").write_text(json.dumps(hardware()) + "\n")
    if "kernels" in args.stages:
        (args.out / "kernels.jsonl").write_text(output([*bench, "kernels", "--json", "-t", args.threads]))
    if "steps" in args.stages and args.models:
        lines = [output([*bench, "--json", "--profile", "-m", model, "-t", args.threads, "-p", 512, "-n", 64, "-d", "0,4096", "-r", 5])
                 for model in args.models]
        # Paths of one machine don't belong on the page.
        lines = [re.sub(r'"model":"[^"]*/([^"/]*)"', r'"model":"\1"', text) for text in lines]
        (args.out / "steps.jsonl").write_text("".join(lines))
    if "loading" in args.stages and args.models:
        output([TOOLS / "measure_loading.py", *args.models, "--heddle", args.heddle, "--out", args.out / "loading.jsonl"])
    if "llamacpp" in args.stages and args.peer and args.models:
        command = [TOOLS / "compare_llamacpp.py", args.peer, "--models", *args.models, "--heddle", args.heddle, "--threads", args.threads,
                   "--out", args.out / "llamacpp.jsonl", *(["--resume"] if args.resume else [])]
        # A missed bar is a result, and the page shows it.
        subprocess.run([str(part) for part in command])
    return subprocess.run([TOOLS / "write_performance.py", "--data", args.out.parent]).returncode


if __name__ == "__main__":
    sys.exit(main())
