"""Further machines with engines: what the doctor, a proof and the status know of their tunnel."""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import ClassVar

import pytest

from scripts.bundle import ROOT, WORKER, pack
from scripts.doctor import census, refusals, rules, sockets
from scripts.doctor.examination import checks_of
from scripts.doctor.finding import Level
from scripts.doctor.model.workers import CHECK
from scripts.node import arguments
from scripts.node.kinds import kinds
from scripts.node.node import Node
from scripts.node.tools import CannotLook, Said
from scripts.prove import proof
from scripts.prove.capture import Capture, Seen
from scripts.prove.outside import (
    Bridge,
    Permitted,
    further_tunnels_of,
    kinds_at,
    outside_interfaces,
)
from scripts.prove.outside import tunnels_of as own_tunnels_of
from scripts.prove.packets import kind_of, read_frame
from scripts.prove.proof import Plan, controls, send_from
from tests.unit.adyton.recorded import NOW, Nodes, Recorded
from tests.unit.adyton.test_checks import HEADING, RULES, hold, socket_row
from tests.unit.adyton.test_prove_parts import DATA, MAC, STRANGE, ipv4, tcp, udp
from tests.unit.adyton.test_status import World, told

ONE, OTHER = "A" * 43 + "=", "B" * 42 + "A="
PEERS = f"10.67.0.2={ONE},10.67.0.3={OTHER}"
LISTEN, PORT = "198.18.5.10", "51821"
USERSPACE = "rules=standing\ncarrier=userspace\nhandshake_age_seconds=9\n"
KERNEL = USERSPACE.replace("userspace", "kernel")
ELSEWHERE = "rules=standing\ncarrier=elsewhere\n"
HEARD = f"{ONE}\t{NOW - 20:.0f}\n{OTHER}\t{NOW - 90:.0f}\n"
IN_UPLINK = "docker exec id-of-workers-uplink wg show wg-new latest-handshakes"
IN_HOLDER = "docker exec id-of-workers wg show wg0 latest-handshakes"


def first_box(folder: Path) -> Nodes:
    """A model node with compose.gpu.router.yml, as Compose describes it."""
    nodes = Nodes(folder, "model")
    for service in ("wireguard", "uplink", "workers", "workers-uplink", "router"):
        nodes.add(service)
    nodes.services["uplink"]["environment"] = {"TUNNEL_ENDPOINT": "198.18.8.10:51820"}
    nodes.services["workers"]["network_mode"] = "none"
    nodes.services["router"]["network_mode"] = "service:workers"
    nodes.services["workers-uplink"] |= {
        "networks": {"workers": None},
        "environment": {"TUNNEL_END": "listen", "TUNNEL_PEERS": PEERS},
        "ports": [
            {"host_ip": LISTEN, "published": PORT, "target": 51820, "protocol": "udp"},
        ],
    }
    nodes.tools.answers |= {
        "docker exec id-of-workers-uplink status": USERSPACE,
        "docker exec id-of-workers status": ELSEWHERE,
        IN_UPLINK: HEARD,
    }
    return nodes


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return first_box(tmp_path)


def node_of(nodes: Nodes) -> Node:
    nodes.find()  # lays out what the machine answers
    return Node(kinds()["model"], nodes.tools, Path("/nowhere"), (), ("compose.yml",))


# The doctor


def test_workers_that_are_heard(nodes: Nodes) -> None:
    """Each by its address, with its own age; the process that carries them tells."""
    found = nodes.find(CHECK)

    assert [it.text for it in found] == [
        "The last handshake with the worker 10.67.0.2 was 20 s ago.",
        "The last handshake with the worker 10.67.0.3 was 90 s ago.",
    ]


