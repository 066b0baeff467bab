"""What the egress does with callers that say something odd, say it slowly, or come in crowds."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from python_on_whales import Container, DockerClient

from tests.integration.lab import (
    PEER,
    Lab,
    attempt,
    process_ids,
    wait_until,
    wait_until_healthy,
)
from tests.integration.ways import (
    HOST,
    LISTENER,
    RESOLVER,
    SOCKET,
    Answer,
    Way,
    greeting,
    log_of,
    start_way,
)

SUBNET = "198.18.85"
AT_ONCE = 256  # maxconn in haproxy.cfg
INSPECTION_SECONDS = 5  # inspect-delay there


@dataclass
class World(Way):
    """An egress, and a far end that tells of what arrives and acts as it is told."""

    far_end: Container

    def has_heard(self, tag: str) -> bool:
        return f"greeted tag={tag}\n" in log_of(self.far_end)

    def has_seen_end(self, tag: str) -> bool:
        return f"ended tag={tag}\n" in log_of(self.far_end)


@pytest.fixture(scope="module")
def lab(docker: DockerClient) -> Iterator[Lab]:
    with Lab(docker, "edges-callers", SUBNET) as lab:
        yield lab


@pytest.fixture(scope="module")
def world(lab: Lab, story_of_a_vanished_far_end: object) -> World:
    return start_world(lab, "far-end", 20)


def start_world(lab: Lab, name: str, address: int) -> World:
    far_end = lab.run(
        name, PEER, LISTENER, address=address, capabilities=["NET_ADMIN"], hardened=False
    )
    settings = {
        "TELEGRAM_ADDRESSES": f"{SUBNET}.{address}",
        "TELEGRAM_NETWORKS": f"{SUBNET}.{address}/32",
    }
    way = start_way(lab, f"{name}-egress", address + 20, settings)
    wait_until_healthy(way.egress)
    world = World(way.egress, way.relay, far_end)
    wait_until(lambda: world.greets("plain").was_served, "a greeting arrives", 15)
    return world


# Odd greetings

RIGHT, OTHER = [[0, HOST]], [[0, "example.org"]]
PADDING, ECH, ESNI = 21, 0xFE0D, 0xFFCE
GREETINGS: dict[str, tuple[bool, dict[str, Any]]] = {
    # name: whether it arrives, and what is said
    "tls-1.3": (True, {}),
    "tls-1.2": (True, {"version": 12}),
    "capitals": (True, {"names": [[0, HOST.upper()]]}),
    "three-segments": (True, {"pieces": [3, 700], "pause_seconds": 0.2}),
    "name-comes-late": (True, {"pieces": [1400], "pause_seconds": 1.0}),
    "12-kilobytes": (True, {"extensions": [[PADDING, 12_000]]}),
    # Encrypted greetings name another server inside; outside stands what is checked. Telegram
    # alone is behind it, so what is inside reaches nobody else.
    "ech": (True, {"extensions": [[ECH, 250]]}),
    "ech-other-outside": (False, {"names": OTHER, "extensions": [[ECH, 250]]}),
    "esni-alone": (False, {"names": [], "extensions": [[ESNI, 250]]}),
    "no-name": (False, {"names": []}),
    "empty-name": (False, {"names": [[0, ""]]}),
    "other": (False, {"names": OTHER}),
    "trailing-dot": (False, {"names": [[0, HOST + "."]]}),
    "trailing-nul": (False, {"names": [[0, HOST + "\0"]]}),
    "nul-inside": (False, {"names": [[0, HOST + "\0.example.org"]]}),
    "space": (False, {"names": [[0, HOST + " "]]}),
    "first-other": (False, {"names": OTHER + RIGHT}),
    "unknown-kind": (False, {"names": [[1, HOST]]}),
    # More than a forwarder can look into without taking TLS apart; no client of ours does it.
    "two-records": (False, {"record_bytes": 100}),
    "20-kilobytes": (False, {"extensions": [[PADDING, 20_000]]}),
    "16-kilobytes": (False, {"extensions": [[PADDING, 14_600]]}),
}


@pytest.fixture(scope="module")
def answers(world: World) -> dict[str, Answer]:
    """All greetings at once."""
    with ThreadPoolExecutor(6) as pool:
        said = {
            name: pool.submit(world.greets, name, **fields)
            for name, (_, fields) in GREETINGS.items()
        }
        return {name: answer.result() for name, answer in said.items()}


@pytest.mark.parametrize("name", GREETINGS)
def test_greeting_arrives_or_is_refused_before_dialling(
    world: World, answers: dict[str, Answer], name: str
) -> None:
    """The server name decides, to the letter, however the greeting is cut; refusal is prompt."""
    arrives, _ = GREETINGS[name]

    assert answers[name].was_served is arrives
    assert world.has_heard(name) is arrives
    if not arrives:
        assert answers[name].answer == ""
        assert answers[name].seconds < INSPECTION_SECONDS + 2


def test_greetings_are_longer_than_a_packet(world: World) -> None:
    """Control: with post-quantum keys a greeting does not fit into one packet."""
    script = (
        "import json, sys; sys.argv = ['']; sys.path.insert(0, '/');"
        "from greeting import Greeting; print(len(Greeting(names=((0, 'a.b'),)).encode()))"
    )

    assert int(attempt(world.relay, "python3", "-c", script)[1]) > 1300


# Slow callers


def test_slow_greeting_is_cut_off_and_holds_up_nobody(world: World) -> None:
    """Who says a byte a second, or nothing, goes within five; an ordinary call passes meanwhile."""
    with ThreadPoolExecutor(4) as pool:
        slow = [
            pool.submit(world.greets, "slow", pieces=[1] * 60, pause_seconds=1.0) for _ in range(3)
        ]
        slow.append(pool.submit(world.greets, "silent", is_said=False))
        wait_until(lambda: connections_of_relay(world) >= 4, "all are connected", 5)
        ordinary = world.greets("ordinary")
        assert not any(future.done() for future in slow), "control: they still speak"
        cut_off = [future.result() for future in slow]

    assert ordinary.was_served
    assert ordinary.seconds < 1
    assert all(answer.answer == "" for answer in cut_off)
    assert max(answer.seconds for answer in cut_off) < INSPECTION_SECONDS + 2
    assert not world.has_heard("slow")


def connections_of_relay(world: World) -> int:
    """How many connections to the egress there are in the relay's namespace, where they count."""
    table = attempt(world.relay, "cat", "/proc/net/unix")[1]
    return sum(SOCKET in line and line.split()[5] == "03" for line in table.splitlines())


