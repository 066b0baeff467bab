"""Owns how long work is shown: numbered steps with progress and time, output kept in a log."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

HEARTBEAT_SECONDS = 15.0  # how often a step speaks up where there is no terminal to tick on
TAIL_LINES = 12


class StepFailed(Exception):
    """A step could not be done; the message is for the person and ends with what to do."""

    output: Sequence[str] = ()
    """The last lines that its commands have printed."""


class Steps:
    """Says every step with its number and time; the output of commands goes to `log`."""

    def __init__(self, total: int, log: Path, out: IO[str] = sys.stdout) -> None:
        self.total = total
        self.log = log
        self.out = out
        self.done = 0
        self.started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("", encoding="utf-8")

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Run the body as one step: says that it began, how it goes on, and what came of it."""
        self.done += 1
        self.total = max(self.total, self.done)
        step = Step(self, f"[{self.done}/{self.total}] {title}")
        step.begin()
        try:
            yield step
        except KeyboardInterrupt:
            step.end("interrupted; what was done so far is kept")
            raise
        except StepFailed as failure:
            failure.output = last_lines(self.log, TAIL_LINES)  # before tidying up prints more
            step.end("failed")
            raise
        step.end(step.result)

    def say(self, line: str = "", end: str = "\n") -> None:
        """Write a line; a terminal that was closed must not keep anybody from tidying up."""
        with contextlib.suppress(OSError):
            print(line, end=end, file=self.out, flush=True)

    def fail(self, failure: StepFailed) -> None:
        """Show why a step failed: the sentence, the last lines of output, and where the rest is."""
        self.say(f"\n{failure}")
        if failure.output:
            self.say(f"\nThe last lines of output (all of it: {self.log}):")
            for line in failure.output:
                self.say(f"    {line}")

    def elapsed(self) -> str:
        """Time since the first step, for people."""
        return duration(time.monotonic() - self.started)


class Step:
    """One step under way: runs commands, and says what came of it."""

    def __init__(self, steps: Steps, title: str) -> None:
        self.steps = steps
        self.title = title
        self.result = "done"
        self.note = ""
        self.began = time.monotonic()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def begin(self) -> None:
        if not self.steps.out.isatty():
            self.steps.say(f"{self.title} ...")
        self._ticker.start()

    def end(self, result: str) -> None:
        self._ended.set()
        self._ticker.join()
        erase = "\r\x1b[2K" if self.steps.out.isatty() else ""
        seconds = duration(time.monotonic() - self.began)
        self.steps.say(f"{erase}{self.title}: {result} ({seconds})")

    def say(self, result: str) -> None:
        """What the finished line of this step shall tell."""
        self.result = result

    def run(
        self,
        argv: Sequence[str],
        *,
        doing: str,
        remedy: str = "",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Run one command with its output in the log; `remedy` ends the sentence if it fails."""
        code = self.attempt(argv, timeout=timeout, env=env, cwd=cwd)
        if code != 0:
            why = f"no end after {timeout:.0f} s" if code is None else f"exit code {code}"
            raise StepFailed(f"{doing}: {shlex.join(argv[:4])} … gave {why}. {remedy}".rstrip())

    def attempt(
        self,
        argv: Sequence[str],
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> int | None:
        """Run one command with its output in the log; return its exit code, None at a time-out."""
        return self.attempt_together([argv], timeout=timeout, env=env, cwd=cwd)[0]

    def attempt_together(
        self,
        commands: Sequence[Sequence[str]],
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> list[int | None]:
        """Run several commands at once, like `attempt`; ends them all if one fails."""
        deadline = None if timeout is None else time.monotonic() + timeout
        processes: list[subprocess.Popen[bytes]] = []
        with self.steps.log.open("ab") as log:
            try:
                for argv in commands:
                    log.write(f"\n$ {shlex.join(argv)}\n".encode())
                    log.flush()
                    processes.append(
                        subprocess.Popen(
                            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=cwd
                        )
                    )
                while any(process.poll() is None for process in processes):
                    if any(process.returncode for process in processes):
                        break
                    if deadline is not None and time.monotonic() > deadline:
                        break
                    time.sleep(0.02)
                return [process.poll() for process in processes]
            finally:
                for process in processes:
                    finish(process)

    def _tick(self) -> None:
        """Redraw one line on a terminal; elsewhere say now and then that the step is alive."""
        terminal = self.steps.out.isatty()
        while not self._ended.wait(0.2 if terminal else HEARTBEAT_SECONDS):
            seconds = duration(time.monotonic() - self.began)
            tail = self.note or (last_lines(self.steps.log, 1) or [""])[0]
            if not terminal:
                self.steps.say(f"    {seconds}: {tail[:100]}")
                continue
            width = max(20, terminal_width(self.steps.out) - len(self.title) - len(seconds) - 8)
            self.steps.say(f"\r\x1b[2K{self.title} … {seconds}  {tail[:width]}", end="")


def finish(process: subprocess.Popen[bytes]) -> None:
    """Leave no child behind: ask it to end, and insist after ten seconds."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a growing log, without blank ones and without redrawn progress."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        text = file.read().decode("utf-8", "replace")
        lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]
        return [line for line in lines if line.strip()][-count:]
    return []


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def terminal_width(out: IO[str]) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except OSError:
        return 80


def terminal_height(out: IO[str]) -> int:
    try:
        return os.get_terminal_size(out.fileno()).lines or 24
    except OSError:
        return 24


def end_on_sigterm() -> None:
    """Let a polite kill take the same way out as Ctrl-C, so that everything is tidied up."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    # A shell ignores Ctrl-C for what it starts in the background, and so would all that is started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
