"""Owns the maintenance window: for a while, one pinned name server may be asked.

The open window lies in memory, above the file that says that nobody is to be asked: a reboot closes
it, and no file changes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from scripts.harden.host import Failed, Host, Refused
from scripts.harden.part import File, template, unit_word
from scripts.harden.settings import Settings
from scripts.node.arguments import ROOT

RESOLV = "/etc/resolv.conf"
WINDOW = "/run/node-harden/resolv.conf"
SERVICE, TIMER = "node-harden-maintenance.service", "node-harden-maintenance.timer"
CLOSER = "node-harden-close"
ITSELF = ("-P", "-m", "scripts.commands", "harden")


def units() -> list[File]:
    folder = "/etc/systemd/system"
    values = {"root": unit_word(ROOT), "python": unit_word(sys.executable)}
    return [
        File(f"{folder}/{SERVICE}", template("maintenance.service", **values)),
        File(f"{folder}/{TIMER}", template("maintenance.timer")),
    ]


def is_open(host: Host) -> bool:
    mounts = host.read("/proc/self/mountinfo").splitlines()
    return any(line.split()[4:5] == [RESOLV] for line in mounts)


def open_window(host: Host, settings: Settings, minutes: int) -> None:
    """Raises Refused or Failed; a window that is open already is given the new time."""
    if settings.names != "closed":
        raise Refused("names are not closed on this host: there is nothing to open")
    if not settings.resolver:
        raise Refused("nobody is known who could be asked: `harden --resolver ADDRESS` first")
    stop_closer(host)
    host.do(
        *("systemd-run", f"--unit={CLOSER}", "--collect", f"--on-active={minutes}min"),
        *(f"--setenv=PYTHONPATH={ROOT}", sys.executable, *ITSELF, "maintenance", "close"),
    )
    if not is_open(host):
        window = host.path(WINDOW)
        window.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        window.write_text(template("resolv-open.conf", resolver=settings.resolver), "utf-8")
        window.chmod(0o644)
        host.do("mount", "--bind", WINDOW, RESOLV)


def close_window(host: Host) -> bool:
    """Whether one was open. Raises Failed."""
    was_open = is_open(host)
    if was_open:
        host.do("umount", RESOLV)
    host.path(WINDOW).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        host.path(WINDOW).parent.rmdir()
    stop_closer(host)
    return was_open


def stop_closer(host: Host) -> None:
    # Its timer alone: this may well be what the timer has started.
    host.run("systemctl", "stop", f"{CLOSER}.timer")


def upgrade(host: Host, settings: Settings) -> Iterator[str]:
    """Open, upgrade, set the clock, close: says each step, and at the end what failed (Failed)."""
    open_window(host, settings, minutes=130)
    failed = []
    try:
        for what, command in (
            ("reading the lists of packages", ("apt-get", "-q", "update")),
            ("upgrading", ("unattended-upgrade",)),
            ("looking up the time servers", ("systemctl", "try-restart", "systemd-timesyncd")),
        ):
            yield what
            said = host.run(*command, seconds=3600)
            if said.code != 0:
                failed.append(f"{what} failed ({said.why})")
    finally:
        close_window(host)
    if failed:
        raise Failed("; ".join(failed))
