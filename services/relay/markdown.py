"""Reads Markdown line by line: what a line means depends on it and on the lines before it alone.

A growing text never changes what its complete lines are, so it can be cut between them for good.
That rules out what only a later line would decide: references to links stay as they are written.
Where writers are careless, this is lenient: two spaces nest a list, and a fence may stand anywhere.
"""

import re
from enum import Enum, auto
from typing import NamedTuple

_UNKNOWN_TO_TELEGRAM = dict.fromkeys(
    [
        *range(0x09), 0x0B, 0x0C, *range(0x0D, 0x20), *range(0x7F, 0xA0), *range(0x2028, 0x202F),
        0x030A, 0x0333, 0x033F, *range(0xD800, 0xE000),
    ]
)  # fmt: skip
"""Telegram drops these, or puts a space in their place."""

_MAY_NEED_CLEANING = re.compile("[^\t\n -~\xa0-\u0309\u0400-\u2027\u2030-\ud7ff\ue000-\U0010ffff]")


def clean(text: str) -> str:
    """Take out what Telegram would."""
    return text.translate(_UNKNOWN_TO_TELEGRAM) if _MAY_NEED_CLEANING.search(text) else text


def count_units(text: str) -> int:
    """Count UTF-16 units: Telegram's measure."""
    if text.isascii():
        return len(text)
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class Kind(Enum):
    """What a line is."""

    BLANK = auto()
    TEXT = auto()
    HEADING = auto()
    UNDERLINE = auto()
    """Makes a heading of the paragraph before it."""
    RULE = auto()
    ITEM = auto()
    FENCE = auto()
    CODE = auto()
    FENCE_END = auto()
    INDENTED = auto()
    TABLE = auto()
    """Makes a table's head of the line before it."""
    ROW = auto()


class Table(NamedTuple):
    """The table that a line may go on with."""

    head: str
    alignments: tuple[str, ...]


class State(NamedTuple):
    """What the lines so far mean for the next one."""

    quote: int = 0
    """How many quotes deep."""
    fence: str = ""
    """What closes the code block; empty: none is open."""
    language: str = ""
    indent: int = 0
    """Of the fence: so many spaces do not belong to the code."""
    math: str = ""
    """What closes the formula."""
    table: Table | None = None
    items: tuple[int, ...] = ()
    """Columns of the markers of the list items that are open, outermost first."""
    head: str = ""
    """The line before, if it may be a table's head."""
    is_paragraph: bool = False
    """The line before is text that goes on."""
    is_blank: bool = True
    """The line before is blank."""
    is_indented: bool = False
    """The line before is indented code."""
    is_midline: bool = False
    """What comes is the rest of a line."""


START = State()


class Line(NamedTuple):
    """One line, read."""

    kind: Kind
    text: str
    """What is left without the marks of its kind."""
    after: State
    depth: int = 0
    """How many list items deep; for a heading, its level."""
    marker: str = ""
    """Of a list item, as it is written; with its box if it is a task."""
    continues: bool = False
    """It goes on with the paragraph of the line before."""

    @property
    def quote(self) -> int:
        """How many quotes deep it is."""
        return self.after.quote


_QUOTE = re.compile(r"[ ]*(>(?:[ ]{0,3}>)*)[ ]?")
_FENCE = re.compile(r"([ ]*)(`{3,}(?=[^`]*$)|~{3,})(.*)$")
_FENCE_IN_ITEM = re.compile(rf"[ ]*(?:(?:[-*+]|\d{{1,9}}[.)])[ ]+)?{_FENCE.pattern}")
_LANGUAGE = re.compile(r"([\w+#./-]{1,32})(?:[ ]+|$)")
_HEADING = re.compile(r"[ ]*(#{1,6})(?: (.*))?$")
_RULE = re.compile(r"[ ]*+([-*_])(?:[ ]*+\1){2,}+[ ]*+$")
_UNDERLINE = re.compile(r"[ ]{0,3}={3,}[ ]*$")
_ITEM = re.compile(r"([ ]*)([-*+]|\d{1,9}[.)])(?:[ ]+(.*)|$)")
_TASK = re.compile(r"\[([ xX])\](?:[ ]+|$)")
_DELIMITERS = re.compile(r"[ ]*+\|?[ ]*+:?-++:?[ ]*+(?:\|[ ]*+:?-++:?[ ]*+)*+\|?[ ]*+$")
_PIPE = re.compile(r"(?<!\\)\|")
_CODE_SPAN = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")


