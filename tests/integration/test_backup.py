"""A pair's store is backed up while it runs, lost with its volume, restored, and goes on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.pair import Pair
from scripts.telegram_user import BotMessage, TelegramUser
from tests.conftest import STATE, running
from tests.operating import Nodes

SECONDS = 120  # for one answer, on a machine that does other things meanwhile
WORDS = "quetzalcoatlus before the backup"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pair = Pair(name="test-backup", subnet="198.18.90", state=STATE / "backup", engine="stub")
    for _ in running(pair):
        nodes = Nodes(pair)
        nodes.write_overlays()
        yield nodes


def call(nodes: Nodes, *words: str) -> str:
    """One command of an operator at home; what it said."""
    done = subprocess.run(
        nodes.command("model", *words), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(user: TelegramUser, words: str) -> list[BotMessage]:
    """Say something; what stands below it when all of it is final."""
    *_, shown = user.watch(user.say(words), SECONDS)
    return shown


def texts(user: TelegramUser) -> list[tuple[int, str]]:
    return [(message.message_id, message.text) for message in user.bot_messages()]


def used_asks(nodes: Nodes) -> int:
    """How many asks the store knows of."""
    report = ("python3", "-m", "services.gateway.usage", "--json")
    rows = json.loads(docker("exec", nodes.container("model", "gateway"), *report))
    return sum(row["asks"] for row in rows)


def test_conversation_goes_on_after_its_volume_was_lost(nodes: Nodes, tmp_path: Path) -> None:
    """What was said before the backup is known, what came after it is not, and nothing doubles."""
    file, passphrase = tmp_path / "backup.gpg", tmp_path / "passphrase"
    passphrase.write_text("six words that were drawn by lot\n", encoding="utf-8")
    sealed = ("--passphrase-file", str(passphrase))
    assert len(ask(nodes.user, WORDS)) == 1
    started = docker("inspect", "-f", "{{.State.StartedAt}}", nodes.container("model", "gateway"))

    call(nodes, "backup", "--out", str(file), *sealed)

    again = docker("inspect", "-f", "{{.State.StartedAt}}", nodes.container("model", "gateway"))
    assert again == started, "the gateway went on"
    assert b"quetzalcoatlus" not in file.read_bytes()
    assert len(ask(nodes.user, "after the backup")) == 1
    assert used_asks(nodes) == 2
    docker("rm", "--force", nodes.container("model", "gateway"))
    docker("volume", "rm", f"{nodes.pair.model_node}_store")

    call(nodes, "restore", str(file), *sealed, "--dry-run")
    said = call(nodes, "restore", str(file), *sealed)

    assert "Asks that go on: 0" in said
    assert used_asks(nodes) == 1
    before = texts(nodes.user)
    assert len(ask(nodes.user, "after it was restored")) == 1
    assert used_asks(nodes) == 2
    assert texts(nodes.user)[: len(before)] == before, "what stood in the chat stays"
    assert "nothing was changed" in call(nodes, "restore", str(file), *sealed)
    assert used_asks(nodes) == 2
    labels = docker("volume", "inspect", "-f", "{{json .Labels}}", f"{nodes.pair.model_node}_store")
    assert json.loads(labels)["com.docker.compose.project"] == nodes.pair.model_node
