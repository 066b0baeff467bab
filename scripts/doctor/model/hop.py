"""Checks that the provider which the tunnel leaves through is heard, where there is one."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, failure, not_applicable, ok
from scripts.doctor.tunnel import STALE_SECONDS
from scripts.node.node import HOP, UPLINK, Node
from scripts.node.tools import CannotLook

DOWN = failure(
    "hop-down",
    "{service} does not run: nothing leaves the uplink, and the other node is not reached.",
    "Start the node: `docker compose … up -d`; `docker logs` of that container says why it ended.",
)
UNHEARD = failure(
    "hop-unheard",
    "The hop's provider {age}; the tunnel leaves by it alone, so nothing works.",
    "Check this machine's internet connection, that HOP_ENDPOINT and HOP_PEER_KEY are as in the "
    "provider's file, and that the provider still takes the key (it may have expired).",
)


def look(node: Node) -> Iterator[Finding]:
    if HOP not in node.services:
        yield not_applicable("The tunnel leaves without a hop.")
        return
    if HOP not in node.running:
        yield DOWN.found(service=HOP)
        return
    age = handshake_age(node)
    if age is not None and age <= STALE_SECONDS:
        yield ok(f"The last handshake with the hop's provider was {age} s ago.")
        return
    yield UNHEARD.found(
        age="was never heard" if age is None else f"was last heard {age // 60} min ago"
    )


def handshake_age(node: Node) -> int | None:
    """Seconds since the provider was heard; None: never. Raises CannotLook.

    Told by the container of the process that carries it, or by the uplink, where the kernel does.
    """
    for service, name in (
        (HOP, "handshake_age_seconds"),
        (UPLINK, "hop_handshake_age_seconds"),
    ):
        if service not in node.running:
            continue
        said = node.execute(node.running[service], "status")
        status = said.pairs
        if name in status:
            return int(status[name]) if status[name].isdigit() else None
        if "rules" not in status:
            raise CannotLook(f"{service} does not tell its status ({said.why})")
    return None


CHECK = Check(
    "hop",
    "On the model node, where the tunnel leaves through another provider (compose.gpu.hop.yml): "
    "when that one was heard.",
    (DOWN, UNHEARD),
    look,
)
