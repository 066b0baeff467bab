"""Owns the upgrades that nobody watches: security alone, and by which timer they come."""

from __future__ import annotations

from scripts.harden import maintenance
from scripts.harden.host import Host
from scripts.harden.part import File, Part, template
from scripts.harden.settings import Settings
from scripts.harden.states import State

FILE = "/etc/apt/apt.conf.d/99-harden"
TIMERS = ("apt-daily.timer", "apt-daily-upgrade.timer")


def want(settings: Settings) -> Part:
    """With names closed, the maintenance window does what Debian's own timers would fail to do."""
    held = "\n  ".join(f'"^{name}";' for name in settings.held)
    files = [File(FILE, template("upgrades.conf", held=held))]
    closed = settings.names == "closed"
    states = [
        state
        for timer in TIMERS
        for state in (
            State("at boot", timer, "disabled" if closed else "enabled"),
            State("unit", timer, "inactive" if closed else "active"),
        )
    ]
    if closed:
        files += maintenance.units()
        timer = maintenance.TIMER
        states += [State("at boot", timer, "enabled"), State("unit", timer, "active")]
    return Part(
        "upgrades",
        "Security fixes come by themselves; " + (
            "a name can be asked for only in a maintenance window, so they come in one."
            if closed
            else "nothing else does."
        ),
        files=tuple(files),
        states=tuple(states),
        check=check,
    )  # fmt: skip


def check(host: Host) -> None:
    host.do("apt-config", "dump", "Unattended-Upgrade")