def test_kernel_tells_in_the_holder(nodes: Nodes) -> None:
    """Where the interface is; a spacious list of peers is read like the container reads it."""
    nodes.services["workers-uplink"]["environment"]["TUNNEL_PEERS"] = PEERS.replace(",", ", ")
    del nodes.tools.answers[IN_UPLINK]
    nodes.tools.answers |= {
        "docker exec id-of-workers-uplink status": ELSEWHERE,
        "docker exec id-of-workers status": KERNEL,
        IN_HOLDER: HEARD,
    }

    assert [it.level for it in nodes.find(CHECK)] == [Level.OK, Level.OK]


@pytest.mark.parametrize(
    ("answers", "problems"),
    [
        ({IN_UPLINK: HEARD.replace(f"{NOW - 90:.0f}", f"{NOW - 200:.0f}")}, {"worker-silent"}),
        ({IN_UPLINK: f"{ONE}\t{NOW:.0f}\n{OTHER}\t0\n"}, {"worker-silent"}),
        ({IN_UPLINK: f"{ONE}\t{NOW:.0f}\n"}, {"worker-silent"}),
        ({IN_UPLINK: f"{HEARD}{'C' * 42}A=\t0\n"}, {"worker-unknown"}),
        ({"docker exec id-of-workers-uplink status": ELSEWHERE}, {"workers-tunnel-missing"}),
        (
            {"docker exec id-of-workers status": ELSEWHERE.replace("standing", "changed")},
            {"workers-rules-not-standing"},
        ),
        (
            {"docker exec id-of-workers-uplink status": USERSPACE.replace("standing", "changed")},
            {"workers-rules-not-standing"},
        ),
    ],
)
def test_what_is_amiss_with_the_workers(
    nodes: Nodes, answers: dict[str, str], problems: set[str]
) -> None:
    """A worker that is off is a warning; a key that nobody named, or changed rules, are not."""
    nodes.tools.answers |= answers

    found = [it for it in nodes.find(CHECK) if it.problem]

    assert {it.problem for it in found} == problems
    assert len(found) == 1, "the others are well"
    assert "C" * 42 not in found[0].text


@pytest.mark.parametrize("service", ["workers", "workers-uplink"])
def test_end_that_is_down(nodes: Nodes, service: str) -> None:
    """Either of the two."""
    at = [it["Id"] for it in nodes.containers].index(f"id-of-{service}")
    nodes.containers[at]["State"]["Status"] = "exited"

    assert nodes.problems(CHECK) == {"workers-tunnel-down"}


def test_tunnel_that_says_nothing_is_not_taken_for_well(nodes: Nodes) -> None:
    """Neither without a status nor without a list of whom it has heard."""
    nodes.tools.answers[IN_UPLINK] = Said(1, err="Unable to access interface")
    assert [it.level for it in nodes.find(CHECK)] == [Level.COULD_NOT_LOOK]

    nodes.tools.answers["docker exec id-of-workers status"] = Said(1, err="no such container")
    assert [it.level for it in nodes.find(CHECK)] == [Level.COULD_NOT_LOOK]


def test_node_without_workers_is_none_of_this(tmp_path: Path) -> None:
    """And its status shows nothing of them."""
    nodes = Nodes(tmp_path, "model")
    nodes.add("uplink")

    assert [it.level for it in nodes.find(CHECK)] == [Level.NOT_APPLICABLE]
    assert "workers" not in World(tmp_path / "status", "model").look().as_json()


@pytest.mark.parametrize(
    ("service", "names", "problems"),
    [
        ("workers", "lo wg0", set()),
        ("workers", "lo eth0 wg0", {"interface-too-many"}),
        ("router", "lo wg0", set()),
        ("workers-uplink", "lo eth0 wg-new", set()),
        ("workers-uplink", "lo eth0 eth1", {"interface-too-many"}),
        ("workers-uplink", "lo eth0 wg0", {"interface-too-many"}),
    ],
)
def test_namespaces_of_the_workers_tunnel(
    nodes: Nodes, service: str, names: str, problems: set[str]
) -> None:
    """Those of its two ends are held to what those of the node's own tunnel are held to."""
    usual = {"workers": "lo wg0", "router": "lo wg0", "workers-uplink": "lo eth0"}
    for name, listed in {"wireguard": "lo", "uplink": "lo", **usual, service: names}.items():
        lines = "".join(f"{it}: 0\n" for it in listed.split())
        nodes.tools.answers[f"docker exec id-of-{name} cat /proc/self/net/dev"] = HEADING + lines
        nodes.tools.answers[f"docker exec id-of-{name} readlink"] = "net:[1]\n"

    assert nodes.problems(census.CHECK) == problems


