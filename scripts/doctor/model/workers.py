"""Checks the tunnel to further machines with engines, where there are any: both its ends here, whom
it lets in, and when each was heard."""

from __future__ import annotations

import re
from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, failure, not_applicable, ok, warning
from scripts.doctor.tunnel import STALE_SECONDS
from scripts.node.node import Node
from scripts.node.tools import CannotLook

WORKERS = "workers"
"""Holds the namespace of the router, and the tunnel's inner end."""
WORKERS_UPLINK = "workers-uplink"

DOWN = failure(
    "workers-tunnel-down",
    "{service} does not run: no worker is reached, and this machine's engine answers alone.",
    "Start the node: `docker compose … up -d`; `docker logs` of that container says why it ended.",
)
FLUSHED = failure(
    "workers-rules-not-standing",
    "{service} itself says that its rules are not those that it loaded.",
    "Restart it (`docker restart {name}`), and find out who changed its rules.",
)
NONE = failure(
    "workers-tunnel-missing",
    "There is no tunnel to the workers: neither {uplink} nor {holder} has a WireGuard interface.",
    "Read `docker logs {name}`: it says why it cannot make one.",
)
STRANGER = failure(
    "worker-unknown",
    "The tunnel to the workers lets in {count} keys that WORKERS in .env does not name.",
    "Restart it (`docker restart {name}`), and find out who added them; after a change of "
    "settings, `docker compose … up -d`.",
)
UNHEARD = warning(
    "worker-silent",
    "The worker {address} {age}; the others answer meanwhile.",
    "If it should be on, look there (`scripts/node-admin doctor`): its TUNNEL_ENDPOINT is what "
    "WORKERS_LISTEN says here, and its key the one that WORKERS names. A firewall of this machine "
    "must let that UDP port in.",
)


def look(node: Node) -> Iterator[Finding]:
    if WORKERS_UPLINK not in node.services:
        yield not_applicable("This machine's engine is the only one.")
        return
    away = [it for it in (WORKERS_UPLINK, WORKERS) if it not in node.running]
    for service in away:
        yield DOWN.found(service=service)
    if away:
        return
    for service in (WORKERS_UPLINK, WORKERS):
        if status_of(node, service).get("rules") != "standing":
            yield FLUSHED.found(service=service, name=node.running[service].name)
    uplink = node.running[WORKERS_UPLINK].name
    ages = ages_by_key(node)
    if ages is None:
        yield NONE.found(uplink=WORKERS_UPLINK, holder=WORKERS, name=uplink)
        return
    known = addresses_by_key(node)
    if strangers := ages.keys() - known.keys():
        yield STRANGER.found(count=len(strangers), name=uplink)
    for key, address in known.items():
        age = ages.get(key)
        if age is not None and age <= STALE_SECONDS:
            yield ok(f"The last handshake with the worker {address} was {age} s ago.")
            continue
        words = "was never heard" if age is None else f"was last heard {age // 60} min ago"
        yield UNHEARD.found(address=address, age=words)


def status_of(node: Node, service: str) -> dict[str, str]:
    """What one of the two ends tells of itself. Raises CannotLook."""
    said = node.execute(node.running[service], "status")
    status = said.pairs
    if "rules" not in status:
        raise CannotLook(f"{service} does not tell its status ({said.why})")
    return status


def addresses_by_key(node: Node) -> dict[str, str]:
    """The workers, by their public keys: where each is inside the tunnel."""
    peers = re.split(r"[, ]+", node.setting(WORKERS_UPLINK, "TUNNEL_PEERS").strip(", "))
    return {key: address for address, _, key in (it.partition("=") for it in peers) if key}


def ages_by_key(node: Node) -> dict[str, int | None] | None:
    """Seconds since each worker was heard, by its public key (None: never); None: no tunnel.

    Told by the process that carries it, or by the holder, where the kernel does. Raises CannotLook.
    """
    for service, carrier, interface in (
        (WORKERS_UPLINK, "userspace", "wg-new"),
        (WORKERS, "kernel", "wg0"),
    ):
        container = node.running.get(service)
        if container is None or status_of(node, service).get("carrier") != carrier:
            continue
        said = node.execute(container, "wg", "show", interface, "latest-handshakes")
        if said.code != 0:
            raise CannotLook(f"{service} does not tell whom it has heard ({said.why})")
        heard = re.findall(r"^(\S+)\s+(\d+)$", said.out, re.MULTILINE)
        now = round(node.tools.now())
        return {key: max(0, now - int(at)) if int(at) else None for key, at in heard}
    return None


CHECK = Check(
    "workers",
    "On the model node, where further machines have engines (compose.gpu.router.yml): whether both "
    "ends of the tunnel to them run with their rules, whether it knows the keys of WORKERS and no "
    "other, and when each worker was heard.",
    (DOWN, FLUSHED, NONE, STRANGER, UNHEARD),
    look,
)
