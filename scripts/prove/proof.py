"""Makes a proof: looks at the node, sends canaries inside while it captures outside, reports."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.commands import VERSION
from scripts.doctor import census, counters, hardening, refusals, rules, states, tunnel, versions
from scripts.doctor.examination import examine
from scripts.node.arguments import ROOT
from scripts.node.node import Container, Node
from scripts.node.rules import THROWAWAY, golden_rules, standing_rules
from scripts.node.tools import CannotLook
from scripts.prove import canary
from scripts.prove.capture import Capture, Seen
from scripts.prove.outside import (
    Permitted,
    bridges_of,
    kinds_at,
    outside_interfaces,
    tunnels_of,
)
from scripts.prove.packets import OWN
from scripts.prove.report import FORM, verdict_of

CHECKS = (
    *(versions.CHECK, states.CHECK, census.CHECK, rules.CHECK, hardening.CHECK, tunnel.CHECK),
    *(counters.CHECK, refusals.CHECK),
)
CONTROL_LETTER = "z"
LOWEST_PORT, PORTS_EACH, PLACES = 20_000, 64, 400
"""Where a run's ports begin is drawn: another run's connections must not pass for its own."""
NOT_LOOKED_AT = (
    "anything before the first and after the last moment named above, starts and stops included",
    "interfaces other than those named above, and what a network card does by itself",
    "what is inside the tunnel's packets: they are known by address, port and form",
    "later fragments of UDP from a tunnel's container, which carry no port: they pass for the "
    "tunnel's",
    "what other programs of this machine send: it is counted by kind on the outside interface, and "
    "not judged",
    "the other node: it has a report of its own",
    "the host itself: this program, Docker, nft in the containers and the kernel are believed",
)
NO_CONTROL = (
    "whether a canary that gets out is seen by this capture: --control sends one from the host to "
    "the target"
)


@dataclass(frozen=True)
class Plan:
    """What the operator wants."""

    seconds: float
    interfaces: tuple[str, ...]
    target: str
    control: bool
    count: int = 3
    """Canaries of each kind."""


def prove(node: Node, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Take a proof of a running node; return the report. Raises CannotLook."""
    if not node.tools.is_root:
        raise CannotLook("only root can capture packets and enter namespaces: run this as root")
    say("looking at containers, namespaces and rulesets")
    findings = [dataclasses.asdict(finding) for finding in examine(node, CHECKS)]
    if not node.running:
        raise CannotLook("no container of the node runs")
    outside = dict.fromkeys(plan.interfaces, OWN) or outside_interfaces(node)
    bridges = bridges_of(node)
    roles = [(name, f"outside interface {name}") for name in outside]
    roles += [(bridge.interface, bridge.role) for bridge in bridges]
    mark = f"canary-{secrets.token_hex(6)}-"
    senders = dict(zip("abcdefghij", refusals.one_a_namespace(node), strict=False))
    first = LOWEST_PORT + PORTS_EACH * secrets.randbelow(PLACES)
    ports = {
        first + PORTS_EACH * at: letter for at, letter in enumerate([*senders, CONTROL_LETTER])
    }
    permitted = Permitted(node, bridges, tunnels_of(node))
    capture = Capture(roles, permitted.every_tunnel, mark, plan.target, ports, permitted.judge)
    expected = outside | kinds_at(bridges, node)

    began, started = node.tools.now(), time.monotonic()
    canaries: list[dict[str, Any]] = []
    with capture:
        for port, letter in ports.items():
            if letter in senders:
                service, container = senders[letter]
                say(f"sending canaries from the namespace of {service}")
                sent = send_from(node, container, f"{mark}{letter}", plan, port)
            elif plan.control:
                service = "the host"
                say(f"sending the control canary from {service}")
                sent = canary.run(f"{mark}{letter}", plan.target, plan.count, port, ["udp"])
            else:
                continue
            for probe in sent:
                probe |= {"service": service, "letter": letter, "tried": plan.count}
            canaries += sent
        say(f"capturing until {plan.seconds:.0f} s are over")
        time.sleep(max(0.0, plan.seconds - (time.monotonic() - started)))
    ended = node.tools.now()
    counters.remember(node)  # what was refused just now is no news for the doctor

    report: dict[str, Any] = {
        "report": FORM,
        "program": {"version": VERSION, "digest": program_digest()},
        "node": node.kind.name,
        "project": node.project,
        "machine": machine(node),
        "began": stamp(began),
        "ended": stamp(ended),
        "seconds": round(ended - began),
        "compose": node.digests,
        "images": {name: image(node, it) for name, it in node.running.items()},
        "rulesets": {name: rulesets(node, name, it) for name, it in node.guarded.items()},
        "findings": findings,
        "canaries": [told(sent, capture.seen) for sent in canaries],
        "captures": [described(seen) for seen in capture.seen],
        "controls": list(controls(capture.seen, canaries, plan, expected)),
        "not_looked_at": [*NOT_LOOKED_AT, *([] if plan.control else [NO_CONTROL])],
    }
    report["verdict"] = verdict_of(report)
    return report


