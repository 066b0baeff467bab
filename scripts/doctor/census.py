"""Checks what each namespace holds, and that members share the namespace of their holder.

What is expected follows from the Compose files: `network_mode: none` is a namespace with `lo`, and
with `wg0` where others live in it; a container on networks has one interface for each.
"""

from __future__ import annotations

from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, failure, ok, warning
from scripts.node.node import HOP, UPLINK, Container, Node
from scripts.node.rules import interfaces
from scripts.node.tools import CannotLook

EXTRA = failure(
    "interface-too-many",
    "The namespace of {service} holds {names}, which has no business there.",
    "Find out who put it there; `docker restart {name}` makes the namespace anew.",
)
LEFT_BEHIND = failure(
    "left-behind",
    "{service} was left behind in another namespace than {holder}'s: it has no tunnel.",
    "Restart it (`docker restart {name}`); scripts/reconcile, run by a timer, does so by itself.",
)
FALLBACK = warning(
    "interface-of-kernel",
    "The kernel has put {names} into the namespace of {service}; it is down and leads nowhere.",
    "Keep it out with `sysctl net.core.fb_tunnels_only_for_init_net=2`, then restart the node.",
)

TUNNEL = "wg0"
NEW_TUNNEL = "wg-new"
"""What an uplink is making, before it hands it over."""
HOP_INTERFACE = "wg-hop"
NEW_HOP = "hop-new"
"""What leads out of an uplink without a network, and the same before it is adopted."""
FALLBACKS = {
    *("tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0")
}


def look(node: Node) -> Iterator[Finding]:
    for service, container in node.running.items():
        try:
            yield from of_container(node, service, container)
        except CannotLook as why:
            node.refresh()
            if service in node.running:  # it may have ended meanwhile, which another check tells
                raise why from None


def of_container(node: Node, service: str, container: Container) -> Iterator[Finding]:
    there = interfaces(node, container)
    holder = node.holder_of(service)
    home = node.running.get(holder) if holder else None
    if home and node.namespace(container) != node.namespace(home):
        yield LEFT_BEHIND.found(service=service, holder=holder, name=container.name)
        return
    fallbacks = there & FALLBACKS
    if fallbacks:
        yield FALLBACK.found(names=", ".join(sorted(fallbacks)), service=service)
    extra = there - fallbacks - allowed(node, service, container, there)
    if extra:
        names = ", ".join(sorted(extra))
        yield EXTRA.found(names=names, service=service, name=container.name)
        return
    where = f", the namespace of {holder}" if holder else ""
    yield ok(f"{service} sees {', '.join(sorted(there - fallbacks))}{where}.")


def allowed(node: Node, service: str, container: Container, there: set[str]) -> set[str]:
    """The interfaces that a service may see."""
    networks = node.services[service].get("networks") or {}
    if networks:
        by_docker = sorted(name for name in there if name.startswith("eth"))[: len(networks)]
        return {"lo", NEW_HOP if service == HOP else NEW_TUNNEL, *by_docker}
    if service == UPLINK:
        return {"lo", HOP_INTERFACE, NEW_HOP, NEW_TUNNEL}
    if node.holder_of(service) or is_holder(node, service):
        return {"lo", TUNNEL, NEW_TUNNEL}
    return {"lo"}


def is_holder(node: Node, service: str) -> bool:
    return any(node.holder_of(other) == service for other in node.services)


CHECK = Check(
    "namespaces",
    "What each container sees of the network: the holder and its members `lo` and `wg0` and "
    "nothing else, an isolated service `lo` alone, an uplink behind a hop `wg-hop` too, the others "
    "one interface a network; and whether members are in the namespace that the holder has now.",
    (EXTRA, LEFT_BEHIND, FALLBACK),
    look,
)
