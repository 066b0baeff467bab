"""Reads messages as people do: what can be seen of them, and what it looks like.

It shares no code with the product: what is visible is told by the categories of characters alone.
"""

import html
import json
import re
import unicodedata

from services.relay.rendering import Rendered
from tests.stubs.telegram.inputs import read_text
from tests.stubs.telegram.params import Params
from tests.stubs.telegram.text import QUOTES, SPLITTABLE, Entity, fix_formatted_text

_SIGNS = {
    "bold": ("*", "*"),
    "italic": ("_", "_"),
    "underline": ("__", "__"),
    "strikethrough": ("~", "~"),
    "spoiler": ("||", "||"),
    "code": ("`", "`"),
    "blockquote": (">", "<"),
    "expandable_blockquote": (">>", "<<"),
}
_MADE = "•◦▪☐☑—"
"""What stands for marks of Markdown in a message: bullets, boxes, rules."""

_REMOVED = dict.fromkeys(
    [
        *range(9),
        11,
        12,
        *range(13, 32),
        *range(127, 160),
        *range(0x2028, 0x202F),
        0x333,
        0x33F,
        0x30A,
    ]
)
"""Telegram shows none of these, whoever sends them."""


_MARKS = re.compile(r"[*_`~|\\\[\]]")
_BREAKS = re.compile(r"<br ?/?>")
_UNDERLINES = re.compile(r"</?u>")


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def show(message: Rendered) -> str:
    """Write a message with its entities as marks, as a test expects it and a person reads it."""
    marks: list[tuple[int, int, int, str]] = []
    for number, entity in enumerate(message.entities):
        end = entity.offset + entity.length
        if entity.type == "pre":
            before, after = f"[pre {entity.language}]".replace(" ]", "]"), "[/pre]"
        elif entity.type == "text_link":
            before, after = "[", f"]({entity.url})"
        else:
            before, after = _SIGNS[entity.type]
        marks.append((entity.offset, 1, number, before))
        marks.append((end, 0, -number, after))
    encoded = message.text.encode("utf-16-le")
    shown, place = "", 0
    for at, _, _, mark in sorted(marks, key=lambda mark: mark[:3]):
        shown += encoded[2 * place : 2 * at].decode("utf-16-le") + mark
        place = at
    return shown + encoded[2 * place :].decode("utf-16-le")


def visible(text: str) -> str:
    """Keep what is visible whatever Markdown makes of it: no ASCII marks, no white space.

    Letters, digits, marks upon them, emoji, signs beyond ASCII. Characters that
    are written as HTML does count as themselves; the two tags that mean something count as nothing.
    """
    text = _MARKS.sub("", text.translate(_REMOVED))
    while (unescaped := html.unescape(text)) != text:
        text = unescaped
    # A break stands as one: what is around it does not become another tag.
    while (bare := _UNDERLINES.sub("", _BREAKS.sub("\n", text))) != text:
        text = bare
    return "".join(
        character
        for character in text.replace("☑", "x")
        if character not in _MADE and _is_kept(character)
    ).casefold()


def _is_kept(character: str) -> bool:
    if character.isascii():
        return character.isalnum()
    return unicodedata.category(character)[0] not in "CZ" and ord(character) not in _REMOVED


def told(message: Rendered, before: Rendered | None = None) -> str:
    """All that a message tells: its text, languages of its code, addresses behind its links.

    Code that goes on from the message before tells its language again, which counts once.
    """
    open_language = "".join(
        entity.language
        for entity in (before.entities if before else ())
        if before and entity.offset + entity.length == units(before.text)
    )
    additions = [
        (
            entity.offset,
            "" if not entity.offset and entity.language == open_language else entity.language,
        )
        if entity.type == "pre"
        else (end, entity.url)
        for entity in message.entities
        for end in [entity.offset + entity.length]
    ]
    encoded = message.text.encode("utf-16-le")
    shown, place = "", 0
    for at, addition in sorted(additions, key=lambda addition: addition[0]):
        shown += encoded[2 * place : 2 * at].decode("utf-16-le") + addition
        place = at
    return shown + encoded[2 * place :].decode("utf-16-le")


_TABLE = re.compile(r"(?m)^[ >]*\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")


def assert_nothing_lost(source: str, messages: list[Rendered]) -> None:
    """All that is visible in the source is told, in its order, and nothing else.

    But heads of tables are told again, where rows would not be understood without.
    """
    expected = visible(source)
    whole = ""
    before = None
    for message in messages:
        # Code at the beginning may be new, or go on from the message before.
        is_new = expected.startswith(visible(whole + told(message)))
        whole += told(message) if is_new else told(message, before)
        before = message
    if visible(whole) == expected:
        return
    assert "|" in source, (expected, visible(whole))
    assert _TABLE.search(source.translate(_REMOVED)), (expected, visible(whole))
    rest = iter(visible("".join(told(message) for message in messages)))
    assert all(character in rest for character in expected), (expected, visible(whole))


def assert_taken(message: Rendered) -> None:
    """Telegram takes a message, and shows it as it was meant: the stub's rules say so."""
    written = [entity.as_json() for entity in message.entities]
    read = read_text(
        Params({"text": message.text, "entities": json.dumps(written)}), "text", "entities"
    )
    given = list(read.entities)

    kept = fix_formatted_text(read.text, given, find=False)

    assert kept.text == message.text
    assert 0 < units(kept.text) <= 4096
    assert len(given) == len(written) <= 100
    assert _looks(kept.text, list(kept.entities)) == _looks(message.text, given)
    assert_nested(given)


def assert_nested(entities: list[Entity]) -> None:
    """Entities are nested as https://core.telegram.org/bots/api#formatting-options has it."""
    for position, outer in enumerate(entities):
        for inner in entities[position + 1 :]:
            if inner.offset >= outer.end or inner.end <= outer.offset:
                continue
            assert outer.offset <= inner.offset, "they are in order"
            assert inner.end <= outer.end, "one contains the other"
            kinds = {outer.type, inner.type}
            assert len(kinds) == 2
            if kinds & {"pre", "code"}:
                assert outer.type in QUOTES
            assert not kinds <= QUOTES
            assert kinds & {*SPLITTABLE, *QUOTES}


def _looks(text: str, entities: list[Entity]) -> list[set[tuple[str, str]]]:
    """Say of each unit what it looks like."""
    looks: list[set[tuple[str, str]]] = [set() for _ in range(units(text))]
    for entity in entities:
        for unit in range(entity.offset, entity.end):
            looks[unit].add((entity.type, str(entity.extra)))
    return looks
