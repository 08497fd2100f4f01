#!/usr/bin/env python3
"""Loads `heddle serve` with many streaming clients and says whether it kept its promises.

usage: tools/load_test.py --heddle BINARY --model MODEL [--clients 64] [--seconds 60] [--slow-reader]

Starts a server of its own. Every client sends one streaming chat after the other (prompts that share beginnings, of different
lengths) and checks each answer: status 200, events that parse, a finish reason, usage, [DONE]. Fails on any error; if resident
memory at the end is more than the server has said at its start plus 64 MiB for program and vocabulary, or, from 30 seconds on,
more than 5% + 16 MiB above what it was after a third of the time, when the prefix cache is full; if a descriptor or a request is
left; or if the server does not end with status 0 on SIGTERM. A build with AddressSanitizer must also end without leaks; its memory is
not held to the plan, because the sanitizer's own counts as resident too.

With --slow-reader instead: four readers and a fifth client, which reads too in every odd round and stops reading in every even
one. Fails if the 95th percentile of the four readers' time between tokens is more than 10% higher in the even rounds (median
over pairs of rounds).

Prints one JSON object.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

WORDS = ("river mountain window paper engine garden silver winter morning letter bridge forest market island "
         "music number circle signal harbour thread").split()


class Failure(Exception):
    pass


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


async def exchange(port, method, path, body=None):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = b"" if body is None else json.dumps(body).encode()
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                 f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return reader, writer


async def metrics(port):
    reader, writer = await exchange(port, "GET", "/metrics")
    text = (await reader.read()).decode()
    writer.close()
    values = {}
    for line in text.split("\n"):
        if line and not line.startswith("#") and " " in line:
            name, value = line.rsplit(" ", 1)
            try:
                values[name.split("{")[0]] = float(value)
            except ValueError:
                pass
    return values


async def stream(port, body, times):
    """One streamed chat. Adds (moment, seconds) of every token to times: the first since the request, the rest since the last."""
    started = last = time.monotonic()
    reader, writer = await exchange(port, "POST", "/v1/chat/completions", body)
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise Failure(f"{status!r} {(await reader.read(2000))!r}")
        finish, usage, tokens = None, None, 0
        while True:
            line = await reader.readline()
            if not line:
                raise Failure("the stream ended without [DONE]")
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                break
            event = json.loads(data)
            if "error" in event:
                raise Failure(str(event["error"]))
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                finish = choice["finish_reason"] or finish
                now = time.monotonic()
                times["first" if tokens == 0 else "next"].append((now, now - (started if tokens == 0 else last)))
                last = now
                tokens += 1
        if finish not in ("stop", "length") or not usage or not 1 <= usage["completion_tokens"] <= body["max_tokens"]:
            raise Failure(f"finish reason {finish}, usage {usage}")
        return usage["completion_tokens"]
    finally:
        writer.close()


def chat(rng, max_tokens):
    text = f"You are the keeper of the {rng.choice(WORDS[:4])}. " * 3 + " ".join(rng.choices(WORDS, k=rng.randint(3, 60)))
    return {"messages": [{"role": "user", "content": text}], "stream": True, "stream_options": {"include_usage": True},
            "max_tokens": max_tokens, "temperature": 0.8, "seed": rng.getrandbits(31), "ignore_eos": True}


async def load(port, clients, seconds, planned, sanitized):
    times, totals, errors = {"first": [], "next": []}, {"requests": 0, "tokens": 0}, []
    start = time.monotonic()
    end = start + seconds

    async def client(number):
        rng = random.Random(number)
        while time.monotonic() < end and len(errors) < 20:
            try:
                tokens = await stream(port, chat(rng, rng.randint(4, 32)), times)
                totals["tokens"] += tokens
                totals["requests"] += 1
            except (Failure, OSError, ValueError, KeyError) as error:
                errors.append(f"client {number}: {error!r}"[:300])

    async def watch():
        await asyncio.sleep(seconds / 3)
        return await metrics(port)

    warm, *_ = await asyncio.gather(watch(), *[client(n) for n in range(clients)])
    took = time.monotonic() - start
    await asyncio.sleep(0.5)
    after = await metrics(port)
    report = {"clients": clients, "seconds": round(took, 1), **totals, "errors": len(errors),
              "tokens_per_second": round(totals["tokens"] / took, 1)}
    for name, values in (("time_to_first_token", times["first"]), ("inter_token", times["next"])):
        plain = [value for _, value in values]
        report[name] = {"p50": round(percentile(plain, 0.5), 4), "p95": round(percentile(plain, 0.95), 4)}
    resident = "process_resident_memory_bytes"
    report["resident_mib"] = {"warm": int(warm[resident]) >> 20, "end": int(after[resident]) >> 20}
    report["left"] = {"running": after["heddle:num_requests_running"], "waiting": after["heddle:num_requests_waiting"],
                      "reserved_bytes": after["heddle:state_reserved_bytes"], "connections": after["heddle:http_connections"] - 1}
    report["resident_mib"]["planned"] = planned >> 20
    if not sanitized and after[resident] > planned + (64 << 20):
        errors.append("resident memory is more than planned")
    if not sanitized and seconds >= 30 and after[resident] > warm[resident] * 1.05 + (16 << 20):
        errors.append("resident memory has grown")
    if any(report["left"].values()):
        errors.append("something is left")
    return report, errors, after["process_open_fds"]


async def stuck_client(port, seconds):
    """Asks for much and reads nothing; its socket holds little, so that the server feels it at once."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    body = json.dumps({**chat(random.Random(9), 4000), "logprobs": True, "top_logprobs": 20}).encode()
    sock.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await asyncio.sleep(seconds)
    sock.close()


