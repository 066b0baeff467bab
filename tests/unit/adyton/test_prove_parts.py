"""Parts of a proof: frames and their kinds, canaries, what is forbidden, and the verdict."""

from __future__ import annotations

import copy
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from scripts.node.kinds import kinds
from scripts.node.node import Node
from scripts.prove import canary
from scripts.prove.capture import Capture, Seen
from scripts.prove.outside import Bridge, Permitted, range_of, tunnels_of
from scripts.prove.packets import OWN, Frame, Tunnel, kind_of, read_frame
from scripts.prove.proof import Plan, controls
from scripts.prove.report import Damaged, as_text, check_whole, verdict_of
from scripts.prove.signature import as_signers
from tests.unit.adyton.recorded import Nodes

MAC = bytes.fromhex("02420a000001")
MARK = "canary-0123456789ab-"
DATA = b"\4\0\0\0" + b"x" * 60


def ethernet(ethertype: int, payload: bytes) -> bytes:
    return b"\xff" * 6 + MAC + struct.pack("!H", ethertype) + payload


def ipv4(
    protocol: int,
    payload: bytes,
    source: str = "198.18.8.10",
    to: str = "198.18.8.30",
    offset: int = 0,
) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, offset, 64, protocol, 0)
    return ethernet(0x0800, header + socket.inet_aton(source) + socket.inet_aton(to) + payload)


def udp(source: int, to: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", source, to, 8 + len(payload), 0) + payload


def tcp(source: int, to: int) -> bytes:
    return struct.pack("!HHIIBBHHH", source, to, 0, 0, 5 << 4, 2, 0, 0, 0)


STRANGE = "udp on the tunnel's port that is not the tunnel's"
LISTENING = (Tunnel(51820),)
DIALLING = (Tunnel(51820, "198.18.8.10"),)


@pytest.mark.parametrize(
    ("data", "tunnels", "kind"),
    [
        (ipv4(17, udp(40000, 51820, DATA)), LISTENING, "tunnel"),
        (ipv4(17, udp(51820, 40000, DATA)), LISTENING, "tunnel"),
        (ipv4(17, udp(51820, 40000, DATA)), DIALLING, "tunnel"),
        (ipv4(17, udp(51820, 40000, DATA), source="198.18.8.99"), DIALLING, STRANGE),
        (ipv4(17, udp(40000, 51820, b"in clear text")), LISTENING, STRANGE),
        (ipv4(17, udp(40000, 53, b"?")), LISTENING, "udp 53"),
        (ipv4(17, b"later", offset=185), LISTENING, "udp fragment"),
        (ipv4(6, tcp(50000, 443)), LISTENING, "tcp 443"),
        (ipv4(6, tcp(50000, 60000)), LISTENING, "tcp"),
        (ipv4(1, b"\10\0\0\0"), LISTENING, "icmp"),
        (ipv4(253, b"?"), LISTENING, "253"),
        (ethernet(0x0806, b"\0" * 28), LISTENING, "arp"),
        (ethernet(0x88CC, b""), LISTENING, "ethertype 0x88cc"),
        (ethernet(0x8100, b"\0\1" + ipv4(1, b"\10\0\0\0")[12:]), LISTENING, "icmp"),
        (b"\0" * 9, LISTENING, "ethertype 0x0000"),
    ],
)
def test_kinds_of_frames(data: bytes, tunnels: tuple[Tunnel, ...], kind: str) -> None:
    """By protocol and known port; the tunnel's by address, port and form."""
    assert kind_of(read_frame(data), tunnels) == kind


def test_frame_of_ipv6() -> None:
    """Its protocol and port, and that it is IPv6."""
    packet = struct.pack("!IHBB", 6 << 28, 12, 17, 64) + b"\0" * 32 + udp(5353, 5353, b"mdns")

    assert kind_of(read_frame(ethernet(0x86DD, packet)), ()) == "udp 5353 over IPv6"


def capture(judge: str | None = None) -> tuple[Capture, Seen]:
    made = Capture(
        [("br", "bridge of uplink")], LISTENING, MARK, "198.18.8.200", {20_000: "a"},
        lambda interface, frame: judge,
    )  # fmt: skip
    return made, made.seen[0]


@pytest.mark.parametrize(
    ("data", "canaries"),
    [
        (ipv4(17, udp(5, 9, f"{MARK}b07".encode())), {"b07": 1}),
        (ethernet(0x1234, f"...{MARK}c15...".encode()), {"c15": 1}),
        (ipv4(6, tcp(50000, 20_007), to="198.18.8.200"), {"a07": 1}),
        (ipv4(6, tcp(50000, 20_007), to="198.18.8.201"), {}),
        (ipv4(17, udp(50000, 20_007, b"another run's"), to="198.18.8.200"), {}),
        (ipv4(6, tcp(50000, 30_000), to="198.18.8.200"), {}),
        (ipv4(1, f"..{MARK}b07".encode(), source="198.18.8.200"), {}),
        (ipv4(17, udp(5, 9, b"canary-ba9876543210-b07")), {}),
    ],
)
def test_canaries_are_known_by_mark_or_port(data: bytes, canaries: dict[str, int]) -> None:
    """In any frame; an answer of the target's, which quotes one, is none."""
    made, seen = capture()

    made.take(seen, data)

    assert dict(seen.canaries) == canaries
    assert seen.frames == 1


def test_marks_of_all_probes_are_found_again() -> None:
    """Each probe's packet is told apart from the others', whatever it is wrapped in."""
    for number in range(len(canary.PROBES)):
        probe = canary.Probe(f"{MARK}b{number:02d}".encode(), "198.18.8.200", 20_000)
        for payload in (probe.mark, probe.packet("198.18.8.1"), probe.question()):
            made, seen = capture()
            made.take(seen, ethernet(0x0800, payload))
            assert dict(seen.canaries) == {f"b{number:02d}": 1}
    assert len(probe.mark) < 64, "a label of a name"


def test_packet_of_a_canary_is_well_formed() -> None:
    """A checksum that is wrong would be dropped on the way, and prove nothing."""
    packet = canary.Probe(b"mark", "198.18.8.200", 7).packet("198.18.8.1")

    assert canary.checksum(packet[:20]) == 0
    frame = read_frame(ethernet(0x0800, packet))
    assert (frame.source, frame.destination, frame.ports, frame.payload) == (
        "198.18.8.1", "198.18.8.200", (5, 7), b"mark",
    )  # fmt: skip


def test_forbidden_frames_are_counted() -> None:
    """What the judge names."""
    made, seen = capture("uplink: udp 53")

    made.take(seen, ipv4(17, udp(40000, 53, b"?")))

    assert dict(seen.forbidden) == {"uplink: udp 53": 1}


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("198.18.8.20", "198.18.8.20", "198.18.8.20"),
        ("149.154.160.0/20", "149.154.160.0", "149.154.175.255"),
        ("91.108.4.0-91.108.23.255", "91.108.4.0", "91.108.23.255"),
    ],
)
def test_networks_as_nft_prints_them(text: str, first: str, last: str) -> None:
    """Addresses, networks and merged ranges."""
    assert tuple(map(str, range_of(text))) == (first, last)