@pytest.mark.parametrize("service", ["workers", "workers-uplink"])
def test_rulesets_of_the_workers_tunnel(nodes: Nodes, service: str) -> None:
    """Both ends load theirs for comparison with the list of peers, and a change is told."""
    nodes.services[service]["cap_add"] = ["NET_ADMIN"]
    nodes.services[service].setdefault("environment", {})["TUNNEL_PEERS"] = PEERS
    at = [it["Id"] for it in nodes.containers].index(f"id-of-{service}")
    nodes.containers[at]["Config"]["Cmd"] = ["sidecar" if service == "workers" else "uplink"]
    start = f"docker exec id-of-{service}"
    listing = f"{start} nft --stateless list table inet node"
    nodes.tools.answers |= {
        listing: RULES,
        f"{start} nft --stateless list table netdev": Said(1, err="No such file or directory"),
        f"{start} nft list tables": "table inet node\n",
        f"{start} cat /proc/self/net/dev": f"{HEADING} lo: 0\n eth0: 0\n",
        "docker run --rm": RULES,
    }
    assert nodes.problems(rules.CHECK) == set()
    (loaded,) = [it for it in nodes.tools.asked if it.startswith("docker run --rm")]
    assert f"--env=TUNNEL_PEERS={PEERS}" in loaded

    nodes.tools.answers[listing] = RULES.replace("drop", "accept")

    assert nodes.problems(rules.CHECK) == {"rules-changed"}


@pytest.mark.parametrize(
    ("open_at", "port", "problem"),
    [
        (LISTEN, int(PORT), None),
        ("0.0.0.0", int(PORT), "socket-open"),
        ("198.18.5.11", int(PORT), "socket-open"),
        (LISTEN, 51820, "socket-open"),
    ],
)
def test_one_port_is_open_at_one_address(
    nodes: Nodes, open_at: str, port: int, problem: str | None
) -> None:
    """That of WORKERS_LISTEN; the same port at another address of the machine is another one."""
    at = [it["Id"] for it in nodes.containers].index("id-of-workers-uplink")
    nodes.containers[at]["NetworkSettings"]["Ports"] = {
        "51820/udp": [{"HostIp": LISTEN, "HostPort": PORT}]
    }
    number = struct.unpack("=I", socket.inet_aton(open_at))[0]
    row = socket_row(f"{number:08X}", port, "07", 99)
    nodes.tools.write("proc/1/net/udp", f"heading\n{row}")
    hold(nodes, 50, "docker-proxy", 99)

    found = [it for it in nodes.find(sockets.CHECK) if it.problem]

    assert [it.problem for it in found] == ([problem] if problem else [])


@pytest.mark.parametrize("address", [None, "0.0.0.0"])
def test_workers_port_that_is_closed(nodes: Nodes, address: str | None) -> None:
    """Nothing publishes it, or not at the address of WORKERS_LISTEN: its service is named."""
    at = [it["Id"] for it in nodes.containers].index("id-of-workers-uplink")
    if address:
        nodes.containers[at]["NetworkSettings"]["Ports"] = {
            "51820/udp": [{"HostIp": address, "HostPort": PORT}]
        }

    (found,) = [it for it in nodes.find(sockets.CHECK) if it.problem]

    assert found.problem == "tunnel-port-closed"
    assert f"{LISTEN}:{PORT} of workers-uplink" in found.text
    assert "--force-recreate workers-uplink" in found.remedy


