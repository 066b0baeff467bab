"""Knows what may leave a node, and where it passes: interfaces, bridges, whose frames are whose."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Any

from scripts.node.node import EGRESS, UPLINK, Node
from scripts.node.rules import permitted_networks, standing_rules
from scripts.node.sockets import readable
from scripts.node.tools import CannotLook
from scripts.prove.packets import ARP, OWN, Frame, Tunnel, kind_of

HTTPS, DNS = "443", 53


@dataclass(frozen=True)
class Bridge:
    """A Docker bridge that containers of the node are on."""

    interface: str
    services: dict[str, str]
    """By MAC address."""

    @property
    def role(self) -> str:
        return f"bridge of {' and '.join(sorted(self.services.values()))}"


@dataclass(frozen=True)
class Route:
    """One of the machine's ways."""

    interface: str
    network: ipaddress.IPv4Network
    metric: int


def outside_interfaces(node: Node) -> dict[str, str]:
    """Interfaces with a default route, and those towards this node's neighbours.

    Each with the kind of the tunnel's packets that pass there, if any do. Raises CannotLook.
    """
    routes, usual = routes_of(node), "" if node.kind.calls_near else OWN
    found = {route.interface: usual for route in routes if route.network.prefixlen == 0}
    for address, kind in neighbours_of(node).items():
        ways = [route for route in routes if ipaddress.IPv4Address(address) in route.network]
        if ways:
            best = max(ways, key=lambda it: (it.network.prefixlen, -it.metric))
            found[best.interface] = found.get(best.interface) or kind
    if not found:
        raise CannotLook("there is no default route: name the outside interface with --interface")
    return dict(sorted(found.items()))


def routes_of(node: Node) -> list[Route]:
    """Raises CannotLook."""
    try:
        lines = (node.tools.proc / "net/route").read_text(encoding="ascii").splitlines()[1:]
    except OSError as error:
        raise CannotLook(f"the routes cannot be read ({error.strerror})") from None
    return [
        Route(
            words[0],
            ipaddress.IPv4Network(f"{readable(words[1])}/{readable(words[7])}", strict=False),
            int(words[6]),
        )
        for words in map(str.split, lines)
    ]


def neighbours_of(node: Node) -> dict[str, str]:
    """Addresses in networks of this machine's own that a tunnel goes through, and its kind."""
    called = tunnels_of(node) if node.kind.calls_near else ()
    return {tunnel.endpoint: OWN for tunnel in called} | {
        str(port["host_ip"]): tunnels[0].name
        for service, tunnels in further_tunnels_of(node).items()
        for port in udp_ports(node, service)
        if port.get("host_ip") not in (None, "", "0.0.0.0")
    }


def bridges_of(node: Node) -> list[Bridge]:
    """The bridges that the node's containers are on."""
    services: dict[str, dict[str, str]] = {}
    for service, container in node.running.items():
        for network in container.networks.values():
            mac = str(network["MacAddress"]).lower()
            services.setdefault(str(network["NetworkID"]), {})[mac] = service
    found = []
    for network_id, by_mac in services.items():
        (described,) = json.loads(node.ask("docker", "network", "inspect", network_id))
        if described["Driver"] == "bridge":
            name = (described["Options"] or {}).get("com.docker.network.bridge.name")
            found.append(Bridge(name or f"br-{network_id[:12]}", by_mac))
    return found


def tunnels_of(node: Node) -> tuple[Tunnel, ...]:
    """Where encrypted packets may go, as seen in the carrying container and outside of it."""
    if node.kind.dials:
        name = "TUNNEL_ENDPOINT" if node.carrier == UPLINK else "HOP_ENDPOINT"
        endpoint, _, port = node.setting(node.carrier, name).rpartition(":")
        return (Tunnel(int(port), endpoint),)
    published = [
        int(port["published"])
        for port in node.services[UPLINK].get("ports") or []
        if port.get("published")
    ]
    return tuple(Tunnel(port) for port in sorted({listening_port(node, UPLINK), *published}))


