#!/usr/bin/env python3
"""Shows that deploy/nginx.conf (or deploy/haproxy.cfg) does what docs/deploy.md says, on loopback with two real servers.

    deploy/check_balancing.py --model MODEL.gguf [--heddle build/release/heddle] [--proxy nginx|haproxy]

1. Each of 8 conversations has two turns; both reach one replica, and the second turn's `usage` shows cached tokens.
2. Both replicas have conversations.
3. A streamed answer arrives piece by piece through the proxy.
4. A replica that has gone is passed over: its conversations go on at the other one, those of the other stay there.

Exit status 1 if any of it does not hold. One JSON line at the end.
"""
import argparse
import http.client
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONVERSATIONS = 8


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, seconds=120):
    end = time.time() + seconds
    while time.time() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"nothing answers on port {port}")


def start_proxy(kind, folder, port, replicas):
    name = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[kind]
    binary = shutil.which(kind) or shutil.which(f"/usr/sbin/{kind}")
    if not binary:
        sys.exit(f"{kind} is not installed: apt-get install {'nginx-light' if kind == 'nginx' else 'haproxy'}")
    text = (ROOT / "deploy" / name).read_text()
    text = re.sub(r"(listen|bind :)( ?)8080", rf"\g<1>\g<2>{port}", text)
    for old, new in zip(("8081", "8082"), replicas):
        text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    config = folder / name
    if kind == "nginx":  # its folders are the system's by default
        paths = "".join(f"  {part}_temp_path {folder}/{part};\n" for part in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        text = text.replace("http {\n", f"http {{\n  access_log off;\n{paths}")
        text = f"pid {folder}/nginx.pid;\nerror_log {folder}/error.log;\ndaemon off;\n" + text
        command = [binary, "-p", str(folder), "-c", str(config)]
    else:
        command = [binary, "-db", "-f", str(config)]
    config.write_text(text)
    return subprocess.Popen(command)


class Replica:
    """A server that calls its model by the replica's own name, so that answers tell where they come from."""

    def __init__(self, heddle, model, name):
        self.port = free_port()
        self.process = subprocess.Popen([heddle, "serve", "-m", str(model), "--port", str(self.port), "--threads", "1", "--name", name],
                                        stdout=subprocess.DEVNULL)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)


def ask(port, conversation, messages, **fields):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = json.dumps({"messages": messages, "temperature": 0, "max_tokens": 12, **fields})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json", "X-Conversation-Id": conversation})
    response = connection.getresponse()
    return response if fields.get("stream") else (response.status, json.loads(response.read()))


def turn(port, name, messages, text):
    messages.append({"role": "user", "content": text})
    status, answer = ask(port, name, messages)
    assert status == 200, (status, answer)
    messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
    return answer["model"], answer["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def check(port, replicas):
    talks, where, seconds = {}, {}, []
    for index in range(CONVERSATIONS):
        name, messages = f"talk-{index}", []
        where[name], first, _ = turn(port, name, messages, f"Conversation {index}: name a colour.")
        again, prompt, cached = turn(port, name, messages, "And another one.")
        assert again == where[name], f"{name} reached {where[name]}, then {again}"
        assert cached >= first, f"{name}: {cached} of {prompt} prompt tokens cached, the first turn had {first}"
        talks[name] = messages
        seconds.append({"prompt": prompt, "cached": cached})
    shares = [list(where.values()).count(i) for i in "ab"]
    assert min(shares) > 0, f"one replica has all the conversations: {shares}"

    response = ask(port, "stream", [{"role": "user", "content": "Count to forty."}], stream=True, max_tokens=60, ignore_eos=True)
    times = []
    while line := response.readline():
        if line.startswith(b"data: {"):
            times.append(time.time())
    spread = times[-1] - times[0]
    gaps = sorted(b - a for a, b in zip(times, times[1:]))
    assert len(times) > 30 and gaps[-1] < spread / 2, f"buffered: {len(times)} pieces in {spread:.3f} s, longest gap {gaps[-1]:.3f} s"

    replicas[0].stop()
    kept = []
    for name, messages in talks.items():
        _, _, cached = turn(port, name, messages, "A third one.")
        if where[name] == "b":
            assert cached > 0, f"{name} left its replica when the other one went"
            kept.append(cached)
    return {"conversations": CONVERSATIONS, "shares": shares, "second_turns": seconds, "stream_pieces": len(times),
            "stream_seconds": round(spread, 3), "longest_gap": round(gaps[-1], 3), "kept_after_failure": len(kept)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--heddle", default=str(ROOT / "build" / "release" / "heddle"))
    parser.add_argument("--proxy", choices=("nginx", "haproxy"), default="nginx")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        replicas = [Replica(args.heddle, args.model, name) for name in "ab"]
        port = free_port()
        proxy = None
        try:
            for replica in replicas:
                wait_for(replica.port)
            proxy = start_proxy(args.proxy, folder, port, [replica.port for replica in replicas])
            wait_for(port, 20)
            print(json.dumps({"proxy": args.proxy, **check(port, replicas)}))
        finally:
            if proxy:
                proxy.terminate()
                proxy.wait(timeout=20)
            for replica in replicas:
                replica.stop()


if __name__ == "__main__":
    main()
