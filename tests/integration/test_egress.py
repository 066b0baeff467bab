"""The relay node's only way to Telegram: who gets through, where to, and what stays behind."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
from python_on_whales import Container, DockerClient

from tests.integration.lab import (
    EGRESS,
    PEER,
    Lab,
    attempt,
    kill_process,
    probe,
    start_and_fail,
    wait_until,
    wait_until_healthy,
)
from tests.integration.ways import (
    AUTHORITY,
    HOST,
    RESOLVER,
    SOCKET,
    TELEGRAM,
    Way,
    log_of,
    make_certificates,
    start_way,
)

SUBNET = "198.18.65"


@dataclass
class World(Way):
    """Two addresses of Telegram, a stranger that listens as well, a resolver, egress and relay."""

    lab: Lab
    telegram: Container
    moved_telegram: Container
    stranger: Container
    resolver: Container
    hosts: Path

    def dialled(self) -> int:
        """How many connections Telegram has accepted so far."""
        return log_of(self.telegram).count("accepting connection from")


@pytest.fixture(scope="module")
def world(docker: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"))
    hosts = tmp_path_factory.mktemp("hosts") / "telegram"
    hosts.write_text(f"{SUBNET}.20 {HOST}\n", encoding="ascii")
    with Lab(docker, "egress-lab", SUBNET) as lab:
        yield start_world(lab, certificates, hosts)


def start_world(lab: Lab, certificates: Path, hosts: Path) -> World:
    mounted = [(str(certificates), "/certificates", "ro")]
    servers = {
        name: lab.run(
            name,
            PEER,
            TELEGRAM,
            address=address,
            volumes=mounted,
            capabilities=["NET_ADMIN"],  # to cut its line
            hardened=False,
        )
        for name, address in (("telegram", 20), ("moved-telegram", 21), ("stranger", 22))
    }
    resolver = lab.run(
        "resolver",
        PEER,
        [*RESOLVER, "--hostsdir=/hosts"],
        address=53,
        volumes=[(str(hosts.parent), "/hosts", "ro")],
        hardened=False,
    )
    way = start_way(
        lab,
        "egress",
        11,
        {
            "TELEGRAM_HOST": HOST,
            "TELEGRAM_NETWORKS": f"{SUBNET}.20/31",
            "RESOLVER": f"{SUBNET}.53",
        },
        mounted,
    )
    wait_until_healthy(way.egress)
    world = World(
        way.egress,
        way.relay,
        lab,
        servers["telegram"],
        servers["moved-telegram"],
        servers["stranger"],
        resolver,
        hosts,
    )
    wait_until(lambda: world.calls(HOST), "the first call arrives", 15)
    return world


# Whom it lets through


@pytest.mark.parametrize("server_name", [HOST, "API.Telegram.ORG"])
def test_call_to_telegram_passes_untouched(world: World, server_name: str) -> None:
    """TLS reaches the one name, however it is written, and ends at the far end's certificate."""
    before = world.dialled()

    assert world.calls(server_name)

    assert world.dialled() == before + 1


@pytest.mark.parametrize(
    "call",
    [
        ("tls", SOCKET, "example.org", AUTHORITY),
        ("tls", SOCKET, "canary.api.telegram.org", AUTHORITY),
        ("tls", SOCKET, "api.telegram.org.example.org", AUTHORITY),
        ("tls", SOCKET, "telegram.org", AUTHORITY),
        ("tls", SOCKET, "", AUTHORITY),
        ("plain", SOCKET, f"GET / HTTP/1.1\\r\\nHost: {HOST}\\r\\n\\r\\n"),
        ("plain", SOCKET, "\\x16\\x03\\x01\\x00\\x05hello"),
    ],
    ids=["other", "subdomain", "suffix", "parent", "none", "http", "malformed"],
)
def test_anything_else_is_refused_before_dialling(world: World, call: tuple[str, ...]) -> None:
    """Without the right server name nothing is dialled and nothing is answered."""
    before = world.dialled()

    answered, _ = probe(world.relay, *call)

    assert not answered
    assert world.dialled() == before
    assert world.calls(HOST), "control: the way is open"


