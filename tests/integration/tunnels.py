"""Owns what tests of the tunnel share: keys, the two ends of it, and a way through each."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from python_on_whales import Container

from tests.integration.lab import (
    PEER,
    WIREGUARD,
    Lab,
    attempt,
    probe,
    require,
    sysctls_of,
    wait_until_healthy,
)

ADDRESSES = {"listen": "10.66.0.1", "dial": "10.66.0.2"}
OUTSIDE = {"listen": 10, "dial": 30}
OTHER = {"listen": "dial", "dial": "listen"}
ENDS = ("listen", "dial")
NODES = {"listen": "vps", "dial": "gpu"}  # as the Compose files are named


@dataclass
class Node:
    """One end: the holder of the namespace, the uplink, and a bystander in the namespace."""

    end: str
    holder: Container
    uplink: Container
    workload: Container


class Keys:
    """A pair of WireGuard keys and the preshared one, as files that root owns."""

    def __init__(self, folder: Path) -> None:
        require(WIREGUARD)
        self.folder = folder
        self.public: dict[str, str] = {}
        for end in ENDS:
            private = wg("genkey")
            self.public[end] = wg("pubkey", private)
            self.write(end, private)
        self.write("preshared", wg("genpsk"))

    def write(self, name: str, key: str) -> None:
        path = self.folder / name
        path.write_text(key + "\n", encoding="ascii")
        path.chmod(0o600)

    def private(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="ascii").strip()

    def volumes_of(self, end: str) -> list[tuple[str, str, str]]:
        return [
            (str(self.folder / end), "/run/secrets/tunnel_private_key", "ro"),
            (str(self.folder / "preshared"), "/run/secrets/tunnel_preshared_key", "ro"),
        ]


def wg(command: str, stdin: str = "") -> str:
    return subprocess.run(
        ["docker", "run", "--rm", "--interactive", "--network", "none", WIREGUARD, "wg", command],
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def start_node(lab: Lab, keys: Keys, end: str, **options: Any) -> Node:
    """Options are those of `start_holder` and `start_uplink`."""
    mtu = options.pop("mtu", None)
    name = options.get("name", "")
    holder = start_holder(lab, end, name, mtu)
    wait_until_healthy(holder)
    uplink = start_uplink(lab, keys, end, holder, **options)
    workload = lab.run(
        f"{prefix(name)}workload-{end}", PEER, SERVERS, namespace_of=holder, hardened=False
    )
    wait_until_healthy(uplink)
    return Node(end, holder, uplink, workload)


def start_pair(
    lab: Lab,
    keys: Keys,
    name: str = "",
    *,
    listen: int = 10,
    dial: int = 30,
    endpoint: str | None = None,
    mtu: int | None = None,
) -> dict[str, Node]:
    """Both ends, not necessarily in contact; `endpoint` is where the dialling one looks."""
    where = endpoint or f"{lab.subnet}.{listen}:51820"
    numbers = {"listen": listen, "dial": dial}
    return {
        end: start_node(lab, keys, end, name=name, address=numbers[end], endpoint=where, mtu=mtu)
        for end in ENDS
    }


def prefix(name: str) -> str:
    return f"{name}-" if name else ""


# Echoes on every address, of which only the tunnel's port 8080 at the dialling end may be reached.
SERVERS = (
    "sh",
    "-c",
    "for port in 8080 8081; do"
    " socat TCP-LISTEN:$port,fork,reuseaddr EXEC:cat & socat UDP-RECVFROM:$port,fork EXEC:cat &"
    " done; wait",
)


def start_holder(lab: Lab, end: str, name: str = "", mtu: int | None = None) -> Container:
    return lab.run(
        f"{prefix(name)}holder-{end}",
        WIREGUARD,
        ["sidecar"],
        capabilities=["NET_ADMIN"],
        settings={
            "TUNNEL_END": end,
            "TUNNEL_ADDRESS": ADDRESSES[end],
            "TUNNEL_PEER_ADDRESS": ADDRESSES[OTHER[end]],
            **({"TUNNEL_MTU": str(mtu)} if mtu else {}),
        },
        sysctls={"net.ipv4.ip_nonlocal_bind": "1", "net.ipv6.conf.all.disable_ipv6": "1"},
        restart="always",
        memory="32m",
    )


def start_uplink(
    lab: Lab,
    keys: Keys,
    end: str,
    holder: Container,
    *,
    name: str = "",
    address: int = 0,
    endpoint: str | None = None,
) -> Container:
    return lab.run(
        f"{prefix(name)}uplink-{end}",
        WIREGUARD,
        ["uplink"],
        address=address or OUTSIDE[end],
        processes_of=holder,
        capabilities=["NET_ADMIN"],
        settings={
            "TUNNEL_END": end,
            "TUNNEL_PEER_ADDRESS": ADDRESSES[OTHER[end]],
            "TUNNEL_PEER_KEY": keys.public[OTHER[end]],
            "TUNNEL_ENDPOINT": endpoint or f"{lab.subnet}.{OUTSIDE['listen']}:51820",
        },
        volumes=keys.volumes_of(end),
        devices=["/dev/net/tun"],
        sysctls={
            **sysctls_of(NODES[end], "uplink"),
            "net.ipv4.conf.all.rp_filter": "0",  # tests come from addresses that have no route
        },
        restart="always",
    )


def passes(nodes: dict[str, Node]) -> bool:
    return probe(nodes["listen"].workload, "tcp", ADDRESSES["dial"], "8080")[0]


def status(container: Container) -> dict[str, str]:
    answered, text = attempt(container, "status")
    assert answered
    return dict(line.split("=", 1) for line in text.splitlines())
