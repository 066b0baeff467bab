"""The README's first command does what the README says."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
