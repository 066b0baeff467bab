"""Owns the processes that are measured: starting, waiting until they are ready, what they cost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


class NotReady(Exception):
    """A process did not come up: the message shows the last lines that it has printed."""


def cores() -> tuple[int, int]:
    """Choose the core of the load and that of what is measured; they differ where there are two."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


@dataclass(frozen=True)
class Environments:
    """Where the virtual environments are: what is measured has one of its own."""

    directory: Path

    def python(self, name: str) -> str:
        """Name the interpreter of an environment. Raises NotReady where it is not installed."""
        found = self.directory / name / "bin" / "python"
        if not found.exists():
            raise NotReady(f"{found} is missing: run ./scripts/bench, which makes it")
        return str(found)

    def program(self, name: str, program: str) -> str:
        """Name a program of an environment."""
        return str(Path(self.python(name)).with_name(program))


@dataclass
class Process:
    """A process and all its children."""

    popen: subprocess.Popen[bytes]
    log: Path
    began: float
    """By time.monotonic."""
    ready_seconds: float = 0.0
    """From its start until what was waited for first."""

    @property
    def pid(self) -> int:
        return self.popen.pid

    def cpu_seconds(self) -> float:
        """Say how much of the processor it has used since its start."""
        return sum(_cpu_seconds(pid) for pid in _family(self.pid))

    def resident_mib(self) -> float:
        """Say how much memory it holds; of several processes, pages that they share count once."""
        family = _family(self.pid)
        kind = "Rss:" if len(family) == 1 else "Pss:"
        return sum(_resident(pid, kind) for pid in family) / MIB

    async def wait_for(self, condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
        """Wait until something holds of it. Raises NotReady with its last words."""
        deadline = time.monotonic() + seconds
        while not await condition():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                why = "ended" if self.popen.poll() is not None else f"not ready in {seconds:.0f} s"
                words = self.log.read_text(errors="replace")[-2000:].strip() or "nothing"
                raise NotReady(f"{self.log.stem}: {why}. It said:\n{words}")
            await asyncio.sleep(0.005)
        self.ready_seconds = self.ready_seconds or time.monotonic() - self.began

    async def stop(self) -> None:
        """Ask it to end, and insist after some seconds."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(8):
                while self.popen.poll() is None:
                    await asyncio.sleep(0.02)
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()


@asynccontextmanager
async def started(
    name: str,
    argv: Sequence[str],
    directory: Path,
    environment: Mapping[str, str] | None = None,
    core: int | None = None,
) -> AsyncIterator[Process]:
    """Run a process while the block lasts; its output goes to NAME.log, and it gets one core."""
    log = directory / f"{name}.log"
    pin = partial(os.sched_setaffinity, 0, {core}) if core is not None else None
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    began = time.monotonic()
    with log.open("wb") as out:
        popen = subprocess.Popen(  # noqa: ASYNC220  # starting it does not block
            argv,
            cwd=ROOT,
            env={**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
            | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=pin,  # the benchmark has one thread
        )
    process = Process(popen, log, began)
    try:
        yield process
    finally:
        await process.stop()


async def run_inside(python: str, module: str, *arguments: str) -> bytes:
    """Run a measurement in another environment; returns what it prints. Raises NotReady."""
    _, core = cores()
    process = await asyncio.create_subprocess_exec(
        *(python, "-P", "-m", module, *arguments),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(os.sched_setaffinity, 0, {core}),
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise NotReady(f"{module} ended with {process.returncode}:\n{err.decode()[-2000:]}")
    return out


def _family(pid: int) -> list[int]:
    """List a process and what it has started."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += _family(int(child))
    return found


def _cpu_seconds(pid: int) -> float:
    """Read another process's processor clock, see clock_getcpuclockid(3): in nanoseconds."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _resident(pid: int, kind: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(kind)), 0)
