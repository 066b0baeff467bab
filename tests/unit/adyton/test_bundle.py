"""What of the operator's command may go to the relay node: it names neither model nor GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("scripts/commands", "scripts/node", "scripts/doctor", "scripts/prove")
FORBIDDEN = re.compile(
    r"adyton|llm|llama|gpu|cuda|nvidia|inference|smollm|oracle|model|engine|prompt", re.IGNORECASE
)
HARMLESS = re.compile("fullmatch|fu-llm-atch")


def is_left_out(path: Path) -> bool:
    """The rule for a bundle: everything that has `model` in its path stays away."""
    return "model" in str(path.relative_to(ROOT))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What a relay node gets, under another name."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if not is_left_out(path):
                copy = tmp_path / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
    shutil.copy(ROOT / "scripts/__init__.py", tmp_path / "scripts")
    shutil.copy(ROOT / "scripts/python.sh", tmp_path / "scripts")
    shutil.copy(ROOT / "scripts/adyton", tmp_path / "scripts/node-admin")
    shutil.copy(ROOT / "compose.vps.yml", tmp_path)
    return tmp_path


def run(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(bundle / "scripts/node-admin"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=bundle)


def test_bundle_names_nothing(bundle: Path) -> None:
    """Neither in its files nor in what it says of itself."""
    texts = {
        str(path): path.read_text(encoding="utf-8") for path in bundle.rglob("*") if path.is_file()
    }
    for words in (["--help"], ["doctor", "--help"], ["prove", "--help"]):
        texts[" ".join(words)] = run(bundle, *words).stdout

    found = [
        f"{name}: {line.strip()}"
        for name, text in texts.items()
        for line in text.splitlines()
        if FORBIDDEN.search(HARMLESS.sub("", line))
    ]

    assert len(texts) > 30
    assert found == []


def test_bundle_runs_without_what_was_left_out(bundle: Path) -> None:
    """It knows one kind of node, and calls itself by its own name."""
    help_text = run(bundle, "doctor", "--help").stdout

    assert help_text.startswith("usage: node-admin doctor")
    assert "--node {relay}" in help_text


def test_imports_are_of_the_standard_library_alone() -> None:
    """A node has no package index."""
    import sys

    allowed = {*sys.stdlib_module_names, "scripts"}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            imported = re.findall(r"^\s*(?:from|import) ([a-z_0-9]+)", text, re.MULTILINE)
            assert set(imported) <= allowed, path
