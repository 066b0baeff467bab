"""What the relay costs: its start, its memory, its updates a second, a thousand chats at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.asgi import serving
from tests.bench.far_end import FarEnd, frame
from tests.bench.figures import Spread, percentile, ratios
from tests.bench.gateway import FIRST_USER, free_port, write_secrets
from tests.bench.processes import NotReady, Process, cores, started
from tests.bench.results import Part, Plot, Table, Target
from tests.bench.run import Run
from tests.bench.telegram import BenchTelegram

USERS = 1000
TOKENS_PER_SECOND = 12
WINDOW_SECONDS = 0.1
"""The gateway gathers what an answer has grown by for so long."""


@dataclass
class Bot:
    """A bot that runs, with the server that it polls."""

    name: str
    process: Process
    telegram: BenchTelegram
    count: Callable[[], int]
    """How many updates it is done with."""
    per_second: list[float] = field(default_factory=list)
    cpu_microseconds: list[float] = field(default_factory=list)
    """An update."""
    resident_mib: float = 0.0

    async def measure(self, updates: int) -> None:
        """Let so many updates wait for it at once."""
        waiting = [
            self.telegram.message(FIRST_USER + n % USERS, f"What is the answer to question {n}?")
            for n in range(updates)
        ]
        wanted = self.count() + updates
        spent = self.process.cpu_seconds()
        began = time.monotonic()
        self.telegram.push(waiting)
        while self.count() < wanted:
            if time.monotonic() > began + 120:
                raise NotReady(f"{self.name}: {self.count()} of {wanted} updates after 120 s")
            await asyncio.sleep(0.005)
        self.per_second.append(updates / (time.monotonic() - began))
        self.cpu_microseconds.append((self.process.cpu_seconds() - spent) / updates * 1e6)
        self.resident_mib = max(self.resident_mib, self.process.resident_mib())


def describe() -> Part:
    """Say what this part is about."""
    return Part(
        "relay",
        "Relay",
        [
            "The relay is the service's own process between two stubs that answer at once: a Bot "
            "API server and a gateway, both in the benchmark's process on the other core. Ready is "
            "its first poll, counted from the start of the process.",
            "Updates: so many private messages of 1,000 allowed users wait, a hundred come with "
            "each poll. The relay is done with one when the gateway has acknowledged it; the "
            "peers, which hand nothing over, when their handler has counted it. Neither answers.",
            "Streaming: all chats grow at once, each by 12 tokens a second, told every 0.1 s as "
            "the gateway does; the relay keeps to Telegram's limits by itself. The lag is by how "
            "much a wait of 10 ms in its event loop took longer.",
        ],
    )


async def measure(run: Run, part: Part) -> None:
    """Measure all of it, the stubs in this process."""
    load_core, _ = cores()
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {load_core})
    try:
        await _measure_starts(run, part)
        await _measure_updates(run, part)
        await _measure_streaming(run, part)
    finally:
        os.sched_setaffinity(0, allowed)


@asynccontextmanager
async def running_relay(
    run: Run,
    telegram: BenchTelegram,
    link_port: int,
    secrets: Path,
    core: int | None = None,
    lags: Path | None = None,
) -> AsyncIterator[Process]:
    """Run the real relay against these; the block begins when it polls."""
    socket = run.directory / "telegram.sock"
    environment = {
        "ALLOWED_USERS": ",".join(str(FIRST_USER + n) for n in range(USERS)),
        "TELEGRAM_API": "http://api.telegram.test",
        "TELEGRAM_SOCKET": str(socket),
        "LINK_ADDRESS": "127.0.0.1",
        "LINK_PORT": str(link_port),
    }
    argv = [run.environments.python("relay"), "-P", "-m", "tests.bench.product", "relay"]
    argv += [str(secrets), *([str(lags)] if lags else [])]
    async with (
        serving(telegram, socket),
        started("relay", argv, run.directory, environment, core) as process,
    ):
        await process.wait_for(lambda: _is_set(telegram.polled), 60)
        yield process


@asynccontextmanager
async def _between_stubs(
    run: Run, lags: Path | None = None
) -> AsyncIterator[tuple[Process, BenchTelegram, FarEnd]]:
    telegram, far_end, port = BenchTelegram(), FarEnd(), free_port()
    secrets = run.directory / "secrets"
    write_secrets(secrets)
    async with (
        serving(far_end, port=port),
        running_relay(run, telegram, port, secrets, cores()[1], lags) as process,
    ):
        await process.wait_for(lambda: _is_set(far_end.connected), 30)
        yield process, telegram, far_end


async def _is_set(event: asyncio.Event) -> bool:
    return event.is_set()


async def _measure_starts(run: Run, part: Part) -> None:
    seconds, memory = [], []
    for number in range(run.choose(5, 2)):
        async with _between_stubs(run) as (process, _, _):
            seconds.append(process.ready_seconds)
            await asyncio.sleep(run.choose(3.0, 1.0))  # whatever its start still does in between
            memory.append(process.resident_mib())
        run.say(f"start {number + 1}")
    ready, idle = Spread.of(seconds), Spread.of(memory)
    part.targets += [
        Target("Relay: ready", ready, "s", "at most", 1.5),
        Target("Relay: idle memory", idle, "MiB", "at most", 85),
    ]


async def _measure_updates(run: Run, part: Part) -> None:
    updates, rounds = run.choose(3000, 400), run.choose(3, 1)
    async with AsyncExitStack() as stack:
        bots = await _start_bots(run, part, stack, updates)
        for number in range(rounds):
            turn = number % len(bots)
            for bot in [*bots[turn:], *bots[:turn]]:
                await bot.measure(updates)
                run.say(f"updates {number + 1}/{rounds}: {bot.name}")
    relay, *peers = bots
    part.targets.append(
        Target("Relay: updates", Spread.of(relay.per_second), "/s", "at least", 1000)
    )
    rows: list[tuple[str | float, ...]] = []
    for bot in bots:
        spread = Spread.of(bot.per_second)
        rows.append(
            (
                *(bot.name, spread.median, spread.low, spread.high),
                Spread.of(bot.cpu_microseconds).median,
                ratios(relay.per_second, bot.per_second).median,
                bot.resident_mib,
            )
        )
    columns = ("", "updates/s", "least", "most", "µs each", "relay is faster by", "MiB")
    part.tables.append(Table(f"Updates, {len(peers)} peers in the same run", columns, rows))


async def _start_bots(run: Run, part: Part, stack: AsyncExitStack, every: int) -> list[Bot]:
    process, telegram, far_end = await stack.enter_async_context(_between_stubs(run))
    bots = [Bot("relay", process, telegram, lambda: far_end.taken)]
    for name, environment, module in (
        ("aiogram", "relay", "tests.bench.peers.aiogram_plain"),
        ("python-telegram-bot", "bench-python-telegram-bot", "tests.bench.peers.telegram_plain"),
    ):
        try:
            bots.append(
                await stack.enter_async_context(
                    _running_peer(run, name, environment, module, every)
                )
            )
        except NotReady as error:
            part.notes.append(f"{name} is missing from this run: {str(error).splitlines()[0]}")
    return bots


@asynccontextmanager
async def _running_peer(
    run: Run, name: str, environment: str, module: str, every: int
) -> AsyncIterator[Bot]:
    telegram, port = BenchTelegram(), free_port()
    argv = [run.environments.python(environment), "-P", "-m", module]
    argv += [f"http://127.0.0.1:{port}", str(every)]
    _, core = cores()
    async with (
        serving(telegram, port=port),
        started(name, argv, run.directory, core=core) as process,
    ):
        await process.wait_for(lambda: _is_set(telegram.polled), 60)
        yield Bot(name, process, telegram, lambda: _last_number(process.log))


def _last_number(log: Path) -> int:
    numbers = [line for line in log.read_text(errors="replace").split() if line.isdigit()]
    return int(numbers[-1]) if numbers else 0


async def _measure_streaming(run: Run, part: Part) -> None:
    chats, seconds = run.choose(1000, 100), run.choose(40, 6)
    lags = run.directory / "lags.json"
    async with _between_stubs(run, lags) as (process, telegram, far_end):
        spent, calls = process.cpu_seconds(), telegram.calls
        began = time.monotonic()
        process.popen.send_signal(signal.SIGUSR1)
        points = [
            (time.monotonic() - began, process.resident_mib())
            async for _ in _grow(far_end, chats, seconds)
        ]
        took = time.monotonic() - began
        busy = (process.cpu_seconds() - spent) / took
        called = (telegram.calls - calls) / took
    late = [lag * 1000 for lag in json.loads(lags.read_text())]
    memory = max(mib for _, mib in points)
    part.targets += [
        Target(f"Relay: {chats:,} chats, memory", Spread.of([memory]), "MiB", "at most", 150),
        Target(
            f"Relay: {chats:,} chats, event loop's lag p99",
            Spread.of([percentile(late, 0.99)]),
            *("ms", "at most", 50),
        ),
    ]
    rows: Sequence[tuple[str, float]] = (
        ("event loop's lag p50, ms", percentile(late, 0.5)),
        ("lag p99, ms", percentile(late, 0.99)),
        ("lag at most, ms", max(late)),
        ("share of one core", busy),
        ("calls of the Bot API a second", called),
        ("memory at most, MiB", memory),
        ("seconds", took),
    )
    part.tables.append(Table(f"{chats:,} chats streaming", ("", ""), rows))
    part.plots.append(
        Plot(
            "relay-memory",
            f"Memory while {chats:,} chats stream",
            *("s", "MiB"),
            {"relay": points},
        )
    )


async def _grow(far_end: FarEnd, chats: int, seconds: float) -> AsyncIterator[None]:
    """Open a reply for each chat and let all grow; yields about once a second."""
    for chat in range(chats):
        reply = {"id": chat + 1, "chat_id": FIRST_USER + chat, "markup": "markdown"}
        far_end.say(frame({"type": "opened", "reply": reply}))
    clock = asyncio.get_running_loop().time
    began = clock()
    lengths = [0] * chats
    window = 0
    while clock() - began < seconds:
        window += 1
        tokens = int(window * WINDOW_SECONDS * TOKENS_PER_SECOND)
        tokens -= int((window - 1) * WINDOW_SECONDS * TOKENS_PER_SECOND)
        text = " answer" * tokens
        events = []
        for chat in range(chats):
            event = {"type": "grown", "reply_id": chat + 1, "at": lengths[chat], "text": text}
            events.append(frame(event))
            lengths[chat] += len(text)
        far_end.say(b"".join(events))
        await asyncio.sleep(max(0.0, began + window * WINDOW_SECONDS - clock()))
        if window % 10 == 0:
            yield
