"""Owns the two markup languages of parse_mode, HTML and MarkdownV2, as strict as Telegram's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tests.stubs.telegram.errors import BotApiError
from tests.stubs.telegram.text import Entity

# Telegram counts the end of the text as white space, so a sentinel spares bounds checks.
_END = "\0"
_SPACES = frozenset(" \t\r\n\v\0")
_NAMES = {
    "bold": "Bold",
    "italic": "Italic",
    "underline": "Underline",
    "strikethrough": "Strikethrough",
    "spoiler": "Spoiler",
    "blockquote": "BlockQuote",
    "code": "Code",
    "pre": "Pre",
    "pre_code": "PreCode",
    "text_link": "TextUrl",
    "custom_emoji": "CustomEmoji",
}


def parse(text: str, parse_mode: str) -> tuple[str, list[Entity]]:
    """Return the visible text and its entities, or raise "can't parse entities: CAUSE"."""
    match parse_mode.lower():
        case "html":
            return _Html(text).parse()
        case "markdownv2":
            return _MarkdownV2(text).parse()
        case "markdown":
            raise BotApiError(501, "The stub does not parse the legacy Markdown: use MarkdownV2")
        case _:
            raise BotApiError.worded(400, "Unsupported parse_mode")


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._text = source + _END * 4
        self._size = len(source)
        self._out: list[str] = []
        self._units = 0
        self._entities: list[Entity] = []

    def _fail(self, cause: str) -> BotApiError:
        return BotApiError.worded(400, f"Can't parse entities: {cause}")

    def _bytes(self, position: int) -> int:
        return len(self._source[:position].encode("utf-8", "surrogatepass"))

    def _put(self, character: str) -> None:
        self._out.append(character)
        self._units += 2 if character > "\uffff" else 1

    def _add(self, kind: str, offset: int, **extra: Any) -> None:
        self._entities.append(Entity(kind, offset, self._units - offset, extra))

    def _add_link(self, url: str, offset: int) -> None:
        user = _linked_user(url)
        if user is not None:
            mentioned = {"id": user, "is_bot": False, "first_name": "User"}
            self._add("text_mention", offset, user=mentioned)
            return
        checked = checked_link(url)
        if checked:
            self._add("text_link", offset, url=checked)

    def _result(self) -> tuple[str, list[Entity]]:
        return "".join(self._out), sorted(self._entities, key=lambda entity: entity.order)


@dataclass
class _Tag:
    name: str
    argument: str
    offset: int
    place: int


class _Html(_Parser):
    """Tags of the Bot API's HTML style, nested properly, and four named character references."""

    _ENTITY_TYPES: ClassVar = {
        "i": "italic",
        "em": "italic",
        "b": "bold",
        "strong": "bold",
        "s": "strikethrough",
        "strike": "strikethrough",
        "del": "strikethrough",
        "u": "underline",
        "ins": "underline",
        "tg-spoiler": "spoiler",
        "span": "spoiler",
    }
    _TAGS = frozenset({*_ENTITY_TYPES, "a", "tg-emoji", "tg-time", "pre", "code", "blockquote"})
    _REFERENCES: ClassVar = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}
    _NUMERIC = re.compile(r"&#(?:x([0-9A-Fa-f]*)|([0-9]*))")
    _NAMED = re.compile(r"&([A-Za-z]*)")

    def parse(self) -> tuple[str, list[Entity]]:
        stack: list[_Tag] = []
        position = 0
        while position < self._size:
            character = self._text[position]
            if character == "&":
                decoded, after = self._reference(position)
                if decoded:
                    self._put(decoded)
                    position = after
                    continue
            if character != "<":
                self._put(character)
                position += 1
            elif self._text[position + 1] != "/":
                position = self._open(position, stack)
            else:
                position = self._close(position, stack)
        if stack:
            raise self._fail(f'Can\'t find end tag corresponding to start tag "{stack[-1].name}"')
        text, entities = self._result()
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self._fail(
                "Text contains invalid Unicode characters after decoding HTML entities, check for "
                "unmatched surrogate code units"
            )
        return text, [
            Entity("code", e.offset, e.length) if e.type == "code" and e.extra else e
            for e in entities
        ]

    def _reference(self, position: int) -> tuple[str, int]:
        numeric = self._NUMERIC.match(self._text, position)
        if numeric:
            digits = numeric.group(1) if numeric.group(1) is not None else numeric.group(2)
            base = 16 if numeric.group(1) is not None else 10
            code = int(digits, base) if digits else 0
            end = numeric.end()
            if code == 0 or code >= 0x10FFFF or end - position >= 10:
                return "", position
            decoded = chr(code)
        else:
            named = self._NAMED.match(self._text, position)
            assert named is not None
            end = named.end()
            decoded = self._REFERENCES.get(named.group(1), "")
            if not decoded:
                return "", position
        return decoded, end + 1 if self._text[end] == ";" else end

    def _open(self, begin: int, stack: list[_Tag]) -> int:
        at = self._bytes(begin)
        position = begin + 1
        while self._text[position] not in _SPACES and self._text[position] != ">":
            position += 1
        if position >= self._size:
            raise self._fail(f"Unclosed start tag at byte offset {at}")
        name = self._text[begin + 1 : position].lower()
        if name not in self._TAGS:
            raise self._fail(f'Unsupported start tag "{name}" at byte offset {at}')
        argument = ""
        while self._text[position] != ">":
            position = self._skip_spaces(position)
            if self._text[position] == ">":
                break
            start = position
            while self._text[position] not in _SPACES and self._text[position] not in "=>/\"'":
                position += 1
            attribute = self._text[start:position]
            if not attribute:
                raise self._fail(f'Empty attribute name in the tag "{name}" at byte offset {at}')
            position = self._skip_spaces(position)
            if self._text[position] != "=":
                if position >= self._size:
                    raise self._fail(f'Unclosed start tag "{name}" at byte offset {at}')
                if name == "blockquote" and attribute == "expandable":
                    argument = "1"
                continue
            position = self._skip_spaces(position + 1)
            if position >= self._size:
                raise self._fail(f'Unclosed start tag "{name}" at byte offset {at}')
            value, position = self._attribute_value(position)
            if position >= self._size:
                raise self._fail(f"Unclosed start tag at byte offset {at}")
            argument = self._argument(name, attribute, value, argument)
        if name == "span" and argument != "spoiler":
            raise self._fail(f'Tag "span" must have class "tg-spoiler" at byte offset {at}')
        stack.append(_Tag(name, argument, self._units, len(self._out)))
        return position + 1

    def _skip_spaces(self, position: int) -> int:
        while position < self._size and self._text[position] in _SPACES:
            position += 1
        return position

    def _attribute_value(self, position: int) -> tuple[str, int]:
        quote = self._text[position]
        if quote not in "'\"":
            start = position
            while (self._text[position].isascii() and self._text[position].isalnum()) or self._text[
                position
            ] in ".-":
                position += 1
            if self._text[position] not in _SPACES and self._text[position] != ">":
                raise self._fail(
                    f"Unexpected end of name token at byte offset {self._bytes(start)}"
                )
            return self._text[start:position].lower(), position
        value = []
        position += 1
        while position < self._size and self._text[position] != quote:
            if self._text[position] == "&":
                decoded, after = self._reference(position)
                if decoded:
                    value.append(decoded)
                    position = after
                    continue
            value.append(self._text[position])
            position += 1
        return "".join(value), min(position + 1, self._size)

    @staticmethod
    def _argument(tag: str, attribute: str, value: str, current: str) -> str:
        match tag, attribute:
            case ("a", "href") | ("tg-emoji", "emoji-id") | ("tg-time", "unix"):
                return value
            case "code", "class" if value.startswith("language-"):
                return value.removeprefix("language-")
            case "span", "class" if value.startswith("tg-"):
                return value.removeprefix("tg-")
            case "blockquote", "expandable":
                return "1"
            case _:
                return current

    def _close(self, begin: int, stack: list[_Tag]) -> int:
        at = self._bytes(begin)
        if not stack:
            raise self._fail(f"Unexpected end tag at byte offset {at}")
        position = begin + 2
        while self._text[position] not in _SPACES and self._text[position] != ">":
            position += 1
        name = self._text[begin + 2 : position].lower()
        position = self._skip_spaces(position)
        if self._text[position] != ">":
            raise self._fail(f"Unclosed end tag at byte offset {at}")
        tag = stack.pop()
        if name and name != tag.name:
            raise self._fail(
                f'Unmatched end tag at byte offset {at}, expected "</{tag.name}>", '
                f'found "</{name}>"'
            )
        if self._units > tag.offset:
            self._end_entity(tag)
        return position + 1

    def _end_entity(self, tag: _Tag) -> None:
        last = self._entities[-1] if self._entities else None
        same = (
            last is not None
            and last.offset == tag.offset
            and last.length == self._units - tag.offset
        )
        match tag.name:
            case "a":
                self._add_link(tag.argument or "".join(self._out[tag.place :]), tag.offset)
            case "tg-emoji":
                if not tag.argument.isdigit() or int(tag.argument) == 0:
                    raise self._fail("Invalid custom emoji identifier specified")
                self._add("custom_emoji", tag.offset, custom_emoji_id=tag.argument)
            case "tg-time":
                if tag.argument.isdigit() and int(tag.argument) > 0:
                    self._add("date_time", tag.offset, unix_time=int(tag.argument))
            case "pre":
                if same and last is not None and last.type == "code" and last.extra:
                    self._entities[-1] = Entity("pre", last.offset, last.length, last.extra)
                else:
                    self._add("pre", tag.offset)
            case "code":
                if same and last is not None and last.type == "pre" and tag.argument:
                    extra = {"language": tag.argument}
                    self._entities[-1] = Entity("pre", last.offset, last.length, extra)
                elif tag.argument:
                    self._add("code", tag.offset, language=tag.argument)
                else:
                    self._add("code", tag.offset)
            case "blockquote":
                kind = "expandable_blockquote" if tag.argument else "blockquote"
                self._add(kind, tag.offset)
            case name:
                self._add(self._ENTITY_TYPES[name], tag.offset)


