"""The instruments themselves: they see, they tell what they missed, they let little pass."""

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from python_on_whales import DockerClient

from tests.integration.lab import Lab, wait_until
from tests.leaks.capture import ARP, IPV4, IPV6, Frame, Tap
from tests.leaks.guard import Guard
from tests.leaks.hostile import query, udp4
from tests.leaks.scan import SYN, sender, tcp4, tcp6, who_has
from tests.leaks.wire import Wire, bridge_of, docker_says
from tests.leaks.world import CONTROL_SUBNET, GUARDED_SUBNET, SUBNET, Control

EVERYBODY = b"\xff" * 6


@contextmanager
def cable(name: str = "leaks-cable") -> Iterator[str]:
    """An interface of the host that leads nowhere."""
    subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
    make = ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-2"]
    subprocess.run(make, check=True)
    try:
        for end in (name, f"{name}-2"):
            subprocess.run(["ip", "link", "set", end, "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


def test_outside_capture_sees_what_concerns_the_tests() -> None:
    """C1: test addresses, the tunnel's, IPv6 of the tests, canaries to name servers; no more."""
    marked = query("leakcanary-dns-udp-x.example.org", 1)
    concerning = [
        (IPV4, udp4(f"{SUBNET}.30", "198.19.0.9", 9, b"x")),
        (IPV4, udp4("198.19.0.9", f"{SUBNET}.30", 9, b"x")),
        (IPV4, udp4("10.66.0.2", "198.19.0.9", 9, b"x")),
        (IPV4, udp4("198.51.100.7", "203.0.113.9", 53, marked)),
    ]
    others = [
        (IPV4, udp4("198.51.100.7", "203.0.113.9", 53, query("example.org", 1))),
        (IPV4, udp4("198.51.100.7", "203.0.113.9", 9, b"x")),
        (IPV6, tcp6("fe80::1", "fe80::2", 9)),
    ]
    with cable() as name:
        wire = Wire("leaks-no-bridge", SUBNET)
        try:
            sender(name, EVERYBODY, [*others, *concerning])()
            wire.settle()
            seen = [frame.data for frame in wire.frames if frame.is_outgoing]
        finally:
            wire.close()

    assert seen == [packet for _, packet in concerning]


def test_lost_frames_are_counted() -> None:
    """A capture that does not keep up says so."""
    frames = [(IPV4, udp4(f"{SUBNET}.30", "198.19.0.9", 9, bytes(1000)))] * 2000
    with cable() as name:
        tap = Tap(lambda _: time.sleep(0.01), interface=name, buffer_bytes=1 << 16)
        try:
            sender(name, EVERYBODY, frames)()
            assert tap.lost() > 0
        finally:
            tap.close()


def test_guard_counts_what_would_leave(
    docker: DockerClient, guard: Guard, control: Control
) -> None:
    """A packet from a test network to another one is dropped and counted."""
    with Lab(docker, "leaks-guarded", GUARDED_SUBNET) as lab:
        guard.count_as_control(bridge_of(lab.name))
        before = guard.controlled()
        way = [f"{GUARDED_SUBNET}.0/24", "via", f"{CONTROL_SUBNET}.1"]
        docker_says("exec", control.plain, "ip", "route", "replace", *way)

        docker_says("exec", control.plain, "ping", "-c1", "-W1", "-q", f"{CONTROL_SUBNET}.1")
        subprocess.run(
            ["docker", "exec", control.plain, "ping", "-c2", "-W1", f"{GUARDED_SUBNET}.9"],
            capture_output=True,
            check=False,
        )

        wait_until(lambda: guard.controlled() > before, "the guard has counted", 5)


HANDSHAKE = b"\1\0\0\0" + bytes(144)


def udp(source: str, target: str, ports: tuple[int, int], payload: bytes, offset: int = 0) -> bytes:
    packet = udp4(f"{SUBNET}.{source}", f"{SUBNET}.{target}", 1, payload, offset)
    return packet[:20] + struct.pack("!HH", *ports) + packet[24:]


def tcp(source: str, target: str, port: int) -> bytes:
    return tcp4(f"{SUBNET}.{source}", f"{SUBNET}.{target}", port, SYN)


@pytest.fixture(scope="module")
def judge() -> Iterator[Wire]:
    wire = Wire("leaks-no-bridge", SUBNET)
    yield wire
    wire.close()


@pytest.mark.parametrize(
    ("ethertype", "packet", "permitted", "why"),
    [
        (IPV4, udp("30", "10", (40000, 51820), HANDSHAKE), True, "the tunnel, dialling"),
        (IPV4, udp("10", "30", (51820, 40000), HANDSHAKE), True, "the tunnel, answering"),
        (IPV4, udp("30", "10", (1, 1), bytes(64), 185), True, "a later part of a datagram"),
        (IPV4, udp("30", "10", (40000, 51820), b"plain text"), False, "not WireGuard"),
        (IPV4, udp("30", "10", (40000, 51820), HANDSHAKE + b"leakcanary"), False, "a canary"),
        (IPV4, udp("30", "10", (40000, 51821), HANDSHAKE), False, "another port"),
        (IPV4, udp("30", "11", (40000, 51820), HANDSHAKE), False, "another machine"),
        (IPV4, udp("11", "10", (40000, 51820), HANDSHAKE), False, "not an end of the tunnel"),
        (IPV4, udp("30", "99", (51820, 51820), HANDSHAKE), False, "not an end of the tunnel"),
        (IPV4, udp("30", "99", (1, 1), bytes(64), 185), False, "a part for somebody else"),
        (IPV4, tcp("30", "10", 51820), False, "TCP"),
        (IPV4, tcp("11", "20", 443), True, "Telegram"),
        (IPV4, tcp("11", "20", 80), False, "Telegram, another port"),
        (IPV4, tcp("30", "20", 443), False, "Telegram, from the model node"),
        (IPV4, tcp("11", "53", 53), False, "the resolver by TCP"),
        (IPV4, udp("11", "53", (4, 53), query("api.telegram.org", 1)), True, "the one name"),
        (IPV4, udp("11", "53", (4, 53), query("x.api.telegram.org", 1)), False, "a longer name"),
        (IPV4, udp("11", "53", (4, 53), query("telegram.org", 1)), False, "another name"),
        (IPV4, udp("11", "53", (4, 53), b"no query"), False, "no query"),
        (IPV4, udp("30", "53", (4, 53), query("api.telegram.org", 1)), False, "not the egress"),
        (IPV6, tcp6("fe80::1", "fe80::2", 443), False, "IPv6"),
        (ARP, who_has(f"{SUBNET}.10", bytes(6), f"{SUBNET}.30")[1], True, "ARP"),
        (0x88CC, b"\2\7\4", False, "an ethertype"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pass0_is_narrow(
    judge: Wire, ethertype: int, packet: bytes, permitted: bool, why: str
) -> None:
    """What counts as no leak is this and nothing else."""
    has_canary = b"leakcanary" in packet
    frame = Frame(0, "veth", ethertype, False, False, packet, has_canary)
    tagged = Frame(0, "veth", ethertype, True, False, packet, has_canary)

    with judge.watch() as watch:
        judge.judge(frame)
        judge.judge(tagged)

    assert (watch.passed == 1) is permitted, why
    assert watch.leaks == ([tagged] if permitted else [frame, tagged])


def test_vlan_tag_is_seen() -> None:
    """The kernel takes a tag off before it hands a frame over; the capture still tells."""
    inner = udp4(f"{SUBNET}.30", f"{SUBNET}.10", 51820, HANDSHAKE)
    tag = EVERYBODY + b"\2\0\0\0\0\1" + struct.pack("!HHH", 0x8100, 7, IPV4)
    seen: list[Frame] = []
    with cable() as name:
        tap = Tap(seen.append, interface=f"{name}-2", with_outgoing=False)
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
                sock.sendto(tag + inner, (name, 0))
            sender(name, EVERYBODY, [(IPV4, inner)])()
            tap.settle()
        finally:
            tap.close()

    assert [frame.is_vlan for frame in seen if frame.data.endswith(inner)] == [True, False]
