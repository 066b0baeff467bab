"""Owns how a snapshot is laid out: lines of a given width, with colour or without."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.node.tools import printable
from scripts.status.containers import Row
from scripts.status.facts import Fact, Panel, Tone, duration, size
from scripts.status.look import Snapshot

CODES = {Tone.GOOD: "32", Tone.NOTICE: "33", Tone.BAD: "31;1"}
BOLD = "1"

CELL = 39
LABEL = 11


@dataclass(frozen=True)
class Piece:
    """Some words of a line, and how they are drawn; no code: as they are."""

    text: str
    code: str = ""


Line = Sequence[Piece]


def page(snapshot: Snapshot, width: int, right: str = "") -> list[Line]:
    """All lines, none wider than the terminal; `right` stands at the end of the first."""
    seen = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(snapshot.seen_at))
    left = f"{snapshot.node} node  {seen}"
    gap = width - len(left) - len(right)
    lines: list[Line] = [[Piece(left, BOLD), Piece(f"{'':{gap}}{right}" if gap > 1 else "")]]
    for problem in snapshot.problems:
        text = f"{problem[:1].upper()}{problem[1:].rstrip('.')}."
        lines += [[Piece(it, CODES[Tone.BAD])] for it in wrapped(text, width)]
    if snapshot.rows:
        lines += [[], *table(snapshot.rows, width)]
    for panel in snapshot.panels:
        lines += [[], *laid_out(panel, width)]
    return [cut(line, width) for line in lines]


def fitted(lines: Sequence[Line], width: int, height: int) -> list[Line]:
    """Lines for a screen of this height: empty ones go first, then the last ones, which is said."""
    if len(lines) > height:
        lines = [line for line in lines if any(piece.text for piece in line)]
    if len(lines) <= height:
        return list(lines)
    shown = max(0, height - 1)
    more = Piece(f"... {len(lines) - shown} more lines: make the window higher", CODES[Tone.NOTICE])
    return [*lines[:shown], cut([more], width)]


def written(line: Line, *, is_coloured: bool) -> str:
    """A line for a terminal or a file."""
    return "".join(
        f"\x1b[{piece.code}m{piece.text}\x1b[0m" if is_coloured and piece.code else piece.text
        for piece in line
    ).rstrip()


def table(rows: Sequence[Row], width: int) -> list[Line]:
    """A line for each service; columns that find no room are left out from the right."""
    heads = ("service", "state", "health", "up", "restarts", "memory")
    cells = [
        (
            row.service,
            row.state,
            row.health,
            "" if row.up_seconds is None else duration(row.up_seconds),
            str(row.restarts),
            memory(row),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) + 2 for column in zip(heads, *cells, strict=True)]
    shown = max(2, sum(sum(widths[: it + 1]) - 2 <= width for it in range(len(heads))))
    lines: list[Line] = [[Piece(in_columns(heads[:shown], widths), BOLD)]]
    for row, texts in zip(rows, cells, strict=True):
        name, *rest = texts[:shown]
        lines.append(
            [
                Piece(f"{name:{widths[0]}}"),
                Piece(in_columns(rest[:2], widths[1:]), CODES.get(row.tone, "")),
                Piece(in_columns(rest[2:], widths[3:])),
            ]
        )
    return lines


def in_columns(texts: Iterable[str], widths: Iterable[int]) -> str:
    return "".join(f"{text:{width}}" for text, width in zip(texts, widths, strict=False))


def memory(row: Row) -> str:
    if row.memory_bytes is None:
        return ""
    limit = f" of {size(row.memory_limit_bytes)}" if row.memory_limit_bytes else ""
    return size(row.memory_bytes) + limit


def laid_out(panel: Panel, width: int) -> list[Line]:
    """A panel's title, and its facts side by side where there is room for two."""
    columns = max(1, (width + 2) // (CELL + 2))
    lines: list[list[Piece]] = []
    free = 0
    for fact in (it for it in panel.facts if it.text):
        label = f"{fact.label:{LABEL}}" if fact.label else ""
        is_wide = len(label) + len(fact.text) > CELL
        if not free or is_wide:
            lines.append([])
            free = columns
        pad = 0 if is_wide else CELL - len(label) - len(fact.text)
        lines[-1] += [Piece(label), tinted(fact), Piece(" " * (pad + 2))]
        free = 0 if is_wide else free - 1
    return [[Piece(panel.title, BOLD)], *lines]


def tinted(fact: Fact) -> Piece:
    return Piece(fact.text, CODES.get(fact.tone, ""))


def wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(1, width)) or [""]


def cut(line: Line, width: int) -> Line:
    """The part of a line that fits; nothing in it steers the terminal."""
    kept, left = [], width
    for piece in line:
        text = printable(piece.text)[:left]
        left -= len(text)
        kept.append(Piece(text, piece.code))
    return kept