def send_from(
    node: Node, container: Container, mark: str, plan: Plan, port: int
) -> list[dict[str, Any]]:
    """Send canaries from a container's namespace, as root with Docker's usual capabilities."""
    with_python = node.kind.python or node.kind.mark
    image = node.running.get(with_python)
    if image is None:
        raise CannotLook(f"{with_python} does not run: its image has what canaries need")
    said = node.tools.run(
        *("docker", "run", "--rm", "--interactive", "--pull=never", "--read-only"),
        *(f"--network=container:{container.id}", "--user=0:0", "--memory=64m", "--pids-limit=16"),
        *(f"--label={THROWAWAY}", "--entrypoint=python3", image.image),
        *("-", mark, plan.target, str(plan.count), str(port)),
        stdin=Path(canary.__file__).read_text(encoding="utf-8"),
    )
    if said.code != 0:
        raise CannotLook(f"canaries could not be sent from {container.name} ({said.why})")
    return list(json.loads(said.out))


def told(sent: dict[str, Any], seen: list[Seen]) -> dict[str, Any]:
    """One canary's story."""
    key = f"{sent['letter']}{sent['number']:02d}"
    return {
        "service": sent["service"],
        "probe": sent["probe"],
        "is_control": sent["letter"] == CONTROL_LETTER,
        "tried": sent["tried"],
        "taken": sent["taken"],
        "errors": sent["errors"],
        "seen": max((it.canaries[key] for it in seen), default=0),
    }


def described(seen: Seen) -> dict[str, Any]:
    controls = sum(n for key, n in seen.canaries.items() if key.startswith(CONTROL_LETTER))
    return {
        "role": seen.role,
        "frames": seen.frames,
        "dropped": seen.dropped,
        "kinds": dict(seen.kinds),
        "canaries": seen.canaries.total() - controls,
        "control_canaries": controls,
        "forbidden": dict(seen.forbidden),
    }


def controls(
    seen: list[Seen], canaries: list[dict[str, Any]], plan: Plan, expected: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """What shows that the capture would have seen something.

    `expected` says which tunnel's packets have to be seen at an interface.
    """
    for it in seen:
        if kind := expected.get(it.interface):
            whose = "the node's own tunnel" if kind == OWN else f"the {kind}"
            about = f"{it.kinds[kind]} packets of {whose} were seen on {it.role}"
            yield {"name": kind, "about": about, "passed": it.kinds[kind] > 0}
    if not plan.control:
        about = "a canary sent on purpose from the host is seen"
        yield {"name": "canary", "about": about, "passed": None}
        return
    sent = sum(it["taken"] for it in canaries if it["letter"] == CONTROL_LETTER)
    outside = [it for it in seen if it.role.startswith("outside")]
    found = max(
        (sum(n for key, n in it.canaries.items() if key[0] == CONTROL_LETTER) for it in outside),
        default=0,
    )
    about = f"{found} of {sent} canaries sent on purpose from the host were seen"
    yield {"name": "canary", "about": about, "passed": 0 < sent <= found}


def image(node: Node, container: Container) -> dict[str, Any]:
    said = node.tools.run(
        "docker", "image", "inspect", "--format", "{{json .RepoDigests}}", container.image
    )
    digests = json.loads(said.out) if said.code == 0 else None
    return {
        "name": container.raw["Config"]["Image"],
        "id": container.image,
        "digests": digests or [],
    }


def rulesets(node: Node, service: str, container: Container) -> dict[str, str]:
    """Digests of what stands and of what should."""
    found = {"standing": digest(standing_rules(node, container))}
    try:
        found["golden"] = digest(golden_rules(node, service, container))
    except CannotLook:
        found["golden"] = "unknown"
    return found


def machine(node: Node) -> dict[str, str]:
    docker = node.tools.run("docker", "version", "--format", "{{.Server.Version}}").out.strip()
    compose = node.tools.run("docker", "compose", "version", "--short").out.strip()
    return {"kernel": node.tools.kernel(), "docker": docker, "compose": compose}


def program_digest() -> str:
    """One digest over everything that looks."""
    found = hashlib.sha256()
    for folder in ("commands", "node", "doctor", "prove"):
        for file in sorted((ROOT / "scripts" / folder).rglob("*.py")):
            found.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return found.hexdigest()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stamp(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat(timespec="seconds")
