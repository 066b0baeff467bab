"""Owns how a question tells the stub engine what to do, so that no other channel is needed."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

_MARK = "bench"
_BEGUN = re.compile(r"received=([0-9.]+)/begun=([0-9.]+)")
_ENDED = re.compile(r"ended=([0-9.]+)")


@dataclass(frozen=True)
class Program:
    """One answer: its length, its pace, and when it begins."""

    tokens: int
    rate: float | None = None
    """Tokens a second; None: as fast as can be."""
    jitter: float = 0.0
    """0 to 1: how much of the time between two tokens is random; the mean stays."""
    first_seconds: float = 0.0
    seed: int = 0

    def question(self) -> str:
        """Write the question that is answered like this."""
        return f"{_MARK} {json.dumps(asdict(self))}"


def read_program(question: str) -> Program:
    """Read a question; one that says nothing has a short answer."""
    mark, _, written = question.partition(" ")
    return Program(**json.loads(written)) if mark == _MARK else Program(8)


def first_token(received: float, begun: float) -> str:
    """Write when the engine had the question and when it began to speak, by the machine's clock."""
    return f" received={received:.6f}/begun={begun:.6f}"


def last_token(ended: float) -> str:
    """Write when the engine had said everything."""
    return f" ended={ended:.6f}"


def read_begin(text: str) -> tuple[float, float] | None:
    """Find out of an answer when its question was received, and when it began."""
    found = _BEGUN.search(text)
    return (float(found[1]), float(found[2])) if found else None


def read_end(text: str) -> float | None:
    """Find out of an answer when it ended."""
    found = _ENDED.search(text)
    return float(found[1]) if found else None
