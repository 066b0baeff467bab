"""What no longer fits of a long conversation stays in the prompt as a summary."""

import asyncio
from typing import Any

import pytest

from services.gateway.history import SUMMARY_NOTE
from services.gateway.store import Store, Summary
from services.gateway.summaries import LAST
from tests.unit.chain.conftest import Chain
from tests.unit.fakes import KEY, USER, until

pytestmark = pytest.mark.long

PROMPT_TOKENS = 400
FACT = "The cat is called Ulysses."
NOTES = "The cat: Ulysses."
FILLER = " and so on" * 30  # 90 words: the fourth exchange is beyond three quarters of the budget


async def restart(chain: Chain, **options: Any) -> None:
    """Restart the gateway as after a change of its settings."""
    if "gateway" in chain.tasks:
        await chain.kill("gateway")
    for name, value in options.items():
        setattr(chain, name, value)
    await chain.start_gateway()


@pytest.fixture
async def summing(chain: Chain) -> Chain:
    """A chain with summaries, and an engine whose every word is a token."""
    chain.engine.tokens_per_word = 1
    await restart(chain, has_summaries=True, prompt_tokens=PROMPT_TOKENS)
    return chain


async def converse(chain: Chain, *questions: str) -> None:
    """Ask one after the other, each answered at some length."""
    for question in questions:
        chain.engine.scripts.append([f"Answer{FILLER}"])
        sent = len(await chain.calls("sendMessage"))
        await chain.say(question)
        await chain.wait_for_answers(sent + 1)


async def command(chain: Chain, text: str) -> None:
    """Give a command, and wait until the bot has replied to it."""
    sent = len(await chain.calls("sendMessage"))
    await chain.say(text)
    await chain.wait_for_answers(sent + 1)
    await chain.wait_until_settled()


def stored(chain: Chain, chat: tuple[int, int] = (USER, 0)) -> Summary | None:
    """Read the summary in the store by a connection of its own."""
    store = Store(chain.directory / "store.db", KEY)
    try:
        return store.summary(chat)
    finally:
        store.close()


def system(request: list[dict[str, str]]) -> str:
    assert request[0]["role"] == "system"
    return request[0]["content"]


def tokens(request: list[dict[str, str]]) -> int:
    return sum(len(message["content"].split()) for message in request)


async def grow(chain: Chain) -> None:
    """Say the fact, and go on until notes were asked for."""
    await converse(chain, FACT, "Question 1", "Question 2")
    assert not chain.engine.summary_requests, "it is not long yet"
    await converse(chain, "Question 3")
    await until(lambda: chain.engine.summary_requests, "notes are asked for")


async def test_fact_outlives_its_message(summing: Chain) -> None:
    """The first message is gone from the prompt and stays in the notes, many questions later."""
    summing.engine.summary_scripts.extend([[NOTES]] * 9)
    await grow(summing)
    await until(lambda: stored(summing), "the notes are stored")

    await converse(summing, *(f"More {number}" for number in range(3)))

    (first, *later) = summing.engine.summary_requests
    assert FACT in first[-1]["content"], "they are made of what was said"
    assert later
    assert all(f"> {NOTES}" in request[-1]["content"] for request in later), "and of old notes"
    *_, last = summing.engine.requests
    assert FACT not in str(last)
    assert system(last) == f"be brief\n\n{SUMMARY_NOTE}\n\n> {NOTES}"
    assert last[1]["role"] == "user", "whole exchanges follow"
    assert all(tokens(r) <= PROMPT_TOKENS for r in summing.engine.requests)
    assert all(tokens(r) + 50 <= PROMPT_TOKENS for r in summing.engine.summary_requests)
    assert set(summing.engine.summary_limits) == {PROMPT_TOKENS // 8}
    assert set(summing.engine.summary_priorities) == {LAST}


async def test_switched_off_there_is_none(chain: Chain) -> None:
    """The oldest turns are left out, as ever."""
    chain.engine.tokens_per_word = 1
    await restart(chain, prompt_tokens=PROMPT_TOKENS)

    await converse(chain, FACT, *(f"Question {number}" for number in range(5)))

    assert chain.engine.summary_requests == []
    assert stored(chain) is None
    assert FACT not in str(chain.engine.requests[-1])
    assert SUMMARY_NOTE not in str(chain.engine.requests)


async def test_notes_give_way_to_questions(summing: Chain) -> None:
    """With the only slot needed for an ask the engine is told to stop; they are made later."""
    await restart(summing, slots=1)
    held = asyncio.Event()
    summing.engine.summary_scripts.extend([["half of", held, " it"], [NOTES]])
    await grow(summing)
    assert stored(summing) is None
    asked = len(summing.engine.requests)

    slow = asyncio.Event()
    summing.engine.scripts.append(["Answer", slow])
    await summing.say("A question in between")
    await until(lambda: len(summing.engine.requests) > asked, "the question is asked at once")
    await until(lambda: summing.engine.aborted == 1, "the notes were given up")
    assert FACT in str(summing.engine.requests[-1]), "as without notes"
    assert len(summing.engine.summary_requests) == 1, "none while it is answered"
    slow.set()

    await until(lambda: stored(summing), "they are made afterwards")
    assert stored(summing).text == NOTES  # type: ignore[union-attr]  # it is there
    assert len(summing.engine.summary_requests) == 2


async def test_restart_in_between_leaves_nothing_half(summing: Chain) -> None:
    """Notes that were being written are lost, and made after the next answer."""
    summing.engine.summary_scripts.extend([["half", asyncio.Event()], [NOTES]])
    await grow(summing)

    await restart(summing)
    assert stored(summing) is None
    await converse(summing, "Next")

    await until(lambda: stored(summing), "they are made")
    await restart(summing)
    await converse(summing, "After another restart")
    assert NOTES in system(summing.engine.requests[-1])


async def test_new_conversation_begins_without_notes(summing: Chain) -> None:
    """They go with what they are about."""
    summing.engine.summary_scripts.append([NOTES])
    await grow(summing)
    await until(lambda: stored(summing), "the notes are stored")

    await command(summing, "/new")
    await converse(summing, "A new beginning")

    assert stored(summing) is None
    assert [m["content"] for m in summing.engine.requests[-1]] == ["be brief", "A new beginning"]


async def test_forgotten_notes_are_gone(summing: Chain) -> None:
    """With the conversation, when the button is pressed."""
    summing.engine.summary_scripts.append([NOTES])
    await grow(summing)
    await until(lambda: stored(summing), "the notes are stored")
    await command(summing, "/forget")
    question = (await summing.shown())[-1]

    await summing.press(question, "forget")

    await until(lambda: stored(summing) is None, "they are erased")


async def test_privacy_tells_of_them(summing: Chain) -> None:
    """Where they are made, and only there."""
    await command(summing, "/privacy")
    assert "I make notes on its beginning" in (await summing.shown())[-1]["text"]

    await restart(summing, has_summaries=False)
    await command(summing, "/privacy")
    assert "notes" not in (await summing.shown())[-1]["text"]
