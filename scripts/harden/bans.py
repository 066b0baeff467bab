"""Owns the banning of those who try ssh again and again (fail2ban, by nftables)."""

from __future__ import annotations

from collections.abc import Iterable

from scripts.harden.host import Host
from scripts.harden.part import File, Part, template
from scripts.harden.states import State

FILE = "/etc/fail2ban/jail.d/zz-harden.local"
UNIT = "fail2ban.service"


def want(ssh_ports: Iterable[int]) -> Part:
    content = template("fail2ban.local", ports=",".join(map(str, ssh_ports)))
    return Part(
        "bans",
        "Five failed logins within ten minutes, and no TCP is heard for an hour, then longer.",
        files=(File(FILE, content),),
        states=(State("at boot", UNIT, "enabled"), State("unit", UNIT, "active")),
        reloads=(("systemctl", "try-restart", UNIT),),
        check=check,
    )


def check(host: Host) -> None:
    host.do("fail2ban-client", "-t")
