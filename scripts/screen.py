"""Owns how growing messages are drawn on a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import IO

from scripts.steps import terminal_height, terminal_width

MARK = "bot> "


class Screen:
    """Draws messages one below the other; the last one may still grow or change.

    On a terminal a change is drawn in place. Elsewhere only finished messages are written.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._done = 0
        self._drawn = ""

    def show(self, messages: Sequence[tuple[str, bool]]) -> None:
        """Draw what is new; each message is its text and whether it is final."""
        for text, is_final in messages[self._done :]:
            self._draw(MARK + text, is_final)
            if not is_final:
                return
            self._out.write("\n")
            self._out.flush()
            self._done += 1
            self._drawn = ""

    def finish(self) -> None:
        """Leave the conversation's last line; the next messages are others."""
        if self._drawn:
            self._out.write("\n")
        self._out.flush()
        self._done = 0
        self._drawn = ""

    def _draw(self, text: str, is_final: bool) -> None:
        if not self._out.isatty():
            if is_final:
                self._out.write(text)
            return
        if not text.startswith(self._drawn):
            self._out.write(self._erasure())
            self._drawn = ""
        self._out.write(text[len(self._drawn) :])
        self._out.flush()
        self._drawn = text

    def _erasure(self) -> str:
        rows = sum(
            max(1, -(-columns(line) // terminal_width(self._out)))
            for line in self._drawn.split("\n")
        )
        if rows >= terminal_height(self._out):
            return "\n"  # its top has left the screen: it can only be written anew
        return "\r" + f"\x1b[{rows - 1}A" * (rows > 1) + "\x1b[J"


def columns(line: str) -> int:
    """How wide a terminal draws this line."""
    return sum(
        0
        if unicodedata.combining(character)
        else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in line
    )
