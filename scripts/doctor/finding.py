"""Owns what a check can say: that all is well, that something is not, or that it could not look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from scripts.node.node import Node
from scripts.node.tools import printable


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"
    NOT_APPLICABLE = "not applicable"
    COULD_NOT_LOOK = "could not look"


@dataclass(frozen=True)
class Finding:
    """One thing that a check has found."""

    level: Level
    text: str
    remedy: str = ""
    problem: str = ""
    """The problem's name, for machines and for docs/doctor.md."""
    check: str = ""


@dataclass(frozen=True)
class Problem:
    """Something that a check can find amiss. `says` and `remedy` may name {details}."""

    name: str
    level: Level
    says: str
    remedy: str

    def found(self, **details: object) -> Finding:
        words = {name: printable(str(value)) for name, value in details.items()}
        return Finding(
            self.level, self.says.format(**words), self.remedy.format(**words), self.name
        )


def warning(name: str, says: str, remedy: str) -> Problem:
    return Problem(name, Level.WARNING, says, remedy)


def failure(name: str, says: str, remedy: str) -> Problem:
    return Problem(name, Level.FAILURE, says, remedy)


def ok(text: str) -> Finding:
    return Finding(Level.OK, text)


def not_applicable(text: str) -> Finding:
    return Finding(Level.NOT_APPLICABLE, text)


def could_not_look(text: str, remedy: str = "") -> Finding:
    return Finding(Level.COULD_NOT_LOOK, text, remedy)


AS_ROOT = "Run this as root."


@dataclass(frozen=True)
class Check:
    """One check: its name, what it looks at (for the documentation), and how."""

    name: str
    about: str
    problems: tuple[Problem, ...]
    look: Callable[[Node], Iterator[Finding]] = field(compare=False)
