"""What a reasoning model thinks is no part of its answer: it is shown to who asks for it."""

import asyncio
from pathlib import Path

import pytest

from services.gateway.engine import EngineFailed, EngineUnavailable, Finished, Thought
from services.gateway.manner import Preferences
from services.wire import Button
from tests.unit.fakes import USER, FakeEngine, Script, message, press, put_menu, until
from tests.unit.gateway.lives import CHAT, Gateway

SHOWN = Preferences(reasoning=True)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path, FakeEngine())


async def prefer(gateway: Gateway, chosen: Preferences) -> None:
    await gateway.store.run(gateway.store.save_preferences, USER, chosen)


async def test_thoughts_are_kept_back(gateway: Gateway) -> None:
    """The user sees that the model thinks, then the answer alone; so does the conversation."""
    thinks, speaks = asyncio.Event(), asyncio.Event()
    gateway.engine.scripts.append(
        [Thought("hm, "), Thought("Paris?"), thinks, "It is ", speaks, "Paris."]
    )
    async with gateway.life():
        await gateway.accept(message(1, "capital of France?"))
        reply = (await gateway.replies())[0]
        entry = gateway.outbox._entries[reply.id]
        await until(lambda: entry.reply.status == "Thinking…", "it is seen thinking")
        assert gateway.shown(reply.id) == ""
        thinks.set()
        await until(lambda: gateway.shown(reply.id) == "It is ", "it is seen answering")
        assert entry.reply.status == ""
        speaks.set()

        (reply,) = await gateway.wait_for_end()

        assert reply.text == "It is Paris."
        turns = await gateway.store.run(gateway.store.latest_turns, CHAT, 9)
        assert [turn.text for turn in turns] == ["capital of France?", "It is Paris."]


async def test_thoughts_stand_above_the_answer_as_a_quote(gateway: Gateway) -> None:
    """For a user who has asked for it; the conversation remembers the answer alone."""
    held = asyncio.Event()
    gateway.engine.scripts.append([Thought("first\n"), Thought("second"), "It is ", held, "so."])
    async with gateway.life():
        await prefer(gateway, SHOWN)
        await gateway.accept(message(1, "why?"))
        reply = (await gateway.replies())[0]
        growing = "> first\n> second\n\nIt is "
        await until(lambda: gateway.shown(reply.id) == growing, "both are seen growing")
        held.set()

        (reply,) = await gateway.wait_for_end()

        assert reply.text == "> first\n> second\n\nIt is so."
        turns = await gateway.store.run(gateway.store.latest_turns, CHAT, 9)
        assert turns[-1].text == "It is so."


async def test_thoughts_without_an_answer_are_explained(gateway: Gateway) -> None:
    """The limit was used up by thinking: the user is told so, and it is paid for."""
    gateway.engine.scripts.append([Thought("on and on"), Finished("length", 10, 256)])
    async with gateway.life():
        await gateway.accept(message(1, "why?"))

        (reply,) = await gateway.wait_for_end()

        assert reply.text == "(I thought until there was no room left for an answer)"
        ((asks, usage),) = await gateway.usage()
        assert (asks, usage.prompt_tokens, usage.answer_tokens) == (1, 10, 256)
        assert await gateway.store.run(gateway.store.latest_turns, CHAT, 9) == []


@pytest.mark.parametrize("chosen", [Preferences(), SHOWN], ids=["hidden", "shown"])
async def test_cut_thought_is_thought_again(gateway: Gateway, chosen: Preferences) -> None:
    """What was thought before the engine broke off is taken back with its try."""
    gateway.engine.scripts.extend([[Thought("old"), EngineFailed()], [Thought("new"), "fine"]])
    async with gateway.life():
        await prefer(gateway, chosen)
        await gateway.accept(message(1, "why?"))

        (reply,) = await gateway.wait_for_end()

    assert reply.text == ("> new\n\nfine" if chosen.reasoning else "fine")
    assert len(gateway.engine.requests[1]) == 1  # nothing to go on with


