"""The second hop: what leaves the home of a node whose uplink is carried by another provider.

The capture is where the home's router would stand. Only WireGuard's packets to the provider may be
seen there, whatever dies: the other node's address stands in none of them.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from python_on_whales import Container, DockerClient

from tests.integration.lab import (
    PEER,
    WIREGUARD,
    Lab,
    attempt,
    kill_process,
    probe,
    process_ids,
    sysctls_of,
    wait_until,
    wait_until_healthy,
)
from tests.integration.tunnels import (
    ADDRESSES,
    SERVERS,
    Keys,
    Node,
    start_holder,
    start_node,
    wg,
)
from tests.leaks.capture import ARP, Frame
from tests.leaks.wire import UDP, WIREGUARD_TYPES, Wire, bridge_of
from tests.leaks.world import burst

SUBNET = "198.18.93"
VPS, PROVIDER, HOME = 10, 20, 30
PROVIDER_PORT = 51000
HOP_ADDRESS = "10.77.0.2"

PLAY_PROVIDER = f"""
set -eu
WG_PROCESS_FOREGROUND=1 LOG_LEVEL=error wireguard-go provider0 &
until [ -S /run/wireguard/provider0.sock ]; do sleep 0.05; done
wg set provider0 private-key /keys/provider listen-port {PROVIDER_PORT} \
  peer "$HOP_KEY" allowed-ips {HOP_ADDRESS}/32
ip address add 10.77.0.1/32 dev provider0
ip link set provider0 mtu 1420 up
ip route add {HOP_ADDRESS}/32 dev provider0
nft 'table ip nat {{ chain out {{
  type nat hook postrouting priority srcnat; ip saddr {HOP_ADDRESS} masquerade; }}; }}'