async def reading_client(port, seconds):
    body = {**chat(random.Random(9), 4000), "logprobs": True, "top_logprobs": 20}
    task = asyncio.ensure_future(stream(port, body, {"first": [], "next": []}))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def slow_reader(port, seconds, pairs=3):
    errors, rounds = [], []

    async def reader(number, times, end):
        rng = random.Random(number)
        while time.monotonic() < end:
            try:
                await stream(port, chat(rng, 64), times)
            except (Failure, OSError) as error:
                errors.append(repr(error)[:300])
                return

    for index in range(2 * pairs):
        times = {"first": [], "next": []}
        begin = time.monotonic()
        end = begin + seconds / (2 * pairs)
        other = (stuck_client if index % 2 else reading_client)(port, end - begin)
        await asyncio.gather(other, *[reader(number, times, end) for number in range(4)])
        # The first third lets the socket of the stuck client fill up; the end has fewer than four readers.
        rounds.append(percentile([s for at, s in times["next"] if begin + (end - begin) / 3 < at < end], 0.95))
    ratios = [rounds[i + 1] / rounds[i] for i in range(0, 2 * pairs, 2)]
    report = {"p95_all_read": [round(r, 4) for r in rounds[0::2]], "p95_one_stuck": [round(r, 4) for r in rounds[1::2]],
              "ratio": round(statistics.median(ratios), 3), "errors": len(errors)}
    if report["ratio"] > 1.10:
        errors.append("a slow reader slows the others")
    await asyncio.sleep(0.5)
    return report, errors, (await metrics(port))["process_open_fds"]


async def drive(args, port, process, log):
    for _ in range(1200):
        if process.poll() is not None:
            raise Failure("the server ended at start")
        try:
            before = (await metrics(port))["process_open_fds"]
            break
        except OSError:
            await asyncio.sleep(0.1)
    else:
        raise Failure("the server did not become ready")
    plan = re.search(r"weights (\d+) MiB, working memory (\d+) MiB, state (\d+) MiB", pathlib.Path(log).read_text(encoding="utf-8"))
    planned = sum(int(part) for part in plan.groups()) << 20
    sanitized = b"__asan_init" in pathlib.Path(args.heddle).read_bytes()
    run = slow_reader(port, args.seconds) if args.slow_reader else load(port, args.clients, args.seconds, planned, sanitized)
    report, errors, after = await run
    report["descriptors"] = {"before": int(before), "after": int(after)}
    if after > before:
        errors.append("descriptors are left")
    return report, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heddle", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--slow-reader", action="store_true")
    args = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen([args.heddle, "serve", "--model", args.model, "--port", str(port), "--state-gib", "0.3"], stdout=log,
                                   env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"})
        try:
            report, errors = asyncio.run(drive(args, port, process, log.name))
            process.send_signal(signal.SIGTERM)
            report["exit_status"] = process.wait(60)
            if report["exit_status"] != 0:
                errors.append(f"the server ended with status {report['exit_status']}")
        except Failure as failure:
            report, errors = {}, [str(failure)]
        finally:
            if process.poll() is None:
                process.kill()
    for error in errors[:20]:
        print(error, file=sys.stderr)
    print(json.dumps(report))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
