"""The ways that are open on purpose carry what they are for, and no word of anybody's choosing."""

import asyncio
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from scripts.telegram_user import TelegramUser
from tests.conftest import USERS
from tests.faults.nodes import open_nodes
from tests.integration.lab import PEER, wait_until
from tests.leaks.capture import in_namespace
from tests.leaks.report import Report
from tests.leaks.wire import NAME, docker_says, pid_of
from tests.leaks.world import CONTROL_SUBNET, NEIGHBOUR, NODES, SUBNET, Control, World, explain

SMALL_MTU = 1280
CHOSEN_NAMES = (
    "leakcanary-name-1.api.telegram.org",
    "leakcanary-name-2.example.org",
    "api.telegram.org.leakcanary-name-3.example.org",
    "leakcanary-name-4",
)


def greet(connection: socket.socket, name: str) -> bool:
    """Begin TLS with a server name; whether the other side went along with it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection.settimeout(5)
    try:
        with context.wrap_socket(connection, server_hostname=name):
            return True
    except OSError:
        return False


def through_egress(world: World, name: str) -> bool:
    """Greet Telegram as a process of the relay would: the socket is its only way."""
    path = f"/proc/{world.pid('relay', 'relay')}/root/run/egress/telegram.sock"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        return greet(connection, name)


def test_no_chosen_name_goes_upstream(world: World, control: Control, report: Report) -> None:
    """Neither resolver nor Telegram's network sees a name that the relay made up."""
    row = report.row(18, "names of the relay's choosing, by TLS and DNS")
    wait_until(lambda: through_egress(world, NAME), "control: the one name passes", 30)

    with world.watch() as watch:
        passed = [name for name in CHOSEN_NAMES if through_egress(world, name)]
    heard = subprocess.run(
        ["docker", "logs", world.pair.container(world.pair.internet, "resolver")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
    ).stdout  # fmt: skip
    asked = re.findall(rf"query\[(\w+)\] (\S+) from {re.escape(SUBNET)}\.", heard)

    row.probed = len(CHOSEN_NAMES)
    row.leaked = len(watch.leaks) + len(passed) + sum(name != NAME for _, name in asked)
    row.control = seen_in_the_open(control)
    assert passed == []
    assert watch.leaks == [], explain(watch.leaks)
    assert {name for _, name in asked} == {NAME}
    assert {kind for kind, _ in asked} <= {"A", "AAAA"}
    assert row.control > 0


def seen_in_the_open(control: Control) -> int:
    """How many frames carry the names when they are sent to a neighbour directly."""
    docker_says("exec", "-d", control.neighbour, "socat", "TCP-LISTEN:4443,fork", "EXEC:cat")

    def connect() -> socket.socket:
        return socket.create_connection((f"{CONTROL_SUBNET}.{NEIGHBOUR}", 4443), 3)

    with control.wire.watch() as watch:
        for name in CHOSEN_NAMES:
            with wait_for_listener(pid_of(control.plain), connect) as connection:
                greet(connection, name)
    return sum(frame.has_canary for frame in watch.leaks)


@contextmanager
def wait_for_listener(pid: int, connect: Callable[[], socket.socket]) -> Iterator[socket.socket]:
    connections: list[socket.socket] = []

    def is_there() -> bool:
        try:
            connections.append(in_namespace(pid, connect))
        except OSError:
            return False
        return True

    wait_until(is_there, "the neighbour listens", 5)
    with connections[0] as connection:
        yield connection


@pytest.fixture
def small_path(world: World) -> Iterator[None]:
    """Both uplinks' outside interfaces take less than the tunnel's packets are long."""
    for node in NODES:
        set_mtu(world.container(node, "uplink"), SMALL_MTU)
    yield
    for node in NODES:
        set_mtu(world.container(node, "uplink"), 1500)


def set_mtu(container: str, size: int) -> None:
    docker_says(
        "run", "--rm", "--label", "lab=leaks-burst", f"--network=container:{container}",
        "--cap-add=NET_ADMIN", PEER, "ip", "link", "set", "eth0", "mtu", str(size),
    )  # fmt: skip


@pytest.mark.usefixtures("small_path")
def test_long_talk_over_a_small_path(world: World, report: Report) -> None:
    """A path of 1280 bytes: datagrams are cut, question and answer arrive whole, PASS0 holds."""
    row = report.row(21, "a long talk over a path of 1280 bytes")
    answer = " ".join(f"a-rather-long-word-{number}" for number in range(1, 401))
    question = " ".join(f"wort{number}" for number in range(1, 400))
    asyncio.run(script(world, answer))
    user = TelegramUser(world.pair.control_socket, USERS[8])

    with world.watch() as watch:
        shown = list(user.watch(user.say(question), 120))[-1]

    row.probed = watch.passed
    row.leaked = len(watch.leaks)
    row.control = watch.fragments
    assert " ".join(message.text.strip() for message in shown).split() == answer.split()
    assert watch.leaks == [], explain(watch.leaks)
    assert watch.fragments > 0, "control: datagrams were cut"


async def script(world: World, answer: str) -> None:
    async with open_nodes(world.pair) as nodes:
        await nodes.script_engine(content={"text": answer}, speed=None)
