"""What of the operator's command may go to the relay node: it names neither model nor GPU."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts.bundle import RELAY, node_scripts, pack

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = re.compile(
    r"adyton|llm|llama|gpu|cuda|nvidia|inference|smollm|oracle|model|engine|prompt", re.IGNORECASE
)
HARMLESS = re.compile("fullmatch|fu-llm-atch")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What a relay node gets."""
    content = pack(RELAY, (ROOT / RELAY.example).read_text(encoding="utf-8"), {})
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for entry in archive:
            entry.uid, entry.gid = os.geteuid(), os.getegid()
            archive.extract(entry, tmp_path, filter="fully_trusted")
    return tmp_path / "opt/relay"


def run(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(bundle / "scripts/node-admin"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=bundle)


def test_bundle_names_nothing(bundle: Path) -> None:
    """Neither in its files nor in what it says of itself."""
    texts = {
        str(path): path.read_text(encoding="utf-8")
        for path in bundle.parents[1].rglob("*")
        if path.is_file()
    }
    commands = (bundle / "scripts/commands").glob("*.py")
    names = sorted(path.stem for path in commands if not path.stem.startswith("_"))
    assert {"backup", "doctor", "harden", "keys", "prove", "status", "upgrade"} <= set(names)
    for words in (["--help"], ["help"], *([name, "--help"] for name in names)):
        texts[" ".join(words)] = run(bundle, *words).stdout

    found = [
        f"{name}: {line.strip()}"
        for name, text in texts.items()
        for line in text.splitlines()
        if FORBIDDEN.search(HARMLESS.sub("", line))
    ]

    assert len(texts) > 30
    assert str(bundle / "scripts/harden/files/firewall.nft") in texts
    assert found == []


def test_bundle_runs_without_what_was_left_out(bundle: Path) -> None:
    """It knows one kind of node, and calls itself by its own name."""
    help_text = run(bundle, "doctor", "--help").stdout

    assert "node-admin doctor [--node {relay}]" in help_text
    assert run(bundle, "revoke", "--help").returncode == 64, "it would tell of the other node"


def test_imports_are_of_the_standard_library_alone() -> None:
    """A node has no package index."""
    import sys

    allowed = {*sys.stdlib_module_names, "scripts"}
    for path, name in node_scripts(with_model=True):
        if name.endswith(".py"):
            text = path.read_text(encoding="utf-8")
            imported = re.findall(r"^\s*(?:from|import) ([a-z_0-9]+)", text, re.MULTILINE)
            assert set(imported) <= allowed, path
