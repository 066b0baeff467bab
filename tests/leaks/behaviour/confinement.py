"""Says what each service must and must not be able to do, and judges what was tried in its place.

The places are written down here anew, by what an attacker inside would find, and not read from the
Compose files. `inmate` does the trying.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.leaks.behaviour import Finding

GUEST = 10099
"""The number of a user who has no business anywhere."""


@dataclass(frozen=True)
class Place:
    """What whoever runs in a service's place can do; everything else must fail."""

    user: tuple[int, int]
    tasks: int = 64
    memory_mib: int = 0
    """0: a model may take what the machine has."""
    powers: frozenset[str] = frozenset()
    rooms: Mapping[str, int] = field(default_factory=dict)
    """Where it can write, and how many KiB; 0: as much as the disk has."""
    executable: frozenset[str] = frozenset()
    """Where a program that it has written runs."""
    listable: frozenset[str] = frozenset()
    """Directories of others that it must be able to look into."""
    readable: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    reaches: frozenset[str] = frozenset()
    """The networks whose members it can call, as far as Docker is concerned; rules come on top."""
    interfaces: frozenset[str] = frozenset({"lo", "wg0"})
    speaks_ipv6: frozenset[str] = frozenset()
    binds_tunnel_address: bool = False
    in_namespace_of_holder: bool = False
    among_processes_of_holder: bool = False
    is_first_process: bool = False
    reaps: bool = False
    """Whether what dies in it must be cleared away by an init process."""
    carries_tunnel: bool = False
    """Whether it sends the tunnel's packets: routers may cut them, and no port is called closed."""
    opens_to_guests: frozenset[str] = frozenset()
    """Directories of its own that every user of the container may look into."""
    shared: frozenset[str] = frozenset()
    """Volumes that it may only read: no room for anybody, not even for root."""
    rooms_of_others: Mapping[str, int] = field(default_factory=dict)
    """Where another account of the same container writes: the one that the entrypoint becomes."""
    other: tuple[int, int] = (0, 0)
    """That account."""

    @property
    def all_rooms(self) -> dict[str, int]:
        return {**self.rooms, **self.rooms_of_others}


TWIN = "/twin"
"""Where each tmpfs is mounted once more, with the same options. Before 1.1.9 runc gave a tmpfs the
mode of the directory that the image has there, whatever its options said; images have /tmp."""

TMPFS = frozenset({"/tmp", "/run", "/cache"})
MODES_OF_IMAGE = frozenset({"/tmp", "/run"})
"""These are judged by their twins where it is a question of the mode."""


