"""Owns the namespaces that rulesets are tried in: the product's own containers in each of them.

The product loads the rules by itself, as on a node; what it sees as the outside or as the tunnel is
a device whose far side a `Player` holds. Nothing of it is attached to any network.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from python_on_whales import Container

from tests.integration.lab import EGRESS, PEER, WIREGUARD, Lab, wait_until, wait_until_healthy
from tests.integration.tunnels import Keys
from tests.leaks.behaviour.rules import (
    ELSEWHERE,
    ENDPOINT,
    FAR6,
    FAR_HARDWARE,
    HOP,
    LINKS,
    NEAR6,
    NEAR_HARDWARE,
    NOT_HOP,
    RESOLVER,
    RULESETS,
    TELEGRAM,
    TUNNEL,
    UPLINK,
    Link,
    Player,
    Ruleset,
)


@dataclass
class Namespace:
    """One namespace in which the product has loaded a ruleset."""

    ruleset: Ruleset
    player: Player
    loaded: str
    """The rules as the kernel printed them after the product had loaded them."""
    ports: Iterator[int] = field(default_factory=lambda: itertools.count(10000))


@contextmanager
def open_namespaces(lab: Lab, keys: Keys) -> Iterator[dict[str, Namespace]]:
    """Start what the rulesets are for, and end the players afterwards."""
    with ExitStack() as stack:
        namespaces = {}
        for ruleset in RULESETS:
            kind, _, end = ruleset.name.partition("-")
            container = lab.run(
                f"world-{ruleset.name}",
                PEER,
                ["sleep", "infinity"],
                capabilities=["NET_ADMIN"],
                devices=["/dev/net/tun"],
                sysctls={
                    "net.ipv4.ip_forward": "1",
                    "net.ipv4.conf.all.rp_filter": "0",
                    "net.ipv4.conf.default.rp_filter": "0",
                    "net.ipv4.conf.all.send_redirects": "0",
                    "net.ipv6.conf.all.disable_ipv6": "0",
                    "net.ipv6.conf.all.forwarding": "1",
                },
                hardened=False,
            )
            player = Player(container.id)
            stack.callback(player.close)
            if kind == "sidecar":
                start_sidecar(lab, ruleset, container, player)
            elif end == "hop":
                start_carried_uplink(lab, keys, container, player)
            else:
                lay_outside(player)
                product = (
                    start_uplink(lab, keys, end, container)
                    if kind == "uplink"
                    else start_egress(lab, container)
                )
                wait_until_healthy(product)
            for port in ruleset.servers:
                player.order("listen", port)
            namespaces[ruleset.name] = Namespace(ruleset, player, player.listing())
        yield namespaces


def start_sidecar(lab: Lab, ruleset: Ruleset, container: Container, player: Player) -> None:
    """The holder of a namespace, which adopts a device as its tunnel."""
    network = ruleset.near.address.rpartition(".")[0]
    product = lab.run(
        ruleset.name,
        WIREGUARD,
        ["sidecar"],
        namespace_of=container,
        capabilities=["NET_ADMIN"],
        settings=holder_settings(LINKS[ruleset.name.partition("-")[2]]),
        memory="32m",
    )
    wait_until_healthy(product)
    player.order("make_device", "wg-new", frames=False)
    wait_until(lambda: "wg0" in player.run("ip", "route"), "the sidecar has adopted the tunnel", 10)
    player.order("make_device", "other0", frames=False)
    player.order("rename", "wg-new", "wg0")
    player.run(
        "ip",
        "-batch",
        "-",
        text=f"link set other0 up\naddress add {network}.77/32 dev lo\n"
        f"address add {NEAR6.address}/64 dev wg0 nodad\n",
    )


def lay_outside(player: Player) -> None:
    """An outside interface as Docker would attach it, before anything of the product starts."""
    player.order("make_device", "outside", frames=True)
    far = (ENDPOINT, ELSEWHERE, TELEGRAM, RESOLVER, FAR6)
    hardware = FAR_HARDWARE.hex(":")
    neighbours = "".join(
        f"neighbour add {end.address} lladdr {hardware} dev outside nud permanent\n" for end in far
    )
    player.run(
        "ip",
        "-batch",
        "-",
        text=f"link set outside address {NEAR_HARDWARE.hex(':')} up\n"
        f"address add {UPLINK.address}/24 dev outside\n"
        f"address add {NEAR6.address}/64 dev outside nodad\n"
        # Others are many: reached by one router, they take no places in the table of neighbours.
        + neighbours
        + f"route add 198.19.0.0/16 via {ELSEWHERE.address} dev outside\n"
        + f"route add 198.18.76.0/24 via {ELSEWHERE.address} dev outside\n",
    )


def start_carried_uplink(lab: Lab, keys: Keys, container: Container, player: Player) -> None:
    """An uplink without an outside, which adopts a device as its hop.

    Order: whatever has an outside comes before it, since the rules are loaded anew for what comes.
    """
    player.order("make_device", "other0", frames=False)
    settings = {"HOP_ADDRESS": HOP.address, "HOP_MTU": "1420"}
    wait_until_healthy(start_uplink(lab, keys, "dial", container, name="hop", settings=settings))
    player.order("make_device", "hop-new", frames=False)
    wait_until(lambda: "wg-hop" in player.run("ip", "route"), "the uplink has adopted the hop", 10)
    player.order("rename", "hop-new", "wg-hop")
    player.run(
        "ip",
        "-batch",
        "-",
        text=f"link set other0 up\naddress add {NOT_HOP.address}/32 dev lo\n"
        f"address add {NEAR6.address}/64 dev wg-hop nodad\n",
    )


def start_uplink(
    lab: Lab,
    keys: Keys,
    end: str,
    container: Container,
    *,
    name: str = "",
    settings: Mapping[str, str] | None = None,
) -> Container:
    holder = lab.run(
        f"holder-{name or end}",
        WIREGUARD,
        ["sidecar"],
        capabilities=["NET_ADMIN"],
        settings=tunnel_settings(end),
        memory="32m",
    )
    wait_until_healthy(holder)
    return lab.run(
        f"uplink-{name or end}",
        WIREGUARD,
        ["uplink"],
        namespace_of=container,
        processes_of=holder,
        capabilities=["NET_ADMIN"],
        settings={
            **tunnel_settings(end),
            "TUNNEL_PEER_KEY": keys.public["listen" if end == "dial" else "dial"],
            "TUNNEL_ENDPOINT": f"{ENDPOINT.address}:{ENDPOINT.port}",
            **(settings or {}),
        },
        volumes=keys.volumes_of(end),
        devices=["/dev/net/tun"],
    )


def holder_settings(link: Link) -> dict[str, str]:
    """With one other end, or a list of several, each with a key that is nobody's."""
    keys = [base64.b64encode(bytes([number]) * 32).decode() for number in range(len(link.far))]
    several = [f"{end.address}={key}" for end, key in zip(link.far, keys, strict=True)]
    return {
        "TUNNEL_END": link.end,
        "TUNNEL_ADDRESS": link.near.address,
        "LINK_PORT": str(link.port),
        **(
            {"TUNNEL_PEERS": ",".join(several)}
            if len(several) > 1
            else {"TUNNEL_PEER_ADDRESS": link.far[0].address}
        ),
    }


def tunnel_settings(end: str) -> dict[str, str]:
    near, far = ("dial", "listen") if end == "dial" else ("listen", "dial")
    return {
        "TUNNEL_END": end,
        "TUNNEL_ADDRESS": TUNNEL[near].address,
        "TUNNEL_PEER_ADDRESS": TUNNEL[far].address,
    }


def start_egress(lab: Lab, container: Container) -> Container:
    options = "uid=10002,gid=10010,mode=2750,size=64k,noexec,nosuid,nodev"
    volume = lab.volume("socket", {"type": "tmpfs", "device": "tmpfs", "o": options})
    networks = f"{TELEGRAM.address}/32,{TELEGRAM.address}/31"
    return lab.run(
        "egress",
        EGRESS,
        ["egress"],
        namespace_of=container,
        capabilities=["NET_ADMIN", "SETUID", "SETGID", "SETPCAP"],
        settings={"TELEGRAM_NETWORKS": networks, "RESOLVER": RESOLVER.address},
        volumes=[(volume, "/run/egress", "rw")],
        memory="48m",
    )
