"""Another answer, a longer one, and /retry: only the latest exchange, and only by who asked."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.gateway.engine import EngineFailed, Finished
from services.gateway.store import Piece, Turn
from services.wire import Reply
from tests.unit.fakes import USER, FakeEngine, message, press, put_menu, until
from tests.unit.gateway.lives import CHAT, Gateway

OTHER = 8
LENGTH = Finished("length", 3, 2)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path, FakeEngine())


class Chat:
    """A chat in which the relay shows everything at once."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.updates = 0
        self.messages = 90

    async def answer_to(self, text: str, **changes: Any) -> Reply:
        self.updates += 1
        await self.gateway.accept(message(self.updates, text, **changes))
        return await self.shown()

    async def shown(self, messages: int = 1) -> Reply:
        """The next complete reply, when it stands in the chat in so many messages."""
        (reply,) = await self.gateway.wait_for_end()
        store = self.gateway.store
        for position in range(len(reply.parts), messages):
            self.messages += 1
            await store.run(store.record_part, reply.id, position, self.messages)
        await store.run(store.drop_reply, reply.id, messages)
        self.gateway.outbox._entries.pop(reply.id, None)
        return reply

    async def press(self, reply: Reply, verb: str, **changes: Any) -> str:
        self.updates += 1
        data = next(b.data for b in reply.buttons if b.data.startswith(verb))
        fields = {"kind": "press", "press_id": str(self.updates), "press_data": data}
        return await self.gateway.accept(message(self.updates, None, **(fields | changes)))

    async def command(self, text: str, **changes: Any) -> str:
        """What the bot says to a command that asks for no answer."""
        self.updates += 1
        await self.gateway.accept(message(self.updates, text, **changes))
        return (await self.gateway.replies())[-1].text

    async def turns(self) -> list[str]:
        store = self.gateway.store
        turns: list[Turn] = await store.run(store.latest_turns, CHAT, 99)
        return [turn.text for turn in turns]


async def test_another_answer_takes_the_place_of_the_first(gateway: Gateway) -> None:
    """In the same messages, in the chat and in the conversation; the earlier one stays."""
    gateway.engine.scripts.extend([["one"], ["two"], ["three"]])
    async with gateway.life():
        chat = Chat(gateway)
        await chat.answer_to("earlier")
        first = await chat.answer_to("question")

        notice = await chat.press(first, "again")
        second = await chat.shown()

        assert notice == "Trying again."
        assert (second.text, second.parts, second.reply_to) == ("three", (92,), first.reply_to)
        assert await chat.turns() == ["earlier", "one", "question", "three"]
        asked = [said["content"] for said in gateway.engine.requests[-1]]
        assert asked == ["earlier", "one", "question"]
        assert await chat.press(second, "again") == "Trying again."


async def test_messages_that_are_gone_are_not_used_again(gateway: Gateway) -> None:
    """A long answer that gave way to a short one has fewer messages now."""
    gateway.engine.scripts.extend([["long"], ["short"], ["last"]])
    async with gateway.life():
        chat = Chat(gateway)
        await gateway.accept(message(50, "question"))
        long = await chat.shown(messages=3)
        await chat.press(long, "again")
        short = await chat.shown(messages=1)
        assert short.parts == (91, 92, 93)

        await chat.press(short, "again")

        assert (await chat.shown()).parts == (91,)


async def test_answer_that_was_cut_by_its_limit_goes_on(gateway: Gateway) -> None:
    """In the same messages, from its own text; only such an answer offers it."""
    gateway.engine.scripts.extend([["one two", LENGTH], [" three"]])
    async with gateway.life():
        chat = Chat(gateway)
        cut = await chat.answer_to("count")
        assert [button.label for button in cut.buttons] == ["Another answer", "Continue"]

        assert await chat.press(cut, "more") == "Going on."
        whole = await chat.shown()

        assert (whole.text, whole.parts) == ("one two three", (91,))
        assert [button.label for button in whole.buttons] == ["Another answer"]
        assert gateway.engine.requests[-1][-1] == {"role": "assistant", "content": "one two"}
        assert await chat.turns() == ["count", "one two three"]