def test_socket_is_closed_to_other_users(world: World) -> None:
    """A process outside the group that relay and egress share cannot even connect."""
    stranger = subprocess.run(
        ["docker", "exec", "--user", "10005:10005", world.relay.id]
        + ["python3", "/probe.py", "tls", SOCKET, HOST, AUTHORITY],
        capture_output=True,
        text=True,
        check=False,
    )

    assert stranger.returncode == 1
    assert stranger.stdout.startswith("PermissionError")


# Where to

DESTINATIONS = [
    (("tcp", f"{SUBNET}.22", "443"), "another host"),
    (("tcp", f"{SUBNET}.22", "80"), "another host and port"),
    (("tcp", f"{SUBNET}.20", "80"), "Telegram's network, another port"),
    (("dns", f"{SUBNET}.22", HOST), "another resolver"),
    (("udp", f"{SUBNET}.53", "443"), "the resolver, another port"),
    (("dns", "127.0.0.11", HOST), "Docker's resolver"),
]


@pytest.mark.parametrize(("call", "why"), DESTINATIONS, ids=[why for _, why in DESTINATIONS])
def test_root_in_the_namespace_gets_nowhere_else(
    world: World, intruder: Container, call: tuple[str, ...], why: str
) -> None:
    """The ruleset holds against root with Docker's usual capabilities; HAProxy is not asked."""
    answered, error = probe(intruder, *call)

    assert not answered, why
    assert "refused" not in error, "the packet was answered, so it left"
    assert probe(intruder, "dns", f"{SUBNET}.53", HOST)[0], "control: the resolver is open"


def test_other_destinations_do_listen(world: World) -> None:
    """Control for the refusals above: a neighbour without rules reaches the same servers."""
    for call, _ in DESTINATIONS[1:3]:
        assert probe(world.stranger, *call) == (True, "ping")
    reached = attempt(world.stranger, "socat", "-u", "OPEN:/dev/null", f"TCP:{SUBNET}.22:443")
    assert reached[0]


@pytest.fixture
def intruder(world: World) -> Iterator[Container]:
    container = world.lab.run(
        "intruder", PEER, ["sleep", "infinity"], namespace_of=world.egress, hardened=False
    )
    yield container
    container.remove(force=True)


def test_no_more_than_one_name_is_asked_for(world: World) -> None:
    """The resolver hears Telegram's name, and never what a caller named."""
    probe(world.relay, "tls", SOCKET, "canary.api.telegram.org", AUTHORITY)

    asked = {
        line.split("] ", 1)[1].split(" from ")[0]
        for line in log_of(world.resolver).splitlines()
        if "query[" in line and f"from {SUBNET}.11" in line
    }

    assert asked == {HOST}


def test_follows_telegram_to_another_address(world: World) -> None:
    """When the name moves, new calls go to the new address without a restart."""
    assert world.calls(HOST), "control"
    move(world, f"{SUBNET}.21")
    try:
        wait_until(
            lambda: (
                world.calls(HOST) and "accepting connection from" in log_of(world.moved_telegram)
            ),
            "calls arrive at the new address",
            30,
        )
    finally:
        move(world, f"{SUBNET}.20")
        before = world.dialled()
        wait_until(
            lambda: world.calls(HOST) and world.dialled() > before, "calls arrive as before", 30
        )


def move(world: World, address: str) -> None:
    world.hosts.write_text(f"{address} {HOST}\n", encoding="ascii")
    subprocess.run(["docker", "kill", "--signal", "HUP", world.resolver.id], check=True)


# What it is and what it leaves behind


