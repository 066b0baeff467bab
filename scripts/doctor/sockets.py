"""Checks what is open on the host: the tunnel's port if it is published, sshd, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from scripts.doctor.finding import Check, Finding, failure, ok, warning
from scripts.node.node import Node
from scripts.node.sockets import Socket, open_sockets
from scripts.node.tools import CannotLook

UNEXPECTED = warning(
    "socket-open",
    "Open to others on this machine: {socket}.",
    "Stop what you do not need (`systemctl disable --now …`), or bind it to 127.0.0.1.",
)
PUBLISHED = warning(
    "port-published",
    "The container {name}, which is not this node's, publishes {port}.",
    "Stop it, or publish its port on 127.0.0.1 only: published ports pass by ufw.",
)
NOT_PUBLISHED = failure(
    "tunnel-port-closed",
    "Nothing publishes the UDP port {port} of {service}, so the other end of its tunnel cannot "
    "reach this machine.",
    "Make the container anew: `docker compose … up -d --force-recreate {service}`; if that fails, "
    "another program holds the port, or this machine has no longer the address.",
)
READING = warning(
    "packets-read",
    "Something on this machine reads packets: {socket}.",
    "Find out what it is: whoever reads the outside interface sees with whom this node speaks.",
)

SSH = ("sshd", "sshd-session", "ssh", "dropbear")
SSH_PORT = 22
ADDRESS_CLIENTS = {
    *("dhclient", "dhcpcd", "systemd-network", "NetworkManager", "udhcpc", "connmand"),
}
"""Programs that ask for this machine's own address, on ports 68 and 546 or by raw packets."""
ADDRESS_PORTS = {68, 546}


@dataclass(frozen=True)
class Published:
    """A UDP port of this machine that a service is called at."""

    service: str
    address: str
    """The one address of this machine's where it is open; nothing: all."""
    port: str

    def has(self, address: str, port: str) -> bool:
        return port == self.port and self.address in ("", "0.0.0.0", address)

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" if self.address else self.port


def look(node: Node) -> Iterator[Finding]:
    ports = published_ports(node)
    try:
        sockets = open_sockets(node.tools.proc)
    except OSError as error:
        raise CannotLook(f"the kernel's list of sockets cannot be read ({error})") from None
    strange = [it for it in sockets if not is_expected(it, ports)]
    for socket in sorted(set(strange), key=str):
        problem = READING if socket.protocol in ("packet", "raw") else UNEXPECTED
        yield problem.found(socket=socket)
    foreign = list(published_by_others(node))
    yield from foreign
    for port in ports:
        if not any(port.has(*it.rpartition(":")[::2]) for it in published_now(node)):
            yield NOT_PUBLISHED.found(port=port, service=port.service)
    if not strange and not foreign:
        expected = [f"UDP {port}" for port in ports] + ["sshd"]
        yield ok(f"Nothing is open to others but {' and '.join(expected)}.")


def is_expected(socket: Socket, ports: list[Published]) -> bool:
    if socket.protocol in ("packet", "raw"):
        return socket.process in ADDRESS_CLIENTS
    if socket.is_loopback:
        return True
    if socket.protocol == "udp" and any(it.has(socket.address, str(socket.port)) for it in ports):
        return socket.process in ("docker-proxy", "dockerd", "")
    if socket.process in SSH or (socket.process in ("systemd", "") and socket.port == SSH_PORT):
        return socket.protocol == "tcp"
    return socket.process in ADDRESS_CLIENTS and socket.port in ADDRESS_PORTS


def published_ports(node: Node) -> list[Published]:
    """UDP ports that the Compose files publish."""
    return [
        Published(name, str(port.get("host_ip") or ""), str(port["published"]))
        for name, service in node.services.items()
        for port in service.get("ports") or []
        if port.get("published") and port.get("protocol") == "udp"
    ]


def published_now(node: Node) -> list[str]:
    """`ADDRESS:PORT` of everything that this node's containers publish in this moment."""
    return [
        f"{binding['HostIp']}:{binding['HostPort']}"
        for container in node.running.values()
        for bindings in (container.raw["NetworkSettings"].get("Ports") or {}).values()
        for binding in bindings or []
    ]


def published_by_others(node: Node) -> Iterator[Finding]:
    own = {container.id for container in node.all_containers}
    for container in node.inspect("ps", "-q", "--no-trunc"):
        if container.id in own:
            continue
        for port, bindings in (container.raw["NetworkSettings"].get("Ports") or {}).items():
            open_to_all = [it for it in bindings or [] if not it["HostIp"].startswith("127.")]
            if open_to_all:
                yield PUBLISHED.found(name=container.name, port=port)


CHECK = Check(
    "open sockets",
    "Whether something on this machine can be reached from outside besides sshd and, where the "
    "Compose files publish one, a tunnel's UDP port; and whether something reads packets. "
    "Sockets on loopback addresses count as closed, and clients that fetch the machine's address "
    "as known.",
    (UNEXPECTED, PUBLISHED, NOT_PUBLISHED, READING),
    look,
)
