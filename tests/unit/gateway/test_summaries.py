"""Notes on the beginning of a long conversation: when they are made, of what, and at what cost."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.gateway import summaries as summarizing
from services.gateway.engine import EngineFailed, EngineUnavailable, Thought
from services.gateway.history import SUMMARY_NOTE, estimate
from services.gateway.manner import Manner
from services.gateway.store import NOTHING, Piece, Store, Summary, Turn, Usage
from services.gateway.summaries import LAST, Summaries
from tests.unit.fakes import KEY, USER, FakeEngine, message, open_store, until
from tests.unit.gateway.lives import CHAT, Gateway
from tests.unit.gateway.raw import read_pages

PROMPT_TOKENS = 400
FACT = "The cat is called Ulysses."
NOTES = "The cat: Ulysses."
FILLER = " and so on" * 30  # 90 words: the fourth exchange is beyond three quarters of the budget


class Talk:
    """A user's long conversation with a gateway, by way of its store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.engine = FakeEngine(tokens_per_word=1)
        self.gateway = Gateway(directory, self.engine, PROMPT_TOKENS, 2, has_summaries=True)
        self.updates = 0
        self._lives = AsyncExitStack()

    async def start(self) -> None:
        await self._lives.enter_async_context(self.gateway.life())

    async def die(self) -> None:
        await self._lives.aclose()

    async def say(self, *questions: str) -> None:
        """Ask one after the other, each answered at some length, and looked at for notes."""
        for question in questions:
            self.engine.scripts.append([f"Answer{FILLER}"])
            await self.ask(question)
            await until(lambda: not self.gateway.queue.running_count, "the answer is done")
            await self.rest()

    async def ask(self, question: str) -> None:
        asked = len(self.engine.requests)
        self.updates += 1
        await self.gateway.accept(message(self.updates, question))
        await until(lambda: len(self.engine.requests) > asked, "it is asked")

    async def rest(self) -> None:
        """Wait until nothing is due, or an engine that is held is being asked."""
        summaries = self.gateway.summaries
        await until(
            lambda: not summaries._noted.is_set() or self.engine.waiting, "nothing more is due"
        )

    async def stored(self) -> Summary | None:
        return await self.gateway.store.run(self.gateway.store.summary, CHAT)

    async def grow(self) -> None:
        """Say the fact, and go on until notes were asked for."""
        await self.say(FACT, "Question 1", "Question 2")
        assert not self.engine.summary_requests, "it is not long yet"
        await self.say("Question 3")
        assert len(self.engine.summary_requests) == 1
        assert len({*self.engine.chats}) == 1, "a summary stays where its chat was read"


@pytest.fixture
async def talk(tmp_path: Path) -> AsyncGenerator[Talk]:
    talk = Talk(tmp_path)
    await talk.start()
    yield talk
    await talk.die()


def tokens(request: list[dict[str, str]]) -> int:
    return sum(len(message["content"].split()) for message in request)