async def test_only_the_latest_answer_can_be_changed(gateway: Gateway) -> None:
    """And only by who asked for it, when nothing of theirs waits, and once it is shown."""
    gateway.engine.scripts.extend([["one"], ["two"]])
    async with gateway.life():
        chat = Chat(gateway)
        first = await chat.answer_to("question")
        latest = await chat.answer_to("another")

        assert await chat.press(first, "again") == (
            "Only my latest answer here can be changed, and by who asked for it."
        )
        assert (await chat.press(latest, "again", user_id=OTHER)) == ""  # a stranger gets nothing
        await gateway.store.run(gateway.store.add_guest, OTHER)
        assert (await chat.press(latest, "again", user_id=OTHER)).startswith("Only my latest")
        refused = await chat.command("/retry", user_id=OTHER)
        assert refused.startswith("There is no answer of mine")

        never = asyncio.Event()
        gateway.engine.scripts.append([never])
        await gateway.accept(message(60, "third"))
        await until(lambda: gateway.queue.running_count, "it is asked")
        assert (await chat.press(latest, "again")).startswith("I am still answering here.")
        assert await chat.turns() == ["question", "one", "another", "two"]


async def test_answer_that_is_not_shown_yet(gateway: Gateway) -> None:
    """The relay is still at work in its messages."""
    gateway.engine.scripts.append(["one"])
    async with gateway.life():
        chat = Chat(gateway)
        await gateway.accept(message(50, "question"))
        (reply,) = await gateway.wait_for_end()

        assert await chat.press(reply, "again") == "One moment: please press again."


@pytest.mark.parametrize("command", ["/new", "/forget"])
async def test_what_is_forgotten_has_no_other_answer(gateway: Gateway, command: str) -> None:
    """Its words are gone."""
    gateway.engine.scripts.append(["one"])
    async with gateway.life():
        chat = Chat(gateway)
        reply = await chat.answer_to("question")
        if command == "/new":
            await chat.answer_to(command)
        else:
            await gateway.store.run(put_menu, gateway.store)
            await gateway.accept(press(500, "forget"))
            await chat.shown()

        assert (await chat.press(reply, "again")).startswith("Only my latest answer")
        assert (await chat.answer_to("/retry")).text.startswith("There is no answer of mine")


async def test_retry_answers_below(gateway: Gateway) -> None:
    """The old answer stays on the screen; the conversation knows the new one instead."""
    gateway.engine.scripts.extend([["one"], ["two"]])
    async with gateway.life():
        chat = Chat(gateway)
        first = await chat.answer_to("question")

        second = await chat.answer_to("/retry")

        assert (second.text, second.parts, second.reply_to) == ("two", (), first.reply_to)
        assert await chat.turns() == ["question", "two"]
        assert (await chat.press(first, "again")).startswith("Only my latest answer")


async def test_retry_takes_up_what_failed(gateway: Gateway) -> None:
    """If that is later than the latest answer."""
    gateway.engine.scripts.append(["one"])
    gateway.engine.scripts.extend([[EngineFailed()] for _ in range(4)])
    gateway.engine.scripts.append(["two"])
    async with gateway.life():
        chat = Chat(gateway)
        await chat.answer_to("question")
        failed = await chat.answer_to("another")
        assert failed.buttons[0].label == "Try again"

        again = await chat.answer_to("/retry")

        assert (again.text, again.parts) == ("two", (92,))
        assert await chat.turns() == ["question", "one", "another", "two"]