def permitted(node: Nodes, service: str) -> Permitted:
    """A judge of what a service may send, at a bridge where it has the address of these frames."""
    node.add(service)
    bridge = Bridge("br", {MAC.hex(":"): service})
    made = Node(kinds()[node.kind], node.tools, Path("/nowhere"), (), ("compose.yml",))
    node.find()  # lays out what the machine answers
    return Permitted(made, [bridge], DIALLING if node.kind == "model" else LISTENING)


@pytest.mark.parametrize(
    ("data", "forbidden"),
    [
        (ipv4(17, udp(40000, 51820, DATA), to="198.18.8.10"), None),
        (ipv4(17, b"later", to="198.18.8.10", offset=185), None),
        (ethernet(0x0806, b"\0" * 28), None),
        (ipv4(17, b"later", to="198.18.8.11", offset=185), "uplink: udp fragment"),
        (ipv4(17, udp(4, 51820, DATA), "198.18.8.30", "198.18.8.11"), f"uplink: {STRANGE}"),
        (ipv4(17, udp(4, 51820, DATA), "198.18.8.10", "198.18.8.11"), "uplink: tunnel"),
        (ipv4(17, udp(40000, 51820, b"clear"), to="198.18.8.10"), f"uplink: {STRANGE}"),
        (ipv4(17, udp(40000, 53, b"?"), to="198.18.8.10"), "uplink: udp 53"),
        (ipv4(6, tcp(40000, 443), to="198.18.8.10"), "uplink: tcp 443"),
    ],
)
def test_uplink_may_send_the_tunnels_packets_alone(
    tmp_path: Path, data: bytes, forbidden: str | None
) -> None:
    """To the endpoint, in WireGuard's form; and ARP. A sender that is forged does not help."""
    judge = permitted(Nodes(tmp_path, "model"), "uplink").judge
    frame = read_frame(data)

    assert judge("br", frame) == forbidden
    assert judge("another", frame) is None, "nobody of ours is there"


