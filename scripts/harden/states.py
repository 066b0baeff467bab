"""Owns the states of a host that are no files, each read and set as a text that can be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.harden.host import Failed, Host


@dataclass(frozen=True)
class State:
    """One state as it shall be."""

    kind: str
    """One of KINDS."""
    name: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def read(host: Host, kind: str, name: str) -> str:
    return KINDS[kind][0](host, name)


def put(host: Host, kind: str, name: str, value: str) -> None:
    """Raises Failed."""
    KINDS[kind][1](host, name, value)


def read_sysctl(host: Host, name: str) -> str:
    try:
        return " ".join(sysctl_path(host, name).read_text(encoding="utf-8").split())
    except OSError:
        return ""


def put_sysctl(host: Host, name: str, value: str) -> None:
    try:
        sysctl_path(host, name).write_text(value + "\n", encoding="utf-8")
    except OSError as error:
        raise Failed(f"the kernel does not take {name}={value} ({error.strerror})") from None


def sysctl_path(host: Host, name: str) -> Path:
    return host.path("/proc/sys/" + name.replace(".", "/"))


def read_enabled(host: Host, name: str) -> str:
    """`enabled`, `disabled`, `masked`, `static`, … as systemd says it; nothing for no such unit."""
    return host.run("systemctl", "is-enabled", name).out.strip()


def put_enabled(host: Host, name: str, value: str) -> None:
    if value == "masked":
        host.do("systemctl", "mask", name)
        return
    host.run("systemctl", "unmask", name)
    # What is to be no unit at all again must not leave a link behind.
    host.do("systemctl", "enable" if value == "enabled" else "disable", name)


def read_active(host: Host, name: str) -> str:
    """`active`, or `inactive` for everything else."""
    said = host.run("systemctl", "is-active", name).out.strip()
    return said if said == "active" else "inactive"


def put_active(host: Host, name: str, value: str) -> None:
    host.do("systemctl", "start" if value == "active" else "stop", name)


def read_table(host: Host, name: str) -> str:
    """A table of the kernel's rules without its counters, nothing where there is none."""
    said = host.run("nft", "--stateless", "list", "table", *name.split())
    return said.out if said.code == 0 else ""


def put_table(host: Host, name: str, value: str) -> None:
    """All or nothing, and this table alone: Docker's own stay as they are."""
    host.do("nft", "-f", "-", stdin=f"table {name}\ndelete table {name}\n{value}")


def read_swap(host: Host, name: str) -> str:
    """Where the kernel swaps to, one a line."""
    lines = host.read("/proc/swaps").splitlines()[1:]
    return "\n".join(sorted(line.split()[0] for line in lines if line.strip()))


def put_swap(host: Host, name: str, value: str) -> None:
    now, wanted = set(read_swap(host, name).split()), set(value.split())
    for place in sorted(now - wanted):
        host.do("swapoff", place)
    for place in sorted(wanted - now):
        host.do("swapon", place)


Read = Callable[[Host, str], str]
Put = Callable[[Host, str, str], None]
KINDS: dict[str, tuple[Read, Put]] = {
    "sysctl": (read_sysctl, put_sysctl),
    "at boot": (read_enabled, put_enabled),
    "unit": (read_active, put_active),
    "rules": (read_table, put_table),
    "swap": (read_swap, put_swap),
}
