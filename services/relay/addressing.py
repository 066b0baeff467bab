"""Finds out whether a message in a group speaks to the bot, and what it then says.

Entities are read leniently, one by one: one that nobody knows yet must not cost the message.
Their offsets count UTF-16 units (https://core.telegram.org/bots/api#messageentity).
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Identity:
    """The bot as others see it."""

    id: int
    username: str

    def text_for(self, message: dict[str, Any]) -> str | None:
        """Return what a group's message says to the bot, without its name; None: it does not."""
        name = "text" if message.get("text") else "caption"
        text = str(message.get(name) or "")
        units = text.encode("utf-16-le", "surrogatepass")
        is_addressed = self._is_author_of(message.get("reply_to_message"))
        spans: list[tuple[int, int]] = []
        for entity in _entities(message, name):
            start, end = 2 * entity["offset"], 2 * (entity["offset"] + entity["length"])
            said = units[start:end].decode("utf-16-le", "replace").lower()
            match entity.get("type"):
                case "bot_command" if start == 0:
                    addressee = said.partition("@")[2]
                    if addressee and addressee != self.username.lower():
                        return None
                    is_addressed = True
                    if addressee:
                        spans.append((end - 2 * len(addressee) - 2, end))
                case "mention" if said == f"@{self.username.lower()}":
                    is_addressed = True
                    spans.append((start, end))
                case "text_mention" if _id_of(entity.get("user")) == self.id:
                    is_addressed = True
                    spans.append((start, end))
        return _without(units, spans) if is_addressed else None

    def _is_author_of(self, message: object) -> bool:
        # Every first message of a topic "replies" to the note that the topic was made.
        return (
            isinstance(message, dict)
            and _id_of(message.get("from")) == self.id
            and "forum_topic_created" not in message
        )


def _entities(message: dict[str, Any], name: str) -> list[dict[str, Any]]:
    entities = message.get("entities" if name == "text" else "caption_entities")
    return [
        entity
        for entity in (entities if isinstance(entities, list) else [])
        if isinstance(entity, dict)
        and all(isinstance(entity.get(key), int) and entity[key] >= 0 for key in _PLACE)
    ]


_PLACE = ("offset", "length")


def _id_of(user: object) -> object:
    return user.get("id") if isinstance(user, dict) else None


def _without(units: bytes, spans: list[tuple[int, int]]) -> str:
    """Cut spans out, and of the spaces around each one."""
    for start, end in sorted(spans, reverse=True):
        before, behind = units[:start], units[end:]
        space = " ".encode("utf-16-le")
        if behind.startswith(space) and (not before or before.endswith(space)):
            behind = behind[2:]
        units = before + behind
    return units.decode("utf-16-le", "surrogatepass").strip()
