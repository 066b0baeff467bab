"""What the stub engine was asked, and what became of each request."""

import itertools
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Outcome = Literal["running", "finished", "aborted", "faulted"]


@dataclass
class Entry:
    """One chat completion. Times are seconds since the epoch."""

    id: int
    messages: list[dict[str, Any]]
    parameters: dict[str, Any]
    """The request without its messages."""
    started: float
    tokens: int = 0
    """Sent so far."""
    outcome: Outcome = "running"
    """`aborted`: the client closed the connection; `faulted`: the script's fault ended it."""
    ended: float | None = None


@dataclass
class Record:
    entries: list[Entry] = field(default_factory=list)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def open(self, body: dict[str, Any]) -> Entry:
        parameters = {k: v for k, v in body.items() if k != "messages"}
        entry = Entry(next(self._ids), body["messages"], parameters, time.time())
        self.entries.append(entry)
        return entry

    def close(self, entry: Entry, outcome: Outcome) -> None:
        entry.outcome = outcome
        entry.ended = time.time()

    def after(self, last: int) -> list[dict[str, Any]]:
        return [asdict(entry) for entry in self.entries if entry.id > last]

    def running(self) -> list[int]:
        return [entry.id for entry in self.entries if entry.outcome == "running"]
