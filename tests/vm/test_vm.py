"""Two whole machines: boot, reboot, the death of Docker, and what is seen of it from outside.

The tests follow one another on the same two machines, since a boot costs a minute of a core; each
judges what the captures saw while it ran.
"""

import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from statistics import mean
from typing import TypeVar

import pytest

from scripts.telegram_user import Said, TelegramUser
from tests.vm.conftest import STRANGER, SUBNET, USERS, World
from tests.vm.network import (
    ARP,
    BRIDGE,
    IPV4,
    IPV6,
    TCP,
    UDP,
    Frame,
    ask_in_ipv6,
    open_tcp_ports,
    udp_answers,
)
from tests.vm.nodes import SOCKET, Node

T = TypeVar("T")

TUNNEL_PORT = 51820
HEAL_AFTER_DAEMON_SECONDS = 90
HEAL_AFTER_BOOT_SECONDS = 180
PATIENCE_SECONDS = 900  # on a machine that has other guests; what is asserted is above

VPS, HOME = f"{SUBNET}.10", f"{SUBNET}.30"
TELEGRAM, RESOLVER, GATEWAY = f"{SUBNET}.20", f"{SUBNET}.53", f"{SUBNET}.1"
ON_THE_LINK = {VPS, HOME, TELEGRAM, RESOLVER, GATEWAY, STRANGER}
ELSEWHERE = "198.19.2.9"  # behind the gateway, which leads nowhere
QUESTION = b"\x03api\x08telegram\x03org\x00\x00\x01\x00\x01"  # the one name, A, IN

DEATHS = ("KILL", "TERM", "KILL")
"""Which signal ends both daemons, in each round."""

REBOOTS = ("reboot", "power")
"""What happens in each round: both go down in order, both lose their power without a word. The
first boot of all comes before."""


def rounds(ways: tuple[str, ...]) -> list[str]:
    """VM_ROUNDS says how many: the ways take turns."""
    count = int(os.environ.get("VM_ROUNDS", len(ways)))
    return [f"{number + 1}-{ways[number % len(ways)]}" for number in range(count)]


def is_lawful(at: str, frame: Frame) -> bool:
    """Whether a frame at this machine's port is one of those that the design allows."""
    if not frame.is_sent and frame.source == STRANGER:
        return True  # the test's own
    if frame.kind == ARP:
        return {frame.source, frame.target} <= ON_THE_LINK
    if frame.kind != IPV4:
        return False
    here = frame.source if frame.is_sent else frame.target
    if here != {"relay": VPS, "model": HOME}[at]:
        return False
    other, port = (
        (frame.target, frame.target_port) if frame.is_sent else (frame.source, frame.source_port)
    )
    own_port = frame.source_port if frame.is_sent else frame.target_port
    match frame.protocol, other, port:
        case 17, "198.19.1.10", 51820:
            return at == "model"
        case 17, "198.19.1.30", _:
            return at == "relay" and own_port == TUNNEL_PORT
        case 6, "198.19.1.20", 443:
            return at == "relay"
        case 17, "198.19.1.53", 53:
            return at == "relay" and frame.payload[12:].lower().startswith(QUESTION)
    return False


class Watch:
    """Judges what passed the ports since the last judgement."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen = {node.plan.tap: 0 for node in world.nodes}

    def news(self, node: Node) -> list[Frame]:
        """What passed a machine's port since this was last asked."""
        frames = self._world.capture.frames[node.plan.tap]
        begin, end = self._seen[node.plan.tap], len(frames)
        self._seen[node.plan.tap] = end
        return frames[begin:end]

    def unlawful(self, node: Node) -> list[Frame]:
        return [frame for frame in self.news(node) if not is_lawful(str(node), frame)]

    def assert_silence(self) -> None:
        for node in self._world.nodes:
            unlawful = self.unlawful(node)
            shown = "\n".join(map(str, unlawful[:20]))
            assert not unlawful, f"{len(unlawful)} frames at the port of {node}:\n{shown}"
        assert self._world.capture.lost() == 0, "the capture missed frames"