def test_forwarder_holds_no_capability(world: World) -> None:
    """HAProxy runs as a user of its own, with every capability set empty and none to be gained."""
    _, text = attempt(world.egress, "cat", "/proc/1/status")
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)

    sets = {name: value for name, value in status.items() if name.startswith("Cap")}
    assert set(sets) == {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    assert set(sets.values()) == {"0" * 16}
    assert status["Uid"].split() == ["10002"] * 4
    assert status["Gid"].split() == ["10010"] * 4
    assert status["Groups"].strip() == ""
    assert status["NoNewPrivs"] == "1"
    assert status["Name"] == "haproxy"


def test_restart_replaces_the_stale_socket(world: World) -> None:
    """The socket's volume outlives the egress; after SIGKILL and start the way is open again."""
    kill_process(world.egress, "haproxy")
    wait_until(lambda: not world.egress.state.running, "it has died", 5)
    assert not world.calls(HOST), "control"

    world.egress.start()

    wait_until_healthy(world.egress)
    wait_until(lambda: world.calls(HOST), "calls arrive", 15)


def test_stop_is_heard_although_a_call_is_open(world: World) -> None:
    """`docker stop` ends it within three seconds, an open call or not; it is not killed."""
    with held_call(world):
        begun = time.monotonic()

        world.egress.stop(time=10)

        assert time.monotonic() - begun < 3
        assert world.egress.state.exit_code == 0
    world.egress.start()
    wait_until_healthy(world.egress)
    wait_until(lambda: world.calls(HOST), "calls arrive", 15)


def test_health_checks_leave_no_trace(world: World) -> None:
    """A health check prints nothing, and makes the log no longer."""
    before = log_of(world.egress)

    results = [attempt(world.egress, "health") for _ in range(5)]

    assert results == [(True, "")] * 5
    assert log_of(world.egress) == before


def test_health_sees_missing_rules(world: World) -> None:
    """Without its rules the egress is not healthy."""
    saved = attempt(world.egress, "nft", "list", "ruleset")[1]
    try:
        assert attempt(world.egress, "nft", "flush", "ruleset")[0]

        assert attempt(world.egress, "health") == (False, "")
    finally:
        subprocess.run(
            ["docker", "exec", "-i", world.egress.id, "nft", "-f", "-"],
            input=saved,
            text=True,
            check=True,
        )


def test_log_tells_of_failures_without_content(world: World) -> None:
    """A call that could not be carried leaves one line: no name that was asked for, no text."""
    probe(world.relay, "tls", SOCKET, "canary-name.example.org", AUTHORITY)
    probe(world.relay, "plain", SOCKET, "canary-text")

    log = log_of(world.egress)

    assert "action=connection-failed" in log
    assert "canary" not in log


@pytest.mark.parametrize("relay_dies", [False, True])
def test_dead_relay_leaves_nothing_to_arrive_late(world: World, relay_dies: bool) -> None:
    """What a dead relay had half-sent is not retransmitted once the line is back."""
    canary = f"late-{relay_dies}"
    with held_call(world) as say:
        line(world, cut=True)
        try:
            say.write(canary + "\n")
            say.flush()
            wait_until(lambda: dropped(world) > 0, "the line swallows it", 5)
            if relay_dies:
                kill_process(world.relay, "hold-tls")
                wait_until(lambda: not holds_connection(world), "egress has let go", 5)
            else:
                wait_until(lambda: dropped(world) > 3, "the kernel sends it again and again", 10)
        finally:
            line(world, cut=False)

        arrived = arrives(world, canary, seconds=4)

    assert arrived is not relay_dies


@contextmanager
def held_call(world: World) -> Iterator[IO[str]]:
    """Hold a TLS call from the relay to Telegram open; what is written goes through it."""
    wait_until(lambda: world.calls(HOST), "control: the way is open", 15)
    with subprocess.Popen(
        ["docker", "exec", "-i", world.relay.id]
        + ["python3", "/probe.py", "hold-tls", SOCKET, HOST, AUTHORITY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        assert caller.stdin is not None
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n"
        yield caller.stdin
        caller.stdin.close()


def line(world: World, *, cut: bool) -> None:
    """Cut Telegram's line from outside, silently, or mend it."""
    rules = (
        "table ip cut { chain input { type filter hook input priority 0;"
        f" ip saddr {SUBNET}.11 tcp dport 443 counter drop; }}; }}"
    )
    assert attempt(world.telegram, "nft", rules if cut else "delete table ip cut")[0]


def holds_connection(world: World) -> bool:
    """Whether egress' kernel still has a socket towards port 443, in whatever state."""
    return ":01BB " in attempt(world.egress, "cat", "/proc/net/tcp")[1]


def dropped(world: World) -> int:
    words = attempt(world.telegram, "nft", "list", "table", "ip", "cut")[1].split()
    return int(words[words.index("packets") + 1])


def arrives(world: World, text: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if text in attempt(world.telegram, "cat", "/tmp/received")[1]:
            return True
        time.sleep(0.1)
    return False


# Settings

SETTINGS = {"RESOLVER": f"{SUBNET}.53", "TELEGRAM_NETWORKS": f"{SUBNET}.0/24"}


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("TELEGRAM_ADDRESSES", "198.18.66.1", "give one to four IPv4 addresses of the Bot API"),
        ("TELEGRAM_ADDRESSES", "api.telegram.org", "give one to four IPv4 addresses of the Bot"),
        ("TELEGRAM_ADDRESSES", f"{SUBNET}.0/24", "give one to four IPv4 addresses of the Bot"),
        ("TELEGRAM_ADDRESSES", ",".join([f"{SUBNET}.9"] * 5), "give one to four IPv4 addresses"),
        ("TELEGRAM_PORT", "70000", "give a port between 1 and 65535"),
        ("RESOLVER", "", "give the IPv4 address of a name server outside this container"),
        ("RESOLVER", "dns.example.org", "give the IPv4 address of a name server outside"),
        ("RESOLVER", "127.0.0.11", "give the IPv4 address of a name server outside"),
        ("TELEGRAM_HOST", "https://api.telegram.org", "give the name of the Bot API server"),
        ("TELEGRAM_HOST", "149.154.167.220", "give the name of the Bot API server"),
        ("TELEGRAM_HOST", "telegram", "give the name of the Bot API server"),
        ("TELEGRAM_NETWORKS", "149.154.160.0/20,everything", "give IPv4 networks of /8 to /32"),
        ("TELEGRAM_NETWORKS", "0.0.0.0/0", "give IPv4 networks of /8 to /32"),
        ("TELEGRAM_NETWORKS", "149.154.160.0", "give IPv4 networks of /8 to /32"),
        ("TELEGRAM_NETWORKS", "2001:67c:4e8::/48", "give IPv4 networks of /8 to /32"),
        ("TELEGRAM_NETWORKS", "1.2.3.0/24 }; flush", "give IPv4 networks of /8 to /32"),
    ],
)
def test_bad_setting_stops_the_start(setting: str, value: str, remedy: str) -> None:
    """One sentence that names the setting, its value and the remedy; nothing else; exit 78."""
    settings = SETTINGS | {setting: value}
    options = [word for name, text in settings.items() for word in ("-e", f"{name}={text}")]

    code, said = start_and_fail(EGRESS, "--network", "none", *options, EGRESS)

    assert code == 78
    assert said.startswith(f'{setting} is "{value}": {remedy}')
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"TELEGRAM_HOST": "bot.example.org"}, 'TELEGRAM_NETWORKS is "": give IPv4 networks'),
        ({"TELEGRAM_ADDRESSES": f"{SUBNET}.20"}, 'TELEGRAM_ADDRESSES is "198.18.65.20": give one'),
    ],
    ids=["own server", "an address that Telegram does not publish"],
)
def test_published_networks_are_telegrams_alone(settings: dict[str, str], sentence: str) -> None:
    """A server of one's own needs its networks; Telegram's addresses must be Telegram's."""
    settings = settings | {"RESOLVER": f"{SUBNET}.53"}
    options = [word for name, text in settings.items() for word in ("-e", f"{name}={text}")]

    code, said = start_and_fail(EGRESS, "--network", "none", *options, EGRESS)

    assert code == 78
    assert said.startswith(sentence)
    assert len(said.splitlines()) == 1