# A proof

TO_WORKER = "198.18.5.20"


def said(protocol: int, payload: bytes, to: str = TO_WORKER, offset: int = 0) -> bytes:
    """A packet of one of this node's containers."""
    return ipv4(protocol, payload, source="198.18.8.30", to=to, offset=offset)


@pytest.mark.parametrize(
    ("service", "data", "forbidden"),
    [
        ("workers-uplink", said(17, udp(51820, 40000, DATA)), None),
        ("workers-uplink", said(17, b"later", offset=185), None),
        ("workers-uplink", said(17, udp(40000, 51820, DATA)),
         "workers-uplink: tunnel of workers-uplink"),
        ("workers-uplink", said(17, udp(51821, 40000, DATA)),
         "workers-uplink: tunnel of workers-uplink"),
        ("workers-uplink", said(17, udp(51820, 40000, b"clear")),
         f"workers-uplink: {STRANGE}"),
        ("workers-uplink", said(17, udp(40000, 53, b"?")), "workers-uplink: udp 53"),
        ("workers-uplink", said(6, tcp(51820, 443)), "workers-uplink: tcp 443"),
        ("workers-uplink", said(6, b"later", offset=185),
         "workers-uplink: tcp fragment"),
        ("uplink", said(17, udp(40000, 51820, DATA), to="198.18.8.10"), None),
        ("uplink", said(17, udp(51820, 40000, DATA)),
         "uplink: tunnel of workers-uplink"),
        ("router", said(17, udp(51820, 40000, DATA)),
         "router: tunnel of workers-uplink"),
    ],
)  # fmt: skip
def test_workers_uplink_may_answer_from_its_port_alone(
    nodes: Nodes, service: str, data: bytes, forbidden: str | None
) -> None:
    """In WireGuard's form; and nobody else may, nor may it say what the other uplink may."""
    node = node_of(nodes)
    judge = Permitted(node, [Bridge("br", {MAC.hex(":"): service})], own_tunnels_of(node)).judge

    assert judge("br", read_frame(data)) == forbidden


def test_tunnels_of_both_kinds_are_told_apart(nodes: Nodes) -> None:
    """Outside by the published port, at the bridge by the container's own."""
    node = node_of(nodes)
    further = further_tunnels_of(node)
    every = own_tunnels_of(node) + further["workers-uplink"]

    assert list(further) == ["workers-uplink"]
    own = read_frame(said(17, udp(40000, 51820, DATA), to="198.18.8.10"))
    assert kind_of(own, every) == "tunnel"
    for port in (51820, int(PORT)):
        theirs = read_frame(ipv4(17, udp(40000, port, DATA), source=TO_WORKER, to=LISTEN))
        assert kind_of(theirs, every) == "tunnel of workers-uplink"


def test_published_port_of_anything_else_is_no_tunnel(nodes: Nodes) -> None:
    """Only of what Compose starts as a listening end; its inner end, which has none, is another."""
    nodes.services["workers"]["environment"] = {"TUNNEL_END": "listen"}
    assert list(further_tunnels_of(node_of(nodes))) == ["workers-uplink"]

    nodes.services["workers-uplink"]["environment"] = {}

    assert further_tunnels_of(node_of(nodes)) == {}


