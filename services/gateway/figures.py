"""Keeps a few figures of the work for whoever looks after the node: numbers and times alone.

They stand in a file on this container's tmpfs, which the host and `docker exec` can read: nothing
of what was said, nobody's id, and no port to ask at.
"""

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.watch import Watch
from services.log import describe_error

log = logging.getLogger(__name__)

FIGURES = Path("/tmp/figures")

PERIOD_SECONDS = 2.0


@dataclass
class Figures:
    """What is told of the work."""

    queue: Queue
    outbox: Outbox
    watch: Watch
    store_file: Path
    slots: int
    file: Path = FIGURES
    clock: Callable[[], float] = time.time

    async def run(self) -> None:
        """Write them again and again."""
        while True:
            try:
                self.write()
            except Exception as error:
                # Figures are a convenience: what breaks them must not stop the answers.
                log.error("figures failed", extra={"error": describe_error(error)})
            await asyncio.sleep(PERIOD_SECONDS)

    def write(self) -> None:
        """Write them once; a full tmpfs leaves those of before, which grow old."""
        part = self.file.with_suffix(".part")
        lines = [f"{name}={int(value)}\n" for name, value in self.collect().items()]
        with contextlib.suppress(OSError):
            part.write_text("".join(lines), encoding="ascii")
            part.replace(self.file)

    def collect(self) -> dict[str, float]:
        """By names that tell the unit; times in seconds since 1970, 0: not since the start."""
        figures: dict[str, float] = {
            "written_at": self.clock(),
            "came_at": self.watch.updated_at,
            "went_at": self.outbox.delivered_at,
            "waiting": len(self.queue.waiting_ids),
            "running": self.queue.running_count,
            "slots": self.slots,
            "paused": self.queue.is_paused,
            "undelivered": self.outbox.undelivered_count,
            "tokens_per_second": round(self.watch.tokens_per_second),
            "relay_connected": self.outbox.is_connected,
            "engine_ready": self.watch.is_engine_ready,
            "store_bytes": self._store_bytes(),
        }
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(self.store_file.parent)
            figures |= {"disk_free_bytes": disk.free, "disk_total_bytes": disk.total}
        for number, gpu in enumerate(self.watch.gpus(), start=1):
            figures[f"gpu_{number}_load_percent"] = gpu.load_percent
            figures[f"gpu_{number}_used_bytes"] = gpu.used_bytes
            figures[f"gpu_{number}_total_bytes"] = gpu.total_bytes
        return figures

    def _store_bytes(self) -> int:
        """Of the store with its journal."""
        total = 0
        for ending in ("", "-wal"):
            with contextlib.suppress(OSError):
                total += Path(f"{self.store_file}{ending}").stat().st_size
        return total
