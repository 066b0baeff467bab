"""How fast asks are committed: batches handed over one after the other, as a relay does."""

from __future__ import annotations

import time

from tests.bench.figures import Spread, percentile
from tests.bench.gateway import FIRST_USER, free_port, running_gateway
from tests.bench.parts.gateway import running_engine
from tests.bench.processes import cores
from tests.bench.program import Program
from tests.bench.results import Part, Plot, Table, Target
from tests.bench.run import Run

BATCH = 10
DEFAULT_BATCHES = 48
"""As many asks wait as the gateway lets by default (TOTAL_ASKS=500)."""
TELEGRAM_MESSAGES = 30
"""A second, to all chats together: https://core.telegram.org/bots/faq"""
SLOW = Program(tokens=500, rate=1.0)
"""Answers that keep all slots busy throughout: what comes, waits."""


def describe() -> Part:
    """Say what this part is about."""
    return Part(
        "acceptance",
        "Durable acceptance",
        [
            "Batches of 10 asks of 10 users are handed to a gateway whose slots are all busy, each "
            "when the one before is acknowledged: by then it is on the disk, synchronised. Every "
            "round begins with an empty store, and ends when as many wait as are let by default. "
            "The placeholders' messages are recorded meanwhile as Telegram would take them, 30 a "
            "second. Then the same once with a long queue (TOTAL_ASKS=100000).",
        ],
    )


async def measure(run: Run, part: Part) -> None:
    """Measure short queues in several gateways, and a long one."""
    rounds = [
        await _accept(run, f"short-{number}", DEFAULT_BATCHES, {})
        for number in range(run.choose(5, 2))
    ]
    batches = run.choose(300, 60)
    long = await _accept(run, "long", batches, {"TOTAL_ASKS": "100000"})
    part.targets = [
        Target(
            "Durable acceptance: asks committed",
            Spread.of([BATCH * len(seconds) / sum(seconds) for seconds in rounds]),
            *("/s", "at least", 2000),
        ),
        Target(
            "Durable acceptance: batch of 10, p99",
            Spread.of([1000 * percentile(seconds, 0.99) for seconds in rounds]),
            *("ms", "at most", 10),
        ),
    ]
    together = [one for seconds in rounds for one in seconds]
    part.tables.append(
        Table(
            "Batches of 10",
            ("asks waiting", "asks/s", "p50, ms", "p99, ms", "most, ms"),
            [
                _row(f"up to {BATCH * DEFAULT_BATCHES:,}", together),
                *(
                    _row(f"{BATCH * n:,} to {BATCH * (n + batches // 3):,}", cut)
                    for n in range(0, batches, batches // 3)
                    if (cut := long[n : n + batches // 3])
                ),
            ],
        )
    )
    part.plots.append(
        Plot(
            "acceptance",
            "One batch of 10, by how many asks wait",
            *("asks waiting", "ms"),
            {"long queue": [(BATCH * n, 1000 * one) for n, one in enumerate(long)]},
        )
    )


def _row(name: str, seconds: list[float]) -> tuple[str | float, ...]:
    figures = (percentile(seconds, 0.5), percentile(seconds, 0.99), max(seconds))
    return (name, BATCH * len(seconds) / sum(seconds), *(1000 * one for one in figures))


async def _accept(run: Run, name: str, batches: int, settings: dict[str, str]) -> list[float]:
    """Return the seconds that each batch took."""
    load_core, core = cores()
    socket = run.directory / "engine.sock"
    async with (
        running_engine(run, socket, core=load_core),
        running_gateway(
            *(run.environments, run.directory / name, socket, free_port(), core),
            settings=settings,
            most_messages=TELEGRAM_MESSAGES,
        ) as gateway,
    ):
        relay = gateway.relay
        seconds = []
        for number in range(batches + 2):
            users = [FIRST_USER + (number * BATCH + n) % 2000 for n in range(BATCH)]
            updates = [relay.update(SLOW, user)[0] for user in users]
            began = time.monotonic()
            outcomes = await relay.send(updates)
            seconds.append(time.monotonic() - began)
            assert outcomes == ["accepted"] * BATCH, outcomes
        run.say(f"{name}: {BATCH * len(seconds) / sum(seconds):,.0f} asks/s")
    return seconds[2:]  # the first fill the slots, and warm up
