"""Checks from inside each namespace that forbidden destinations cannot be reached, and no names.

Nothing leaves the machine even if the protection is gone: what is sent has a time to live of one
hop, and asks nobody for a name.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.doctor.finding import AS_ROOT, Check, Finding, could_not_look, failure, ok
from scripts.node.namespace import inside
from scripts.node.node import Container, Node
from scripts.node.tools import CannotLook

OUTSIDE = ("198.19.255.254", "169.254.169.254", "2001:db8::1")
"""Addresses of nobody: for benchmarks (RFC 2544), a cloud's metadata, documentation (RFC 3849)."""
RESOLVERS = ("127.0.0.11", "127.0.0.1")
DISCARD, DNS = 9, 53

NO_WAY = {
    *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.EACCES, errno.EADDRNOTAVAIL),
    *(errno.EAFNOSUPPORT, errno.ENETDOWN),
}
NOBODY = errno.ECONNREFUSED

OPEN = failure(
    "way-out",
    "A packet from the namespace of {service} to {address} was not refused.",
    "Stop the node (`docker compose … down`) until the rulesets and namespaces are in order: the "
    "checks above say what is wrong.",
)
NAMES = failure(
    "names-answered",
    "In the namespace of {service} a name server at {address} can be asked.",
    "Restart the container (`docker restart {name}`); its rules must refuse Docker's resolver.",
)
LISTED = failure(
    "name-server-listed",
    "{service} has been given a name server: {address}.",
    "Mount the empty resolv.conf as the Compose file does, and make the container anew.",
)


def look(node: Node) -> Iterator[Finding]:
    for service, container in node.running.items():
        if not node.services[service].get("networks"):
            yield from listed_servers(node, service, container)
    if not node.tools.is_root:
        yield could_not_look("Only root can enter the namespaces to try what gets out.", AS_ROOT)
        return
    for service, container in one_a_namespace(node):
        yield from of_namespace(node, service, container)


def one_a_namespace(node: Node) -> list[tuple[str, Container]]:
    """One container for each namespace: members stand behind their holder."""
    found: dict[str, tuple[str, Container]] = {}
    for service, container in sorted(
        node.running.items(), key=lambda it: node.holder_of(it[0]) is not None
    ):
        found.setdefault(node.namespace(container), (service, container))
    return list(found.values())


def listed_servers(node: Node, service: str, container: Container) -> Iterator[Finding]:
    text = node.read(container, "/etc/resolv.conf")
    words = [line.split() for line in text.splitlines()]
    servers = [line[1] for line in words if line[:1] == ["nameserver"] and len(line) > 1]
    if servers:
        yield LISTED.found(service=service, address=", ".join(servers))
    else:
        yield ok(f"{service} knows no name server.")


def of_namespace(node: Node, service: str, container: Container) -> Iterator[Finding]:
    namespace = node.tools.proc / str(container.pid) / "ns/net"
    tables = [
        node.tools.proc / str(container.pid) / "net" / protocol for protocol in ("udp", "tcp")
    ]
    outside = [*OUTSIDE, *neighbours(container)]
    resolvers = [(address, DNS) for address in RESOLVERS] + embedded_resolvers(tables)

    tried = inside(namespace, lambda: [send(it, DISCARD) for it in outside])
    open_ones = [it for it, code in zip(outside, tried, strict=True) if code not in NO_WAY]
    for address in open_ones:
        yield OPEN.found(service=service, address=address)
    if not open_ones:
        yield ok(f"{service}: {len(outside)} forbidden destinations are out of reach.")

    asked = inside(namespace, lambda: [ask(address, port) for address, port in resolvers])
    answering = [
        f"{address}:{port}"
        for (address, port), code in zip(resolvers, asked, strict=True)
        if code not in {*NO_WAY, NOBODY}
    ]
    for address in answering:
        yield NAMES.found(service=service, address=address, name=container.name)
    if not answering:
        yield ok(f"{service}: no name can be asked for.")


def neighbours(container: Container) -> list[str]:
    """The host's own address on each network of a container: a way that needs no gateway."""
    found = []
    for network in container.networks.values():
        subnet = ipaddress.ip_network(
            f"{network['IPAddress']}/{network['IPPrefixLen']}", strict=False
        )
        found.append(str(subnet[1]))
    return found


def embedded_resolvers(tables: Sequence[Path]) -> list[tuple[str, int]]:
    """Where Docker's own resolver listens in a namespace: any port of 127.0.0.11."""
    found: set[tuple[str, int]] = set()
    for table in tables:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError as error:
            raise CannotLook(f"{table} cannot be read ({error.strerror})") from None
        for line in lines:
            address, _, port = line.split()[1].partition(":")
            if address == "0B00007F":
                found.add(("127.0.0.11", int(port, 16)))
    return sorted(found - {("127.0.0.11", DNS)})


def send(address: str, port: int) -> int:
    """Send one datagram that no router passes on; 0, or why it could not be sent."""
    is_six = ":" in address
    with socket.socket(socket.AF_INET6 if is_six else socket.AF_INET, socket.SOCK_DGRAM) as out:
        try:
            out.setsockopt(
                socket.IPPROTO_IPV6 if is_six else socket.IPPROTO_IP,
                socket.IPV6_UNICAST_HOPS if is_six else socket.IP_TTL,
                1,
            )
            out.connect((address, port))
            out.send(b"?")
        except OSError as error:
            return error.errno or -1
    return 0


def ask(address: str, port: int) -> int:
    """Send a name server what it cannot take for a question; 0 if there was somebody to take it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        try:
            out.connect((address, port))
            out.send(b"?")
            out.settimeout(0.2)
            out.recv(16)  # where nobody listens, the kernel has said so by now
        except TimeoutError:
            return 0
        except OSError as error:
            return error.errno or -1
    return 0


CHECK = Check(
    "destinations",
    "Whether forbidden destinations and name servers are out of reach, tried from inside each "
    "namespace. Nothing that is sent passes a router, and no name is asked for.",
    (OPEN, NAMES, LISTED),
    look,
)
