#!/usr/bin/env python3
"""Every family from GGUF: the tiny golden models in the file layout of llama.cpp, written with its own Python package.

The layout differs from the checkpoint's: rows of q and k in adjacent pairs and Llama 3's rotation as a tensor of divisors
(llama), norms as 1 + w (gemma3, qwen3_5), -exp(A_log) and value heads tiled over key heads (qwen3_5), flat convolutions
(lfm2, qwen3_5). Float32 files must give the golden logits; Q8_0 and Q4_0 files written by the package must give the bits
that --quantize gives on the checkpoint. --keep DIR leaves the float32 files there, for the peer to read.
usage: gguf_families_test.py --heddle BINARY [--keep DIR]
"""
import argparse
import json
import math
import pathlib
import sys
import tempfile

import gguf
import numpy as np

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tensor_files  # noqa: E402  (beside this file)

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "test" / "golden" / "data"
TOLERANCE = 1e-4  # of the standard deviation of the logits, as in golden_test
ARCHITECTURES = {"llama": "llama", "llama_rope3": "llama", "qwen3": "qwen3", "gemma3": "gemma3", "lfm2": "lfm2",
                 "qwen3_5": "qwen35"}

MODEL_NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
               "model.embedding_norm.weight": "token_embd_norm.weight", "lm_head.weight": "output.weight"}
LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight", "operator_norm.weight": "attn_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight", "ffn_norm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight", "feed_forward.w1.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight", "feed_forward.w3.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight", "feed_forward.w2.weight": "ffn_down.weight",
    "self_attn.q_proj.weight": "attn_q.weight", "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight", "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.out_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.q_layernorm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight", "self_attn.k_layernorm.weight": "attn_k_norm.weight",
    "conv.in_proj.weight": "shortconv.in_proj.weight", "conv.conv.weight": "shortconv.conv.weight",
    "conv.out_proj.weight": "shortconv.out_proj.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight", "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight", "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight", "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias", "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
}


