"""Looks at the tunnel: what its two containers tell of it, and what their rules have refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scripts.doctor.tunnel import STALE_SECONDS
from scripts.node.node import EGRESS, HOLDER, UPLINK, Container, Node
from scripts.node.rules import refusals
from scripts.node.signs import read_sign, read_small
from scripts.node.tools import CannotLook
from scripts.status.facts import Fact, Tone, ago, size

if TYPE_CHECKING:
    from scripts.status.look import Looker

NAME, TITLE = "tunnel", "Tunnel"

SIGN = "/run/status"
"""Kept by the holder, in its memory, every five seconds."""
LAST_ENDPOINT = "/run/peer-endpoint"


def look(looker: Looker) -> list[Fact]:
    node = looker.node
    holder = node.running.get(HOLDER)
    if holder is None:
        return [Fact("problem", "no holder", "", f"{HOLDER} does not run.", Tone.BAD)]
    sign = read_sign(node, holder, SIGN)
    facts = [handshake(node, sign, looker.now), endpoint(node, holder)]
    if UPLINK in node.running:
        facts += of_carrier(looker.seldom("tunnel", lambda: measured(looker)))
    else:
        facts.append(Fact("carrier", None, "carried by", f"{UPLINK} does not run", Tone.BAD))
    heard = sign.get("heard_packets", 0)
    facts.append(Fact("heard_packets", heard, "heard", f"{heard} packets"))
    return facts + of_refusals(looker, sign)


def handshake(node: Node, sign: dict[str, int], now: float) -> Fact:
    fact = ago("handshake_age_seconds", "handshake", sign.get("handshake_at", 0), now)
    is_fresh = isinstance(fact.value, int) and fact.value <= STALE_SECONDS
    # Whoever is called may be left alone by a node that is off.
    tone = Tone.GOOD if is_fresh else Tone.BAD if node.kind.dials else Tone.NOTICE
    return Fact(fact.name, fact.value, fact.label, fact.text, tone)


def endpoint(node: Node, holder: Container) -> Fact:
    """Where the other node is: as this one calls it, or as it was heard last."""
    if node.kind.dials:
        called = node.setting(UPLINK, "TUNNEL_ENDPOINT")
        return Fact("endpoint", called, "calls", called)
    try:
        told = read_small(node, holder, LAST_ENDPOINT).strip()
        found = re.fullmatch(r"[0-9.]{7,15}:[0-9]{1,5}", told)
    except CannotLook:
        found = None
    return Fact("endpoint", found and found[0], "heard from", found[0] if found else "nobody yet")


def measured(looker: Looker) -> dict[str, str]:
    """What is told of the tunnel, and what came and went in a second since the last look."""
    status = statuses(looker.node)
    for name in ("received_bytes", "sent_bytes"):
        if status.get(name, "").isdigit():
            rate = looker.rate(name, int(status[name]))
            status[f"{name}_per_second"] = "" if rate is None else str(round(rate))
    return status


def statuses(node: Node) -> dict[str, str]:
    """What is said of the tunnel where it is carried: userspace the one, kernel the other."""
    found: dict[str, str] = {}
    for service in (UPLINK, HOLDER):
        container = node.running.get(service)
        if container is None:
            continue
        said = node.execute(container, "status")
        status = said.pairs
        if status.get("rules") != "standing":
            found["rules_changed"] = service
        if status.get("carrier") in ("kernel", "userspace"):
            return status | found
    return found


def of_carrier(status: dict[str, str]) -> list[Fact]:
    facts = []
    if changed := status.get("rules_changed"):
        text = f"not those of {changed}"
        facts.append(Fact("rules_changed", changed, "rules", text, Tone.BAD))
    carrier = status.get("carrier")
    tone = Tone.PLAIN if carrier else Tone.BAD
    facts.append(Fact("carrier", carrier, "carried by", carrier or "nobody: no tunnel", tone))
    for name, label in (("received_bytes", "received"), ("sent_bytes", "sent")):
        if status.get(name, "").isdigit():
            count, rate = int(status[name]), status[f"{name}_per_second"]
            pace = f", {size(int(rate))}/s" if rate else ""
            facts.append(Fact(name, count, label, f"{size(count)}{pace}"))
    return facts


def of_refusals(looker: Looker, sign: dict[str, int]) -> list[Fact]:
    node = looker.node
    facts = [refused("", "refused", sign)]
    if egress := node.running.get(EGRESS):
        counted = looker.seldom("egress", lambda: refusals(node, egress))
        facts.append(
            refused("egress_", "by egress", {f"{it}_packets": n for it, n in counted.items()})
        )
    return facts


def refused(prefix: str, label: str, counted: dict[str, int]) -> Fact:
    came, went = (counted.get(f"refused_{way}_packets", 0) for way in ("in", "out"))
    tone = Tone.NOTICE if went else Tone.PLAIN
    value = {"in": came, "out": went}
    return Fact(f"{prefix}refused_packets", value, label, f"{came} in, {went} out", tone)
