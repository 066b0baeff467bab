"""Owns the way back: a timer that takes a run back unless somebody confirms it who came in since.

The timer is systemd's and lies on the disk, so neither a lost connection nor a reboot stops it.
"""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections.abc import Iterator

from scripts.harden import firewall
from scripts.harden.host import Failed, Host, Refused
from scripts.harden.part import template, unit_word
from scripts.harden.session import is_on_console, session_of, ticks
from scripts.harden.settings import HOME, KEPT
from scripts.harden.snapshot import ORIGINAL, PENDING, Snapshot, write
from scripts.node.arguments import ROOT

SERVICE, TIMER = "node-harden-rollback.service", "node-harden-rollback.timer"
FOLDER = "/etc/systemd/system"
LOCK = "/run/node-harden.lock"


@contextlib.contextmanager
def alone(host: Host) -> Iterator[None]:
    """Wait until nobody else is at it: a confirmation and the timer may come at once."""
    path = host.path(LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def arm(host: Host, seconds: int) -> None:
    """From now on there is a way back in so many seconds. Raises Failed: then nothing may begin."""
    values = {"root": unit_word(ROOT), "python": unit_word(sys.executable)}
    folder = host.path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / SERVICE, template("rollback.service", **values).encode(), 0o644)
    write(folder / TIMER, template("rollback.timer", seconds=str(seconds)).encode(), 0o644)
    host.do("systemctl", "daemon-reload")
    host.do("systemctl", "enable", TIMER)
    host.do("systemctl", "restart", TIMER)
    if host.run("systemctl", "is-active", TIMER).out.strip() != "active":
        raise Failed("the timer that would take everything back does not run")


def disarm(host: Host) -> None:
    host.run("systemctl", "disable", "--now", TIMER)
    for name in (SERVICE, TIMER):
        host.path(f"{FOLDER}/{name}").unlink(missing_ok=True)
    host.run("systemctl", "daemon-reload")


def take_back(host: Host) -> list[str]:
    """As before the run that waits; returns what went wrong. The lock is the caller's.

    What was there is forgotten only when it is there again: otherwise the next boot tries it anew.
    """
    pending = Snapshot(host, PENDING)
    restored = pending.changed
    problems = pending.restore() if pending.exists else []
    if pending.exists and not pending.is_restored():
        return problems
    if pending.note("boot") not in (None, boot_id(host)):
        problems += firewall.not_loaded(host, restored)
    pending.delete()
    disarm(host)
    if not Snapshot(host, ORIGINAL).exists:
        with contextlib.suppress(OSError):
            host.path(HOME).rmdir()
    return problems


def confirm(host: Host, process: int, *, on_console: bool = False) -> None:
    """Keep what was done, if `process` belongs to whoever got in since. Raises Refused."""
    pending = Snapshot(host, PENDING)
    if not pending.exists:
        raise Refused("nothing waits to be confirmed: it was confirmed, or taken back, before")
    applied, boot = pending.note("applied"), pending.note("boot")
    if applied is None:
        raise Refused("it is still being done: wait until `harden` says that it waits")
    session = session_of(host, process)
    if session is None:
        if not (on_console or is_on_console(host)):
            raise Refused(
                "this is neither an SSH connection nor the console: log in anew and confirm there"
            )
    elif boot == boot_id(host) and session.began is None:
        raise Refused(
            "over which connection you come cannot be seen here (as in tmux, screen or mosh): log "
            "in anew and confirm there, outside of them"
        )
    elif boot == boot_id(host) and session.began <= applied:
        raise Refused(
            "this connection is older than the change, so it does not show that one still gets "
            "in: open another one (without a shared master connection) and confirm there"
        )
    original = Snapshot(host, ORIGINAL)
    original.adopt(pending, confirmed=pending.note("id"))
    write(host.path(KEPT), str(pending.note("settings")).encode(), 0o600)
    pending.delete()
    disarm(host)


def was_confirmed(host: Host, identity: str) -> bool | None:
    """None while it waits."""
    if Snapshot(host, PENDING).note("id") == identity:
        return None
    return bool(Snapshot(host, ORIGINAL).note("confirmed") == identity)


def boot_id(host: Host) -> str:
    return host.read("/proc/sys/kernel/random/boot_id").strip()


def now(host: Host) -> float:
    """In the unit in which the kernel says when a process began."""
    return float(host.read("/proc/uptime").split()[0]) * ticks()
