#!/usr/bin/env python3
"""Runs lm-eval against `heddle serve` and compares every score with `heddle logits`.

    tools/compare_lm_eval.py --model SmolLM2-135M-Instruct.Q4_1.gguf [--heddle build/release/heddle] [--record FILE]

lm-eval (model `local-completions`) scores the task of test/e2e/lm_eval over HTTP with token ids. Each of its
log likelihoods must be within 1e-4 of the sum that the logits of the same ids give, relative, and each is_greedy equal.
Packages go to build/venv-lmeval (tools/lm-eval-requirements.txt, without torch and transformers); nothing is fetched
from a hub. --record writes the requests as lm-eval sent them, which test/e2e/lm_eval_test.py replays.

Exit status 1 at any difference. One JSON line at the end.
"""
import argparse
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test" / "e2e"))
VENV = ROOT / "build" / "venv-lmeval"
REQUIREMENTS = ROOT / "tools" / "lm-eval-requirements.txt"


def prepare_venv():
    stamp = VENV / "installed.txt"
    if stamp.exists() and stamp.read_text() == REQUIREMENTS.read_text():
        return
    print(f"installing lm-eval into {VENV} (a few minutes)", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    subprocess.run([str(VENV / "bin" / "python3"), "-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-deps", "-r", str(REQUIREMENTS)],
                   check=True)
    stamp.write_text(REQUIREMENTS.read_text())


class Tokenizer:
    """The ids of texts by `heddle tokenize`, each asked once."""

    def __init__(self, heddle, model):
        self.command = [str(heddle), "tokenize", str(model), "--no-special"]
        self.known = {}
        self.lock = threading.Lock()

    def ids(self, texts):
        with self.lock:
            missing = sorted({text for text in texts if text not in self.known})
            if missing:
                with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
                    file.writelines(json.dumps(text) + "\n" for text in missing)
                    file.flush()
                    out = subprocess.run([*self.command, "--lines", file.name], check=True, capture_output=True, text=True).stdout
                self.known.update(zip(missing, map(json.loads, out.splitlines()), strict=True))
            return [self.known[text] for text in texts]


def make_proxy(server_port, tokenizer, records):
    """Between lm-eval and the server: keeps the requests, and answers for the tokenizer."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            eos = json.dumps({"eos_token": "<|im_end|>", "bos_token": None})
            self.answer(200, eos.encode()) if self.path == "/tokenizer_info" else self.answer(404, b"{}")

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/tokenize":
                ids = tokenizer.ids([json.loads(body)["prompt"]])[0]
                return self.answer(200, json.dumps({"tokens": ids}).encode())
            request = urllib.request.Request(f"http://127.0.0.1:{server_port}{self.path}", body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request) as response:
                    status, text = response.status, response.read()
            except urllib.error.HTTPError as error:
                status, text = error.code, error.read()
            records.append({"path": self.path, "body": json.loads(body), "status": status})
            return self.answer(status, text)

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    return proxy


def run_lm_eval(port, folder):
    arguments = (f"model=heddle,base_url=http://127.0.0.1:{port}/v1/completions,tokenizer_backend=remote,"
                 "tokenized_requests=True,num_concurrent=1,max_length=2048")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hub"),
                   "TOKENIZERS_PARALLELISM": "false"}
    run = subprocess.run([str(VENV / "bin" / "python3"), "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments,
                          "--tasks", "heddle_facts", "--include_path", "test/e2e/lm_eval", "--output_path", str(folder / "out"),
                          "--log_samples"], cwd=ROOT, env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"lm_eval failed:\n{run.stdout}\n{run.stderr}")
    samples = next((folder / "out").rglob("samples_*.jsonl"))
    results = next((folder / "out").rglob("results_*.json"))
    return [json.loads(line) for line in samples.read_text().splitlines()], json.loads(results.read_text())["results"]["heddle_facts"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--heddle", type=pathlib.Path, default=ROOT / "build" / "release" / "heddle")
    parser.add_argument("--record", type=pathlib.Path)
    args = parser.parse_args()
    try:
        from lm_eval_test import expected_scores
        from serving import Server
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: run this with build/venv/bin/python3, which ./test.sh slow makes")
    prepare_venv()
    tokenizer = Tokenizer(args.heddle, args.model)
    # All texts of the task in one process, before lm-eval asks for them one by one.
    docs = [json.loads(line) for line in (ROOT / "test" / "e2e" / "lm_eval" / "facts.jsonl").read_text().splitlines()]
    contexts = [f"Question: {doc['question']}\nAnswer:" for doc in docs]
    tokenizer.ids([*contexts, *(f"{context} {choice}" for context, doc in zip(contexts, docs) for choice in doc["choices"]),
                   "<|im_end|>"])
    records = []
    server = Server(str(args.heddle), args.model)
    proxy = make_proxy(server.port, tokenizer, records)
    with tempfile.TemporaryDirectory() as name:
        samples, results = run_lm_eval(proxy.server_port, pathlib.Path(name))
    proxy.shutdown()
    server.stop()
    pairs, scores = [], []
    for sample in samples:
        for argument, response in zip(sample["arguments"].values(), sample["resps"], strict=True):
            pairs.append((argument["arg_0"], argument["arg_1"]))
            value, greedy = response[0]
            scores.append((float(value), str(greedy) == "True"))
    contexts = tokenizer.ids([context for context, _ in pairs])
    wholes = tokenizer.ids([context + continuation for context, continuation in pairs])
    expected = expected_scores(args.heddle, args.model, [(ids, len(context)) for ids, context in zip(wholes, contexts)])
    worst = max(abs(got - want) / abs(want) for (got, _), (want, _) in zip(scores, expected))
    greedy = sum(got != want for (_, got), (_, want) in zip(scores, expected))
    sent = {json.dumps(ids) for record in records for ids in record["body"]["prompt"]}
    asked = {json.dumps(ids) for ids in wholes}
    if args.record:
        lengths = {json.dumps(ids): len(context) for ids, context in zip(wholes, contexts)}
        kept = [{"body": record["body"], "context": lengths[json.dumps(record["body"]["prompt"][0])]} for record in records]
        # A few of all lengths, and those that greedy decoding would say, which are rare.
        likeliest = {json.dumps(ids) for ids, (_, is_greedy) in zip(wholes, expected) if is_greedy}
        few = [record for i, record in enumerate(kept)
               if i % max(1, len(kept) // 12) == 0 or json.dumps(record["body"]["prompt"][0]) in likeliest]
        args.record.write_text("".join(json.dumps(record) + "\n" for record in few))
    print(json.dumps({"model": args.model.name, "requests": len(records), "scores": len(scores), "worst_relative": worst,
                      "is_greedy_differences": greedy, "is_greedy_true": sum(g for _, g in scores), "ids_equal": sent == asked,
                      "acc": results["acc,none"], "acc_norm": results["acc_norm,none"]}))
    if worst > 1e-4 or greedy or sent != asked or len(scores) != len(records):
        sys.exit(1)


if __name__ == "__main__":
    main()
