"""Owns what a look has found: facts, for people and for machines, and the panels that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Tone(StrEnum):
    """How a fact is coloured."""

    PLAIN = "plain"
    GOOD = "good"
    NOTICE = "notice"
    BAD = "bad"


@dataclass(frozen=True)
class Fact:
    """One thing that is known."""

    name: str
    """For machines; the unit is in it."""
    value: object
    label: str
    text: str
    """For people; nothing: it is for machines alone."""
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True)
class Panel:
    """Facts that belong together."""

    name: str
    title: str
    facts: Sequence[Fact]


NOTHING = "nothing since its start"


def ago(name: str, label: str, at: float, now: float, never: str = "never") -> Fact:
    """When something happened last, in seconds since 1970; 0: it never did."""
    if not at:
        return Fact(name, None, label, never)
    seconds = max(0, round(now - at))
    return Fact(name, seconds, label, f"{duration(seconds)} ago")


def duration(seconds: float) -> str:
    """A length of time in its two largest units, such as `3 d 4 h`."""
    left = int(seconds)
    words: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if words or count or unit == "s":
            words.append(f"{count} {unit}")
        if len(words) == 2:
            break
    return " ".join(words)


def size(count: float) -> str:
    """Bytes in the unit that leaves at most four digits, such as `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
