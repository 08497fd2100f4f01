#!/usr/bin/env python3
"""A second turn costs the prefill of its new tokens, on both real models: `usage` says how many were read, and the server's
processor time what it took, beside the same prompt read from the beginning. The client's clock is printed, not judged: what else
runs on the machine is in it.

usage: second_turn_test.py --heddle BINARY
"""
import argparse
import http.client
import json
import os
import pathlib
import time

from serving import Server

PARAGRAPH = ("The warp is strung on the loom under tension, thread beside thread, and every thread passes through the eye of a "
             "heddle. When the weaver lifts one shaft, half of the threads rise, and the shuttle carries the weft beneath them. ")
TURNS = 3  # conversations


def ask(server, path, body, key):
    """(usage, timings, text, seconds to the first piece, processor seconds) of a streamed answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    body = {**body, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    start, computed = time.perf_counter(), server.cpu_seconds()
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    first, text, last = None, "", None
    while line := response.readline():
        if not line.startswith(b"data: {"):
            continue
        first = first or time.perf_counter() - start
        last = json.loads(line[6:])
        for choice in last["choices"]:
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
    connection.close()
    return last["usage"], last["timings"], text, first, server.cpu_seconds() - computed


def chat_turns(index):
    messages = [{"role": "system", "content": f"Text {index}. " + PARAGRAPH * 12}, {"role": "user", "content": "What does a heddle do?"}]
    yield "/v1/chat/completions", {"messages": list(messages), "max_tokens": 8}
    answer = yield
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And the shuttle?"}]
    yield "/v1/chat/completions", {"messages": messages, "max_tokens": 8}


def completion_turns(index):
    prompt = f"Text {index}. " + PARAGRAPH * 12 + "In short, a heddle"
    yield "/v1/completions", {"prompt": prompt, "max_tokens": 8}
    answer = yield
    yield "/v1/completions", {"prompt": prompt + answer + "\nAnd the shuttle", "max_tokens": 8}


def check(heddle, model, turns):
    keys = ["a"] + [f"cold-{index}" for index in range(TURNS)]
    server = Server(heddle, model, *[flag for key in keys for flag in ("--api-key", key)])
    rows = []
    for index in range(TURNS):
        steps = turns(index)
        first_usage, _, answer, _, _ = ask(server, *next(steps), "a")
        next(steps)
        path, body = steps.send(answer)
        usage, timings, text, seconds, computed = ask(server, path, body, "a")
        # Another key shares nothing: the same prompt from its beginning.
        cold_usage, cold_timings, cold_text, cold_seconds, cold_computed = ask(server, path, body, f"cold-{index}")
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        new = usage["prompt_tokens"] - cached
        assert cached >= first_usage["prompt_tokens"] - 1, (usage, first_usage)
        assert timings["prompt_n"] == new and cold_usage["prompt_tokens_details"]["cached_tokens"] == 0
        assert cold_timings["prompt_n"] == cold_usage["prompt_tokens"] == usage["prompt_tokens"]
        assert text == cold_text, "warm and cold differ"
        rows.append((seconds, cold_seconds, computed, cold_computed))
    server.stop()
    seconds, cold_seconds, computed, cold_computed = (min(column) for column in zip(*rows))
    print(f"ok {model.name}: the second turn read {new} of {usage['prompt_tokens']} tokens; first token after {seconds * 1e3:.1f} ms, "
          f"{cold_seconds * 1e3:.1f} ms when all are read; processor time of the answer {computed:.3f} s and {cold_computed:.3f} s", flush=True)
    # Both answers decode the same few tokens.
    assert computed < cold_computed / 2, (computed, cold_computed)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    folder = os.environ.get("HEDDLE_MODELS_DIR", "")
    for name, turns in (("SmolLM2-135M-Instruct.Q4_1.gguf", chat_turns), ("gemma-3-270m-q4-k-m.gguf", completion_turns)):
        model = pathlib.Path(folder) / name
        if not folder or not model.exists():
            print(f"SKIPPED: {name} is not in HEDDLE_MODELS_DIR")
            continue
        check(args.heddle, model, turns)


if __name__ == "__main__":
    main()
