"""What the gateway adds to the engine, and what it keeps of its throughput; LiteLLM beside it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.figures import Spread, differences, ratios
from tests.bench.gateway import FIRST_USER, Answer, free_port, running_gateway
from tests.bench.http import Address, Broken, write_request
from tests.bench.load import Ask, Completions, Round, run_round
from tests.bench.processes import NotReady, Process, cores, started
from tests.bench.program import Program
from tests.bench.results import Part, Plot, Table, Target
from tests.bench.run import Run

STREAMS = 32
"""As many as the engine answers at once."""
WAITING_CHATS = 64
"""Twice as many: when an answer ends, the next one waits, and throughput is not latency."""
LITELLM_KEY = "sk-bench"


@dataclass(frozen=True)
class Scenario:
    """One kind of load; `rates` of 0: as fast as can be."""

    name: str
    title: str
    tokens: int
    rates: tuple[float, float]
    chats: int = STREAMS
    has_peers: bool = True
    most_rounds: int = 100

    def programs(self) -> list[list[Program]]:
        """Write what each chat asks, one after the other; the same for whatever is measured."""
        chance = random.Random(self.name)
        return [
            [
                Program(
                    self.tokens,
                    chance.uniform(*self.rates) if self.rates[1] else None,
                    jitter=0.5,
                    seed=stream * 100 + turn,
                )
                for turn in range(20)
            ]
            for stream in range(self.chats)
        ]


LIGHT = Scenario("light", "32 chats of 12 to 50 tokens/s", 40, (12, 50))
HEAVY = Scenario(
    "heavy", "32 slots, together 3,000 tokens/s", 200, (3000 / 32, 3000 / 32), WAITING_CHATS
)
SATURATED = Scenario(
    *("saturated", "32 slots, together 23,000 tokens/s", 400, (23e3 / 32, 23e3 / 32)),
    *(WAITING_CHATS, False),
)
FULL = Scenario(
    *("full", "32 slots as fast as can be", 400, (0, 0), WAITING_CHATS, False),
    most_rounds=1,
)
SCENARIOS = (LIGHT, HEAVY, SATURATED, FULL)


@dataclass
class Subject:
    """What is measured: how to ask it, and the process whose cost counts."""

    name: str
    ask: Ask
    process: Process
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    cpu_microseconds: dict[str, list[float]] = field(default_factory=dict)
    """A token."""
    resident_mib: float = 0.0
    given_up: set[str] = field(default_factory=set)
    """The scenarios in which it could not be measured."""

    def give_up(self, scenario: Scenario) -> None:
        """Leave out a scenario: half of the rounds would be compared with all of the others'."""
        self.given_up.add(scenario.name)
        self.rounds.pop(scenario.name, None)
        self.cpu_microseconds.pop(scenario.name, None)

    async def measure(self, scenario: Scenario, seconds: float) -> None:
        """Measure one round."""
        before = self.process.cpu_seconds()
        seen = await run_round(self.ask, scenario.programs(), seconds)
        spent = self.process.cpu_seconds() - before
        if not seen.answers:
            why = seen.failures[0] if seen.failures else "none began in time"
            raise NotReady(f"no answer in a round, {len(seen.failures)} failures; {why}")
        self.rounds.setdefault(scenario.name, []).append(seen)
        cost = spent / seen.all_tokens * 1e6
        self.cpu_microseconds.setdefault(scenario.name, []).append(cost)
        self.resident_mib = max(self.resident_mib, self.process.resident_mib())


def describe() -> Part:
    """Say what this part is about."""
    return Part(
        "gateway",
        "Gateway: latency and throughput",
        [
            "Latency: 32 chats, each asks again when it has its answer. Throughput: the engine "
            "answers 32 at once and 64 chats ask, so that both wait for a slot, straight at the "
            "engine as through the gateway; times to first token hold that wait.",
            "Saturation is 23,000 tokens/s offered, what an engine of this kind gives through one "
            "core of the machine that the target was set on; as fast as can be is reported beside "
            "it, once, since the stub engine by itself is faster than any that is real.",
            "The stub engine is a bare ASGI program on uvicorn, uvloop and httptools. Direct is "
            "the load client straight at the engine's Unix socket; through the gateway the same "
            "client speaks the relay's side of the wire, and settles each reply as the relay does. "
            "The gateway is the service's own process with its own settings: encrypted store, "
            "every commit synchronised, metering on. The engine has one core, gateway or proxy the "
            "other; the client runs where there is room.",
            "Processor time a token is that of the whole process over the round, the time that its "
            "commits take included, divided by the tokens of its answers. Memory is what "
            "is resident, the most after any round.",
            "The time between pieces is between two arrivals of text of the same answer: the "
            "gateway gathers several tokens into one piece for the relay, which edits about once "
            "a second.",
        ],
    )


