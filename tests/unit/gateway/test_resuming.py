"""An answer survives its engine and its gateway: it goes on, is counted once, or ends honestly."""

import asyncio
from pathlib import Path

import pytest

from services.gateway import answering
from services.gateway.engine import EngineFailed, EngineUnavailable, Thought
from services.gateway.store import Turn
from tests.unit.fakes import FakeEngine, message, press, put_menu, until
from tests.unit.gateway.lives import CHAT, Gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path, FakeEngine())


async def test_cut_answer_goes_on_where_it_was_cut(gateway: Gateway) -> None:
    """The engine is given what was said, and asked for what is left of the limit."""
    gateway.engine.scripts.extend([["one ", "two ", EngineFailed()], [" three"]])
    async with gateway.life():
        await gateway.accept(message(1, "count"))

        (reply,) = await gateway.wait_for_end()

    assert reply.text == "one two three"
    assert gateway.engine.requests[1][-1] == {"role": "assistant", "content": "one two"}
    assert gateway.engine.limits == [256, 254]


async def test_answer_goes_on_after_the_gateway_has_died(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved is shown by the next process from its first moment, and goes on."""
    monkeypatch.setattr(answering, "SAVE_SECONDS", 0.01)
    never = asyncio.Event()
    gateway.engine.scripts.extend([["one ", "two", never], [" three"]])
    async with gateway.life():
        await gateway.accept(message(1, "count"))
        async with asyncio.timeout(5):
            while [reply.text for reply in await gateway.replies()] != ["one two"]:
                await asyncio.sleep(0.01)
    gateway.engine.aborted = 0

    async with gateway.life():
        first_shown = [gateway.shown(reply.id) for reply in await gateway.replies()]
        (reply,) = await gateway.wait_for_end()
        usage = await gateway.usage()
        turns = await gateway.store.run(gateway.store.latest_turns, CHAT, 9)

    assert first_shown in (["one two"], ["one two three"])
    assert reply.text == "one two three"
    assert turns == [Turn("user", "count"), Turn("assistant", "one two three")]
    ((asks, cost),) = usage
    assert (asks, cost.answer_tokens) == (1, 3)


async def test_engine_that_cannot_go_on_begins_anew(gateway: Gateway) -> None:
    """Then the first try's text is taken back, and the limit is whole again."""
    gateway.engine.resumes = False
    gateway.engine.scripts.extend([["half", EngineFailed()], ["whole"]])
    async with gateway.life():
        await gateway.accept(message(1, "tell me"))

        (reply,) = await gateway.wait_for_end()

    assert reply.text == "whole"
    assert gateway.engine.limits == [256, 256]


async def test_engine_that_falls_silent_is_asked_anew(gateway: Gateway) -> None:
    """An engine that hangs in mid answer is left, and the answer goes on."""
    gateway.engine.scripts.extend([["one", asyncio.Event()], [" two"]])
    async with gateway.life():
        await gateway.accept(message(1, "count"))

        (reply,) = await gateway.wait_for_end()

    assert reply.text == "one two"
    assert gateway.engine.aborted == 1


async def test_engine_that_is_away_is_waited_for(gateway: Gateway) -> None:
    """However often it is found away, the ask is not given up."""
    gateway.engine.scripts.extend([EngineUnavailable()] for _ in range(30))
    gateway.engine.scripts.append(["here"])
    async with gateway.life():
        await gateway.accept(message(1, "hello"))

        (reply,) = await gateway.wait_for_end()

    assert reply.text == "here"


@pytest.mark.parametrize("said", [[], ["\n"], [" ", Thought("hm")]])
async def test_engine_that_always_fails_is_given_up_honestly(
    gateway: Gateway, said: list[str | Thought]
) -> None:
    """After four tries in vain the user gets one sentence and a button, and the ask is closed."""
    gateway.engine.scripts.extend([*said, EngineFailed()] for _ in range(99))
    async with gateway.life():
        await gateway.accept(message(1, "hello"))

        (reply,) = await gateway.wait_for_end()
        asks = await gateway.store.run(gateway.store.asks)

    assert reply.text == "I could not finish this answer."
    assert [button.label for button in reply.buttons] == ["Try again"]
    assert len(gateway.engine.requests) == answering.TRIES_IN_VAIN
    assert asks == []


async def test_engine_that_breaks_off_after_each_word_comes_to_an_end(gateway: Gateway) -> None:
    """Tries that bring text are not in vain, but they are bounded too; the text stays."""
    gateway.engine.scripts.extend([[" x", EngineFailed()] for _ in range(99)])
    async with gateway.life():
        await gateway.accept(message(1, "hello"))

        (reply,) = await gateway.wait_for_end()

    assert len(gateway.engine.requests) == answering.MOST_TRIES
    assert reply.text.count("x") == answering.MOST_TRIES
    assert reply.text.endswith("I could not finish this answer.")


async def test_retry_button_asks_again_in_the_same_message(gateway: Gateway) -> None:
    """A press takes the ask up, once: its answer goes into the message that told of the failure."""
    gateway.engine.scripts.extend([[EngineFailed()] for _ in range(4)])
    async with gateway.life():
        await gateway.accept(message(1, "hello"))
        (failed,) = await gateway.wait_for_end()
        await gateway.store.run(gateway.store.record_part, failed.id, 0, 77)
        await gateway.store.run(gateway.store.drop_reply, failed.id)  # it was delivered
        press = {"kind": "press", "press_id": "1", "press_data": failed.buttons[0].data}

        first = await gateway.accept(message(2, None, **press))
        second = await gateway.accept(message(3, None, **(press | {"press_id": "2"})))
        (reply,) = await gateway.wait_for_end()

    assert (first, second) == ("Trying again.", "It is finished already.")
    assert (reply.text, reply.parts) == ("fine", (77,))
    assert gateway.engine.requests[-1][-1]["content"] == "hello"


async def test_retry_keeps_to_the_limits(gateway: Gateway) -> None:
    """Who has as many asks waiting as they may have is told so, and can press again later."""
    gateway.engine.scripts.extend([[EngineFailed()] for _ in range(4)])
    gateway.engine.scripts.append([asyncio.Event()])
    async with gateway.life():
        await gateway.accept(message(1, "hello"))
        (failed,) = await gateway.wait_for_end()
        await gateway.store.run(gateway.store.drop_reply, failed.id)  # it was delivered
        await gateway.accept(*(message(number, "more") for number in range(2, 11)))
        press = {"kind": "press", "press_id": "1", "press_data": failed.buttons[0].data}

        notice = await gateway.accept(message(20, None, **press))
        await gateway.accept(message(21, "/stop"))
        await until(lambda: not gateway.queue.running_count, "the slot is free")
        again = await gateway.accept(message(22, None, **(press | {"press_id": "2"})))

    assert notice.startswith("You have 9 messages waiting")
    assert again == "Trying again."


async def test_retry_before_the_failure_is_confirmed(gateway: Gateway) -> None:
    """The relay may still be at work in these messages, so the user is asked to press again."""
    gateway.engine.scripts.extend([[EngineFailed()] for _ in range(4)])
    async with gateway.life():
        await gateway.accept(message(1, "hello"))
        (failed,) = await gateway.wait_for_end()
        press = {"kind": "press", "press_id": "1", "press_data": failed.buttons[0].data}

        notice = await gateway.accept(message(2, None, **press))

        assert await gateway.replies() == [failed]
    assert notice == "One moment: please press again."


async def test_cost_of_all_tries_is_metered_once(gateway: Gateway) -> None:
    """Tries that brought text count, with the engine's numbers where it gives them."""
    gateway.engine.scripts.extend([["one ", "two", EngineFailed()], [" three"]])
    async with gateway.life():
        await gateway.accept(message(1, "count to three"))
        await gateway.wait_for_end()

        ((asks, cost),) = await gateway.usage()

    assert asks == 1
    assert cost.answer_tokens == 3
    assert cost.prompt_tokens > 10  # the engine says 10 for the second try


async def test_stop_closes_an_answer_that_goes_on(gateway: Gateway) -> None:
    """A stop between two tries keeps what was said."""
    until_stopped = asyncio.Event()
    gateway.engine.scripts.extend([["one", EngineFailed()], [until_stopped]])
    async with gateway.life():
        await gateway.accept(message(1, "count"))
        await until(lambda: len(gateway.engine.requests) == 2, "the second try")

        await gateway.accept(message(2, "/stop"))
        (reply,) = await gateway.wait_for_end()

    assert reply.text == "one\n\n(stopped)"
    assert gateway.engine.aborted == 1


async def test_forget_ends_an_answer_that_is_being_written(gateway: Gateway) -> None:
    """Nothing of it is kept, nothing more is written; the engine is freed."""
    gateway.engine.scripts.append(["secret", asyncio.Event()])
    async with gateway.life():
        await gateway.accept(message(1, "tell me"))
        await until(lambda: gateway.queue.running_count and gateway.engine.requests, "it is asked")

        await gateway.store.run(put_menu, gateway.store)
        await gateway.accept(press(2, "forget"))
        stopped, said = await gateway.wait_for_end(2)
        await until(lambda: not gateway.queue.running_count, "the slot is free")
        turns = await gateway.store.run(gateway.store.latest_turns, CHAT, 9)
        again = await gateway.replies()

    assert (stopped.text, turns) == ("(stopped)", [])
    assert said.text.startswith("I have erased")
    assert [reply.text for reply in again] == [stopped.text, said.text]
    assert gateway.engine.aborted == 1


async def test_engine_that_knows_no_end_is_stopped_at_the_limit(gateway: Gateway) -> None:
    """An engine that disregards the limit takes neither a slot nor memory for ever."""
    gateway.engine.scripts.append(["x "] * 5000)
    async with gateway.life():
        await gateway.accept(message(1, "count"))

        (reply,) = await gateway.wait_for_end()

    assert len(reply.text.split()) <= 600  # the limit is 256
    assert gateway.engine.aborted == 1


@pytest.mark.parametrize(("length", "files"), [(5000, 0), (5001, 1)])
async def test_long_answer_comes_as_a_file_too(gateway: Gateway, length: int, files: int) -> None:
    """In the same transaction; the file holds what the conversation remembers."""
    gateway.engine.scripts.append(["x" * length])
    async with gateway.life():
        await gateway.accept(message(1, "at length"))

        answer, *others = await gateway.wait_for_end(1 + files)

        assert answer.text == "x" * length
        assert [(reply.text, reply.file) for reply in others] == [
            ("The same answer, as a file.", "answer.md")
        ] * files
        for reply in others:
            assert gateway.outbox._entries[reply.id].reply == reply
            assert await gateway.store.run(gateway.store.file, reply.id) == "x" * length


async def test_answer_that_was_withdrawn_brings_no_file(gateway: Gateway) -> None:
    """Nobody wants it any more."""
    held = asyncio.Event()
    gateway.engine.scripts.append(["x" * 6000, held])
    async with gateway.life():
        await gateway.accept(message(1, "at length"))
        await until(lambda: gateway.engine.requests, "the engine is asked")
        await gateway.store.run(put_menu, gateway.store)
        await gateway.accept(press(2, "forget"))
        held.set()
        await until(lambda: not gateway.queue.running_count, "the worker is done")

        assert [reply.file for reply in await gateway.replies()] == ["", ""]
