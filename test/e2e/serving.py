"""A heddle serve process for the end-to-end tests, and what they read from it."""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
OTHER_MODEL = "gemma-3-270m-q4-k-m.gguf"


def model_path(name=MODEL):
    """The real model, or None where it is not present."""
    folder = os.environ.get("HEDDLE_MODELS_DIR", "")
    path = pathlib.Path(folder) / name
    return path if folder and path.exists() else None


def user(text):
    return {"role": "user", "content": text}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A heddle serve process on a free port."""

    def __init__(self, heddle, model, *flags, env=None):
        self.port = free_port()
        self.log = tempfile.TemporaryFile()  # a pipe that nobody reads would fill up, and the server wait
        self.process = subprocess.Popen([heddle, "serve", "--model", str(model), "--port", str(self.port), *flags],
                                        stdout=self.log, stderr=subprocess.STDOUT,
                                        env={**os.environ, **(env or {})})
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"the server ended at start:\n{self.printed()}")
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

    def post(self, path, headers=None, **fields):
        status, text = self.request("POST", path, fields, headers)
        assert status == 200, (status, text)
        return json.loads(text)

    def chat(self, messages, **fields):
        return self.post("/v1/chat/completions", messages=messages, **fields)

    def metrics(self):
        """Values by sample name with its labels, but for the model's name."""
        from prometheus_client.parser import text_string_to_metric_families
        status, text = self.request("GET", "/metrics")
        assert status == 200, text
        values = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = {k: v for k, v in sample.labels.items() if k != "model_name"}
                values[sample.name + ("" if not labels else str(sorted(labels.items())))] = sample.value
        return values

    def cpu_seconds(self):
        """What its threads have computed so far: a busy machine makes a step late, not longer."""
        total = 0
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:  # a connection's thread that has just ended
                pass
        return total * 1e-9

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def printed(self):
        self.log.seek(0)
        return self.log.read().decode("utf-8", "replace")

    def stop(self):
        """Ends it with SIGTERM; returns what it has printed."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        output = self.printed()
        assert self.process.returncode == 0, f"exit {self.process.returncode}\n{output}"
        return output
