"""Knows what may leave a node, and where it passes: interfaces, bridges, whose frames are whose."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass

from scripts.node.node import EGRESS, UPLINK, Node
from scripts.node.rules import permitted_networks, standing_rules
from scripts.node.tools import CannotLook
from scripts.prove.packets import ARP, Frame, Tunnel, kind_of

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


def default_interfaces(node: Node) -> list[str]:
    """Interfaces with a default route. Raises CannotLook."""
    try:
        lines = (node.tools.proc / "net/route").read_text(encoding="ascii").splitlines()[1:]
    except OSError as error:
        raise CannotLook(f"the routes cannot be read ({error.strerror})") from None
    found = [words[0] for words in map(str.split, lines) if words[1] == words[7] == "00000000"]
    if not found:
        raise CannotLook("there is no default route: name the outside interface with --interface")
    return sorted(set(found))


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
    inside = int(node.setting(UPLINK, "TUNNEL_PORT", "51820"))
    published = [
        int(port["published"])
        for port in node.services[UPLINK].get("ports") or []
        if port.get("published")
    ]
    return tuple(Tunnel(port) for port in sorted({inside, *published}))


class Permitted:
    """Judges frames at a bridge: by their sender's address, and by what that service may send."""

    def __init__(self, node: Node, bridges: list[Bridge], tunnels: tuple[Tunnel, ...]) -> None:
        self._services = {bridge.interface: bridge.services for bridge in bridges}
        self._tunnels = tunnels
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
        kind = kind_of(frame, self._tunnels)
        if service == self._carrier and self._is_for_the_other_end(frame, kind):
            return None
        if service == EGRESS and self._is_for_telegram(frame):
            return None
        return f"{service}: {kind}"

    def _is_for_the_other_end(self, frame: Frame, kind: str) -> bool:
        """A packet of the tunnel, or a later fragment of UDP, which has no port to know it by."""
        ends = {tunnel.endpoint for tunnel in self._tunnels} - {""}
        if ends and frame.destination not in ends:
            return False
        return kind == "tunnel" or (frame.is_fragment and frame.protocol == "udp")

    def _is_for_telegram(self, frame: Frame) -> bool:
        if frame.protocol in ("tcp", "udp") and frame.destination == self._resolver:
            return frame.destination_port == DNS
        if frame.protocol != "tcp" or frame.destination_port != self._port:
            return False
        address = ipaddress.ip_address(frame.destination)
        return any(first <= address <= last for first, last in self._networks)  # type: ignore[operator]  # both IPv4: TCP to a listed network


def range_of(text: str) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    """`a.b.c.d`, `a.b.c.d/len` or `a.b.c.d-e.f.g.h`, as nft prints them: first and last address."""
    first, _, last = text.partition("-")
    if last:
        return ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
    network = ipaddress.IPv4Network(first, strict=False)
    return network[0], network[-1]
