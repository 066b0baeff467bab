"""A user gets all of a conversation as files, whole turns in order, and may have them erased."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway import export
from services.gateway.export import write_documents
from services.gateway.outbox import Outbox
from services.gateway.store import NOTHING, Piece, Store, Summary, Turn
from services.wire import Batch, Hello, Opened, Reply
from tests.unit.fakes import KEY, USER, message, press, put_menu
from tests.unit.gateway.raw import read_pages
from tests.unit.gateway.served import Gateway, serve

CHAT = (USER, 0)
CANARY = "quetzalcoatlus"


@dataclass
class Conversation:
    """A user's way to a gateway, and the relay's."""

    gateway: Gateway
    updates: int = 0

    @property
    def store(self) -> Store:
        return self.gateway.store

    @property
    def outbox(self) -> Outbox:
        return self.gateway.outbox

    async def say(self, text: str, language: str = "en") -> list[Reply]:
        """Hand a message over; returns the replies that are not delivered."""
        self.updates += 1
        update = message(self.updates, text, language=language)
        await self.gateway.inbox.accept(Batch(bot_id=1, updates=[update]))
        return await self.store.run(self.store.undelivered_replies)

    async def converse(self, question: str, answer: str) -> None:
        """One question and its answer, delivered."""
        reply = await self.store.run(self.store.add_reply, CHAT, 5)
        pieces = [Piece(5, question, 0)]
        ask = await self.store.run(self.store.add_ask, reply.id, USER, CHAT, "en", pieces)
        await self.store.run(self.store.finish_ask, ask, answer, answer, NOTHING)
        await self.store.run(self.store.drop_reply, reply.id)

    async def fetch(self, reply: Reply, epoch: int | str) -> httpx.Response:
        return await self.gateway.client.get(f"/replies/{reply.id}/file", params={"epoch": epoch})


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Conversation]:
    async with serve(tmp_path) as gateway:
        yield Conversation(gateway)


turns = st.lists(
    st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text(), st.integers(0, 2**31))
)


@given(turns)
def test_no_turn_is_lost_cut_or_out_of_order(turns: list[Turn]) -> None:
    """All documents together hold every turn; each starts with a turn and keeps to its size."""
    with pytest.MonkeyPatch.context() as small:
        small.setattr(export, "DOCUMENT_BYTES", 100)
        documents = list(write_documents(turns, "en"))

    whole = "".join(documents)
    assert whole == "".join(write_documents(turns, "en"))
    assert all(document.startswith(("## You, ", "## I, ")) for document in documents)
    for turn in turns:
        head, found, whole = whole.partition(f" UTC\n\n{turn.text}\n\n")
        assert found
        assert head.startswith("## You, " if turn.role == "user" else "## I, ")
    assert not whole
    longest = max((len(turn.text.encode()) for turn in turns), default=0) + 50
    assert all(len(document.encode()) <= max(100, longest) for document in documents)


@pytest.mark.parametrize(
    ("pictures", "noted"), [((), ""), ((4,), "(a picture)\n\n"), ((4, 5), "(2 pictures)\n\n")]
)
def test_pictures_are_noted(pictures: tuple[int, ...], noted: str) -> None:
    """A text cannot hold them."""
    (document,) = write_documents([Turn("user", "What is it?", 0, pictures)], "en")

    assert document == f"## You, 1970-01-01 00:00 UTC\n\n{noted}What is it?\n\n"


async def test_summary_is_exported_with_what_it_is_of(gateway: Conversation) -> None:
    """All that is kept of a conversation is its user's: the notes first, then every turn."""
    await gateway.converse("question", "answer")
    first, last = await gateway.store.run(gateway.store.latest_turns, CHAT, 9)
    summary = Summary("The notes.", last.id, first.at)
    assert await gateway.store.run(gateway.store.save_summary, CHAT, 0, None, summary, first.id)

    (reply,) = await gateway.say("/export")

    content = await gateway.store.run(gateway.store.file, reply.id)
    assert content.startswith("## My notes on the beginning\n\nThe notes.\n\n## You, ")
    assert "question" in content
    assert "answer" in content