@pytest.mark.parametrize(
    ("service", "to", "forbidden"),
    [
        ("hop", "198.18.3.4", None),
        ("hop", "198.18.8.10", f"hop: {STRANGE}"),
        ("uplink", "198.18.3.4", "uplink: tunnel"),
    ],
)
def test_behind_a_hop_its_provider_alone_may_be_spoken_to(
    tmp_path: Path, service: str, to: str, forbidden: str | None
) -> None:
    """By the hop alone; the other node's own address is a leak."""
    nodes = Nodes(tmp_path, "model")
    for name, setting in (("uplink", "TUNNEL_ENDPOINT"), ("hop", "HOP_ENDPOINT")):
        nodes.add(name)
        address = "198.18.3.4" if name == "hop" else "198.18.8.10"
        nodes.services[name]["environment"] = {setting: f"{address}:51820"}
    nodes.find()
    node = Node(kinds()["model"], nodes.tools, Path("/nowhere"), (), ("compose.yml",))
    bridge = Bridge("br", {MAC.hex(":"): service})
    tunnels = tunnels_of(node)

    judge = Permitted(node, [bridge], tunnels).judge

    assert tunnels == (Tunnel(51820, "198.18.3.4"),)
    frame = read_frame(ipv4(17, udp(40000, 51820, DATA), to=to, source="198.18.8.30"))
    assert judge("br", frame) == forbidden


TELEGRAM = """table inet node {
	set telegram {
		type ipv4_addr
		flags interval
		elements = { 198.18.8.16/28, 198.18.9.1 }
	}
}
"""


@pytest.mark.parametrize(
    ("data", "forbidden"),
    [
        (ipv4(6, tcp(40000, 443), to="198.18.8.20"), None),
        (ipv4(6, tcp(40000, 443), to="198.18.9.1"), None),
        (ipv4(17, udp(40000, 53, b"?"), to="198.18.8.53"), None),
        (ipv4(6, tcp(40000, 53), to="198.18.8.53"), None),
        (ipv4(6, tcp(40000, 443), to="198.18.8.40"), "egress: tcp 443"),
        (ipv4(6, tcp(40000, 80), to="198.18.8.20"), "egress: tcp 80"),
        (ipv4(17, udp(40000, 443, b"quic"), to="198.18.8.20"), "egress: udp 443"),
        (ipv4(17, udp(40000, 53, b"?"), to="198.18.8.54"), "egress: udp 53"),
        (ipv4(17, udp(40000, 51820, DATA), to="198.18.8.20"), "egress: tunnel"),
    ],
)
def test_egress_may_call_telegram_and_one_name_server(
    tmp_path: Path, data: bytes, forbidden: str | None
) -> None:
    """By the networks of its ruleset, and the address of its settings."""
    node = Nodes(tmp_path)
    node.add("egress")
    node.services["egress"]["environment"] = {"RESOLVER": "198.18.8.53"}
    node.tools.answers["docker exec id-of-egress nft --stateless list table inet"] = TELEGRAM
    node.tools.answers["docker exec id-of-egress nft --stateless list table netdev"] = TELEGRAM
    node.find()
    made = Node(kinds()["relay"], node.tools, Path("/nowhere"), (), ("compose.yml",))
    judge = Permitted(made, [Bridge("br", {MAC.hex(":"): "egress"})], LISTENING).judge

    assert judge("br", read_frame(data)) == forbidden


def test_egress_may_call_a_server_of_ones_own_at_its_port(tmp_path: Path) -> None:
    """Where the settings name another port, that one is permitted and 443 is not."""
    node = Nodes(tmp_path)
    node.add("egress")
    node.services["egress"]["environment"] = {"TELEGRAM_PORT": "8443", "RESOLVER": None}
    node.tools.answers["docker exec id-of-egress nft --stateless list table inet"] = TELEGRAM
    node.tools.answers["docker exec id-of-egress nft --stateless list table netdev"] = TELEGRAM
    node.find()
    made = Node(kinds()["relay"], node.tools, Path("/nowhere"), (), ("compose.yml",))
    judge = Permitted(made, [Bridge("br", {MAC.hex(":"): "egress"})], LISTENING).judge

    assert judge("br", read_frame(ipv4(6, tcp(40000, 8443), to="198.18.8.20"))) is None
    assert judge("br", read_frame(ipv4(6, tcp(40000, 443), to="198.18.8.20"))) == "egress: tcp 443"
    asked = ipv4(17, udp(40000, 53, b"?"), to="198.18.8.53")
    assert judge("br", read_frame(asked)) == "egress: udp 53"


# The verdict


