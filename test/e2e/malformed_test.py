#!/usr/bin/env python3
"""Two hundred kinds of malformed request: each gets a 4xx with an error object (or a closed connection for what is no HTTP at
all), and afterwards the server answers as before and holds no more descriptors than before.

usage: malformed_test.py --heddle BINARY
"""
import argparse
import json
import socket
import sys
import time

from serving import Server, model_path, user

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
OK_CHAT = {"messages": [user("hi")], "max_tokens": 1}
OK_COMPLETION = {"prompt": "hi", "max_tokens": 1}


def http(method, path, body=b"", *headers, version="HTTP/1.1", host="Host: x"):
    head = [f"{method} {path} {version}".encode(), host.encode(), *[h if isinstance(h, bytes) else h.encode() for h in headers]]
    return b"\r\n".join([h for h in head if h]) + b"\r\n\r\n" + body


def post(path, body, *headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http("POST", path, body, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)


def framing():
    ok = json.dumps(OK_CHAT).encode()
    n = f"Content-Length: {len(ok)}"
    yield "binary noise", bytes(range(128, 256)) * 4
    yield "TLS hello", bytes.fromhex("16030100c8010000c40303") + b"\x00" * 200
    yield "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield "SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"
    yield "zero bytes", b"\x00" * 100
    yield "no version", b"GET /health\r\n\r\n"
    yield "only a method", b"GET\r\n\r\n"
    yield "two spaces before the target", b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n"
    yield "tab before the target", b"GET\t/health\tHTTP/1.1\r\nHost: x\r\n\r\n"
    yield "leading space", b" GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    yield "bare line feeds", b"GET /health HTTP/1.1\nHost: x\n\n"
    yield "bare carriage returns", b"GET /health HTTP/1.1\rHost: x\r\n\r\n"
    yield "version 9.9", http("GET", "/health", version="HTTP/9.9")
    yield "version 2.0", http("GET", "/health", version="HTTP/2.0")
    yield "version in lower case", http("GET", "/health", version="http/1.1")
    yield "version with rubbish", http("GET", "/health", version="HTTP/1.1x")
    yield "method with @", http("G@T", "/health")
    yield "method of 40 letters", http("A" * 40, "/health")
    yield "unknown method", http("BREW", "/health")
    yield "method in lower case", http("get", "/health")
    yield "target without slash", http("GET", "health")
    yield "target *", http("GET", "*")
    yield "target with a control character", http("GET", "/he\x01alth")
    yield "target with bytes above ASCII", b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n"
    yield "bad percent escape", http("GET", "/%zz")
    yield "cut percent escape", http("GET", "/a%4")
    yield "escaped zero", http("GET", "/%00")
    yield "escaped line feed", http("GET", "/%0a")
    yield "target of 5000 bytes", http("GET", "/" + "a" * 5000)
    yield "query of 5000 bytes", http("GET", "/health?" + "a" * 5000)
    yield "request line without end", b"GET /" + b"a" * 20000
    yield "no Host", http("GET", "/health", host="")
    yield "two Hosts", http("GET", "/health", b"", "Host: y")
    yield "Host with a space", http("GET", "/health", host="Host: a b")
    yield "Host with a path", http("GET", "/health", host="Host: a/b")
    yield "header without colon", http("GET", "/health", b"", "nonsense")
    yield "space before the colon", http("GET", "/health", b"", "Name : x")
    yield "empty header name", http("GET", "/health", b"", ": x")
    yield "header name with bytes above ASCII", http("GET", "/health", b"", b"N\xff: x")
    yield "folded header", http("GET", "/health", b"", "A: x", " y")
    yield "zero byte in a header", http("GET", "/health", b"", b"A: x\0y")
    yield "line feed in a header", http("GET", "/health", b"", b"A: x\ny")
    yield "delete character in a header", http("GET", "/health", b"", b"A: x\x7f")
    yield "header of 20000 bytes", http("GET", "/health", b"", "A: " + "x" * 20000)
    yield "101 headers", http("GET", "/health", b"", *[f"A{i}: x" for i in range(101)])
    yield "5000 headers", http("GET", "/health", b"", *["a:b"] * 5000)
    yield "headers without end", b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 4000
    yield "length as text", http("POST", CHAT, ok, "Content-Length: many")
    yield "length with a plus", http("POST", CHAT, ok, f"Content-Length: +{len(ok)}")
    yield "negative length", http("POST", CHAT, ok, "Content-Length: -1")
    yield "length with a point", http("POST", CHAT, ok, f"Content-Length: {len(ok)}.0")
    yield "length in hexadecimal", http("POST", CHAT, ok, "Content-Length: 0x10")
    yield "empty length", http("POST", CHAT, ok, "Content-Length:")
    yield "length as a list", http("POST", CHAT, ok, f"Content-Length: {len(ok)}, {len(ok)}")
    yield "two lengths", http("POST", CHAT, ok, n, n)
    yield "two different lengths", http("POST", CHAT, ok, n, "Content-Length: 3")
    yield "length of 20 GB", http("POST", CHAT, b"", "Content-Length: 20000000000")
    yield "length of 30 digits", http("POST", CHAT, b"", "Content-Length: " + "9" * 30)
    yield "length and chunks", http("POST", CHAT, ok, n, "Transfer-Encoding: chunked")
    yield "unknown transfer coding", http("POST", CHAT, ok, "Transfer-Encoding: gzip")
    yield "two transfer codings", http("POST", CHAT, ok, "Transfer-Encoding: gzip, chunked")
    yield "transfer coding twice", http("POST", CHAT, ok, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked")
    yield "empty transfer coding", http("POST", CHAT, ok, "Transfer-Encoding:")
    chunked = "Transfer-Encoding: chunked"
    yield "chunks in HTTP/1.0", http("POST", CHAT, b"0\r\n\r\n", chunked, version="HTTP/1.0")
    yield "chunk size as text", http("POST", CHAT, b"xyz\r\n", chunked)
    yield "negative chunk size", http("POST", CHAT, b"-5\r\nhello\r\n", chunked)
    yield "empty chunk size", http("POST", CHAT, b"\r\nhello\r\n", chunked)
    yield "chunk size of 17 digits", http("POST", CHAT, b"1" * 17 + b"\r\n", chunked)
    yield "chunk of 4 GB", http("POST", CHAT, b"ffffffff\r\n", chunked)
    yield "chunk longer than its size", http("POST", CHAT, b"2\r\nhello\r\n0\r\n\r\n", chunked)
    yield "chunk ended by a line feed", http("POST", CHAT, b"2\nab\n0\n\n", chunked)
    yield "chunk extension of 300 bytes", http("POST", CHAT, b"2;" + b"x" * 300 + b"\r\nab\r\n", chunked)
    yield "a million trailers", http("POST", CHAT, b"0\r\n" + b"T: x\r\n" * 20000, chunked)
    yield "chunks beyond the limit", http("POST", CHAT, b"100000\r\n" + b"x" * 0x100000 + b"\r\nfffffff\r\n", chunked)
    yield "expects a miracle", http("POST", CHAT, ok, n, "Expect: miracle")
    yield "expects twice", http("POST", CHAT, ok, n, "Expect: 100-continue", "Expect: 100-continue")
    yield "two Authorizations", http("GET", "/v1/models", b"", "Authorization: Bearer a", "Authorization: Bearer b")
    yield "two Content-Types", post(CHAT, OK_CHAT, "Content-Type: text/plain")


def endpoints():
    ok = json.dumps(OK_CHAT).encode()
    n = f"Content-Length: {len(ok)}"
    yield "unknown path", http("GET", "/nothing")
    yield "path with .. in it", http("GET", "/../../etc/passwd")
    yield "escaped .. in it", http("GET", "/%2e%2e/%2e%2e/etc/passwd")
    yield "path with a double slash", http("GET", "//health")
    yield "GET where POST is expected", http("GET", CHAT)
    yield "POST where GET is expected", post("/v1/models", {})
    yield "DELETE", http("DELETE", CHAT)
    yield "PUT", http("PUT", COMPLETIONS, ok, n)
    yield "TRACE", http("TRACE", "/health")
    yield "CONNECT", http("CONNECT", "/health")
    yield "OPTIONS", http("OPTIONS", CHAT)
    yield "unknown model", http("GET", "/v1/models/nothing")
    yield "form body", http("POST", CHAT, b"a=b", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 3")
    yield "multipart body", http("POST", CHAT, b"--x", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 3")
    yield "plain text body", http("POST", CHAT, ok, "Content-Type: text/plain", n)
    yield "empty content type", http("POST", CHAT, ok, "Content-Type:", n)
    yield "no body", http("POST", CHAT)


def syntax():
    for name, text in {
            "only a space": " ", "a word": "hello", "an open brace": "{", "a close brace": "}", "a list": "[]", "a number": "1",
            "a string": '"x"', "null": "null", "true": "true", "text behind the object": '{"prompt":"x"} x',
            "two objects": '{"prompt":"x"}{}', "comma at the end": '{"prompt":"x",}', "single quotes": "{'prompt':'x'}",
            "a comment": '{"prompt":"x"/*c*/}', "a key without quotes": '{prompt:"x"}', "a missing colon": '{"prompt" "x"}',
            "a missing value": '{"prompt":}', "NaN": '{"prompt":"x","temperature":NaN}',
            "Infinity": '{"prompt":"x","temperature":Infinity}', "hexadecimal": '{"prompt":"x","seed":0x10}',
            "leading zero": '{"prompt":"x","seed":01}', "a plus": '{"prompt":"x","seed":+1}', "a bare point": '{"prompt":"x","top_p":.5}',
            "exponent without digits": '{"prompt":"x","top_p":1e}', "exponent beyond doubles": '{"prompt":"x","top_p":1e999}',
            "an open string": '{"prompt":"x', "a control character": '{"prompt":"a\nb"}', "an unknown escape": '{"prompt":"\\q"}',
            "a cut escape": '{"prompt":"\\u12"}', "a lone surrogate": '{"prompt":"\\ud800"}',
            "a reversed surrogate pair": '{"prompt":"\\udc00\\ud800"}', "a byte order mark": '\ufeff{"prompt":"x"}',
            "100000 open lists": "[" * 100000, "100000 open objects": '{"a":' * 100000,
            "a prompt nested 1000 deep": '{"prompt":' + "[" * 1000 + "]" * 1000 + "}"}.items():
        yield f"JSON: {name}", post(COMPLETIONS, text.encode())
    for name, raw in {"a byte 0xff": b'{"prompt":"\xff"}', "an overlong slash": b'{"prompt":"\xc0\xaf"}',
                      "a surrogate": b'{"prompt":"\xed\xa0\x80"}', "a cut character": b'{"prompt":"\xe2\x82"}',
                      "beyond Unicode": b'{"prompt":"\xf5\x80\x80\x80"}', "UTF-16": '{"prompt":"x"}'.encode("utf-16")}.items():
        yield f"UTF-8: {name}", post(COMPLETIONS, raw)
    yield "a body above the limit", post(COMPLETIONS, b'{"prompt":"' + b"x" * (17 << 20) + b'"}')


WRONG_TYPES = {"temperature": ["hot", [], {}, True], "top_p": ["x", [1], {}], "top_k": ["x", 1.5, []], "min_p": ["x", {}],
               "max_tokens": ["x", 1.5, [], {}, False], "max_completion_tokens": ["9", []], "seed": ["x", 0.5, []],
               "stop": [1, {}, [1], [None], True], "stream": ["yes", 1, []], "logit_bias": [[], "x", {"a": 1}, {"1": "x"}],
               "n": ["x", 1.5], "presence_penalty": ["x", []], "frequency_penalty": ["x", {}], "repetition_penalty": ["x"],
               "stream_options": ["x", [], {"include_usage": 1}], "ignore_eos": ["x", 1], "model": [1, []]}
OUT_OF_RANGE = {"temperature": [-0.1, 101, -1e300], "top_p": [0, -1, 1.01], "top_k": [-2], "min_p": [-0.1, 1.1],
                "max_tokens": [-1, -2 ** 63, 2 ** 64], "n": [0, -1, 1000], "presence_penalty": [-3, 3], "frequency_penalty": [-3, 3],
                "repetition_penalty": [0, -1, 1000], "seed": [2 ** 64], "best_of": [2],
                "stop": ["", [""], ["a"] * 17, "x" * 2000],
                "logit_bias": [{"1": 101}, {"1": -101}, {"-1": 1}, {"99999999": 1}, {"9" * 30: 1}, {str(i): 1 for i in range(5000)}]}


def fields():
    for path, ok in ((CHAT, OK_CHAT), (COMPLETIONS, OK_COMPLETION)):
        kind = "chat" if path == CHAT else "completion"
        for field, values in (WRONG_TYPES if path == CHAT else {}).items():
            for value in values:
                yield f"{kind}: {field} = {json.dumps(value)[:30]}", post(path, {**ok, field: value})
        for field, values in (OUT_OF_RANGE if path == COMPLETIONS else {}).items():
            for value in values:
                yield f"{kind}: {field} = {json.dumps(value)[:30]}", post(path, {**ok, field: value})
    messages = [None, "x", {}, [], [1], [[]], [{}], [{"role": "user"}], [{"content": "x"}], [{"role": 1, "content": "x"}],
                [{"role": "", "content": "x"}], [{"role": "user", "content": 1}], [{"role": "user", "content": {}}],
                [{"role": "user", "content": [1]}], [{"role": "user", "content": [{"type": "image_url"}]}],
                [{"role": "user", "content": [{"type": "text"}]}], [{"role": "user", "content": [{"type": "text", "text": 1}]}],
                [user("x")] * 5000, [user("word " * 20000)]]
    for value in messages:
        yield f"messages = {json.dumps(value)[:40]}", post(CHAT, {"messages": value})
    for field, value in [("tools", {}), ("tools", [1]), ("response_format", {"type": "json_object"}), ("response_format", "x"),
                         ("chat_template_kwargs", []), ("add_generation_prompt", "x"), ("logprobs", 1), ("top_logprobs", 3),
                         ("max_tokens", 0)]:
        yield f"chat: {field} = {json.dumps(value)}", post(CHAT, {**OK_CHAT, field: value})
    for value in (-1, 21, "x"):
        yield f"chat: top_logprobs = {value}", post(CHAT, {**OK_CHAT, "logprobs": True, "top_logprobs": value})
    for value in (None, 1, {}, [], [[]], [1, "a"], ["a", 1], [[1], "a", {}], [-1], [2 ** 31], [10 ** 8], [1.5], "", ["x"] * 300, [1] * 9000):
        yield f"completion: prompt = {json.dumps(value)[:40]}", post(COMPLETIONS, {**OK_COMPLETION, "prompt": value})
    for field, value in [("logprobs", 21), ("logprobs", -2), ("logprobs", "x"), ("suffix", "x"), ("echo", "x"), ("max_tokens", 0)]:
        yield f"completion: {field} = {value}", post(COMPLETIONS, {**OK_COMPLETION, field: value})
    yield "completion: too many choices", post(COMPLETIONS, {"prompt": ["x"] * 100, "n": 10})


def tokens():
    for body in ({}, {"prompt": 1}, {"prompt": None}, {"messages": "x"}, {"messages": []}, {"prompt": "x", "messages": [user("x")]},
                 {"prompt": "x", "add_special_tokens": "x"}, {"prompt": "x", "return_token_strs": 1}):
        yield f"tokenize: {json.dumps(body)[:50]}", post("/tokenize", body)
    for body in ({}, {"tokens": "x"}, {"tokens": [1.5]}, {"tokens": ["x"]}, {"tokens": [-1]}, {"tokens": [2 ** 31]}, {"tokens": [10 ** 8]},
                 {"tokens": None}):
        yield f"detokenize: {json.dumps(body)[:50]}", post("/detokenize", body)


NO_HTTP = {"binary noise", "TLS hello", "zero bytes"}  # closing without a word is right as well


def send(port, raw):
    """All that the server answers until it closes, or until a whole answer is there."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    answer = b""
    try:
        connection.sendall(raw)
    except OSError:
        pass  # refused before all of it was sent
    try:
        while True:
            head, found, body = answer.partition(b"\r\n\r\n")
            if found:
                length = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                if length and len(body) >= length[0]:
                    break
            piece = connection.recv(65536)
            if not piece:
                break
            answer += piece
    except OSError:
        pass
    connection.close()
    return answer


def check(name, answer):
    if name in NO_HTTP and not answer:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1:2]
    if not head.startswith(b"HTTP/1.1 4") or not status:
        return f"{name}: {answer[:200]!r}"
    if name.startswith("HEAD"):
        return None
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError):
        return f"{name}: no error object: {body[:200]!r}"
    if not error["message"] or not error["type"] or set(error) != {"message", "type", "param", "code"}:
        return f"{name}: {error}"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    model = model_path()
    if model is None:
        print("SKIPPED: the real model is not in HEDDLE_MODELS_DIR")
        return
    cases = [case for group in (framing, endpoints, syntax, fields, tokens) for case in group()]
    assert len({raw for _, raw in cases}) == len(cases), "two kinds send the same"
    assert len(cases) >= 200, len(cases)
    server = Server(args.heddle, model, "--max-sequences", "4")
    ask = lambda: server.chat([user("What is the capital of France?")], temperature=0, max_tokens=16)["choices"][0]["message"]["content"]
    before, descriptors = ask(), server.descriptors()
    failures = []
    for name, raw in cases:
        begin = time.monotonic()
        failure = check(name, send(server.port, raw))
        if time.monotonic() - begin > 5:
            print(f"slow: {name} took {time.monotonic() - begin:.1f} s", flush=True)
        if failure is None and server.process.poll() is not None:
            failure = f"{name}: the server ended"
        if failure:
            failures.append(failure)
        if server.process.poll() is not None:
            break
    if failures:
        sys.exit("\n".join(failures[:40]) + f"\n{len(failures)} of {len(cases)} kinds failed")
    assert ask() == before
    for _ in range(50):
        if server.descriptors() <= descriptors:
            break
        time.sleep(0.1)
    assert server.descriptors() <= descriptors, (server.descriptors(), descriptors)
    server.stop()
    print(f"ok {len(cases)} kinds of malformed request, {descriptors} descriptors before and after")


if __name__ == "__main__":
    main()
