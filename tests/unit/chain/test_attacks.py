"""What an attack on both services found, one test each: what it broke holds from now on."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.gateway.engine import EngineFailed
from services.gateway.outbox import StaleEpoch
from services.relay import delivery, inbox, pacing
from services.relay.link import Link
from services.wire import PartRecord
from tests.unit.chain.conftest import Chain, buttons_of
from tests.unit.fakes import USER, until

FROM = {"id": USER, "is_bot": False, "first_name": "U", "language_code": "en"}
CHAT = {"id": USER, "type": "private"}
MESSAGE = {"message_id": 5, "date": 1, "chat": CHAT, "from": FROM, "text": "poison"}
ODD_FIELD = {"forward_origin": {"type": "of_tomorrow", "date": 1}}
SLOTS = 2
HELP = "Write a message and I"

Look = tuple[str, bool]


# Updates that once ended the relay, and again after each restart


POISON: dict[str, dict[str, Any]] = {
    "long callback data": {
        "callback_query": {
            "id": "1",
            "from": FROM,
            "chat_instance": "1",
            "data": "x" * 65,
            "message": {"message_id": 1, "date": 1, "chat": CHAT},
        }
    },
    "long language tag": {"message": {**MESSAGE, "from": {**FROM, "language_code": "x" * 36}}},
    "long text": {"message": {**MESSAGE, "text": "x" * 16_385}},
    "lone surrogate": {"message": {**MESSAGE, "text": "a\ud800b"}},
}


@pytest.mark.parametrize("poison", POISON)
async def test_poisoned_update_does_not_stop_the_relay(chain: Chain, poison: str) -> None:
    """Whatever an allowed user's update carries, what comes after it is asked."""
    await chain.post("/update", {**POISON[poison], "force": True})

    await chain.say("next")

    relay = chain.tasks["relay"]
    await until(lambda: relay.done() or "next" in asked(chain), "the next question is asked")
    assert not relay.done()


async def test_odd_side_field_does_not_cost_the_text(chain: Chain) -> None:
    """A text is asked even if it carries a field of a kind that nobody knows yet."""
    await chain.post("/say", {"user": FROM, "text": "hello", "extra": ODD_FIELD})

    await until(lambda: asked(chain) == ["hello"], "the question is asked")


async def test_odd_side_field_does_not_cost_the_answer(chain: Chain) -> None:
    """A text is answered, once, even if it carries a field that the library cannot read."""
    await chain.post("/say", {"user": FROM, "text": "hello", "extra": ODD_FIELD})

    await until(lambda: chain.engine.requests, "the question is asked")
    async with asyncio.timeout(10):
        while (seen := await look(chain)) != [("fine", False)]:
            assert len(seen) <= 1, seen
            await asyncio.sleep(0.02)


# Two relays: one is superseded, paused or comes back


