"""Proofs of both running nodes: signed, checked, refused when touched; and a planted leak."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.integration.doctor.conftest import Undo, docker
from tests.operating import Nodes

CONTAINERS = {
    "relay": {"wireguard", "uplink", "egress", "relay"},
    "model": {"wireguard", "uplink", "gateway", "engine"},
}
NAMESPACES = {
    "relay": {"wireguard", "uplink", "egress"},
    "model": {"wireguard", "uplink", "engine"},
}


@dataclass(frozen=True)
class Proof:
    """One report as a file, and how the command ended."""

    file: Path
    status: int
    said: str

    @property
    def report(self) -> dict[str, Any]:
        return dict(json.loads(self.file.read_text(encoding="utf-8")))


def take(nodes: Nodes, target: str, kind: str, folder: Path, *more: str, seconds: int = 6) -> Proof:
    file = folder / f"{kind}.json"
    command = nodes.command(
        *(kind, "prove", f"--seconds={seconds}", f"--interface={nodes.bridge()}"),
        *(f"--target={target}", f"--out={file}", *more),
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return Proof(file, done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operator's key, and somebody else's."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("operator", "stranger"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    return folder


@pytest.fixture(scope="module")
def proofs(
    nodes: Nodes, target: str, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Proof]]:
    """Proofs of both nodes, taken at once, while somebody talks to the bot."""
    folder = tmp_path_factory.mktemp("proofs")
    with ThreadPoolExecutor() as pool:
        taken = {
            kind: pool.submit(
                take, nodes, target, kind, folder, "--control", f"--key={keys / 'operator'}"
            )
            for kind in CONTAINERS
        }
        while not all(proof.done() for proof in taken.values()):
            said = nodes.user.say("go on talking")
            assert list(nodes.user.watch(said, 60))[-1], "the node goes on meanwhile"
        yield {kind: proof.result() for kind, proof in taken.items()}


@pytest.mark.parametrize("kind", ["relay", "model"])
def test_nothing_gets_out_of_a_running_node(proofs: dict[str, Proof], kind: str) -> None:
    """Hostile probes from every namespace; none of their packets is seen, and the controls are."""
    proof = proofs[kind]
    report = proof.report

    assert (proof.status, report["verdict"]["name"]) == (0, "nothing got out"), proof.said
    assert all(control["passed"] is True for control in report["controls"])
    assert {control["name"] for control in report["controls"]} == {"tunnel", "canary"}
    canaries = [it for it in report["canaries"] if not it["is_control"]]
    assert {it["service"] for it in canaries} == NAMESPACES[kind]
    assert len(canaries) == 16 * len(NAMESPACES[kind])
    assert all(it["seen"] == 0 and it["tried"] == 3 for it in canaries)
    taken = {(it["service"], it["probe"]) for it in canaries if it["taken"]}
    assert ("wireguard", "frames") in taken, "control: frames were really sent"
    (control,) = [it for it in report["canaries"] if it["is_control"]]
    assert control["seen"] == control["taken"] == 3
    assert all(capture["dropped"] == 0 for capture in report["captures"])
    assert all(capture["kinds"]["tunnel"] > 0 for capture in report["captures"])


@pytest.mark.parametrize("kind", ["relay", "model"])
def test_report_names_what_it_is_about_and_what_it_is_not(
    proofs: dict[str, Proof], kind: str
) -> None:
    """Digests of images, rulesets, Compose files; version and times; and no address of anybody."""
    report = proofs[kind].report

    assert set(report["images"]) == CONTAINERS[kind]
    for service, image in report["images"].items():
        name = f"test-doctor-{kind}-{service}-1"
        assert image["id"] == docker("inspect", "-f", "{{.Image}}", name)
    assert all(it["standing"] == it["golden"] for it in report["rulesets"].values())
    assert len(report["rulesets"]) == {"relay": 3, "model": 2}[kind]
    main = {"relay": "compose.vps.yml", "model": "compose.gpu.yml"}[kind]
    assert main in report["compose"]
    assert report["began"] < report["ended"]
    assert report["not_looked_at"]
    assert "10.66.0." not in json.dumps(report)


@pytest.mark.parametrize("kind", ["relay", "model"])
def test_signed_report_is_accepted(proofs: dict[str, Proof], keys: Path, kind: str) -> None:
    """By the public key alone, and by a list of allowed signers."""
    public = (keys / "operator.pub").read_text(encoding="utf-8")
    signers = keys / "signers"
    signers.write_text(f'me@home namespaces="prove" {public}', encoding="utf-8")

    by_key = check(proofs[kind].file, keys / "operator.pub")
    by_list = check(proofs[kind].file, signers)

    assert by_key.returncode == by_list.returncode == 0, by_key.stderr + by_list.stderr
    assert "VERDICT: nothing got out" in by_key.stdout
    assert "Signed by me@home; the report is whole" in by_list.stdout


def check(file: Path, signers: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "scripts/adyton"), "prove", "verify", str(file), "--signers", str(signers)],
        capture_output=True, text=True,
    )  # fmt: skip


def test_touched_report_is_refused(proofs: dict[str, Proof], keys: Path, tmp_path: Path) -> None:
    """A changed byte, another's signature, none, a missing part, a verdict that does not follow."""
    proof = proofs["relay"]
    signature = Path(f"{proof.file}.sig").read_bytes()
    content = proof.file.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    without = json.dumps({k: v for k, v in proof.report.items() if k != "captures"}).encode()
    worse = proof.report
    worse["canaries"][0]["seen"] = 1

    def verdict(content: bytes, signer: str | None) -> str:
        file = tmp_path / "report.json"
        file.write_bytes(content)
        beside = Path(f"{file}.sig")
        beside.unlink(missing_ok=True)
        if signer == "":
            beside.write_bytes(signature)
        elif signer:
            command = ["ssh-keygen", "-Y", "sign", "-n", "prove", "-f", str(keys / signer)]
            subprocess.run([*command, str(file)], check=True, capture_output=True)
        done = check(file, keys / "operator.pub")
        assert (done.returncode == 2) is ("Refused" in done.stderr)
        return done.stderr

    assert verdict(content, "") == "", "control: untouched, it is accepted"
    assert "does not fit" in verdict(changed, "")
    assert "nobody on the list" in verdict(content, "stranger")
    assert "not signed" in verdict(content, None)
    assert "lacks captures" in verdict(without, "operator")
    assert "does not follow" in verdict(json.dumps(worse).encode(), "operator")


def test_planted_leak_is_seen(nodes: Nodes, target: str, tmp_path: Path, afterwards: Undo) -> None:
    """A ruleset that was opened: its canaries get out, and the report says which."""
    uplink = nodes.container("relay", "uplink")
    afterwards("restart", "--time", "3", uplink)
    docker("exec", uplink, "nft", "insert", "rule", "inet", "node", "output", "accept")
    docker("exec", uplink, "nft", "flush", "chain", "netdev", "node", "outside")
    docker("exec", uplink, "nft", "chain", "netdev", "node", "outside", "{ policy accept; }")

    proof = take(nodes, target, "relay", tmp_path, seconds=5)

    report = proof.report
    assert (proof.status, report["verdict"]["name"]) == (2, "leak"), proof.said
    seen = {(it["service"], it["probe"]) for it in report["canaries"] if it["seen"]}
    assert {service for service, _ in seen} == {"uplink"}
    assert {"udp", "tcp", "icmp", "raw-forged", "frames", "dns-outside"} <= {it for _, it in seen}
    assert any("forbidden packets on bridge" in reason for reason in report["verdict"]["reasons"])
    assert any("is not the one" in reason for reason in report["verdict"]["reasons"])
