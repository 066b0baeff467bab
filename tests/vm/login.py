"""Owns logging in to a machine over SSH, as its operator does it."""

import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.network import Namespace

Lines = queue.Queue[str | None]
"""What a command prints, line by line, and None at its end."""


def make_key(path: Path) -> str:
    """A key pair to log in with; returns the public one."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_suffix(".pub").read_text(encoding="utf-8").strip()


@dataclass(frozen=True)
class Login:
    """How root of one machine is reached, out of a namespace, with a key of the test's own."""

    namespace: Namespace
    key: Path
    known_hosts: Path
    target: str
    """The machine's address."""
    patience_seconds: float
    """How long anything may take: an emulated processor shares its core."""

    def words(self, command: str, *options: str) -> list[str]:
        """The command line; each call is a connection of its own unless options say other."""
        return [
            *(*self.namespace.enter, "ssh", "-F", "none", "-i", str(self.key)),
            *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self.known_hosts}"),
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR"),
            *("-o", "ServerAliveInterval=15", *options, f"root@{self.target}", command),
        ]

    def run(
        self, command: str, *options: str, given: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end, with `given` on its standard input."""
        done = subprocess.run(
            self.words(command, *options),
            input=given,
            capture_output=True,
            timeout=self.patience_seconds,
        )
        out, err = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    @contextmanager
    def lines(self, command: str, *options: str) -> Iterator[Lines]:
        """Run a command there beside what else is done; afterwards its connection is cut."""
        process = subprocess.Popen(
            self.words(command, *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines: Lines = queue.Queue()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield lines
        finally:
            process.kill()
            process.wait()
            reader.join()
            assert process.stdout is not None
            process.stdout.close()

    def expect(self, lines: Lines, words: str) -> None:
        """Wait for a line; fails with what came instead."""
        seen: list[str] = []
        while True:
            line = lines.get(timeout=self.patience_seconds)
            assert line is not None, f"it ended without `{words}`:\n{''.join(seen[-40:])}"
            seen.append(line)
            if words in line:
                return
