"""Isolation by construction: each container's namespace, ports and privileges, counted."""

import socket
import struct

import pytest
from python_on_whales import DockerClient
from python_on_whales.components.container.cli_wrapper import Container

from scripts.pair import Pair

RELAY_NODE = ("wireguard", "uplink", "egress", "relay")
MODEL_NODE = ("wireguard", "uplink", "gateway", "engine")
EVERY_CONTAINER = [("relay", service) for service in RELAY_NODE] + [
    ("model", service) for service in MODEL_NODE
]


def name_of(pair: Pair, node: str, service: str) -> str:
    return pair.container({"relay": pair.relay_node, "model": pair.model_node}[node], service)


def container_of(docker: DockerClient, pair: Pair, node: str, service: str) -> Container:
    return docker.container.inspect(name_of(pair, node, service))


def read(docker: DockerClient, container: str, file: str) -> list[list[str]]:
    """A table of /proc as the container sees it, as words."""
    text = docker.execute(container, ["cat", file])
    assert isinstance(text, str)
    return [line.split() for line in text.splitlines()]


def interfaces(docker: DockerClient, container: str) -> set[str]:
    return {words[0].rstrip(":") for words in read(docker, container, "/proc/net/dev")[2:]}


def address_of(hexadecimal: str) -> str:
    return socket.inet_ntoa(struct.pack("<I", int(hexadecimal, 16)))


@pytest.mark.parametrize(
    ("node", "service", "expected", "why"),
    [
        ("relay", "relay", {"lo", "wg0"}, "the tunnel is its only way"),
        ("relay", "wireguard", {"lo", "wg0"}, "the same namespace"),
        ("model", "gateway", {"lo", "wg0"}, "the tunnel is its only way"),
        ("model", "wireguard", {"lo", "wg0"}, "the same namespace"),
        ("model", "engine", {"lo"}, "a model with no network at all"),
    ],
)
def test_namespace_holds_exactly_these_interfaces(
    docker: DockerClient, pair: Pair, node: str, service: str, expected: set[str], why: str
) -> None:
    """Nothing that could carry a leak is in a workload's namespace."""
    assert interfaces(docker, name_of(pair, node, service)) == expected, why


@pytest.mark.parametrize(("node", "service"), [("relay", "relay"), ("model", "gateway")])
def test_workload_has_no_ipv6(docker: DockerClient, pair: Pair, node: str, service: str) -> None:
    """IPv6 is off, so nothing of it can be forgotten in a rule."""
    assert read(docker, name_of(pair, node, service), "/proc/net/if_inet6") == []


@pytest.mark.parametrize(
    ("node", "service", "peer"),
    [("relay", "relay", "10.66.0.2"), ("model", "gateway", "10.66.0.1")],
)
def test_only_route_leads_to_the_other_end(
    docker: DockerClient, pair: Pair, node: str, service: str, peer: str
) -> None:
    """There is no default route: no other address can be reached."""
    routes = read(docker, name_of(pair, node, service), "/proc/net/route")[1:]

    assert [(words[0], address_of(words[1]), address_of(words[7])) for words in routes] == [
        ("wg0", peer, "255.255.255.255")
    ]


def test_engine_has_no_route(docker: DockerClient, pair: Pair) -> None:
    """Not even a wrong one."""
    assert read(docker, name_of(pair, "model", "engine"), "/proc/net/route")[1:] == []


def test_gateway_listens_on_the_tunnel_address_only(docker: DockerClient, pair: Pair) -> None:
    """One listening TCP socket in the whole namespace, and none that hears another address."""
    sockets = read(docker, name_of(pair, "model", "gateway"), "/proc/net/tcp")[1:]
    listening = [words[1] for words in sockets if words[3] == "0A"]

    assert [
        (address_of(local.split(":")[0]), int(local.split(":")[1], 16)) for local in listening
    ] == [("10.66.0.2", 8080)]


@pytest.mark.parametrize(
    ("node", "service"), [("relay", "relay"), ("model", "gateway"), ("model", "engine")]
)
def test_workload_knows_no_name_server(
    docker: DockerClient, pair: Pair, node: str, service: str
) -> None:
    """A container without a network would still be given the host's resolv.conf."""
    lines = read(docker, name_of(pair, node, service), "/etc/resolv.conf")

    assert [words for words in lines if words and words[0] == "nameserver"] == []


@pytest.mark.parametrize(("node", "service"), EVERY_CONTAINER)
def test_no_tcp_port_is_published(
    docker: DockerClient, pair: Pair, node: str, service: str
) -> None:
    """One UDP port on the relay node, and nothing else anywhere."""
    bindings = container_of(docker, pair, node, service).host_config.port_bindings or {}
    expected = {"51820/udp"} if (node, service) == ("relay", "uplink") else set()

    assert set(bindings) == expected


@pytest.mark.parametrize(
    ("node", "service", "capabilities"),
    [
        ("relay", "wireguard", {"NET_ADMIN"}),
        ("relay", "uplink", {"NET_ADMIN"}),
        ("relay", "egress", {"NET_ADMIN", "SETUID", "SETGID", "SETPCAP"}),
        ("relay", "relay", set()),
        ("model", "wireguard", {"NET_ADMIN"}),
        ("model", "uplink", {"NET_ADMIN"}),
        ("model", "gateway", set()),
        ("model", "engine", set()),
    ],
)
def test_container_is_hardened(
    docker: DockerClient, pair: Pair, node: str, service: str, capabilities: set[str]
) -> None:
    """Every privilege that is not on this list is refused."""
    container = container_of(docker, pair, node, service)
    host = container.host_config

    added = {name.removeprefix("CAP_") for name in host.cap_add or []}
    assert added == capabilities
    assert host.cap_drop == ["ALL"]
    assert "no-new-privileges:true" in (host.security_opt or [])
    assert host.readonly_rootfs
    assert not host.privileged
    assert host.pids_limit
    assert not any("docker.sock" in str(mount.source) for mount in container.mounts)
    if service not in ("wireguard", "uplink", "egress"):
        assert (container.config.user or "root").split(":")[0].isdigit()


@pytest.mark.parametrize(("node", "service"), EVERY_CONTAINER)
def test_container_is_healthy(docker: DockerClient, pair: Pair, node: str, service: str) -> None:
    """Healthy means that it does its part, and every container can tell."""
    container = container_of(docker, pair, node, service)

    assert container.state.running
    assert container.state.health is not None
    assert container.state.health.status == "healthy"
