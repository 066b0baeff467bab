"""Reads what stands inside a paragraph: emphasis, code, links, formulas.

The rules are CommonMark's (https://spec.commonmark.org/0.31.2/#inlines), with five differences:
formulas keep every character; HTML stays visible, but for <u> and <br>; references to links stay
as they are written; emphasis may begin and end at East Asian punctuation, and `_` does not end it
before a call or a suffix.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

BOLD, ITALIC, UNDERLINE, STRIKETHROUGH, SPOILER, CODE = 1, 2, 4, 8, 16, 32


class Span(NamedTuple):
    """A stretch of text that looks one way."""

    text: str
    style: int = 0
    url: str = ""


def read_spans(text: str, math: str = "", style: int = 0) -> list[Span]:
    """Read a paragraph.

    `math` closes the formula in which it begins; `style` is what all of it has.
    """
    if not math and not _SIGN.search(text):
        return [Span(text, style)]
    return _Reader(text, style).read(math)


def embolden(span: Span) -> Span:
    """Make a span bold, unless it is code."""
    return span if span.style & CODE else Span(span.text, span.style | BOLD, span.url)


@dataclass(slots=True)
class _Delimiter:
    node: int
    character: str
    count: int
    can_open: bool
    can_close: bool
    place: int
    """In the text, to look at what stands between two."""
    length: int = 0

    def __post_init__(self) -> None:
        self.length = self.count


@dataclass(slots=True)
class _Bracket:
    node: int
    delimiters: int
    is_image: bool
    is_active: bool = True


@dataclass(slots=True)
class _Node:
    text: str
    style: int = 0
    url: str = ""


_SIGN = re.compile(r"[\\`$<&\[\]*_~|!]")
_SIGN_OR_ADDRESS = re.compile(r"[\\`$<&\[\]*_~|!h]")
"""What a token can begin with. Text with addresses in it is read more slowly."""

_TOKEN = re.compile(
    r"""
    (?P<delimiter>\*+|_+|~~+|\|\|+)
    |(?P<code>`+)
    |(?P<bracket>!?\[|\])
    |(?P<math>\\[(\[]|\$\$?)
    |\\(?P<escaped>[\\`*_~|\#<>$+\-!&"'{}]|(?<=\d\\)[.)])
    |(?P<url>\bhttps?://[^\s<>*`|~\[\]]*[^\s<>*`|~\[\]_])
    |<(?P<auto>https?://[^\s<>]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+)>
    |(?P<tag></?u>|<br[ ]?/?>)
    |(?P<entity>&(?:[A-Za-z][A-Za-z0-9]{1,31}|\#\d{1,7}|\#[xX][0-9A-Fa-f]{1,6});)
    |(?P<break>\\(?=\n))
    """,
    re.VERBOSE,
)
_LINK = re.compile(
    r"""\(\s*+
    (?:<(?P<pointed>https?://[^<>\n]*+)>|(?P<bare>[^\s()<>]*+(?:\([^\s()]*+\)[^\s()]*+)*+))
    (?:\s++(?P<title>"[^"]*+"|'[^']*+'|\([^()]*+\)))?+
    \s*+\)""",
    re.VERBOSE,
)
_DOLLARS = re.compile(r"\$(?=[^\s$])[^$\n]*(?<=[^\s\\])\$(?!\d)")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_LINKED = re.compile(r"(?i)https?://(?:[\w-]+\.)+[\w-]{2,}(?::(\d{1,5}))?(?:[/?#]\S*)?$")
_CALL = re.compile(r"\(|\.\w")
_WORD = re.compile(r"[^\W\d_]{3}")


class _Reader:
    def __init__(self, text: str, style: int) -> None:
        self._text = text
        self._style = style
        self._nodes: list[_Node] = []
        self._delimiters: list[_Delimiter] = []
        self._brackets: list[_Bracket] = []
        self._marks: list[tuple[int, int, int]] = []
        self._underlines: list[int] = []
        self._unclosed: set[str] = set()
        """What is looked for no more, because it does not come again."""

    def read(self, math: str) -> list[Span]:
        text = self._text
        place = 0
        if math:
            end = text.find(math)
            place = len(text) if end < 0 else end + len(math)
            self._put(text[:place])
        sign = _SIGN_OR_ADDRESS if "://" in text else _SIGN
        look = place
        while found := sign.search(text, look):
            start = found.start()
            match = _TOKEN.match(text, start)
            if not match:
                look = start + 1
                continue
            if start > place:
                self._put(text[place:start])
            place = look = self._take(match)
        self._put(text[place:])
        self._pair(0)
        return self._spans()

    def _put(self, text: str, style: int = 0) -> None:
        if text:
            self._nodes.append(_Node(text, style))

    def _take(self, match: re.Match[str]) -> int:
        """Take one token; returns where to go on."""
        token = match[0]
        match match.lastgroup:
            case "delimiter":
                self._take_delimiter(token, match)
            case "code":
                return self._take_code(token, match.end())
            case "bracket":
                return self._take_bracket(token, match)
            case "math":
                return self._take_math(token, match.start())
            case "escaped" | "auto":
                self._put(match[match.lastgroup])
            case "tag":
                self._take_tag(token)
            case "entity":
                character = html.unescape(token)
                is_shown = len(character) == 1 and (character.isprintable() or character == "\xa0")
                self._put(character if is_shown and character not in _DROPPED else token)
            case "break":
                pass  # the end of the line is a new line anyway
            case _:
                self._put(token)
        return match.end()

    def _take_math(self, opening: str, start: int) -> int:
        text = self._text
        if opening == "$":
            match = _DOLLARS.match(text, start)
            end = match.end() if match else start + 1
        else:
            closing = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}[opening]
            end = self._find(closing, start + 2)
            if end >= 0:
                end += 2
            elif opening == "$$" and text[:start].rpartition("\n")[2].strip():
                end = start + 2
            else:
                end = len(text)  # it is still being written
        self._put(text[start:end])
        return end

    def _find(self, closing: str, start: int) -> int:
        if closing in self._unclosed:
            return -1
        end = self._text.find(closing, start)
        if end < 0:
            self._unclosed.add(closing)
        return end

    def _take_code(self, ticks: str, start: int) -> int:
        if ticks not in self._unclosed:
            found = re.compile(f"(?<!`){ticks}(?!`)").search(self._text, start)
            if found:
                code = self._text[start : found.start()]
                if code[0] == code[-1] == " " and code.strip(" "):
                    code = code[1:-1]
                self._put(code, CODE)
                return found.end()
            self._unclosed.add(ticks)
        self._put(ticks)
        return start

    def _take_tag(self, tag: str) -> None:
        if tag.startswith("<br"):
            self._put("\n")
            return
        self._put(tag)
        if tag == "<u>":
            self._underlines.append(len(self._nodes) - 1)
        elif self._underlines:
            opening, closing = self._underlines.pop(), len(self._nodes) - 1
            self._nodes[opening].text = self._nodes[closing].text = ""
            self._marks.append((opening, closing, UNDERLINE))

    def _take_bracket(self, token: str, match: re.Match[str]) -> int:
        if token != "]":
            self._nodes.append(_Node(token))
            self._brackets.append(
                _Bracket(len(self._nodes) - 1, len(self._delimiters), token == "![")
            )
            return match.end()
        bracket = self._brackets.pop() if self._brackets else None
        link = _LINK.match(self._text, match.end()) if bracket and bracket.is_active else None
        if not link or not bracket:
            self._put(token)
            return match.end()
        self._pair(bracket.delimiters)
        del self._delimiters[bracket.delimiters :]
        if not bracket.is_image:
            for outer in self._brackets:
                outer.is_active = outer.is_image and outer.is_active
        self._link(bracket.node, link)
        return link.end()

    def _link(self, opening: int, link: re.Match[str]) -> None:
        pointed = link["pointed"]
        written = link["bare"] if pointed is None else pointed
        url = html.unescape(_ESCAPED.sub(r"\1", written))
        self._nodes[opening].text = ""
        self._underlines = [node for node in self._underlines if node < opening]
        label = self._nodes[opening + 1 :]
        shown = "".join(node.text for node in label)
        if not shown.strip():
            self._put(url)
        elif any(node.url for node in label):
            self._put(f" ({url})")  # an image in a link
        elif is_linkable(url):
            for node in label:
                node.url = url
        elif url and shown != url:
            self._put(f" ({url})")
        if link["title"]:
            self._put(f" ({link['title'][1:-1]})")

    def _take_delimiter(self, run: str, match: re.Match[str]) -> None:
        text, character = self._text, run[0]
        before = text[match.start() - 1] if match.start() else " "
        after = text[match.end()] if match.end() < len(text) else " "
        opens_left = not after.isspace() and (
            not _is_mark(after) or before.isspace() or _is_mark(before)
        )
        closes_right = not before.isspace() and (
            not _is_mark(before) or after.isspace() or _is_mark(after)
        )
        can_open, can_close = opens_left, closes_right
        if character == "_":
            can_open = opens_left and (not closes_right or _is_mark(before))
            can_close = closes_right and (not opens_left or _is_mark(after))
            if after in "(." and _CALL.match(text, match.end()):
                can_close = False  # __init__() and __init__.py are names
        elif character in "~|" and len(run) != 2:
            can_open = can_close = False
        self._nodes.append(_Node(run))
        if can_open or can_close:
            self._delimiters.append(
                _Delimiter(
                    len(self._nodes) - 1, character, len(run), can_open, can_close, match.start()
                )
            )

    def _pair(self, bottom: int) -> None:
        """Find what the delimiters from `bottom` on enclose, innermost first."""
        delimiters = self._delimiters
        lowest: dict[tuple[str, bool, int], int] = {}
        at = bottom
        while at < len(delimiters):
            closer = delimiters[at]
            if not closer.can_close:
                at += 1
                continue
            key = (closer.character, closer.can_open, closer.length % 3)
            found = at - 1
            while found >= lowest.get(key, bottom) and not self._match(delimiters[found], closer):
                found -= 1
            if found < lowest.get(key, bottom):
                lowest[key] = at
                at += 1
                continue
            opener = delimiters[found]
            used = 2 if opener.count >= 2 and closer.count >= 2 else 1
            style = {
                "~": STRIKETHROUGH,
                "|": SPOILER,
            }.get(closer.character, BOLD if used == 2 else ITALIC)
            self._marks.append((opener.node + 1, closer.node, style))
            for delimiter in (opener, closer):
                delimiter.count -= used
                self._nodes[delimiter.node].text = delimiter.character * delimiter.count
            del delimiters[found + (1 if opener.count else 0) : at]
            at = found + (1 if opener.count else 0)
            if not closer.count:
                del delimiters[at]

    def _match(self, opener: _Delimiter, closer: _Delimiter) -> bool:
        if opener.character != closer.character or not opener.can_open:
            return False
        if closer.character == "|":
            # Two bars are a norm or an "or" more often than something to be hidden.
            return bool(_WORD.search(self._text, opener.place + 2, closer.place))
        if closer.character == "~":
            return True
        is_both = opener.can_close or closer.can_open
        return not (
            is_both
            and (opener.length + closer.length) % 3 == 0
            and (opener.length % 3 or closer.length % 3)
        )

    def _spans(self) -> list[Span]:
        if not self._marks:
            return [_combine(node, node.style | self._style) for node in self._nodes if node.text]
        changes: dict[int, list[int]] = {}
        for start, end, style in self._marks:
            change = changes.setdefault(style, [0] * (len(self._nodes) + 1))
            change[start] += 1
            change[end] -= 1
        levels = dict.fromkeys(changes, 0)
        spans: list[Span] = []
        for position, node in enumerate(self._nodes):
            style = node.style | self._style
            for bit, change in changes.items():
                levels[bit] += change[position]
                if levels[bit]:
                    style |= bit
            if node.text:
                spans.append(_combine(node, style))
        return spans


def _combine(node: _Node, style: int) -> Span:
    """Code takes no other style, and a link takes no code."""
    if style & CODE:
        style = style & ~CODE if node.url else CODE
    return Span(node.text, style, node.url)


_DROPPED = {chr(code) for code in (0x030A, 0x0333, 0x033F)}


def is_linkable(url: str) -> bool:
    """Tell whether Telegram makes a link of it; it drops what it does not know."""
    match = _LINKED.match(url) if len(url) <= 1000 else None
    return bool(match and int(match[1] or 1) in range(1, 65_536))


def _is_mark(character: str) -> bool:
    """Tell whether it is punctuation or a symbol, as emphasis sees it; East Asian is not."""
    if character.isalnum():
        return False
    if "\u3000" <= character <= "\u303f" or "\uff00" <= character <= "\uffef":
        return False
    return unicodedata.category(character)[0] in "PS"