def test_workers_packets_do_not_stand_for_the_nodes_own(nodes: Nodes) -> None:
    """At each bridge and each way out the packets of its own tunnel have to be seen."""
    write_routes(nodes)
    node = node_of(nodes)
    bridges = [Bridge("a", {"1": "uplink"}), Bridge("b", {"2": "workers-uplink"}),
               Bridge("c", {"3": "engine"})]  # fmt: skip
    expected = outside_interfaces(node) | kinds_at(bridges, node)
    seen = [Seen(name, f"outside interface {name}") for name in ("eth0", "eth1")]
    seen += [Seen(bridge.interface, bridge.role) for bridge in bridges]

    def failing() -> list[str]:
        plan = Plan(1, (), "198.18.8.200", False)
        found = controls(seen, [], plan, expected)
        return [it["about"].rpartition(" on ")[2] for it in found if it["passed"] is False]

    ways = ["outside interface eth0", "bridge of uplink"]
    theirs = ["outside interface eth1", "bridge of workers-uplink"]
    for it in seen:
        it.kinds["tunnel of workers-uplink"] = 3
    assert failing() == ways
    for it in seen:
        it.kinds["tunnel"] = 1
    assert failing() == []
    for it in seen:
        it.kinds["tunnel of workers-uplink"] = 0
    assert failing() == theirs


ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t{gateway}\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t{home}\t00000000\t0001\t0\t0\t100\t{mask}\t0\t0\t0
eth1\t{theirs}\t00000000\t0001\t0\t0\t300\t{mask}\t0\t0\t0
eth2\t{theirs}\t00000000\t0001\t0\t0\t400\t{mask}\t0\t0\t0
"""


def as_route(address: str) -> str:
    return f"{struct.unpack('=I', socket.inet_aton(address))[0]:08X}"


def write_routes(nodes: Nodes, *, default: bool = True) -> None:
    text = ROUTES.format(
        gateway=as_route("198.18.1.1"), home=as_route("198.18.1.0"), theirs=as_route("198.18.5.0"),
        mask=as_route("255.255.255.0"),
    )  # fmt: skip
    lines = text.splitlines(keepends=True)
    nodes.tools.write("proc/net/route", "".join(lines if default else [lines[0], *lines[2:]]))


@pytest.mark.parametrize(
    ("address", "default", "interfaces"),
    [
        (LISTEN, True, {"eth0": "tunnel", "eth1": "tunnel of workers-uplink"}),
        (LISTEN, False, {"eth1": "tunnel of workers-uplink"}),
        ("198.18.1.10", True, {"eth0": "tunnel"}),
        ("", True, {"eth0": "tunnel"}),
    ],
)
def test_capture_looks_at_the_workers_network_as_well(
    nodes: Nodes, address: str, default: bool, interfaces: dict[str, str]
) -> None:
    """Where the address of WORKERS_LISTEN is, by the best route; and at the way out as before."""
    write_routes(nodes, default=default)
    nodes.services["workers-uplink"]["ports"][0]["host_ip"] = address

    assert outside_interfaces(node_of(nodes)) == interfaces


class Watching(Capture):
    """Sees, on each interface, what a test says, and reads no frame."""

    sees: ClassVar[dict[str, list[bytes]]] = {}

    def __enter__(self) -> Capture:
        for seen in self.seen:
            for data in self.sees.get(seen.interface, []):
                self.take(seen, data)
        return self

    def __exit__(self, *ended: object) -> None:
        """There is nothing to close."""


@pytest.mark.parametrize(
    ("more", "forbidden"),
    [([], []), ([said(17, udp(40000, 53, b"?"))], ["workers-uplink: udp 53"])],
)
def test_proof_of_a_box_with_workers(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, more: list[bytes], forbidden: list[str]
) -> None:
    """Both ways out and both bridges are captured; their tunnel is lawful, and no more is."""
    for service, mac in (("uplink", "02:42:00:00:00:09"), ("workers-uplink", MAC.hex(":"))):
        at = [it["Id"] for it in nodes.containers].index(f"id-of-{service}")
        nodes.containers[at]["NetworkSettings"]["Networks"] = {
            "n": {"IPAddress": "198.18.99.2", "IPPrefixLen": 24, "MacAddress": mac,
                  "NetworkID": f"{service:.>12}"},
        }  # fmt: skip
        options = {"com.docker.network.bridge.name": f"br-{service}"}
        described = json.dumps([{"Driver": "bridge", "Options": options}])
        nodes.tools.answers[f"docker network inspect {service:.>12}"] = described
    write_routes(nodes)
    nodes.add("gateway")
    nodes.tools.root = True
    nodes.tools.answers |= {"docker run --rm": "[]", "docker image inspect --format {{json": "[]"}
    own = ipv4(17, udp(51820, 40000, DATA), source="198.18.8.10", to="198.18.8.30")
    theirs = said(17, udp(51820, 40000, DATA))
    Watching.sees = {
        "eth0": [own], "br-uplink": [own],
        "eth1": [ipv4(17, udp(40000, int(PORT), DATA), source=TO_WORKER, to=LISTEN)],
        "br-workers-uplink": [theirs, *more],
    }  # fmt: skip
    monkeypatch.setattr(proof, "Capture", Watching)
    node = node_of(nodes)
    monkeypatch.setattr(refusals, "one_a_namespace", lambda node: [])

    report = proof.prove(node, Plan(0, (), "198.18.8.200", False), lambda what: None)

    assert {it["role"]: list(it["forbidden"]) for it in report["captures"]} == {
        "outside interface eth0": [],
        "outside interface eth1": [],
        "bridge of uplink": [],
        "bridge of workers-uplink": forbidden,
    }
    assert [it["passed"] for it in report["controls"]] == [True, True, True, True, None]
    told = [it for it in report["verdict"]["reasons"] if "forbidden packets" in it]
    assert len(told) == len(forbidden)


# A worker


def worker(folder: Path) -> Nodes:
    """A worker, as Compose describes it, that is well."""
    nodes = Nodes(folder, "worker")
    for service in ("wireguard", "uplink", "door", "engine"):
        nodes.add(service)
    nodes.services["uplink"]["environment"] = {
        "TUNNEL_END": "dial", "TUNNEL_ENDPOINT": f"{LISTEN}:{PORT}",
    }  # fmt: skip
    nodes.services["wireguard"]["network_mode"] = "none"
    nodes.services["door"]["network_mode"] = "service:wireguard"
    nodes.services["uplink"]["networks"] = {"tunnel": None}
    nodes.services["engine"]["deploy"] = {
        "resources": {"reservations": {"devices": [{"count": 1, "capabilities": ["gpu"]}]}}
    }
    usual = {"wireguard": "lo wg0", "uplink": "lo eth0", "door": "lo wg0", "engine": "lo"}
    for name, listed in usual.items():
        lines = "".join(f"{it}: 0\n" for it in listed.split())
        nodes.tools.answers[f"docker exec id-of-{name} cat /proc/self/net/dev"] = HEADING + lines
        nodes.tools.answers[f"docker exec id-of-{name} readlink"] = "net:[1]\n"
    nodes.tools.answers |= {
        "docker exec id-of-uplink status": USERSPACE,
        "docker exec id-of-wireguard status": ELSEWHERE,
        "nvidia-smi --query-gpu": "0, RTX 4090, 570.133.07, 20123, 24564, 61, GPU-5ba4538b\n",
        "docker info": '{"Runtimes": {"nvidia": {}}}',
    }
    return nodes


LOOKED_AT = ("containers", "namespaces", "tunnel", "open sockets", "GPU", "engine")
EXEC = "docker exec id-of"


@pytest.mark.parametrize(
    ("answers", "state", "problem"),
    [
        ({}, {}, None),
        (
            {f"{EXEC}-uplink status": USERSPACE.replace("=9", "=never")}, {}, "handshake-missing",
        ),
        ({f"{EXEC}-uplink status": ELSEWHERE}, {}, "tunnel-missing"),
        (
            {f"{EXEC}-uplink status": USERSPACE.replace("standing", "changed")}, {},
            "rules-not-standing",
        ),
        (
            {f"{EXEC}-door cat /proc/self/net/dev": f"{HEADING}lo: 0\neth0: 0\n"}, {},
            "interface-too-many",
        ),
        ({f"{EXEC}-door readlink": "net:[2]\n"}, {}, "left-behind"),
        ({"nvidia-smi --query-gpu": ""}, {}, "gpu-too-few"),
        ({}, {"door": {"Health": {"Status": "unhealthy"}}}, "container-unhealthy"),
        ({}, {"engine": {"Health": {"Status": "unhealthy"}}}, "engine-ill"),
        ({}, {"engine": {"Status": "exited"}}, "engine-down"),
    ],
)  # fmt: skip
def test_doctor_on_a_worker(
    tmp_path: Path,
    answers: dict[str, str],
    state: dict[str, dict[str, object]],
    problem: str | None,
) -> None:
    """It is looked at like any node that dials, and its engine like that of the first."""
    nodes = worker(tmp_path)
    nodes.tools.answers |= answers
    for container in nodes.containers:
        service = container["Id"].removeprefix("id-of-")
        container["State"] |= state.get(service, {})
    checks = [it for it in checks_of(kinds()["worker"]) if it.name in LOOKED_AT]

    found = nodes.find(*checks)

    assert {it.check for it in found} == set(LOOKED_AT)
    problems = {it.problem for it in found if it.problem}
    assert problems == set() if problem is None else problem in problems
    assert Level.COULD_NOT_LOOK not in {it.level for it in found}


def test_port_of_a_worker_is_nobodys(tmp_path: Path) -> None:
    """It publishes nothing: an open port of WireGuard's is one too many."""
    nodes = worker(tmp_path)
    nodes.tools.write("proc/1/net/udp", f"heading\n{socket_row('00000000', 51820, '07', 99)}")

    assert nodes.problems(sockets.CHECK) == {"socket-open"}