def judge_own(place: Place, report: Mapping[str, Any]) -> Iterator[Finding]:
    """What the service's own account could do."""

    def differs(check: str, key: str, expected: object) -> Iterator[Finding]:
        seen = report[key]
        seen = sorted(seen) if isinstance(seen, list) else seen
        if seen != (sorted(expected) if isinstance(expected, frozenset) else expected):
            yield Finding(check, str(seen))

    foreign = set(report["interfaces"]) - place.interfaces
    if foreign:
        yield Finding("sees an interface", str(sorted(foreign)))
    yield from differs("sends an IPv6 packet", "sends_ipv6", place.speaks_ipv6)
    yield from differs("calls members of these networks alone", "reaches", place.reaches)
    yield from differs("has these powers alone", "powers", place.powers)
    yield from differs("makes a system call that is filtered", "syscalls", frozenset())
    yield from differs("becomes root by a set-user-id program", "elevates", False)
    untwinned = {
        key: [directory for directory in report[key] if not directory.startswith(TWIN)]
        for key in ("writable", "executable")
    }
    twins = {TWIN + room for room in place.rooms if room in TMPFS}
    if silent := twins - set(report["writable"]):
        yield Finding("writes to its own tmpfs", f"not to {sorted(silent)}")
    report = {**report, **untwinned}
    yield from differs("writes here alone", "writable", frozenset(place.rooms))
    yield from differs("runs a program that it has written", "executable", place.executable)
    for directory, most_kib in place.rooms.items():
        written = report["room_kib"].get(directory, 0)
        if most_kib and not most_kib / 2 <= written <= most_kib:
            yield Finding(f"fills {directory}, which has {most_kib} KiB", f"{written} KiB")
    if missing := place.listable - set(report["listable"]):
        yield Finding("looks into what it shares", f"not into {sorted(missing)}")
    yield from differs("opens a mounted file for writing", "changeable", frozenset())
    if missing := place.readable - set(report["readable"]):
        yield Finding("reads what it is given", f"not {sorted(missing)}")
    yield from differs("reads these secrets alone", "secrets", place.secrets)
    if not place.reaches:
        yield from differs("knows a name server", "name_servers", frozenset())
    yield from differs("opens these devices alone", "devices", place.devices)
    yield from differs("takes more memory than its limit", "eats", False)
    if place.memory_mib and report["swap"] not in (0, None):
        yield Finding("has its memory swapped out", f"{report['swap']} bytes by the kernel's limit")
    if place.memory_mib and report["swap"] is None and report["has_swap"]:
        yield Finding("has its memory swapped out", "there is swap, and no limit that can be seen")
    if not place.tasks / 2 <= report["tasks"] <= place.tasks:
        yield Finding(f"starts no more than {place.tasks} tasks", str(report["tasks"]))
    yield from differs("leaves a core dump", "leaves_core", False)
    yield from differs("leaves dead processes", "leaves_zombies", False)
    if place.binds_tunnel_address:
        yield from differs("binds the tunnel's address before there is a tunnel", "binds", True)
    yield from differs("is in the holder's namespace", "sees_holder", place.in_namespace_of_holder)
    yield from _judge_processes(place, report)
    yield from differs("sees the host's shared memory", "sees_shared_memory", False)
    yield from differs("commands Docker", "commands_docker", False)
    yield from differs("runs as its own user and group", "user", sorted(place.user))


OF_HOLDER = re.compile(r"(awk|cat|grep|ip|mv|nft|sed|wg)( .*)?", re.DOTALL)
"""What the holder's scripts start for a moment: every program that they name."""
OF_TRIALS = re.compile(r"runc init|/usr/bin/su|(/twin)?/run/program-\d+( -u)?")
"""What the trial itself starts in cells that share one holder: no finding of any of them."""


def _judge_processes(place: Place, report: Mapping[str, Any]) -> Iterator[Finding]:
    first: str = report["first_process"]
    if place.is_first_process and "python3" not in first.split()[0]:
        yield Finding("is process 1, which keeps the namespace", f"process 1 is {first}")
    if place.among_processes_of_holder:
        if "sidecar" not in first:
            yield Finding("process 1 is the holder of the namespace", f"it is {first}")
        known = ("sidecar", "socat", "sleep", "bash")
        strangers = [
            other
            for other in report["others"]
            if not any(k in other for k in known)
            and not OF_HOLDER.fullmatch(other)
            and not OF_TRIALS.fullmatch(other)
        ]
    else:
        strangers = report["others"]
    if strangers:
        yield Finding("sees processes of others", "; ".join(strangers[:3]))


def judge_root(place: Place, report: Mapping[str, Any]) -> Iterator[Finding]:
    """What root could do in its place, were there no account of its own."""
    more = set(report["powers"]) - place.powers
    if more:
        yield Finding("root in its place has a power", str(sorted(more)))
    twins = {TWIN + directory for directory in place.rooms}
    foreign = set(report["writable"]) - set(place.rooms) - twins - MODES_OF_IMAGE
    if foreign:
        yield Finding("root in its place writes", str(sorted(foreign)))
    if report["commands_docker"]:
        yield Finding("root in its place commands Docker", "it does")
    if report["changeable"]:
        yield Finding("root in its place opens for writing", str(report["changeable"]))


