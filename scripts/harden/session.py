"""Owns who calls: over which SSH connection, when that began, or at the console."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.harden.host import Host, Refused

CONSOLES = re.compile(r"/dev/(tty[0-9]+|ttyS[0-9]+|ttyAMA[0-9]+|hvc[0-9]+|console)")
SERVERS = ("sshd", "dropbear")
ON_ITS_WAY = b"SSH_CONNECTION="


@dataclass(frozen=True)
class Session:
    """An SSH connection."""

    address: str
    """Where it comes from."""
    port: int
    """Of this host's, which it came in by."""
    began: float | None
    """In clock ticks since the kernel started; None where that cannot be seen (tmux, screen)."""


@dataclass(frozen=True)
class Process:
    """What is known of one, from its own folder in /proc."""

    number: int
    parent: int
    name: str
    began: float


def ticks() -> int:
    """Clock ticks in a second."""
    return os.sysconf("SC_CLK_TCK")


def session_of(host: Host, process: int) -> Session | None:
    """The connection that a process came over, also behind sudo; None if there is none.

    What counts is the process of sshd, of which each connection has one: several logins over one
    shared connection are that one.
    """
    found: tuple[Process, str] | None = None
    above = list(ancestors(host, process))
    for it in above:
        if value := connection(host, it.number):
            found = it, value
    if found is None:
        return None
    first, value = found
    # Else it has only inherited the name of a connection, which may be the old one.
    servers = (it for it in above if it.number == first.parent and it.name.startswith(SERVERS))
    server = next(servers, None)
    address, _, _, port = value.split()
    return Session(address, int(port), server.began if server else None)


def ancestors(host: Host, process: int) -> Iterator[Process]:
    """A process, its parent, and so on."""
    while process > 0:
        text = host.read(f"/proc/{process}/stat")
        if not text:
            return
        name = text[text.index("(") + 1 : text.rindex(")")]
        fields = text[text.rindex(")") + 2 :].split()
        it = Process(process, int(fields[1]), name, float(fields[19]))
        yield it
        process = it.parent


def connection(host: Host, process: int) -> str:
    """Its SSH_CONNECTION: the caller's address and port, and this host's."""
    try:
        entries = host.path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    for entry in entries:
        if entry.startswith(ON_ITS_WAY):
            value = entry.removeprefix(ON_ITS_WAY).decode(errors="replace").strip()
            return value if re.fullmatch(r"\S+ [0-9]+ \S+ [0-9]+", value) else ""
    return ""


def is_on_console(host: Host) -> bool:
    """Whether somebody sits at this machine, or at its serial port."""
    try:
        return CONSOLES.fullmatch(os.ttyname(0)) is not None
    except (OSError, Refused):
        return False