async def test_answer_that_goes_on_keeps_its_thoughts(gateway: Gateway) -> None:
    """The engine is given the answer's beginning without them."""
    gateway.engine.scripts.extend([[Thought("hm"), "one ", EngineFailed()], [" two"]])
    async with gateway.life():
        await prefer(gateway, SHOWN)
        await gateway.accept(message(1, "count"))

        (reply,) = await gateway.wait_for_end()

    assert reply.text == "> hm\n\none two"
    assert gateway.engine.requests[1][-1] == {"role": "assistant", "content": "one"}


async def test_stopped_while_thinking_is_paid_for(gateway: Gateway) -> None:
    """Thoughts are tokens of the engine as well."""
    held = asyncio.Event()
    gateway.engine.scripts.append([Thought("a"), Thought("b"), held])
    async with gateway.life():
        await gateway.accept(message(1, "why?"))
        (reply,) = await gateway.replies()
        entry = gateway.outbox._entries[reply.id]
        await until(lambda: entry.reply.status == "Thinking…", "it is seen thinking")

        await gateway.accept(message(2, "/stop"))
        (reply,) = await gateway.wait_for_end()

        assert reply.text == "(stopped)"
        ((asks, usage),) = await gateway.usage()
        assert (asks, usage.answer_tokens) == (1, 2)


async def test_endless_thinking_ends_at_the_limit(gateway: Gateway) -> None:
    """An engine that disregards the limit is cut off, whatever it does meanwhile."""
    gateway.engine.scripts.append([Thought("x")] * 2000)
    async with gateway.life():
        await gateway.accept(message(1, "why?"))

        (reply,) = await gateway.wait_for_end()

        assert reply.text == "(I thought until there was no room left for an answer)"


async def test_engine_that_stops_thinking_has_hung(gateway: Gateway) -> None:
    """A pause in the middle of a thought is one: the next try answers."""
    gateway.engine.scripts.extend([[Thought("hm"), asyncio.Event()], ["fine"]])
    async with gateway.life():
        await gateway.accept(message(1, "why?"))

        (reply,) = await gateway.wait_for_end()

    assert reply.text == "fine"
    assert gateway.engine.aborted == 1


async def test_white_space_is_no_answer_yet(gateway: Gateway) -> None:
    """Some models begin with an empty line before they think."""
    gateway.engine.scripts.append(["\n", Thought("hm"), "fine"])
    async with gateway.life():
        await prefer(gateway, SHOWN)
        await gateway.accept(message(1, "why?"))

        (reply,) = await gateway.wait_for_end()

    assert reply.text == "> hm\n\nfine"


async def test_thoughts_of_white_space_are_none(gateway: Gateway) -> None:
    """Templates of models that were told not to think leave an empty frame."""
    held = asyncio.Event()
    gateway.engine.scripts.append([Thought("\n"), Thought("\n"), "fine", held])
    async with gateway.life():
        await prefer(gateway, SHOWN)
        await gateway.accept(message(1, "why?"))
        (reply,) = await gateway.replies()
        await until(lambda: gateway.shown(reply.id), "it is seen answering")
        assert gateway.shown(reply.id) == "fine"
        held.set()

        (reply,) = await gateway.wait_for_end()

    assert reply.text == "fine"


@pytest.mark.parametrize(
    "first", [[EngineUnavailable()], [Thought("hm"), EngineFailed()]], ids=["waking", "thinking"]
)
async def test_status_ends_with_the_first_word(gateway: Gateway, first: Script) -> None:
    """Also where the answer itself is not shown before its end."""
    gateway.engine.scripts.extend([first, ["answer"]])
    async with gateway.life():
        await prefer(gateway, Preferences(streaming=False))
        statuses: list[str] = []
        show = gateway.outbox.show_status

        def note(reply_id: int, status: str) -> None:
            statuses.append(status)
            show(reply_id, status)

        gateway.outbox.show_status = note  # type: ignore[method-assign]
        await gateway.accept(message(1, "why?"))
        await gateway.wait_for_end()

    assert any(statuses), "control"
    assert statuses[-1] == ""