def judge_guest(place: Place, report: Mapping[str, Any]) -> Iterator[Finding]:
    """What a user could do there who has no business there."""
    for check, seen in (
        ("a foreign user has a power", report["powers"]),
        ("a foreign user becomes root by a set-user-id program", report["elevates"]),
        ("a foreign user writes", sorted(set(report["writable"]) - MODES_OF_IMAGE)),
    ):
        if seen:
            yield Finding(check, str(seen))
    own = (set(place.rooms) | place.shared) - MODES_OF_IMAGE
    own |= {TWIN + directory for directory in place.rooms}
    looked = set(report["listable"]) & own - place.opens_to_guests
    if looked:
        yield Finding("a foreign user looks into", str(sorted(looked)))


def judge_other(place: Place, report: Mapping[str, Any]) -> Iterator[Finding]:
    """What the account can do that the entrypoint becomes."""
    if set(report["writable"]) - MODES_OF_IMAGE != set(place.rooms_of_others):
        yield Finding("the account that it becomes writes", str(report["writable"]))
    if report["powers"]:
        yield Finding("the account that it becomes has a power", str(report["powers"]))


def judge_path(report: Mapping[str, Any]) -> Iterator[Finding]:
    """What comes of a router's complaint: anybody on the way could send one."""
    if report["after"] != report["before"]:
        seen = f"the path has {report['after']} bytes after {report['before']}"
        yield Finding("is told that the path is narrow", seen)


def judge_refusal(report: Mapping[str, Any]) -> Iterator[Finding]:
    """What a neighbour hears of a port at which nobody listens yet."""
    if report["refuses"]:
        yield Finding("a neighbour calls a port that nobody listens at", "it is told so")


def judge_silence(report: Mapping[str, Any]) -> Iterator[Finding]:
    """When a connection is given up whose other side has gone."""
    if not 8 < report["seconds"] < 25:
        yield Finding("a server is not heard of any more", f"given up after {report['seconds']} s")


def judge_mounts(place: Place, report: Mapping[str, Any]) -> Iterator[Finding]:
    """What the mounts refuse by themselves, to a root with every usual capability."""
    limited = {directory for directory, most in place.all_rooms.items() if most}
    written = set(report["writable"]) & place.shared
    if written:
        yield Finding("any root writes to what may only be read", str(sorted(written)))
    for check, key in (("runs a program from", "executable"), ("opens a device on", "devices")):
        allowed = place.executable if key == "executable" else frozenset()
        found = set(report[key]) & limited - allowed
        if found:
            yield Finding(f"any root {check}", str(sorted(found)))
    for directory in sorted(limited):
        room = report["room_kib"].get(directory, 0)
        if room > place.all_rooms[directory]:
            yield Finding(f"any root fills {directory}", f"{room} KiB")


