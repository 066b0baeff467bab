"""Owns that the clock is kept: by what keeps it already, or by systemd-timesyncd."""

from __future__ import annotations

from scripts.harden.host import Host
from scripts.harden.part import File, Part, template
from scripts.harden.settings import Settings
from scripts.harden.states import State

FILE = "/etc/systemd/timesyncd.conf.d/zz-harden.conf"
UNIT = "systemd-timesyncd.service"
OTHERS = ("chronyd", "ntpd", "openntpd", "ntpsec")


def other_keeper(host: Host) -> str:
    return next((name for name in OTHERS if host.has_program(name)), "")


def want(host: Host, settings: Settings) -> Part:
    if keeper := other_keeper(host):
        return Part("clock", f"Kept by {keeper}, which stays as it is.")
    if host.run("systemd-detect-virt", "--quiet", "--container").code == 0:
        return Part("clock", "Kept by the machine that this container is on.")
    files: tuple[File, ...] = ()
    if settings.time_servers:
        content = template("timesyncd.conf", servers=" ".join(settings.time_servers))
        files = (File(FILE, content),)
    return Part(
        "clock",
        "Kept in step with time servers.",
        files=files,
        states=(State("at boot", UNIT, "enabled"), State("unit", UNIT, "active")),
        reloads=(("systemctl", "try-restart", UNIT),),
    )