async def test_superseded_relay_writes_nothing_over_the_final(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that has not heard of its successor gets no leave for the edit it has in store."""
    monkeypatch.setattr(delivery, "SETTLE_SECONDS", 0.2)
    refused: list[int] = []
    monkeypatch.setattr(chain.outbox, "claim", noting_refusals(chain.outbox.claim, refused))
    end = asyncio.Event()
    chain.engine.scripts.append(["start", end, " THE END"])
    await chain.kill("relay")
    async with stalling_link(chain.gateway_port) as link:
        await chain.start_relay("first", link.port)
        await chain.say("tell me")
        await wait_for_look(chain, [("start", True)])
        await chain.post(
            "/fault", {"method": "editMessageText", "kind": "retry_after", "seconds": 2}
        )
        chain.outbox.grow(1, " and more")
        await chain.wait_until_hit()

        link.stall()
        await chain.start_relay("second")
        end.set()
        await chain.wait_until_settled()

        async with asyncio.timeout(6):
            while not refused:  # the first relay's edit is due by now
                assert await look(chain) == [("start THE END", False)]
                await asyncio.sleep(0.02)
        assert await look(chain) == [("start THE END", False)]
        await chain.kill("first")


async def test_takeover_and_return_leave_one_message_per_part(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second relay adds a part and dies; the first comes back and sends no part again."""
    monkeypatch.setattr(delivery, "SETTLE_SECONDS", 0.2)
    await hurry(chain, monkeypatch)
    more, end = asyncio.Event(), asyncio.Event()
    chain.engine.scripts.append(["one ", more, "word " * 1200, end, "THE END"])
    await chain.kill("relay")
    async with stalling_link(chain.gateway_port) as link:
        await chain.start_relay("first", link.port)
        await chain.say("tell me")
        await wait_for_look(chain, [("one", True)])
        link.stall()
        await chain.start_relay("second")
        more.set()
        two_parts = [("one word word word wo", False), ("word word word word w", True)]
        await wait_for_look(chain, two_parts)

        await chain.kill("second")
        link.resume()
        end.set()
        await chain.wait_until_settled()
        await chain.kill("first")

    texts = [message["text"] for message in await chain.shown()]
    assert " ".join(texts).split() == ["one", *["word"] * 1200, "THE", "END"]
    assert [button for _, button in await look(chain)] == [False, False]


# What the chat shows in the end


@pytest.mark.parametrize("text", ["\x00", "\u202e", "\u200b", " \u2060\n\u200d"])
async def test_invisible_answer_is_no_answer(chain: Chain, text: str) -> None:
    """What Telegram would take for an empty text is told to the user as such."""
    chain.engine.scripts.append([text])

    await chain.say("tell me")

    assert await chain.wait_for_answers(1) == ["(no answer)"]


async def test_refused_final_leaves_no_button(chain: Chain) -> None:
    """If Telegram refuses the final text, nothing promises that it goes on, and it is settled."""
    go_on = asyncio.Event()
    chain.engine.scripts.append(["half", go_on, " and half"])
    await chain.say("tell me")
    await wait_for_look(chain, [("half", True)])
    refusal = "Bad Request: something that nobody knows yet"
    await chain.post(
        "/fault",
        {
            "method": "editMessageText",
            "kind": "status",
            "status": 400,
            "description": refusal,
            "count": None,
        },
    )

    go_on.set()
    await chain.wait_until_settled()

    assert await look(chain) == [("half", False)]


@pytest.mark.parametrize(
    "fault",
    [{"kind": "status", "status": 502}, {"kind": "retry_after", "seconds": 1}],
    ids=lambda fault: str(fault["kind"]),
)
async def test_leftover_of_a_longer_first_try_is_deleted(
    chain: Chain, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that begins anew and is shorter leaves no old part, even if deleting fails once."""
    monkeypatch.setattr(delivery, "SETTLE_SECONDS", 0.2)
    await hurry(chain, monkeypatch)
    break_off = asyncio.Event()
    chain.engine.resumes = False
    chain.engine.scripts.extend([["old " * 1500, break_off, EngineFailed()], ["short"]])
    await chain.post("/fault", {"method": "deleteMessage", **fault})
    await chain.say("tell me")
    async with asyncio.timeout(10):
        while len(await look(chain)) < 2:
            await asyncio.sleep(0.02)

    break_off.set()
    await chain.wait_until_settled()

    assert await look(chain) == [("short", False)]


async def test_place_in_the_queue_is_taken_back(chain: Chain) -> None:
    """Once an ask is taken, its chat no longer says that somebody is ahead."""
    first = asyncio.Event()
    chain.engine.scripts.extend([[first], [asyncio.Event()], [asyncio.Event()]])
    await occupy_all_slots(chain)
    await chain.say("mine")
    await wait_for_look(chain, [("Waiting: 1 ahead of y", True)])

    first.set()

    await wait_for_look(chain, [("…", True)])


# What stands where


async def test_ten_questions_of_one_batch_are_answered_in_order(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers stand in the order of the questions, even if Telegram is slow with the first."""
    await hurry(chain, monkeypatch)
    await chain.post("/fault", {"method": "sendMessage", "kind": "delay", "seconds": 0.5})
    answers = [f"answer {number}" for number in range(10)]
    chain.engine.scripts.extend([answer] for answer in answers)

    await chain.post(
        "/batch", [{"kind": "say", "user": FROM, "text": f"question {n}"} for n in range(10)]
    )

    assert await chain.wait_for_answers(10) == answers


async def test_command_stands_below_the_answer_to_what_came_before(chain: Chain) -> None:
    """A question, then /help: help is there at once, below the message that will be the answer."""
    go_on = asyncio.Event()
    chain.engine.scripts.append([go_on, "fine"])
    await chain.post("/fault", {"method": "sendMessage", "kind": "delay", "seconds": 0.5})

    await chain.post(
        "/batch",
        [{"kind": "say", "user": FROM, "text": text} for text in ("tell me", "/help")],
    )

    await wait_for_look(chain, [("…", True), (HELP, False)])
    go_on.set()
    await wait_for_look(chain, [("fine", False), (HELP, False)])


# What must hold up nobody


async def test_hanging_typing_holds_up_no_answer(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Telegram never answers to `typing`: the answer comes all the same."""
    monkeypatch.setattr(delivery, "DECORATION_SECONDS", 60)
    await chain.post("/fault", {"method": "sendChatAction", "kind": "hang"})
    go_on = asyncio.Event()
    chain.engine.scripts.append([go_on, "fine"])
    await chain.say("tell me")
    await chain.wait_until_hit()

    go_on.set()

    assert await chain.wait_for_answers(1) == ["fine"]


async def test_hanging_acknowledgement_holds_up_nobody(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Telegram never takes the word for a pressed button: the next message is served as ever."""
    monkeypatch.setattr(inbox, "DECORATION_SECONDS", 60)
    await chain.post("/fault", {"method": "answerCallbackQuery", "kind": "hang"})
    await chain.say("tell me")
    await chain.wait_for_answers(1)
    await chain.post(
        "/press",
        {"user": FROM, "chat_id": USER, "message_id": 2, "data": "stop:1", "force": True},
    )
    await chain.wait_until_hit()

    await chain.say("hello", user=8)

    assert await chain.wait_for_answers(1, chat_id=8) == ["fine"]


# What is not wanted any more


async def test_waiting_ask_is_stopped_while_all_slots_are_busy(chain: Chain) -> None:
    """/stop of an ask that waits needs no slot, and disturbs nobody who has one."""
    chain.engine.scripts.extend([[asyncio.Event()], [asyncio.Event()]])
    await occupy_all_slots(chain)
    await chain.say("mine")
    await wait_for_look(chain, [("Waiting: 1 ahead of y", True)])

    await chain.say("/stop")

    assert await chain.wait_for_answers(1) == ["(stopped)"]
    assert len(chain.engine.requests) == SLOTS
    assert chain.engine.aborted == 0


async def test_ask_of_a_user_who_blocked_the_bot_is_aborted(chain: Chain) -> None:
    """When an answer can never be shown, the engine stops working on it."""
    go_on = asyncio.Event()
    chain.engine.scripts.append(["beginning", go_on, " and more", asyncio.Event()])
    await chain.say("tell me")
    await wait_for_look(chain, [("beginning", True)])

    await chain.post("/block", {"chat_id": USER})
    go_on.set()

    await until(lambda: chain.engine.aborted == 1, "the engine is told to stop")
    await chain.wait_until_settled()


# Helpers


def asked(chain: Chain) -> list[str]:
    """List the questions that the engine has been asked."""
    return [request[-1]["content"] for request in chain.engine.requests]


async def look(chain: Chain) -> list[Look]:
    """See a chat as its user does: the beginning of each message, and whether it can be stopped."""
    return [
        (message["text"][:21].strip(), bool(buttons_of(message, "stop:")))
        for message in await chain.shown()
    ]


async def wait_for_look(chain: Chain, wanted: list[Look]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 10
    while (seen := await look(chain)) != wanted:
        assert loop.time() < deadline, f"{seen} instead of {wanted}"
        await asyncio.sleep(0.02)


async def hurry(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let neither the relay nor Telegram count the messages of a second."""
    monkeypatch.setattr(pacing, "CHAT_PER_SECOND", 100.0)
    await chain.post("/limits", {"budgets": False})


async def occupy_all_slots(chain: Chain) -> None:
    """Let another user's topics take every slot of the engine."""
    for topic in range(SLOTS):
        await chain.post(
            "/say",
            {
                "user": {"id": 8, "first_name": "V"},
                "text": "long",
                "message_thread_id": 50 + topic,
                "extra": {"is_topic_message": True},
            },
        )
    await until(lambda: len(chain.engine.requests) == SLOTS, "all slots are busy")


def noting_refusals(
    claim: Callable[[int, int], None], refused: list[int]
) -> Callable[[int, int], None]:
    """Watch a claim: whose epoch it refuses is noted."""

    def watched(epoch: int, reply_id: int) -> None:
        try:
            claim(epoch, reply_id)
        except StaleEpoch:
            refused.append(epoch)
            raise

    return watched


@dataclass
class StallingLink:
    """Another port of the gateway. A relay behind it can be left without news, as if paused.

    Its requests pass all the same. When the link resumes, its stream breaks off and it may begin
    another one.
    """

    gateway_port: int
    port: int = 0
    stalled: bool = False
    resumed: asyncio.Event = field(default_factory=asyncio.Event)

    def stall(self) -> None:
        self.stalled = True

    def resume(self) -> None:
        self.stalled = False
        self.resumed.set()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.gateway_port)
        is_stream = False

        async def ask() -> None:
            nonlocal is_stream
            while data := await reader.read(65536):
                is_stream = is_stream or data.startswith(b"GET /events")
                there_writer.write(data)

        async def answer() -> None:
            while data := await there_reader.read(65536):
                if is_stream and self.stalled:
                    await self.resumed.wait()
                    return
                writer.write(data)

        ways = {asyncio.create_task(ask()), asyncio.create_task(answer())}
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        writer.close()
        there_writer.close()


@asynccontextmanager
async def stalling_link(gateway_port: int) -> AsyncGenerator[StallingLink]:
    link = StallingLink(gateway_port)
    server = await asyncio.start_server(link.connect, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()


async def test_gateway_that_restarts_between_a_placeholder_and_its_record(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is recorded with the next stream: none is left empty, and order is kept."""
    record_part = Link.record_part
    is_first = True

    async def restart_before(link: Link, part: PartRecord, reply_id: int) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            await chain.kill("gateway")
            await chain.start_gateway()
        await record_part(link, part, reply_id)

    monkeypatch.setattr(Link, "record_part", restart_before)
    monkeypatch.setattr(delivery, "SETTLE_SECONDS", 0.1)
    chain.engine.scripts.extend([["first"], ["second"], ["third"]])
    said = {"kind": "say", "user": FROM}

    await chain.post("/batch", [said | {"text": "one"}, said | {"text": "two"}])

    await chain.wait_for_answers(2)
    texts = [message["text"] for message in await chain.shown()]
    # The engine is asked again for an answer in whose middle the gateway ended: either, or none.
    assert texts in (["first", "second"], ["second", "third"], ["first", "third"])
