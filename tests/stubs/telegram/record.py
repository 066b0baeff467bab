"""Owns the record of everything that happened, for checkers; it judges nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any


class Record:
    """A numbered list of entries that only grows, readable by long polling."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._entries: list[dict[str, Any]] = []
        self._last = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def last(self) -> int:
        """Sequence number of the newest entry, 0 before the first."""
        return self._last

    def add(self, kind: str, **details: Any) -> int:
        """Append an entry; "time" is the wall clock unless given."""
        self._last += 1
        self._entries.append({"seq": self._last, "kind": kind, "time": time.time(), **details})
        if self._limit is not None and len(self._entries) > 2 * self._limit:
            del self._entries[: -self._limit]
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()
        return self._last

    def clear(self) -> None:
        """Forget all entries; numbers go on, so that a reader's place stays valid."""
        self._entries.clear()

    def entries(
        self, after: int, wanted: Mapping[str, str], limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return entries newer than `after` whose fields, as text, are among the wanted ones.

        A wanted value may list alternatives separated by commas.
        """
        if not self._entries:
            return []
        kept = self._entries[max(0, after - self._entries[0]["seq"] + 1) :]
        for name, values in wanted.items():
            accepted = set(values.split(","))
            kept = [entry for entry in kept if str(entry.get(name)) in accepted]
        return kept if limit is None else kept[:limit]

    async def wait(
        self, after: int, wanted: Mapping[str, str], seconds: float, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Like entries(), but wait up to `seconds` for the first match."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            found = self.entries(after, wanted, limit)
            left = deadline - loop.time()
            if found or left <= 0:
                return found
            after = max(after, self._last)
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.add(future)
            try:
                await asyncio.wait_for(future, left)
            except TimeoutError:
                return []
            finally:
                self._waiting.discard(future)