async def test_notes_take_the_place_of_what_is_in_them(talk: Talk) -> None:
    """The first messages are gone from the prompt; the notes stand there as a quotation."""
    talk.engine.summary_scripts.append([f"{NOTES}\n\nNo dogs.\n"])
    await talk.grow()

    await talk.say("Next")

    (asked,) = talk.engine.summary_requests
    assert f"> {FACT}" in asked[-1]["content"]
    assert talk.engine.summary_limits == [PROMPT_TOKENS // 8]
    assert talk.engine.summary_priorities == [LAST]
    system, first, *_ = talk.engine.requests[-1]
    assert system == {
        "role": "system",
        "content": f"{SUMMARY_NOTE}\n\n> {NOTES}\n> \n> No dogs.",
    }
    assert first == {"role": "user", "content": "Question 2"}
    assert "Question 1" not in str(talk.engine.requests[-1])


async def test_no_question_misses_what_the_notes_will_say(talk: Talk) -> None:
    """They are made before anything falls out: every prompt holds the fact, or the notes of it."""
    talk.engine.summary_scripts.extend([[NOTES]] * 9)

    await talk.say(FACT, *(f"Question {number}" for number in range(12)))

    assert all("Ulysses" in str(request) for request in talk.engine.requests)
    first, *later = talk.engine.summary_requests
    assert FACT in str(first)
    assert later
    assert all(f"The old notes:\n> {NOTES}" in request[-1]["content"] for request in later)
    assert all(tokens(request) <= PROMPT_TOKENS for request in talk.engine.requests)


async def test_beginning_of_the_prompt_stays_for_many_turns(talk: Talk) -> None:
    """Notes are made in steps: most prompts begin as the one before did, which is cheap."""
    talk.engine.summary_scripts.extend([[f"Notes {number}."] for number in range(20)])

    await talk.say(*(f"Question {number}" for number in range(20)))

    changes = len({str(request[:2]) for request in talk.engine.requests})
    assert changes <= len(talk.engine.requests) // 2
    assert changes > 5, "each of the notes has been in use"


async def test_latest_exchange_is_never_in_the_notes(talk: Talk) -> None:
    """However long it is: it may be answered anew, and then nothing of it must be left."""
    talk.engine.scripts.append([f"Long{FILLER * 4}"])
    await talk.ask("First")
    await until(lambda: not talk.gateway.queue.running_count, "it is answered")
    await talk.rest()
    assert talk.engine.summary_requests == []

    talk.engine.scripts.append([f"Long{FILLER * 3}"])
    await talk.ask("Second")
    await until(lambda: not talk.gateway.queue.running_count, "it is answered")
    await talk.rest()

    (asked,) = talk.engine.summary_requests
    assert "> First" in str(asked)
    assert "> Second" not in str(asked)
    await talk.ask("/retry")
    assert [m["content"] for m in talk.engine.requests[-1]].count("Second") == 1


@pytest.mark.parametrize(
    "script",
    [
        [EngineUnavailable()], [EngineFailed()], ["half", EngineFailed()], [" \n"],
        [Thought("hm"), Thought("hm")], ["long " * 600], [Thought("hm")] * 101 + ["notes"],
        [KeyError("nobody thought of this")],
    ],
)  # fmt: skip
async def test_engine_that_fails_costs_the_notes_alone(talk: Talk, script: list[Any]) -> None:
    """The prompt is as without them; a later answer brings another try."""
    talk.engine.summary_scripts.extend([script, [NOTES]])
    await talk.grow()
    assert await talk.stored() is None

    await talk.say("Next")

    request = talk.engine.requests[-1]
    assert SUMMARY_NOTE not in str(request)
    assert FACT in str(request), "all that fits"
    assert (await talk.stored()) is not None


async def test_model_that_is_gone_is_replaced(talk: Talk) -> None:
    """Notes are made by whatever the engine has, as answers are."""
    talk.engine.summary_scripts.extend([[EngineFailed()], [NOTES]])
    await talk.grow()
    store = talk.gateway.store
    reply = await store.run(store.add_reply, CHAT, 5)
    ask = await store.run(store.add_ask, reply.id, USER, CHAT, "en", [Piece(5, "next", 0)])

    talk.engine.absent = {"gone"}
    talk.gateway.summaries.note(ask, Manner("", 256, 0.0, model="gone"))
    await talk.rest()

    await until(partial(_has_asked, talk, 2), "they are made")
    await talk.rest()
    assert (await talk.stored()) is not None


async def test_engine_that_never_succeeds_is_asked_ever_less(talk: Talk) -> None:
    """Failed notes cost the engine a prompt each."""
    talk.engine.summary_scripts.extend([[EngineFailed()] for _ in range(40)])

    await talk.say(*(f"Question {number}" for number in range(20)))

    assert 3 <= len(talk.engine.summary_requests) <= 6


async def test_failures_before_a_success_are_forgotten(talk: Talk) -> None:
    """Only those in a row bring fewer tries."""
    talk.engine.summary_scripts.extend([[EngineFailed()], [NOTES], [EngineFailed()], [NOTES]])
    await talk.grow()
    await talk.say("Next")
    assert _has_asked(talk, 2)

    for _ in range(6):
        await talk.say("More")
        if _has_asked(talk, 3):
            break
    await talk.say("At once")

    assert _has_asked(talk, 4)


async def test_engine_that_hangs_is_given_up(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other conversations wait for their notes."""
    monkeypatch.setattr(summarizing, "MOST_SECONDS", 0.05)
    talk.engine.summary_scripts.append(["half", asyncio.Event()])

    await talk.grow()

    await until(partial(_has_aborted, talk, 1), "the engine is told")
    await talk.rest()
    assert await talk.stored() is None


async def test_notes_give_way_to_questions(talk: Talk) -> None:
    """When asks take all slots the engine is told to stop; the notes are made afterwards."""
    talk.engine.summary_scripts.extend([["half of", asyncio.Event(), " it"], [NOTES]])
    await talk.grow()
    slow = asyncio.Event()
    talk.engine.scripts.extend([["A", slow], ["B", slow]])

    await talk.ask("With one of two slots free")
    assert talk.engine.aborted == 0, "there is room for both"
    await talk.gateway.store.run(_ask_elsewhere, talk.gateway.store)
    for ask in await talk.gateway.store.run(talk.gateway.store.asks):
        talk.gateway.queue.put(ask)
    await until(lambda: talk.engine.aborted == 1, "the notes are given up")
    assert len(talk.engine.summary_requests) == 1
    assert talk.gateway.queue.running_count == 2
    slow.set()

    await until(lambda: len(talk.engine.summary_requests) == 2, "they are begun again")
    await talk.rest()
    assert (await talk.stored()) is not None
    (usage,) = await talk.gateway.usage()
    assert usage[1].answer_tokens == 4 + 2 + 1 + 1, "what was given up was paid for, too"


def _ask_elsewhere(store: Store) -> None:
    with store.transaction():
        reply = store.add_reply((USER, 9), 5)
        store.add_ask(reply.id, USER, (USER, 9), "en", [Piece(5, "elsewhere", 0)])


async def test_notes_that_others_interrupt_again_and_again_wait_for_their_chat(talk: Talk) -> None:
    """Each try costs a prompt, which others' asks must not go on spending."""
    talk.engine.summary_scripts.extend([["half", asyncio.Event()] for _ in range(9)])
    await talk.grow()

    for number in (1, 2):
        talk.gateway.queue.pause(True)
        await until(partial(_has_aborted, talk, number), "they are given up")
        talk.gateway.queue.pause(False)
        await until(partial(_has_asked, talk, number + 1), "they are begun once more")
    talk.gateway.queue.pause(True)
    await until(lambda: not talk.gateway.summaries._noted.is_set(), "nothing is due any more")
    talk.gateway.queue.pause(False)
    assert talk.gateway.summaries._due == {}

    await talk.say("Next")
    assert len(talk.engine.summary_requests) == 4, "an answer of their chat brings another try"


def _has_aborted(talk: Talk, count: int) -> bool:
    return talk.engine.aborted == count


def _has_asked(talk: Talk, count: int) -> bool:
    return len(talk.engine.summary_requests) == count


async def test_notes_of_turns_out_of_order_go_with_the_oldest(talk: Talk) -> None:
    """The clock may have been set back in between."""
    talk.engine.summary_scripts.extend([["notes"], ["notes"]])
    await talk.say(FACT, "Question 1", "Question 2")
    turns = await talk.gateway.store.run(talk.gateway.store.latest_turns, CHAT, 9)

    def set_back(ids: tuple[int, ...], at: int) -> None:
        for number in ids:
            talk.gateway.store._db.execute(
                "UPDATE turns SET created_at = ? WHERE id = ?", (at, number)
            )

    await talk.gateway.store.run(set_back, tuple(turn.id for turn in turns[2:4]), 7)
    await talk.say("Question 3")
    summary = await talk.stored()
    assert summary is not None
    assert summary.since == 7


async def test_no_notes_during_a_pause(talk: Talk) -> None:
    """/pause is for the engine."""
    held = asyncio.Event()
    talk.engine.summary_scripts.extend([["half", held], [NOTES]])
    await talk.grow()

    talk.gateway.queue.pause(True)
    await until(lambda: talk.engine.aborted == 1, "they are given up")
    assert len(talk.engine.summary_requests) == 1
    talk.gateway.queue.pause(False)

    await talk.rest()
    assert (await talk.stored()) is not None


async def test_restart_in_between_leaves_nothing_half(talk: Talk) -> None:
    """Notes that were being written are lost, and made after the next answer."""
    talk.engine.summary_scripts.extend([["half", asyncio.Event()], [NOTES]])
    await talk.grow()

    await talk.die()
    await talk.start()
    assert await talk.stored() is None
    await talk.say("Next")

    summary = await talk.stored()
    assert summary is not None
    assert summary.text == NOTES


async def test_what_was_begun_anew_gets_no_notes(talk: Talk) -> None:
    """Notes that are being written when /new or /forget comes are of what is gone."""
    held = asyncio.Event()
    talk.engine.summary_scripts.append([NOTES, held])
    await talk.grow()

    await talk.gateway.accept(message(99, "/new"))
    held.set()
    await talk.rest()
    await until(lambda: not talk.gateway.summaries._due, "nothing is due")

    assert await talk.stored() is None
    assert talk.engine.aborted == 0


async def test_notes_are_the_users_account(talk: Talk) -> None:
    """Tokens are counted for who asked last, and no ask; nothing is shown."""
    talk.engine.summary_scripts.append(["The cat:", " Ulysses."])
    await talk.grow()

    # The fake says of each request: 10 tokens read, and one written for each piece.
    async with asyncio.timeout(5):
        while (await talk.gateway.usage())[0][1].answer_tokens != 4 + 2:
            await asyncio.sleep(0.005)
    ((asks, usage),) = await talk.gateway.usage()
    assert (asks, usage.prompt_tokens) == (4, 50)
    assert not any(reply.text == "Ulysses." for reply in await talk.gateway.replies())
    assert len(await talk.gateway.replies()) == 4


# What is due, and what goes into one request


def summaries(store: Store, engine: Any, prompt_tokens: int) -> Summaries:
    return Summaries(store, None, engine, prompt_tokens, 1, None)  # type: ignore[arg-type]


def conversation(*lengths: int) -> list[Turn]:
    """Exchanges of so many words."""
    return [
        Turn(role, "word " * words, 5, id=1 + 2 * number + (role == "assistant"))
        for number, words in enumerate(lengths)
        for role in ("user", "assistant")
    ]


@pytest.mark.parametrize("counts", [1, None])
@pytest.mark.parametrize("lengths", [(300,), (3000,), (5, 3000), (90,) * 30, (9000, 1)])
async def test_request_for_notes_fits_the_engine(
    tmp_path: Path, counts: int | None, lengths: tuple[int, ...]
) -> None:
    """However long what falls out: what does not fit waits, and one long text loses its middle."""
    async with open_store(tmp_path) as store:
        worker = summaries(store, FakeEngine(tokens_per_word=counts), 800)
        turns = conversation(*lengths)

        messages, taken, counted = await worker._material(Summary("old", 0, 0), turns, "")

        plain = [{"role": said.role, "content": said.text} for said in messages]
        size = tokens(plain) if counts else estimate(messages)
        assert size == counted or size <= 700
        assert size <= 800 - 100
        assert taken, "there is progress"
        assert [turn.id for turn in taken] == [turn.id for turn in turns[: len(taken)]]
        assert len(taken) % 2 == 0


async def test_what_is_longer_ago_than_a_few_prompts_is_left_to_oblivion(tmp_path: Path) -> None:
    """The engine's time is for what was said lately."""
    async with open_store(tmp_path) as store:
        worker = summaries(store, FakeEngine(tokens_per_word=1), 800)
        turns = conversation(*[200] * 30)  # 2 kB an exchange

        falling = await worker._falling_out(Manner("", 256, 0.0), None, turns)

        assert falling[0].id > turns[0].id
        assert falling[-1].id == turns[-3].id
        assert sum(len(turn.text) for turn in falling) <= 8000


# In the store


async def add(store: Store, chat: tuple[int, int], text: str) -> None:
    reply = await store.run(store.add_reply, chat, 5)
    pieces = [Piece(5, text, 0)]
    ask = await store.run(store.add_ask, reply.id, USER, chat, "en", pieces)
    await store.run(store.finish_ask, ask, text, text, NOTHING)
    await store.run(store.drop_reply, reply.id)


async def sum_up(store: Store, text: str = NOTES, chat: tuple[int, int] = CHAT) -> Summary:
    """Put the first exchange into a summary."""
    first, second, *_ = await store.run(store.latest_turns, chat, 99)
    summary = Summary(text, second.id, first.at)
    assert await store.run(store.save_summary, chat, 0, None, summary, first.id)
    return summary


async def test_notes_of_what_has_changed_are_refused(tmp_path: Path) -> None:
    """Of other old notes, of turns that are gone, of another conversation."""
    async with open_store(tmp_path) as store:
        await add(store, CHAT, "one")
        await add(store, CHAT, "two")
        one, _, two, last = await store.run(store.latest_turns, CHAT, 9)
        new = Summary("new", last.id, 0)
        save = store.save_summary
        assert not await store.run(save, CHAT, 1, None, new, one.id)
        assert not await store.run(save, (8, 0), 0, None, new, one.id)
        assert not await store.run(save, CHAT, 0, new, new, one.id)
        assert not await store.run(save, CHAT, 0, None, Summary("new", 99, 0), one.id)
        old = await sum_up(store)

        assert not await store.run(save, CHAT, 0, None, new, two.id)
        assert await store.run(store.summary, CHAT) == old
        assert await store.run(save, CHAT, 0, old, new, two.id)
        assert await store.run(store.summary, CHAT) == new


async def test_notes_go_with_the_oldest_turn_that_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HISTORY_DAYS holds for what they say as for what was said."""
    async with open_store(tmp_path) as store:
        await add(store, CHAT, "old")
        old = await sum_up(store)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3600)
        await add(store, CHAT, "young")
        first, last = (await store.run(store.latest_turns, CHAT, 9))[2:]
        new = Summary("both", last.id, old.since)
        assert await store.run(store.save_summary, CHAT, 0, old, new, first.id)

        await store.run(store.forget_old, 10**6, 10**6, None)
        await store.run(store.forget_old, 10**6, 10**6, 7200)
        assert await store.run(store.summary, CHAT) == new
        await store.run(store.forget_old, 10**6, 10**6, 1800)

        assert await store.run(store.summary, CHAT) is None
        assert len(await store.run(store.latest_turns, CHAT, 9)) == 2


@pytest.mark.parametrize("way", ["forget_chat", "start_conversation", "forget_summaries"])
async def test_erased_notes_are_on_no_page(tmp_path: Path, way: str) -> None:
    """Neither those that stood last nor those before them; another chat's stay."""
    canary, earlier = b"quetzalcoatlus", b"archaeopteryx"
    async with open_store(tmp_path) as store:
        await add(store, CHAT, "one")
        await add(store, CHAT, "two")
        old = await sum_up(store, earlier.decode() * 400)
        *_, first, last = await store.run(store.latest_turns, CHAT, 9)
        new = Summary(canary.decode() * 400, last.id, 0)
        assert await store.run(store.save_summary, CHAT, 0, old, new, first.id)
        await store.run(store.truncate_journal)
        assert any(canary in page for page in read_pages(tmp_path / "store.db", KEY))

        erase = getattr(store, way)
        await (store.run(erase) if way == "forget_summaries" else store.run(_within, store, erase))
        await store.run(store.truncate_journal)

        pages = list(read_pages(tmp_path / "store.db", KEY))
        assert not any(canary in page or earlier in page for page in pages)


def _within(store: Store, erase: Any) -> None:
    with store.transaction():
        erase(CHAT)


async def test_notes_move_with_their_group(tmp_path: Path) -> None:
    """A supergroup reads what the group knew."""
    async with open_store(tmp_path) as store:
        await add(store, (-5, 0), "one")
        notes = await sum_up(store, chat=(-5, 0))

        await store.run(store.move_chat, -5, -1005)

        assert await store.run(store.summary, (-5, 0)) is None
        assert await store.run(store.summary, (-1005, 0)) == notes


async def test_meter_counts_no_ask(tmp_path: Path) -> None:
    """What is done beside the answers is work, and no question."""
    async with open_store(tmp_path) as store:
        await store.run(store.meter, USER, Usage(10, 5, 7))
        await store.run(store.meter, USER, Usage(1, 1, 1))

        (row,) = await store.run(store.usage, 1)
        assert (row.asks, row.usage) == (0, Usage(11, 6, 8))