@dataclass
class _Open:
    kind: str
    argument: str
    offset: int
    begin: int
    place: int


class _MarkdownV2(_Parser):
    """MarkdownV2: every reserved character is markup or escaped, else the message is refused."""

    _RESERVED = frozenset("_*[]()~`>#+-=|{}.!\n")
    _VERBATIM = frozenset({"code", "pre", "pre_code"})

    def parse(self) -> tuple[str, list[Entity]]:
        self._stack: list[_Open] = []
        self._quoting = False
        self._may_quote = True
        position = 0
        while position < self._size:
            character = self._text[position]
            escaped = self._text[position + 1]
            if character == "\\" and "\0" < escaped <= "~":
                self._put(escaped)
                if escaped != "\r":
                    self._may_quote = escaped == "\n"
                position += 2
                continue
            verbatim = bool(self._stack) and self._stack[-1].kind in self._VERBATIM
            if character not in self._RESERVED or (verbatim and character != "`"):
                if character != "\r":
                    self._may_quote = False
                self._put(character)
                position += 1
            elif self._ends_here(character, position):
                position = self._end(character, position)
            else:
                position = self._begin(character, position)
        self._finish_quote()
        if self._stack:
            raise self._unclosed(self._stack[-1])
        return self._result()

    def _unclosed(self, entity: _Open) -> BotApiError:
        return self._fail(
            f"Can't find end of {_NAMES[entity.kind]} entity at byte offset "
            f"{self._bytes(entity.begin)}"
        )

    def _reserved(self, character: str) -> BotApiError:
        return self._fail(
            f"Character '{character}' is reserved and must be escaped with the preceding '\\'"
        )

    def _ends_here(self, character: str, position: int) -> bool:
        if not self._stack:
            return False
        following = self._text[position + 1]
        if self._quoting and character == "\n" and following != ">":
            return True
        match self._stack[-1].kind:
            case "bold":
                return character == "*"
            case "italic":
                return character == "_" and following != "_"
            case "underline":
                return character == "_" and following == "_"
            case "strikethrough":
                return character == "~"
            case "spoiler":
                return character == "|" and following == "|"
            case "code":
                return character == "`"
            case "pre" | "pre_code":
                return self._text.startswith("```", position)
            case "text_link" | "custom_emoji":
                return character == "]"
            case _:
                return False

    def _begin(self, character: str, position: int) -> int:
        begin = position
        following = self._text[position + 1]
        argument = ""
        match character:
            case "_" if following == "_":
                kind, position = "underline", position + 2
            case "_":
                kind, position = "italic", position + 1
            case "*":
                kind, position = "bold", position + 1
            case "~":
                kind, position = "strikethrough", position + 1
            case "|" if following == "|":
                kind, position = "spoiler", position + 2
            case "[":
                kind, position = "text_link", position + 1
            case "!" if following == "[":
                kind, position = "custom_emoji", position + 2
            case "`" if self._text.startswith("```", position):
                kind, argument, position = self._begin_pre(position + 3)
            case "`":
                kind, position = "code", position + 1
            case "\n":
                self._put("\n")
                self._may_quote = True
                return position + 1
            case ">" if self._may_quote:
                if self._quoting:
                    return position + 1
                kind, position = "blockquote", position + 1
                self._quoting = True
            case _:
                raise self._reserved(character)
        self._stack.append(_Open(kind, argument, self._units, begin, len(self._out)))
        return position

    def _begin_pre(self, position: int) -> tuple[str, str, int]:
        end = position
        while self._text[end] not in _SPACES and self._text[end] != "`":
            end += 1
        kind, argument = "pre", ""
        if end != position and end < self._size and self._text[end] != "`":
            kind, argument, position = "pre_code", self._text[position:end], end
        if self._text[position] in "\r\n":
            pair = self._text[position : position + 2]
            position += 2 if pair in ("\r\n", "\n\r") else 1
        return kind, argument, position

    def _end(self, character: str, position: int) -> int:
        entity = self._stack[-1]
        kind = entity.kind
        if character == "\n" and kind != "blockquote":
            gap = position - entity.begin
            closes_expandable = kind == "spoiler" and (
                gap == 2 or (gap == 3 and bool(self._out) and self._out[-1] == "\r")
            )
            if not closes_expandable:
                raise self._unclosed(entity)
            self._stack.pop()
            entity = self._stack[-1]
            if entity.kind != "blockquote":
                raise self._unclosed(entity)
            kind = "expandable_blockquote"
        self._stack.pop()
        is_empty = self._units == entity.offset
        match kind:
            case "blockquote" | "expandable_blockquote":
                self._quoting = False
                self._put("\n")
                self._may_quote = True
                self._add(kind, entity.offset)
                return position + 1
            case "text_link":
                return self._end_link(entity, position, is_empty)
            case "custom_emoji":
                return self._end_emoji(entity, position, is_empty)
            case "underline" | "spoiler":
                position += 2
            case "pre" | "pre_code":
                position += 3
            case _:
                position += 1
        if not is_empty:
            if kind == "pre_code":
                self._add("pre", entity.offset, language=entity.argument)
            else:
                self._add(kind, entity.offset)
        return position

    def _end_link(self, entity: _Open, position: int, is_empty: bool) -> int:
        if self._text[position + 1] == "(":
            url, position = self._url(position + 2)
        else:
            url = "".join(self._out[entity.place :])
        if not is_empty:
            self._add_link(url, entity.offset)
        return position + 1

    def _end_emoji(self, entity: _Open, position: int, is_empty: bool) -> int:
        if self._text[position + 1] != "(":
            raise self._fail("The entity must contain a tg://emoji or tg://time URL")
        url, position = self._url(position + 2)
        emoji = re.fullmatch(r"tg:(?://)?emoji/?\?id=(\d+)", url)
        date = re.fullmatch(r"tg:(?://)?time/?\?unix=(\d+)(?:&format=(\w*))?", url)
        if emoji is None and date is None:
            raise self._fail("Invalid tg://emoji or tg://time URL specified")
        if not is_empty and emoji is not None:
            self._add("custom_emoji", entity.offset, custom_emoji_id=emoji.group(1))
        elif not is_empty and date is not None:
            self._add("date_time", entity.offset, unix_time=int(date.group(1)))
        return position + 1

    def _url(self, begin: int) -> tuple[str, int]:
        url = []
        position = begin
        while position < self._size and self._text[position] != ")":
            if self._text[position] == "\\" and "\0" < self._text[position + 1] <= "~":
                position += 1
            url.append(self._text[position])
            position += 1
        if position >= self._size:
            raise self._fail(f"Can't find end of a URL at byte offset {self._bytes(begin)}")
        return "".join(url), position

    def _finish_quote(self) -> None:
        if not self._quoting:
            return
        kind = "blockquote"
        if self._stack[-1].kind == "spoiler" and self._stack[-1].begin == self._size - 2:
            self._stack.pop()
            kind = "expandable_blockquote"
        if self._stack and self._stack[-1].kind == "blockquote":
            entity = self._stack.pop()
            if self._units > entity.offset:
                self._add(kind, entity.offset)


def _linked_user(url: str) -> int | None:
    match = re.match(r"tg:(?://)?user/?\?(?:[^#]*&)?id=(\d+)(?:[&#]|$)", url.lower())
    return int(match.group(1)) if match else None


def checked_link(url: str) -> str:
    """Return the link as Telegram stores it, or "" where Telegram drops it."""
    url = url.strip()
    lowered = url.lower()
    for scheme in ("tg:", "ton:", "tonsite:"):
        if lowered.startswith(scheme):
            rest = url[len(scheme) :].removeprefix("//")
            return f"{scheme}//{rest}" if re.match(r"[A-Za-z0-9_-]+(?:[/?]|$)", rest) else ""
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme.lower() not in {"http", "https"} or any(c in _SPACES for c in url):
        return ""
    if "." not in host and ":" not in host:
        return ""
    place = f"[{host}]" if ":" in host else host
    address = f"{place}:{port}" if port else place
    tail = parts.path or "/"
    if parts.query:
        tail += f"?{parts.query}"
    if parts.fragment:
        tail += f"#{parts.fragment}"
    return f"{parts.scheme.lower()}://{address}{tail}"
