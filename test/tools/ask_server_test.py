#!/usr/bin/env python3
"""tools/ask_server.py, which quickstart.sh relies on for its exit status, accepts a good server and refuses bad ones."""

import http.server
import json
import os
import subprocess
import sys
import threading
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        fault = self.server.fault
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(503 if fault == "status" else 200)
        self.end_headers()
        turn = (len(body["messages"]) + 1) // 2
        prompt, cached = 20 * turn, 0 if turn == 1 or fault == "cache" else 20
        events = [] if fault == "empty" else [{"choices": [{"delta": {"content": text}}]} for text in ("Par", "is.")]
        usage = {"prompt_tokens": prompt, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": cached}}
        timings = {"prompt_n": prompt - cached + (1 if fault == "reread" else 0), "prompt_per_second": 100.0,
                   "predicted_n": 2, "predicted_per_second": 50.0}
        if fault != "usage":
            events.append({"choices": [], "usage": usage, "timings": timings})
        lines = [json.dumps(event) for event in events] + ([] if fault == "cut" else ["[DONE]"])
        self.wfile.write("".join(f"data: {line}\n\n" for line in lines).encode())


class AskServerTest(unittest.TestCase):
    def ask(self, fault):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.fault = fault
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            return subprocess.run([sys.executable, os.path.join(ROOT, "tools", "ask_server.py"), "--url",
                                   f"http://127.0.0.1:{server.server_port}", "One?", "Two?"],
                                  capture_output=True, text=True, timeout=60, check=False)
        finally:
            server.shutdown()
            server.server_close()

    def test_a_good_server(self):
        result = self.ask(None)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("Paris.", result.stdout)
        self.assertIn("turn 2 read only its 20 new tokens", result.stdout)

    def test_bad_servers(self):
        for fault, words in (("status", "HTTP 503"), ("empty", "answer is empty"), ("usage", "no usage"),
                             ("cut", "without [DONE]"), ("cache", "found 0 tokens in the cache"), ("reread", "were read")):
            result = self.ask(fault)
            self.assertEqual(result.returncode, 1, (fault, result.stdout))
            self.assertIn(words, result.stderr, fault)


if __name__ == "__main__":
    unittest.main()
