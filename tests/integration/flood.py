"""Owns floods: UDP that looks like WireGuard's, at a rate, from one address or from very many.

Runs in the image `peer`, which has Python's standard library alone:

    flood.py one PORT RATE ADDRESS...                      from this container's own address
    flood.py many PORT RATE SOURCES ADDRESS/INTERFACE/MAC...  as so many strangers

Of several targets each gets half a second in turn, by the clock. It says each second how much it
has sent, and ends after two minutes at the latest.
"""

import contextlib
import itertools
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LONGEST_SECONDS = 120.0
INITIATION = b"\x01\0\0\0" + b"\x5a" * 144  # the right type and length, no valid authentication


def main(arguments: list[str]) -> None:
    match arguments:
        case ["one", port, rate, *addresses]:
            senders = [sender_of_one(address, int(port)) for address in addresses]
        case ["many", port, rate, sources, *targets]:
            senders = [sender_of_many(target, int(port), int(sources)) for target in targets]
    flood(senders, int(rate))


def sender_of_one(address: str, port: int) -> Callable[[], object]:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect((address, port))
    return lambda: sender.send(INITIATION)


def sender_of_many(target: str, port: int, sources: int) -> Callable[[], object]:
    address, interface, mac = target.split("/")
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((interface, 0))
    frames = itertools.cycle(list(spoofed(address, port, interface, mac, sources)))
    return lambda: sender.send(next(frames))


def flood(senders: list[Callable[[], object]], rate: int) -> None:
    begun = told = time.monotonic()
    sent = 0
    while (now := time.monotonic()) - begun < LONGEST_SECONDS:
        half_second = int(time.time() * 2)  # probe.py counts by the same
        send = senders[half_second % len(senders)]
        for _ in range(max(0, min(200, int((now - begun) * rate) - sent))):
            with contextlib.suppress(OSError):  # a full queue is no reason to stop
                send()
            sent += 1
        if now - told >= 1:
            told = now
            print(f"sent={sent}", flush=True)
        time.sleep(0.001)


def spoofed(address: str, port: int, interface: str, mac: str, sources: int) -> Iterator[bytes]:
    """Ethernet frames from 198.19.0.0/16, each from another address and port."""
    own = Path(f"/sys/class/net/{interface}/address").read_text(encoding="ascii").strip()
    ethernet = bytes.fromhex((mac + own).replace(":", "")) + b"\x08\0"
    udp_bytes = 8 + len(INITIATION)
    for number in range(sources):
        source = b"\xc6\x13" + struct.pack("!H", number + 1)
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + udp_bytes, 0, 0, 64, 17, 0)
        packet = header + source + socket.inet_aton(address)
        total = sum(struct.unpack("!10H", packet))
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        packet = packet[:10] + struct.pack("!H", checksum) + packet[12:]
        yield (
            ethernet
            + packet
            + struct.pack("!4H", 1024 + number % 60000, port, udp_bytes, 0)
            + INITIATION
        )


if __name__ == "__main__":
    main(sys.argv[1:])
