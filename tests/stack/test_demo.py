"""The README's first command does what the README says."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scripts.pair import Pair
from tests.conftest import ROOT
from tests.operating import Nodes

DEMO = [str(ROOT / "scripts" / "demo"), "--name", "test-demo", "--subnet", "198.18.3"]


def demo(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments], input=typed, capture_output=True, text=True, timeout=300, check=False
    )


def left_over(kind: str) -> list[str]:
    """Names of containers, networks or volumes that belong to this demonstration."""
    command = {
        "containers": ["ps", "-a"],
        "networks": ["network", "ls"],
        "volumes": ["volume", "ls"],
    }[kind]
    listed = subprocess.run(
        ["docker", *command, "--format", "{{json .}}"], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    names = [row.get("Names") or row["Name"] for row in rows]
    return [name for name in names if name.startswith("test-demo-")]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    demo("down")
    yield
    demo("down")


def test_ask_prints_the_answer_and_where_the_time_went() -> None:
    """One command, one question, one real answer; and nothing runs any more after it."""
    done = demo("--ask", "What is the capital of France?")

    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    for hop in ("handed to the relay", "on disk", "placeholder", "first words", "final answer"):
        assert hop in done.stdout
    assert "tokens/s" in done.stdout
    assert "[1/" in done.stderr
    assert left_over("containers") == []


def test_conversation_in_the_terminal_is_kept_until_removed() -> None:
    """Two visits, one conversation; `down` leaves nothing of it."""
    first = demo(typed="/help\nThe capital of Freedonia is Fredville.\n")
    assert first.returncode == 0, first.stdout
    assert "bot> Write a message and I will answer it" in first.stdout
    assert "./scripts/demo" in first.stdout
    assert left_over("containers") == []
    assert left_over("volumes") != []

    second = demo(typed="What is the capital of Freedonia?\n/quit\n")
    assert second.returncode == 0, second.stdout
    assert "Fredville" in second.stdout

    removed = demo("down")
    assert removed.returncode == 0, removed.stdout
    assert left_over("networks") == []
    assert left_over("volumes") == []


def test_nodes_of_the_demonstration_are_proven(tmp_path: Path) -> None:
    """While it runs: a report of each node, signed by one machine's key and verified with it."""
    key = tmp_path / "operator"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    pair = Pair(
        name="test-demo", subnet="198.18.3", state=ROOT / ".demo-test-demo", engine="llamacpp"
    )
    nodes = Nodes(pair)

    with subprocess.Popen(DEMO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        run.stdin.write("/help\n")
        run.stdin.flush()
        assert any("I will answer it" in line for line in run.stdout), "it answers"
        nodes.write_overlays()
        with ThreadPoolExecutor() as pool:
            taken = {kind: pool.submit(prove, nodes, kind, key) for kind in ("relay", "model")}
            proofs = {kind: proof.result() for kind, proof in taken.items()}
        rest, _ = run.communicate("/quit\n", timeout=60)
    assert run.returncode == 0, rest

    for kind, (report, said) in proofs.items():
        assert report["verdict"]["name"] == "nothing got out", f"{kind}: {said}"
        tunnel = next(it for it in report["controls"] if it["name"] == "tunnel")
        assert tunnel["passed"] is True, "control: the capture saw the tunnel"
        assert report["canaries"]
        assert all(it["seen"] == 0 for it in report["canaries"])
        assert "verdict follows from it" in said


def prove(nodes: Nodes, kind: str, key: Path) -> tuple[dict[str, Any], str]:
    """Take a report of a running node and have it verified; the report, and what was said of it."""
    file = key.parent / f"{kind}.json"
    take = nodes.command(
        *(kind, "prove", "--seconds=30", f"--interface={nodes.bridge()}"),
        *(f"--target={nodes.pair.subnet}.200", f"--key={key}", f"--out={file}"),
    )
    taken = subprocess.run(take, capture_output=True, text=True, timeout=180, check=False)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    verify = [str(ROOT / "scripts/adyton"), "prove", "verify", str(file), f"--signers={key}.pub"]
    checked = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return json.loads(file.read_text(encoding="utf-8")), checked.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--engine", "abacus"], "invalid choice"),
        (["--ask", " "], "--ask is empty"),
        (["--token-file", "missing"], "--token-file needs --user"),
        (["--token-file", "missing", "--user", "1"], "cannot be read"),
        (["--subnet", "10.0.0"], "--subnet"),
        (["--images"], "belongs to `down`"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(arguments: list[str], sentence: str) -> None:
    """Before anything is started."""
    done = demo(*arguments)

    assert done.returncode != 0
    assert sentence in done.stdout + done.stderr
