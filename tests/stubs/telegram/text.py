"""Owns what Telegram makes of a message's text: cleaning, trimming, lengths, entities."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.stubs.telegram.errors import bad_request

SPLITTABLE = ("bold", "italic", "underline", "strikethrough", "spoiler")
QUOTES = frozenset({"blockquote", "expandable_blockquote"})
VERBATIM = frozenset({"code", "pre", "date_time"})
USER_TYPES = frozenset(
    {*SPLITTABLE, *QUOTES, *VERBATIM, "text_link", "text_mention", "custom_emoji"}
)
FOUND_TYPES = frozenset(
    {
        "mention",
        "hashtag",
        "cashtag",
        "bot_command",
        "url",
        "email",
        "phone_number",
        "bank_card_number",
    }
)
_PRIORITY = {
    "blockquote": 0,
    "expandable_blockquote": 0,
    "pre": 11,
    "code": 20,
    "date_time": 30,
    "text_link": 49,
    "text_mention": 49,
    "bold": 90,
    "italic": 91,
    "underline": 92,
    "strikethrough": 93,
    "spoiler": 94,
    "custom_emoji": 99,
}
_CONTROLS = {code: " " for code in range(32) if code not in (10, 13)}
_REMOVED = dict.fromkeys([13, *range(0x2028, 0x202F), 0x333, 0x33F, 0x30A], "")
_CLEANED = str.maketrans({**_CONTROLS, **_REMOVED})
_NEEDS_CLEANING = re.compile("[\x00-\x09\x0b-\x1f\u2028-\u202e\u0333\u033f\u030a]")
_FOUND = re.compile(
    r"(?P<url>\bhttps?://[^\s<>\"]+[^\s<>\".,;:!?)\]}'])"
    r"|(?P<email>\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,24}\b)"
    r"|(?P<bot_command>(?<![\w/<>])/[A-Za-z0-9_]{1,64}(?:@[A-Za-z0-9_]{3,32})?(?![\w/<>]))"
    r"|(?P<mention>(?<![\w@])@[A-Za-z][A-Za-z0-9_]{3,31}(?!\w))"
    r"|(?P<hashtag>(?<![\w#])#(?=\w*[^\W\d])\w{1,255})"
)
MAX_ENTITIES = 100


@dataclass(frozen=True)
class Entity:
    """One formatted stretch; offset and length in UTF-16 units."""

    type: str
    offset: int
    length: int
    extra: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def end(self) -> int:
        """First unit after the entity."""
        return self.offset + self.length

    @property
    def order(self) -> tuple[int, int, int]:
        """Telegram's order: by offset, the longer first, then by type."""
        return self.offset, -self.length, _PRIORITY.get(self.type, 50)

    def as_json(self) -> dict[str, Any]:
        """Shape as in the Bot API's MessageEntity."""
        return {"offset": self.offset, "length": self.length, "type": self.type, **self.extra}


@dataclass(frozen=True)
class FormattedText:
    """Text as stored and shown, with its entities."""

    text: str
    entities: tuple[Entity, ...] = ()


def utf16_length(text: str) -> int:
    """Count UTF-16 units, the measure of Telegram's offsets and limits."""
    if text.isascii():
        return len(text)
    return len(text) + sum(1 for character in text if character > "\uffff")


def fix_formatted_text(text: str, entities: Iterable[Entity], find: bool = True) -> FormattedText:
    """Clean, check and trim a text as the server does before it stores it.

    Raises "Text must be non-empty" where nothing visible is left, and the errors for entities
    that lie outside the text or cut a surrogate pair.
    """
    for character in text:
        if "\ud800" <= character <= "\udfff":
            raise bad_request("Strings must be encoded in UTF-8")
    kept = []
    for entity in entities:
        if not 0 <= entity.offset <= 1_000_000:
            raise bad_request(f"Receive an entity with incorrect offset {entity.offset}")
        if not 0 <= entity.length <= 1_000_000:
            raise bad_request(f"Receive an entity with incorrect length {entity.length}")
        if entity.length > 0:
            kept.append(entity)
    cleaned, kept = _clean(text, normalize_entities(kept))
    stripped = cleaned.rstrip("\n ")
    if not stripped:
        raise bad_request("Text must be non-empty")
    end = utf16_length(stripped)
    kept = [
        replace(entity, length=min(entity.end, end) - entity.offset)
        for entity in kept
        if entity.offset < end and entity.length > 0
    ]
    kept = normalize_entities(kept)
    leading = len(stripped) - len(stripped.lstrip("\n "))
    if kept:
        leading = min(leading, kept[0].offset)
    kept = [replace(entity, offset=entity.offset - leading) for entity in kept]
    shown = stripped[leading:]
    if find:
        kept = _merge_found(kept, find_entities(shown))
    return FormattedText(shown, tuple(kept[:MAX_ENTITIES]))