def test_worker_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that has no other node's; with the files of COMPOSE_FILE."""
    monkeypatch.setattr(arguments, "ROOT", tmp_path)
    for name in ("compose.gpu.worker.yml", "compose.gpu.worker.journal.yml"):
        (tmp_path / name).touch()
    files = "compose.gpu.worker.yml:compose.gpu.worker.journal.yml"
    (tmp_path / ".env").write_text(f"COMPOSE_FILE={files}\n", encoding="utf-8")
    parser = argparse.ArgumentParser()
    arguments.add_node_arguments(parser)

    node = arguments.node_of(parser.parse_args([]), Recorded(tmp_path / "machine"))

    assert node.kind.name == "worker"
    assert list(node.files) == [tmp_path / name for name in files.split(":")]


@pytest.mark.parametrize(
    ("data", "forbidden"),
    [
        (said(17, udp(40000, int(PORT), DATA), to=LISTEN), None),
        (said(17, udp(40000, int(PORT), DATA)), f"uplink: {STRANGE}"),
        (said(17, udp(40000, int(PORT), b"clear"), to=LISTEN), f"uplink: {STRANGE}"),
        (said(17, udp(40000, 53, b"?"), to=LISTEN), "uplink: udp 53"),
    ],
)
def test_worker_may_call_the_first_box_alone(
    tmp_path: Path, data: bytes, forbidden: str | None
) -> None:
    """At its one port, in WireGuard's form."""
    nodes = worker(tmp_path)
    nodes.find()
    node = Node(kinds()["worker"], nodes.tools, Path("/nowhere"), (), ("compose.yml",))
    judge = Permitted(node, [Bridge("br", {MAC.hex(":"): "uplink"})], own_tunnels_of(node)).judge

    assert judge("br", read_frame(data)) == forbidden


