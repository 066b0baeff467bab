"""What the tunnel's ends do when they do not agree: wrong keys, a wrong clock, nobody there."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from python_on_whales import Container, DockerClient

from tests.integration.handshake import ANSWER_BYTES, initiation
from tests.integration.lab import PEER, Lab, attempt, probe, wait_until
from tests.integration.tunnels import (
    ENDS,
    Keys,
    Node,
    passes,
    start_holder,
    start_node,
    start_pair,
    start_uplink,
    status,
    wg,
)
from tests.integration.ways import log_of

SUBNET = "198.18.89"
SILENT = "action=peer-silent seconds=30"
HEARD = "action=peer-heard"


@pytest.fixture(scope="module")
def lab(docker: DockerClient) -> Iterator[Lab]:
    with Lab(docker, "edges-refusals", SUBNET) as lab:
        yield lab


@pytest.fixture(scope="module")
def bystander(lab: Lab) -> Container:
    return lab.run("bystander", PEER, ["sleep", "infinity"], address=200, hardened=False)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


# Each of these takes as long as somebody has to be silent: beside one another.


@dataclass
class Story:
    """What an end said of itself while it was refused, and how it went on."""

    at_first: dict[str, dict[str, str]] = field(default_factory=dict)
    log: str = ""
    initiations: int = 0
    healed_after_seconds: float = 0.0


@pytest.fixture(scope="module", autouse=True)
def stories(
    lab: Lab, bystander: Container, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Story]]]:
    tellers = {
        "preshared": wrong_preshared_key,
        "unknown": unknown_key,
        "unreachable": unreachable,
        "seconds": clock_some_seconds_back,
        "day": clock_one_day_back,
    }
    with ThreadPoolExecutor(len(tellers)) as pool:
        yield {
            name: pool.submit(tell, lab, bystander, Keys(tmp_path_factory.mktemp(name)))
            for name, tell in tellers.items()
        }


# Who is answered


def test_only_a_fresh_handshake_by_the_peer_is_answered(
    lab: Lab, bystander: Container, keys: Keys
) -> None:
    """The peer's is; not the same once more, an older one, another's, nor one for somebody else."""
    holder = start_holder(lab, "listen", "picky")
    start_uplink(lab, keys, "listen", holder, name="picky", address=10)
    own, here = keys.private("dial"), keys.public["listen"]
    now = initiation(own, here)

    wait_until(lambda: answered(bystander, 10, initiation(own, here)), "control: one is", 15)
    verdicts = {
        "older": answered(bystander, 10, now),
        "fresh": answered(bystander, 10, fresh := initiation(own, here)),
        "once more": answered(bystander, 10, fresh),
        "another's": answered(bystander, 10, initiation(wg("genkey"), here)),
        "for somebody else": answered(bystander, 10, initiation(own, keys.public["dial"])),
        "fresh again": answered(bystander, 10, initiation(own, here)),
    }

    assert {name for name, is_answered in verdicts.items() if is_answered} == {
        "fresh",
        "fresh again",
    }


def answered(bystander: Container, number: int, message: bytes) -> bool:
    came, answer = probe(bystander, "udp", f"{SUBNET}.{number}", "51820", message.hex())
    assert came or answer.startswith("TimeoutError"), answer
    return came and len(answer) == 2 * ANSWER_BYTES


# Wrong keys


def wrong_preshared_key(lab: Lab, _bystander: Container, keys: Keys) -> Story:
    listen = start_node(lab, keys, "listen", name="preshared", address=20)
    keys.write("preshared", wg("genpsk"))
    return tell_of_disagreement(lab, keys, "preshared", listen)


def unknown_key(lab: Lab, _bystander: Container, keys: Keys) -> Story:
    listen = start_node(lab, keys, "listen", name="unknown", address=24)
    keys.write("dial", wg("genkey"))
    return tell_of_disagreement(lab, keys, "unknown", listen)


def tell_of_disagreement(lab: Lab, keys: Keys, name: str, listen: Node) -> Story:
    number = 20 if name == "preshared" else 24
    endpoint = f"{SUBNET}.{number}:51820"
    dial = start_node(lab, keys, "dial", name=name, address=number + 1, endpoint=endpoint)
    nodes = {"listen": listen, "dial": dial}
    wait_until(lambda: SILENT in log_of(dial.uplink), "the dialling end says so", 60)
    assert not passes(nodes)
    secrets = [keys.private(end) for end in (*ENDS, "preshared")]
    logs = "".join(log_of(node.uplink) + log_of(node.holder) for node in nodes.values())
    assert not any(secret in logs for secret in secrets)
    return Story({end: status(nodes[end].uplink) for end in ENDS}, log_of(dial.uplink))


@pytest.mark.parametrize(("name", "is_heard"), [("preshared", True), ("unknown", False)])
def test_wrong_key_makes_no_tunnel_and_is_said(
    stories: dict[str, Future[Story]], name: str, is_heard: bool
) -> None:
    """No handshake at either end, which is what status and log say; to the peer nothing is said.

    With a wrong preshared key the other end does answer, and the answer fits nothing; to an
    unknown key it is silent.
    """
    story = stories[name].result(timeout=120)

    for end in ENDS:
        assert story.at_first[end]["handshake_age_seconds"] == "never"
        assert story.at_first[end]["rules"] == "standing"
    assert (int(story.at_first["dial"]["heard_packets"]) > 0) is is_heard
    assert story.log.count(SILENT) == 1


# Nobody there


def unreachable(lab: Lab, _bystander: Container, keys: Keys) -> Story:
    nodes = start_pair(lab, keys, "unreachable", listen=28, dial=29)
    wait_until(lambda: passes(nodes), "control: bytes pass", 30)
    listen, dial = nodes["listen"].uplink, nodes["dial"].uplink
    deaf = (
        "table ip cut { chain input { type filter hook input priority -400;"
        " udp dport 51820 udp length 156 counter drop; policy drop; }; }"
    )
    assert attempt(listen, "nft", deaf)[0]
    dial.restart()
    wait_until(lambda: SILENT in log_of(dial), "the dialling end says so", 60)
    story = Story({"dial": status(dial)})
    words = attempt(listen, "nft", "list", "table", "ip", "cut")[1].split()
    story.initiations = int(words[words.index("packets") + 1])
    assert attempt(listen, "nft", "delete table ip cut")[0]
    story.healed_after_seconds = wait_until(lambda: passes(nodes), "bytes pass", 60)
    wait_until(lambda: HEARD in log_of(dial), "the dialling end says so", 15)
    story.log = log_of(dial)
    return story


def test_unreachable_peer_is_called_at_a_bounded_rate(stories: dict[str, Future[Story]]) -> None:
    """One handshake in five seconds, and one more each half minute; then it goes on by itself."""
    story = stories["unreachable"].result(timeout=120)

    assert 4 <= story.initiations <= 16
    assert story.at_first["dial"]["handshake_age_seconds"] == "never"
    assert story.at_first["dial"]["heard_packets"] == "0"
    assert (story.log.count(SILENT), story.log.count(HEARD)) == (1, 1)
    assert story.healed_after_seconds < 10


# A clock that is behind: WireGuard takes a handshake that is dated before the last one for a replay


def clock_some_seconds_back(lab: Lab, bystander: Container, keys: Keys) -> Story:
    nodes, began = start_with_clock_behind(lab, bystander, keys, "seconds", 32, BEHIND_SECONDS)
    wait_until(lambda: passes(nodes), "bytes pass", BEHIND_SECONDS + 30)
    return Story(healed_after_seconds=time.monotonic() - began, log=log_of(nodes["dial"].uplink))


def clock_one_day_back(lab: Lab, bystander: Container, keys: Keys) -> Story:
    nodes, _ = start_with_clock_behind(lab, bystander, keys, "day", 36, 86_400)
    dial = nodes["dial"].uplink
    wait_until(lambda: SILENT in log_of(dial), "the dialling end says so", 60)
    story = Story({"dial": status(dial)}, log_of(dial))
    nodes["listen"].uplink.restart()
    story.healed_after_seconds = wait_until(lambda: passes(nodes), "bytes pass", 60)
    return story


BEHIND_SECONDS = 40


def start_with_clock_behind(
    lab: Lab, bystander: Container, keys: Keys, name: str, number: int, seconds: float
) -> tuple[dict[str, Node], float]:
    """Rather than the machine's clock being behind, the peer's last handshake came from ahead."""
    listen = start_node(lab, keys, "listen", name=name, address=number)
    message = initiation(keys.private("dial"), keys.public["listen"], seconds_ahead=seconds)
    began = time.monotonic()
    assert answered(bystander, number, message), "the handshake from ahead is taken"
    endpoint = f"{SUBNET}.{number}:51820"
    dial = start_node(lab, keys, "dial", name=name, address=number + 1, endpoint=endpoint)
    return {"listen": listen, "dial": dial}, began


def test_clock_behind_heals_when_it_is_right(stories: dict[str, Future[Story]]) -> None:
    """Until the clock has caught up nothing passes; within a few seconds after that, it does."""
    story = stories["seconds"].result(timeout=120)

    assert BEHIND_SECONDS <= story.healed_after_seconds < BEHIND_SECONDS + 12


def test_clock_one_day_behind_is_said_and_has_a_remedy(stories: dict[str, Future[Story]]) -> None:
    """Refused without a word; log and status say so; a restart of the other uplink forgets it."""
    story = stories["day"].result(timeout=120)

    assert story.at_first["dial"]["handshake_age_seconds"] == "never"
    assert story.at_first["dial"]["heard_packets"] == "0"
    assert story.log.count(SILENT) == 1
    assert story.healed_after_seconds < 15
