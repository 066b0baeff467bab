"""Conversations through the whole chain: Telegram, egress, relay, tunnel, gateway, real model."""

import itertools
import json
import re
import time
from datetime import datetime

import pytest
from python_on_whales import DockerClient

from scripts.pair import Pair
from scripts.telegram_user import PLACEHOLDER, BotMessage, Said, TelegramUser

ANSWER_SECONDS = 240  # on a machine that does other things meanwhile
LONG = "Write a long story about a lighthouse keeper, at least twenty paragraphs."


def final(user: TelegramUser, said: Said) -> list[BotMessage]:
    """What the bot shows once all of it is final."""
    shown: list[BotMessage] = []
    for now in user.watch(said, ANSWER_SECONDS):
        shown = now
    return shown


def growing(user: TelegramUser, said: Said, characters: int = 40) -> BotMessage:
    """The bot's message once it has some text and more is to come."""
    shown: list[BotMessage] = []
    for shown in user.watch(said, ANSWER_SECONDS):
        if shown and shown[0].is_growing and len(shown[0].text) >= characters:
            return shown[0]
    pytest.fail(f"the answer was complete before it was seen to grow: {shown}")


def begins(text: str, beginning: str) -> bool:
    """Whether a text begins so: the marks of Markdown go when they are complete, words stay.

    The last word may have been cut.
    """
    words = re.findall(r"\w+", text)
    begun = re.findall(r"\w+", beginning)
    return words[: len(begun) - 1] == begun[:-1] and "".join(words).startswith("".join(begun))


def answered(docker: DockerClient, pair: Pair, since: float) -> list[dict[str, object]]:
    """The gateway's events about finished answers."""
    name = pair.container(pair.model_node, "gateway")
    log = docker.container.logs(name, since=datetime.fromtimestamp(since))
    assert isinstance(log, str)
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [event for event in events if event.get("action") == "answered"]


@pytest.mark.quick
def test_question_is_answered_by_the_model(user: TelegramUser) -> None:
    """One question, one message, with what a model that knows the world says."""
    said = user.say("What is the capital of France?")

    shown = final(user, said)

    assert len(shown) == 1
    assert "Paris" in shown[0].text


def test_answer_grows_on_the_screen(user: TelegramUser) -> None:
    """Each state of a streamed answer is a beginning of the next, word by word."""
    said = user.say(LONG)

    states = [
        shown[0].text
        for shown in user.watch(said, ANSWER_SECONDS)
        if shown and shown[0].text != PLACEHOLDER
    ]

    assert len(states) >= 3
    assert all(begins(later, earlier) for earlier, later in itertools.pairwise(states))


@pytest.mark.parametrize(
    ("command", "expected"), [("/start", "/help"), ("/help", "/new"), ("/new", "forgotten")]
)
def test_command_is_answered_without_the_model(
    docker: DockerClient, pair: Pair, user: TelegramUser, command: str, expected: str
) -> None:
    """Commands have answers of their own, and cost no time of the engine."""
    since = time.time()

    shown = final(user, user.say(command))

    assert len(shown) == 1
    assert expected in shown[0].text
    assert answered(docker, pair, since) == []


def test_status_tells_of_both_nodes(admin: TelegramUser) -> None:
    """An admin sees when the tunnel was last heard, and what was refused at either end of it."""
    end = time.monotonic() + 60  # both nodes note it every five seconds
    text = ""
    while "handshake" not in text or text.count("Packets refused") < 2:
        assert time.monotonic() < end, text
        text = final(admin, admin.say("/status"))[0].text

    assert re.search(r"^Tunnel: last handshake \d+ s ago$", text, re.MULTILINE)
    assert re.search(r"^Packets refused here: \d+ in, 0 out$", text, re.MULTILINE)
    assert re.search(r"^Packets refused at the other end: \d+ in, \d+ out$", text, re.MULTILINE)
    assert "Engine: ready" in text


def test_conversation_is_remembered_until_new(user: TelegramUser) -> None:
    """The model sees what was said before, and after /new no more."""
    final(user, user.say("I have a dog. His name is Rex."))

    remembered = final(user, user.say("What is the name of my dog?"))[0].text
    final(user, user.say("/new"))
    forgotten = final(user, user.say("What is the name of my dog?"))[0].text

    assert "Rex" in remembered
    assert "Rex" not in forgotten


def test_stop_ends_the_answer(docker: DockerClient, pair: Pair, user: TelegramUser) -> None:
    """/stop keeps what was written so far, says so, and frees the engine."""
    since = time.time()
    said = user.say(LONG)
    before = growing(user, said)

    user.say("/stop")
    shown = final(user, said)

    assert begins(shown[0].text, before.text)
    assert shown[0].text.endswith("(stopped)")
    assert [event["stopped"] for event in answered(docker, pair, since)] == [True]


def test_stop_button_ends_the_answer(user: TelegramUser) -> None:
    """The button under a growing answer does what /stop does."""
    said = user.say(LONG)
    message = growing(user, said)

    user.press(message.message_id)
    shown = final(user, said)

    assert len(shown) == 1
    assert shown[0].text.endswith("(stopped)")


def test_stranger_gets_silence(user: TelegramUser, stranger: TelegramUser) -> None:
    """Whoever is not on the list sees nothing at all: no answer, no typing, no error."""
    said = stranger.say("What is the capital of France?")
    final(user, user.say("/help"))  # handled after the stranger's message

    entries, _ = user.record(said.seq)

    assert any(
        entry["kind"] == "confirmed" and entry["update_id"] == said.update_id for entry in entries
    )
    assert stranger.bot_messages() == []
    assert [entry for entry in entries if entry.get("chat_id") == str(stranger.chat_id)] == []


def test_relay_that_restarts_in_mid_answer_finishes_it_once(
    docker: DockerClient, pair: Pair, user: TelegramUser
) -> None:
    """The relay remembers nothing, and yet the answer stands in the chat once, and whole."""
    since = time.time()
    said = user.say(LONG)
    before = growing(user, said)

    docker.container.restart(pair.container(pair.relay_node, "relay"), time=5)
    shown = final(user, said)

    with_text = [message for message in shown if begins(message.text, before.text[:40])]
    assert len(with_text) == 1
    assert with_text[0].message_id == before.message_id
    assert len(with_text[0].text) > len(before.text)
    assert len(answered(docker, pair, since)) == 1