@pytest.mark.parametrize(
    ("endpoint", "interfaces"),
    [
        (LISTEN, {"eth0": "", "eth1": "tunnel"}),
        ("198.18.1.20", {"eth0": "tunnel"}),
        ("198.18.77.1", {"eth0": "tunnel"}),
    ],
)
def test_capture_on_a_worker_looks_where_the_first_box_is(
    tmp_path: Path, endpoint: str, interfaces: dict[str, str]
) -> None:
    """Its tunnel need not pass where the internet is, and is then not waited for there."""
    nodes = worker(tmp_path)
    write_routes(nodes)
    nodes.services["uplink"]["environment"]["TUNNEL_ENDPOINT"] = f"{endpoint}:{PORT}"
    nodes.find()
    node = Node(kinds()["worker"], nodes.tools, Path("/nowhere"), (), ("compose.yml",))

    assert outside_interfaces(node) == interfaces


def test_canaries_on_a_worker_are_sent_by_the_image_that_has_python(tmp_path: Path) -> None:
    """The door's has none; where the engine is down, that is said."""
    nodes = worker(tmp_path)
    engine = nodes.containers[-1]
    engine["Image"] = "sha256:engine"
    nodes.tools.answers["docker run --rm"] = "[]"
    plan = Plan(1, (), "198.18.8.200", False)

    def send() -> list[dict[str, object]]:
        nodes.find()
        node = Node(kinds()["worker"], nodes.tools, Path("/nowhere"), (), ("compose.yml",))
        return send_from(node, node.running["door"], "mark", plan, 20_000)

    assert send() == []
    assert "--entrypoint=python3 sha256:engine - mark" in nodes.tools.asked[-1]

    engine["State"]["Status"] = "exited"
    with pytest.raises(CannotLook, match="engine does not run"):
        send()


