"""Renders a piece of Markdown as a Telegram message: its text, and entities beside it.

Every visible character stays, in its order; only what Markdown is written with goes. What cannot
be shown by entities is left as it is written.
"""

import json
import unicodedata
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

from services.relay.markdown import Kind, Line, State, clean, count_units, read_line
from services.relay.spans import (
    BOLD,
    CODE,
    ITALIC,
    SPOILER,
    STRIKETHROUGH,
    UNDERLINE,
    Span,
    read_spans,
)
from services.relay.tables import lay_out

PLACEHOLDER = "…"

MOST_UNITS = 4096
MOST_ENTITIES = 100
"""Telegram leaves out what is beyond, of texts and of entities: in UTF-16 units, after parsing."""

LONG_QUOTE_UNITS = 400
LONG_QUOTE_LINES = 8
"""A longer quote is folded; whoever wants to read it touches it."""

INDENT = "    "
MOST_INDENTS = 6
RULE = "———"
_BULLETS = ("•", "◦", "▪")

_TYPES = {
    BOLD: "bold",
    ITALIC: "italic",
    UNDERLINE: "underline",
    STRIKETHROUGH: "strikethrough",
    SPOILER: "spoiler",
    CODE: "code",
}
_QUOTES = ("blockquote", "expandable_blockquote")
_MOST_NEEDED = ("text_link", "pre", "code")


class Entity(NamedTuple):
    """A stretch of a message that looks another way; offset and length in UTF-16 units."""

    type: str
    offset: int
    length: int
    url: str = ""
    language: str = ""

    def as_json(self) -> dict[str, Any]:
        """Write it as the Bot API wants it."""
        written: dict[str, Any] = {
            "type": self.type,
            "offset": self.offset,
            "length": self.length,
        }
        if self.url:
            written["url"] = self.url
        if self.language:
            written["language"] = self.language
        return written


class Rendered(NamedTuple):
    """One message as Telegram is to show it."""

    text: str
    entities: tuple[Entity, ...] = ()

    def entities_json(self) -> str | None:
        """Write the entities as one parameter of a call; None if there are none."""
        if not self.entities:
            return None
        return json.dumps([entity.as_json() for entity in self.entities])


def render_plain(source: str) -> Rendered:
    """Show a text as it is written."""
    return Rendered(clean(source).replace("\t", " ").strip())


def render(source: str, state: State) -> Rendered:
    """Render a piece of Markdown; `state` says what the lines before it mean for its first one.

    What Telegram would not take, or would not show, is shown as it is written.
    """
    return render_rest(Page(state), source, source)


def render_rest(page: "Page", rest: str, source: str) -> Rendered:
    """Render what comes behind the lines that are on a page already; all together is `source`.

    The page is used up.
    """
    for text in clean(rest).split("\n"):
        page.add(read_line(text, page.state))
    rendered = page.finish()
    if not is_visible(rendered.text) or count_units(rendered.text) > MOST_UNITS:
        return render_plain(source)
    return rendered


