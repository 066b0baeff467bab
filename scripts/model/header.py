"""Reads what weights say of themselves: the headers of safetensors and GGUF files, config.json.

safetensors: a length of 8 bytes, and JSON (github.com/huggingface/safetensors, "Format"). GGUF:
typed keys and values, then tensors (github.com/ggml-org/ggml, docs/gguf.md). Nothing is executed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scripts.model import WeightsFailed

LARGEST_HEADER = 100_000_000  # the reference implementation's own bound
LARGEST_TEXT = 1 << 26
MOST = 10_000_000
"""Entries of one list: vocabularies have some 100,000."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def read_tensors(path: Path) -> list[Tensor]:
    """The tensors that a safetensors file holds. Raises WeightsFailed where it is none."""
    total = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 2 <= length <= min(LARGEST_HEADER, total - 8):
                raise ValueError
            header = json.loads(file.read(length))
        tensors = [
            Tensor(
                str(name),
                str(it["dtype"]),
                tuple(int(count) for count in it["shape"]),
                int(it["data_offsets"][1]) - int(it["data_offsets"][0]),
            )
            for name, it in header.items()
            if name != "__metadata__"
        ]
        if sum(tensor.bytes for tensor in tensors) != total - 8 - length:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error):
        raise WeightsFailed(
            f"{path.name} is no whole safetensors file, whatever its name: take another source"
        ) from None
    return tensors


FIXED = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
TEXT, LIST = 8, 9


def read_gguf(path: Path) -> dict[str, Any]:
    """The keys and values of a GGUF file; a list of texts stands as its length.

    Raises WeightsFailed where it is none.
    """
    try:
        with path.open("rb") as file:
            magic, version, _tensors, count = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3) or count > MOST:
                raise ValueError
            return {_text(file): _value(file, _number(file, "<I")) for _ in range(count)}
    except (ValueError, struct.error, UnicodeDecodeError):
        raise WeightsFailed(
            f"{path.name} is no GGUF file of version 2 or 3, whatever its name: take another source"
        ) from None


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == TEXT:
        return _text(file)
    if kind != LIST:
        return _number(file, FIXED.get(kind, ""))
    inner, count = _number(file, "<I"), _number(file, "<Q")
    if count > MOST or inner == LIST:
        raise ValueError
    if inner == TEXT:
        for _ in range(count):
            file.seek(_number(file, "<Q"), 1)
        return count
    form = FIXED.get(inner, "")
    return [
        value for (value,) in struct.iter_unpack(form, file.read(struct.calcsize(form) * count))
    ]


def _number(file: IO[bytes], form: str) -> Any:
    if not form:
        raise ValueError
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _text(file: IO[bytes]) -> str:
    length = _number(file, "<Q")
    if length > LARGEST_TEXT:
        raise ValueError
    data = file.read(length)
    if len(data) != length:
        raise ValueError
    return data.decode()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model. Raises WeightsFailed."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise WeightsFailed(f"{folder.name} has no config.json that can be read: fetch it anew")
    return config


FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 32: "BF16",
}  # fmt: skip
"""general.file_type of the usual kinds (llama.h, llama_ftype)."""


def kind_of_gguf(header: dict[str, Any]) -> str:
    """How its weights are kept, such as Q4_K_M."""
    return FILE_TYPES.get(header.get("general.file_type", -1), "mixed")


def kind_of_tensors(tensors: Sequence[Tensor], config: dict[str, Any]) -> str:
    """The type that most bytes are of, and how they were quantised: `BF16`, `I32 (awq, 4 bits)`."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.bytes
    most = max(counts, key=lambda dtype: counts[dtype]) if counts else "empty"
    quantised = config.get("quantization_config")
    if not isinstance(quantised, dict):
        return most
    words = [str(quantised.get("quant_method", "quantised"))]
    if quantised.get("bits"):
        words.append(f"{quantised['bits']} bits")
    return f"{most} ({', '.join(words)})"