async def test_limits_hold_for_another_answer(gateway: Gateway) -> None:
    """It costs what an answer costs."""
    gateway.engine.scripts.append(["one"])
    async with gateway.life():
        chat = Chat(gateway)
        reply = await chat.answer_to("question")
        store = gateway.store
        for number in range(9):
            waiting = await store.run(store.add_reply, (USER, 5), 1)
            piece = [Piece(1, "waits", 0)]
            await store.run(store.add_ask, waiting.id, USER, (USER, 5 + number), "en", piece)

        assert (await chat.press(reply, "again")).startswith("You have 9 messages waiting")


async def test_edited_question_is_answered_in_place(gateway: Gateway) -> None:
    """In the same messages; the conversation knows the new wording and the new answer alone."""
    gateway.engine.scripts.extend([["one"], ["two"]])
    async with gateway.life():
        chat = Chat(gateway)
        first = await chat.answer_to("Wat is it?", message_id=1001)

        second = await chat.answer_to("What is it?", message_id=1001, kind="edit", edited_at=5)

        assert (second.text, second.parts) == ("two", tuple(first.parts) or (91,))
        assert second.id != first.id
        assert await chat.turns() == ["What is it?", "two"]
        assert [request[-1]["content"] for request in gateway.engine.requests] == [
            "Wat is it?", "What is it?",
        ]  # fmt: skip


async def test_edit_of_what_is_no_longer_the_latest_is_asked_below(gateway: Gateway) -> None:
    """What was said since would not fit; and after /new nothing is known of it."""
    gateway.engine.scripts.extend([["one"], ["two"], ["three"], ["four"]])
    async with gateway.life():
        chat = Chat(gateway)
        await chat.answer_to("first", message_id=1001)
        await chat.answer_to("second", message_id=1002)

        below = await chat.answer_to("first!", message_id=1001, kind="edit", edited_at=5)
        assert (below.text, below.parts) == ("three", ())
        await chat.command("/new")
        await chat.shown()
        below = await chat.answer_to("first?", message_id=1001, kind="edit", edited_at=6)

        assert (below.text, below.parts) == ("four", ())


async def test_edit_of_a_piece_of_a_paste_is_asked_below(gateway: Gateway) -> None:
    """It is not the whole question."""
    gateway.engine.scripts.extend([["one"], ["two"]])
    long = "x" * 3000
    async with gateway.life():
        chat = Chat(gateway)
        await gateway.accept(message(501, long), message(502, "the end"))
        await chat.shown()

        below = await chat.answer_to("y" * 3000, message_id=1501, kind="edit", edited_at=5)

        assert (below.text, below.parts) == ("two", ())
        assert await chat.turns() == [f"{long}\nthe end", "one", "y" * 3000, "two"]


async def test_nobody_else_rewords_a_question(gateway: Gateway) -> None:
    """Not even by an edit of a message with the same number, which another chat may have."""
    gateway.engine.scripts.append(["one"])
    async with gateway.life():
        chat = Chat(gateway)
        await chat.answer_to("question", message_id=1001)
        exchange = await gateway.store.run(gateway.store.exchange, CHAT)
        assert exchange

        for changes in ({"user_id": OTHER}, {"chat_id": OTHER}):
            edit = message(700, "other", message_id=1001, kind="edit", edited_at=5, **changes)
            await gateway.accept(edit)

        assert await gateway.store.run(gateway.store.exchange, CHAT) == exchange


async def test_edit_while_the_relay_is_at_work_is_asked_below(gateway: Gateway) -> None:
    """Its messages are not to be disturbed, so both answers stand, and are remembered."""
    gateway.engine.scripts.extend([["one"], ["two"]])
    async with gateway.life():
        await gateway.accept(message(1, "question"))
        await gateway.wait_for_end()

        await gateway.accept(message(2, "question!", message_id=1001, kind="edit", edited_at=5))

        first, second = await gateway.wait_for_end(2)
        assert (first.text, second.text, second.parts) == ("one", "two", ())
        assert await Chat(gateway).turns() == ["question", "one", "question!", "two"]
