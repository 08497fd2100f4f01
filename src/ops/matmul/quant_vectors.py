"""Writes quant_vectors.bin: random blocks of every format with the values that the `gguf` package
gives them. Run once, when a format is added: pip install gguf numpy; python quant_vectors.py"""
import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType, quants

BLOCKS_OF = {  # name -> (values in a block, bytes, offsets of the f16 fields)
    "q4_0": (32, 18, [0]), "q4_1": (32, 20, [0, 2]), "q5_0": (32, 22, [0]),
    "q5_1": (32, 24, [0, 2]), "q8_0": (32, 34, [0]), "q4_k": (256, 144, [0, 2]),
    "q5_k": (256, 176, [0, 2]), "q6_k": (256, 210, [208]),
}
VALUES = 768

rng = np.random.default_rng(20)
out = bytearray()
for name, (elements, size, halves) in BLOCKS_OF.items():
    count = VALUES // elements
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in halves:
        scale = rng.normal(0, 0.05, count).astype(np.float16)
        scale[0] = np.float16(3e-6)  # subnormal
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(count, 2)
    values = quants.dequantize(blocks, getattr(GGMLQuantizationType, name.upper()))
    values = values.reshape(-1).astype(np.float32)
    out += struct.pack("<8sII", name.encode(), blocks.size, values.size)
    out += blocks.tobytes() + values.tobytes()
(pathlib.Path(__file__).parent / "quant_vectors.bin").write_bytes(out)
