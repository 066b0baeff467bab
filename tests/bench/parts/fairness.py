"""What light users feel of a heavy one: the gateway's queue against first come, first served."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson

from tests.bench.figures import Spread, jain, percentile, ratios
from tests.bench.gateway import FIRST_USER, Answer, free_port, running_gateway
from tests.bench.http import Address, write_request
from tests.bench.load import Completions
from tests.bench.parts.gateway import running_engine
from tests.bench.processes import cores
from tests.bench.program import Program, read_begin
from tests.bench.results import Part, Table, Target
from tests.bench.run import Run

SLOTS = 16
HEAVY_STREAMS = 64
LIGHT_USERS = 4
RATE = 33.0
WARM_SECONDS = 3.0
EQUAL_USERS = 5
EQUAL_STREAMS = 16
HEAVY_USER = FIRST_USER
SUPERGROUP = -1_000_000_000_000

Ask = Callable[[Program, int, int], Awaitable[Answer]]
"""Asks as a user, in one of their streams."""


@dataclass(frozen=True)
class Sizes:
    """What the heavy user and the light ones ask for, in tokens."""

    name: str
    heavy: int
    light: int


EQUAL, UNEQUAL = Sizes("equal", 20, 20), Sizes("unequal", 40, 8)


@dataclass
class Seen:
    """One round: answers that were asked for within the window."""

    heavy: list[Answer] = field(default_factory=list)
    light: list[Answer] = field(default_factory=list)
    tokens_per_second: float = 0.0
    """Of the engine, to all."""

    def first(self, answers: list[Answer], share: float) -> float:
        return percentile([one.first_seconds for one in answers], share)

    def waited(self, share: float) -> float:
        """How long light asks took to reach the engine."""
        begun = [(one, read_begin(one.text)) for one in self.light]
        return percentile([at[0] - one.sent for one, at in begun if at], share)


@dataclass(frozen=True)
class Side:
    """The engine with its own order, or with the gateway before it."""

    ask: Ask
    engine: Address


def describe() -> Part:
    """Say what this part is about."""
    return Part(
        "fairness",
        "Fairness",
        [
            "The engine answers 16 at once, 33 tokens a second each. One user keeps 64 streams "
            "open (in as many group chats, since a chat is answered in order); four light users "
            "ask one thing at a time, and think for up to a second in between. First come is the "
            "engine's own order, all 68 streams straight at it. Throughput is what the engine has "
            "sent by its own count.",
            "No order lets a light ask begin before an answer ends: with equal sizes one of the 16 "
            "ends every 38 ms where their ends are spread evenly, and it is longer where they end "
            "together.",
            "The times are the client's: through the gateway they hold the time for which growth "
            "is gathered for the relay. `until the engine has it` is the queue's alone.",
        ],
    )


async def measure(run: Run, part: Part) -> None:
    """Measure both sides in turn, for both kinds of sizes; then users who are alike."""
    rounds, seconds = run.choose(3, 1), run.choose(10.0, 5.0)
    async with _first_come(run) as direct, _gateway(run) as fair:
        for sizes in (EQUAL, UNEQUAL):
            pairs = []
            for number in range(rounds):
                sides = [direct, fair] if number % 2 == 0 else [fair, direct]
                seen = {id(side): await _compete(side, sizes, seconds) for side in sides}
                pairs.append((seen[id(direct)], seen[id(fair)]))
                run.say(f"{sizes.name} {number + 1}/{rounds}")
            _report(part, sizes, pairs)
        index = [await _share(fair, seconds) for _ in range(rounds)]
    part.targets.append(
        Target("Fairness: Jain's index of equal users", Spread.of(index), "", "at least", 0.95)
    )


@asynccontextmanager
async def _first_come(run: Run) -> AsyncIterator[Side]:
    socket = run.directory / "first.sock"
    load_core, _ = cores()
    async with running_engine(run, socket, core=load_core, slots=SLOTS):
        client = Completions(Address(socket))

        async def ask(program: Program, _user: int, stream: int) -> Answer:
            return await client.ask(stream, program)

        yield Side(ask, Address(socket))


@asynccontextmanager
async def _gateway(run: Run) -> AsyncIterator[Side]:
    socket = run.directory / "fair.sock"
    load_core, core = cores()
    settings = {"ENGINE_SLOTS": str(SLOTS), "USER_ASKS": str(HEAVY_STREAMS + 1)}
    async with (
        running_engine(run, socket, core=load_core, slots=SLOTS),
        running_gateway(
            *(run.environments, run.directory / "gateway", socket, free_port(), core),
            settings=settings,
        ) as gateway,
    ):

        async def ask(program: Program, user: int, stream: int) -> Answer:
            # Each stream is a chat of its own: the first the private one, the others groups.
            chat = SUPERGROUP - user * 100 - stream if stream else user
            kind = "supergroup" if stream else "private"
            return await gateway.relay.ask(program, user, chat, kind)

        yield Side(ask, Address(socket))


async def _compete(side: Side, sizes: Sizes, seconds: float) -> Seen:
    seen = Seen()
    begin = time.monotonic() + WARM_SECONDS
    end = begin + seconds
    chance = random.Random(1)

    async def ask(user: int, stream: int, tokens: int, answers: list[Answer]) -> None:
        answer = await side.ask(Program(tokens, RATE), user, stream)
        if begin <= answer.sent < end:
            answers.append(answer)

    async def be_heavy(stream: int) -> None:
        await asyncio.sleep(chance.random() * sizes.heavy / RATE)
        while time.monotonic() < end:
            await ask(HEAVY_USER, stream, sizes.heavy, seen.heavy)

    async def be_light(user: int) -> None:
        await asyncio.sleep(chance.random())
        while time.monotonic() < end:
            await ask(HEAVY_USER + 1 + user, 0, sizes.light, seen.light)
            await asyncio.sleep(chance.random())

    async def count() -> None:
        await asyncio.sleep(begin - time.monotonic())
        began, before = time.monotonic(), await _tokens(side.engine)
        await asyncio.sleep(seconds)
        sent = await _tokens(side.engine) - before
        seen.tokens_per_second = sent / (time.monotonic() - began)

    await asyncio.gather(
        count(),
        *(be_heavy(stream) for stream in range(HEAVY_STREAMS)),
        *(be_light(user) for user in range(LIGHT_USERS)),
    )
    return seen


async def _tokens(engine: Address) -> int:
    connection = await engine.connect()
    try:
        _, body = await connection.call(write_request("GET", "/bench/tokens"))
    finally:
        connection.close()
    return int(orjson.loads(body)["tokens"])


async def _share(side: Side, seconds: float) -> float:
    """Let users who are alike want more than there is; returns how equal their tokens are."""
    begin = time.monotonic() + WARM_SECONDS
    end = begin + seconds
    served = dict.fromkeys(range(EQUAL_USERS), 0)

    async def want(user: int, stream: int) -> None:
        while time.monotonic() < end:
            answer = await side.ask(Program(EQUAL.heavy, RATE), HEAVY_USER + user, stream)
            served[user] += sum(count for at, count in answer.marks if begin <= at < end)

    await asyncio.gather(
        *(want(user, stream) for user in range(EQUAL_USERS) for stream in range(EQUAL_STREAMS))
    )
    return jain(list(served.values()))


def _report(part: Part, sizes: Sizes, pairs: list[tuple[Seen, Seen]]) -> None:
    name = f"Fairness, {sizes.name} sizes"
    service = sizes.heavy / RATE
    better = ratios(
        [direct.first(direct.light, 0.5) for direct, _ in pairs],
        [fair.first(fair.light, 0.5) for _, fair in pairs],
    )
    kept = ratios(
        [100 * fair.tokens_per_second for _, fair in pairs],
        [direct.tokens_per_second for direct, _ in pairs],
    )
    part.targets += [
        Target(f"{name}: light users' first token p50, better by", better, "×", "at least", 150),
        Target(
            f"{name}: light users' first token p99, in service times",
            Spread.of([fair.first(fair.light, 0.99) / service for _, fair in pairs]),
            *("", "at most", 1),
        ),
        Target(
            f"{name}: heavy user's p99/p50",
            Spread.of(
                [fair.first(fair.heavy, 0.99) / fair.first(fair.heavy, 0.5) for _, fair in pairs]
            ),
            *("", "at most", 1.25),
        ),
        Target(f"{name}: engine throughput kept", kept, "%", "at least", 99.9),
    ]
    rows: list[tuple[str | float, ...]] = []
    for label, sides in (
        ("first come", [direct for direct, _ in pairs]),
        ("gateway", [fair for _, fair in pairs]),
    ):
        figures = [
            (
                *(1000 * one.first(one.light, share) for share in (0.5, 0.99)),
                *(1000 * one.first(one.heavy, share) for share in (0.5, 0.99)),
                *(1000 * one.waited(share) for share in (0.5, 0.99)),
                one.tokens_per_second,
            )
            for one in sides
        ]
        rows.append((label, *(Spread.of(column).median for column in zip(*figures, strict=True))))
    columns = (
        *("", "light first token p50, ms", "p99, ms", "heavy first token p50, ms", "p99, ms"),
        *("light until the engine has it p50, ms", "p99, ms", "tokens/s"),
    )
    part.tables.append(Table(f"{name.capitalize()}: medians of the rounds", columns, rows))
