"""Owns the form in which each part says what it wants of the host."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.harden.host import Host
from scripts.harden.states import State

FILES = Path(__file__).resolve().parent / "files"


@dataclass(frozen=True)
class File:
    """A file as it shall be."""

    path: str
    content: str
    mode: int | None = 0o644
    """None: as it is, for files that are only amended."""


def nothing_to_check(host: Host) -> None:
    """What has no program to judge it."""


@dataclass(frozen=True)
class Part:
    """What one part wants. Its files come first, then its commands, then its states; back the
    other way round."""

    name: str
    why: str
    files: tuple[File, ...] = ()
    states: tuple[State, ...] = ()
    reloads: tuple[tuple[str, ...], ...] = ()
    """Commands after one of its files has changed, in either direction."""
    check: Callable[[Host], None] = nothing_to_check
    """Judges the files where they lie, before anything uses them. Raises Failed."""


def template(name: str, **values: str) -> str:
    """A file of `files/` with its {{variables}} filled in; a line of empty ones alone is left out.

    Raises KeyError for a variable that is not given.
    """
    lines = []
    for line in (FILES / name).read_text(encoding="utf-8").splitlines():
        names = re.findall(r"\{\{(\w+)\}\}", line)
        filled = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], line)
        if filled.strip() or not names:
            lines.append(filled)
    return "\n".join(lines) + "\n"


def unit_word(path: Path | str) -> str:
    """A path as it stands between quotation marks in a unit of systemd's."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
