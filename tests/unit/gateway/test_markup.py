"""The gateway says which texts the model has written: they are Markdown, and all others are not."""

import asyncio
import random
from pathlib import Path

import pytest

from services.gateway.access import Access
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store, Usage
from services.gateway.texts import add_remark
from services.relay.cutting import Parts
from services.wire import Batch, Button, Opened
from tests.unit.fakes import KEY, USER, message, open_store
from tests.unit.relay.outputs import damaged
from tests.unit.relay.reading import units


async def test_answers_are_markdown_and_sentences_are_not(tmp_path: Path) -> None:
    """In what the relay is told, and in what a restarted gateway reads."""
    async with open_store(tmp_path) as store:
        outbox = Outbox(store, [])
        limits = Limits(user_asks=1, total_asks=5, ask_tokens=500)
        inbox = Inbox(store, Queue(), outbox, Access(store, frozenset({USER})), limits)
        updates = [message(1, "question"), message(2, "one too many"), message(3, "/help")]

        await inbox.accept(Batch(bot_id=1, updates=updates))

        stream = outbox.stream()
        events = [await asyncio.wait_for(anext(stream), 5) for _ in range(4)]
        told = [event.reply.markup for event in events if isinstance(event, Opened)]
        assert told == ["markdown", "plain", "plain"]
    store = Store(tmp_path / "store.db", KEY)
    replies = await store.run(store.undelivered_replies)
    store.close()
    assert [reply.markup for reply in replies] == ["markdown", "plain", "plain"]


async def test_second_try_is_markdown_too(tmp_path: Path) -> None:
    """The answer that takes over the messages of a failed one is the model's as well."""
    async with open_store(tmp_path) as store:
        access = Access(store, frozenset({USER}))
        inbox = Inbox(store, Queue(), Outbox(store, []), access, Limits(3, 5, 500))
        await inbox.accept(Batch(bot_id=1, updates=[message(1, "question")]))
        (ask,) = await store.run(store.asks)
        button = Button(label="Again", data=f"retry:{ask.id}")
        await store.run(store.fail_ask, ask, "failed", button, Usage())
        await store.run(store.drop_reply, ask.reply_id)  # it was delivered
        press = message(2, None, kind="press", press_id="p", press_data=button.data)

        await inbox.accept(Batch(bot_id=1, updates=[press]))

        (reply,) = await store.run(store.undelivered_replies)
        assert (reply.text, reply.markup) == ("", "markdown")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("", "(stopped)"),
        ("text", "text\n\n(stopped)"),
        ("```py\nx = 1", "```py\nx = 1\n```\n\n(stopped)"),
        ("```py\nx = 1\n```", "```py\nx = 1\n```\n\n(stopped)"),
        ("````\n```\nx", "````\n```\nx\n````\n\n(stopped)"),
        ("~~~\n```\nx", "~~~\n```\nx\n~~~\n\n(stopped)"),
        ("1. do:\n   ```sh\n   make", "1. do:\n   ```sh\n   make\n```\n\n(stopped)"),
        ("- ```sh\n  make", "- ```sh\n  make\n```\n\n(stopped)"),
        ("> ```\n> quoted", "> ```\n> quoted\n\n(stopped)"),
        ("```inline``` code", "```inline``` code\n\n(stopped)"),
    ],
)
def test_remark_stands_below_what_was_said(said: str, shown: str) -> None:
    """Code that was cut is closed first; a quote ends by itself."""
    assert add_remark(said, "(stopped)") == shown


def test_without_a_remark_nothing_is_added() -> None:
    """An answer that the model has ended is left as it is, even with code that it left open."""
    assert add_remark("```py\nx", "") == "```py\nx"


@pytest.mark.parametrize("chunk", range(4))
def test_remark_is_readable_after_any_answer(chunk: int) -> None:
    """Wherever an answer breaks off, the relay shows the remark outside of it."""
    for number in range(chunk, 1200, 4):
        chance = random.Random(number)
        said = damaged(chance, chance.randint(1, 6)).strip()
        parts = Parts("markdown")
        parts.read(add_remark(said, "(stopped)"))
        last = parts.render(len(parts) - 1)
        start = units(last.text) - len("(stopped)")
        assert last.text.endswith("(stopped)"), said
        assert all(entity.offset + entity.length <= start for entity in last.entities), said
