#!/usr/bin/env python3
"""A real model as a Hugging Face directory: SmolLM2's GGUF file, dequantised to float32, as config.json, three shards with an
index, tokenizer.json and a chat template. In float32 both files must give the same bits; tokenizer.json gives the ids of llama.cpp on
the excerpt's lines; the chat answer is the same.

Exits with 77 (skipped), and says so, when $HEDDLE_MODELS_DIR lacks the model.
usage: checkpoint_test.py --heddle BINARY
"""
import argparse
import json
import os
import pathlib
import sys
import tempfile

import gguf
import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tensor_files  # noqa: E402  (beside this file)

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHARDS = 3
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj"}


def field(reader, name):
    return reader.fields[name].contents()


def write_weights(reader, config, folder):
    tensors = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name == "token_embd.weight":
            name = "model.embed_tokens.weight"
        elif tensor.name == "output_norm.weight":
            name = "model.norm.weight"
        else:
            _, layer, kind, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{NAMES[kind]}.weight"
            if kind in ("attn_q", "attn_k"):
                heads = config["num_attention_heads" if kind == "attn_q" else "num_key_value_heads"]
                values = tensor_files.half_apart(values, heads)
        tensors[name] = values
    names = sorted(tensors)
    index = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::SHARDS]}
        tensor_files.write_safetensors(folder / file, part)
        index |= {name: file for name in part}
    total = sum(values.nbytes for values in tensors.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}))


def write_tokenizer(reader, folder):
    tokens = field(reader, "tokenizer.ggml.tokens")
    kinds = field(reader, "tokenizer.ggml.token_type")
    added = [{"id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for id, (token, kind) in enumerate(zip(tokens, kinds)) if kind == gguf.TokenType.CONTROL]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {token: id for id, token in enumerate(tokens)},
                  "merges": field(reader, "tokenizer.ggml.merges")}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "chat_template": field(reader, "tokenizer.chat_template"), "tokenizer_class": "GPT2Tokenizer",
        "bos_token": tokens[field(reader, "tokenizer.ggml.bos_token_id")],
        "eos_token": tokens[field(reader, "tokenizer.ggml.eos_token_id")]}))


def write_checkpoint(reader, folder):
    def value(key):
        return field(reader, "llama." + key)

    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
              "hidden_size": value("embedding_length"), "intermediate_size": value("feed_forward_length"),
              "num_hidden_layers": value("block_count"), "num_attention_heads": value("attention.head_count"),
              "num_key_value_heads": value("attention.head_count_kv"), "max_position_embeddings": value("context_length"),
              "rms_norm_eps": value("attention.layer_norm_rms_epsilon"), "rope_theta": value("rope.freq_base"),
              "vocab_size": len(field(reader, "tokenizer.ggml.tokens")), "tie_word_embeddings": True,
              "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
              "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id")}
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(reader, config, folder)
    write_tokenizer(reader, folder)


def check(what, good, figure):
    print(f"{'ok' if good else 'FAILED'}: {what}: {figure}", flush=True)
    return not good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    args = parser.parse_args()
    source = pathlib.Path(os.environ.get("HEDDLE_MODELS_DIR", "")) / MODEL
    if not source.is_file():
        print(f"SKIPPED: no {source}; tools/fetch_model.py smollm2 obtains it")
        return 77
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        model = folder / "smollm2"
        model.mkdir()
        write_checkpoint(gguf.GGUFReader(source), model)
        golden = json.loads((ROOT / "test/golden/data/real/smollm2.json").read_text())

        some = golden["ids"][:100]
        ours = tensor_files.logits(args.heddle, model, some, folder, "--dtype", "f32")
        file = tensor_files.logits(args.heddle, source, some, folder, "--dtype", "f32")
        bad += check("float32 logits of the shards and of the GGUF file", ours.tobytes() == file.tobytes(),
                     f"largest difference {np.abs(ours - file).max()}")

        rows = [json.loads(line) for line in
                (ROOT / "test/text/tokenizer_excerpt.jsonl").read_text(encoding="utf-8").split("\n") if line]
        # The vocabulary lacks most control characters; there llama.cpp and tokenizers merge across the gap differently.
        rows = [row for row in rows if all(c >= " " or c in "\t\n\r" for c in row[0])]
        (folder / "lines.jsonl").write_text("".join(json.dumps(row[0]) + "\n" for row in rows))
        out = tensor_files.heddle(args.heddle, "tokenize", model, "--lines", folder / "lines.jsonl", "--no-special")
        differences = sum(json.loads(line) != row[1] for line, row in zip(out.split("\n"), rows))
        bad += check(f"ids of tokenizer.json on {len(rows)} lines", differences == 0 and out.count("\n") == len(rows) > 1500,
                     f"{differences} differences")

        flags = ["--temperature", 0, "--max-tokens", 16, "--dtype", "f32", "--threads", 1]
        answers = [tensor_files.heddle(args.heddle, "chat", "-m", m, *flags, text="What is the capital of France?\n").strip()
                   for m in (model, source)]
        bad += check("greedy answer through the chat template", answers[0] == answers[1] and "Paris" in answers[0],
                     repr(answers[0]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
