"""Owns floods: UDP that looks like WireGuard's, at a rate, from one address or from very many.

Runs in the image `peer`, which has Python's standard library alone:

    flood.py one ADDRESS PORT RATE                      from this container's own address
    flood.py many ADDRESS PORT RATE INTERFACE MAC SOURCES  out of an interface, as so many strangers

It says each second how much it has sent, and ends after two minutes at the latest.
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
        case ["one", address, port, rate]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.connect((address, int(port)))
                flood(sender.send, itertools.repeat(INITIATION), int(rate))
        case ["many", address, port, rate, interface, mac, sources]:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind((interface, 0))
                frames = list(spoofed(address, int(port), interface, mac, int(sources)))
                flood(sender.send, itertools.cycle(frames), int(rate))


def flood(send: Callable[[bytes], int], packets: Iterator[bytes], rate: int) -> None:
    begun = told = time.monotonic()
    sent = 0
    while (now := time.monotonic()) - begun < LONGEST_SECONDS:
        for _ in range(max(0, min(1000, int((now - begun) * rate) - sent))):
            with contextlib.suppress(OSError):  # a full queue is no reason to stop
                send(next(packets))
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
