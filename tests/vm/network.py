"""Owns the network that both machines are on, what is seen on it, and what strangers do there.

It is the namespace of the stub Bot API server, which has no network of Docker's: a bridge with one
port for each machine, addresses for the stubs, and no way out. Captures are taken at the ports,
outside the machines, from before they have power.
"""

import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.entering import do_in_namespace

T = TypeVar("T")

BRIDGE = "vm-bridge"
ETH_P_ALL = 3
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_STATISTICS = 263, 6
SILENCE_IPV6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, TCP, UDP = 1, 6, 17


class Namespace:
    """A network namespace, entered by a thread or by a process."""

    def __init__(self, pid: int) -> None:
        self.path = f"/proc/{pid}/ns/net"
        self._file = os.open(self.path, os.O_RDONLY)

    def close(self) -> None:
        os.close(self._file)

    @property
    def enter(self) -> list[str]:
        """The command that starts another one in here."""
        return ["nsenter", f"--net={self.path}"]

    def ip(self, *arguments: str, tool: str = "ip") -> str:
        return subprocess.run(
            [*self.enter, tool, *arguments], capture_output=True, text=True, check=True
        ).stdout

    def do(self, work: Callable[[], T]) -> T:
        """Call something in here."""
        return do_in_namespace(self._file, work)


def lay_network(namespace: Namespace, addresses: Iterable[str], ports: dict[str, str]) -> None:
    """A bridge with addresses of its own, and one tap for each machine; `ports` maps tap to MAC."""
    ip = namespace.ip
    # What comes first: a bridge and its ports would announce themselves in IPv6.
    namespace.do(lambda: Path(SILENCE_IPV6).write_text("1", encoding="ascii"))
    ip("link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0")
    for address in addresses:
        ip("address", "add", f"{address}/24", "dev", BRIDGE)
    for tap, mac in ports.items():
        ip("tuntap", "add", "dev", tap, "mode", "tap")
        ip("link", "set", tap, "master", BRIDGE, "up")
        # Known from the start, so that nothing meant for one machine is shown to the other.
        ip("fdb", "add", mac, "dev", tap, "master", "static", tool="bridge")
    ip("link", "set", BRIDGE, "up")


@dataclass(frozen=True)
class Frame:
    """One frame at a machine's port."""

    at: float
    is_sent: bool
    """By the machine; otherwise it goes to it."""
    kind: int
    protocol: int
    source: str
    source_port: int
    target: str
    target_port: int
    payload: bytes
    """What comes after the UDP header; elsewhere what comes after the IP header."""
    raw: bytes

    def __str__(self) -> str:
        way = "sent" if self.is_sent else "received"
        name = {ARP: "ARP", IPV4: "IPv4", IPV6: "IPv6"}.get(self.kind, f"type {self.kind:#06x}")
        inner = {ICMP: " ICMP", TCP: " TCP", UDP: " UDP"}.get(self.protocol, f" {self.protocol}")
        ends = f"{self.source}:{self.source_port} > {self.target}:{self.target_port}"
        return f"{way} {name}{inner if self.kind == IPV4 else ''} {ends} {self.raw[:80].hex()}"


def read_frame(raw: bytes, is_sent: bool, at: float) -> Frame:
    """Understand as much of a frame as the rules of the tests speak of."""
    kind = int.from_bytes(raw[12:14], "big")
    protocol, source, target, ports, payload = 0, "", "", (0, 0), raw[14:]
    if kind == ARP and len(raw) >= 42:
        source, target = socket.inet_ntoa(raw[28:32]), socket.inet_ntoa(raw[38:42])
    elif kind == IPV4 and len(raw) >= 34:
        header = (raw[14] & 15) * 4
        protocol = raw[23]
        source, target = socket.inet_ntoa(raw[26:30]), socket.inet_ntoa(raw[30:34])
        payload = raw[14 + header :]
        is_later_fragment = int.from_bytes(raw[20:22], "big") & 0x1FFF
        if protocol in (TCP, UDP) and len(payload) >= 8 and not is_later_fragment:
            ports = struct.unpack("!HH", payload[:4])
            payload = payload[8:] if protocol == UDP else payload
    return Frame(at, is_sent, kind, protocol, source, ports[0], target, ports[1], payload, raw)


