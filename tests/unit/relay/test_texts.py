"""The relay's own few words: each language says all of them, and has the whole menu of commands."""

import re

import pytest

from services.relay.marker import LANGUAGE
from services.relay.texts import _TEXTS, COMMANDS, ENGLISH, say


@pytest.mark.parametrize("language", _TEXTS)
def test_every_language_is_whole(language: str) -> None:
    """The same sentences and the same commands in the same order, none empty or too long."""
    texts, english = _TEXTS[language], _TEXTS[ENGLISH]

    assert re.fullmatch("[a-z]{2}", language), "as setMyCommands wants it"
    assert language != LANGUAGE, "the relay keeps a mark of its own there"
    assert set(texts) == set(english)
    assert list(texts["commands"]) == list(english["commands"])
    descriptions = texts["commands"].values()
    assert all(1 <= len(text) <= 256 for text in descriptions), "as setMyCommands wants them"
    assert all(texts[key].strip() for key in texts if key != "commands")


def test_english_is_for_all_others() -> None:
    """Telegram takes commands without a language for them; so does the relay its sentences."""
    assert set(COMMANDS) == {None, *_TEXTS} - {ENGLISH}
    assert say("asleep", "ru-RU") == _TEXTS["ru"]["asleep"]
    assert say("asleep", "tlh") == say("asleep", "") == _TEXTS[ENGLISH]["asleep"]


def test_relay_and_gateway_speak_the_same_languages() -> None:
    """A language that is added to one alone would change in the middle of a chat."""
    from services.gateway.texts import LANGUAGES  # the relay never imports it

    assert set(_TEXTS) == set(LANGUAGES)
