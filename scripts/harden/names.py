"""Owns /etc/hosts and /etc/resolv.conf: which names this host knows, and whom it asks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from scripts.harden.host import Host, Refused
from scripts.harden.maintenance import RESOLV, is_open
from scripts.harden.part import File, Part, template
from scripts.harden.settings import Settings
from scripts.harden.states import State

HOSTS = "/etc/hosts"
BEGIN, END = "# harden: begin", "# harden: end"
DHCPCD = "/etc/dhcpcd.conf"
NO_HOOK = "nohook resolv.conf"
RESOLVED = "systemd-resolved.service"


def first_resolver(host: Host) -> str:
    """The first name server of resolv.conf that is elsewhere, nothing if there is none."""
    for line in host.read(RESOLV).splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                if not ipaddress.ip_address(words[1]).is_loopback:
                    return words[1]
            except ValueError:
                continue
    return ""


def want(host: Host, settings: Settings) -> Part:
    """Raises Refused while a window is open, or where none could ever be opened."""
    files = [File(HOSTS, hosts(host, settings), None)]
    states: list[State] = []
    if settings.names == "closed":
        if is_open(host):
            raise Refused("a maintenance window is open: `harden maintenance close` first")
        if not settings.resolver:
            raise Refused(
                f"{RESOLV} names nobody to be asked in a maintenance window: give --resolver "
                "ADDRESS"
            )
        files += [File(RESOLV, template("resolv-closed.conf")), *against_leases(host)]
        if host.has_unit(RESOLVED):  # it is asked by other ways than by resolv.conf, too
            states += [State("unit", RESOLVED, "inactive"), State("at boot", RESOLVED, "disabled")]
    return Part(
        "names",
        "Nothing is resolved but in a maintenance window."
        if settings.names == "closed"
        else "This host knows its own name and those that are pinned.",
        files=tuple(files),
        states=tuple(states),
    )


def hosts(host: Host, settings: Settings) -> str:
    """The file as it is, but for our own lines: this host's name, and what is pinned."""
    kept: list[str] = []
    ours = False
    for line in host.read(HOSTS).splitlines():
        ours = ours or line == BEGIN
        if not ours:
            kept.append(line)
        ours = ours and line != END
    known = {word for line in kept for word in line.partition("#")[0].split()[1:]}
    own = []
    if "localhost" not in known:
        own.append("127.0.0.1 localhost")
    name = host.read("/etc/hostname").strip()
    if name and name not in known:
        own.append(f"127.0.1.1 {name}")
    for pin in settings.pins:
        pinned, _, where = pin.partition("=")
        own.append(f"{where} {pinned}")
    lines = [*kept, *([BEGIN, *own, END] if own else [])]
    return "\n".join(lines) + "\n" if lines else ""


def against_leases(host: Host) -> Iterator[File]:
    """What keeps those away who would write resolv.conf anew, where they are installed."""
    if host.has_directory("/etc/dhcp/dhclient-enter-hooks.d"):
        yield File("/etc/dhcp/dhclient-enter-hooks.d/harden", template("dhclient-hook"), 0o755)
    if host.has_directory("/etc/NetworkManager/conf.d"):
        yield File("/etc/NetworkManager/conf.d/zz-harden.conf", template("networkmanager.conf"))
    if host.has_directory("/etc/cloud/cloud.cfg.d"):
        yield File("/etc/cloud/cloud.cfg.d/zz-harden.cfg", template("cloud.cfg"))
    text = host.read(DHCPCD)
    if text:
        has_it = NO_HOOK in (line.strip() for line in text.splitlines())
        yield File(DHCPCD, text if has_it else f"{text.rstrip()}\n{NO_HOOK}\n", None)
