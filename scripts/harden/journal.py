"""Owns how much the journal keeps, and for how long."""

from __future__ import annotations

from scripts.harden.part import File, Part, template


def want() -> Part:
    return Part(
        "journal",
        "Logs of two weeks, and 200 MB at most.",
        files=(File("/etc/systemd/journald.conf.d/zz-harden.conf", template("journald.conf")),),
        reloads=(("systemctl", "try-restart", "systemd-journald.service"),),
    )