async def test_limit_counts_the_answer_alone_after_a_restart(gateway: Gateway) -> None:
    """What was thought in tries that have ended takes nothing from what may still be said."""
    gateway.engine.scripts.extend(
        [
            [*[Thought("x")] * 200, EngineFailed()],
            [*[Thought("y")] * 100, "It is ", asyncio.Event()],
        ]
    )
    async with gateway.life():
        await gateway.accept(message(1, "why?"))
        (reply,) = await gateway.replies()
        await until(lambda: gateway.shown(reply.id) == "It is ", "it speaks")
        await gateway.save()
    gateway.engine.scripts.clear()
    gateway.engine.scripts.append([" so."])

    async with gateway.life():
        (reply,) = await gateway.wait_for_end()

    assert reply.text == "It is so."


async def test_thoughts_are_paid_for_if_the_gateway_dies(gateway: Gateway) -> None:
    """They are in the checkpoint's cost, though not in its text."""
    gateway.engine.scripts.append([*[Thought("x")] * 200, asyncio.Event()])
    async with gateway.life():
        await gateway.accept(message(1, "why?"))
        await until(lambda: gateway.queue.answer_tokens == 200, "it has thought")
        await gateway.save()
    gateway.engine.scripts.clear()

    async with gateway.life():
        await gateway.wait_for_end()
        ((_, usage),) = await gateway.usage()

    assert usage.answer_tokens > 200


async def test_hidden_answer_stays_hidden_over_a_restart(gateway: Gateway) -> None:
    """Whoever wants to see it complete alone does not see its half."""
    gateway.engine.scripts.append(["half ", asyncio.Event()])
    async with gateway.life():
        await prefer(gateway, Preferences(streaming=False))
        await gateway.accept(message(1, "why?"))
        await until(lambda: gateway.queue.answer_tokens, "it speaks")
        await gateway.save()
    held = asyncio.Event()
    gateway.engine.scripts.clear()
    gateway.engine.scripts.append([held, " whole"])

    async with gateway.life():
        (reply,) = await gateway.replies()
        await until(lambda: len(gateway.engine.requests) == 2, "it goes on")
        assert gateway.shown(reply.id) == ""
        held.set()
        (reply,) = await gateway.wait_for_end()

    assert reply.text == "half whole"


@pytest.mark.parametrize("late", ["secret", Thought("secret")], ids=["word", "thought"])
async def test_nothing_is_said_after_the_end(gateway: Gateway, late: str | Thought) -> None:
    """A word that the engine says in the moment of /forget is not shown."""
    now = asyncio.Event()
    begin = "a " if isinstance(late, str) else Thought("hm")
    gateway.engine.scripts.append([begin, now, late, asyncio.Event()])
    async with gateway.life():
        await prefer(gateway, SHOWN)
        await gateway.accept(message(1, "why?"))
        (reply,) = await gateway.replies()
        await until(lambda: gateway.shown(reply.id), "it begins")
        close = gateway.outbox.close

        def close_late(reply_id: int, text: str, *buttons: Button) -> None:
            now.set()
            close(reply_id, text, *buttons)

        gateway.outbox.close = close_late  # type: ignore[method-assign]
        await gateway.store.run(put_menu, gateway.store)
        await gateway.accept(press(2, "forget"))
        await until(lambda: not gateway.queue.running_count, "the worker is done")

        assert gateway.shown(reply.id) == "(stopped)"


async def test_prompt_that_is_still_counted_blanks_no_end(gateway: Gateway) -> None:
    """/forget comes before the engine is asked at all."""
    held = asyncio.Event()

    async def count(messages: list[dict[str, str]], model: str = "") -> int | None:
        await held.wait()
        return len(messages)

    gateway.engine.count_prompt = count  # type: ignore[method-assign]
    async with gateway.life():
        await gateway.accept(message(1, "я" * 2040))
        (reply,) = await gateway.replies()
        await until(lambda: gateway.queue.running_count, "it is taken")
        await gateway.store.run(put_menu, gateway.store)
        await gateway.accept(press(2, "forget"))
        held.set()
        await until(lambda: not gateway.queue.running_count, "the worker is done")

        assert gateway.shown(reply.id) == "(stopped)"
