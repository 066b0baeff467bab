"""Writes small files of the kinds that hold weights, and settings of models known elsewhere."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
SMALL = LLAMA_3_8B | {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}


def tensors(sizes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> bytes:
    """A safetensors file with tensors of these shapes, of two bytes a number."""
    header, end = {}, 0
    for name, shape in sizes.items():
        begin, count = end, 2
        for one in shape:
            count *= one
        end += count
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps({**header, "__metadata__": {"format": "pt"}}).encode()
    body = (hashlib.sha256(text).digest() * (end // 32 + 1))[:end]
    return struct.pack("<Q", len(text)) + text + body


def gguf(values: Mapping[str, int | str | list[int] | list[str]], body: bytes = b"") -> bytes:
    """A GGUF file with these keys, and no tensors."""
    data = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(values))
    for name, value in values.items():
        data += _text(name) + _value(value)
    return data + body


def _value(value: int | str | list[int] | list[str]) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    kind = 8 if value and isinstance(value[0], str) else 4
    data = struct.pack("<IIQ", 9, kind, len(value))
    return data + b"".join(
        _text(it) if isinstance(it, str) else struct.pack("<I", it) for it in value
    )


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


# What SmolLM2-135M's own GGUF file says of it.
SMOLLM2: dict[str, int | str | list[int] | list[str]] = {
    "general.architecture": "llama",
    "general.file_type": 3,
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.token_type": [1, 1, 1],
}


def model_files() -> dict[str, bytes]:
    """A whole small model in two parts, as a hub has it, with what must not be taken."""
    first = tensors({"model.embed_tokens.weight": (500, 64), "a.weight": (64, 64)})
    second = tensors({"b.weight": (900, 64), "lm_head.weight": (500, 64)})
    index = {"weight_map": {"a.weight": "m-1.safetensors", "b.weight": "m-2.safetensors"}}
    return {
        "m-1.safetensors": first,
        "m-2.safetensors": second,
        "model.safetensors.index.json": json.dumps(index).encode(),
        "config.json": json.dumps(SMALL).encode(),
        "tokenizer.json": b'{"vocabulary": []}',
        "chat_template.jinja": b"{{ messages }}",
        "pytorch_model.bin": b"\x80\x04pickle",
        "modeling_own.py": b"import os",
        "README.md": b"# A model",
        ".gitattributes": b"*.bin filter=lfs",
        "original/consolidated.00.pth": b"\x80\x04pickle",
        "consolidated.safetensors": tensors({"again": (4, 4)}),
    }


def write_model(folder: Path, files: Mapping[str, bytes] | None = None) -> Path:
    """A model in a folder, as somebody copied it there by hand."""
    folder.mkdir(parents=True)
    for name, content in (files or model_files()).items():
        if "/" not in name and name.endswith((".safetensors", ".json", ".gguf")):
            if name.startswith("consolidated"):
                continue
            (folder / name).write_bytes(content)
    return folder
