#!/usr/bin/env python3
"""The time to the first token of a second turn is the prefill of its new tokens, on both real models: `usage` says how many
were read, and the client's clock how long it took, beside the same prompt read from the beginning.

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
TURNS = 3  # conversations of which the quickest counts: other programs may run beside it


def ask(server, path, body, key):
    """(usage, timings, text, seconds to the first piece) of a streamed answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    body = {**body, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    start = time.perf_counter()
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
    return last["usage"], last["timings"], text, first


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
    best = None
    for index in range(TURNS):
        steps = turns(index)
        first_usage, _, answer, _ = ask(server, *next(steps), "a")
        next(steps)
        path, body = steps.send(answer)
        usage, timings, text, seconds = ask(server, path, body, "a")
        # Another key shares nothing: the same prompt from its beginning.
        cold_usage, cold_timings, cold_text, cold_seconds = ask(server, path, body, f"cold-{index}")
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        new = usage["prompt_tokens"] - cached
        assert cached >= first_usage["prompt_tokens"] - 1, (usage, first_usage)
        assert timings["prompt_n"] == new and cold_usage["prompt_tokens_details"]["cached_tokens"] == 0
        assert cold_timings["prompt_n"] == cold_usage["prompt_tokens"] == usage["prompt_tokens"]
        assert text == cold_text, "warm and cold differ"
        run = (seconds, cold_seconds, new, usage["prompt_tokens"], timings["prompt_ms"] + timings["queue_ms"])
        best = run if best is None or run[0] / run[1] < best[0] / best[1] else best
    server.stop()
    seconds, cold_seconds, new, prompt, inside = best
    print(f"ok {model.name}: the second turn read {new} of {prompt} tokens; first token after {seconds * 1e3:.1f} ms "
          f"({inside:.1f} ms of them in the engine), {cold_seconds * 1e3:.1f} ms when all {prompt} are read", flush=True)
    # A chunk of a few tokens costs more each than one of hundreds, and HTTP a few milliseconds.
    assert seconds < 4 * cold_seconds * new / prompt + 0.03 and seconds < cold_seconds / 3, best
    assert seconds * 1e3 < inside + 30, "time beside the prefill"


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