@pytest.fixture(scope="module")
def watch(world: World) -> Watch:
    return Watch(world)


@pytest.fixture(autouse=True)
def nothing_leaks(watch: Watch) -> Iterator[None]:
    """Every test: at the machines' ports nothing but what the design allows."""
    yield
    watch.assert_silence()


@pytest.fixture(scope="module")
def unused_vm_users() -> Iterator[int]:
    return iter(USERS)


@pytest.fixture
def user(world: World, unused_vm_users: Iterator[int]) -> TelegramUser:
    return TelegramUser(world.pair.control_socket, next(unused_vm_users))


def is_answered(user: TelegramUser, said: Said, text: str) -> bool:
    """The engine repeats what it was asked: there stands exactly one such message, complete."""
    shown = user.bot_messages(said.message_id)
    return [m.text for m in shown if m.is_final] == [text]


def wait_until_whole(node: Node, world: World) -> float:
    """Every container of a node healthy and in its place; asked rarely, since asking costs it."""
    what = f"the {node} node is whole"
    return wait_until(node.is_whole, what, world, PATIENCE_SECONDS, is_cheap=False)


def wait_until(
    condition: Callable[[], bool],
    what: str,
    world: World,
    seconds: float,
    *,
    is_cheap: bool = True,
) -> float:
    """Wait; return how long it took. What does not come about is shown with the units' words."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > seconds:
            pytest.fail(f"{what}: not within {seconds:.0f} s\n{journals(world)}")
        time.sleep(0.5 if is_cheap else 3)
    return time.monotonic() - began


def journals(world: World) -> str:
    return "\n".join(f"{node}: {node.journal()}" for node in world.nodes if node.machine.is_on)


def report(line: str) -> None:
    print(line, flush=True)


def show_memory(node: Node, when: str) -> None:
    text = node.machine.run("grep -E '^Mem(Total|Available)' /proc/meminfo")
    figures = {name: int(value) // 1024 for name, value in re.findall(r"(\w+): +(\d+) kB", text)}
    report(f"{node}: {figures['MemAvailable']} of {figures['MemTotal']} MiB available {when}")


# Boot


def test_relay_node_waits_for_a_model_node_that_is_off(world: World, user: TelegramUser) -> None:
    """The VPS comes up alone; what is said waits at Telegram, and is answered by a late node."""
    began = time.monotonic()
    said = user.say("Are you awake?")
    world.relay.machine.power_on(world.namespace.enter)
    world.relay.machine.wait_until_up(PATIENCE_SECONDS)
    wait_until_whole(world.relay, world)
    alone = world.relay.machine.uptime()
    report(f"relay: healthy alone {alone:.0f} s after its kernel started")

    wait_until(
        lambda: any("asleep" in m.text for m in user.bot_messages(said.message_id)),
        "the chat is told that the answer comes later",
        world,
        PATIENCE_SECONDS,
    )
    assert said.update_id in pending(user), "it waits at Telegram"

    world.model.machine.power_on(world.namespace.enter)
    world.model.machine.wait_until_up(PATIENCE_SECONDS)
    wait_until(
        lambda: is_answered(user, said, "Are you awake?"), "it is answered", world, PATIENCE_SECONDS
    )
    late = world.model.machine.uptime()
    report(f"model: first answer {late:.0f} s after its kernel started")
    assert max(alone, late) <= limit(HEAL_AFTER_BOOT_SECONDS, world, began)


def limit(seconds: float, world: World, began: float) -> float:
    """A limit, and how much longer it is when the machine under the emulated cores is slow."""
    slowness = mean(world.pace.slowness(node.machine.boot, began) for node in world.nodes)
    report(f"  emulated cores were {slowness:.1f} times slower than where the limits were set")
    return seconds * slowness


def pending(user: TelegramUser) -> list[int]:
    return list(user.state()["pending_update_ids"])


# What runs


def test_kernel_carries_the_tunnel(world: World) -> None:
    """Both ends use the kernel's WireGuard: it answers where the interface is, by no process."""

    def look(node: Node) -> tuple[str, str, list[str]]:
        wait_until_whole(node, world)
        return (
            node.in_container("wireguard", "wg show wg0"),
            node.in_container("wireguard", "ip -details link show wg0"),
            node.machine.run("ps -eo comm=").splitlines(),
        )

    for shown, link, processes in at_once(look, world.nodes).values():
        assert "latest handshake" in shown
        assert re.search(r"^\s+wireguard ", link, re.MULTILINE), link
        assert "dockerd" in processes, "control: processes are seen by these names"
        assert not [name for name in processes if name.startswith("wireguard-g")]


