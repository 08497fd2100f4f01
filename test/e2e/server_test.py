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
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

from serving import OTHER_MODEL, Server, model_path, user

ROOT = pathlib.Path(__file__).resolve().parents[2]


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
    # A token that ends the answer has no text, but its score is there: clients count on one for each token.
    ended = server.post("/v1/completions", prompt="Question: In which season does snow usually fall?\nAnswer: spring", temperature=0,
                        logprobs=1)
    choice = ended["choices"][0]
    assert choice["finish_reason"] == "stop" and choice["logprobs"]["tokens"][-1] == "<|im_end|>", choice
    assert len(choice["logprobs"]["token_logprobs"]) == ended["usage"]["completion_tokens"]
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
    import openai
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
    name = client.models.list().data[0].id
    assert client.models.retrieve(name).id == name
    answer = client.chat.completions.create(model=name, messages=[user("What is the capital of France?")], temperature=0, max_tokens=20)
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    stream = client.chat.completions.create(model=name, messages=[user("Hello")], stream=True, max_tokens=8)
    assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices)
    several = client.completions.create(model=name, prompt=["One", "Two"], n=2, max_tokens=3, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    try:
        client.chat.completions.create(model=name, messages=[user("x")], top_p=7)
        raise AssertionError("top_p 7 was accepted")
    except openai.BadRequestError as error:
        assert "top_p" in str(error) and error.param == "top_p" and error.type == "invalid_request_error"
    try:
        client.models.retrieve("nothing")
        raise AssertionError("an unknown model was found")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"


def test_curl(server):
    url = f"http://127.0.0.1:{server.port}"
    curl = lambda *args: subprocess.run(["curl", "-sS", "--max-time", "60", *args], capture_output=True, text=True, check=True).stdout
    assert json.loads(curl(f"{url}/health")) == {"status": "ok"}
    body = json.dumps({"messages": [user("Say hello.")], "max_tokens": 8, "stream": True})
    streamed = curl("-N", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body)
    assert streamed.rstrip().endswith("data: [DONE]"), streamed[-200:]
    # Large enough that curl waits for "100 Continue"; sent in chunks; by the older protocol; the head alone.
    large = json.dumps({"prompt": "x " * 600000, "add_special_tokens": False})
    for extra in ([], ["-H", "Transfer-Encoding: chunked"], ["--http1.0"]):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(large)
            file.flush()
            counted = curl(f"{url}/tokenize", "-H", "Content-Type: application/json", "-d", f"@{file.name}", *extra)
        assert json.loads(counted)["count"] > 500000, counted[:200]
    assert "Content-Length:" in curl("-I", f"{url}/health")
    assert json.loads(curl(f"{url}/v1/chat/completions", "-d", body))["error"]["code"] == "unsupported_media_type"


def test_several_choices(server):
    body = {"prompt": ["The sea is", "The sky is"], "n": 2, "max_tokens": 6, "seed": 5, "temperature": 0.9}
    whole = server.post("/v1/completions", **body)
    texts = [choice["text"] for choice in whole["choices"]]
    assert len(texts) == 4 and texts[0] != texts[1]
    one = server.post("/v1/completions", prompt="The sea is", max_tokens=6, seed=5, temperature=0.9)
    assert one["choices"][0]["text"] == texts[0]  # the first of several is the one that comes alone
    status, text = server.request("POST", "/v1/completions", {**body, "stream": True, "echo": True})
    assert status == 200
    streamed = ["", "", "", ""]
    for line in text.split("\n"):
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                streamed[choice["index"]] += choice["text"]
    assert streamed == [("The sea is" if i < 2 else "The sky is") + texts[i] for i in range(4)], streamed
    assert whole["usage"]["completion_tokens"] <= 24 and whole["usage"]["prompt_tokens"] < 12


def test_sampling_fields(server):
    ask = lambda **fields: server.post("/v1/completions", prompt="Once upon a time", max_tokens=12, **fields)["choices"][0]
    greedy = ask(temperature=0)["text"]
    assert ask(top_k=1, seed=3)["text"] == ask(top_p=1e-9, seed=3)["text"] == ask(min_p=1.0, seed=3)["text"] == greedy
    assert ask(seed=4)["text"] == ask(seed=4)["text"]
    assert len({ask(seed=n, temperature=1.5)["text"] for n in range(4)}) > 1
    token = server.post("/tokenize", prompt=" there", add_special_tokens=False)["tokens"][0]
    bias = {str(token): 15}
    assert ask(temperature=0, logit_bias=bias)["text"] == " there" * 12
    assert ask(temperature=0, logit_bias=bias, frequency_penalty=2)["text"] != " there" * 12
    assert ask(temperature=0, repetition_penalty=100)["text"] != greedy
    stop = greedy[len(greedy) // 2:][:4]
    stopped = ask(temperature=0, stop=stop)
    assert stopped["finish_reason"] == "stop" and stopped["text"] == greedy[:greedy.index(stop)], (greedy, stopped)
    scored = ask(temperature=0, logprobs=3)["logprobs"]
    assert len(scored["tokens"]) == 12 and all(len(top) >= 1 for top in scored["top_logprobs"])
    assert scored["text_offset"][0] == 0 and scored["text_offset"] == sorted(scored["text_offset"])


def test_tokenize(server):
    text = "Grüße, 世界! 🦙 <|im_end|>"
    tokens = server.post("/tokenize", prompt=text, return_token_strs=True)
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"]) and tokens["max_model_len"] == 8192
    assert server.post("/detokenize", tokens=tokens["tokens"])["prompt"] == text
    conversation = [user("Hi")]
    rendered = server.post("/tokenize", messages=conversation)
    assert rendered["count"] == server.chat(conversation, max_tokens=1)["usage"]["prompt_tokens"]
    assert server.post("/tokenize", messages=conversation, add_generation_prompt=False)["count"] < rendered["count"]


def test_metrics(server):
    before = server.metrics()
    answer = server.chat([user("Tell me about the metrics of looms.")], max_tokens=9, temperature=0, ignore_eos=True)
    after = server.metrics()
    delta = lambda name: after[name] - before[name]
    usage = answer["usage"]
    assert delta("heddle:generation_tokens_total") == 9
    assert delta("heddle:prompt_tokens_total") == usage["prompt_tokens"]
    assert delta("heddle:prompt_tokens_cached_total") == usage["prompt_tokens_details"]["cached_tokens"]
    assert delta("heddle:prefix_cache_queries_total") == usage["prompt_tokens"]
    assert delta("heddle:inter_token_latency_seconds_count") == 8
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_prefill_time_seconds", "request_generation_tokens"):
        assert delta(f"heddle:{name}_count") == 1, name
    assert delta("heddle:request_success_total[('finished_reason', 'length')]") == 1
    assert after["heddle:prefix_cache_bytes[('reach', 'unreachable')]"] == 0
    assert after["heddle:prefix_cache_bytes[('reach', 'reachable')]"] == after["heddle:state_bytes[('growth', 'per_token')]"]
    assert after["heddle:num_requests_running"] == after["heddle:num_requests_waiting"] == after["heddle:state_reserved_bytes"] == 0
    # The dashboard asks for nothing that the server does not say.
    text = (ROOT / "docs" / "grafana_dashboard.json").read_text(encoding="utf-8")
    panels = json.loads(text)["panels"]
    asked = set(re.findall(r"\b(?:heddle:|process_)[a-z0-9_]+", " ".join(t["expr"] for p in panels for t in p["targets"])))
    said = {name.split("[")[0] for name in after}
    assert len(asked) > 25 and asked <= said, sorted(asked - said)
    # Nor does the page on metrics, and it names all of them.
    page = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(heddle:[a-z0-9_]+)`", page))
    families = set(re.findall(r"^# TYPE (heddle:\S+)", server.request("GET", "/metrics")[1], re.M))
    assert named == families, (sorted(named - families), sorted(families - named))


def second_turn_by_chat(server, story):
    messages = [user(story + "What does the weaver lift?")]
    first = server.chat(messages, temperature=0, max_tokens=16)
    messages += [{"role": "assistant", "content": first["choices"][0]["message"]["content"]}, user("And what grows?")]
    return first, lambda: server.chat(messages, temperature=0, max_tokens=2)


def second_turn_by_tokens(server, story):
    """The same for a model without a chat template."""
    ids = lambda text, special: server.post("/tokenize", prompt=text, add_special_tokens=special)["tokens"]
    prompt = ids(story, True)
    first = server.post("/v1/completions", prompt=prompt, temperature=0, max_tokens=16)
    prompt = prompt + ids(first["choices"][0]["text"], False) + ids(" And what grows?", False)
    return first, lambda: server.post("/v1/completions", prompt=prompt, temperature=0, max_tokens=2)


def check_second_turn(server, turns):
    """Time to first token of a second turn is the prefill of its new tokens: by usage and by the metrics."""
    first, ask_second = turns(server, "The weaver lifts the threads one after the other, and the cloth grows under her hands. " * 24)
    before = server.metrics()
    second = ask_second()
    after = server.metrics()
    delta = lambda name: after[name] - before[name]
    usage = second["usage"]
    new = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    assert new <= usage["prompt_tokens"] - first["usage"]["prompt_tokens"] + 1, (usage, first["usage"])
    assert delta("heddle:prompt_tokens_computed_total") == delta("heddle:request_prefill_kv_computed_tokens_sum") == new, usage
    first_token = delta("heddle:time_to_first_token_seconds_sum")
    prefill = delta("heddle:request_prefill_time_seconds_sum")
    queue = delta("heddle:request_queue_time_seconds_sum")
    assert abs(first_token - prefill - queue) < 1e-3, (first_token, prefill, queue)
    assert abs(second["timings"]["prompt_ms"] / 1e3 - prefill) < 1e-3
    cold = first["timings"]["prompt_ms"] / 1e3  # printed, not judged: what else the machine does is in it
    print(f"   second turn: {usage['prompt_tokens']} prompt tokens, {new} read, first token after {first_token * 1e3:.0f} ms "
          f"(prefill {prefill * 1e3:.0f} ms); cold: {first['usage']['prompt_tokens']} tokens in {cold * 1e3:.0f} ms", flush=True)


def test_second_turn_costs_its_new_tokens(server):
    check_second_turn(server, second_turn_by_chat)


def second_turn_of_a_hybrid(heddle, _):
    model = model_path(OTHER_MODEL)
    if model is None:
        print(f"SKIPPED second turn: {OTHER_MODEL} is not in HEDDLE_MODELS_DIR")
        return
    server = Server(heddle, model)
    check_second_turn(server, second_turn_by_tokens)
    server.stop()


def warm_equals_cold(heddle, model):
    """What a server with everything cached answers is what one answers that keeps nothing: text, tokens and their scores."""
    warm, cold = Server(heddle, model), Server(heddle, model, "--no-prefix-cache")
    messages = [user("Name three colours and say nothing else.")]
    fields = {"temperature": 0.7, "seed": 11, "max_tokens": 24, "logprobs": True, "top_logprobs": 5}
    for text in ("Now name two animals.", "And a town."):
        first = warm.chat(messages, **fields)
        answers = [server.chat(messages, **fields) for server in (warm, warm, cold)]
        cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
        assert cached[0] == cached[1] == answers[0]["usage"]["prompt_tokens"] - 1 and cached[2] == 0, cached
        for answer in answers:
            assert answer["choices"] == first["choices"], (answer, first)
        messages += [{"role": "assistant", "content": first["choices"][0]["message"]["content"]}, user(text)]
    for server in (warm, cold):
        server.stop()


def disconnect_frees_the_place(heddle, model):
    """A server with one place: whoever comes next is served because the one before has left, not because it has ended."""
    server = Server(heddle, model, "--max-sequences", "1")
    body = json.dumps({"messages": [user("Write a very long story.")], "stream": True, "max_tokens": 7000, "ignore_eos": True})
    raw = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    raw.sendall((head + body).encode())
    received = b""
    while b"data: {" not in received:
        part = raw.recv(4096)
        assert part, received
        received += part
    assert server.metrics()["heddle:num_requests_running"] == 1
    raw.close()
    server.chat([user("Hi")], max_tokens=1)
    after = server.metrics()
    finished = {reason: after[f"heddle:request_success_total[('finished_reason', '{reason}')]"] for reason in ("length", "abort")}
    assert finished == {"length": 1, "abort": 1}, finished
    assert after["heddle:generation_tokens_total"] < 7000, after["heddle:generation_tokens_total"]
    server.stop()


def api_key(heddle, model):
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("# keys\nfrom-a-file\n\n")
        file.flush()
        server = Server(heddle, model, "--api-key", "secret", "--api-key-file", file.name, "--log-format", "json")
    bearer = lambda key: {"Authorization": f"Bearer {key}"}
    paths = [("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/page/nothing"), ("GET", "/nothing"), ("POST", "/tokenize"), ("POST", "/detokenize"),
             ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("OPTIONS", "/v1/chat/completions")]
    for method, path in paths:
        for headers in ({}, bearer("wrong"), bearer(""), bearer("secret2"), {"Authorization": "Basic secret"}, {"Authorization": "secret"}):
            status, text = server.request(method, path, headers=headers)
            assert status == 401 and json.loads(text)["error"]["code"] == "invalid_api_key", (method, path, headers, status)
    assert server.request("GET", "/v1/models", headers=bearer("secret"))[0] == 200
    for path in ("/health", "/", "/page/app.js"):
        assert server.request("GET", path)[0] == 200, path
    # What one key has cached shows in no other's usage.
    body = {"messages": [user("A secret between us. " * 40)], "max_tokens": 1}
    cached = lambda key: server.post("/v1/chat/completions", bearer(key), **body)["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached("secret") == 0 and cached("secret") > 100
    assert cached("from-a-file") == 0 and cached("from-a-file") > 100
    records = [json.loads(line) for line in server.stop().strip().split("\n")]
    answers = [r for r in records if r["event"] == "request" and r.get("outcome")]
    assert [r["outcome"] for r in answers] == ["length"] * 4, answers
    assert any(r.get("status") == 401 for r in records) and "secret2" not in str(records)


def wait_until_draining(server):
    for _ in range(1000):
        status, text = server.request("GET", "/health")
        if status == 503:
            assert json.loads(text) == {"status": "draining"}, text
            return
        time.sleep(0.01)
    raise AssertionError("SIGTERM was not heard")


def shutdown(heddle, model):
    server = Server(heddle, model)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    body = {"messages": [user("Count.")], "stream": True, "max_tokens": 600, "ignore_eos": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    server.process.send_signal(signal.SIGTERM)
    wait_until_draining(server)
    status, text = server.request("POST", "/v1/chat/completions", {"messages": [user("x")]})
    assert status == 503 and json.loads(text)["error"]["code"] == "shutting_down", (status, text)
    rest = response.read().decode()
    assert '"finish_reason":"length"' in rest and "[DONE]" in rest, rest[-300:]
    server.process.wait(300)
    assert server.process.returncode == 0
    # A second signal ends it while the answer still runs.
    server = Server(heddle, model)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", "/v1/chat/completions", json.dumps({**body, "max_tokens": 7000}), {"Content-Type": "application/json"})
    connection.getresponse().readline()
    server.process.send_signal(signal.SIGTERM)
    wait_until_draining(server)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(300) == 128 + signal.SIGINT  # 0 is the end of an answer that was waited for


def options(heddle, model):
    run = lambda *args, env=None: subprocess.run([heddle, "serve", *args], capture_output=True, text=True, timeout=60,
                                                 env={**os.environ, **(env or {})})
    with tempfile.TemporaryDirectory() as folder:
        toml = pathlib.Path(folder) / "serve.toml"
        toml.write_text("port = 1111\nmax_tokens = 22\nlog_format = \"json\"\n", encoding="utf-8")
        printed = run("--config", str(toml), "--port", "3333", "--print-config", env={"HEDDLE_PORT": "2222", "HEDDLE_MAX_TOKENS": "44"}).stdout
        assert re.search(r"^port = 3333 +# flag$", printed, re.M) and re.search(r"^max_tokens = 44 +# environment$", printed, re.M), printed
        assert re.search(r'^log_format = "json" +# .*serve.toml$', printed, re.M) and "# default" in printed
        toml.write_text("prot = 1\n", encoding="utf-8")
        refused = run("--config", str(toml), "--print-config")
        assert refused.returncode == 1 and "did you mean 'port'" in refused.stderr, refused.stderr
    refused = run("--model", str(model), "--prot", "1")
    assert refused.returncode == 1 and "did you mean --port" in refused.stderr, refused.stderr
    refused = run("--model", str(model), "--state-gib", "90000")
    assert refused.returncode == 1 and re.search(r"weights \d+ MiB.*state 92160000 MiB.*available.*would fit", refused.stderr), refused.stderr
    helped = run("--help").stdout
    for flag in re.findall(r"^\| `(--[a-z-]+)` \|", (ROOT / "docs" / "server.md").read_text(encoding="utf-8"), re.M):
        assert flag in helped, flag


def tool(script, *flags):
    run = subprocess.run([sys.executable, str(ROOT / "tools" / script), *flags], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, f"{script}: {run.stderr[-2000:]}{run.stdout[-2000:]}"
    print(f"   {run.stdout.strip()}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    model = model_path()
    if model is None:
        print("SKIPPED: the real model is not in HEDDLE_MODELS_DIR")
        return
    server = Server(args.heddle, model)
    for name, test in sorted(globals().items()):
        if name.startswith("test_"):
            test(server)
            print(f"ok {name}", flush=True)
    output = server.stop()
    assert "state of a sequence at 8192 tokens" in output and "ready on http://" in output and output.rstrip().endswith("stopped"), output
    for check in (warm_equals_cold, disconnect_frees_the_place, api_key, shutdown, options, second_turn_of_a_hybrid):
        check(args.heddle, model)
        print(f"ok {check.__name__}", flush=True)
    tool("load_test.py", "--heddle", args.heddle, "--model", str(model), "--seconds", "6")
    print("ok load", flush=True)


if __name__ == "__main__":
    main()
