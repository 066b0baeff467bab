"""Plays the world around a network namespace: runs inside it, makes its interfaces, sees all.

Whoever controls the far side of a TUN or TAP device is the whole world behind that interface, so
no packet of a test ever exists outside this process and the namespace. Python's standard library
alone; started by `Player`, one JSON object a line in each direction.
"""

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP, IFF_NO_PI = 1, 2, 0x1000
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
PROTOCOLS = (1, 6, 17, 253)  # ICMP, TCP, UDP, and one that nobody knows
SETTLE_SECONDS = 0.02
PATIENCE_SECONDS = 0.4


class World:
    """Devices whose far side is held here, and sockets that hear what the rules let in."""

    def __init__(self) -> None:
        self.devices: dict[str, int] = {}
        self.has_frames: set[str] = set()
        self.listeners: list[socket.socket] = []
        self.ears: list[socket.socket] = []
        self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        for family, protocols in ((socket.AF_INET, PROTOCOLS), (socket.AF_INET6, PROTOCOLS[1:])):
            for protocol in protocols:
                ear = socket.socket(family, socket.SOCK_RAW, protocol)
                ear.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
                ear.setblocking(False)
                self.ears.append(ear)
        self.arrived: set[bytes] = set()
        """The bodies (what follows the IP header) of all that came in past the rules."""
        self.left: list[tuple[str, bytes]] = []
        """What went out, by device: packets of a TUN device, frames of a TAP device."""

    def make_device(self, name: str, *, frames: bool) -> None:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        kind = (IFF_TAP if frames else IFF_TUN) | IFF_NO_PI
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", name.encode(), kind))
        self.devices[name] = device
        if frames:
            self.has_frames.add(name)

    def rename(self, old: str, new: str) -> None:
        """The namespace calls a device otherwise by now."""
        self.devices[new] = self.devices.pop(old)

    def listen(self, port: int) -> None:
        """Answer TCP calls on this port of every address, as far as the kernel does by itself."""
        listener = socket.create_server(("", port))
        self.listeners.append(listener)

    def play(self, steps: list[list[str]], expected: list[int]) -> list[bool]:
        """Take steps in order; say of each whether its packet was seen where it was meant to go.

        Steps: `in DEVICE HEX` (from outside), `out DEVICE HEX` (a raw socket's packet through this
        interface), `wire DEVICE HEX` (a packet socket's frame, which is a mere packet for a TUN
        device; `wire0806` claims that it is ARP), `through DEVICE HEX` (from outside, meant to
        leave again), `answer DEVICE HEX` (nothing is sent: did a packet leave whose body begins
        so?). Waits for those that are expected to be seen.
        """
        self._look()
        self.arrived.clear()
        self.left.clear()
        packets = [bytes.fromhex(packet) for _, _, packet in steps]
        for (how, device, _), packet in zip(steps, packets, strict=True):
            self._send(how, device, packet)
            self._look()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            seen = [
                self._is_seen(how, device, packet)
                for (how, device, _), packet in zip(steps, packets, strict=True)
            ]
            if all(seen[index] for index in expected) or time.monotonic() > deadline:
                break
            time.sleep(0.005)
            self._look()
        time.sleep(SETTLE_SECONDS)
        self._look()
        return [
            self._is_seen(how, device, packet)
            for (how, device, _), packet in zip(steps, packets, strict=True)
        ]

    def flood(self, device: str, packets: list[str], times: int) -> int:
        """Send packets from outside, all of them so many times; how many got past the rules."""
        self._look()
        count = 0
        for number in range(times):
            for position, packet in enumerate(packets):
                os.write(self.devices[device], bytes.fromhex(packet))
                if position % 32 == 31:
                    count += self._hear()
            if number % 16 == 15:
                count += self._hear()
        time.sleep(SETTLE_SECONDS)
        return count + self._hear()

    def say(self, device: str, packets: list[str]) -> None:
        """Send packets from inside, whatever becomes of them."""
        for packet in packets:
            self._send("out", device, bytes.fromhex(packet))
            self._look()

    def _send(self, how: str, device: str, packet: bytes) -> None:
        version = packet[0] >> 4 if packet else 0
        with contextlib.suppress(OSError):  # refused to the sender: then it is not seen either
            if how in ("in", "through"):
                os.write(self.devices[device], packet)
            elif how.startswith("wire"):
                # The sender says what protocol it is, and may lie.
                claimed = int(how[4:], 16) if how[4:] else self._protocol(device, packet)
                self.wire.sendto(packet, (device, claimed))
            elif how == "out":
                family = socket.AF_INET if version == 4 else socket.AF_INET6
                target = socket.inet_ntop(family, packet[16:20] if version == 4 else packet[24:40])
                with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
                    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
                    sender.sendto(packet, (target, 0))

    def _look(self) -> None:
        self._hear()
        for name, device in self.devices.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.left.append((name, os.read(device, 65536)))

    def _hear(self) -> int:
        count = 0
        for ear in self.ears:
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet = ear.recv(65536)
                    # A raw IPv6 socket gives no header.
                    is_whole = ear.family == socket.AF_INET
                    self.arrived.add(packet[(packet[0] & 15) * 4 :] if is_whole else packet)
                    count += 1
        return count

    def _is_seen(self, how: str, device: str, packet: bytes) -> bool:
        if how.startswith("wire"):
            return any(name == device and sent == packet for name, sent in self.left)
        if how == "answer":
            return any(
                name == device and self._body(name, sent).startswith(packet)
                for name, sent in self.left
            )
        is_coming = how in ("in", "through")
        body = self._body(device, packet) if is_coming else _body_of(packet)
        if how == "in" or device == "lo":
            return body in self.arrived
        return any(self._body(name, sent) == body for name, sent in self.left)

    def _protocol(self, device: str, packet: bytes) -> int:
        if device in self.has_frames:
            return int.from_bytes(packet[12:14], "big")
        return 0x0800 if packet[0] >> 4 == 4 else 0x86DD

    def _body(self, device: str, sent: bytes) -> bytes:
        return _body_of(sent[14:] if device in self.has_frames else sent)


def _body_of(packet: bytes) -> bytes:
    if not packet:
        return b""
    return packet[40:] if packet[0] >> 4 == 6 else packet[(packet[0] & 15) * 4 :]


def run(argv: list[str], text: str) -> list[int | str]:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    return [done.returncode, done.stdout, done.stderr]


def main() -> None:
    world = World()
    actions: dict[str, Callable[..., object]] = {
        "make_device": world.make_device,
        "rename": world.rename,
        "listen": world.listen,
        "play": world.play,
        "flood": world.flood,
        "say": world.say,
        "left": lambda: [[name, packet.hex()] for name, packet in world.left],
        "run": run,
    }
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"result": actions[order["action"]](*order["args"], **order["kwargs"])}
        except (OSError, KeyError, TypeError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
