"""The operator's command: its sub-commands, what a wrong call gives, how findings are shown."""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.commands import VERSION, _manual, available, load
from scripts.commands.__main__ import main
from scripts.commands.doctor import show, summary
from scripts.doctor import states
from scripts.doctor.examination import status_of
from scripts.doctor.finding import Check, Finding, Level, could_not_look, ok, warning
from tests.unit.adyton.recorded import Nodes

ROOT = Path(__file__).resolve().parents[3]
BAD = warning("bad", "It is {how}.", "Make it good.").found(how="bad")


def test_every_module_is_a_sub_command() -> None:
    """Each says what it is about and how it is called."""
    assert {"doctor", "harden", "prove", "status"} <= set(available())
    for name in available():
        module = load(name)
        assert module.ABOUT
        assert 0 in module.EXIT_STATUS
        assert isinstance(module.FILES, dict)
        assert callable(module.add_arguments)
        assert callable(module.run)


def test_version_is_the_projects() -> None:
    """One number, in both places."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["version"] == VERSION


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["doctor", "--nonsense"],
        ["doctor", "--node", "moon"],
        ["prove", "--seconds", "0"],
        ["prove", "--target", "example.org"],
        ["prove", "verify", "report"],
    ],
)
def test_wrong_calls_have_a_status_of_their_own(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """1 and 2 say how a node is."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 64
    assert "usage:" in capsys.readouterr().err


def test_launcher_starts_from_anywhere_and_through_a_link(tmp_path: Path) -> None:
    """An operator may link it into /usr/local/bin."""
    link = tmp_path / "adyton"
    link.symlink_to(ROOT / "scripts/adyton")

    done = subprocess.run([str(link), "--version"], capture_output=True, text=True, cwd="/")

    assert (done.returncode, done.stdout) == (0, f"{VERSION}\n"), done.stderr


@pytest.mark.parametrize(
    ("levels", "status", "words"),
    [
        ([Level.OK, Level.NOT_APPLICABLE], 0, "All is in order."),
        ([Level.OK, Level.WARNING], 1, "1 warning."),
        ([Level.COULD_NOT_LOOK], 1, "1 thing that could not be looked at."),
        ([Level.WARNING, Level.FAILURE, Level.FAILURE], 2, "2 failures, 1 warning."),
    ],
)
def test_status_and_summary(levels: list[Level], status: int, words: str) -> None:
    """The worst finding decides."""
    findings = [Finding(level, "") for level in levels]

    assert status_of(findings) == status
    assert summary(findings) == words


def test_colour_is_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for those who do not want it."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, coloured, refused = io.StringIO(), Terminal(), Terminal()
    show(BAD, True, plain)
    show(BAD, True, coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    show(BAD, True, refused)

    assert "It is bad." in plain.getvalue()
    assert "-> Make it good." in plain.getvalue()
    assert "\x1b[33m" in coloured.getvalue()
    assert "\x1b" not in plain.getvalue() + refused.getvalue()


def test_check_that_breaks_hides_no_other(tmp_path: Path) -> None:
    """It says that it broke, which is neither health nor silence."""

    def break_down(node: object) -> object:
        raise KeyError("secret")

    broken = Check("broken", "", (), break_down)  # type: ignore[arg-type]  # it never returns
    sound = Check("sound", "", (), lambda node: iter([ok("fine"), could_not_look("dark")]))

    found = Nodes(tmp_path).find(broken, sound)

    assert [it.check for it in found] == ["broken", "sound", "sound"]
    assert found[0].level is Level.COULD_NOT_LOOK
    assert "KeyError at" in found[0].text
    assert "secret" not in found[0].text


def test_words_of_containers_do_not_steer_the_terminal(tmp_path: Path) -> None:
    """What a container says last is shown, and does nothing."""
    node = Nodes(tmp_path)
    node.add("relay", Status="exited")
    node.tools.answers["docker logs"] = "all is \x1b[2Jwell\x07\n"

    (found,) = node.find(states.CHECK)

    assert "all is ?[2Jwell?" in found.text


def test_interpreter_of_the_command_needs_no_packages() -> None:
    """It starts where there is nothing but Python."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r});"
         "from scripts.commands.__main__ import main; main(['doctor', '--help'])"],
        capture_output=True, text=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", available())
def test_manual_has_every_section_and_is_what_help_shows(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`help NAME` and `NAME --help` are one page, from one source."""
    assert main(["help", name]) == 0
    page = capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == page
    titles = re.findall(r"^[A-Z].*$", page, re.MULTILINE)
    assert titles == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "FILES", "EXAMPLES")
    ]
    assert "%(" not in page
    assert re.search(rf"\b{name}\b", page.partition("\nEXAMPLES\n")[2])


@pytest.mark.parametrize("name", available())
def test_manual_names_every_option_that_is_accepted(name: str) -> None:
    """And the synopsis too; those of the actions as well."""
    parser = argparse.ArgumentParser(prog=name)
    load(name).add_arguments(parser)
    page = _manual.manual(load(name), parser)
    synopsis, _, rest = page.partition("\nDESCRIPTION\n")

    for one in (parser, *_manual.actions_of(parser).values()):
        for action in one._actions:
            for text in action.option_strings:
                assert text in rest
            if action.option_strings and action.dest != "help":
                assert max(action.option_strings, key=len) in synopsis


def test_help_lists_all_and_refuses_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name is a wrong call."""
    assert main(["help"]) == 0
    listed = capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["help", "nonsense"])

    assert [line.split()[0] for line in listed.splitlines()[:-2]] == available()
    assert ended.value.code == 64
    assert "help` lists what there is" in capsys.readouterr().err


def test_no_module_ends_with_a_status_that_its_manual_does_not_name() -> None:
    """By the names that modules give to their statuses."""
    for name in available():
        module = load(name)
        own = ("COULD_NOT", "UNHEALTHY", "TAKEN_BACK", "INCOMPLETE", "BAD", "NOT_CUT")
        for constant in own:
            assert getattr(module, constant, 0) in module.EXIT_STATUS, (name, constant)
