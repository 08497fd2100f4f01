#!/usr/bin/env python3
"""The HTTP port with real clients: curl-like raw requests and the openai package, on the real small model where it is present.

usage: server_test.py --heddle BINARY
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"


class Server:
    """A heddle serve process on a free port."""

    def __init__(self, heddle, model, *flags):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen([heddle, "serve", "--model", str(model), "--port", str(self.port), *flags],
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"the server ended at start:\n{self.process.stdout.read()}")
            try:
                if self.request("GET", "/health")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        sys.exit("the server did not become ready")

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        connection.close()
        return response.status, text

    def chat(self, messages, **fields):
        status, text = self.request("POST", "/v1/chat/completions", {"messages": messages, **fields})
        assert status == 200, (status, text)
        return json.loads(text)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, f"exit {self.process.returncode}\n{output}"


def user(text):
    return {"role": "user", "content": text}


def test_answers(server):
    answer = server.chat([user("What is the capital of France?")], temperature=0, max_tokens=32)
    text = answer["choices"][0]["message"]["content"]
    assert "Paris" in text, text
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_second_turn_reads_new_tokens_only(server):
    messages = [user("Name three colours and say nothing else. Turn one.")]
    first = server.chat(messages, temperature=0, max_tokens=24, seed=1)
    reply = first["choices"][0]["message"]["content"]
    messages += [{"role": "assistant", "content": reply}, user("Now name two animals.")]
    second = server.chat(messages, temperature=0, max_tokens=24)
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= first["usage"]["prompt_tokens"], second["usage"]
    assert second["timings"]["prompt_n"] == second["usage"]["prompt_tokens"] - cached
    # Warm equals cold: the same request without what the cache holds gives the same text.
    cold = server.chat(messages, temperature=0, max_tokens=24)
    assert cold["choices"][0]["message"]["content"] == second["choices"][0]["message"]["content"]


def test_concurrent_equals_alone(server):
    questions = [f"Write one sentence about the number {n}." for n in range(6)]
    ask = lambda q: server.chat([user(q)], temperature=0.8, seed=7, max_tokens=24)["choices"][0]["message"]["content"]
    alone = [ask(q) for q in questions]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        together = list(pool.map(ask, questions))
    assert alone == together, (alone, together)


def test_stream(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    body = {"messages": [user("Count to five.")], "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 20,
            "temperature": 0}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200 and response.getheader("Content-Type").startswith("text/event-stream")
    lines = [line[6:] for line in response.read().decode().split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    whole = server.chat([user("Count to five.")], max_tokens=20, temperature=0)["choices"][0]["message"]["content"]
    assert text == whole, (text, whole)
    assert chunks[-1]["usage"]["completion_tokens"] <= 20 and chunks[-1]["timings"]["prompt_n"] >= 1


def test_disconnect_frees_the_slot(server):
    body = json.dumps({"messages": [user("Write a very long story.")], "stream": True, "max_tokens": 4000, "ignore_eos": True})
    raw = socket.create_connection(("127.0.0.1", server.port))
    raw.sendall((f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode())
    raw.recv(4096)
    raw.close()
    start = time.time()
    server.chat([user("Hi")], max_tokens=1)
    assert time.time() - start < 10


def test_stops_and_logprobs(server):
    stop = server.chat([user("Count from 1 to 9 with commas.")], temperature=0, max_tokens=40, stop=["7", "3"])
    choice = stop["choices"][0]
    assert "3" not in choice["message"]["content"] and choice["finish_reason"] == "stop", choice
    scored = server.chat([user("Hi")], temperature=0, max_tokens=3, logprobs=True, top_logprobs=2)
    content = scored["choices"][0]["logprobs"]["content"]
    assert content and all(len(c["top_logprobs"]) == 2 and c["logprob"] <= 0 for c in content)


def test_completions(server):
    status, text = server.request("POST", "/v1/completions", {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 2})
    assert status == 200 and "Paris" in json.loads(text)["choices"][0]["text"], text
    status, text = server.request("POST", "/v1/completions", {"prompt": ["The capital of France is", "One two three"], "echo": True,
                                                              "logprobs": 1, "max_tokens": 0})
    assert status == 200, text
    for choice in json.loads(text)["choices"]:
        values = choice["logprobs"]["token_logprobs"]
        assert values[0] is None and all(v <= 0 for v in values[1:]), values


def test_refusals(server):
    cases = [("POST", "/v1/chat/completions", b"{", 400), ("POST", "/v1/chat/completions", {"messages": []}, 400),
             ("POST", "/v1/chat/completions", {"messages": [user("x")], "temperature": "hot"}, 400),
             ("POST", "/v1/chat/completions", {"messages": [user("word " * 20000)]}, 400),
             ("POST", "/v1/completions", {"prompt": [10 ** 8]}, 400), ("GET", "/nothing", None, 404),
             ("POST", "/v1/chat/completions", b"\xff\xfe", 400)]
    for method, path, body, expected in cases:
        status, text = server.request(method, path, body)
        assert status == expected, (path, body if body is None else str(body)[:80], status, text[:200])
        assert json.loads(text)["error"]["message"], text
    assert server.request("GET", "/health")[0] == 200


def test_openai_client(server):
    try:
        import openai
    except ImportError:
        print("SKIPPED openai: the package is not installed")
        return
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none")
    name = client.models.list().data[0].id
    answer = client.chat.completions.create(model=name, messages=[user("What is the capital of France?")], temperature=0, max_tokens=20)
    assert "Paris" in answer.choices[0].message.content
    stream = client.chat.completions.create(model=name, messages=[user("Hello")], stream=True, max_tokens=8)
    assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices)
    try:
        client.chat.completions.create(model=name, messages=[user("x")], top_p=7)
        raise AssertionError("top_p 7 was accepted")
    except openai.BadRequestError as error:
        assert "top_p" in str(error)


def test_api_key(heddle, model):
    server = Server(heddle, model, "--api-key", "secret")
    assert server.request("GET", "/v1/models")[0] == 401
    assert server.request("GET", "/v1/models", headers={"Authorization": "Bearer wrong"})[0] == 401
    assert server.request("GET", "/v1/models", headers={"Authorization": "Bearer secret"})[0] == 200
    assert server.request("GET", "/health")[0] == 200
    server.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    model = pathlib.Path(os.environ.get("HEDDLE_MODELS_DIR", "")) / MODEL
    if not os.environ.get("HEDDLE_MODELS_DIR") or not model.exists():
        print(f"SKIPPED: {MODEL} is not in HEDDLE_MODELS_DIR")
        return
    server = Server(args.heddle, model)
    for name, test in sorted(globals().items()):
        if name.startswith("test_") and name != "test_api_key":
            test(server)
            print(f"ok {name}", flush=True)
    server.stop()
    test_api_key(args.heddle, model)
    print("ok test_api_key")


if __name__ == "__main__":
    main()