async def measure(run: Run, part: Part) -> None:
    """Measure all scenarios, round by round, every subject in each."""
    seconds = run.choose(5.0, 3.0)
    rounds = run.choose(3, 1)
    async with AsyncExitStack() as stack:
        subjects = await _start(run, part, stack)
        for subject in subjects:
            await run_round(subject.ask, LIGHT.programs(), 1.0)  # whatever is made at first use
        await drop_broken_peers(part, subjects)
        for scenario in SCENARIOS:
            for number in range(min(rounds, scenario.most_rounds)):
                turn = number % len(subjects)
                for subject in [*subjects[turn:], *subjects[:turn]]:
                    is_peer = subject not in subjects[:2]
                    if scenario.name in subject.given_up or (is_peer and not scenario.has_peers):
                        continue
                    try:
                        await subject.measure(scenario, seconds)
                    except NotReady as error:
                        if not is_peer:
                            raise
                        subject.give_up(scenario)
                        part.notes.append(f"{subject.name}, {scenario.title}: {error}.")
                    run.say(f"{scenario.name} {number + 1}/{rounds}: {subject.name}")
    _report(part, subjects)


async def drop_broken_peers(part: Part, subjects: list[Subject]) -> None:
    """A peer that answers nothing is left out, and the page says so."""
    for peer in subjects[2:]:
        try:
            answer = await asyncio.wait_for(peer.ask(0, Program(4)), 60)
            if not answer.first:
                raise Broken("an answer without text")
        except (OSError, TimeoutError, Broken) as error:
            subjects.remove(peer)
            part.notes.append(f"{peer.name} is missing from this run: it gave no answer ({error}).")


async def _start(run: Run, part: Part, stack: AsyncExitStack) -> list[Subject]:
    load_core, core = cores()
    socket, port = run.directory / "engine.sock", free_port()
    engine = await stack.enter_async_context(running_engine(run, socket, port, load_core, STREAMS))
    subjects = [Subject("direct", Completions(Address(socket)).ask, engine)]
    gateway = await stack.enter_async_context(
        running_gateway(
            *(run.environments, run.directory / "gateway", socket, free_port(), core),
            settings={"ENGINE_SLOTS": str(STREAMS)},
        )
    )

    async def ask(chat: int, program: Program) -> Answer:
        return await gateway.relay.ask(program, FIRST_USER + chat)

    subjects.append(Subject("gateway", ask, gateway.process))
    try:
        proxy = await stack.enter_async_context(_running_litellm(run, port, core))
    except NotReady as error:
        part.notes.append(f"LiteLLM is missing from this run: {str(error).splitlines()[0]}")
    else:
        subjects.append(proxy)
    return subjects


@asynccontextmanager
async def running_engine(
    run: Run, socket: Path, port: int | None = None, core: int | None = None, slots: int = 1024
) -> AsyncIterator[Process]:
    """Run the stub engine."""
    argv = [run.environments.python("bench"), "-P", "-m", "tests.bench.engine"]
    argv += ["--socket", str(socket), "--slots", str(slots)]
    argv += ["--port", str(port)] if port is not None else []
    async with started("engine", argv, run.directory, core=core) as process:
        address = Address(socket)
        await process.wait_for(lambda: _answers(address, "/health"), 30)
        yield process


@asynccontextmanager
async def _running_litellm(run: Run, engine_port: int, core: int) -> AsyncIterator[Subject]:
    port = free_port()
    config = run.directory / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: stub\n"
        "    litellm_params:\n"
        "      model: openai/stub\n"
        f"      api_base: http://127.0.0.1:{engine_port}/v1\n"
        "      api_key: none\n"
        f"general_settings:\n  master_key: {LITELLM_KEY}\n"
        "router_settings:\n  num_retries: 0\n  disable_cooldowns: true\n"
    )
    program = run.environments.program("bench-litellm", "litellm")
    argv = [run.environments.python("bench-litellm"), program, "--config", str(config)]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet at its start
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOG": "ERROR",
    }
    async with started("litellm", argv, run.directory, environment, core) as process:
        address = Address(port=port)
        await process.wait_for(lambda: _answers(address, "/health/liveliness"), 240)
        yield Subject("LiteLLM", Completions(address, key=LITELLM_KEY).ask, process)