def _clean(text: str, entities: list[Entity]) -> tuple[str, list[Entity]]:
    """Replace control characters, remove what Telegram removes, and move the entities along."""
    if not entities:
        return (text.translate(_CLEANED) if _NEEDS_CLEANING.search(text) else text), entities
    # positions[u] = offset in the cleaned text of UTF-16 unit u; None inside a surrogate pair
    positions: list[int | None] = []
    kept = []
    place = 0
    for character in text:
        cleaned = character.translate(_CLEANED)
        wide = character > "\uffff"
        positions.append(place)
        if wide:
            positions.append(None)
        if cleaned:
            kept.append(cleaned)
            place += 2 if wide else 1
    positions.append(place)
    last = len(positions) - 1
    moved = []
    for entity in entities:
        if entity.offset > last:
            raise bad_request(
                f"Entity begins after the end of the text at UTF-16 offset {entity.offset}"
            )
        if entity.end > last:
            raise bad_request(
                f"Entity beginning at UTF-16 offset {entity.offset} ends after the end of the "
                f"text at UTF-16 offset {entity.end}"
            )
        begin, end = positions[entity.offset], positions[entity.end]
        if begin is None:
            at = _byte_offset(text, entity.offset + 1)
            raise bad_request(f"Entity begins in a middle of a UTF-16 symbol at byte offset {at}")
        if end is None:
            at = _byte_offset(text, entity.end + 1)
            raise bad_request(
                f"Entity beginning at UTF-16 offset {entity.offset} ends in a middle of a UTF-16 "
                f"symbol at byte offset {at}"
            )
        if end > begin:
            moved.append(replace(entity, offset=begin, length=end - begin))
    return "".join(kept), moved


def _byte_offset(text: str, units: int) -> int:
    return len(text.encode("utf-16-le")[: 2 * units].decode("utf-16-le").encode())


def normalize_entities(entities: list[Entity]) -> list[Entity]:
    """Sort entities and resolve overlaps by Telegram's rules.

    Links, mentions and code never overlap each other; code and pre hold nothing; bold and its
    kin are merged where they touch and split where something else begins inside them.
    """
    ordered = sorted(entities, key=lambda entity: entity.order)
    if _is_consistent(ordered):
        return ordered
    splittable = [entity for entity in ordered if entity.type in SPLITTABLE]
    quotes = _without_overlaps([entity for entity in ordered if entity.type in QUOTES])
    solid = _without_overlaps(
        [e for e in ordered if e.type not in SPLITTABLE and e.type not in QUOTES]
    )
    solid = [
        entity
        for entity in solid
        if not any(
            quote.offset < entity.end
            and entity.offset < quote.end
            and not (quote.offset <= entity.offset and entity.end <= quote.end)
            for quote in quotes
        )
    ]
    fixed = sorted([*solid, *quotes], key=lambda entity: entity.order)
    split = _split(splittable, fixed)
    return sorted([*fixed, *split], key=lambda entity: entity.order)


def _is_consistent(entities: list[Entity]) -> bool:
    """Say whether nothing overlaps, nests or touches in a way that needs resolving."""
    ends: dict[str, int] = {}
    stack: list[Entity] = []
    for entity in entities:
        while stack and entity.offset >= stack[-1].end:
            stack.pop()
        if stack:
            around = {outer.type for outer in stack}
            if entity.end > stack[-1].end or entity.type in around or stack[-1].type in VERBATIM:
                return False
            if entity.type in VERBATIM and around - QUOTES:
                return False
            if entity.type not in SPLITTABLE and around - QUOTES:
                return False
            if around & set(SPLITTABLE) or (entity.type in QUOTES and around & QUOTES):
                return False
        if entity.type in SPLITTABLE:
            if ends.get(entity.type, -1) >= entity.offset:
                return False
            ends[entity.type] = entity.end
        stack.append(entity)
    return True


def _without_overlaps(entities: list[Entity]) -> list[Entity]:
    kept: list[Entity] = []
    for entity in entities:
        if not kept or entity.offset >= kept[-1].end:
            kept.append(entity)
    return kept


def _split(entities: list[Entity], fixed: list[Entity]) -> list[Entity]:
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    result: list[Entity] = []
    position = 0

    def flush(offset: int) -> None:
        for kind in SPLITTABLE:
            if kind in ends and begins[kind] < offset:
                if ends[kind] <= offset:
                    result.append(Entity(kind, begins[kind], ends.pop(kind) - begins[kind]))
                else:
                    result.append(Entity(kind, begins[kind], offset - begins[kind]))
                    begins[kind] = offset

    def add_until(offset: int) -> None:
        nonlocal position
        while position < len(entities) and entities[position].offset < offset:
            entity = entities[position]
            position += 1
            if entity.type in ends and entity.offset <= ends[entity.type]:
                ends[entity.type] = max(ends[entity.type], entity.end)
                continue
            flush(entity.offset)
            begins[entity.type] = entity.offset
            ends[entity.type] = entity.end
        flush(offset)

    stack: list[Entity] = []

    def close_until(offset: int) -> None:
        while stack and offset >= stack[-1].end:
            before = len(result)
            add_until(stack[-1].end)
            if stack[-1].type in VERBATIM:
                del result[before:]
            stack.pop()
        add_until(offset)

    for entity in fixed:
        close_until(entity.offset)
        stack.append(entity)
    close_until(2**31)
    return result


def find_entities(text: str) -> list[Entity]:
    """Find what Telegram marks by itself: links, addresses, mentions, hashtags, commands.

    A plain approximation of the server's search: top-level domains without a scheme, cashtags,
    phone and card numbers are left out.
    """
    found = []
    for match in _FOUND.finditer(text):
        kind = match.lastgroup
        assert kind is not None
        offset = utf16_length(text[: match.start()])
        found.append(Entity(kind, offset, utf16_length(match.group())))
    return found


def _merge_found(entities: list[Entity], found: list[Entity]) -> list[Entity]:
    blocking = [e for e in entities if e.type not in SPLITTABLE and e.type not in QUOTES]
    free = [
        new
        for new in found
        if not any(old.offset < new.end and new.offset < old.end for old in blocking)
    ]
    if not free:
        return entities
    return normalize_entities([*entities, *free])
