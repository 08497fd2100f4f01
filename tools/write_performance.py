#!/usr/bin/env python3
"""Writes docs/performance.md from the measurements in docs/performance/MACHINE/*.jsonl.

usage: tools/write_performance.py [--data docs/performance] [--page docs/performance.md] [--check]

--check writes nothing and exits with 1 if the page is not what the data gives. tools/measure_performance.py measures.
"""
import argparse
import json
import pathlib
import sys

sys.dont_write_bytecode = True
import compare_llamacpp  # noqa: E402 (beside this file)

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEAD = """# Performance

Written by `tools/write_performance.py` from the JSON lines in `docs/performance/MACHINE/`: change those, not this page. To measure again,
on an idle machine:

```
cmake --preset release && cmake --build --preset release --target heddle
tools/measure_performance.py --peer PEER --models MODEL.gguf...      # everything below, an hour; --stages for a part of it
tools/compare_llamacpp.py --table docs/performance/MACHINE/llamacpp.jsonl    # the verdict over docs/performance/bars.json
```

PEER is a folder with `llama-bench` of llama.cpp, built on the same machine. A share of the limit is always of a limit measured in the
same process: bytes that a token must read (packed weights once, state) over the bandwidth of streaming reads, or operations over the
peak of 8-bit dot products (quantised products) or fused multiply-adds (the rest) on registers.
"""


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def number(value):
    """Three significant digits."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def middle(values):
    return compare_llamacpp.median(list(values))


def hardware_section(data):
    h = read(data / "hardware.jsonl")[0]
    rows = [["date", h["date"]], ["CPU", f"{h['cpu']} (family/model/stepping {h['family']})"],
            ["cores", f"{h['cores']}, {h['threads_per_core']} thread(s) each" + (f", virtual ({h['virtual']})" if h["virtual"] else "")],
            ["caches", ", ".join(f"{level} {size}" for level, size in h["caches"].items())], ["memory", f"{h['memory_gib']} GiB"],
            ["instructions", ", ".join(h["isa"]) or "baseline"]]
    machines = [line["machine"] for name in ("kernels", "steps", "llamacpp") for line in read(data / f"{name}.jsonl") if line.get("machine")]
    if machines:
        spread = lambda key: f"{number(middle(m[key] for m in machines))} ({number(min(m[key] for m in machines))} to " \
                             f"{number(max(m[key] for m in machines))})"
        rows += [["reads", f"{spread('read_gb_s')} GB/s"], ["int8 dot products", f"{spread('int8_gop_s')} GOP/s"],
                 ["float32 multiply-adds", f"{spread('fp32_gflop_s')} GFLOP/s"], ["kernels for", machines[0]["target"]]]
        note = f"\n\nThe limits are medians (and ranges) of {len(machines)} measurements with {machines[0]['threads']} threads, one by every process below."
    else:
        note = ""
    return f"## {h['cpu']}, family {h['family'].split('/')[0]}\n\n" + table(["", ""], rows) + note


def llamacpp_section(data, bars):
    lines = read(data / "llamacpp.jsonl")
    results = compare_llamacpp.summarise(lines)
    if not results:
        return None
    rows = []
    for r in results:
        probe = lambda flash: number(r["probes"][flash]) if flash in r["probes"] else "-"
        bar = compare_llamacpp.bar_of(bars, r)
        wanted = "" if bar is None else f"{bar.get('ratio', 0)}x" + (f", {bar['limit_percent']}%" if "limit_percent" in bar else "")
        word = compare_llamacpp.verdict(bar, r).split(":")[0]
        rows.append([r["model"], r["test"], r["depth"], f"{number(r['speed'])} ({number(r['min'])} to {number(r['max'])})",
                     f"{number(r['peer_speed'])} ({number(r['peer_min'])} to {number(r['peer_max'])})", f"{probe(0)} / {probe(1)}", r["flash"],
                     f"**{r['ratio']:.2f}**", f"{r['limit_percent']:.0f}%", f"{r['peer_limit_percent']:.0f}%", f"{wanted} {word}".strip()])
    builds = sorted({line["build"] for line in lines if line.get("build") not in (None, "unknown")})
    text = (f"Tokens per second, median (and range) of {results[0]['count']} runs of both in turn, {results[0]['threads']} threads, one run of the "
            "command above. `pp512`: a prompt of 512 tokens; `tg128`: 128 tokens one by one, after `depth` others. llama.cpp"
            f"{' ' + ', '.join(builds) if builds else ''} counts with the better of `-fa 0` and `-fa 1`, chosen by one run of each beforehand (column "
            "`fa 0 / 1`).\n\n")
    head = ["model", "test", "depth", "Heddle", "llama.cpp", "fa 0 / 1", "-fa", "ratio", "of limit", "peer's", "bar"]
    text += table(head, rows)
    for line, word in compare_llamacpp.any_verdicts(bars, results):
        text += f"\n\n{line}: {word}."
    return "### Against llama.cpp\n\n" + text


def step_models(lines):
    """(model, machine, lines after it) of the steps file."""
    groups = []
    for line in lines:
        if "machine" in line:
            groups.append((line["model"].removesuffix(".gguf"), line["machine"], []))
        elif groups:
            groups[-1][2].append(line)
    return groups


def limit_section(data):
    rows = []
    for model, _, lines in step_models(read(data / "steps.jsonl")):
        for line in lines:
            if "test" in line:
                speed = line["tokens_per_s"]
                rows.append([model, line["test"], line["depth"], f"{number(speed['median'])} ({number(speed['min'])} to {number(speed['max'])})",
                             number(line["limit_tokens_per_s"]), f"**{line['limit_percent']:.0f}%**", line["limit"]])
    if not rows:
        return None
    return ("### Against the machine\n\nTokens per second of `heddle bench`, and what the limit would allow.\n\n"
            + table(["model", "test", "depth", "Heddle", "limit", "share", "of"], rows))


def profile_section(data):
    tables = []
    for model, _, lines in step_models(read(data / "steps.jsonl")):
        cells, order, totals = {}, [], {}
        for line in lines:
            if "profile" not in line:
                continue
            column = f"{line['profile']} at {line['depth']}"
            cells[(line["part"], column)] = line
            totals[column] = totals.get(column, 0) + line["seconds"]
            if column not in order:
                order.append(column)
        parts = sorted({part for part, _ in cells}, key=lambda part: -max(cells[(part, c)]["share_percent"] for c in order if (part, c) in cells))
        rows = []
        for part in parts:
            row = [part]
            for column in order:
                cell = cells.get((part, column))
                limit = f", {cell['limit_percent']:.0f}% of limit" if cell and "limit_percent" in cell else ""
                row.append(f"{cell['share_percent']:.1f}%{limit}" if cell else "")
            if any(cells.get((part, c), {"share_percent": 0})["share_percent"] >= 0.05 for c in order):
                rows.append(row)
        rows.append(["all, ms"] + [number(1e3 * totals[column]) for column in order])
        if order:
            tables.append(f"#### {model}\n\n" + table(["part"] + order, rows))
    if not tables:
        return None
    return ("### Where the time goes\n\nShares of each part of the model in `heddle bench --profile`, and what share of the part's own limit that is: a part "
            "whose limit share is high has little left to give, one with a large share of the time and a low share of its limit is where time is "
            "lost.\n\n" + "\n\n".join(tables))


def kernel_section(data):
    lines = [line for line in read(data / "kernels.jsonl") if "kernel" in line]
    if not lines:
        return None
    rows = []
    for line in lines:
        us = line["us"]
        error = f"{line['error_over_budget']:.2f}" if "error_over_budget" in line else ""
        rows.append([line["kernel"], line["shape"], line["tokens"], f"{number(us['median'])} ({number(us['min'])} to {number(us['max'])})",
                     number(line["gb_s"]), number(line["gop_s"]), f"{line['limit_percent']:.0f}% of {line['limit']}", error])
    return ("### Kernels\n\n`heddle bench kernels`. `error`: against the float64 specification, over the budget, which is twice the error of the naive loop "
            "in the same precision (`src/ops/naive.h`). Weights and states are walked so that they come from memory where a model's would; activations "
            "of elementwise kernels may stay in the caches, so their share of the read bandwidth can be above 100%.\n\n"
            + table(["kernel", "shape", "rows", "us", "GB/s", "GOP/s", "share", "error"], rows))


def loading_section(data):
    lines = read(data / "loading.jsonl")
    if not lines:
        return None
    rows = [[line["model"], f"{line['file_bytes'] / 1e6:.1f} MB", f"{line['first_token_s']:.3f} ({line['first_token_min_s']:.3f} to "
             f"{line['first_token_max_s']:.3f}) s", f"{line['cpu_s']:.2f} s", f"{line['peak_bytes'] / 1e6:.1f} MB",
             f"{100 * (line['peak_over_file'] - 1):+.1f}%"] for line in lines]
    return ("### Loading and memory\n\nFrom the start of `heddle generate` to the first token of its answer with a warm page cache, and resident memory at its "
            "highest, while loading or after (`tools/measure_loading.py`); the last column compares it, without the state of the tokens, with the "
            "file. Bars: 0.5 s for SmolLM2-135M, file + 25%.\n\n"
            + table(["model", "file", "first token", "CPU time", "peak resident", "against the file"], rows))


def page(data):
    bars = json.loads(compare_llamacpp.BARS.read_text())
    sections = []
    for machine in sorted(path.parent for path in data.glob("*/hardware.jsonl")):
        sections += [hardware_section(machine), llamacpp_section(machine, bars), limit_section(machine), profile_section(machine),
                     kernel_section(machine), loading_section(machine)]
    return "\n\n".join([HEAD.strip()] + [section.strip() for section in sections if section]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "docs" / "performance")
    parser.add_argument("--page", type=pathlib.Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = page(args.data)
    if not args.check:
        args.page.write_text(text)
        return 0
    if args.page.exists() and args.page.read_text() == text:
        return 0
    print(f"{args.page} is not what its data gives: run tools/write_performance.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
