"""Cuts a growing reply into parts, each a message that Telegram takes.

Where a part ends depends on the text before that place, and on no more of the text behind it than
shows that the part is full. So a cut never moves: not while the reply grows, and not in another
relay that begins with the whole text. What stands before the last cut is never read again, and of
the part that grows only the block that is not complete.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from services.relay.graphemes import last_border
from services.relay.markdown import START, Kind, Line, State, clean, count_units, read_line
from services.relay.rendering import (
    INDENT,
    MOST_ENTITIES,
    MOST_INDENTS,
    MOST_UNITS,
    Page,
    Rendered,
    is_visible,
    render,
    render_plain,
    render_rest,
)
from services.relay.tables import bound_head, bound_row

Markup = Literal["plain", "markdown"]

# How good a place to cut is, between two lines.
_PARAGRAPH, _BLOCK, _LINE, _CODE_PARAGRAPH, _CODE = 5, 4, 3, 2, 1

_BLOCKS = (Kind.HEADING, Kind.RULE, Kind.ITEM, Kind.FENCE)
_SENTENCE_END = re.compile(r"[.!?…؟۔](?=\s)|[。！？]")
_SOMETHING = re.compile(r"\S")
_SIGN = re.compile(r"[*`_\[|#~]")
# Each alternative begins with its sign, so that a search skips what is none.
_STYLED = re.compile(r"\*\**|_(?<!\w_)_*|__*(?!\w)|``*|~~|\|\||\]\(")


class _Cut(NamedTuple):
    """A place between two lines, and what is known there."""

    place: int
    cost: int
    styled: int
    state: State
    lines: int = 0
    """So many lines of the part stand before it."""


@dataclass(slots=True)
class _Part:
    """A part that is full."""

    start: int
    end: int
    state: State
    lines: list[Line]
    """Its complete lines, until it was rendered; none if they are not known."""
    rest: int
    """Where they end."""
    token: int | None = None


class Parts:
    """The parts of one reply. `read` it again whenever it has grown."""

    def __init__(self, markup: Markup = "plain", most_units: int = MOST_UNITS) -> None:
        """`most_units` are what one part can hold, in UTF-16 units."""
        self._is_markdown = markup == "markdown"
        self._most_units = most_units
        self._plain: set[int] = set()
        self._begin("")

    def _begin(self, text: str) -> None:
        self._text = text
        self._full: list[_Part] = []
        self._last: tuple[int, Rendered] | None = None
        self._has_last = False
        self._has_begun = False
        self._open(_Cut(0, 0, 0, START))

    def _open(self, cut: _Cut) -> None:
        """Begin a part here."""
        state, cost = cut.state, 0
        if state.table:
            # Its head is repeated.
            cost = count_units(state.table.head) + bound_head(state.table.head)
            if cost > self._most_units // 4:
                state, cost = state._replace(table=None), 0
        self._start = self._here = _Cut(cut.place, cost, 0, state)
        self._is_below_blank = self._is_below_heading = False
        self._best: dict[int, _Cut] = {}
        self._lines: list[Line] = []
        self._has_all_lines = self._is_markdown
        self._page = Page(state)
        self._on_page = 0

    def __len__(self) -> int:
        """Count the parts that there is something to be seen in."""
        return len(self._full) + self._has_last

    def read(self, text: str) -> None:
        """Take the text as it is now. What it has grown by is read, and no more."""
        if text is self._text:
            return
        if not text.startswith(self._text):
            self._begin(text)
        self._text = text
        self._last = None
        if not self._has_begun:
            # White space at the beginning is dropped when the reply is complete.
            found = _SOMETHING.search(text)
            if not found:
                return
            self._has_begun = True
            self._open(_Cut(found.start(), 0, 0, START))
        while self._read_line():
            pass
        self._has_last = is_visible(clean(text[self._start.place :]))

    def render(self, position: int) -> Rendered:
        """Render one part."""
        if position < len(self._full):
            part = self._full[position]
            lines, part.lines = part.lines, []
            if not lines or position in self._plain:
                return self._render(position, part.start, part.end, part.state)
            page = _fill(Page(part.state), lines)
            return render_rest(
                page, self._text[part.rest : part.end], self._text[part.start : part.end]
            )
        if not self._last:
            rendered = self._render_last(position)
            self._last = hash(rendered), rendered
        return self._last[1]

    def _render_last(self, position: int) -> Rendered:
        """Render the part that grows. Its lines are put on its page once, the rest each time."""
        text, start = self._text, self._start
        if not self._has_all_lines or position in self._plain:
            return self._render(position, start.place, len(text), start.state)
        _fill(self._page, self._lines[self._on_page :])
        self._on_page = len(self._lines)
        return render_rest(self._page.copy(), text[self._here.place :], text[start.place :])

    def give_up(self, position: int) -> None:
        """Show a part as it is written from now on: what it was rendered as is not taken."""
        self._plain.add(position)
        self._last = None
        if position < len(self._full):
            self._full[position].token = None

    def token(self, position: int) -> int:
        """Tell one content of a part from another; a full part is rendered once for it."""
        if position < len(self._full):
            part = self._full[position]
            if part.token is None:
                part.token = hash(self.render(position))
            return part.token
        self.render(position)
        assert self._last
        return self._last[0]

    def _render(self, position: int, start: int, end: int, state: State) -> Rendered:
        source = self._text[start:end]
        if not self._is_markdown or position in self._plain:
            return render_plain(source)
        return render(source, state)

    # Cutting

    def _read_line(self) -> bool:
        """Read the next line, or cut before its end; False: there is no complete line left."""
        here = self._here
        start = here.place
        end = self._text.find("\n", start)
        is_complete = end >= 0
        if not is_complete:
            end = len(self._text)
        window = min(end, start + self._most_units + 1)
        raw = self._text[start:window]
        # White space at the end is not to be seen: a part is full when more than that is left.
        visible = raw.rstrip()
        cost = self._cost(visible, here.state) if visible else 0
        if self._overflows(here, cost, window, end):
            self._cut(visible, here)
            return True
        if not is_complete:
            return False
        line = self._read(raw, here.state)
        self._lines.append(line)
        # Only of white space, which no message takes that much of, is there more in the line.
        self._has_all_lines &= window == end
        if start > self._start.place:
            self._note(here, self._rank(line))
        if len(visible) < len(raw):
            cost = self._cost(raw, here.state)
        styled = here.styled + (0 if line.after.fence else self._count_styled(raw))
        self._here = _Cut(end + 1, here.cost + cost + 1, styled, line.after, len(self._lines))
        self._is_below_blank = line.kind is Kind.BLANK
        if not self._is_below_blank:
            self._is_below_heading = line.kind is Kind.HEADING
        return True

    def _overflows(self, here: _Cut, cost: int, window: int, end: int) -> bool:
        """Tell whether this part cannot take all of a line that can be seen."""
        if cost > self._most_units - here.cost:
            return True
        if cost and here.styled >= MOST_ENTITIES and here.place > self._start.place:
            return True
        # Of a line that is longer than any part, only the beginning is looked at.
        return window < end and _SOMETHING.search(self._text, window, end) is not None

    def _read(self, line: str, state: State) -> Line:
        if self._is_markdown:
            return read_line(clean(line), state)
        is_blank = not line.strip()
        return Line(
            Kind.BLANK if is_blank else Kind.TEXT, line, _BLANK if is_blank else _TEXT
        )  # fmt: skip

    def _cost(self, line: str, state: State) -> int:
        """Say how many units of a message a line's beginning takes at most, once rendered.

        It must depend on nothing behind it, and is never less than the line as it is written.
        """
        cost = count_units(line)
        if not self._is_markdown:
            return cost
        if "\t" in line:
            cost += 3 * line.count("\t")
        if state.items and not state.fence:
            indent = len(INDENT) * min(len(state.items) + 1, MOST_INDENTS)
            cost += max(0, indent - (len(line) - len(line.lstrip(" "))))
            cost += (indent + 1) * line.count("<br")
        if state.table:
            cost += bound_row(state.table)
        elif state.head:
            cost += bound_head(state.head)
        return cost

    def _count_styled(self, line: str) -> int:
        """Estimate how many entities a line takes."""
        if not self._is_markdown or not _SIGN.search(line):
            return 0
        found = _STYLED.findall(line)
        links = found.count("](")
        return links + (len(found) - links) // 2 + line.lstrip(" ").startswith(("#", "|"))

    def _rank(self, line: Line | None) -> int:
        """Say how good the place before a line is; None: nothing is known of the line."""
        state = self._here.state
        if state.fence or state.math or state.table or state.is_indented:
            return _CODE_PARAGRAPH if state.is_blank else _CODE
        if self._is_below_heading:
            return _CODE_PARAGRAPH  # what it is the heading of shall stand below it
        if self._is_below_blank:
            return _PARAGRAPH
        return _BLOCK if line and line.kind in _BLOCKS else _LINE

    def _note(self, place: _Cut, rank: int) -> None:
        self._best[rank] = place

    def _cut(self, line: str, here: _Cut) -> None:
        """End the part that is open at the best place in its last half."""
        room = self._most_units - here.cost
        fitting = self._fitting(line, here.state, room)
        if here.styled >= MOST_ENTITIES:
            fitting = 0
        if here.place > self._start.place:
            self._note(here, self._rank(None))
        half = (here.cost + self._cost(line[:fitting], here.state)) / 2
        for rank in sorted(self._best, reverse=True):
            if self._best[rank].cost >= half:
                self._close(self._best[rank])
                return
        least = self._fitting(line, here.state, max(0, int(half) - here.cost))
        at = self._place_in_line(line, least, fitting, is_code=bool(here.state.fence))
        after = self._read(line[:at], here.state).after
        rest = State(
            quote=after.quote, fence=after.fence, language=after.language, indent=after.indent,
            math=after.math, items=after.items, is_blank=False, is_midline=True,
        )  # fmt: skip
        self._close(_Cut(here.place + at, 0, 0, rest, here.lines), here.place)

    def _fitting(self, line: str, state: State, room: int) -> int:
        """Count the characters of the longest beginning that takes no more than `room`."""
        low, high = 0, len(line)
        while low < high:
            middle = (low + high + 1) // 2
            if self._cost(line[:middle], state) <= room:
                low = middle
            else:
                high = middle - 1
        return low

    def _place_in_line(self, line: str, least: int, most: int, *, is_code: bool) -> int:
        if not is_code:
            ends = [found.end() for found in _SENTENCE_END.finditer(line, least, most)]
            if ends := [end for end in ends if 0 < end <= most]:
                return next((end for end in reversed(ends) if _is_even(line[:end])), ends[-1])
        # White space at the end of the line was taken off: its end is a border as well.
        spaces = [at for at in range(max(least, 1), most + 1) if line[at : at + 1] in ("", " ")]
        if spaces:
            return next((end for end in reversed(spaces) if _is_even(line[:end])), spaces[-1])
        return last_border(line, max(least, 1), most)

    def _close(self, cut: _Cut, rest: int | None = None) -> None:
        """End the part at a cut; if that is within a line, the line begins at `rest`."""
        start = self._start
        if is_visible(clean(self._text[start.place : cut.place])):
            lines = self._lines[: cut.lines] if self._has_all_lines else []
            rest = cut.place if rest is None else rest
            self._full.append(_Part(start.place, cut.place, start.state, lines, rest))
        self._open(cut)


def _fill(page: Page, lines: list[Line]) -> Page:
    for line in lines:
        page.add(line)
    return page


def _is_even(text: str) -> bool:
    """Tell whether what is opened in a text seems to be closed in it."""
    return (
        text.count("**") % 2 == 0
        and text.count("`") % 2 == 0
        and text.count("[") == text.count("]")
        and text.count("(") <= text.count(")")
    )


_TEXT = State(is_blank=False)
_BLANK = State()
