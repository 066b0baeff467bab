"""Lays a table out for a phone: in columns where they fit, else row by row with names."""

import unicodedata
from collections.abc import Sequence

from services.relay.markdown import Table, count_units, split_row
from services.relay.spans import Span, embolden, read_spans

MOST_COLUMNS = 34
"""So many characters of one width stand in a line on a phone."""


def bound_head(head: str) -> int:
    """Say how many units longer than its source a table's head can become, its line included."""
    return 2 * MOST_COLUMNS + 3 * head.count("|") + 8


def bound_row(table: Table) -> int:
    """Say how many units longer than its source a row can become."""
    return max(MOST_COLUMNS, count_units(table.head) + 5 * len(table.alignments)) + 4


def lay_out(table: Table, rows: Sequence[str]) -> list[list[Span]] | str:
    """Lay out head and rows: as one text of columns, or as lines of spans."""
    head = _read(table.head)
    body = [_fill(_read(row), len(head)) for row in rows]
    if not any(span.url or "\n" in span.text for row in [head, *body] for c in row for span in c):
        texts = [[_text(cell) for cell in row] for row in [head, *body]]
        widths = [max(map(_width, column)) for column in zip(*texts, strict=False)]
        if sum(widths) + 3 * (len(widths) - 1) <= MOST_COLUMNS and all(
            len(row) == len(head) for row in texts
        ):
            return _columns(texts, widths, table.alignments)
    return _records(head, body)


def _read(row: str) -> list[list[Span]]:
    return [read_spans(cell) if cell else [] for cell in split_row(row)]


def _fill(cells: list[list[Span]], count: int) -> list[list[Span]]:
    return cells + [[] for _ in range(count - len(cells))]


def _text(cell: list[Span]) -> str:
    return "".join(span.text for span in cell)


def _columns(texts: list[list[str]], widths: list[int], alignments: tuple[str, ...]) -> str:
    lines = [
        " | ".join(
            _pad(text, width, alignment)
            for text, width, alignment in zip(row, widths, alignments, strict=True)
        ).rstrip()
        for row in texts
    ]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    return "\n".join(lines)


def _pad(text: str, width: int, alignment: str) -> str:
    missing = width - _width(text)
    left = {"left": 0, "right": missing, "center": missing // 2}[alignment]
    return " " * left + text + " " * (missing - left)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def _records(head: list[list[Span]], body: list[list[list[Span]]]) -> list[list[Span]]:
    """Write the head once, then each row: its first cell as a title, the others with their names.

    An empty line stands between rows.
    """
    lines = [_join(head)]
    for row in body:
        first, *others = row
        lines.append([])
        if first:
            lines.append([embolden(span) for span in first])
        for position, cell in enumerate(others, start=1):
            if cell:
                name = _text(head[position]) if position < len(head) else ""
                lines.append([Span(f"• {name}: " if name else "• "), *cell])
    return lines


def _join(cells: list[list[Span]]) -> list[Span]:
    joined: list[Span] = []
    for position, cell in enumerate(cells):
        if position:
            joined.append(Span(" | "))
        joined.extend(cell)
    return joined
