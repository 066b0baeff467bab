"""Tries packets of every kind against a ruleset that stands in a real namespace.

Each ruleset is looked at by whom it defends against: the far side of the device (a hostile other
node, a stranger, a neighbour that spoofs addresses) and a hostile root inside, with raw and packet
sockets. What must pass and what must not is written down here anew (`allows`), in terms of
conversations and not of rules; every conversation that differs in one respect is tried in both
directions, begun by either side, fresh and opened before the rules stood.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tests.leaks.behaviour import Finding, packets
from tests.leaks.behaviour.packets import EXPERIMENTAL, TCP, UDP, End

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent

Side = Literal["inside", "outside"]
Way = Literal["in", "out"]
Step = tuple[str, str, str]

NEAR_HARDWARE, FAR_HARDWARE = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
WIDE_OPEN = """
flush ruleset
table inet node {
  chain before {
    type filter hook output priority raw; policy accept;
    ip protocol tcp ip id != 7 drop
  }
  chain input {
    type filter hook input priority filter; policy accept;
    ct state new accept
    accept
  }
  chain output { type filter hook output priority filter; policy accept; accept; }
  chain forward { type filter hook forward priority filter; policy accept; accept; }
}
"""
"""What stood before the rules: it follows conversations, and lets everything through, but for the
kernel's own answers, which would end the conversations that are played."""


LEARNT = re.compile(r"(flags dynamic[^}]*?)elements = \{[^}]*\}\s*")
"""Members that a set has taken up by itself."""


CLAIMS = (
    ("", ""),
    ("0800", ", called IPv4"),
    ("0806", ", called ARP"),
    ("86dd", ", called IPv6"),
)
"""What the sender of a frame may say that it is; first what it truly is."""

HANDSHAKE = b"\1\0\0\0" + bytes(132)
"""With 12 bytes more it is as long as WireGuard's first message, and begins like it."""


class PlayerFailed(Exception):
    """What plays the world inside the namespace did not do as told."""