wait
"""


class HomeWire(Wire):
    """Lets pass what a home with a hop may say: WireGuard to its provider, and ARP."""

    def _is_permitted(self, frame: Frame) -> bool:
        if frame.protocol != UDP:
            return frame.ethertype == ARP
        ends = (frame.source, frame.destination)
        if ends != (f"{SUBNET}.{HOME}", f"{SUBNET}.{PROVIDER}"):
            return False
        is_first = frame.ports[1] == PROVIDER_PORT and frame.transport[8:12] in WIREGUARD_TYPES
        return is_first or frame.is_later_fragment

    def _is_refusal(self, frame: Frame) -> bool:
        return False


@dataclass
class Home:
    """The node behind the hop, the other one, and what is seen between them."""

    lab: Lab
    wire: HomeWire
    holder: Container
    uplink: Container
    hop: Container
    workload: Container
    vps: Node

    def passes(self) -> bool:
        return probe(self.vps.workload, "tcp", ADDRESSES["dial"], "8080")[0]

    def interfaces(self) -> set[str]:
        return set(attempt(self.uplink, "ls", "/sys/class/net")[1].split())


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("keys"))
    for name in ("hop", "provider"):
        private = wg("genkey")
        keys.public[name] = wg("pubkey", private)
        keys.write(name, private)
    (keys.folder / "none").write_text("", encoding="ascii")
    return keys


@pytest.fixture(scope="module")
def home(docker: DockerClient, keys: Keys) -> Iterator[Home]:
    with Lab(docker, "leaks-hop", SUBNET) as lab:
        wire = HomeWire(bridge_of(lab.name), SUBNET)
        try:
            home = start_home(lab, wire, keys)
            wait_until(home.passes, "the first bytes pass the tunnel", 30)
            yield home
            wire.settle()
            assert wire.lost() == 0, "the capture lost frames: it proves nothing"
        finally:
            wire.close()


def start_home(lab: Lab, wire: HomeWire, keys: Keys) -> Home:
    provider = lab.run(
        "provider",
        WIREGUARD,
        ["bash", "-c", PLAY_PROVIDER],
        address=PROVIDER,
        capabilities=["NET_ADMIN"],
        settings={"HOP_KEY": keys.public["hop"]},
        volumes=[(str(keys.folder / "provider"), "/keys/provider", "ro")],
        devices=["/dev/net/tun"],
        sysctls={
            "net.ipv4.ip_forward": "1",
            "net.ipv4.conf.all.send_redirects": "0",
            "net.ipv4.conf.default.send_redirects": "0",
            "net.ipv4.conf.all.rp_filter": "0",
        },
        hardened=False,
    )
    wire.add_bystander(provider.name)
    vps = start_node(lab, keys, "listen")
    wire.add_bystander(vps.uplink.name)
    holder = start_holder(lab, "dial", mtu=1360)
    wait_until_healthy(holder)
    uplink = lab.run(
        "uplink-dial",
        WIREGUARD,
        ["uplink"],
        processes_of=holder,
        capabilities=["NET_ADMIN"],
        settings={
            "TUNNEL_END": "dial",
            "TUNNEL_PEER_ADDRESS": ADDRESSES["listen"],
            "TUNNEL_PEER_KEY": keys.public["listen"],
            "TUNNEL_ENDPOINT": f"{SUBNET}.{VPS}:51820",
            "HOP_ADDRESS": HOP_ADDRESS,
            "HOP_MTU": "1420",
        },
        volumes=keys.volumes_of("dial"),
        devices=["/dev/net/tun"],
        sysctls=sysctls_of("gpu", "uplink"),
        restart="always",
    )
    wait_until_healthy(uplink)
    hop = lab.run(
        "hop",
        WIREGUARD,
        ["hop"],
        address=HOME,
        processes_of=holder,
        capabilities=["NET_ADMIN"],
        settings={
            "TUNNEL_ENDPOINT": f"{SUBNET}.{VPS}:51820",
            "HOP_ENDPOINT": f"{SUBNET}.{PROVIDER}:{PROVIDER_PORT}",
            "HOP_PEER_KEY": keys.public["provider"],
        },
        volumes=[
            (str(keys.folder / "hop"), "/run/secrets/hop_private_key", "ro"),
            (str(keys.folder / "none"), "/run/secrets/hop_preshared_key", "ro"),
        ],
        devices=["/dev/net/tun"],
        sysctls=sysctls_of("gpu", "uplink"),
        restart="always",
    )
    wait_until_healthy(hop)
    workload = lab.run("workload-dial", PEER, SERVERS, namespace_of=holder, hardened=False)
    return Home(lab, wire, holder, uplink, hop, workload, vps)


def test_vps_hears_the_provider_alone(home: Home) -> None:
    """Bytes pass, the other node's peer is the provider, and the home speaks with nobody else."""
    with home.wire.watch() as watch:
        answered, size = probe(home.vps.workload, "bulk", ADDRESSES["dial"], "8080", str(1 << 20))

    assert (answered, size) == (True, str(1 << 20))
    endpoint = attempt(home.vps.uplink, "wg", "show", "all", "endpoints")[1].split()[-1]
    assert endpoint.partition(":")[0] == f"{SUBNET}.{PROVIDER}"
    # wireguard-go hands up to 64 KiB of datagrams over as one frame: that is what the capture sees.
    assert watch.passed > (1 << 20) // (1 << 16), "control: they were seen"
    assert watch.fragments == 0, "the packet sizes fit into one another"
    assert watch.leaks == []


def test_uplink_has_no_other_interface(home: Home) -> None:
    """So that there is nothing to leave by when the hop is gone."""
    assert home.interfaces() == {"lo", "wg-hop"}
    route = attempt(home.uplink, "ip", "route")[1].splitlines()
    assert [line.split()[:3] for line in route] == [[f"{SUBNET}.{VPS}", "dev", "wg-hop"]]
    assert attempt(home.uplink, "ip", "-6", "address")[1] == ""