async def test_export_is_a_reply_with_a_file(gateway: Conversation) -> None:
    """Its caption is a sentence, its content is asked for by itself, and goes with the reply."""
    await gateway.converse("What flies?", "A *bird*.")
    stream = gateway.outbox.stream()
    hello = await anext(stream)
    assert isinstance(hello, Hello)

    (reply,) = await gateway.say("/export", "ru")

    assert (reply.file, reply.closed, reply.markup) == ("conversation.md", True, "plain")
    assert reply.text.startswith("Наш разговор")
    response = await gateway.fetch(reply, hello.epoch)
    assert response.status_code == 200
    first, second = response.text.split("## Я, ")
    assert first.startswith("## Вы, 20")
    assert first.endswith(" UTC\n\nWhat flies?\n\n")
    assert second.endswith(" UTC\n\nA *bird*.\n\n")
    await gateway.outbox.drop(hello.epoch, reply.id)
    assert list(gateway.store._db.execute("SELECT * FROM files")) == []
    await stream.aclose()


async def test_file_is_for_the_current_relay_alone(gateway: Conversation) -> None:
    """An older stream's epoch, and a reply that is settled, are refused as for any write."""
    await gateway.converse("What flies?", "A bird.")
    (reply,) = await gateway.say("/export")
    streams = [gateway.outbox.stream(), gateway.outbox.stream()]
    first, second = [await anext(stream) for stream in streams]
    assert isinstance(first, Hello)
    assert isinstance(second, Hello)

    assert (await gateway.fetch(reply, first.epoch)).status_code == 409
    assert (await gateway.fetch(reply, second.epoch)).status_code == 200
    await gateway.outbox.drop(second.epoch, reply.id)
    assert (await gateway.fetch(reply, second.epoch)).status_code == 404
    assert (await gateway.fetch(reply, "x")).status_code == 422
    for stream in streams:
        await stream.aclose()


async def test_nothing_to_export(gateway: Conversation) -> None:
    """Where nothing was said, and after /new, there is a sentence and no file."""
    (reply,) = await gateway.say("/export")
    assert (reply.file, reply.text) == ("", "There is no conversation here yet.")

    await gateway.converse("What flies?", "A bird.")
    await gateway.say("/new")
    assert [reply.file for reply in await gateway.say("/export")] == ["", "", ""]


async def test_one_export_at_a_time(gateway: Conversation) -> None:
    """Until it has arrived, there is a sentence instead of another."""
    await gateway.converse("What flies?", "A bird.")

    await gateway.say("/export")
    export, sentence = await gateway.say("/export")

    assert export.file
    assert (sentence.file, sentence.text) == ("", "The file is on its way already.")


async def test_long_conversation_takes_several_files(
    gateway: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a reply of its own, numbered; none holds more than a relay may."""
    monkeypatch.setattr(export, "DOCUMENT_BYTES", 1000)
    for number in range(3):
        await gateway.converse(f"Question {number}", "x" * 900)

    replies = await gateway.say("/export")

    assert [reply.file for reply in replies] == [
        f"conversation-{number}.md" for number in (1, 2, 3)
    ]
    assert replies[1].text == "Our conversation, as I remember it (file 2 of 3)."
    assert len({reply.id for reply in replies}) == 3


async def test_forget_erases_a_file_that_is_on_its_way(
    gateway: Conversation, tmp_path: Path
) -> None:
    """Nothing of it is left on the disk, and the relay is told that there is nothing to fetch."""
    await gateway.converse(CANARY, CANARY)
    stream = gateway.outbox.stream()
    hello = await anext(stream)
    assert isinstance(hello, Hello)
    (reply,) = await gateway.say("/export")
    pages = read_pages(tmp_path / "store.db", KEY)
    assert any(CANARY.encode() in page for page in pages), "control"

    await gateway.store.run(put_menu, gateway.store)
    await gateway.gateway.inbox.accept(Batch(bot_id=1, updates=[press(90, "forget")]))

    assert (await gateway.fetch(reply, hello.epoch)).status_code == 410
    pages = read_pages(tmp_path / "store.db", KEY)
    assert not any(CANARY.encode() in page for page in pages)
    await stream.aclose()


async def test_file_waits_for_a_relay_that_takes_it(gateway: Conversation) -> None:
    """A relay of version 1 is not told of it, and hears of all else; the next one is."""
    await gateway.converse("What flies?", "A bird.")
    await gateway.say("/export")
    await gateway.say("/help")

    async def opened(*, takes_files: bool) -> list[str]:
        stream = gateway.outbox.stream(takes_files=takes_files)
        told: list[str] = []
        async with asyncio.timeout(1):
            async for event in stream:
                if isinstance(event, Opened):
                    told.append(event.reply.file or "help")
                if len(told) == 1 + takes_files:
                    break
        await stream.aclose()
        return told

    assert await opened(takes_files=False) == ["help"]
    assert await opened(takes_files=True) == ["conversation.md", "help"]
