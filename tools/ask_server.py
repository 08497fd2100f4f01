#!/usr/bin/env python3
"""Asks an OpenAI-compatible server the questions of one conversation, streams the answers, and shows the speed.

usage: tools/ask_server.py --url http://HOST:PORT [--max-tokens N] QUESTION...
       tools/ask_server.py --url http://HOST:PORT --wait-for-pid PID      only waits until the server is ready

Fails if an answer is empty or cut off by an error, if the usage is missing, or if a later turn read tokens again that
the turn before had read already.
"""

import argparse
import http.client
import json
import sys
import time
import urllib.parse


class AskError(Exception):
    """An expected failure; its message is all that the user needs."""


def connect(url, timeout):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise AskError(f"--url is '{url}', expected http://HOST:PORT")
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_ready(url, pid, seconds):
    """Waits for /health to answer 200 while the process lives."""
    end = time.monotonic() + seconds
    reason = "no answer yet"
    while time.monotonic() < end:
        if not is_alive(pid):
            raise AskError("the server has ended")
        try:
            connection = connect(url, 5)
            connection.request("GET", "/health")
            status = connection.getresponse().status
            connection.close()
            if status == 200:
                return
            reason = f"/health answers {status}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(error)
        time.sleep(0.1)
    raise AskError(f"{url} is not ready after {seconds} s: {reason}")


def events(response):
    """The JSON objects of a server-sent event stream, until [DONE]."""
    for line in response:
        line = line.decode("utf-8").rstrip("\r\n")
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        yield json.loads(data)
    raise AskError("the stream ended without [DONE]")


def ask(url, messages, max_tokens):
    """One turn: prints the answer as it comes; returns it with usage, timings and seconds to the first word."""
    body = {"messages": messages, "stream": True, "stream_options": {"include_usage": True},
            "max_tokens": max_tokens, "temperature": 0}
    connection = connect(url, 300)
    started = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise AskError(f"HTTP {response.status}: {response.read(2000).decode('utf-8', 'replace')}")
    answer, usage, timings, first = "", None, {}, None
    for event in events(response):
        if "error" in event:
            raise AskError(f"the server reports: {event['error']}")
        for choice in event.get("choices", []):
            text = choice.get("delta", {}).get("content") or ""
            if text and first is None:
                first = time.monotonic() - started
            answer += text
            print(text, end="", flush=True)
        usage = event.get("usage") or usage
        timings = event.get("timings") or timings
    connection.close()
    print()
    if not answer.strip():
        raise AskError("the answer is empty")
    if not usage:
        raise AskError("the last event carries no usage, although stream_options asked for it")
    return answer, usage, timings, first


def cached_tokens(usage):
    return (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def show(usage, timings, first):
    prompt, cached = usage["prompt_tokens"], cached_tokens(usage)
    read = timings.get("prompt_n", prompt - cached)
    if "prompt_per_second" not in timings or "predicted_per_second" not in timings:
        raise AskError(f"timings are {timings}, expected prompt_per_second and predicted_per_second")
    print(f"  prompt {prompt} tokens: {cached} known already, {read} read at {timings['prompt_per_second']:.1f} tokens/s; "
          f"answer {usage['completion_tokens']} tokens at {timings['predicted_per_second']:.1f} tokens/s; "
          f"first word after {first * 1000:.0f} ms")
    if read != prompt - cached:
        raise AskError(f"{read} tokens were read, but {prompt} - {cached} = {prompt - cached} were new")


def converse(url, questions, max_tokens):
    messages, known = [], 0
    for turn, question in enumerate(questions, 1):
        print(f"\n> {question}", flush=True)
        messages.append({"role": "user", "content": question})
        answer, usage, timings, first = ask(url, messages, max_tokens)
        messages.append({"role": "assistant", "content": answer})
        show(usage, timings, first)
        if turn > 1:
            if cached_tokens(usage) < known:
                raise AskError(f"turn {turn} found {cached_tokens(usage)} tokens in the cache; the turn before had "
                               f"read {known}")
            print(f"  turn {turn} read only its {usage['prompt_tokens'] - cached_tokens(usage)} new tokens")
        known = usage["prompt_tokens"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--wait-for-pid", type=int, help="wait until the server of this process is ready, and ask nothing")
    parser.add_argument("--timeout", type=float, default=120, help="seconds to wait for it (default: 120)")
    parser.add_argument("questions", nargs="*", metavar="QUESTION")
    arguments = parser.parse_args()
    try:
        if arguments.wait_for_pid:
            wait_until_ready(arguments.url, arguments.wait_for_pid, arguments.timeout)
        elif not arguments.questions:
            parser.error("nothing to ask")
        else:
            converse(arguments.url, arguments.questions, arguments.max_tokens)
    except (AskError, OSError, http.client.HTTPException, ValueError, KeyError) as error:
        print(f"ask_server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
