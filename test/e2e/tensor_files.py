"""Reading and writing the model files that the end-to-end tests make for themselves."""
import json
import struct
import subprocess
import sys

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}


def read_safetensors(path):
    """Every tensor; bfloat16 widened to float32."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    tensors = {}
    for name, entry in json.loads(data[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    """One file of float32 tensors."""
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.size * 4]}
        offset += values.size * 4
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, np.float32).data)


def adjacent_pairs(rows, heads):
    """The order in which GGUF files of the llama family keep the rows of q_proj and k_proj: the two rows that rotate
    together side by side, instead of half a head apart."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def half_apart(rows, heads):
    """The inverse of adjacent_pairs."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def heddle(binary, *arguments, text=None):
    """Standard output of the binary, which reads `text`."""
    command = [binary, *map(str, arguments)]
    run = subprocess.run(command, input=text, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"failed ({run.returncode}): {' '.join(command)}\n{run.stderr}")
    return run.stdout


def logits(binary, model, ids, folder, *flags):
    """[T, V], as `heddle logits` writes them; one thread, since these models are tiny or the machine may be busy."""
    (folder / "ids.json").write_text(json.dumps([int(id) for id in ids]))
    out = folder / "logits.safetensors"
    heddle(binary, "logits", "--model", model, "--ids", folder / "ids.json", "--out", out, "--threads", 1, *flags)
    values = read_safetensors(out)["logits"]
    out.unlink()
    return values
