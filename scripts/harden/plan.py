"""Owns what a run would change: all parts in their order, and how each differs from what is."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scripts.harden import (
    bans,
    clock,
    docker,
    firewall,
    journal,
    kernel,
    names,
    sshd,
    swap,
    upgrades,
)
from scripts.harden.host import Host, Refused
from scripts.harden.part import File, Part
from scripts.harden.settings import Settings
from scripts.harden.snapshot import Entry, Snapshot
from scripts.harden.states import State, read


@dataclass(frozen=True)
class Change:
    """What of a part is not as it shall be."""

    part: Part
    files: tuple[File, ...]
    states: tuple[tuple[State, str], ...]
    """Each with what it is now."""
    back: tuple[Entry, ...] = ()
    """Files that nobody wants any more, as they were at first."""


def parts(host: Host, settings: Settings) -> list[Part]:
    """All that this host shall have. Raises Refused, before anything is changed."""
    refuse_bare(host)
    ssh_ports = sshd.ports(host, settings) if sshd.is_installed(host) else ()
    wanted = []
    if ssh_ports:
        wanted += [sshd.want(host, settings), bans.want(ssh_ports)]
    return [
        *wanted,
        docker.want(host),
        kernel.want(host),
        swap.want(host, settings),
        journal.want(),
        clock.want(host, settings),
        names.want(host, settings),
        upgrades.want(settings),
        firewall.want(host, settings, ssh_ports),  # last: what goes wrong before can be seen
    ]


def refuse_bare(host: Host) -> None:
    """Nothing is installed from here: on a relay node that would be a matter of its own."""
    wanted = {"nft": "nftables", "unattended-upgrade": "unattended-upgrades"}
    if sshd.is_installed(host):
        wanted["fail2ban-client"] = "fail2ban python3-systemd"
    if not clock.other_keeper(host):
        wanted["systemd-timesyncd"] = "systemd-timesyncd"
    missing = [package for program, package in wanted.items() if not host.has_program(program)]
    if missing:
        raise Refused(
            f"{len(missing)} programs are missing: `apt-get install {' '.join(missing)}` first"
            if len(missing) > 1
            else f"a program is missing: `apt-get install {missing[0]}` first"
        )


def changes(host: Host, wanted: Iterable[Part], original: Snapshot) -> list[Change]:
    """What differs, part by part; and last what an earlier run set and none wants any more."""
    found = []
    paths: set[str] = set()
    states: set[tuple[str, str]] = set()
    for part in wanted:
        paths |= {file.path for file in part.files}
        states |= {(state.kind, state.name) for state in part.states}
        files = tuple(file for file in part.files if differs(host, file))
        now = [(state, read(host, state.kind, state.name)) for state in part.states]
        other = tuple((state, value) for state, value in now if value != state.wanted)
        if files or other:
            found.append(Change(part, files, other))
    back = tuple(
        entry
        for entry in original.files
        if entry.path not in paths and not original.is_as_it_was(entry)
    )
    restored = []
    for kind, name, before in original.states:
        if (kind, name) not in states and (value := read(host, kind, name)) != before:
            restored.append((State(kind, name, before), value))
    if back or restored:
        part = Part("no longer wanted", "As it was at first.", reloads=original.reloads)
        found.append(Change(part, (), tuple(restored), back))
    return found


def differs(host: Host, file: File) -> bool:
    path = host.path(file.path)
    try:
        status = path.lstat()
    except OSError:
        return bool(file.content)
    if not stat.S_ISREG(status.st_mode) or host.read(file.path) != file.content:
        return True
    return file.mode is not None and stat.S_IMODE(status.st_mode) != file.mode


def describe(host: Host, change: Change, original: Snapshot) -> Iterator[str]:
    """The difference, in lines for people: each file's as a diff, each state's before and after."""
    yield f"{change.part.name}: {change.part.why}"
    for file in change.files:
        yield from file_difference(host, file.path, file.content, file.mode)
    for entry in change.back:
        yield from file_difference(host, entry.path, original.text_of(entry), entry.mode)
    for state, now in change.states:
        yield from state_difference(state, now)


def file_difference(host: Host, path: str, wanted: str, mode: int | None) -> Iterator[str]:
    try:
        now = host.read(path)
    except Refused:
        now = "(unreadable)\n"
    place = host.path(path)
    was = "absent"
    if place.is_symlink():
        was = f"link to {place.readlink()}"
    elif place.exists():
        was = f"{stat.S_IMODE(place.stat().st_mode):04o}"
    to_be = f"{mode:04o}" if mode is not None else was
    if mode is None and was == "absent" and wanted:
        to_be = "0644"
    lines = list(
        difflib.unified_diff(
            now.splitlines(), wanted.splitlines(), f"{path} ({was})", f"{path} ({to_be})",
            lineterm="", n=1,
        )
    )  # fmt: skip
    yield from (f"  {line}" for line in lines or [f"--- {path} ({was})", f"+++ {path} ({to_be})"])


def state_difference(state: State, now: str) -> Iterator[str]:
    if state.kind != "rules":
        yield f"  {state}: {now or 'nothing'} -> {state.wanted or 'nothing'}"
        return
    lines = difflib.unified_diff(
        now.splitlines(), state.wanted.splitlines(), f"{state} (loaded)", f"{state} (to be)",
        lineterm="", n=0,
    )  # fmt: skip
    yield from (f"  {line}" for line in lines)
