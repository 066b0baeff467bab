"""What the documents name is there: tests, files, and the places that their links lead to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")


def named_tests(document: Path) -> list[tuple[str, str]]:
    return TEST.findall(document.read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    """A reader who wants to see it shown finds it."""
    for file, test in named_tests(document):
        assert (ROOT / file).is_file(), file
        if test:
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), f"{file}::{test}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    """Within the repository."""
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_threat_model_shows_each_adversary_its_tests() -> None:
    """The control: names of tests are found at all, and no adversary goes without."""
    text = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    adversaries = text.partition("## Adversaries")[2].split("\n### ")[1:]
    defended = [part for part in adversaries if "Stands against it" in part]

    assert len(defended) >= 8
    for part in defended:
        shown = part.partition("**Shown by**")[2]
        assert TEST.search(shown) or part.startswith("Telegram\n"), part.splitlines()[0]


def test_rules_on_the_host_are_those_of_the_virtual_machines() -> None:
    """What the page tells operators to load is what was seen to keep the hosts quiet."""
    page = (ROOT / "docs/known-leaks.md").read_text(encoding="utf-8")
    block = page.partition("### Rules on the host")[2].split("```")[1]
    loaded = (ROOT / "tests/vm/host-setup").read_text(encoding="utf-8")
    chains = re.findall(r"^  chain \w+ \{\n.*?^  \}\n", block, re.MULTILINE | re.DOTALL)

    assert len(chains) == 3
    for chain in chains:
        assert chain in loaded
    assert "[Service]\nExecStop=\n" in page
    assert "'[Service]\\nExecStop=\\n'" in loaded, "and they stay until the power is off"