def read_line(line: str, state: State) -> Line:
    """Read one line, clean and without its end, after what `state` says of the lines before."""
    if "\t" in line:
        line = line.expandtabs(4)
    if state.is_midline:
        return _read_rest(line, state._replace(is_midline=False))
    rest, quote = _unquote(line, state) if ">" in line else (line, 0)
    if quote != state.quote:
        if quote and state.quote:
            state = state._replace(quote=quote, is_paragraph=False, head="")
        else:
            state = State(quote=quote)
    if state.fence:
        return _read_code(rest, state)
    if not rest or rest.isspace():
        return Line(Kind.BLANK, "", _after_blank(state))
    if state.math and not _FENCE_IN_ITEM.match(rest):
        return _read_text(rest, state)
    return _read_block(rest, state)


def _read_rest(line: str, state: State) -> Line:
    if state.fence:
        after = state._replace(is_blank=False)
        return Line(Kind.CODE, line, after)
    return _read_text(line, state._replace(is_paragraph=True, is_blank=False))


def _unquote(line: str, state: State) -> tuple[str, int]:
    if not state.quote and (state.fence or state.math):
        return line, 0
    match = _QUOTE.match(line)
    if not match or (_indent(line) > 3 and not state.items and not state.quote):
        return line, 0
    depth = match[1].count(">")
    if state.fence and depth > state.quote:
        # The code in the quote begins with such marks itself.
        end = [found.end() for found in re.finditer(">", match[0])][state.quote - 1]
        return line[end:].removeprefix(" "), state.quote
    return line[match.end() :], depth


def _read_code(rest: str, state: State) -> Line:
    stripped = rest.strip(" ")
    if stripped.startswith(state.fence) and not stripped.strip(state.fence[0]):
        after = state._replace(fence="", language="", indent=0, is_paragraph=False, is_blank=False)
        return Line(Kind.FENCE_END, "", after)
    text = rest[min(_indent(rest), state.indent) :]
    if state.is_blank == bool(stripped):
        state = state._replace(is_blank=not stripped)
    return Line(Kind.CODE, text, state)


def _read_block(rest: str, state: State) -> Line:
    stripped = rest.lstrip(" ")
    first = stripped[0]
    indent = len(rest) - len(stripped)
    if state.table:
        if "|" in rest:
            return Line(Kind.ROW, rest, state._replace(is_blank=False))
        state = state._replace(table=None)
    is_code = (
        indent >= 4 and not state.items and (state.is_indented or state.is_blank)
    ) and not _FENCE.match(rest)
    if is_code:
        after = state._replace(is_indented=True, is_blank=False, is_paragraph=False, head="")
        return Line(Kind.INDENTED, rest[4:], after)
    if state.head and first in "|:-" and (alignments := _alignments(rest, state.head)):
        after = _after(state, state.items)._replace(table=Table(state.head, alignments))
        return Line(Kind.TABLE, rest, after)
    if first in "`~" and (match := _FENCE.match(rest)):
        return _open_fence(rest, match, state, len(match[1]))
    if first in "-*_" and _RULE.match(rest):
        return Line(Kind.RULE, rest, _after(state, ()))
    if first == "#" and (match := _HEADING.match(rest)):
        after = _after(state, state.items if indent >= 2 else ())
        text = _unclose(match[2] or "")
        return Line(Kind.HEADING, text, after, depth=len(match[1]))
    if first == "=" and state.is_paragraph and _UNDERLINE.match(rest):
        return Line(Kind.UNDERLINE, rest, _after(state, state.items))
    if (first in "-*+" or first.isdigit()) and (match := _ITEM.match(rest)):
        return _read_item(rest, match, state)
    return _read_text(rest, state)