def test_bundle_of_a_worker_has_what_works_there(tmp_path: Path) -> None:
    """Its doctor knows what it is on, whatever else is missing; each command finds its modules."""
    content = pack(WORKER, (ROOT / WORKER.example).read_text(encoding="utf-8"), {})
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(tmp_path, filter=lambda entry, _: entry.replace(uid=None, gid=None))
    home = tmp_path / "opt/worker"
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho Cannot connect >&2; exit 1\n", encoding="utf-8")
    docker.chmod(0o755)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(home / "scripts/node-admin"), *words],
            env={**os.environ, "PATH": f"{docker.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    told = json.loads(run("doctor", "--json").stdout)

    assert told["node"] == "worker"
    assert {it["check"] for it in told["findings"]} == {
        it.name for it in checks_of(kinds()["worker"])
    }
    assert not [it for it in told["findings"] if "itself broke" in it["text"]]
    commands = {path.stem for path in (home / "scripts/commands").glob("[a-z]*.py")}
    assert commands == {
        *("doctor", "harden", "help", "logs", "prove", "status", "uninstall", "upgrade"),
    }
    listed = [line.split()[0] for line in run("help").stdout.splitlines() if "  " in line]
    assert listed == sorted(commands)
    assert run("upgrade", "--dry-run").stderr.startswith("Not upgraded: Compose does not tell")
    assert "Cannot connect" in run("uninstall", "--dry-run").stderr


# The status


def test_status_of_a_worker(tmp_path: Path) -> None:
    """Its containers and its tunnel; it has no queue to tell of."""
    world = World(tmp_path, "model")
    world.kind = "worker"

    snapshot = world.look()

    assert snapshot.node == "worker"
    assert snapshot.problems == []
    assert told(snapshot, "tunnel")["handshake_age_seconds"] == 12
    assert not {"work", "hop", "workers"} & snapshot.as_json().keys()


def test_status_shows_the_workers(tmp_path: Path) -> None:
    """When each was heard, as old as that is by now."""
    world = World(tmp_path, "model")
    for service in ("workers", "workers-uplink"):
        world.add(service, Pid=20)["HostConfig"]["Memory"] = 0
    world.services["workers-uplink"]["environment"] = {"TUNNEL_PEERS": PEERS}
    world.tools.answers |= {
        "docker exec id-of-workers-uplink status": USERSPACE,
        IN_UPLINK: HEARD.replace(f"{NOW - 90:.0f}", "0"),
    }
    looker = world.looker()
    looker.look()
    world.tools.time = NOW + 5

    assert told(looker.look(), "workers") == {"10.67.0.2": 25, "10.67.0.3": None}
