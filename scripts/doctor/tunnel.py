"""Checks who carries the tunnel and when the other node was last heard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, failure, not_applicable, ok, warning
from scripts.lifecycle import revoked
from scripts.node.node import HOLDER, UPLINK, Node
from scripts.node.tools import CannotLook

STALE_SECONDS = 180  # WireGuard makes a new handshake every 120 s while there is traffic

FLUSHED = failure(
    "rules-not-standing",
    "{service} itself says that its rules are not those that it loaded.",
    "Restart it (`docker restart {name}`), and find out who changed its rules.",
)
REVOKED = failure(
    "secret-revoked",
    "{name} is one that `revoke` has taken out of use: an older bundle was unpacked since, and the "
    "lost machine may come in.",
    "Call `revoke` again at once, then bring a bundle that was made after it.",
)
NONE = failure(
    "tunnel-missing",
    "There is no tunnel: neither {uplink} nor {holder} has a WireGuard interface.",
    "Read `docker logs {name}`: it says why it cannot make one.",
)
UNHEARD = failure(
    "handshake-missing",
    "The other node {age}; this node dials it, so nothing works.",
    "Check that the other node runs, that TUNNEL_ENDPOINT is its address and UDP port, that its "
    "provider's firewall lets that port in, and that each node has the other's public key.",
)
ASLEEP = warning(
    "other-node-silent",
    "The other node {age}.",
    "If it should be on, check its internet connection and run this command there; messages wait "
    "with Telegram meanwhile.",
)
SLOW = warning(
    "tunnel-in-userspace",
    "WireGuard runs in userspace, though this kernel has it built in or as a module.",
    "Load it (`modprobe wireguard`) and restart the tunnel: `docker restart {name}`.",
)


def look(node: Node) -> Iterator[Finding]:
    folder = node.root / "secrets"
    with contextlib.suppress(OSError):  # they are root's: without it nobody can look
        for name in revoked.among(
            folder, {name: (folder / name).read_bytes() for name in revoked.SHARED}
        ):
            yield REVOKED.found(name=name)
    if node.is_off(UPLINK):
        yield not_applicable("The tunnel was taken away by `revoke`.")
        return
    statuses: dict[str, dict[str, str]] = {}
    for service in (UPLINK, HOLDER):
        container = node.running.get(service)
        if container is None:
            continue
        said = node.execute(container, "status")
        status = said.pairs
        if "rules" not in status and said.code != 0 and "No such file" not in said.err:
            raise CannotLook(f"{service} does not tell its status ({said.why})")
        statuses[service] = status
        if status.get("rules") != "standing":
            yield FLUSHED.found(service=service, name=container.name)
    if UPLINK not in statuses:
        raise CannotLook("the container that carries the tunnel does not run")
    yield from of_carrier(node, statuses)


def of_carrier(node: Node, statuses: dict[str, dict[str, str]]) -> Iterator[Finding]:
    uplink = node.running[UPLINK].name
    carrying = [it for it in statuses.values() if it.get("carrier") in ("kernel", "userspace")]
    if not carrying and any("carrier" not in status for status in statuses.values()):
        raise CannotLook("who carries the tunnel is not told where there are no rules")
    if not carrying:
        yield NONE.found(uplink=UPLINK, holder=HOLDER, name=uplink)
        return
    status = carrying[0]
    has_module = kernel_has_wireguard(node)
    if status["carrier"] == "userspace" and has_module:
        yield SLOW.found(name=uplink)
    else:
        of_kernel = "has it, too" if has_module else "does not have it"
        yield ok(
            "WireGuard runs in the kernel."
            if status["carrier"] == "kernel"
            else f"WireGuard runs in userspace; this kernel {of_kernel}."
        )
    age = status.get("handshake_age_seconds", "never")
    if age != "never" and int(age) <= STALE_SECONDS:
        yield ok(f"The last handshake was {age} s ago.")
        return
    words = "was never heard" if age == "never" else f"was last heard {int(age) // 60} min ago"
    yield (UNHEARD if node.kind.dials else ASLEEP).found(age=words)


def kernel_has_wireguard(node: Node) -> bool:
    if (node.tools.sys / "module/wireguard").exists():
        return True
    folder = node.tools.modules / node.tools.kernel()
    for name in ("modules.builtin", "modules.dep"):
        try:
            if "/wireguard.ko" in (folder / name).read_text(encoding="utf-8", errors="replace"):
                return True
        except OSError:
            continue
    return False


CHECK = Check(
    "tunnel",
    "Who carries the tunnel, the kernel or a process, and how long ago the other node was heard.",
    (REVOKED, FLUSHED, NONE, UNHEARD, ASLEEP, SLOW),
    look,
)
