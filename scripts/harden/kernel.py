"""Owns the kernel's settings, and that a crash leaves no dump."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.harden.host import Host
from scripts.harden.part import File, Part, template
from scripts.harden.states import State, sysctl_path

FILE = "/etc/sysctl.d/99-zz-harden.conf"


def want(host: Host) -> Part:
    return Part(
        "kernel",
        "No core dumps; nobody on the network decides on routes; less is told to strangers.",
        files=(
            File(FILE, template("sysctl.conf")),
            File("/etc/security/limits.d/zz-harden.conf", template("limits.conf")),
            File("/etc/systemd/system.conf.d/zz-harden.conf", template("system.conf")),
            File("/etc/systemd/coredump.conf.d/zz-harden.conf", template("coredump.conf")),
        ),
        states=tuple(sysctls(host)),
    )


def sysctls(host: Host) -> Iterator[State]:
    """Those that this kernel has."""
    for line in template("sysctl.conf").splitlines():
        name, equals, value = line.lstrip("-").partition(" = ")
        if equals and not line.startswith("#") and sysctl_path(host, name).exists():
            yield State("sysctl", name, value)
