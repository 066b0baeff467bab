"""Owns the faults that a test has ordered: which calls they hit, how often, and when."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from tests.stubs.telegram.errors import ControlError

KINDS = frozenset({"status", "hang", "delay", "reset", "lose_answer", "retry_after"})


@dataclass
class Fault:
    """One order. `count` None hits until cleared; `skip` lets that many calls pass first."""

    number: int
    method: str
    kind: str
    status: int = 502
    description: str = ""
    seconds: float | None = None
    count: int | None = 1
    skip: int = 0
    chat_id: str = ""
    when: str = "before"
    cleared: asyncio.Event = field(default_factory=asyncio.Event)

    def as_json(self) -> dict[str, Any]:
        """Shape for the control API."""
        return {
            "number": self.number,
            "method": self.method,
            "kind": self.kind,
            "count": self.count,
            "skip": self.skip,
            "chat_id": self.chat_id,
            "when": self.when,
        }

    async def hold(self) -> None:
        """Wait `seconds`; without them until the fault is cleared."""
        try:
            await asyncio.wait_for(self.cleared.wait(), self.seconds)
        except TimeoutError:
            return


class Faults:
    """Ordered faults, the oldest first; the first that fits a call is used."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._numbers = 0

    def order(self, request: dict[str, Any]) -> Fault:
        """Add a fault from the control API's JSON."""
        kind = request.get("kind")
        if kind not in KINDS:
            raise ControlError(f"fault kind is {kind!r}: use one of {', '.join(sorted(KINDS))}")
        when = request.get("when", "before")
        if when not in {"before", "after"}:
            raise ControlError(f'when is {when!r}: use "before" or "after"')
        seconds = request.get("seconds")
        count = request.get("count", 1)
        self._numbers += 1
        fault = Fault(
            number=self._numbers,
            method=str(request.get("method", "*")).lower(),
            kind=kind,
            status=int(request.get("status", 502)),
            description=str(request.get("description", "")),
            seconds=None if seconds is None else float(seconds),
            count=None if count is None else int(count),
            skip=int(request.get("skip", 0)),
            chat_id=str(request.get("chat_id", "")),
            when=when,
        )
        self._faults.append(fault)
        return fault

    def match(self, method: str, chat_id: str) -> Fault | None:
        """Return the fault that hits this call, using one of its counts up."""
        for fault in self._faults:
            if fault.method not in {"*", method}:
                continue
            if fault.chat_id and fault.chat_id != chat_id:
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.count is not None:
                fault.count -= 1
                if fault.count <= 0:
                    self._faults.remove(fault)
            return fault
        return None

    def clear(self) -> int:
        """Drop all faults and release every call that one holds without a time limit."""
        dropped = len(self._faults)
        for fault in self._faults:
            fault.cleared.set()
        self._faults.clear()
        return dropped

    def as_json(self) -> list[dict[str, Any]]:
        """List what is still to come."""
        return [fault.as_json() for fault in self._faults]