def report() -> dict[str, Any]:
    made: dict[str, Any] = {
        "report": 1,
        "program": {"version": "0", "digest": "d"},
        "node": "relay",
        "project": "p",
        "machine": {"kernel": "6"},
        "began": "1",
        "ended": "2",
        "seconds": 9,
        "compose": {"compose.vps.yml": "d"},
        "images": {"relay": {"name": "n", "id": "i", "digests": []}},
        "rulesets": {"uplink": {"standing": "a", "golden": "a"}},
        "findings": [{"check": "rulesets", "level": "ok", "text": "fine", "remedy": ""}],
        "canaries": [
            {"service": s, "probe": "udp", "is_control": c, "tried": 3, "taken": 3, "errors": [],
             "seen": 3 if c else 0}
            for s, c in (("uplink", False), ("the host", True))
        ],
        "captures": [
            {"role": "outside interface eth0", "frames": 9, "dropped": 0, "kinds": {"tunnel": 9},
             "canaries": 0, "control_canaries": 3, "forbidden": {}},
        ],
        "controls": [{"name": "tunnel", "about": "9 packets", "passed": True}],
        "not_looked_at": ["much"],
    }  # fmt: skip
    made["verdict"] = verdict_of(made)
    return made


def test_report_of_a_sound_node() -> None:
    """Nothing got out, which the text says, and what was not looked at."""
    sound = report()

    check_whole(sound)
    assert sound["verdict"] == {"name": "nothing got out", "reasons": []}
    assert "VERDICT: nothing got out" in as_text(sound)
    assert "much" in as_text(sound)


@pytest.mark.parametrize(
    ("path", "value", "verdict", "reason"),
    [
        (("canaries", 0, "seen"), 1, "leak", "1 packets of the canary udp from uplink"),
        (("captures", 0, "forbidden"), {"uplink: udp 53": 2}, "leak", "2 forbidden packets"),
        (("findings", 0, "level"), "failure", "leak", "fine"),
        (("findings", 0, "level"), "could not look", "inconclusive", "fine"),
        (("captures", 0, "dropped"), 5, "inconclusive", "missed 5 packets"),
        (("controls", 0, "passed"), False, "inconclusive", "the control failed"),
        (("captures",), [], "inconclusive", "no outside interface"),
        (("canaries",), [], "inconclusive", "no canary was sent"),
    ],
)
def test_verdict_follows(path: tuple[Any, ...], value: Any, verdict: str, reason: str) -> None:
    """From each part; and a verdict that does not is found."""
    bent = report()
    part = bent
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = copy.deepcopy(value)

    with pytest.raises(Damaged, match="does not follow"):
        check_whole(bent)
    told = verdict_of(bent)
    assert told["name"] == verdict
    assert any(reason in it for it in told["reasons"])


def test_capture_that_sees_neither_tunnel_nor_control_proves_nothing() -> None:
    """At the wrong interface no canary is seen either: both controls fail."""
    blind = [Seen("lo", "outside interface lo"), Seen("br", "bridge of egress")]
    sent = [{"letter": "z", "taken": 3}]

    asked = list(controls(blind, sent, Plan(1, ("lo",), "198.18.8.200", True), {"lo": OWN}))
    not_asked = list(controls(blind, [], Plan(1, ("lo",), "198.18.8.200", False), {"lo": OWN}))

    assert [it["passed"] for it in asked] == [False, False]
    assert [it["passed"] for it in not_asked] == [False, None]
    blind[0].kinds["tunnel"] = 1
    blind[0].canaries["z00"] = 2
    asked = list(controls(blind, sent, Plan(1, ("lo",), "198.18.8.200", True), {"lo": OWN}))
    assert [it["passed"] for it in asked] == [True, False], "2 of 3 were seen"


def test_what_is_no_report_is_refused() -> None:
    """Another form, a missing part, a part of another shape."""
    wrongs: list[Any] = [[], {}, {**report(), "report": 2}, {**report(), "canaries": 7}]
    for wrong in wrongs:
        with pytest.raises(Damaged):
            check_whole(wrong)


def test_public_key_alone_is_a_list_of_one() -> None:
    """For this purpose only; a list stays as it is."""
    assert as_signers("ssh-ed25519 AAAA me\n") == (
        'operator namespaces="prove" ssh-ed25519 AAAA me\n'
    )
    assert as_signers("# mine\nme@home ssh-ed25519 AAAA\n") == "me@home ssh-ed25519 AAAA\n"


def test_canary_runs_by_its_text_alone() -> None:
    """It goes into a container of which nothing is known but that it has Python."""
    text = Path(canary.__file__).read_text(encoding="utf-8")

    assert "import scripts" not in text
    assert "from scripts" not in text


def test_unknown_frame_is_no_tunnel() -> None:
    """Without ports there is nothing to know it by."""
    assert not Tunnel(51820).has(Frame("00", 0x0800, "udp", "a", "b"))
