"""What the benchmark writes."""

import json
from pathlib import Path

import pytest

from tests.bench.figures import Spread
from tests.bench.machine import Machine
from tests.bench.report import MISSED, Report, page, read_parts, shown, write_json
from tests.bench.results import Part, Plot, Table, Target


def report(*parts: Part, is_quick: bool = False) -> Report:
    return Report(Machine((("processor", "a slow one"),)), "./scripts/bench", is_quick, 61.0, parts)


def target(value: float, bound: str = "at most") -> Target:
    return Target("Start", Spread(value, value - 1, value + 1, 3), "s", bound, 2.0)  # type: ignore[arg-type]  # a literal


@pytest.mark.parametrize(
    ("value", "bound", "is_met"),
    [
        (2.0, "at most", True),
        (2.1, "at most", False),
        (2.0, "at least", True),
        (1.9, "at least", False),
    ],
)
def test_the_median_is_judged(value: float, bound: str, is_met: bool) -> None:
    """The limit itself is within the target."""
    assert target(value, bound).is_met is is_met


def test_what_is_missed_is_named_on_top() -> None:
    """Whoever opens the page sees first which targets are missed, and by how much."""
    part = Part("start", "Start", ["How."], [target(1.0), target(5.0)])

    lines = page(report(part), "benchmarks").splitlines()

    assert "1 of 2 targets are met." in lines
    row = "| Start | at most 2.00 s | 5.00 s | 4.00 | 6.00 | **missed** |"
    assert row in lines
    assert sum(MISSED in line for line in lines) == 1
    assert lines[lines.index(row) - 1] == "| --- | --- | --- | --- | --- | --- |"


def test_tables_and_plots_stand_in_their_part() -> None:
    """A cell cannot break its table; a plot is a picture in the directory beside the page."""
    table = Table("Costs", ("what", "s"), [("a|b\nc", 0.12345)])
    plot = Plot("start-plot", "Starts", "x", "y", {"a": [(0, 1)]})
    part = Part("start", "Start", tables=[table], plots=[plot])

    text = page(report(part), "pictures")

    assert "| what | s |\n| --- | --- |\n| a\\|b c | 0.123 |" in text
    assert "![Starts](pictures/start-plot.png)" in text


def test_a_part_that_broke_says_why() -> None:
    """Its figures are not mistaken for all that there is."""
    part = Part("start", "Start", failure="NotReady: it ended\nlast words")

    text = page(report(part), "benchmarks")

    assert "`start` came to no end: NotReady: it ended" in text
    assert "last words" in text


def test_a_quick_run_says_so() -> None:
    """Nobody quotes its figures."""
    assert "its figures say little" in page(report(is_quick=True), "benchmarks")
    assert "its figures say little" not in page(report(), "benchmarks")


def test_the_json_says_which_targets_are_met(tmp_path: Path) -> None:
    """The same in each file, for whoever compares two runs."""
    part = Part("start", "Start", targets=[target(1.0), target(5.0)])

    write_json(report(part), tmp_path / "a.json", tmp_path / "deeper" / "b.json")

    read = json.loads((tmp_path / "a.json").read_text())
    assert [one["is_met"] for one in read["parts"]["start"]["targets"]] == [True, False]
    assert read["parts"]["start"]["targets"][1]["spread"]["median"] == 5.0
    assert read["machine"] == {"processor": "a slow one"}
    assert (tmp_path / "deeper" / "b.json").read_text() == (tmp_path / "a.json").read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567.8, "1,234,568"),
        (12.345, "12.3"),
        (0.012345, "0.0123"),
        (-3.14159, "-3.14"),
    ],
)
def test_numbers_have_three_digits_that_matter(value: float, text: str) -> None:
    """More would pretend."""
    assert shown(value) == text


def test_parts_are_read_as_they_were_written(tmp_path: Path) -> None:
    """A part that is run alone joins the figures of the others; quick ones stay apart."""
    plot = Plot("a-plot", "A", "x", "y", {"one": [(1.0, 2.0), (3.0, 4.0)]}, has_log_x=True)
    table = Table("T", ("a", "b"), [("x", 1.5)])
    part = Part("start", "Start", ["How."], [target(1.0)], [table], [plot], 3.0, "today")
    file = tmp_path / "results.json"
    write_json(report(part), file)

    read = read_parts(file, is_quick=False)

    assert page(report(*read.values()), "p") == page(report(part), "p")
    assert read["start"].plots == [plot]
    assert read["start"].targets == part.targets
    assert read_parts(file, is_quick=True) == {}
    assert read_parts(tmp_path / "none.json", is_quick=False) == {}