def test_namespaces_hold_what_they_should(world: World) -> None:
    """The relay and the gateway see lo and wg0; the engine sees lo."""
    expected = {name: ["lo", "wg0"] for name in ("wireguard", "relay", "gateway")}
    expected["engine"] = ["lo"]

    def look(node: Node) -> dict[str, list[str]]:
        services = [name for name in node.plan.services if name in expected]
        shown = node.machine.run(
            in_namespaces(node, services, "ip -brief link | cut -d' ' -f1 | cut -d@ -f1; echo .")
        )
        interfaces = [part.split() for part in shown.split(".")[:-1]]
        return dict(zip(services, interfaces, strict=True))

    for interfaces in at_once(look, world.nodes).values():
        assert interfaces == {name: expected[name] for name in interfaces}
        assert len(interfaces) >= 2


def in_namespaces(node: Node, services: Iterable[str], script: str) -> str:
    """A script that runs `script` in the network namespace of each service, in their order.

    Docker is asked once for all of them: its client costs an emulated core seconds.
    """
    names = " ".join(f"{node}-{service}-1" for service in services)
    return (
        f"for pid in $(docker inspect --format '{{{{.State.Pid}}}}' {names}); do\n"
        f"nsenter --target $pid --net bash -c {shlex.quote(script)}\ndone"
    )


def at_once(work: Callable[[Node], T], nodes: Iterable[Node]) -> dict[str, T]:
    """Do something at each machine side by side: each has a core of its own."""
    with ThreadPoolExecutor() as pool:
        running = {str(node): pool.submit(work, node) for node in nodes}
        return {name: future.result() for name, future in running.items()}


def test_conversation(world: World, user: TelegramUser) -> None:
    """Question after question is answered, through the real kernel's NAT and its published port."""
    show_memory(world.relay, "at rest")
    show_memory(world.model, "at rest")

    for number in range(3):
        text = f"Question {number} to a machine"
        began = time.monotonic()
        said = user.say(text)
        wait_until(lambda: is_answered(user, said, text), "it is answered", world, PATIENCE_SECONDS)  # noqa: B023  # within the round
        report(f"answered in {time.monotonic() - began:.1f} s")

    show_memory(world.relay, "in a conversation")


def test_port_of_the_vps_is_published_by_the_host(world: World, watch: Watch) -> None:
    """The tunnel's packets come to the host's address and are passed on by its NAT, both ways."""
    wait_until(
        lambda: (
            {True, False}
            <= {
                frame.is_sent
                for frame in world.capture.frames[world.relay.plan.tap][-2000:]
                if frame.protocol == UDP and TUNNEL_PORT in (frame.source_port, frame.target_port)
            }
        ),
        "packets of the tunnel go both ways at the VPS' port",
        world,
        PATIENCE_SECONDS,
    )
    uplink = world.relay.in_container("uplink", "ip -brief -4 address").split()
    endpoint = world.relay.in_container("wireguard", "wg show wg0 endpoints").split()[1]

    assert VPS not in " ".join(uplink), "control: the uplink itself has another address"
    assert endpoint.startswith(f"{HOME}:"), "the peer's own address, not that of a proxy"


# Strangers

SCANNED = (*range(1, 1025), 2375, 2376, 3000, 5000, 5432, 6379, 8000, 8080, 8443, 9000, 9090, 51820)
KNOCKS = (
    b"knock",
    b"\x01\0\0\0" + b"\0" * 144,  # the length and type of WireGuard's first message
    b"\x04\0\0\0" + b"\0" * 28,  # and of its data
)


