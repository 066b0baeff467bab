"""Cuts a reply into messages that Telegram takes: at most 4096 UTF-16 units each.

The cut of a growing text is stable: what stands before a border never changes when text is added
behind it, so a message that is full is never edited again.
"""

import unicodedata

MOST_UNITS = 4096
PLACEHOLDER = "…"

_CONTROLS = dict.fromkeys(
    [*range(0x09), 0x0B, 0x0C, *range(0x0D, 0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F)]
)
"""Telegram drops these, so a text of nothing else is an empty one to it."""

_BORDERS = ("\n\n", "\n", ". ", " ")
"""Where to cut, best first; a border counts in the last half of a message only."""


def split(text: str, most_units: int = MOST_UNITS) -> list[str]:
    """Cut text into parts, no visible character lost: only white space at a cut is dropped.

    Parts in which there is nothing to be seen are left out: Telegram does not take them.
    """
    parts = []
    rest = text.translate(_CONTROLS).strip()
    while rest:
        end = _fitting(rest, most_units)
        if end < len(rest):
            end = _border(rest, end)
        part = rest[:end].rstrip()
        rest = rest[end:].lstrip()
        if _is_visible(part):
            parts.append(part)
    return parts


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def _fitting(text: str, most_units: int) -> int:
    """Count the characters of the longest beginning that fits."""
    if len(text) * 2 <= most_units:
        return len(text)
    units = 0
    for position, character in enumerate(text):
        units += 2 if ord(character) > 0xFFFF else 1
        if units > most_units:
            return position
    return len(text)


def _border(text: str, end: int) -> int:
    for border in _BORDERS:
        found = text.rfind(border, end // 2, end)
        if found > 0:
            return found + len(border)
    return end
