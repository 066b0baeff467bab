"""The few words that the relay itself puts before users, when the gateway cannot.

A language is a file in `languages`, named by its two letters (ISO 639-1); there is no other list.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from aiogram.types import BotCommand

ENGLISH = "en"
"""For all whose language has no file."""

_TEXTS: dict[str, dict[str, Any]] = {
    file.stem: tomllib.loads(file.read_text(encoding="utf-8"))
    for file in sorted((Path(__file__).parent / "languages").glob("*.toml"))
}

COMMANDS: dict[str | None, list[BotCommand]] = {
    None if language == ENGLISH else language: [
        BotCommand(command=command, description=description)
        for command, description in texts["commands"].items()
    ]
    for language, texts in _TEXTS.items()
}
"""By language; None is for all languages that are not listed."""


def say(sentence: Literal["asleep", "still asleep", "press later"], language: str) -> str:
    """Say it in the language of this IETF tag, or in English."""
    texts = _TEXTS.get(language.lower().split("-")[0], _TEXTS[ENGLISH])
    return str(texts[sentence])
