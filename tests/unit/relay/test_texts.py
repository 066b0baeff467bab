"""The relay's own few words: each language says all of them, and has the whole menu of commands."""

import re

import pytest

from services.relay.marker import LANGUAGE
from services.relay.texts import (
    _TEXTS,
    ADMIN_MENU,
    ENGLISH,
    GROUP_MENU,
    MENU,
    NO_MENU,
    Menu,
    say,
)

TABLES = ("commands", "admin_commands")


@pytest.mark.parametrize("language", _TEXTS)
def test_every_language_is_whole(language: str) -> None:
    """The same sentences and the same commands in the same order, none empty or too long."""
    texts, english = _TEXTS[language], _TEXTS[ENGLISH]

    assert re.fullmatch("[a-z]{2}", language), "as setMyCommands wants it"
    assert language != LANGUAGE, "the relay keeps a mark of its own there"
    assert set(texts) == set(english)
    for table in TABLES:
        assert list(texts[table]) == list(english[table])
        descriptions = texts[table].values()
        assert all(1 <= len(text) <= 256 for text in descriptions), "as setMyCommands wants them"
    assert all(texts[key].strip() for key in texts if key not in TABLES)


def test_english_is_for_all_others() -> None:
    """Telegram takes commands without a language for them; so does the relay its sentences."""
    for menu in (NO_MENU, MENU, GROUP_MENU, ADMIN_MENU):
        assert set(menu) == {None, *_TEXTS} - {ENGLISH}
    assert say("asleep", "ru-RU") == _TEXTS["ru"]["asleep"]
    assert say("asleep", "tlh") == say("asleep", "") == _TEXTS[ENGLISH]["asleep"]


def names(menu: Menu) -> set[str]:
    """The commands of a menu, which are the same in each language."""
    (found,) = {tuple(f"/{one.command}" for one in commands) for commands in menu.values()}
    assert len(set(found)) == len(found)
    return set(found)


def test_menus_name_what_the_gateway_knows() -> None:
    """All but two: Telegram itself offers /start, and /system says nothing without words."""
    from services.gateway.commands import FOR_ADMINS, FOR_ALL  # the relay never imports it

    assert names(MENU) == FOR_ALL - {"/start", "/system"}
    assert names(ADMIN_MENU) - names(MENU) == FOR_ADMINS
    assert names(MENU) - names(GROUP_MENU) == {"/settings"}
    assert names(NO_MENU) == set()


def test_relay_and_gateway_speak_the_same_languages() -> None:
    """A language that is added to one alone would change in the middle of a chat."""
    from services.gateway.texts import LANGUAGES  # the relay never imports it

    assert set(_TEXTS) == set(LANGUAGES)