def test_nothing_is_open(world: World, watch: Watch) -> None:
    """No TCP port accepts and no UDP port says anything; the hosts do not even refuse."""
    watch.assert_silence()

    def knock(node: Node) -> tuple[list[int], list[tuple[int, bytes]]]:
        accepted = open_tcp_ports(world.namespace, STRANGER, node.address, SCANNED, 10)
        answers = udp_answers(
            world.namespace, STRANGER, node.address, (53, 67, 123, 5353, TUNNEL_PORT), KNOCKS, 5
        )
        return accepted, answers

    opened = at_once(knock, world.nodes)

    assert set(opened) == {"relay", "model"}
    for node in world.nodes:
        frames = watch.news(node)
        knocked = {f.target_port for f in frames if f.source == STRANGER and f.protocol == TCP}
        assert knocked >= set(SCANNED), "control: every knock reached the machine's port"
        assert opened[str(node)] == ([], []), str(node)
        to_stranger = [f for f in frames if f.is_sent and f.target == STRANGER and f.kind != ARP]
        assert not to_stranger, "\n".join(map(str, to_stranger[:10]))
        unlawful = [frame for frame in frames if not is_lawful(str(node), frame)]
        assert not unlawful, "\n".join(map(str, unlawful[:10]))


def test_scanner_sees_an_open_port(world: World) -> None:
    """Control: the same scan finds the stub's port 443, and a UDP server that answers."""
    accepted = open_tcp_ports(world.namespace, STRANGER, TELEGRAM, (80, 443), 5)
    query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0" + QUESTION
    answers = udp_answers(world.namespace, STRANGER, RESOLVER, (53,), [query], 5)

    assert accepted == [443]
    assert [port for port, _ in answers] == [53]


def test_published_port_is_found(world: World, watch: Watch) -> None:
    """Control: one port more is published, and though nobody listens at it, it is heard of."""
    watch.assert_silence()
    machine = world.model.machine
    machine.run(
        "docker run --detach --rm --name vm-published --publish 8443:8443 node/wireguard:0.1.0"
        " sleep 120"
    )
    try:
        open_tcp_ports(world.namespace, STRANGER, world.model.address, (8443,), 3)
    finally:
        machine.run("docker rm --force --volumes vm-published")

    frames = watch.news(world.model)
    answers = [f for f in frames if f.is_sent and f.target == STRANGER and f.kind != ARP]
    assert {frame.source_port for frame in answers} == {8443}, "\n".join(map(str, answers))
    others = [f for f in frames if f not in answers and not is_lawful("model", f)]
    assert not others, "\n".join(map(str, others))


def test_no_machine_speaks_ipv6(world: World, watch: Watch) -> None:
    """An echo to all nodes and a query for listeners are answered by nobody, link-local or not."""
    watch.assert_silence()

    ask_in_ipv6(world.namespace, BRIDGE)

    wait_until(
        lambda: all(count_ipv6(world, node) >= 2 for node in world.nodes),
        "control: the questions reached both machines",
        world,
        PATIENCE_SECONDS,
    )
    time.sleep(12)  # a query allows its listeners 10 s to answer
    for node in world.nodes:
        frames = watch.news(node)
        sent = [frame for frame in frames if frame.is_sent and frame.kind == IPV6]
        others = [f for f in frames if f.kind != IPV6 and not is_lawful(str(node), f)]
        assert not sent, "\n".join(map(str, sent))
        assert not others, "\n".join(map(str, others))


def count_ipv6(world: World, node: Node) -> int:
    return sum(frame.kind == IPV6 for frame in world.capture.frames[node.plan.tap])