# Half-open connections


def test_half_closed_by_the_caller_ends_at_once(world: World) -> None:
    """A caller that will say no more is taken for gone: the far end hears of it."""
    answer = world.greets("wait", pieces=[4096], pause_seconds=1.0, then="close")

    assert world.has_heard("wait"), "control: the call was through"
    assert answer.seconds < 3
    wait_until(lambda: world.has_seen_end("wait"), "the far end is let go", 3)
    wait_until(lambda: connections(world) == 0, "nothing stays open", 5)


def test_half_closed_by_the_far_end_ends_within_seconds(world: World) -> None:
    """The caller gets what was said and the end, although it never closes itself."""
    with crowd(world, 1, "half-far") as end_crowd:
        wait_until(lambda: world.has_seen_end("half-far"), "the far end is let go", 5)

        wait_until(lambda: connections(world) == 0, "nothing stays open", 5)
        assert end_crowd() == 0, "the caller was let go as well"


def connections(world: World) -> int:
    """How many sockets towards the far end the egress' kernel has, in whatever state."""
    return attempt(world.egress, "cat", "/proc/net/tcp")[1].count(":01BB ")


@pytest.fixture(scope="module")
def story_of_a_vanished_far_end(lab: Lab) -> Iterator[Future[dict[str, float]]]:
    """Takes half a minute, beside the other tests."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(tell_of_a_vanished_far_end, lab)


def tell_of_a_vanished_far_end(lab: Lab) -> dict[str, float]:
    """How long egresses, by fixed addresses and by a name with two, keep calls to who is gone."""
    fixed = start_world(lab, "vanishing", 21)
    also_gone = lab.run(
        "also-vanishing",
        PEER,
        LISTENER,
        address=22,
        capabilities=["NET_ADMIN"],
        hardened=False,
    )
    hosts = [f"--host-record={HOST},{SUBNET}.21,{SUBNET}.22"]
    lab.run("resolver", PEER, [*RESOLVER, *hosts], address=53, hardened=False)
    settings = {"RESOLVER": f"{SUBNET}.53", "TELEGRAM_NETWORKS": f"{SUBNET}.0/24"}
    named = start_way(lab, "named-egress", 43, settings)
    wait_until_healthy(named.egress)
    wait_until(lambda: named.greets("plain").was_served, "a greeting arrives", 15)

    with ThreadPoolExecutor(6) as pool:
        calls = {
            "fixed, idle": pool.submit(fixed.greets, "hold"),
            "fixed, sending": pool.submit(fixed.greets, "hold", then="talk"),
            **{
                f"named, sending {number}": pool.submit(named.greets, "hold", then="talk")
                for number in range(4)
            },
        }
        both = (fixed.far_end, also_gone)
        heard = "greeted tag=hold\n"
        wait_until(
            lambda: sum(log_of(end).count(heard) for end in both) == len(calls), "all are held", 14
        )
        assert heard in log_of(also_gone), "control: the name leads to both addresses"
        cut = "table ip cut { chain input { type filter hook input priority 0; policy drop; }; }"
        assert all(attempt(end, "nft", cut)[0] for end in both)
        return {name: call.result().seconds for name, call in calls.items()}


def test_far_end_that_vanishes_is_given_up(
    story_of_a_vanished_far_end: Future[dict[str, float]],
) -> None:
    """Without a FIN: 15 s after something was sent, and half a minute of silence."""
    seconds = story_of_a_vanished_far_end.result(timeout=60)

    assert 25 < seconds.pop("fixed, idle") < 38
    assert len(seconds) == 5
    assert all(15 + 8 < waited < 15 + 17 for waited in seconds.values()), seconds


# Crowds


def test_a_thousand_connections_neither_exhaust_nor_stop_it(world: World) -> None:
    """Memory stays bounded, health is heard, and seconds later an ordinary call passes."""
    forwarder = process_ids(world.egress, "haproxy")
    before = world.peak_kilobytes()
    with crowd(world, 1000, None):
        assert attempt(world.egress, "health")[0], "healthy in the crowd"
        seconds = wait_until(lambda: world.greets("after").was_served, "a call passes", 30)

    assert seconds < 4 * INSPECTION_SECONDS + 5, "four times the limit, cut off one after another"
    assert world.peak_kilobytes() - before < 16 * 1024
    assert process_ids(world.egress, "haproxy") == forwarder
    assert world.greets("later").seconds < 1


def test_calls_beyond_the_limit_wait_for_their_turn(world: World) -> None:
    """While as many as there may be are held, one more is neither served nor refused."""
    with ThreadPoolExecutor(1) as pool:
        with crowd(world, AT_ONCE, "hold-limit"):
            wait_until(lambda: connections(world) >= AT_ONCE, "all are open", 20)
            one_more = pool.submit(world.greets, "one-more")
            assert attempt(world.egress, "health")[0], "healthy at its limit"
            time.sleep(2)
            assert not one_more.done()
            assert not world.has_heard("one-more")
        answer = one_more.result(timeout=10)

    assert answer.was_served
    wait_until(lambda: connections(world) == 0, "nothing stays open", 10)


@contextmanager
def crowd(world: World, count: int, tag: str | None) -> Iterator[Callable[[], int]]:
    """Hold many connections open; the call returns how many are left, and ends them."""
    with subprocess.Popen(
        ["docker", "exec", "-i", world.relay.id, "python3", "/greeting.py", "crowd", SOCKET]
        + [str(count), greeting(tag) if tag else ""],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as crowd:
        assert crowd.stdin is not None
        assert crowd.stdout is not None
        assert json.loads(crowd.stdout.readline())["open"] == count

        def end() -> int:
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            crowd.stdin.close()
            return int(json.loads(crowd.stdout.readline())["open"])

        yield end
        if not crowd.stdin.closed:
            end()
