"""Cuts a reply into messages that Telegram takes: at most 4096 UTF-16 units each.

The cut of a growing text is stable: what stands before a border never changes when text is added
behind it, so a message that is full is never edited again.
"""

MOST_UNITS = 4096
PLACEHOLDER = "…"

_BORDERS = ("\n\n", "\n", ". ", " ")
"""Where to cut, best first; a border counts in the last half of a message only."""


def split(text: str, most_units: int = MOST_UNITS) -> list[str]:
    """Cut text into parts, no visible character lost: only white space at a cut is dropped."""
    parts = []
    rest = text.strip()
    while rest:
        end = _fitting(rest, most_units)
        if end < len(rest):
            end = _border(rest, end)
        part = rest[:end].rstrip()
        rest = rest[end:].lstrip()
        parts.append(part)
    return parts


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