def test_machine_speaks_where_ipv6_is_on(world: World, watch: Watch) -> None:
    """Control: as soon as IPv6 is on, a machine speaks it unasked, and the capture sees that."""
    watch.assert_silence()
    machine = world.model.machine
    seen: list[Frame] = world.capture.frames[world.model.plan.tap]
    try:
        machine.run("sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=0")
        wait_until(
            lambda: any(f.is_sent and f.kind == IPV6 for f in seen),
            "it speaks IPv6",
            world,
            PATIENCE_SECONDS,
        )
    finally:
        machine.run("sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=1")
    for node in world.nodes:
        others = [f for f in watch.news(node) if f.kind != IPV6 and not is_lawful(str(node), f)]
        assert not others, "\n".join(map(str, others))


# What tries to leave


def test_workloads_cannot_reach_beyond_the_tunnel(world: World, watch: Watch) -> None:
    """Root in each container's namespace sends to an outside address, and nothing leaves.

    The control is the host itself, and a plain container of Docker's, which the capture shows.
    """
    watch.assert_silence()
    at_once(send_from_everywhere, world.nodes)
    time.sleep(1)
    watch.assert_silence()

    model = world.model
    model.machine.run(f"echo canary >/dev/udp/{ELSEWHERE}/4000")
    wait_until_seen(world, model, 4000)
    model.machine.run(
        "docker run --rm --name vm-plain node/wireguard:0.1.0"
        f" bash -c 'echo canary >/dev/udp/{ELSEWHERE}/4001'"
    )
    wait_until_seen(world, model, 4001)
    sent = [frame for frame in watch.unlawful(model) if frame.is_sent]  # the gateway refuses both
    assert {frame.target_port for frame in sent} == {4000, 4001}, "\n".join(map(str, sent))


def send_from_everywhere(node: Node) -> None:
    """UDP, TCP and a route of one's own making, as the host's root inside each namespace."""
    tries = (
        f"for port in 53 443 4002; do echo canary >/dev/udp/{ELSEWHERE}/$port; done;"
        f'timeout 1 bash -c "echo canary >/dev/tcp/{ELSEWHERE}/443";'
        f"ip route add default dev wg0; echo canary >/dev/udp/{ELSEWHERE}/4003;"
        f"ip route del default dev wg0; echo tried"
    )
    done = node.machine.attempt(in_namespaces(node, node.plan.services, tries))
    assert done.out.split() == ["tried"] * len(node.plan.services), done.err


def wait_until_seen(world: World, node: Node, port: int) -> None:
    def is_seen() -> bool:
        return any(
            frame.is_sent and frame.target == ELSEWHERE and frame.target_port == port
            for frame in world.capture.frames[node.plan.tap]
        )

    wait_until(is_seen, "control: the capture sees what leaves", world, PATIENCE_SECONDS)


# Faults


@pytest.mark.parametrize("turn", rounds(DEATHS))
def test_death_of_docker_heals(world: World, user: TelegramUser, turn: str) -> None:
    """Both daemons end or are killed; within 90 s, without a hand, all is as before."""
    for node in world.nodes:
        wait_until_whole(node, world)
        wait_until(
            lambda: has_run_for(node, 11),  # noqa: B023  # within the round
            "all is up for over 10 s",
            world,
            PATIENCE_SECONDS,
            is_cheap=False,
        )
    daemons = {node: node.machine.run("cat /run/docker.pid").strip() for node in world.nodes}
    text = f"Docker dies in round {turn}"

    for node, daemon in daemons.items():
        node.machine.run(f"kill -{turn.partition('-')[2]} {daemon}")
    began = time.monotonic()
    said = user.say(text)

    # First what is seen from outside: each look into a machine costs it time.
    wait_until(lambda: is_answered(user, said, text), "it is answered", world, PATIENCE_SECONDS)
    answered = time.monotonic() - began
    whole: dict[str, float] = {}
    for node, daemon in daemons.items():
        wait_until(
            lambda: has_another_daemon(node, daemon) and node.is_whole(),  # noqa: B023  # as above
            f"the {node} node is whole",
            world,
            PATIENCE_SECONDS,
            is_cheap=False,
        )
        whole[str(node)] = time.monotonic() - began
    times = ", ".join(f"{name} whole after {seconds:.0f} s" for name, seconds in whole.items())
    report(f"both daemons, round {turn}: answered after {answered:.0f} s, {times}")
    longest = max(*whole.values(), answered)
    assert longest <= limit(HEAL_AFTER_DAEMON_SECONDS, world, began), journals(world)


