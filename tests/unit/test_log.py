"""Logs hold events, never content: not of exceptions, not of libraries."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.log import start_logging

CANARY = "canary of a user"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Log to a buffer; gives a function that reads the lines so far."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    start_logging("DEBUG")
    yield lambda: [json.loads(line) for line in output.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)


def test_own_events_keep_their_fields(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """An event is one JSON line with its action and fields."""
    logging.getLogger("services.relay.inbox").info("handed over", extra={"accepted": 3})

    (line,) = lines()
    assert (line["action"], line["accepted"], line["level"]) == ("handed over", 3, "info")
    assert line["time"] > 1_700_000_000


def test_messages_of_libraries_are_not_kept(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """A library's message, its arguments and its exception show only where they come from."""
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("aiogram.session").exception("cannot read %s", CANARY)

    (line,) = lines()
    assert CANARY not in json.dumps(line)
    assert line["at"].startswith("aiogram.session")
    assert line["error"].startswith("ValueError at test_log.py:")


def test_crash_shows_no_content() -> None:
    """An exception that ends the process is named by type and place alone."""
    code = (
        "from services.log import start_logging\nstart_logging('INFO')\n"
        f"raise RuntimeError({CANARY!r})\n"
    )

    crashed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert crashed.returncode == 1
    assert CANARY not in crashed.stdout + crashed.stderr
    assert json.loads(crashed.stdout)["error"] == "RuntimeError at <string>:3"
