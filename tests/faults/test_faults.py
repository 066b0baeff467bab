"""Both nodes under load and under faults of every kind: nothing is lost, nothing is doubled.

One run serves all tests. FAULTS_SEED repeats a schedule, FAULTS_SECONDS says how long faults come.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from scripts.pair import Pair
from tests.conftest import STATE, USERS, running, say_aloud
from tests.faults.checker import judge
from tests.faults.evidence import collect
from tests.faults.faults import Injector
from tests.faults.load import CHATS, Load
from tests.faults.nodes import SERVICES, Dead, Nodes, open_nodes, props, unmount
from tests.faults.report import Outcome
from tests.faults.schedule import DISRUPTIVE, ORDINARY_SECONDS, PASSING, TIMED, plan
from tests.faults.screen import Screen
from tests.faults.traces import keep_traces
from tests.stubs.telegram.client import Control, control_over

SECONDS = float(os.environ.get("FAULTS_SECONDS", ORDINARY_SECONDS))
SEED = int(os.environ.get("FAULTS_SEED", random.SystemRandom().randrange(10**6)))

DRAIN_SECONDS = 180.0
"""Within this time after the last fault everything must be answered."""

QUIET_SECONDS = 9.0
"""The run is at rest when the bot has written nothing for this long; a final may come twice, 6 s
apart."""

RECONCILE_SECONDS = 30.0
"""The period of the timer that scripts/reconcile is meant for."""

DEAD_SECONDS = 60.0
"""A container that does not run for this long is dead for good."""

FAILURES_SHARE = 0.02
"""Of all answers so many may fail, and say so: each has failed several times in a row."""


@pytest.fixture(scope="module")
def outcome(request: pytest.FixtureRequest) -> Iterator[Outcome]:
    say = partial(say_aloud, request)
    say(f"\nseed {SEED}: FAULTS_SEED={SEED} FAULTS_SECONDS={SECONDS:g} repeats these faults")
    pair = Pair(
        name="test-faults",
        subnet="198.18.5",
        state=STATE / "faults",
        engine="stub",
        users=USERS,
        extra_settings=(
            ("ENGINE_SLOTS", "32"),
            ("CONTEXT_TOKENS", "4096"),
            ("ANSWER_TOKENS", "1200"),
        ),
        relay_overlays=("tests/faults/relay.yml",),
        model_overlays=("tests/faults/model.yml",),
    )
    unmount(pair.state / "disk")
    try:
        with contextmanager(running)(pair, props):
            outcome = asyncio.run(_run(pair, say))
    except BaseException as error:
        say(f"seed {SEED}: {_reason(error)}")
        raise
    outcome.write(STATE / "faults.json")
    yield outcome
    say("\n" + outcome.table())


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def _run(pair: Pair, say: Callable[[str], None]) -> Outcome:
    outcome = Outcome(SEED, SECONDS)
    schedule = plan(SEED, SECONDS)
    async with open_nodes(pair) as nodes, control_over(pair.control_socket) as control:
        screen = Screen(control)
        load = Load(control, screen, SEED)
        outcome.counts = load.counts
        injector = Injector(nodes, control, screen, say, outcome.done)
        helpers = [
            screen.follow(),
            _watch(nodes),
            _measure(load, outcome),
            _keep_reconciling(nodes, say),
        ]
        async with _beside(*helpers) as until:
            users = asyncio.create_task(load.run())
            try:
                await until(injector.run(schedule))
                load.end()
                await control.clear_faults()
                began = time.monotonic()
                try:
                    async with asyncio.timeout(DRAIN_SECONDS):
                        await until(_rest(users, control, screen))
                        outcome.drain_seconds = time.monotonic() - began
                except TimeoutError:
                    say("not at rest: " + "; ".join(load.unanswered()[:20]))
            except Exception:
                await keep_traces(nodes, control, STATE / "faults-traces")
                raise
            finally:
                users.cancel()
        outcome.verdict = judge(await collect(control), frozenset(USERS))
        if outcome.drain_seconds is None or any(outcome.verdict.offences().values()):
            await keep_traces(nodes, control, STATE / "faults-traces")
        for name in SERVICES:
            seen = await nodes.inspect(nodes.container(name))
            outcome.restarts[name] = int(seen["RestartCount"])
    return outcome


@contextlib.asynccontextmanager
async def _beside(
    *helpers: Awaitable[None],
) -> AsyncIterator[Callable[[Awaitable[None]], Awaitable[None]]]:
    """Run helpers; what fails in one of them ends what is waited for by `until`."""
    tasks = [asyncio.ensure_future(helper) for helper in helpers]

    async def until(work: Awaitable[None]) -> None:
        main = asyncio.ensure_future(work)
        try:
            await asyncio.wait({main, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in (*tasks, main):
                if task.done():
                    task.result()
        finally:
            main.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await main

    try:
        yield until
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _rest(users: "asyncio.Task[None]", control: Control, screen: Screen) -> None:
    """Wait until everybody has an answer, Telegram's queue is empty, and the bot is silent."""
    await asyncio.wait({users})
    users.result()
    while True:
        state = await control.get("state")
        if not state["pending_update_count"] and (
            time.monotonic() - screen.last_write > QUIET_SECONDS
        ):
            return
        await asyncio.sleep(0.5)


