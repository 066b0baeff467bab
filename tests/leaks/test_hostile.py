"""What a hostile workload in a node's namespace can send to the outside: nothing."""

import pytest

from tests.leaks.hostile import KINDS
from tests.leaks.report import Report
from tests.leaks.wire import Watch
from tests.leaks.world import Control, World, explain

SCENARIOS: dict[tuple[int, str], tuple[str, ...]] = {
    (14, "sockets, bound to every interface"): ("tcp", "udp", "bound-device"),
    (15, "raw and packet sockets, as root"): (
        "raw-udp", "raw-protocol", "frame", "frame-unknown", "frame-vlan",
    ),
    (16, "cleartext to the other node's endpoint"): ("endpoint", "endpoint-frame"),
    (17, "DNS: Docker's resolver, others, TLS, HTTPS"): (
        "dns-docker", "dns-udp", "dns-tcp", "dns-tls", "dns-https",
    ),
    (19, "IPv6: datagrams, discovery, groups, frames"): ("frame6", "udp6", "nd6", "mld6"),
    (20, "ICMP echo, broadcast, SSDP, mDNS, IGMP"): (
        "icmp-echo", "broadcast", "ssdp", "mdns", "igmp",
    ),
    (21, "large datagrams, fragments, DF around the MTU"): ("large", "fragment", "unfragmented"),
    (26, "the host, metadata service, private networks"): ("private", "host-port"),
}  # fmt: skip

ADMIN = ("NET_ADMIN",)


def test_every_kind_belongs_to_a_scenario() -> None:
    """What is tried is also judged."""
    assert sorted(kind for kinds in SCENARIOS.values() for kind in kinds) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_control_sees_every_kind(control: Control, kind: str) -> None:
    """Without protection the same capture sees each kind of probe."""
    assert control.seen_of([kind]) > 0


# Kinds that a namespace's rules let through, since its own program has to send the like.
WAYS = {
    ("relay", "uplink"): ("endpoint-frame", "fragment"),
    ("model", "uplink"): ("endpoint", "endpoint-frame", "fragment"),
    ("relay", "egress"): ("dns-udp", "dns-tcp"),
}


@pytest.mark.parametrize(
    ("node", "service", "capabilities"),
    [
        ("relay", "wireguard", ()),
        ("relay", "wireguard", ADMIN),
        ("model", "wireguard", ()),
        ("model", "wireguard", ADMIN),
        ("model", "engine", ()),
        ("model", "engine", ADMIN),
        ("relay", "uplink", ()),
        ("model", "uplink", ()),
        ("relay", "egress", ()),
    ],
)
def test_nothing_leaves(
    world: World,
    control: Control,
    report: Report,
    node: str,
    service: str,
    capabilities: tuple[str, ...],
) -> None:
    """Every way out, tried as root: the outside sees the tunnel and nothing else."""
    without = WAYS.get((node, service), ())

    with world.watch() as watch:
        burst = world.burst(node, service, capabilities=capabilities, without=without)

    enter(report, control, watch, burst.probed, burst.answered)
    assert set(burst.probed) == set(KINDS) - set(without)
    assert watch.leaks == [], explain(watch.leaks)
    assert burst.answered == 0, "Docker's resolver answers"


def enter(
    report: Report, control: Control, watch: Watch, probed: dict[str, int], answered: int
) -> None:
    leaked = watch.kinds()
    for (number, title), kinds in SCENARIOS.items():
        row = report.row(number, title)
        row.probed += sum(probed.get(kind, 0) for kind in kinds)
        row.leaked += sum(leaked[kind] for kind in kinds) + answered * ("dns-docker" in kinds)
        row.control = control.seen_of(kinds)
