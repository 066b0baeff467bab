"""The whole chain but the tunnels: from an update that waits to what its user sees."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.bench.figures import Spread, percentile
from tests.bench.gateway import FIRST_USER, free_port, running_gateway
from tests.bench.parts.gateway import running_engine
from tests.bench.parts.relay import running_relay
from tests.bench.processes import NotReady
from tests.bench.program import Program, read_begin, read_end
from tests.bench.results import Part, Plot, Table, Target
from tests.bench.run import Run
from tests.bench.telegram import BenchTelegram, Shown

CHATS = 32
PERIOD_SECONDS = 0.25
"""Between two questions: with placeholder, first edit and final each, within Telegram's limits."""


@dataclass(frozen=True)
class Seen:
    """One question, in milliseconds and seconds."""

    first_milliseconds: float
    """From the update to the first visible edit, less the engine's own time to first token."""
    placeholder_milliseconds: float
    final_seconds: float
    """From the engine's last token to the final text."""


def describe() -> Part:
    """Say what this part is about."""
    return Part(
        "chain",
        "Whole chain, without tunnels",
        [
            "Relay and gateway are the services' own processes, on loopback instead of the two "
            "tunnels and namespaces: what those add is missing here. 32 chats ask in turn, four "
            "questions a second, so that Telegram's limits (which the relay keeps by itself) are "
            "not what is measured. An update is available when the stub Bot API server has it; an "
            "edit is visible when it has come there. The engine writes into its answer when it "
            "had the question, when it began and when it ended, by the same clock.",
            "All processes share the two cores as the kernel likes.",
        ],
    )


async def measure(run: Run, part: Part) -> None:
    """Measure in rounds."""
    rounds, questions = run.choose(3, 1), run.choose(64, 16)
    telegram = BenchTelegram()
    socket, port = run.directory / "engine.sock", free_port()
    async with (
        running_engine(run, socket),
        running_gateway(*(run.environments, run.directory / "gateway", socket, port), follow=False),
        running_relay(run, telegram, port, run.directory / "gateway" / "secrets"),
    ):
        await _ask(telegram, 4)  # whatever is made at first use
        seen = []
        for number in range(rounds):
            seen.append(await _ask(telegram, questions))
            run.say(f"{number + 1}/{rounds}")
    _report(part, seen)


async def _ask(telegram: BenchTelegram, questions: int) -> list[Seen]:
    """Let the chats ask in turn; returns what became of each question."""
    telegram.shown.clear()
    clock = asyncio.get_running_loop().time
    began = clock()
    asked: dict[int, list[float]] = {}
    for number in range(questions):
        await asyncio.sleep(max(0.0, began + number * PERIOD_SECONDS - clock()))
        user = FIRST_USER + number % CHATS
        text = Program(10, rate=40.0, seed=number).question()
        asked.setdefault(user, []).append(time.monotonic())
        telegram.push([telegram.message(user, text)])
    deadline = clock() + 30
    while len(_finals(telegram.shown)) < questions:
        if clock() > deadline:
            raise NotReady(f"{len(_finals(telegram.shown))} of {questions} answers after 30 s")
        await asyncio.sleep(0.02)
    return [one for user, times in asked.items() for one in _judge(user, times, telegram.shown)]


def _finals(shown: Iterable[Shown]) -> dict[int, Shown]:
    """Find the first edit of each message that shows the end of its answer."""
    found: dict[int, Shown] = {}
    for one in shown:
        if read_end(one.text):
            found.setdefault(one.message_id, one)
    return found


def _judge(user: int, asked: list[float], shown: list[Shown]) -> list[Seen]:
    """Put together the questions of a chat and its answers, which come in the same order."""
    mine = [one for one in shown if one.chat_id == user]
    finals = _finals(mine)
    seen = []
    for at, message_id in zip(asked, sorted(finals), strict=True):
        edits = [one for one in mine if one.message_id == message_id]
        first = next(one for one in edits if read_begin(one.text))
        final = finals[message_id]
        received, begun = read_begin(first.text) or (0.0, 0.0)
        seen.append(
            Seen(
                1000 * (first.at - at - (begun - received)),
                1000 * (edits[0].at - at),
                final.at - (read_end(final.text) or 0.0),
            )
        )
    return seen


def _report(part: Part, rounds: list[list[Seen]]) -> None:
    def over(values: list[list[float]], share: float) -> Spread:
        return Spread.of([percentile(one, share) for one in values])

    first = [[one.first_milliseconds for one in seen] for seen in rounds]
    placeholder = [[one.placeholder_milliseconds for one in seen] for seen in rounds]
    final = [[one.final_seconds for one in seen] for seen in rounds]
    name = "Chain without tunnels"
    part.targets = [
        Target(f"{name}: first visible edit, p50", over(first, 0.5), "ms", "at most", 30),
        Target(f"{name}: first visible edit, p99", over(first, 0.99), "ms", "at most", 100),
        Target(f"{name}: final after the last token, p99", over(final, 0.99), "s", "at most", 1.2),
    ]
    rows: list[tuple[str | float, ...]] = [
        ("placeholder sent, ms", *(over(placeholder, share).median for share in (0.5, 0.99))),
        ("first visible edit, ms", *(over(first, share).median for share in (0.5, 0.99))),
        ("final after the last token, s", *(over(final, share).median for share in (0.5, 0.99))),
    ]
    part.tables.append(Table("From the update", ("", "p50", "p99"), rows))
    shares = [n / 100 for n in range(1, 100)]
    together = [one for seen in first for one in seen]
    part.plots.append(
        Plot(
            "chain-first-edit",
            "First visible edit, less the engine's own time",
            *("ms", "share of answers"),
            {"chain": [(percentile(together, share), share) for share in shares]},
        )
    )
