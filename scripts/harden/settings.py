"""Owns what the operator may choose, how a choice is checked, and where choices are kept."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Any

from scripts.harden.host import Host, Refused

HOME = "/var/lib/node-harden"
KEPT = f"{HOME}/settings.json"

ANY = "any"


@dataclass(frozen=True)
class Settings:
    """How this host is hardened."""

    node: str
    tunnel_port: int | None
    """The one UDP port that may be called from outside; None where nobody calls."""
    held: tuple[str, ...] = ()
    """Packages that are upgraded by hand alone: how their names begin."""
    ssh_port: int | None = None
    """None: where sshd listens already."""
    ssh_from: tuple[str, ...] = ()
    """Networks that may call sshd; all if empty."""
    root_login: str = "key"
    """`key` or `off`."""
    swap: str = "off"
    """`off`, or `encrypted`: kept where it can be seen that it is."""
    names: str = "open"
    """`closed`: nothing is resolved but in a maintenance window."""
    resolver: str = ""
    """Who is asked in a maintenance window."""
    time_servers: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    """Names that need not be asked for, as NAME=ADDRESS."""
    inside: tuple[str, ...] = ()
    """Interfaces besides Docker's that do not lead outside."""


def kept_settings(host: Host) -> dict[str, Any]:
    """What an earlier run was told, nothing if there was none."""
    text = host.read(KEPT)
    try:
        return dict(json.loads(text)) if text else {}
    except ValueError:
        raise Refused(f"{KEPT} is damaged: give all settings anew, and delete it") from None


def merge(kept: dict[str, Any], given: dict[str, Any], fixed: dict[str, Any]) -> Settings:
    """What is given now counts more than what was kept; `fixed` follows from the node itself."""
    known = {field.name for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {name: value for name, value in kept.items() if name in known}
    values |= {name: value for name, value in given.items() if value is not None}
    values |= fixed
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Settings(**values)


def as_text(settings: Settings) -> str:
    return json.dumps(dataclasses.asdict(settings), indent=1, sort_keys=True) + "\n"


def port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("give a port between 1 and 65535")
    return int(text)


def network(text: str) -> str:
    if text == ANY:
        return ANY
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"give an address or a network such as 198.51.100.0/24, or `{ANY}`"
        ) from None


def address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError("give an address such as 192.0.2.53") from None


def pin(text: str) -> str:
    name, equals, where = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", name):
        raise argparse.ArgumentTypeError("give NAME=ADDRESS such as deb.debian.org=192.0.2.80")
    return f"{name}={address(where)}"


def interface(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.@-]{1,15}", text):
        raise argparse.ArgumentTypeError("give the name of an interface such as virbr0")
    return text
