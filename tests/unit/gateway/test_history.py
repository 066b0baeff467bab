"""A prompt holds what fits of the conversation, counted by the engine itself."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.engine import Engine, Message, PromptTooLong
from services.gateway.history import (
    FRAME_TOKENS,
    SUMMARY_NOTE,
    UNSEEN,
    History,
    Said,
    estimate,
    instruct,
)
from services.gateway.pictures import PICTURE_TOKENS
from services.gateway.store import NOTHING, Ask, Piece, Store, Summary, Turn, WantedDocument
from tests.unit.fakes import USER, FakeEngine, open_store

CHAT = (USER, 0)
WORDS = "syllables " * 20  # 200 bytes


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with open_store(tmp_path) as store:
        yield store


async def add(store: Store, text: str) -> Ask:
    reply = await store.run(store.add_reply, CHAT, 5)
    return await store.run(store.add_ask, reply.id, USER, CHAT, "en", [Piece(5, text, 0)])


async def converse(store: Store, exchanges: int) -> None:
    for number in range(exchanges):
        ask = await add(store, f"q{number} {WORDS}")
        await store.run(store.finish_ask, ask, f"a{number} {WORDS}", "", NOTHING)


class Counting(FakeEngine):
    """Counts how often it is asked to count."""

    counts = 0

    async def count_prompt(self, messages: list[dict[str, str]], model: str = "") -> int | None:
        self.counts += 1
        return await super().count_prompt(messages, model)


def history(store: Store, fake: FakeEngine, prompt_tokens: int) -> History:
    engine: Engine = fake  # type: ignore[assignment]  # a fake of the same shape
    return History(store, engine, prompt_tokens)


def names(messages: list[dict[str, str]]) -> list[str]:
    return [message["content"].split()[0] for message in messages]


async def test_what_surely_fits_is_not_counted(store: Store) -> None:
    """A short conversation costs no question to the tokenizer."""
    engine = Counting(tokens_per_word=1)
    await converse(store, 2)

    messages, _ = await history(store, engine, 4000).compose(await add(store, "now"), "be brief")

    assert names(messages) == ["be", "q0", "a0", "q1", "a1", "now"]
    assert engine.counts == 0
    assert sum(len(m["content"].encode()) + FRAME_TOKENS for m in messages) <= 4000


@pytest.mark.parametrize(
    ("tokens_per_word", "kept"), [(1, ["q0", "a0", "q1", "a1", "q2", "a2", "q3", "a3"]), (8, 2)]
)
async def test_engines_own_count_decides(
    store: Store, tokens_per_word: int, kept: list[str] | int
) -> None:
    """As much of the conversation is kept as the engine can read, whole exchanges, latest first."""
    engine = Counting(tokens_per_word=tokens_per_word)
    await converse(store, 4)

    messages, tokens = await history(store, engine, 850).compose(
        await add(store, "now"), "be brief"
    )

    turns = names(messages)[1:-1]
    assert turns == (kept if isinstance(kept, list) else ["q2", "a2", "q3", "a3"])
    assert (await FakeEngine.count_prompt(engine, messages) or 0) <= 850
    assert tokens <= 850
    assert engine.counts <= 4


async def test_ask_that_cannot_fit_is_too_long(store: Store) -> None:
    """If even the ask alone is too much, no part of it is left out in silence."""
    engine = Counting(tokens_per_word=8)

    with pytest.raises(PromptTooLong):
        await history(store, engine, 850).compose(await add(store, WORDS * 6), "be brief")


async def test_ask_alone_is_the_last_try(store: Store) -> None:
    """An engine that refuses what it has counted as fitting is given the bare ask, uncounted."""
    engine = Counting(tokens_per_word=8)
    await converse(store, 2)

    messages, _ = await history(store, engine, 850).compose(
        await add(store, "now"), "be brief", 0.0
    )

    assert names(messages) == ["be", "now"]
    assert engine.counts == 0


async def test_engine_that_does_not_count_is_served_by_an_estimate(store: Store) -> None:
    """Then a third of the bytes is taken for the number of tokens."""
    await converse(store, 8)

    messages, tokens = await history(store, FakeEngine(), 850).compose(
        await add(store, "now"), "be brief"
    )

    assert 4 <= len(messages) < 18
    assert names(messages)[-1] == "now"
    assert names(messages)[1] == f"q{8 - (len(messages) - 2) // 2}"
    assert tokens <= 850


async def test_very_long_conversation_takes_few_questions(store: Store) -> None:
    """However much was said, the tokenizer is not given all of it."""
    engine = Counting(tokens_per_word=1)
    await converse(store, 200)

    _, tokens = await history(store, engine, 2000).compose(await add(store, "now"), "be brief")

    assert 1500 < tokens <= 2000
    assert engine.counts <= 4


async def ask_with_pictures(store: Store, text: str, *pictures: bytes) -> Ask:
    ask = await add(store, text)
    for picture in pictures:
        wanted = WantedDocument(picture.decode(), "photo", "", 5)
        ask = await store.run(store.want_another, ask, wanted)
        ask = await store.run(store.add_document, ask, wanted, picture)
    return ask


def shown(message: Message) -> tuple[list[bytes], str]:
    """The pictures of a message, and its text."""
    if isinstance(message["content"], str):
        return [], message["content"]
    urls = [p["image_url"]["url"] for p in message["content"] if p["type"] == "image_url"]
    text = "".join(p["text"] for p in message["content"] if p["type"] == "text")
    return [base64.b64decode(url.partition(",")[2]) for url in urls], text


def seeing(store: Store, fake: FakeEngine, prompt_tokens: int, most: int) -> History:
    engine: Engine = fake  # type: ignore[assignment]  # a fake of the same shape
    return History(store, engine, prompt_tokens, most)


@pytest.mark.parametrize(
    ("most", "first", "second"),
    [
        (3, ([b"a", b"b"], "old"), ([b"c"], "new")),
        (2, ([b"b"], f"{UNSEEN}\n\nold"), ([b"c"], "new")),
        (1, ([], f"{UNSEEN}\n\n{UNSEEN}\n\nold"), ([b"c"], "new")),
        (0, ([], f"{UNSEEN}\n\n{UNSEEN}\n\nold"), ([], f"{UNSEEN}\n\nnew")),
    ],
)
async def test_latest_pictures_are_shown(
    store: Store, most: int, first: tuple[list[bytes], str], second: tuple[list[bytes], str]
) -> None:
    """So many of the whole conversation; of each other one the engine is told."""
    old = await ask_with_pictures(store, "old", b"a", b"b")
    await store.run(store.finish_ask, old, "answer", "", NOTHING)
    ask = await ask_with_pictures(store, "new", b"c")

    messages, _ = await seeing(store, FakeEngine(), 10**6, most).compose(ask, "")

    assert [shown(message) for message in messages] == [first, ([], "answer"), second]


@pytest.mark.parametrize("tokens_per_word", [None, 1])
async def test_pictures_count_as_their_bound(store: Store, tokens_per_word: int | None) -> None:
    """Whoever counts: an exchange whose picture does not fit is left out, whole."""
    engine = FakeEngine(tokens_per_word=tokens_per_word)
    old = await ask_with_pictures(store, "old", b"a")
    await store.run(store.finish_ask, old, "answer", "", NOTHING)
    await converse(store, 1)
    ask = await ask_with_pictures(store, "new", b"b")

    little, few = await seeing(store, engine, 2 * PICTURE_TOKENS - 1, 9).compose(ask, "")
    much, many = await seeing(store, engine, 2 * PICTURE_TOKENS + 400, 9).compose(ask, "")

    assert [shown(message)[0] for message in little] == [[], [], [b"b"]]
    assert [shown(message)[0] for message in much] == [[b"a"], [], [], [], [b"b"]]
    assert PICTURE_TOKENS < few < 2 * PICTURE_TOKENS < many


async def test_pictures_that_fit_no_prompt(store: Store) -> None:
    """As with a text that is too long."""
    ask = await ask_with_pictures(store, "new", b"a", b"b")
    history = seeing(store, FakeEngine(tokens_per_word=1), 2 * PICTURE_TOKENS, 9)

    with pytest.raises(PromptTooLong):
        await history.compose(ask, "be brief")


async def test_picture_that_is_erased_meanwhile_is_not_shown(store: Store) -> None:
    """The engine is told instead."""
    ask = await ask_with_pictures(store, "new", b"a", b"b")
    await store.run(store._db.execute, "DELETE FROM pictures WHERE content = x'61'")

    messages, _ = await seeing(store, FakeEngine(), 10**6, 9).compose(ask, "")

    assert shown(messages[-1]) == ([b"b"], f"{UNSEEN}\n\nnew")


# With a summary of the beginning


class Remembered:
    """A store with one conversation."""

    def __init__(self, summary: Summary | None, turns: list[Turn]) -> None:
        self._summary = summary
        self._turns = turns

    async def run_first(self, work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    def summary_before(self, _ask: Ask) -> Summary | None:
        return self._summary

    def turns_before(self, _ask: Ask, most: int) -> list[Turn]:
        return self._turns[-most:]


def exchanges(*words: int) -> list[Turn]:
    """Turns 1 to 2n: in each exchange a question and an answer of so many words."""
    turns = []
    for number in range(1, 2 * len(words) + 1):
        text = f"t{number} " + "word " * words[(number - 1) // 2]
        turns.append(Turn("user" if number % 2 else "assistant", text, id=number))
    return turns


async def compose(
    summary: Summary | None, turns: list[Turn], engine: FakeEngine, budget: int, question: str
) -> list[dict[str, str]]:
    store: Any = Remembered(summary, turns)
    ask = Ask(1, 1, USER, USER, 0, 5, 0, "en", "running", 0.0, pieces=(Piece(5, question, 0),))
    history = History(store, engine, budget, has_summaries=True)  # type: ignore[arg-type]
    messages, _ = await history.compose(ask, "be brief")
    return messages


async def test_summary_stands_for_the_turns_that_are_in_it() -> None:
    """Marked as what it is, and quoted, so that nothing in it ends the quotation."""
    turns = exchanges(3, 3, 3)

    messages = await compose(Summary("So far.\n\nNow obey.", 2, 0), turns, FakeEngine(), 800, "now")

    assert messages[0]["content"] == f"be brief\n\n{SUMMARY_NOTE}\n\n> So far.\n> \n> Now obey."
    assert names(messages)[1:] == ["t3", "t4", "t5", "t6", "now"]
    assert instruct("", "") == ""
    assert instruct("be brief", "") == "be brief"


async def test_without_the_setting_a_summary_is_not_read(store: Store) -> None:
    """Whatever is in the store."""
    await converse(store, 1)
    first, last = await store.run(store.latest_turns, CHAT, 9)
    summary = Summary("so far", last.id, 0)
    assert await store.run(store.save_summary, CHAT, 0, None, summary, first.id)

    messages, _ = await history(store, FakeEngine(), 4000).compose(await add(store, "now"), "")

    assert names(messages) == ["q0", "a0", "now"]


async def test_question_comes_before_the_summary() -> None:
    """One that leaves no room for it is answered without; only one that is too long is refused."""
    summary = Summary("so far " * 50, 2, 0)
    engine = FakeEngine(tokens_per_word=1)

    messages = await compose(summary, exchanges(9, 9), engine, 200, "word " * 190)
    assert [m["content"] for m in messages][:-1] == ["be brief"]
    with pytest.raises(PromptTooLong):
        await compose(summary, exchanges(9, 9), engine, 200, "word " * 201)


@given(
    words=st.lists(st.integers(0, 400), min_size=1, max_size=12),
    summed=st.integers(0, 12),
    summary_words=st.integers(1, 300),
    budget=st.integers(100, 1500),
    question=st.integers(1, 60),
    tokens_per_word=st.sampled_from([1, 3, None]),
)
def test_prompt_with_a_summary_never_exceeds_the_budget(
    words: list[int],
    summed: int,
    summary_words: int,
    budget: int,
    question: int,
    tokens_per_word: int | None,
) -> None:
    """By the engine's count, or by the estimate where it does not count."""
    turns = exchanges(*words)
    summary = Summary("note " * summary_words, 2 * min(summed, len(words)), 0)
    engine = FakeEngine(tokens_per_word=tokens_per_word)
    try:
        messages = asyncio.run(compose(summary, turns, engine, budget, "word " * question))
    except PromptTooLong:
        assert tokens_per_word
        assert tokens_per_word * (question + 2) > budget
        return

    counted = asyncio.run(engine.count_prompt(messages))
    said = [Said(message["role"], message["content"]) for message in messages]
    alone = estimate([Said("system", "be brief"), said[-1]])
    assert (estimate(said) if counted is None else counted) <= max(
        budget, alone if counted is None else 0
    )
    assert names(messages)[-1] == "word"
    kept = [int(name[1:]) for name in names(messages)[1:-1]]
    assert kept == list(range(2 * len(words) - len(kept) + 1, 2 * len(words) + 1))
    assert all(number > summary.until_turn for number in kept)
