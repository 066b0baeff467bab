"""A store whose key is wrapped: a passphrase opens it after a start, and until then all sleeps."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.pair import Pair
from scripts.telegram_user import Said
from tests.conftest import STATE, running
from tests.integration.lab import wait_until
from tests.operating import Nodes

SECONDS = 120.0  # for one answer, on a machine that does other things meanwhile
PASSPHRASE = "six words that were drawn by lot\n"
MEMORY = Path("/dev/shm") / f"test-locked-{os.getpid()}"
"""In the place of /run/node-key, which is the real node's where one lives on this machine."""

OVERLAY = f"""\
secrets:
  store_key: {{ file: {MEMORY}/store_key }}
"""


class Home:
    """The model node, with the overlay that keeps the store's key in memory."""

    def __init__(self, nodes: Nodes, folder: Path) -> None:
        self.nodes = nodes
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(PASSPHRASE, encoding="utf-8")
        overlay = nodes.pair.state / "memory.yml"
        overlay.write_text(OVERLAY, encoding="utf-8")
        self._files = ("-f", "compose.gpu.passphrase.yml", "-f", str(overlay))

    @property
    def secrets(self) -> Path:
        return self.nodes.pair.state / "model"

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of an operator at home."""
        command = [*self.nodes.command("model", words[0]), *self._files, *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    def unlock(self, passphrase: Path) -> subprocess.CompletedProcess[str]:
        return self.call("unlock", "--passphrase-file", str(passphrase))

    def up(self) -> None:
        """Make anew what the overlay changes."""
        pair = self.nodes.pair
        command = [*pair.compose(pair.model_node), *self._files]
        done = subprocess.run(
            [*command, "up", "--detach", "--no-build", "--wait"],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **pair.environment()},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr

    def health(self) -> str:
        name = self.nodes.container("model", "gateway")
        said = subprocess.run(
            ["docker", "inspect", "-f", "{{.State.Health.Status}} {{.RestartCount}}", name],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return said.stdout.strip()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    pair = Pair(name="test-locked", subnet="198.18.91", state=STATE / "locked", engine="stub")
    for _ in running(pair):
        nodes = Nodes(pair)
        nodes.write_overlays()
        try:
            yield Home(nodes, tmp_path_factory.mktemp("locked"))
        finally:
            (MEMORY / "store_key").unlink(missing_ok=True)
            if MEMORY.exists():
                MEMORY.rmdir()


def final_texts(home: Home, said: Said) -> list[str]:
    return [m.text for m in home.nodes.user.bot_messages(said.message_id) if m.is_final]


def test_store_opens_by_its_passphrase_alone(home: Home, tmp_path: Path) -> None:
    """What is asked while it is locked is answered after `unlock`, and no key lies on the disk."""
    user = home.nodes.user
    *_, shown = user.watch(user.say("before there was a passphrase"), SECONDS)
    assert len(shown) == 1
    key = (home.secrets / "store_key").read_text(encoding="ascii").strip()

    made = home.call("unlock", "--unattended")  # as the machine's start does
    assert made.returncode == 0, made.stdout + made.stderr
    home.up()
    first = home.unlock(home.passphrase)

    assert first.returncode == 0, first.stdout + first.stderr
    assert not (home.secrets / "store_key").exists()
    assert key not in "".join(
        path.read_text(encoding="utf-8") for path in home.secrets.iterdir() if path.is_file()
    )
    *_, shown = user.watch(user.say("with a passphrase"), SECONDS)
    assert len(shown) == 1, "the same store, opened by the same key"

    locked = home.call("lock")
    assert locked.returncode == 0, locked.stdout + locked.stderr
    assert (MEMORY / "store_key").read_bytes() == b""
    said = user.say("while it was locked")
    wait_until(
        lambda: any("asleep" in message.text for message in user.bot_messages(said.message_id)),
        "the chat is told that the node is asleep",
        SECONDS,
    )
    wait_until(lambda: home.health() == "healthy 0", "it waits, and is well", SECONDS)

    wrong = tmp_path / "wrong"
    wrong.write_text("six other words than those\n", encoding="utf-8")
    refused = home.unlock(wrong)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert (MEMORY / "store_key").read_bytes() == b""

    again = home.unlock(home.passphrase)
    assert again.returncode == 0, again.stdout + again.stderr
    wait_until(
        lambda: final_texts(home, said) == ["while it was locked"],
        "what was asked meanwhile is answered",
        SECONDS,
    )
