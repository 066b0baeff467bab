"""Owns the weights of language models: fetching, checking, estimating. Of the model node alone."""

from __future__ import annotations


class WeightsFailed(Exception):
    """Something could not be done with weights; the message says why and what to do."""


GIB = 1 << 30


def size(count: float) -> str:
    """Bytes for people: `16.1 GiB`, `640 MiB`, `12 KiB`."""
    for unit, name in ((GIB, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            number = count / unit
            return f"{number:.1f} {name}" if number < 100 else f"{number:.0f} {name}"
    return f"{count:.0f} bytes"