class Player:
    """The far side of a namespace's devices; runs in a container that shares the namespace."""

    def __init__(self, container: str) -> None:
        self._process = subprocess.Popen(
            ["docker", "exec", "-i", container, "python3", "-c", source("player.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        with self._process:  # ends it by closing its input
            pass

    def order(self, action: str, *args: object, **kwargs: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"action": action, "args": args, "kwargs": kwargs}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "it has ended"}')
        if "error" in answer:
            raise PlayerFailed(f"{action}: {answer['error']}")
        return answer["result"]

    def run(self, *argv: str, text: str = "") -> str:
        code, printed, error = self.order("run", list(argv), text)
        if code != 0:
            raise PlayerFailed(f"{' '.join(argv)}: {error.strip()}")
        return str(printed)

    def play(self, steps: Sequence[Step], expected: Sequence[int]) -> list[bool]:
        return [bool(seen) for seen in self.order("play", list(steps), list(expected))]

    def load(self, rules: str, variables: Mapping[str, str]) -> None:
        """Load rules as the product does. Raises PlayerFailed if they do not load."""
        defines = [f"--define={name}={value}" for name, value in variables.items()]
        self.run("nft", *defines, "--file", "-", text=rules)

    def listing(self) -> str:
        """The rules as the kernel has them, without what changes by itself."""
        tables = self.run("nft", "list", "tables").splitlines()
        own = [line.split()[1:] for line in tables if line.endswith(" node")]
        shown = "".join(self.run("nft", "--stateless", "list", "table", *table) for table in own)
        return LEARNT.sub(r"\1", shown)

    def counters(self) -> dict[str, int]:
        """What the rules have counted, in packets."""
        code, printed, _ = self.order(
            "run", ["nft", "--json", "list", "counters", "table", "inet", "node"], ""
        )
        listed = json.loads(printed)["nftables"] if code == 0 else []
        counters = [entry["counter"] for entry in listed if "counter" in entry]
        return {counter["name"]: int(counter["packets"]) for counter in counters}

    def remembers(self, name: str, address: str) -> int:
        """For how many seconds yet a set will hold an address, as the kernel counts; 0: not held.

        It is asked for what takes too long to be waited for.
        """
        code, printed, _ = self.order(
            "run", ["nft", "--json", "list", "set", "inet", "node", name], ""
        )
        listed = json.loads(printed)["nftables"] if code == 0 else []
        members = [
            member["elem"]
            for entry in listed
            for member in entry.get("set", {}).get("elem", [])
            if "elem" in member
        ]
        return max(
            (int(m["expires"]) for m in members if address in json.dumps(m["val"])), default=0
        )


def source(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Talk:
    """A conversation between an end inside the namespace and one outside."""

    about: str
    begun: Side
    device: str
    protocol: int
    near: End
    far: End
    starts: tuple[int, int] = field(
        default_factory=lambda: (secrets.randbelow(1 << 31), secrets.randbelow(1 << 31))
    )
    """The first sequence numbers of who begins and who answers, for TCP."""

    def first(self) -> Step:
        return self._step(self.begun, packets.SYN, 0)

    def second(self) -> Step:
        return self._step(other(self.begun), packets.SYN_ACK, 0)

    def third(self) -> Step:
        return self._step(self.begun, packets.ACK, 1)

    def further(self, way: Way) -> Step:
        return self._step("outside" if way == "in" else "inside", packets.PUSH_ACK, 1)

    def answer_of_kernel(self) -> Step:
        """A server of the namespace answers by itself."""
        return ("answer", self.device, struct.pack("!HH", self.near.port, self.far.port).hex())

    def _step(self, speaker: Side, flags: int, offset: int) -> Step:
        ends = (self.near, self.far) if speaker == "inside" else (self.far, self.near)
        payload = HANDSHAKE + secrets.token_bytes(12)
        if self.protocol == TCP:
            own, others = self.starts if speaker == self.begun else self.starts[::-1]
            acknowledged = 0 if flags == packets.SYN else others + 1
            said = payload if flags == packets.PUSH_ACK else b""
            packet = packets.tcp(*ends, flags, own + offset, acknowledged, said)
        elif self.protocol == UDP:
            packet = packets.udp(*ends, payload)
        else:
            packet = packets.plain(*ends, payload)
        if speaker == "inside":
            return ("out", self.device, packet.hex())
        return ("in", self.device, arriving(self.device, packet))


def always(step: Step) -> Callable[[], Step]:
    return lambda: step


def other(side: Side) -> Side:
    return "outside" if side == "inside" else "inside"


def arriving(device: str, packet: bytes) -> str:
    """A packet as it comes in by a device: TAP devices want an Ethernet frame around it."""
    if device == "outside":
        return packets.frame(packet, FAR_HARDWARE, NEAR_HARDWARE).hex()
    return packet.hex()


@dataclass(frozen=True)
class Trial:
    """One packet, what comes before it, and whether it may pass."""

    check: str
    is_allowed: bool
    packet: Callable[[], Step]
    before_rules: tuple[Callable[[], Step], ...] = ()
    """What is said while nothing protects yet."""
    before: tuple[Callable[[], Step], ...] = ()
    """What is said before it under the rules."""


@dataclass(frozen=True)
class Ruleset:
    """One file of rules, the namespace that it is for, and what it must do there."""

    name: str
    file: str
    variables: dict[str, str]
    near: End
    talks: Callable[[Iterator[int]], list[Talk]]
    """All conversations to be tried, given unused ports."""
    allows: Callable[[Talk, Way], bool]
    insider: str
    outsider: str
    allows_leaving: Callable[[str, bytes], bool]
    """Whether a packet may leave by a device, as the packet alone tells."""
    device: str = "outside"
    """The one that the rules let something through."""
    frames: Callable[[Iterator[int]], list[tuple[str, bytes, bool]]] = lambda _: []
    """What a packet socket is made to send: what it is, the frame, whether it may leave."""
    through: tuple[tuple[str, str, End, End, int], ...] = ()
    """What must not be forwarded: what it is, device, ends, protocol."""
    servers: tuple[int, ...] = ()
    """Ports on which a server of the namespace answers calls."""
    has_loopback: bool = False
    complained_of: Talk | None = None
    """A conversation that is allowed, and of which a router may complain."""
    hears_size_complaints: bool = False
    """Whether path MTU discovery must work for it."""
    limits_strangers: bool = False
    counts: tuple[str, ...] = ("refused_in", "refused_out")
    """The counters that must have counted when everything has been tried."""

    @property
    def rules(self) -> str:
        return (ROOT / self.file).read_text(encoding="utf-8")

    @property
    def has_outside(self) -> bool:
        return bool(self.frames(iter(range(1, 99))))

    def trials(self, ports: Iterator[int]) -> list[Trial]:
        talks = self.talks(ports)
        return [
            *itertools.chain.from_iterable(map(self._trials_of, talks)),
            *self._trials_of_frames(ports),
            *self._trials_of_forwarding(),
            *self._trials_of_loopback(ports),
            *self._trials_of_icmp(ports),
        ]

    def _trials_of(self, talk: Talk) -> Iterator[Trial]:
        who = self.insider if talk.begun == "inside" else self.outsider
        first_way: Way = "out" if talk.begun == "inside" else "in"
        answer_way: Way = "in" if talk.begun == "inside" else "out"
        fresh = replace(talk, near=talk.near, far=talk.far)
        may_begin = self.allows(fresh, first_way)
        yield Trial(f"{who} begins {talk.about}", may_begin, fresh.first)
        if may_begin:
            yield Trial(
                f"the answer to {talk.about}, which {who} has begun",
                self.allows(fresh, answer_way),
                fresh.answer_of_kernel if talk.near.port in self.servers else fresh.second,
                before=(replace(fresh).first,)
                if talk.near.port in self.servers
                else (fresh.first,),
            )
        before = (talk.first, talk.second) + ((talk.third,) if talk.protocol == TCP else ())
        ways: tuple[Way, Way] = ("in", "out")
        for way in ways:
            speaker = self.insider if way == "out" else self.outsider
            yield Trial(
                f"{speaker} goes on with {talk.about}, begun {talk.begun} before the rules stood",
                self.allows(talk, way),
                functools.partial(talk.further, way),
                before_rules=before,
            )

    def _trials_of_frames(self, ports: Iterator[int]) -> Iterator[Trial]:
        # The sender of a frame also says which protocol it is, and that is what some matches read.
        for claim, said in CLAIMS:
            for about, frame, may_leave in self.frames(ports):
                if not (claim and may_leave):
                    yield Trial(
                        f"{self.insider}, packet socket: {about}{said}",
                        may_leave,
                        always((f"wire{claim}", self.device, frame.hex())),
                    )

    def _trials_of_forwarding(self) -> Iterator[Trial]:
        for about, device, source, target, protocol in self.through:
            body = Talk(about, "outside", device, protocol, target, source).first()[2]
            step = ("through", device, body)
            yield Trial(f"{self.outsider} wants forwarded: {about}", False, always(step))

    def _trials_of_loopback(self, ports: Iterator[int]) -> Iterator[Trial]:
        for target in (End("127.0.0.1", 8080), End("127.0.0.11", 53), self.near):
            port = target.port or 8080
            talk = Talk(
                "", "inside", "lo", UDP, End("127.0.0.1", next(ports)), End(target.address, port)
            )
            yield Trial(
                f"{self.insider} speaks to {target.address} over loopback",
                self.has_loopback,
                talk.first,
            )

    def _trials_of_icmp(self, ports: Iterator[int]) -> Iterator[Trial]:
        device = self.device
        router = End("198.18.75.1" if self.has_outside else "10.66.0.99")
        mark = secrets.token_bytes(12)
        echo = struct.pack("!HH", next(ports), 1) + mark
        far = End("198.18.75.22") if self.has_outside else router
        asked = packets.icmp(far, self.near, 8, 0, echo)
        yield Trial(
            f"{self.outsider}: an echo request",
            False,
            always(("in", device, arriving(device, asked))),
        )
        asking = packets.icmp(self.near, far, 8, 0, echo)
        yield Trial(
            f"{self.insider}: an echo request", False, always(("out", device, asking.hex()))
        )
        talk = self.complained_of
        for about, kind, code, is_known in (
            ("a packet is too big", 3, 4, True),
            ("a port is closed", 3, 3, True),
            ("a parameter is wrong", 12, 4, True),
            ("a packet that nobody sent is too big", 3, 4, False),
        ):
            live = talk and replace(
                talk, near=End(talk.near.address, talk.near.port or next(ports))
            )
            if live is None:
                live = Talk("", "inside", device, UDP, End(self.near.address, next(ports)), far)
            elif not live.far.port:
                live = replace(live, far=End(live.far.address, next(ports)))
            quoted = bytes.fromhex(live.first()[2])
            complaint = packets.icmp_error(router, kind, code, quoted)
            yield Trial(
                f"a router says that {about}",
                is_known and (kind, code) == (3, 4) and self.hears_size_complaints,
                always(("in", device, arriving(device, complaint))),
                before=(live.first,) if is_known and talk else (),
            )


# Examining


def examine(
    ruleset: Ruleset, player: Player, ports: Iterator[int], rules: str, *, patient: bool = False
) -> list[Finding]:
    """Load rules over what stood before, try everything, and report what went otherwise.

    Stops at the first kind of trial that finds something. `patient` also waits for what takes
    time: a full set of strangers must empty again.
    """
    trials = ruleset.trials(ports)
    player.load(WIDE_OPEN, {})
    earlier = [step() for trial in trials for step in trial.before_rules]
    player.play(earlier, list(range(len(earlier))))
    try:
        player.load(rules, ruleset.variables)
    except PlayerFailed as error:
        return [Finding("loading the rules", str(error).splitlines()[0])]
    return examine_standing(ruleset, player, trials, ports, patient=patient)


def examine_standing(
    ruleset: Ruleset,
    player: Player,
    trials: Sequence[Trial],
    ports: Iterator[int],
    *,
    patient: bool = False,
) -> list[Finding]:
    """Try everything against the rules as they stand."""
    findings = judge(player, trials)
    findings += unasked(ruleset, player)
    if findings:
        return findings
    counted = player.counters()
    findings = [
        Finding("counting of what is heard and refused", f"{name} is 0 after many packets")
        for name in ruleset.counts
        if not counted.get(name)
    ]
    if not findings and ruleset.has_outside:
        # Both tables must hold alone; packet sockets have tried the one at the wire already.
        player.order("run", ["nft", "delete table netdev node"], "")
        alone = [t for t in trials if not t.is_allowed and "wire" not in t.packet()[0]]
        findings = judge(player, alone, "with the table at the wire gone, ")
    if not findings and ruleset.limits_strangers:
        findings = flood(ruleset, player, ports, patient=patient)
    return findings


def judge(player: Player, trials: Sequence[Trial], note: str = "") -> list[Finding]:
    steps: list[Step] = []
    positions: list[int] = []
    for trial in trials:
        steps += [step() for step in trial.before]
        positions.append(len(steps))
        steps.append(trial.packet())
    expected = [at for at, trial in zip(positions, trials, strict=True) if trial.is_allowed]
    seen = player.play(steps, expected)
    return [
        Finding(note + trial.check, "it passed" if seen[at] else "it did not pass")
        for at, trial in zip(positions, trials, strict=True)
        if seen[at] != trial.is_allowed
    ]


def unasked(ruleset: Ruleset, player: Player) -> list[Finding]:
    """All that has left meanwhile, whoever sent it: the kernel speaks, too."""
    left = [(device, bytes.fromhex(packet)) for device, packet in player.order("left")]
    wrong = {
        f"{device}: {packet[:40].hex()}"
        for device, packet in left
        if not ruleset.allows_leaving(device, packet)
    }
    return [Finding("nothing leaves unasked", packet) for packet in sorted(wrong)[:3]]


def unprotected(ruleset: Ruleset, player: Player, ports: Iterator[int]) -> list[Finding]:
    """The control: without rules, everything that is ever tried is seen to pass."""
    player.load(WIDE_OPEN, {})
    trials = [
        replace(trial, is_allowed=True, before=trial.before_rules or trial.before)
        for trial in ruleset.trials(ports)
        if trial.packet()[0] != "answer"
    ]
    return judge(player, trials, "without rules, ")


@functools.cache
def crowd(first: int, last: int, port: int) -> list[str]:
    """A packet each from many addresses, like WireGuard's first one."""
    near = End(UPLINK.address, port)
    return [
        arriving(
            "outside",
            packets.udp(End(f"198.19.{n >> 8}.{n & 255}", 4242), near, HANDSHAKE + bytes(12)),
        )
        for n in range(first, last)
    ]


RESPONSE, DATA = b"\2\0\0\0", b"\4\0\0\0"
"""How two other kinds of WireGuard's messages begin."""

KINDS = (
    ("a handshake's first message", HANDSHAKE + bytes(12), True),
    ("data", DATA + bytes(92), True),
    ("an answer to a handshake", RESPONSE + bytes(88), False),
    ("a cookie", b"\3\0\0\0" + bytes(60), False),
    ("nothing of WireGuard's", bytes(148), False),
    ("a first message with more in its head", b"\1\1\0\0" + bytes(144), False),
    ("a first message that is too long", HANDSHAKE + bytes(16), False),
    ("a first message that is too short", HANDSHAKE, False),
)
"""What somebody new may send: what it is, the payload, whether it is let in."""


class Crowd:
    """Many packets at once from outside against the listening end, and what is let in of them."""

    def __init__(self, player: Player, near: End, ports: Iterator[int]) -> None:
        self.player = player
        self.near = near
        self.ports = ports

    def knocks(
        self, source: End, count: int, *, said: bytes = HANDSHAKE + bytes(12), port: int = 0
    ) -> int:
        near = End(self.near.address, port or self.near.port)
        packet = arriving("outside", packets.udp(source, near, said))
        return int(self.player.order("flood", "outside", [packet], count))

    def come(self, first: int, last: int, port: int = 0) -> int:
        """One packet from each of many addresses."""
        body = crowd(first, last, port or self.near.port)
        return int(self.player.order("flood", "outside", body, 1))

    def answer(self, *targets: End, port: int = 0) -> None:
        near = End(self.near.address, port or self.near.port)
        said = [packets.udp(near, target, b"answer").hex() for target in targets]
        self.player.order("say", "outside", said)

    def newcomer(self) -> End:
        port = next(self.ports)
        return End(f"198.18.76.{port % 250 + 1}", port)

    def strangers(self) -> Iterator[Finding]:
        """One who was never answered."""
        stranger = self.newcomer()
        passed = self.knocks(stranger, 60)
        if not 20 <= passed <= 30:
            yield Finding("a stranger sends 60 packets at once", f"{passed} got in")
        time.sleep(0.5)
        passed = self.knocks(stranger, 60)
        if not 1 <= passed <= 15:
            yield Finding("the stranger again, half a second later", f"{passed} got in")
        for about, said, is_let_in in KINDS:
            if (passed := self.knocks(self.newcomer(), 1, said=said)) != is_let_in:
                yield Finding(f"a newcomer sends {about}", f"{passed} got in")

    def peers(self, peer: End) -> Iterator[Finding]:
        """One who was answered, and others at its address."""
        self.knocks(peer, 1)
        self.answer(peer)
        heard = self.player.counters().get("heard", 0)
        if (passed := self.knocks(peer, 300)) != 300:
            yield Finding("a peer that was answered sends 300 packets", f"{passed} got in")
        if (counted := self.player.counters().get("heard", 0) - heard) != 300:
            yield Finding("counting what the peer sends", f"{counted} of 300")
        if not self.knocks(peer, 1, said=RESPONSE + bytes(88)):
            yield Finding("the peer answers a handshake", "it did not get in")
        if passed := self.knocks(peer, 5, port=8081):
            yield Finding("the peer sends to another port", f"{passed} got in")
        began = time.monotonic()
        passed = self.knocks(End(peer.address, next(self.ports)), 1000)
        most = 140 + 110 * (time.monotonic() - began)  # its address' share, and a stranger's
        if not 100 <= passed <= most:
            yield Finding("the peer's address with another port, 1000 packets", f"{passed} got in")
        for name, seconds in (("peers", 300), ("peer_addresses", 86400)):
            remembered = self.player.remembers(name, peer.address)
            if not seconds - 60 <= remembered <= seconds:
                yield Finding("how long an answered peer is known", f"{name}: {remembered} s")

    def others(self) -> Iterator[Finding]:
        """What makes nobody a peer, and takes nothing from those who are new."""
        time.sleep(0.8)  # what strangers and known addresses may take is almost whole again
        spoken_to = self.newcomer()
        self.answer(spoken_to, port=8081)
        if not 1 <= (passed := self.knocks(spoken_to, 60)) <= 30:
            yield Finding("one who was sent something from another port", f"{passed} got in")
        self.come(40000, 41000, port=8081)
        passed = self.come(41000, 41100)
        if passed != 100:
            yield Finding("100 newcomers, after a crowd at another port", f"{passed} got in")
        many = [End(f"198.19.{n >> 8}.{n & 255}", 4242) for n in range(42000, 43100)]
        self.answer(*many)
        if not 1 <= (passed := self.knocks(many[-1], 60)) <= 30:
            yield Finding("the last of 1100 who were answered", f"{passed} got in")

    def crowds(self, peer: End, *, patient: bool) -> Iterator[Finding]:
        """So many strangers that no set can know them all."""
        refused = self.player.counters().get("refused_in", 0)
        began = time.monotonic()
        passed = self.come(0, 17000)
        most = 250 + 200 * (time.monotonic() - began)
        if not 1 <= passed <= most:
            yield Finding("17000 strangers at once", f"{passed} got in, {most:.0f} may")
        counted = self.player.counters().get("refused_in", 0) - refused
        if counted < 17000 - passed:
            yield Finding(
                "counting of strangers that are refused", f"{counted} of {17000 - passed}"
            )
        if self.knocks(peer, 60) != 60:
            yield Finding("the peer, while strangers fill the set", "it is held back")
        time.sleep(0.5)
        # Of whom no account can be kept any more, only the allowance of all strangers is asked.
        if (passed := self.knocks(self.newcomer(), 60)) < 40:
            yield Finding("the set of strangers is bounded", f"{passed} got in of one more")
        if patient:
            while (passed := self.knocks(self.newcomer(), 60)) > 30:
                if time.monotonic() - began > 16:
                    yield Finding("a newcomer after the crowd has gone", f"{passed} of 60 got in")
                    return
                time.sleep(0.5)


def flood(
    ruleset: Ruleset, player: Player, ports: Iterator[int], *, patient: bool
) -> list[Finding]:
    """Many packets at once from outside: a stranger is held back, an answered peer is not."""
    all_of_them = Crowd(player, End(ruleset.near.address, 51820), ports)
    peer = End("198.18.75.67", next(ports))
    return (
        list(all_of_them.strangers())
        or list(all_of_them.peers(peer))
        or list(all_of_them.others())
        or list(all_of_them.crowds(peer, patient=patient))
    )


# The rulesets

TUNNEL = {"dial": End("10.66.0.2"), "listen": End("10.66.0.1")}
UPLINK, ENDPOINT, ELSEWHERE = End("198.18.75.30"), End("198.18.75.10", 51820), End("198.18.75.22")
TELEGRAM, RESOLVER = End("198.18.75.20", 443), End("198.18.75.53", 53)
NEAR6, FAR6 = End("fd66::2"), End("fd66::1")
HOP, NOT_HOP = End("10.77.0.2"), End("10.77.0.77")


@dataclass(frozen=True)
class Link:
    """What a namespace at one end of a tunnel is for: the calls of one port, by TCP."""

    end: Literal["dial", "listen"]
    near: End
    far: tuple[End, ...]
    port: int
    workload: str
    other: str

    def is_declared(self, near: str, far: str, port: int) -> bool:
        ends = near == self.near.address and far in [end.address for end in self.far]
        return ends and port == self.port


LINKS = {
    "dial": Link("dial", TUNNEL["dial"], (TUNNEL["listen"],), 8080, "gateway", "the other node"),
    "listen": Link("listen", TUNNEL["listen"], (TUNNEL["dial"],), 8080, "relay", "the other node"),
    "workers": Link(
        "listen", End("10.67.0.1"), (End("10.67.0.2"), End("10.67.0.3")), 8000, "router", "a worker"
    ),
}


def sidecar_talks(link: Link) -> Callable[[Iterator[int]], list[Talk]]:
    network = link.near.address.rpartition(".")[0]

    def talks(ports: Iterator[int]) -> list[Talk]:
        def variants(begun: Side) -> Iterator[Talk]:
            def talk(
                about: str,
                device: str = "wg0",
                protocol: int = TCP,
                near: str = link.near.address,
                far: str = link.far[-1].address,
                link_port: int = link.port,
            ) -> Talk:
                free = next(ports)
                listens = link.end == "listen"
                near_port, far_port = (free, link_port) if listens else (link_port, free)
                return Talk(
                    about, begun, device, protocol, End(near, near_port), End(far, far_port)
                )

            for far in link.far:
                yield talk("the declared call", far=far.address)
            yield talk("the call by another interface", device="other0")
            yield talk("the call by UDP", protocol=UDP)
            yield talk("the call from another address of this side", near=f"{network}.77")
            yield talk("the call with another node", far=f"{network}.99")
            yield talk("a call with another port", link_port=8081)
            yield talk("the call by IPv6", near=NEAR6.address, far=FAR6.address)

        return [*variants("inside"), *variants("outside")]

    return talks


def sidecar_allows(link: Link) -> Callable[[Talk, Way], bool]:
    def allows(talk: Talk, way: Way) -> bool:
        server = talk.near if link.end == "dial" else talk.far
        return (
            talk.device == "wg0"
            and talk.protocol == TCP
            and link.is_declared(talk.near.address, talk.far.address, server.port)
            and talk.begun == ("outside" if link.end == "dial" else "inside")
        )

    return allows


def sidecar_leaving(link: Link) -> Callable[[str, bytes], bool]:
    def allows(device: str, packet: bytes) -> bool:
        source, target = struct.unpack("!HH", packet[20:24])
        near, far = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        return (
            device == "wg0"
            and packet[9] == TCP
            and link.is_declared(near, far, source if link.end == "dial" else target)
        )

    return allows


def sidecar(name: Literal["dial", "listen", "workers"]) -> Ruleset:
    link = LINKS[name]
    stranger = End(f"{link.near.address.rpartition('.')[0]}.99", link.port)
    first, last = link.far[0], End(link.far[-1].address, link.port)
    peers = ", ".join(end.address for end in link.far)
    return Ruleset(
        name=f"sidecar-{name}",
        file=f"wireguard/rules/sidecar-{link.end}.nft",
        variables={
            "address": link.near.address,
            "peer": f"{{ {peers} }}" if len(link.far) > 1 else peers,
            "link_port": str(link.port),
        },
        near=link.near,
        talks=sidecar_talks(link),
        allows=sidecar_allows(link),
        insider=f"root in the {link.workload}'s namespace",
        outsider=link.other,
        allows_leaving=sidecar_leaving(link),
        device="wg0",
        through=(
            ("a stranger's packet back into the tunnel", "wg0", stranger, first, UDP),
            ("a packet from another interface into the tunnel", "other0", stranger, first, TCP),
            *([("one worker's call to another", "wg0", first, last, TCP)] * (len(link.far) > 1)),
        ),
        servers=(link.port,) if link.end == "dial" else (),
        has_loopback=True,
    )


def uplink_talks(end: Literal["dial", "listen"]) -> Callable[[Iterator[int]], list[Talk]]:
    def talks(ports: Iterator[int]) -> list[Talk]:
        def variants(begun: Side) -> Iterator[Talk]:
            def talk(
                about: str,
                protocol: int = UDP,
                near: str = UPLINK.address,
                far: str = ENDPOINT.address,
                port: int = 51820,
            ) -> Talk:
                free = next(ports)
                near_port, far_port = (free, port) if end == "dial" else (port, free)
                return Talk(
                    about, begun, "outside", protocol, End(near, near_port), End(far, far_port)
                )

            yield talk("the tunnel's packets")
            yield talk("TCP on the tunnel's port", protocol=TCP)
            yield talk("an unknown protocol on the tunnel's port", protocol=EXPERIMENTAL)
            yield talk("the tunnel's packets with somebody else", far=ELSEWHERE.address)
            yield talk("UDP on another port", port=8080)
            yield talk("DNS by UDP", port=53)
            yield talk("the tunnel's packets by IPv6", near=NEAR6.address, far=FAR6.address)

        return [*variants("inside"), *variants("outside")]

    return talks


def uplink_allows(end: Literal["dial", "listen"]) -> Callable[[Talk, Way], bool]:
    def allows(talk: Talk, way: Way) -> bool:
        if talk.protocol != UDP or ":" in talk.near.address:
            return False
        if end == "listen":
            return talk.near.port == 51820
        return talk.far == ENDPOINT and (way == "out" or talk.begun == "inside")

    return allows


def uplink_leaving(end: Literal["dial", "listen"]) -> Callable[[str, bytes], bool]:
    def allows(device: str, frame: bytes) -> bool:
        packet = frame[14:]
        if frame[12:14] == b"\x08\x06":
            return True
        if frame[12:14] != b"\x08\x00" or packet[9] != UDP:
            return False
        if end == "dial" and packet[16:20] != ENDPOINT.packed:
            return False
        is_later = struct.unpack("!H", packet[6:8])[0] & 0x1FFF
        source, target = struct.unpack("!HH", packet[20:24])
        return bool(is_later) or (target if end == "dial" else source) == 51820

    return allows


def uplink_frames(
    end: Literal["dial", "listen"],
) -> Callable[[Iterator[int]], list[tuple[str, bytes, bool]]]:
    def frames(ports: Iterator[int]) -> list[tuple[str, bytes, bool]]:
        free = next(ports)
        if end == "dial":
            near, far = End(UPLINK.address, free), ENDPOINT
            wrong_near, wrong_far = near, End(far.address, 443)
        else:
            near, far = End(UPLINK.address, 51820), End(ENDPOINT.address, free)
            wrong_near, wrong_far = End(near.address, 443), far
        elsewhere = End(ELSEWHERE.address, far.port)
        return [
            *common_frames(near, far),
            ("the tunnel's UDP", leaving(packets.udp(near, far, mark())), True),
            ("UDP on another port", leaving(packets.udp(wrong_near, wrong_far, mark())), False),
            (
                "the tunnel's UDP to somebody else",
                leaving(packets.udp(near, elsewhere, mark())),
                end == "listen",
            ),
            (
                "TCP on the tunnel's port",
                leaving(packets.tcp(near, far, packets.SYN, 7, 0)),
                False,
            ),
            (
                "a later fragment of the tunnel's UDP",
                leaving(packets.ip(near, far, UDP, mark(), offset=1480)),
                True,
            ),
            (
                "a later fragment to somebody else",
                leaving(packets.ip(near, elsewhere, UDP, mark(), offset=1480)),
                end == "listen",
            ),
            (
                "a later fragment of TCP",
                leaving(packets.ip(near, far, TCP, mark(), offset=1480)),
                False,
            ),
        ]

    return frames


def common_frames(near: End, far: End) -> list[tuple[str, bytes, bool]]:
    """What no outside may ever see, but for ARP."""
    near6, far6 = End(NEAR6.address, near.port), End(FAR6.address, far.port)
    tagged = leaving(packets.udp(near, far, mark()))
    announcement = FAR_HARDWARE + NEAR_HARDWARE + b"\x88\xcc"
    tcp = packets.tcp(near, far, packets.SYN, 7, 0)
    part = packets.ip(near, far, UDP, mark(), offset=1480)
    return [
        ("ARP", packets.arp_request(near, far, NEAR_HARDWARE), True),
        ("an echo request", leaving(packets.icmp(near, far, 8, 0, bytes(4) + mark())), False),
        ("UDP by IPv6", leaving(packets.udp(near6, far6, mark())), False),
        ("TCP by IPv6", leaving(packets.tcp(near6, far6, packets.SYN, 7, 0)), False),
        ("a link-layer announcement", announcement + bytes(20) + mark(), False),
        ("an announcement with lawful UDP in it", announcement + tagged[14:], False),
        ("an announcement with lawful TCP in it", announcement + tcp, False),
        ("an announcement with a later fragment in it", announcement + part, False),
        ("a frame with a VLAN tag", tagged[:12] + b"\x81\x00\x00\x05" + tagged[12:], False),
    ]


def leaving(packet: bytes) -> bytes:
    return packets.frame(packet, NEAR_HARDWARE, FAR_HARDWARE)


def mark() -> bytes:
    return secrets.token_bytes(24)


def uplink(end: Literal["dial", "listen"]) -> Ruleset:
    variables = {"outside": '{ "outside" }', "port": "51820"}
    stranger = End(ELSEWHERE.address, 51820)
    near = End(UPLINK.address, 51820 if end == "listen" else 0)
    far = ENDPOINT if end == "dial" else End(ENDPOINT.address)
    return Ruleset(
        name=f"uplink-{end}",
        file=f"wireguard/rules/uplink-{end}.nft",
        variables=variables | ({"endpoint": ENDPOINT.address} if end == "dial" else {}),
        near=UPLINK,
        talks=uplink_talks(end),
        allows=uplink_allows(end),
        insider="root in the uplink's namespace",
        outsider="a neighbour that may forge addresses",
        allows_leaving=uplink_leaving(end),
        frames=uplink_frames(end),
        through=(("a stranger's packet to the endpoint", "outside", stranger, ENDPOINT, UDP),),
        complained_of=Talk("", "inside", "outside", UDP, near, far),
        limits_strangers=end == "listen",
        counts=("heard", "refused_in", "refused_out"),
    )


def hop_talks(ports: Iterator[int]) -> list[Talk]:
    def variants(begun: Side) -> Iterator[Talk]:
        def talk(
            about: str,
            device: str = "wg-hop",
            protocol: int = UDP,
            near: str = HOP.address,
            far: str = ENDPOINT.address,
            port: int = 51820,
        ) -> Talk:
            return Talk(about, begun, device, protocol, End(near, next(ports)), End(far, port))

        yield talk("the tunnel's packets")
        yield talk("the tunnel's packets by another interface", device="other0")
        yield talk("TCP on the tunnel's port", protocol=TCP)
        yield talk("an unknown protocol on the tunnel's port", protocol=EXPERIMENTAL)
        yield talk("the tunnel's packets from another address of this side", near=NOT_HOP.address)
        yield talk("the tunnel's packets with somebody else", far=ELSEWHERE.address)
        yield talk("UDP on another port", port=8080)
        yield talk("DNS by UDP", port=53)
        yield talk("the tunnel's packets by IPv6", near=NEAR6.address, far=FAR6.address)

    return [*variants("inside"), *variants("outside")]


def hop_allows(talk: Talk, way: Way) -> bool:
    return (
        talk.device == "wg-hop"
        and talk.protocol == UDP
        and (talk.near.address, talk.far) == (HOP.address, ENDPOINT)
        and (way == "out" or talk.begun == "inside")
    )


def hop_leaving(device: str, packet: bytes) -> bool:
    if device != "wg-hop" or packet[0] >> 4 != 4 or packet[9] != UDP:
        return False
    is_later = struct.unpack("!H", packet[6:8])[0] & 0x1FFF
    target = struct.unpack("!H", packet[22:24])[0]
    return packet[12:20] == HOP.packed + ENDPOINT.packed and (bool(is_later) or target == 51820)


def hop_frames(ports: Iterator[int]) -> list[tuple[str, bytes, bool]]:
    """They have no Ethernet header."""
    free = next(ports)
    near, far = End(HOP.address, free), ENDPOINT
    not_near, elsewhere = End(NOT_HOP.address, free), End(ELSEWHERE.address, far.port)
    near6, far6 = End(NEAR6.address, free), End(FAR6.address, far.port)

    def part(source: End, target: End, protocol: int = UDP) -> bytes:
        return packets.ip(source, target, protocol, mark(), offset=1480)

    return [
        ("the tunnel's UDP", packets.udp(near, far, mark()), True),
        ("UDP on another port", packets.udp(near, End(far.address, 443), mark()), False),
        ("the tunnel's UDP from another address", packets.udp(not_near, far, mark()), False),
        ("the tunnel's UDP to somebody else", packets.udp(near, elsewhere, mark()), False),
        ("TCP on the tunnel's port", packets.tcp(near, far, packets.SYN, 7, 0), False),
        ("an unknown protocol on the tunnel's port", packets.plain(near, far, mark()), False),
        ("an echo request", packets.icmp(near, far, 8, 0, bytes(4) + mark()), False),
        ("a later fragment of the tunnel's UDP", part(near, far), True),
        ("a later fragment from another address", part(not_near, far), False),
        ("a later fragment to somebody else", part(near, elsewhere), False),
        ("a later fragment of TCP", part(near, far, TCP), False),
        ("UDP by IPv6", packets.udp(near6, far6, mark()), False),
        ("TCP by IPv6", packets.tcp(near6, far6, packets.SYN, 7, 0), False),
        (
            "IPv6 that reads like the tunnel's UDP",
            b"\x65" + packets.udp(near, far, mark())[1:],
            False,
        ),
        ("IPv6 that reads like a later fragment", b"\x65" + part(near, far)[1:], False),
        ("nothing of IP's", bytes(1) + mark() + mark(), False),
    ]


def hop() -> Ruleset:
    stranger = End(ELSEWHERE.address, 51820)
    return Ruleset(
        name="uplink-hop",
        file="wireguard/rules/uplink-hop.nft",
        variables={
            "outside": '{ "wg-hop" }',
            "address": HOP.address,
            "endpoint": ENDPOINT.address,
            "port": str(ENDPOINT.port),
        },
        near=HOP,
        talks=hop_talks,
        allows=hop_allows,
        insider="root in the uplink's namespace",
        outsider="the hop's provider",
        allows_leaving=hop_leaving,
        device="wg-hop",
        frames=hop_frames,
        through=(
            ("a stranger's packet to the endpoint", "wg-hop", stranger, ENDPOINT, UDP),
            ("a packet from another interface to it", "other0", stranger, ENDPOINT, UDP),
        ),
        complained_of=Talk("", "inside", "wg-hop", UDP, HOP, ENDPOINT),
        counts=("heard", "refused_in", "refused_out"),
    )


def egress_talks(ports: Iterator[int]) -> list[Talk]:
    def variants(begun: Side) -> Iterator[Talk]:
        def talk(about: str, protocol: int, far: End, near: str = UPLINK.address) -> Talk:
            return Talk(about, begun, "outside", protocol, End(near, next(ports)), far)

        yield talk("TLS with Telegram", TCP, TELEGRAM)
        yield talk("UDP with Telegram", UDP, TELEGRAM)
        yield talk("another port of Telegram's", TCP, End(TELEGRAM.address, 80))
        yield talk("the resolver's port at Telegram", TCP, End(TELEGRAM.address, 53))
        yield talk("TLS with somebody else", TCP, End(ELSEWHERE.address, 443))
        yield talk("DNS with the resolver", UDP, RESOLVER)
        yield talk("DNS by TCP with the resolver", TCP, RESOLVER)
        yield talk("an unknown protocol with the resolver", EXPERIMENTAL, RESOLVER)
        yield talk("another port of the resolver's", UDP, End(RESOLVER.address, 443))
        yield talk("another port of the resolver's by TCP", TCP, End(RESOLVER.address, 443))
        yield talk("DNS with somebody else", UDP, End(ELSEWHERE.address, 53))
        yield talk("TLS by IPv6", TCP, End(FAR6.address, 443), NEAR6.address)
        yield talk("DNS by IPv6", UDP, End(FAR6.address, 53), NEAR6.address)

    return [*variants("inside"), *variants("outside")]


def egress_allows(talk: Talk, way: Way) -> bool:
    return talk.begun == "inside" and (
        (talk.far == TELEGRAM and talk.protocol == TCP)
        or (talk.far == RESOLVER and talk.protocol in (TCP, UDP))
    )


def egress_leaving(device: str, frame: bytes) -> bool:
    if frame[12:14] == b"\x08\x06":
        return True
    packet = frame[14:]
    target = packet[16:20], struct.unpack("!H", packet[22:24])[0]
    return frame[12:14] == b"\x08\x00" and (
        (target == (TELEGRAM.packed, 443) and packet[9] == TCP)
        or (target == (RESOLVER.packed, 53) and packet[9] in (TCP, UDP))
    )


def egress_frames(ports: Iterator[int]) -> list[tuple[str, bytes, bool]]:
    near = End(UPLINK.address, next(ports))

    def call(far: End) -> bytes:
        return leaving(packets.tcp(near, far, packets.SYN, secrets.randbelow(1 << 31), 0))

    def question(far: End) -> bytes:
        return leaving(packets.udp(near, far, mark()))

    return [
        *common_frames(near, RESOLVER),
        ("TLS with Telegram", call(TELEGRAM), True),
        ("another port of Telegram's", call(End(TELEGRAM.address, 80)), False),
        ("UDP with Telegram", question(TELEGRAM), False),
        ("TLS with somebody else", call(End(ELSEWHERE.address, 443)), False),
        ("DNS with the resolver", question(RESOLVER), True),
        ("DNS by TCP with the resolver", call(RESOLVER), True),
        ("an unknown protocol with it", leaving(packets.plain(near, RESOLVER, mark())), False),
        ("another port of the resolver's", question(End(RESOLVER.address, 443)), False),
        ("DNS with somebody else", question(End(ELSEWHERE.address, 53)), False),
    ]


def egress() -> Ruleset:
    return Ruleset(
        name="egress",
        file="services/egress/egress.nft",
        variables={
            "outside": '{ "outside" }',
            # Networks may overlap, as operators write them.
            "networks": f"{{ {TELEGRAM.address}/32,{TELEGRAM.address[:-2]}20/31 }}",
            "port": str(TELEGRAM.port),
            "resolvers": f"{{ {RESOLVER.address} }}",
        },
        near=UPLINK,
        talks=egress_talks,
        allows=egress_allows,
        insider="root in the egress' namespace",
        outsider="a neighbour that may forge addresses",
        allows_leaving=egress_leaving,
        frames=egress_frames,
        through=(("a stranger's call to Telegram", "outside", ELSEWHERE, TELEGRAM, TCP),),
        complained_of=Talk("", "inside", "outside", TCP, UPLINK, TELEGRAM),
        hears_size_complaints=True,
    )


RULESETS = (
    sidecar("dial"),
    sidecar("listen"),
    sidecar("workers"),
    uplink("dial"),
    uplink("listen"),
    hop(),
    egress(),
)