def further_tunnels_of(node: Node) -> dict[str, tuple[Tunnel, ...]]:
    """Tunnels beside the one to the other node, by the services that carry them.

    Such an end waits to be called.
    """
    return {
        service: tuple(
            Tunnel(port, name=f"tunnel of {service}")
            for port in sorted(
                {
                    listening_port(node, service),
                    *(int(port["published"]) for port in udp_ports(node, service)),
                }
            )
        )
        for service in node.services
        if service not in (node.carrier, UPLINK)
        and node.setting(service, "TUNNEL_END") == "listen"
        and node.services[service].get("networks")
    }


def kinds_at(bridges: list[Bridge], node: Node) -> dict[str, str]:
    """The kind of the tunnel's packets that pass each bridge with a carrier of one on it."""
    carried = {service: tunnels[0].name for service, tunnels in further_tunnels_of(node).items()}
    carried[node.carrier] = OWN
    return {
        bridge.interface: carried[service]
        for bridge in bridges
        for service in sorted(carried.keys() & set(bridge.services.values()))
    }


def listening_port(node: Node, service: str) -> int:
    """Where a listening end waits inside its container."""
    return int(node.setting(service, "TUNNEL_PORT", "51820"))


def udp_ports(node: Node, service: str) -> list[dict[str, Any]]:
    """UDP ports that a service publishes, as Compose describes them."""
    ports = node.services[service].get("ports") or []
    return [it for it in ports if it.get("published") and it.get("protocol") == "udp"]


class Permitted:
    """Judges frames at a bridge: by their sender's address, and by what that service may send."""

    def __init__(self, node: Node, bridges: list[Bridge], tunnels: tuple[Tunnel, ...]) -> None:
        self._services = {bridge.interface: bridge.services for bridge in bridges}
        self._tunnels = tunnels
        further = further_tunnels_of(node)
        self._listening = {service: Tunnel(listening_port(node, service)) for service in further}
        self.every_tunnel = tunnels + tuple(it for found in further.values() for it in found)
        self._carrier = node.carrier
        self._port = int(node.setting(EGRESS, "TELEGRAM_PORT", HTTPS))
        self._resolver = node.setting(EGRESS, "RESOLVER")
        egress = node.running.get(EGRESS)
        listed = permitted_networks(standing_rules(node, egress)) if egress else []
        self._networks = [range_of(text) for text in listed]

    def judge(self, interface: str, frame: Frame) -> str | None:
        """What forbidden thing a frame is, if it is one of the node's containers' at a bridge."""
        service = self._services.get(interface, {}).get(frame.source_mac)
        if service is None or frame.ethertype == ARP:
            return None
        kind = kind_of(frame, self.every_tunnel)
        if service == self._carrier and self._is_for_the_other_end(frame):
            return None
        if service in self._listening and is_said_by(self._listening[service], frame):
            return None
        if service == EGRESS and self._is_for_telegram(frame):
            return None
        return f"{service}: {kind}"

    def _is_for_the_other_end(self, frame: Frame) -> bool:
        """A packet of the tunnel, or a later fragment of UDP, which has no port to know it by."""
        ends = {tunnel.endpoint for tunnel in self._tunnels} - {""}
        if ends and frame.destination not in ends:
            return False
        of_tunnel = any(tunnel.has(frame) for tunnel in self._tunnels)
        return of_tunnel or (frame.is_fragment and frame.protocol == "udp")

    def _is_for_telegram(self, frame: Frame) -> bool:
        if frame.protocol in ("tcp", "udp") and frame.destination == self._resolver:
            return frame.destination_port == DNS
        if frame.protocol != "tcp" or frame.destination_port != self._port:
            return False
        address = ipaddress.ip_address(frame.destination)
        return any(first <= address <= last for first, last in self._networks)  # type: ignore[operator]  # both IPv4: TCP to a listed network


def is_said_by(end: Tunnel, frame: Frame) -> bool:
    """A packet from the port of a listening end, or a later fragment of UDP, which has no port."""
    if frame.is_fragment:
        return frame.protocol == "udp"
    return end.has(frame) and frame.source_port == end.port


def range_of(text: str) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    """`a.b.c.d`, `a.b.c.d/len` or `a.b.c.d-e.f.g.h`, as nft prints them: first and last address."""
    first, _, last = text.partition("-")
    if last:
        return ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
    network = ipaddress.IPv4Network(first, strict=False)
    return network[0], network[-1]
