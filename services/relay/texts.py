"""The few words that the relay itself puts before users, when the gateway cannot.

A language is a file in `languages`, named by its two letters (ISO 639-1); there is no other list.
"""

import tomllib
from collections.abc import Container
from pathlib import Path
from typing import Any, Literal, TypeAlias

from aiogram.types import BotCommand

ENGLISH = "en"
"""For all whose language has no file."""

_TEXTS: dict[str, dict[str, Any]] = {
    file.stem: tomllib.loads(file.read_text(encoding="utf-8"))
    for file in sorted((Path(__file__).parent / "languages").glob("*.toml"))
}

Menu: TypeAlias = dict[str | None, list[BotCommand]]
"""Commands by language; None is for all languages that are not listed."""

ALONE = frozenset({"settings"})
"""In groups these are refused: they are nobody else's business."""


def _menu(*tables: str, without: Container[str] = ()) -> Menu:
    return {
        None if language == ENGLISH else language: [
            BotCommand(command=command, description=description)
            for table in tables
            for command, description in texts[table].items()
            if command not in without
        ]
        for language, texts in _TEXTS.items()
    }


NO_MENU: Menu = _menu()
MENU = _menu("commands")
GROUP_MENU = _menu("commands", without=ALONE)
ADMIN_MENU = _menu("commands", "admin_commands")


def say(sentence: Literal["asleep", "still asleep", "press later"], language: str) -> str:
    """Say it in the language of this IETF tag, or in English."""
    texts = _TEXTS.get(language.lower().split("-")[0], _TEXTS[ENGLISH])
    return str(texts[sentence])