async def _answers(address: Address, path: str) -> bool:
    with contextlib.suppress(OSError, Broken):
        connection = await address.connect()
        try:
            status, _ = await connection.call(write_request("GET", path))
        finally:
            connection.close()
        return status == 200
    return False


def _report(part: Part, subjects: Sequence[Subject]) -> None:
    direct, gateway, *others = subjects
    added = {share: _added(gateway, direct, LIGHT, share) for share in (0.5, 0.99)}
    part.targets = [
        Target("Gateway: added time to first token, p50", added[0.5], "ms", "at most", 2),
        Target("Gateway: added time to first token, p99", added[0.99], "ms", "at most", 8),
        Target(
            "Gateway: of direct throughput at 3,000 tokens/s",
            _kept(gateway, direct, HEAVY),
            *("%", "at least", 95),
        ),
        Target(
            "Gateway: of direct throughput at 23,000 tokens/s",
            _kept(gateway, direct, SATURATED),
            *("%", "at least", 85),
        ),
        Target(
            "Gateway: processor time a token at 3,000 tokens/s",
            Spread.of(gateway.cpu_microseconds[HEAVY.name]),
            *("µs", "at most", 30),
        ),
    ]
    for other in [one for one in others if HEAVY.name in one.rounds]:
        cpu = ratios(gateway.cpu_microseconds[HEAVY.name], other.cpu_microseconds[HEAVY.name])
        resident = ratios([gateway.resident_mib], [other.resident_mib])
        part.targets += [
            Target(
                f"Gateway: processor time a token, of {other.name}'s", cpu, "", "at most", 1 / 12
            ),
            Target(f"Gateway: memory, of {other.name}'s", resident, "", "at most", 1 / 5),
        ]
    for scenario in SCENARIOS:
        part.tables.append(_table(scenario, subjects))
    part.tables.append(
        Table(
            "Memory",
            ("", "MiB"),
            [
                (one.name if one is not direct else "the engine", one.resident_mib)
                for one in subjects
            ],
        )
    )
    shares = [n / 100 for n in range(1, 100)]
    part.plots.append(
        Plot(
            "gateway-first-token",
            LIGHT.title,
            "time to first token, ms",
            "share of answers",
            {
                one.name: [
                    (one.rounds[LIGHT.name][-1].first_milliseconds(share), share)
                    for share in shares
                ]
                for one in subjects
                if LIGHT.name in one.rounds
            },
            has_log_x=True,
        )
    )


def _added(ours: Subject, theirs: Subject, scenario: Scenario, share: float) -> Spread:
    return differences(
        [one.first_milliseconds(share) for one in ours.rounds[scenario.name]],
        [one.first_milliseconds(share) for one in theirs.rounds[scenario.name]],
    )


def _kept(ours: Subject, theirs: Subject, scenario: Scenario) -> Spread:
    return ratios(
        [100 * one.tokens_per_second for one in ours.rounds[scenario.name]],
        [one.tokens_per_second for one in theirs.rounds[scenario.name]],
    )


def _table(scenario: Scenario, subjects: Sequence[Subject]) -> Table:
    columns = (
        *("", "tokens/s", "of direct, %", "first token p50, ms", "p99, ms"),
        *("between pieces p50, ms", "p99, ms", "whole answer p50, s", "µs a token"),
        *("answers", "failures", "incomplete"),
    )
    direct = subjects[0]
    rows: list[tuple[str | float, ...]] = []
    for one in subjects:
        if scenario.name not in one.rounds:
            continue
        rounds = one.rounds[scenario.name]
        rows.append(
            (
                one.name,
                Spread.of([it.tokens_per_second for it in rounds]).median,
                _kept(one, direct, scenario).median,
                *(
                    Spread.of([it.first_milliseconds(s) for it in rounds]).median
                    for s in (0.5, 0.99)
                ),
                *(Spread.of([it.gap_milliseconds(s) for it in rounds]).median for s in (0.5, 0.99)),
                Spread.of([it.total_seconds(0.5) for it in rounds]).median,
                Spread.of(one.cpu_microseconds[scenario.name]).median,
                str(sum(len(it.answers) for it in rounds)),
                str(sum(len(it.failures) for it in rounds)),
                str(sum(it.incomplete for it in rounds)),
            )
        )
    return Table(scenario.title, columns, rows)
