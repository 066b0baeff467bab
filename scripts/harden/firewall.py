"""Owns the host's packet rules: nothing comes in but ssh as set and the tunnel, in either IP."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from scripts.harden.host import Host, Refused
from scripts.harden.part import File, Part, template
from scripts.harden.settings import Settings
from scripts.harden.states import State, read

TABLE = "inet host"
FILE = "/etc/nftables.conf"
STAY = "/etc/systemd/system/nftables.service.d/stay.conf"

BRIDGES = ("docker0", "br-*", "veth*")
"""Docker's; whatever else a machine has, or gets later, leads outside."""


def want(host: Host, settings: Settings, ssh_ports: Iterable[int]) -> Part:
    """Raises Refused where somebody else rules, or where the kernel does not take the rules."""
    refuse_others(host)
    rules = ruleset(settings, ssh_ports)
    return Part(
        "firewall",
        "Nothing comes in but ssh as set and the tunnel's port, not even to what Docker publishes.",
        files=(File(FILE, rules, 0o755), File(STAY, template("stay.conf"))),
        states=(
            State("rules", TABLE, listing(host, rules)),
            State("at boot", "nftables.service", "enabled"),
            State("unit", "nftables.service", "active"),
        ),
    )


def ruleset(settings: Settings, ssh_ports: Iterable[int]) -> str:
    inside = (*BRIDGES, *settings.inside)
    ports = ", ".join(map(str, sorted(set(ssh_ports))))
    sources = [ipaddress.ip_network(source) for source in settings.ssh_from]
    ssh = {"ssh": "", "ssh_v4": "", "ssh_v6": ""}
    if ports and not sources:
        ssh["ssh"] = f"tcp dport {{ {ports} }} accept"
    for version, family in ((4, "ip"), (6, "ip6")):
        own = ", ".join(str(source) for source in sources if source.version == version)
        if ports and own:
            ssh[f"ssh_v{version}"] = f"{family} saddr {{ {own} }} tcp dport {{ {ports} }} accept"
    tunnel = ""
    if settings.tunnel_port is not None:
        tunnel = f"ct status dnat meta l4proto udp ct original proto-dst {settings.tunnel_port}"
        tunnel += " accept"
    return template(
        "firewall.nft",
        **ssh,
        tunnel=tunnel,
        inside_forward="\n    ".join(f'iifname "{name}" goto forward_inside' for name in inside),
        inside_out="\n    ".join(f'oifname "{name}" accept' for name in inside),
    )


def listing(host: Host, rules: str) -> str:
    """How the kernel lists these rules: it loads them in a network namespace of their own.

    Raises Refused.
    """
    load = f"nft -f - && nft --stateless list table {TABLE}"
    said = host.run("unshare", "--net", "sh", "-c", load, stdin=rules)
    if said.code != 0:
        raise Refused(
            f"the kernel does not take the rules of the firewall ({said.why}): nftables 1.0 and "
            "Linux 5.10 are the least; upgrade the host first"
        )
    return said.out


def not_loaded(host: Host, restored: Iterable[str]) -> list[str]:
    """What is to be known where rules of the operator's own came back as a file: a start of the
    machine in between has loaded ours instead. Loading theirs here could flush Docker's."""
    if FILE not in restored or read(host, "unit", "nftables.service") != "active":
        return []
    return [
        f"the rules of {FILE} are loaded only if the machine was not started anew since: see with "
        "`nft list ruleset`, or start it anew now"
    ]


def refuse_others(host: Host) -> None:
    if "ENABLED=yes" in host.read("/etc/ufw/ufw.conf").splitlines():
        raise Refused("ufw rules this host: turn it off (`ufw disable`), then try again")
    if host.run("systemctl", "is-active", "firewalld.service").out.strip() == "active":
        raise Refused(
            "firewalld rules this host: turn it off (`systemctl disable --now firewalld`), then "
            "try again"
        )
