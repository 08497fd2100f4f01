#!/usr/bin/env python3
"""Memory exhausted at load, at admission, in a step and for a connection: an error that names what was wanted, 503 for the
requests concerned, and the server goes on. Never an abort.

usage: memory_test.py --heddle BINARY

The limit is RLIMIT_AS: of a command from its start, of a running server set and lifted from outside.
"""
import argparse
import concurrent.futures
import http.client
import json
import pathlib
import re
import resource
import subprocess
import tempfile

from serving import Server, model_path, user

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
TINY = ROOT / "test/golden/data/llama"


def limited(command, limit):
    return subprocess.run(command, capture_output=True, text=True, timeout=300,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))


def least_limit(command):
    """What the program needs to run at all, in MiB."""
    low, high = 1, 4096
    while low < high:
        middle = (low + high) // 2
        if limited(command, middle * MIB).returncode == 0:
            high = middle
        else:
            low = middle + 1
    return low


def test_load(heddle, model, folder):
    """From the least memory in which the program starts to what the command needs."""
    ids = pathlib.Path(folder) / "ids.json"
    ids.write_text(json.dumps(list(range(1, 200))))
    command = [heddle, "logits", "--model", str(model), "--threads", "2", "--ids", str(ids), "--out", str(ids) + ".safetensors"]
    start = least_limit([heddle, "--version"])
    enough = least_limit(command)
    limits = sorted({start + (enough - start) * step // 24 for step in range(24)})
    refused = 0
    for limit in limits:
        ended = limited(command, limit * MIB)
        assert ended.returncode in (0, 1), f"{model}, {limit} MiB: status {ended.returncode}\n{ended.stderr}"
        if ended.returncode == 1:
            refused += 1
            last = ended.stderr.strip().splitlines()[-1]
            assert re.match(r"heddle: .*(memory|bytes)", last), f"{model}, {limit} MiB: {ended.stderr}"
    assert refused >= len(limits) // 2, f"only {refused} of {len(limits)} limits were too small"
    print(f"{model}: {refused} of {len(limits)} limits between {start} and {enough} MiB refused, none aborted")


def size_of(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmSize:\s+(\d+) kB", status).group(1)) * 1024


def ask(server, content, **fields):
    """(status, error code or text); a connection that the server could not serve counts as 503."""
    body = json.dumps({"messages": [user(content)], "temperature": 0, **fields})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
    except (ConnectionError, http.client.HTTPException):
        return 503, "closed"
    finally:
        connection.close()
    answer = json.loads(text)
    if response.status != 200:
        return response.status, answer["error"]["code"]
    return 200, answer["choices"][0]["message"]["content"]


def test_server(heddle, model):
    server = Server(heddle, model, "--threads", "2")
    short, long = "Name a colour.", "Tell me about rivers. " * 700
    expected = ask(server, short, max_tokens=16)
    assert expected[0] == 200, expected
    unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_AS)
    seen = {}
    for slack in (0, 1, 2, 4, 8, 16, 32, 64, 128):
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (size_of(server.process) + slack * MIB, unlimited[1]))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: ask(server, f"{i} " + (long if i % 2 else short), max_tokens=16), range(12)))
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, unlimited)
        assert server.process.poll() is None, f"{slack} MiB: ended with {server.process.returncode}\n{server.printed()}"
        for status, text in answers:
            assert status == 200 or (status == 503 and text in ("closed", "out_of_memory", "overloaded")), (slack, status, text)
            what = "answered" if status == 200 else text
            seen[what] = seen.get(what, 0) + 1
        again = ask(server, short, max_tokens=16)
        assert again == expected, f"after {slack} MiB: {again}, expected {expected}"
    print(f"server: {seen}")
    assert sum(seen.values()) > seen["answered"] > 0, seen
    server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heddle", required=True)
    heddle = parser.parse_args().heddle
    model = model_path()
    with tempfile.TemporaryDirectory() as folder:
        test_load(heddle, TINY, folder)
        if model is None:
            print("skipped: the real model is not present")
            return
        test_load(heddle, model, folder)
    test_server(heddle, model)


if __name__ == "__main__":
    main()
