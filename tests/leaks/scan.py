"""Owns what a neighbour of a node sends: greetings, questions and lies, frame by frame."""

import socket
import struct
import time
from collections.abc import Callable, Iterable

from tests.leaks.capture import ARP, IPV4, IPV6
from tests.leaks.hostile import checksum, udp4

SYN, SYN_ACK = 0x02, 0x12
PACE = 100
"""Frames between two pauses of a millisecond: a veth's queue holds a thousand."""

EVERY_PORT = range(1, 65536)
Frame = tuple[int, bytes]
"""Ethertype and what follows the Ethernet header."""


def tcp4(source: str, target: str, port: int, flags: int, source_port: int = 40_000) -> bytes:
    """A TCP segment without payload in an IPv4 packet."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    body = struct.pack("!HHIIBBHHH", source_port, port, 1, 1, 0x50, flags, 1024, 0, 0)
    check = checksum(addresses + struct.pack("!HH", 6, len(body)) + body)
    body = body[:16] + struct.pack("!H", check) + body[18:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, 6, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def echo4(source: str, target: str) -> bytes:
    """An ICMP echo request in an IPv4 packet."""
    body = struct.pack("!BBHHH", 8, 0, 0, 7, 7) + b"anybody there?"
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, 1, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def tcp6(source: str, target: str, port: int) -> bytes:
    """A TCP greeting in an IPv6 packet."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(
        socket.AF_INET6, target
    )
    body = struct.pack("!HHIIBBHHH", 40_000, port, 1, 0, 0x50, SYN, 1024, 0, 0)
    check = checksum(addresses + struct.pack("!IHBB", len(body), 0, 0, 6) + body)
    body = body[:16] + struct.pack("!H", check) + body[18:]
    return struct.pack("!IHBB", 6 << 28, len(body), 6, 64) + addresses + body


def who_has(address: str, mac: bytes, asker: str) -> Frame:
    """An ARP question."""
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, 1)
    question = mac + socket.inet_aton(asker) + bytes(6) + socket.inet_aton(address)
    return ARP, head + question


def port_scan(source: str, target: str, ports: Iterable[int] = EVERY_PORT) -> list[Frame]:
    """A TCP greeting and a datagram to each port."""
    return [
        (IPV4, packet)
        for port in ports
        for packet in (
            tcp4(source, target, port, SYN),
            udp4(source, target, port, b"anybody there?"),
        )
    ]


def port_scan6(source: str, target: str, ports: Iterable[int]) -> list[Frame]:
    return [(IPV6, tcp6(source, target, port)) for port in ports]


def sender(
    interface: str, mac: bytes, frames: Iterable[Frame], pace: int = PACE
) -> Callable[[], int]:
    """What puts frames onto an interface of the namespace that it is called in; says how many."""

    def send() -> int:
        sent = 0
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
            for ethertype, packet in frames:
                try:
                    sock.sendto(packet, (interface, ethertype, 0, 0, mac))
                except BlockingIOError:
                    time.sleep(0.01)
                    sock.sendto(packet, (interface, ethertype, 0, 0, mac))
                sent += 1
                if sent % pace == 0:
                    time.sleep(0.001)
        return sent

    return send