def gguf_name(name, arch):
    if name in MODEL_NAMES:
        return MODEL_NAMES[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    if rest == "post_attention_layernorm.weight":  # before the feed-forward in llama, a norm of its own elsewhere
        rest = "ffn_norm.weight" if arch in ("llama", "qwen3") else "post_attention_norm.weight"
    else:
        rest = LAYER_NAMES[rest]
    return f"blk.{layer}.{rest}"


def tile_value_heads(values, axis, config, width):
    """Value heads from (key head, repeat) to (repeat, key head): the last `heads * width` entries of an axis."""
    keys, heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    order = np.arange(values.shape[axis])
    tail = order[-heads * width:].reshape(keys, heads // keys, width).swapaxes(0, 1).ravel()
    return np.take(values, np.concatenate([order[:-heads * width], tail]), axis)


def convert(name, values, arch, config):
    if arch == "llama" and "q_proj" in name:
        return tensor_files.adjacent_pairs(values, config["num_attention_heads"])
    if arch == "llama" and "k_proj" in name:
        return tensor_files.adjacent_pairs(values, config["num_key_value_heads"])
    if "conv" in name and values.ndim == 3:
        values = values[:, 0]
    if arch in ("gemma3", "qwen35") and name.endswith("norm.weight") and "linear_attn" not in name:
        values = values + np.float32(1)
    if arch == "gemma3" and name.endswith("q_norm.weight"):
        # The format has no query_pre_attn_scalar: scores are scaled by head_dim^-0.5, so the difference goes here.
        values = values * np.float32(math.sqrt(config["head_dim"] / config["query_pre_attn_scalar"]))
    if "linear_attn." in name and "linear_attn.norm" not in name:
        if name.endswith("A_log"):
            values = -np.exp(values)
        per_head = any(part in name for part in ("A_log", "dt_bias", "in_proj_a", "in_proj_b"))
        width = 1 if per_head else config["linear_value_head_dim"]
        values = tile_value_heads(values, 1 if "out_proj" in name else 0, config, width)
    return values


def rope_divisors(config):
    rope = config["rope_parameters"]
    half = config["head_dim"] // 2
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (np.arange(half) / half)
    context, low, high = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def add_metadata(writer, arch, config):
    rope = config["rope_parameters"]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    kv = config["num_key_value_heads"]
    writer.add_head_count_kv([0 if t == "conv" else kv for t in config["layer_types"]] if arch == "lfm2" else kv)
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", config.get("norm_eps")))
    width = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    if arch != "lfm2":
        writer.add_key_length(width)
        writer.add_value_length(width)
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if arch != "gemma3":
        writer.add_rope_dimension_count(int(width * rope.get("partial_rotary_factor", 1)))
    if arch == "gemma3":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    if arch == "lfm2":
        writer.add_shortconv_l_cache(config["conv_L_cache"])
    if arch == "qwen35":
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
        writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
        writer.add_ssm_state_size(config["linear_key_head_dim"])
        writer.add_ssm_group_count(config["linear_num_key_heads"])
        writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
        writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
        writer.add_array("qwen35.attention.recurrent_layers", [t == "linear_attention" for t in config["layer_types"]])
    writer.add_tokenizer_model("no_vocab")


def write_gguf(path, arch, config, tensors, quantize=None):
    writer = gguf.GGUFWriter(path, arch)
    add_metadata(writer, arch, config)
    if config["rope_parameters"].get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_divisors(config))
    for name, values in tensors.items():
        values = np.ascontiguousarray(convert(name, values, arch, config), np.float32)
        if quantize is not None and values.ndim == 2 and "conv.conv" not in name and "conv1d" not in name:
            writer.add_tensor(gguf_name(name, arch), gguf.quants.quantize(values, quantize), raw_dtype=quantize)
        else:
            writer.add_tensor(gguf_name(name, arch), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_quantized(heddle, name, arch, config, tensors, ids, folder):
    """The reference kernels, since int8 activations would turn a last bit of the divisors into a code. What the file keeps
    rounded beside the matrices (the divisors of llama_rope3, the scaled norms of gemma3) leaves a last bit there."""
    bad = 0
    for kind in ("q8_0", "q4_0"):
        path = folder / f"{name}-{kind}.gguf"
        write_gguf(path, arch, config, tensors, gguf.GGMLQuantizationType[kind.upper()])
        flags = ("--kernels", "reference", "--kv-dtype", "f32")
        ours = tensor_files.logits(heddle, GOLDEN / name, ids, folder, "--quantize", kind, *flags)
        file = tensor_files.logits(heddle, path, ids, folder, *flags)
        error = np.abs(ours - file).max() / file.std()
        limit = TOLERANCE if name in ("llama_rope3", "gemma3") else 0
        print(f"{name} --quantize {kind}: {error:.1e} of the deviation from the GGUF file, at most {limit:.0e}", flush=True)
        bad += not error <= limit
    return bad


def check_family(heddle, name, folder, keep):
    arch = ARCHITECTURES[name]
    source = GOLDEN / name
    config = json.loads((source / "config.json").read_text())
    tensors = tensor_files.read_safetensors(source / "model.safetensors")
    golden = tensor_files.read_safetensors(source / "golden.safetensors")
    path = (keep or folder) / f"{name}-F32.gguf"
    write_gguf(path, arch, config, tensors)
    bad = 0
    for ids, want, rows in (("input_ids", "logits", slice(None)), ("long_ids", "long_logits", slice(-1, None))):
        got = tensor_files.logits(heddle, path, golden[ids], folder, "--dtype", "f32")[rows]
        error = np.abs(got - golden[want].reshape(got.shape)).max() / golden[want].std()
        print(f"{name} {want}: error {error:.1e} of the deviation, at most {TOLERANCE:.0e}", flush=True)
        bad += not error <= TOLERANCE
    # Value heads narrower than a block of 32 make other blocks in the file than in the checkpoint.
    if arch != "qwen35":
        bad += check_quantized(heddle, name, arch, config, tensors, golden["input_ids"], folder)
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--heddle", required=True)
    parser.add_argument("--keep", type=pathlib.Path)
    args = parser.parse_args()
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bad = sum(check_family(args.heddle, name, pathlib.Path(folder), args.keep) for name in ARCHITECTURES)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
