"""Writes a conversation down for its user, as documents that any editor opens."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from services.gateway.store import Turn
from services.gateway.texts import Language, say

DOCUMENT_BYTES = 1024 * 1024
"""A document is full at this size: the relay holds a whole one in its memory."""


def write_documents(turns: Iterable[Turn], language: Language, summary: str = "") -> Iterator[str]:
    """Yield Markdown documents with all turns, in order, none of them cut; none for no turns.

    The summary that was made of the first ones, if any, goes before them.
    """
    document, size = "", 0
    for entry in _entries(turns, language, summary):
        length = len(entry.encode())
        if document and size + length > DOCUMENT_BYTES:
            yield document
            document, size = "", 0
        document += entry
        size += length
    if document:
        yield document


def _entries(turns: Iterable[Turn], language: Language, summary: str) -> Iterator[str]:
    if summary:
        yield f"## {say('summary', language)}\n\n{summary}\n\n"
    for turn in turns:
        at = datetime.fromtimestamp(turn.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        who = say("you" if turn.role == "user" else "me", language)
        yield f"## {who}, {at}\n\n{_note(turn, language)}{turn.text}\n\n"


def _note(turn: Turn, language: Language) -> str:
    """Say that there were pictures, which a text cannot hold."""
    match len(turn.pictures):
        case 0:
            return ""
        case 1:
            return say("picture", language) + "\n\n"
        case count:
            return say("pictures", language, count=count) + "\n\n"