def has_run_for(node: Node, seconds: int) -> bool:
    """No container of the node has been started more recently: then Docker's pauses are short."""
    states = node.states()
    assert states is not None
    now = int(node.machine.run("date +%s"))
    return now - max(to_seconds(state.started_at) for state in states.values()) >= seconds


def to_seconds(docker_time: str) -> float:
    return datetime.fromisoformat(docker_time[:19] + "+00:00").timestamp()


def has_another_daemon(node: Node, old: str) -> bool:
    found = node.machine.ask(
        f"curl --silent --fail --max-time 20 --unix-socket {SOCKET} http://docker/_ping >/dev/null"
        " && cat /run/docker.pid"
    )
    return found is not None and found.strip() != old


@pytest.mark.parametrize("turn", rounds(REBOOTS))
def test_reboot_heals(world: World, user: TelegramUser, turn: str) -> None:
    """A message that is sent while a machine is down is answered within 180 s of its boot.

    What the operator had stopped before a reboot comes back with the machine.
    """
    how = turn.partition("-")[2]
    for node in world.nodes:
        wait_until_whole(node, world)
    text = f"Said in round {turn}"

    if how == "reboot":
        stop(world.model)
        before = {node: node.machine.console.stat().st_size for node in world.nodes}
        for node in world.nodes:
            node.machine.tell("systemctl --no-block reboot")
        for node in world.nodes:
            wait_until(
                lambda: b"Restarting system" in node.machine.console.read_bytes()[before[node] :],  # noqa: B023  # within the round
                "the system is down",
                world,
                PATIENCE_SECONDS,
            )
        said = user.say(text)
    else:
        for node in world.nodes:
            node.machine.pull_plug()
        said = user.say(text)
        for node in world.nodes:
            node.machine.power_on(world.namespace.enter)

    began = time.monotonic()
    at_once(lambda node: node.machine.wait_until_up(PATIENCE_SECONDS), world.nodes)
    wait_until(lambda: is_answered(user, said, text), "it is answered", world, PATIENCE_SECONDS)
    answered = {str(node): node.machine.uptime() for node in world.nodes}
    whole: dict[str, float] = {}
    for node in world.nodes:
        wait_until_whole(node, world)
        whole[str(node)] = node.machine.uptime()
    for name, seconds in answered.items():
        report(
            f"round {turn}, {name}: answered {seconds:.0f} s, whole {whole[name]:.0f} s of uptime"
        )
    longest = max(*answered.values(), *whole.values())
    assert longest <= limit(HEAL_AFTER_BOOT_SECONDS, world, began), journals(world)
    for node in world.nodes:
        wait_until(
            lambda: timer_of(node) == "active",  # noqa: B023  # within the round
            "the timer looks after the node again",
            world,
            PATIENCE_SECONDS,
            is_cheap=False,
        )


def stop(node: Node) -> None:
    """`systemctl stop` stops the containers, and the timer lets them be."""
    node.machine.run(f"systemctl stop node@{node}", seconds=PATIENCE_SECONDS)
    states = node.states()
    assert states is not None
    assert {state.status for state in states.values()} == {"exited"}
    assert timer_of(node) == "inactive"


def timer_of(node: Node) -> str:
    """In which state systemd has the timer that looks after the node."""
    return node.machine.attempt(f"systemctl is-active node-reconcile@{node}.timer").out.strip()


# The operator's own


def test_shutdown_is_silent(world: World, watch: Watch) -> None:
    """Both machines shut down in order; until the power is off, nothing but the tunnel is seen."""
    watch.assert_silence()
    for node in world.nodes:
        node.machine.tell("systemctl --no-block poweroff")

    for node in world.nodes:
        wait_until(lambda: not node.machine.is_on, "the power is off", world, PATIENCE_SECONDS)  # noqa: B023  # within the round
