"""docs/doctor.md, docs/commands.md and the tests are in step with what they are made from."""

from __future__ import annotations

from pathlib import Path

from scripts.doctor.examination import COMMON, checks_of
from scripts.doctor.finding import Level, Problem
from scripts.document import commands, document
from scripts.node.kinds import kinds

ROOT = Path(__file__).resolve().parents[3]


def problems() -> list[Problem]:
    checks = {check.name: check for check in COMMON}
    for kind in kinds().values():
        checks |= {check.name: check for check in checks_of(kind)}
    return [problem for check in checks.values() for problem in check.problems]


def test_page_is_what_the_checks_say() -> None:
    """Made anew by `python3 -m scripts.document >docs/doctor.md`."""
    assert (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8") == document()


def test_manual_is_what_the_commands_say() -> None:
    """Made anew by `python3 -m scripts.document commands >docs/commands.md`."""
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == commands()


def test_every_problem_is_named_once_and_has_a_remedy() -> None:
    """One plain sentence at least, and a severity that asks for something."""
    names = [problem.name for problem in problems()]

    assert len(names) == len(set(names)) > 40
    for problem in problems():
        assert problem.level in (Level.WARNING, Level.FAILURE)
        assert problem.says.endswith((".", "}")), problem.name
        assert problem.remedy.endswith("."), problem.name


def test_every_problem_is_provoked_by_a_test() -> None:
    """By its name in a test of checks: one that nobody provokes may not be found either."""
    texts = [
        path.read_text(encoding="utf-8")
        for folder in ("tests/unit/adyton", "tests/integration/doctor")
        for path in (ROOT / folder).glob("test_*.py")
        if path.name != Path(__file__).name
    ]

    missing = [it.name for it in problems() if not any(f'"{it.name}"' in text for text in texts)]

    assert missing == []
