"""What a message refers to, or carries and cannot be read, comes before the model with it."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.gateway.access import Access
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import NOTHING, Ask, Store
from services.wire import Batch
from tests.unit.fakes import USER, message, open_store

CHAT = (USER, 0)


@dataclass
class Talk:
    store: Store
    inbox: Inbox
    updates: int = 0

    async def say(self, text: str | None, **changes: Any) -> None:
        self.updates += 1
        update = message(self.updates, text, **changes)
        await self.inbox.accept(Batch(bot_id=1, updates=[update]))

    async def asks(self) -> list[Ask]:
        return await self.store.run(self.store.asks)

    async def sentences(self) -> list[str]:
        replies = await self.store.run(self.store.undelivered_replies)
        return [reply.text for reply in replies if reply.closed]

    async def converse(self, answer: str, *message_ids: int) -> None:
        """An answered question, whose answer stands in these messages."""
        await self.say("question")
        (ask,) = await self.asks()
        for position, message_id in enumerate(message_ids):
            await self.store.run(self.store.record_part, ask.reply_id, position, message_id)
        await self.store.run(self.store.finish_ask, ask, answer, answer, NOTHING)
        await self.store.run(self.store.drop_reply, ask.reply_id, len(message_ids))


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncGenerator[Talk]:
    async with open_store(tmp_path) as store:
        access = Access(store, frozenset({USER}))
        yield Talk(store, Inbox(store, Queue(), Outbox(store, []), access, Limits(9, 9, 400)))


async def test_reply_brings_the_old_message(talk: Talk) -> None:
    """As a quote before the question; the message's own text and length stay what they are."""
    await talk.say("And this?", reply_to=3, quoted="first line\nsecond line")

    (ask,) = await talk.asks()
    assert ask.text == "> first line\n> second line\n\nAnd this?"
    assert (ask.pieces[0].text, ask.pieces[0].units) == ("And this?", 9)


async def test_latest_answer_is_not_told_again(talk: Talk) -> None:
    """It is the last thing in the conversation already, whichever of its messages is meant."""
    await talk.converse("long answer", 50, 51)
    await talk.say("Why?", reply_to=51, quoted="answer")

    assert [ask.text for ask in await talk.asks()] == ["Why?"]


async def test_chosen_excerpt_of_the_latest_answer_is_told(talk: Talk) -> None:
    """Its user has said which words they mean."""
    await talk.converse("long answer", 50)
    await talk.say("Why?", reply_to=50, quoted="long", is_excerpt=True)

    assert [ask.text for ask in await talk.asks()] == ["> long\n\nWhy?"]


async def test_long_quotation_leaves_room_for_the_question(talk: Talk) -> None:
    """Its beginning must do."""
    await talk.say("Why?", reply_to=3, quoted="word " * 800)

    (ask,) = await talk.asks()
    assert ask.text == "> " + ("word " * 20).strip() + "\n\nWhy?"
    await talk.say("And?", reply_to=3, quoted="😀" * 200)
    assert len((await talk.asks())[1].text.encode()) < 120


async def test_quotation_does_not_make_a_paste(talk: Talk) -> None:
    """Two short questions stay two, however long the messages that they reply to."""
    await talk.say("one", reply_to=3, quoted="x" * 4096)
    await talk.say("two", reply_to=3, quoted="x" * 4096)

    assert [ask.pieces[0].text for ask in await talk.asks()] == ["one", "two"]


async def test_picture_behind_a_long_message_is_asked_by_itself(talk: Talk) -> None:
    """A client cuts text alone: what refers to something is no piece of a paste."""
    await talk.say("x" * 3000)
    await talk.say("What is this?", attachment="photo")

    assert len(await talk.asks()) == 2


async def test_reworded_question_keeps_what_it_refers_to(talk: Talk) -> None:
    """While it waits."""
    await talk.say("Wy?", reply_to=3, quoted="old")
    await talk.say("Why?", kind="edit", message_id=1001, edited_at=5, reply_to=3, quoted="old")

    assert [ask.text for ask in await talk.asks()] == ["> old\n\nWhy?"]


async def test_bare_mention_asks_about_the_message(talk: Talk) -> None:
    """In a group, a reply that says nothing but the bot's name means what it replies to."""
    await talk.say(None, reply_to=3, quoted="What is the capital of France?")

    assert [ask.text for ask in await talk.asks()] == ["> What is the capital of France?\n\n"]


async def test_conversation_remembers_the_quotation(talk: Talk) -> None:
    """Later questions may refer to it."""
    await talk.say("Why?", reply_to=3, quoted="old")
    (ask,) = await talk.asks()
    await talk.store.run(talk.store.finish_ask, ask, "because", "because", NOTHING)

    turns = await talk.store.run(talk.store.latest_turns, CHAT, 9)
    assert [turn.text for turn in turns] == ["> old\n\nWhy?", "because"]


async def test_caption_is_asked_and_the_model_knows_what_it_misses(talk: Talk) -> None:
    """It must not talk as if there were no picture."""
    await talk.say("What is this?", attachment="video_note")

    assert [ask.text for ask in await talk.asks()] == [
        "[video note attached that you cannot see or open]\n\nWhat is this?"
    ]


@pytest.mark.parametrize(
    ("attachment", "sentence"),
    [
        ("photo", "I cannot see pictures."), ("sticker", "I cannot see pictures."),
        ("voice", "I cannot hear recordings."), ("document", "I cannot open files."),
        ("location", "I can read text only so far."), ("", "I can read text only so far."),
        ("thing_of_tomorrow", "I can read text only so far."),
    ],
)  # fmt: skip
async def test_what_cannot_be_read_gets_a_sentence(
    talk: Talk, attachment: str, sentence: str
) -> None:
    """By what it is; also where it replies to something."""
    await talk.say(None, attachment=attachment)
    if attachment:
        await talk.say(None, attachment=attachment, reply_to=3, quoted="old")

    assert await talk.asks() == []
    assert all(said.startswith(sentence) for said in await talk.sentences())
    assert len(await talk.sentences()) == (2 if attachment else 1)
