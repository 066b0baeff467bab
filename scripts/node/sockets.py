"""Owns the reading of the host's open sockets and of the processes that hold them."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from dataclasses import dataclass
from pathlib import Path

LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


@dataclass(frozen=True)
class Socket:
    """One socket that others can reach, or that reads packets."""

    protocol: str
    """tcp, udp, raw or packet."""
    address: str
    port: int
    process: str
    """The name of a process that holds it; empty where that cannot be seen."""

    @property
    def is_loopback(self) -> bool:
        return bool(self.address) and ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        who = f"`{self.process}`" if self.process else "a process that cannot be seen from here"
        if self.protocol == "packet":
            return f"a packet socket, which reads along ({who})"
        if self.protocol == "raw":
            return f"a raw socket ({who})"
        place = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.protocol} {place}:{self.port} ({who})"


def open_sockets(proc: Path) -> list[Socket]:
    """Sockets of the host's namespace that wait for somebody. Raises OSError."""
    holders = processes_by_socket(proc)
    found: list[Socket] = []
    for table, state in LISTENING.items():
        for words in rows(proc / "1/net" / table, proc / "self/net" / table):
            if words[3] == state:
                address, _, port = words[1].partition(":")
                process = holders.get(words[9], "")
                found.append(Socket(table.rstrip("6"), readable(address), int(port, 16), process))
    for table in ("raw", "raw6"):
        found += [
            Socket("raw", readable(words[1].partition(":")[0]), 0, holders.get(words[9], ""))
            for words in rows(proc / "1/net" / table, proc / "self/net" / table)
        ]
    found += [
        Socket("packet", "", 0, holders.get(words[8], ""))
        for words in rows(proc / "1/net/packet", proc / "self/net/packet")
    ]
    return found


def rows(*tables: Path) -> list[list[str]]:
    """The rows of the first table that this user may read, as words, without their heading."""
    for table in tables:
        with contextlib.suppress(PermissionError, FileNotFoundError):
            return [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    return []


def readable(address: str) -> str:
    """The kernel's hexadecimal address, which is in words of the machine's own byte order."""
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    return str(ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words)))


def processes_by_socket(proc: Path) -> dict[str, str]:
    """Names of processes by the inode of each socket that they hold, as far as this user sees."""
    found: dict[str, str] = {}
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(descriptor.readlink())
                    if target.startswith("socket:["):
                        found.setdefault(target[8:-1], name)
    return found
