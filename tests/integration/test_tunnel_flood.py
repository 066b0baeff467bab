"""What a flood at the tunnel's port costs the peer: nothing that it would not cost elsewhere."""

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from python_on_whales import Container, DockerClient

from tests.integration.lab import PEER, Lab, attempt, probe, wait_until
from tests.integration.tunnels import ADDRESSES, Keys, Node, passes, start_pair, status
from tests.integration.ways import log_of

SUBNET = "198.18.87"
TARGETS = {"uplink": 10, "elsewhere": 40}
RATE = 20_000  # packets a second
SOURCES = 20_000  # more than the set of strangers holds
STRANGERS = 16_384  # the size of that set, in uplink-listen.nft
PUMP_SECONDS = 8


@pytest.fixture(scope="module")
def lab(docker: DockerClient) -> Iterator[Lab]:
    with Lab(docker, "edges-flood", SUBNET) as lab:
        yield lab


@pytest.fixture(scope="module")
def nodes(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Node]:
    nodes = start_pair(lab, Keys(tmp_path_factory.mktemp("keys")))
    wait_until(lambda: passes(nodes), "the first bytes pass the tunnel", 15)
    return nodes


@pytest.fixture(scope="module")
def elsewhere(lab: Lab) -> Container:
    """A machine that drops the same packets without looking at them."""
    target = lab.run(
        "elsewhere",
        PEER,
        ["sleep", "infinity"],
        address=TARGETS["elsewhere"],
        capabilities=["NET_ADMIN"],
        hardened=False,
    )
    drop = "table ip deaf { chain input { type filter hook input priority -400; policy drop; }; }"
    assert attempt(target, "nft", drop)[0]
    return target


@pytest.fixture(scope="module")
def flooder(lab: Lab) -> Container:
    return lab.run("flooder", PEER, ["sleep", "infinity"], address=50, hardened=False)


@pytest.fixture(scope="module")
def crowd(lab: Lab, nodes: dict[str, Node], elsewhere: Container) -> Container:
    """A machine with a line of its own to both targets, on which it can pretend to be anybody."""
    crowd = lab.run("crowd", PEER, ["sleep", "infinity"], hardened=False)
    for name, target in (("uplink", nodes["listen"].uplink), ("elsewhere", elsewhere)):
        connect(crowd, target, name)
    reloaded = "because=outside-changed"
    wait_until(lambda: reloaded in log_of(nodes["listen"].uplink), "the rules cover the line", 5)
    return crowd


def connect(one: Container, other: Container, name: str) -> None:
    """A cable between two containers: a bridge would drop packets with foreign addresses."""
    ends = [str(container.state.pid) for container in (one, other)]
    subprocess.run(
        ["ip", "link", "add", name, "netns", ends[0], "type", "veth"]
        + ["peer", "name", "cable", "netns", ends[1]],
        check=True,
    )
    for process, interface in zip(ends, (name, "cable"), strict=True):
        subprocess.run(
            ["nsenter", "-t", process, "-n", "ip", "link", "set", interface, "up"], check=True
        )


@contextmanager
def flood_of_one(flooder: Container, targets: Iterable[str]) -> Iterator[None]:
    """The same packet again and again, from one address that anybody can see."""
    addresses = [f"{SUBNET}.{TARGETS[target]}" for target in targets]
    with running(flooder, "one", "51820", str(RATE), *addresses):
        yield


@contextmanager
def flood_of_many(crowd: Container, victims: Mapping[str, Container]) -> Iterator[None]:
    """More strangers than the set of them holds."""
    targets = [
        f"{SUBNET}.{TARGETS[name]}/{name}/"
        + attempt(victim, "cat", "/sys/class/net/cable/address")[1]
        for name, victim in victims.items()
    ]
    with running(crowd, "many", "51820", str(RATE), str(SOURCES), *targets):
        yield


@contextmanager
def running(container: Container, *arguments: str) -> Iterator[None]:
    with subprocess.Popen(
        ["docker", "exec", container.id, "sh", "-c", 'echo $$; exec python3 /flood.py "$@"', "sh"]
        + list(arguments),
        stdout=subprocess.PIPE,
        text=True,
    ) as flood:
        assert flood.stdout is not None
        process = flood.stdout.readline().strip()
        try:
            assert flood.stdout.readline().startswith("sent="), "it has run for a second"
            yield
        finally:
            assert attempt(container, "sh", "-c", f"kill {process}")[0]


def refused(nodes: dict[str, Node]) -> int:
    return int(status(nodes["listen"].uplink)["refused_in_packets"])


def count_of_strangers(nodes: dict[str, Node]) -> int:
    listing = attempt(nodes["listen"].uplink, "nft", "list", "set", "inet", "node", "strangers")
    return listing[1].count("expires")


@pytest.mark.parametrize("kind", ["one", "many"])
def test_flood_takes_no_throughput_from_the_peer(
    nodes: dict[str, Node], elsewhere: Container, flooder: Container, crowd: Container, kind: str
) -> None:
    """At least 80 % of what passes while the same flood goes elsewhere on the same machine.

    It changes its target each half second, so that whatever else the machine does is the same.
    """
    victims = {"uplink": nodes["listen"].uplink, "elsewhere": elsewhere}
    before = refused(nodes)
    flood = flood_of_one(flooder, victims) if kind == "one" else flood_of_many(crowd, victims)
    at_us = at_others = 0

    with flood:
        # Whatever else runs makes a single figure noisy: up to four of them are judged together.
        for _ in range(4):
            answered, figures = probe(
                nodes["listen"].workload, "pump", ADDRESSES["dial"], "8080", str(PUMP_SECONDS)
            )
            assert answered, figures
            at_us += int(figures.split()[0])
            at_others += int(figures.split()[1])
            if at_us >= 0.8 * at_others:
                break

    print(f"flood of {kind}: ratio {at_us / at_others:.2f}")
    assert refused(nodes) - before > RATE / 2, "control: the flood came, and was refused"
    assert at_us >= 0.8 * at_others


def test_flood_leaves_the_table_of_connections_alone(
    nodes: dict[str, Node], crowd: Container
) -> None:
    """Twenty thousand strangers make no entries: with a rule that tracks them, 16,384 do."""
    uplink = nodes["listen"].uplink
    with flood_of_many(crowd, {"uplink": uplink}):
        wait_until(lambda: count_of_strangers(nodes) >= 5000, "strangers have come", 20)

        entries = int(attempt(uplink, "cat", "/proc/sys/net/netfilter/nf_conntrack_count")[1])

    assert entries < 100


def test_new_handshake_within_a_flood(nodes: dict[str, Node], crowd: Container) -> None:
    """The dialling uplink is restarted while strangers fill all room that there is for them."""
    with flood_of_many(crowd, {"uplink": nodes["listen"].uplink}):
        wait_until(lambda: count_of_strangers(nodes) == STRANGERS, "no room is left", 20)
        # A restart is bounded by itself elsewhere: this is about the handshake after it.
        nodes["dial"].uplink.restart()
        seconds = wait_until(lambda: passes(nodes), "bytes pass", 10)
        assert count_of_strangers(nodes) == STRANGERS, "control: there still is none"

    print(f"back after {seconds:.1f} s")