async def _watch(nodes: Nodes) -> None:
    """Fail early when a container is down for good."""
    down: dict[str, float] = {}
    while True:
        for name in SERVICES:
            state = await nodes.state(name)
            now = time.monotonic()
            if state.pid:
                down.pop(name, None)
            elif now - down.setdefault(name, now) > DEAD_SECONDS:
                words = await nodes.last_words(name)
                raise Dead(f"{name} is {state.status} for {DEAD_SECONDS:.0f} s. It said:\n{words}")
        await asyncio.sleep(2)


async def _keep_reconciling(nodes: Nodes, say: Callable[[str], None]) -> None:
    """Play the nodes' timer."""
    while True:
        await asyncio.sleep(RECONCILE_SECONDS)
        for line in await nodes.reconcile():
            say(f"    {line}")


async def _measure(load: Load, outcome: Outcome) -> None:
    """Note how many asks are in flight, from when it is full until no new ones come."""
    while load.in_flight < CHATS * 0.8:
        await asyncio.sleep(0.5)
    samples: list[int] = []
    while True:
        if not load.ended.is_set():
            samples.append(load.in_flight)
            outcome.least_in_flight = min(samples)
            outcome.mean_in_flight = sum(samples) / len(samples)
        await asyncio.sleep(1)


def test_everything_comes_to_rest(outcome: Outcome) -> None:
    """After the last fault all that waits is answered, and the bot falls silent."""
    assert outcome.drain_seconds is not None


@pytest.mark.parametrize("offence", ["lost", "doubled", "out of order", "stale", "unasked"])
def test_no_offence(outcome: Outcome, offence: str) -> None:
    """Each wording of each question has exactly one whole answer, in order, which stays."""
    assert outcome.verdict.offences()[offence] == []


def test_failures_are_rare(outcome: Outcome) -> None:
    """An answer that failed says so; so many tries fail in a row only now and then."""
    assert len(outcome.verdict.failures) <= 2 + FAILURES_SHARE * outcome.verdict.answers


def test_faults_came_under_load(outcome: Outcome) -> None:
    """Every kind of fault came, and there were always answers to spoil."""
    assert set(outcome.by_kind()) == {*DISRUPTIVE, *PASSING}
    assert outcome.least_in_flight >= 50
    assert outcome.verdict.answers > 0


def test_everything_heals(outcome: Outcome) -> None:
    """Whatever comes alone is healed within a minute, without anybody's help."""
    worst = outcome.worst_recovery(alone=True)

    assert set(TIMED) <= set(worst)
    assert max(worst.values()) <= 60


def test_enough_faults(outcome: Outcome) -> None:
    """At least two hundred in an ordinary run."""
    assert len(outcome.done) >= 200 * outcome.seconds / ORDINARY_SECONDS