def _open_fence(
    rest: str, match: re.Match[str], state: State, indent: int, marker: str = ""
) -> Line:
    info = match[3].strip(" ")
    known = _LANGUAGE.match(info)
    after = State(
        state.quote,
        match[2],
        known[1] if known else "",
        indent,
        items=state.items,
        is_blank=False,
    )
    text = info[known.end() :] if known else info
    return Line(Kind.FENCE, text, after, len(after.items), marker)


def _read_item(rest: str, match: re.Match[str], state: State) -> Line:
    column = len(match[1])
    items = state.items
    while items and items[-1] > column - 2:
        items = items[:-1]
    items = (*items, column)
    marker, text = match[2], match[3] or ""
    if fence := _FENCE.match(text):
        indent = len(rest) - len(text)
        return _open_fence(rest, fence, state._replace(items=items), indent, marker)
    if task := _TASK.match(text):
        marker, text = f"{marker} [{task[1]}]", text[task.end() :]
    after = _after(state, items, is_paragraph=True, math=_open_math(text, ""))
    return Line(Kind.ITEM, text, after, len(items), marker)


def _read_text(rest: str, state: State) -> Line:
    items = state.items
    if state.is_blank and items:
        indent = _indent(rest)
        while items and items[-1] > indent - 2:
            items = items[:-1]
    after = _after(
        state,
        items,
        is_paragraph=True,
        math=_open_math(rest, state.math),
        head=rest if "|" in rest and not state.math else "",
    )
    return Line(Kind.TEXT, rest.lstrip(" "), after, len(items), continues=state.is_paragraph)


def _after(
    state: State,
    items: tuple[int, ...],
    *,
    is_paragraph: bool = False,
    math: str = "",
    head: str = "",
) -> State:
    """Say what follows a line that is neither blank nor code. A state is made in each of them."""
    return State(state.quote, "", "", 0, math, None, items, head, is_paragraph, False)


def _after_blank(state: State) -> State:
    return State(state.quote, items=state.items, is_indented=state.is_indented)


def _unclose(heading: str) -> str:
    """Take off the marks that may close a heading."""
    text = heading.strip(" ")
    bare = text.rstrip("#")
    return bare.rstrip(" ") if not bare or bare.endswith(" ") else text


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _open_math(text: str, math: str) -> str:
    """Say what closes the formula that is open at the end of a line; nothing if none is."""
    if math:
        if math not in text:
            return math
        text = text.split(math, 1)[1]
    if "\\[" not in text and "$$" not in text:
        return ""
    if "`" in text:
        text = _CODE_SPAN.sub("", text)
    if text.rfind("\\[") > text.rfind("\\]"):
        return "\\]"
    return "$$" if text.count("$$") % 2 and (math or text.lstrip().startswith("$$")) else ""


def split_row(row: str) -> list[str]:
    """Read a table's row into its cells."""
    row = row.strip(" ").removeprefix("|")
    cells = _PIPE.split(row)
    if len(cells) > 1 and not cells[-1].strip():
        cells.pop()
    return [cell.strip().replace("\\|", "|") for cell in cells]


def _alignments(line: str, head: str) -> tuple[str, ...]:
    if "|" not in line or not _DELIMITERS.match(line):
        return ()
    cells = split_row(line)
    if len(cells) != len(split_row(head)):
        return ()
    return tuple(
        "center" if cell[0] == cell[-1] == ":" else "right" if cell[-1] == ":" else "left"
        for cell in cells
    )