class Capture:
    """All that passes the ports of the machines, in memory and in files for a post-mortem."""

    def __init__(self, namespace: Namespace, taps: Sequence[str], folder: Path) -> None:
        self.frames: dict[str, list[Frame]] = {tap: [] for tap in taps}
        self._sockets = {tap: namespace.do(lambda tap=tap: _listen_to(tap)) for tap in taps}  # type: ignore[misc]  # a lambda's default
        self._files = {tap: (folder / f"{tap}.pcap").open("wb") for tap in taps}
        for file in self._files.values():
            file.write(struct.pack("!IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        self._ends = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ends = True
        self._thread.join()
        for socket_ in self._sockets.values():
            socket_.close()
        for file in self._files.values():
            file.close()

    def lost(self) -> int:
        """Frames that the kernel could not keep for us since this was last asked."""
        total = 0
        for socket_ in self._sockets.values():
            _, drops = struct.unpack("II", socket_.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            total += drops
        return total

    def _read(self) -> None:
        while not self._ends:
            ready, _, _ = select.select(list(self._sockets.values()), [], [], 0.2)
            for tap, socket_ in self._sockets.items():
                if socket_ in ready:
                    raw, address = socket_.recvfrom(1 << 17)
                    now = time.time()
                    self.frames[tap].append(read_frame(raw, address[2] != PACKET_OUTGOING, now))
                    seconds, fraction = divmod(now, 1)
                    length = len(raw)
                    head = struct.pack("!IIII", int(seconds), int(fraction * 1e6), length, length)
                    self._files[tap].write(head + raw)


def _listen_to(tap: str) -> socket.socket:
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    listener.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
    listener.bind((tap, 0))
    return listener


# Strangers


def open_tcp_ports(
    namespace: Namespace, source: str, target: str, ports: Iterable[int], seconds: float
) -> list[int]:
    """Connect to all ports at once; which of them accept within the time."""

    def connect() -> list[int]:
        poller = select.epoll()
        waiting: dict[int, tuple[int, socket.socket]] = {}
        accepted: list[int] = []
        for port in ports:
            caller = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            caller.setblocking(False)
            caller.bind((source, 0))
            if caller.connect_ex((target, port)) == 0:
                accepted.append(port)
            poller.register(caller, select.EPOLLOUT)
            waiting[caller.fileno()] = (port, caller)
        deadline = time.monotonic() + seconds
        while waiting and (left := deadline - time.monotonic()) > 0:
            for number, _ in poller.poll(min(left, 0.5)):
                port, caller = waiting.pop(number)
                if caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    accepted.append(port)
                poller.unregister(number)
                caller.close()
        for _, caller in waiting.values():
            caller.close()
        return sorted(accepted)

    return namespace.do(connect)


def udp_answers(
    namespace: Namespace,
    source: str,
    target: str,
    ports: Iterable[int],
    payloads: Sequence[bytes],
    seconds: float,
) -> list[tuple[int, bytes]]:
    """Send each payload to each port; what comes back within the time, and from which port."""

    def ask() -> list[tuple[int, bytes]]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.bind((source, 0))
            for port in ports:
                for payload in payloads:
                    asker.sendto(payload, (target, port))
            answers: list[tuple[int, bytes]] = []
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                asker.settimeout(left)
                try:
                    answer, address = asker.recvfrom(65535)
                except TimeoutError:
                    break
                answers.append((address[1], answer))
            return answers

    return namespace.do(ask)


def ask_in_ipv6(namespace: Namespace, device: str) -> None:
    """What makes every IPv6 host on a link speak: an echo to all nodes, a query for listeners."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind((device, 0))
            for kind, body in ((128, b"\0\1\0\1knock"), (130, b"\0\x0a\0\0" + b"\0" * 20)):
                sender.send(_icmpv6_to_all_nodes(kind, body))

    namespace.do(send)


def _icmpv6_to_all_nodes(kind: int, body: bytes) -> bytes:
    source = socket.inet_pton(socket.AF_INET6, "fe80::5054:ff:fe00:99")
    target = socket.inet_pton(socket.AF_INET6, "ff02::1")
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = source + target + struct.pack("!II", len(message), 58)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + source + target
    ethernet = bytes.fromhex("333300000001") + bytes.fromhex("525400000099") + b"\x86\xdd"
    return ethernet + header + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
