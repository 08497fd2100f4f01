#!/usr/bin/env python3
"""The requests that lm-eval sends for log likelihoods, replayed: the scores that it reads from the answers equal those of
`heddle logits` over the same ids. tools/compare_lm_eval.py runs lm-eval itself, and recorded them.

usage: lm_eval_test.py --heddle BINARY
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile

import numpy

FOLDER = pathlib.Path(__file__).parent / "lm_eval"


def logits_of(heddle, model, ids):
    with tempfile.TemporaryDirectory() as name:
        ids_file, out = pathlib.Path(name) / "ids.json", pathlib.Path(name) / "logits.safetensors"
        ids_file.write_text(json.dumps(ids))
        subprocess.run([str(heddle), "logits", "-m", str(model), "--ids", str(ids_file), "-o", str(out)], check=True)
        data = out.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return numpy.frombuffer(data[start:], dtype=numpy.float32).reshape(len(ids), -1).astype(numpy.float64)


def greedy_request(heddle, model, record):
    """The request of a record with the token behind its context that greedy decoding would say."""
    context = record["body"]["prompt"][0][:record["context"]]
    token = int(logits_of(heddle, model, context)[-1].argmax())
    return {**record, "body": {**record["body"], "prompt": [context + [token]]}}


def expected_scores(heddle, model, requests):
    """[(ids, context)] -> [(log likelihood of what follows the context, whether it is what greedy decoding would say)]"""
    known = {}
    for ids, context in requests:
        key = (tuple(ids), context)
        if key in known:
            continue
        logits = logits_of(heddle, model, ids)[context - 1:-1]
        followed = numpy.array(ids[context:])
        top = logits.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + numpy.log(numpy.exp(logits - top).sum(axis=1))
        rows = numpy.arange(len(followed))
        known[key] = (float((logits[rows, followed] - log_sum).sum()), bool((logits.argmax(axis=1) == followed).all()))
    return [known[(tuple(ids), context)] for ids, context in requests]


def score_of(choice, context):
    """As lm-eval 0.4.13 reads it: the prompt's tokens behind the context, without the one generated token."""
    values = choice["logprobs"]["token_logprobs"][context:-1]
    tops = choice["logprobs"]["top_logprobs"][context:-1]
    assert len(values) == len(tops) and values
    return sum(values), all(value == max(top.values()) for value, top in zip(values, tops))


def main():
    from serving import MODEL, Server

    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    model = pathlib.Path(os.environ.get("HEDDLE_MODELS_DIR", "")) / MODEL
    if not os.environ.get("HEDDLE_MODELS_DIR") or not model.exists():
        print(f"SKIPPED: {MODEL} is not in HEDDLE_MODELS_DIR")
        return
    records = [json.loads(line) for line in (FOLDER / "requests.jsonl").read_text().splitlines()]
    records.append(greedy_request(args.heddle, model, records[0]))
    server = Server(args.heddle, model)
    scores = []
    for record in records:
        status, text = server.request("POST", "/v1/completions", record["body"])
        assert status == 200, (status, text)
        scores.append(score_of(json.loads(text)["choices"][0], record["context"]))
    server.stop()
    expected = expected_scores(args.heddle, model, [(record["body"]["prompt"][0], record["context"]) for record in records])
    worst = max(abs(got - want) / abs(want) for (got, _), (want, _) in zip(scores, expected))
    assert worst <= 1e-4, worst
    assert [g for _, g in scores] == [g for _, g in expected]
    assert len({g for _, g in scores}) == 2, "both kinds of is_greedy are among them"
    print(f"ok {len(scores)} requests of lm-eval; worst relative difference {worst:.1e}, is_greedy equal")


if __name__ == "__main__":
    main()