def is_visible(text: str) -> bool:
    """Tell whether there is anything to be seen: Telegram takes no message without."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


@dataclass(slots=True)
class _Stretch:
    """An entity that may still grow."""

    type: str
    start: int
    end: int
    url: str = ""
    language: str = ""


class Page:
    """Puts a message together, line by line."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._pieces: list[str] = []
        self._units = 0
        self._is_blank = False
        """A blank line is to be shown before what comes next."""
        self._stretches: list[_Stretch] = []
        self._nested: list[_Stretch] = []
        """Those that may go on in the next span of the line, the outermost first."""
        self._quote: tuple[int, int] | None = None
        """Where the quote begins, in units and pieces."""
        self._math = state.math
        """The formula that is open where the first paragraph begins."""
        self._paragraph: list[Line] = []
        self._code: list[str] = []
        self._fence: Line | None = None
        self._rows: list[str] = []
        self._has_head = False
        """The table's head stands in this piece."""

    def copy(self) -> "Page":
        """Make a page that can be finished while this one goes on.

        What is written out does not change any more, so the two share it.
        """
        page = copy(self)
        page._pieces, page._stretches = self._pieces.copy(), self._stretches.copy()
        page._paragraph, page._code = self._paragraph.copy(), self._code.copy()
        page._rows, page._nested = self._rows.copy(), []
        return page

    def add(self, line: Line) -> None:
        """Add the next line, which was read after this page's `state`."""
        before, self.state = self.state, line.after
        self._add(line, before)

    def _add(self, line: Line, before: State) -> None:
        kind = line.kind
        if kind is Kind.CODE:
            self._code.append(line.text)
            return
        quote = line.after.quote
        if quote != before.quote:
            self._end_block(before)
            if not quote or not before.quote:
                self._end_quote()
        if kind is Kind.TEXT and line.continues and (self._paragraph or not self._pieces):
            self._paragraph.append(line)
            return
        if kind is Kind.BLANK and before.is_indented:
            self._code.append("")
            return
        if kind is Kind.ROW:
            self._rows.append(line.text)
            return
        if kind is Kind.UNDERLINE and self._paragraph:
            self._end_paragraph(BOLD)
            return
        if kind is Kind.TABLE and self._paragraph:
            self._paragraph.pop()  # it is the table's head
        if kind is not Kind.INDENTED or not self._code:
            self._end_block(before)
        match kind:
            case Kind.BLANK:
                self._is_blank = True
            case Kind.TEXT | Kind.ITEM:
                self._paragraph.append(line)
            case Kind.HEADING:
                self._paragraph.append(line)
                self._end_paragraph()
            case Kind.RULE:
                self._write_line([Span(RULE)], quote)
            case Kind.UNDERLINE:
                self._write_line([Span(line.text)], quote)
            case Kind.FENCE:
                self._fence = line
                if line.marker:
                    self._write_line([Span(_marker(line))], quote, line.depth - 1)
            case Kind.INDENTED:
                self._code.append(line.text)
            case Kind.TABLE:
                self._has_head = True

    def finish(self) -> Rendered:
        """End what is open, and give the message as Telegram will keep it."""
        self._end_block(self.state)
        self._end_quote()
        text = "".join(self._pieces)
        shown = text.rstrip("\n ")
        end = count_units(shown)
        stretches = [s for s in self._stretches if s.start < min(s.end, end)]
        stretches.sort(key=lambda s: (s.start, -s.end, s.type not in _QUOTES))
        leading = len(shown) - len(shown.lstrip("\n "))
        if stretches:
            leading = min(leading, stretches[0].start)
        entities = [
            Entity(s.type, s.start - leading, min(s.end, end) - s.start, s.url, s.language)
            for s in stretches
        ]
        return Rendered(shown[leading:], tuple(_most_needed(entities)))

    # Blocks

    def _end_block(self, state: State) -> None:
        """Write out the lines that were waiting for the rest of their block."""
        if self._paragraph:
            self._end_paragraph()
        elif state.table:
            self._end_table(state)
        elif self._code or self._fence:
            self._end_code(state)

    def _end_paragraph(self, style: int = 0) -> None:
        lines, self._paragraph = self._paragraph, []
        first = lines[0]
        depth = first.depth
        if first.kind is Kind.HEADING:
            depth = 0
            style = BOLD | UNDERLINE if first.depth == 1 else BOLD
        text = "\n".join(line.text.rstrip(" ") for line in lines)
        math, self._math = self._math, ""
        spans = read_spans(text, math, style)
        if first.quote and text.startswith("[!") and text.split("\n")[0].endswith("]"):
            title = first.text[2:-1]
            spans = [Span(title, BOLD), *read_spans(text[len(first.text) :])]
        if first.kind is Kind.ITEM:
            spans = [Span(f"{_marker(first)} "), *spans]
            self._write_line(spans, first.quote, depth - 1, INDENT)
        else:
            self._write_line(spans, first.quote, depth)

    def _end_table(self, state: State) -> None:
        rows, self._rows = self._rows, []
        has_head, self._has_head = self._has_head, False
        if not state.table or not (rows or has_head):
            return
        layout = lay_out(state.table, rows)
        if isinstance(layout, str):
            self._write_code(layout, "", state.quote)
            return
        for line in layout:
            if line:
                self._write_line(line, state.quote)
            else:
                self._is_blank = True

    def _end_code(self, state: State) -> None:
        fence, self._fence = self._fence, None
        lines, self._code = self._code, []
        had = len(lines)
        while lines and not lines[-1].strip():
            lines.pop()
        is_blank = state.is_indented and had > len(lines)
        while lines and not fence and not lines[0].strip():
            lines.pop(0)
        language = fence.after.language if fence else state.language
        if fence and fence.text:
            lines.insert(0, fence.text)
        code = "\n".join(lines)
        if is_visible(code):
            self._write_code(code, language, state.quote)
        elif fence:
            self._write_line([Span(fence.after.fence + language)], state.quote)
        self._is_blank = self._is_blank or is_blank

    def _end_quote(self) -> None:
        if not self._quote:
            return
        (start, piece), self._quote = self._quote, None
        lines = "".join(self._pieces[piece:]).count("\n") + 1
        is_long = lines > LONG_QUOTE_LINES or self._units - start > LONG_QUOTE_UNITS
        self._stretches.append(_Stretch(_QUOTES[is_long], start, self._units))

    # Text

    def _begin_line(self, quote: int) -> None:
        if self._pieces:
            self._put("\n\n" if self._is_blank else "\n")
        self._is_blank = False
        if quote and not self._quote:
            self._quote = self._units, len(self._pieces)

    def _put(self, text: str) -> None:
        self._pieces.append(text)
        self._units += len(text) if text.isascii() else count_units(text)

    def _write_line(self, spans: list[Span], quote: int, depth: int = 0, hang: str = "") -> None:
        """Write spans; new lines in them begin with the same indent, and `hang`."""
        self._begin_line(quote)
        inner = f"{'>' * (quote - 1)} " if quote > 1 else ""
        indent = inner + INDENT * min(depth, MOST_INDENTS - 1)
        if indent:
            self._put(indent)
        for text, style, url in spans:
            if "\n" in text and (indent or hang):
                text = text.replace("\n", f"\n{indent}{hang}")
            start = self._units
            self._put(text)
            if url or style or self._nested:
                self._nest(start, style, url)
        self._nested = []

    def _write_code(self, code: str, language: str, quote: int) -> None:
        self._begin_line(quote)
        start = self._units
        self._put(code)
        self._stretches.append(_Stretch("pre", start, self._units, language=language))

    def _nest(self, start: int, style: int, url: str) -> None:
        """Lengthen the entities that go on, begin new ones; none overlaps another in part."""
        wanted = [(kind, "") for bit, kind in _TYPES.items() if style & bit]
        if url:
            wanted.insert(0, ("text_link", url))
        kept = 0
        for stretch in self._nested:
            if (stretch.type, stretch.url) not in wanted:
                break
            wanted.remove((stretch.type, stretch.url))
            stretch.end = self._units
            kept += 1
        del self._nested[kept:]
        for kind, address in wanted:
            stretch = _Stretch(kind, start, self._units, address)
            self._nested.append(stretch)
            self._stretches.append(stretch)


def _marker(line: Line) -> str:
    marker, _, box = line.marker.partition(" ")
    if box:
        sign = "☐" if box == "[ ]" else "☑"
        return sign if marker in "-*+" else f"{marker} {sign}"
    if marker in "-*+":
        return _BULLETS[min(max(line.depth, 1), len(_BULLETS)) - 1]
    return marker


def _most_needed(entities: list[Entity]) -> list[Entity]:
    """Keep as many as Telegram shows; those first without which something would be missing."""
    if len(entities) <= MOST_ENTITIES:
        return entities
    ranked = sorted(entities, key=lambda entity: entity.type not in _MOST_NEEDED)
    kept = set(map(id, ranked[:MOST_ENTITIES]))
    return [entity for entity in entities if id(entity) in kept]