def test_capture_sees_what_it_must(home: Home) -> None:
    """The positive control: a packet to the other node's own address is a leak, and is seen."""
    stranger = home.lab.run(
        "stranger", PEER, ["sleep", "infinity"], namespace_of=home.hop, hardened=False
    )
    try:
        assert not probe(stranger, "udp", f"{SUBNET}.{VPS}", "51820")[0]
        with home.wire.watch() as guarded:
            probe(stranger, "udp", f"{SUBNET}.{VPS}", "51820")
        assert guarded.leaks == [], "the hop's rules refuse it"

        assert attempt(home.hop, "nft", "flush", "ruleset")[0]
        with home.wire.watch() as watch:
            probe(stranger, "udp", f"{SUBNET}.{VPS}", "51820")

        assert {frame.destination for frame in watch.leaks} == {f"{SUBNET}.{VPS}"}
    finally:
        stranger.remove(force=True)
        home.hop.restart()
        wait_until_healthy(home.hop, 30)
    wait_until(home.passes, "bytes pass", 30)


@pytest.mark.parametrize("before", ["true", "nft flush ruleset"])
def test_hostile_uplink_reaches_nobody(home: Home, before: str) -> None:
    """Root in the uplink's namespace, with and without its rules: nothing is seen at home."""
    with home.wire.watch() as watch:
        tried = burst(
            home.uplink.name,
            SUBNET,
            endpoint=VPS,
            name="example.org",
            rounds=1,
            capabilities=["NET_ADMIN"],
            before=before,
        )

    assert tried.probed.total() > 20, "control: it has tried"
    assert watch.kinds() == {}
    home.uplink.restart()
    wait_until_healthy(home.uplink, 30)
    wait_until(home.passes, "bytes pass", 30)


def test_hop_that_is_stopped_leaves_no_way(home: Home) -> None:
    """While it is down nothing is seen at home at all; it comes back and so do the bytes."""
    home.hop.stop(time=3)
    wait_until(lambda: home.interfaces() == {"lo"}, "the interface is gone", 5)
    with home.wire.watch() as watch:
        burst(
            home.uplink.name, SUBNET, endpoint=VPS, name="example.org", rounds=1,
            capabilities=["NET_ADMIN"], before="nft flush ruleset",
        )  # fmt: skip
        assert not home.passes()

    assert (watch.passed, watch.leaks) == (0, [])
    home.uplink.restart()
    home.hop.start()
    wait_until_healthy(home.hop, 30)
    wait_until(home.passes, "bytes pass", 30)


@pytest.mark.parametrize("death", ["process", "container", "interface", "uplink", "holder"])
def test_whatever_dies_only_the_provider_is_spoken_to(home: Home, death: str) -> None:
    """And the bytes come back by themselves."""
    with home.wire.watch() as watch:
        match death:
            case "process":
                kill_process(home.hop, "wireguard-go hop-new")
            case "container":
                assert home.hop.state.pid is not None
                os.kill(home.hop.state.pid, signal.SIGKILL)
            case "interface":
                assert attempt(home.uplink, "ip", "link", "delete", "wg-hop")[0]
            case "uplink":
                home.uplink.restart()
            case _:
                home.holder.restart()
                home.workload.restart()
                for container in (home.uplink, home.hop):
                    wait_until_healthy(container, 60)
        wait_until(home.passes, "bytes pass", 60)

    assert watch.passed > 0
    assert watch.leaks == []
    assert home.interfaces() == {"lo", "wg-hop"}


def test_keys_stay_where_they_are(home: Home, keys: Keys) -> None:
    """No argument, environment or log shows the provider's key; the uplink cannot read it."""
    key = keys.private("hop")
    assert process_ids(home.hop, "wireguard-go"), "control"

    seen = "".join(
        attempt(container, "sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline")[1]
        + str(container.logs())
        for container in (home.hop, home.uplink)
    )

    assert "wireguard-go" in seen, "control: command lines were read"
    assert key not in seen
    assert not attempt(home.uplink, "cat", "/run/secrets/hop_private_key")[0]