def judge_elevation(place: Place, report: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether set-user-id programs count on its mounts, where programs may run at all."""
    limited = {directory for directory, most in place.all_rooms.items() if most}
    found = set(report["elevating"]) & limited
    if found:
        yield Finding("a program on a mount runs as its owner", str(sorted(found)))
    silent = limited - set(report["executable"])
    if silent:
        yield Finding("the trial of set-user-id programs", f"nothing runs on {sorted(silent)}")


HOLDER_FILES = frozenset({"/etc/resolv.conf", "/run/env", "/run/env.example"})
TUNNEL_SECRETS = frozenset({"tunnel_private_key", "tunnel_preshared_key"})
OUTSIDE = frozenset({"lo", "eth0"})


def _holder(*, binds: bool, readable: frozenset[str] = HOLDER_FILES) -> Place:
    return Place(
        user=(0, 0),
        memory_mib=32,
        powers=frozenset({"NET_ADMIN"}),
        rooms={"/run": 1024},
        readable=readable,
        is_first_process=True,
        binds_tunnel_address=binds,
        opens_to_guests=frozenset({"/twin/run"}),
    )


def _uplink(network: str = "tunnel") -> Place:
    return Place(
        user=(0, 0),
        memory_mib=96,
        powers=frozenset({"NET_ADMIN"}),
        rooms={"/run": 1024},
        secrets=TUNNEL_SECRETS,
        devices=frozenset({"/dev/net/tun"}),
        reaches=frozenset({network}),
        interfaces=OUTSIDE,
        among_processes_of_holder=True,
        carries_tunnel=True,
        opens_to_guests=frozenset({"/twin/run"}),
    )


def _gateway(*sockets: str) -> Place:
    return Place(
        user=(10003, 10020),
        memory_mib=512,
        rooms={"/tmp": 1024, "/var/lib/gateway": 0},
        executable=frozenset({"/var/lib/gateway"}),  # Docker's plain volumes have no noexec
        listable=frozenset(sockets),
        secrets=frozenset({"link_token", "store_key"}),
        binds_tunnel_address=True,
        in_namespace_of_holder=True,
        reaps=True,
        shared=frozenset(sockets),
    )


PLACES: dict[tuple[str, str], Place] = {
    ("vps", "wireguard"): _holder(binds=False),
    ("vps", "uplink"): _uplink(),
    ("vps", "egress"): Place(
        user=(0, 0),
        memory_mib=64,
        powers=frozenset({"NET_ADMIN", "SETUID", "SETGID", "SETPCAP"}),
        rooms={"/run": 1024},
        reaches=frozenset({"telegram"}),
        interfaces=OUTSIDE,
        opens_to_guests=frozenset({"/twin/run"}),
        rooms_of_others={"/run/egress": 64},
        other=(10002, 10010),
    ),
    ("vps", "relay"): Place(
        user=(10001, 10010),
        memory_mib=256,
        rooms={"/tmp": 1024},
        listable=frozenset({"/run/egress"}),
        secrets=frozenset({"bot_token", "link_token", "telegram_ca"}),
        in_namespace_of_holder=True,
        reaps=True,
        shared=frozenset({"/run/egress"}),
    ),
    ("gpu", "wireguard"): _holder(binds=True),
    ("gpu", "uplink"): _uplink(),
    ("gpu", "gateway"): _gateway("/run/engine"),
    ("gpu", "engine"): Place(
        user=(10004, 10020),
        tasks=256,
        rooms={"/tmp": 2048, "/cache": 4096, "/run/engine": 64},
        executable=frozenset({"/tmp", "/cache"}),
        listable=frozenset({"/weights"}),
        readable=frozenset({"/etc/resolv.conf", "/launch/digests.py", "/launch/vllm.sh"}),
        interfaces=frozenset({"lo"}),
        speaks_ipv6=frozenset({"lo"}),  # which leads nowhere
        shared=frozenset({"/weights"}),
        opens_to_guests=frozenset({"/weights"}),
    ),
    ("first", "gateway"): _gateway("/run/engine", "/run/router"),
    ("first", "router"): Place(
        user=(10005, 10020),
        memory_mib=96,
        rooms={"/tmp": 1024, "/run/router": 64},
        listable=frozenset({"/run/engine"}),
        in_namespace_of_holder=True,
        shared=frozenset({"/run/engine"}),
    ),
    ("first", "workers"): _holder(binds=False, readable=frozenset({"/etc/resolv.conf"})),
    ("first", "workers-uplink"): _uplink("workers"),
    ("worker", "door"): Place(
        user=(10005, 10020),
        memory_mib=96,
        rooms={"/tmp": 1024},
        listable=frozenset({"/run/engine"}),
        binds_tunnel_address=True,
        in_namespace_of_holder=True,
        shared=frozenset({"/run/engine"}),
    ),
}
"""By node and service. The engine's limits are tried scaled down, see `cells`. Services that are
the same on several nodes stand here once, see `mutants/alike`."""
