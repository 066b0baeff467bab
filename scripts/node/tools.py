"""Owns everything that is asked of this machine: commands, clock, disk. Tests bring others."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NOT_FOUND = 127
TOO_LATE = 124


@dataclass(frozen=True)
class Said:
    """What a command said: exit status (127: there is no such command; 124: no end), output."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def why(self) -> str:
        """The last line of complaint, for a sentence."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return printable(lines[-1]) if lines else f"exit status {self.code}"

    @property
    def pairs(self) -> dict[str, str]:
        """Its lines of the form NAME=VALUE."""
        return dict(line.split("=", 1) for line in self.out.splitlines() if "=" in line)


def printable(text: str) -> str:
    """Without signs that steer a terminal: a container chooses what it says."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


class CannotLook(Exception):
    """Something could not be looked at; the message says why and what would allow it."""


class Timex(ctypes.Structure):
    """The beginning of adjtimex(2)'s record, and room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


class Tools:
    """This machine."""

    proc = Path("/proc")
    sys = Path("/sys")
    modules = Path("/lib/modules")

    @property
    def is_root(self) -> bool:
        return os.geteuid() == 0

    @property
    def memory(self) -> Path:
        """A folder in memory, of root's or of this user's, that lasts until the machine stops."""
        return Path("/run" if self.is_root else os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"))

    def run(
        self,
        *command: str,
        stdin: str = "",
        seconds: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Said:
        """Run a command to its end; never raises."""
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                env=env,
                check=False,
            )
        except FileNotFoundError:
            return Said(NOT_FOUND, err=f"{command[0]} was not found")
        except PermissionError:
            return Said(126, err=f"{command[0]} may not be run")
        except subprocess.TimeoutExpired:
            return Said(TOO_LATE, err=f"{' '.join(command[:3])} did not end within {seconds:.0f} s")
        return Said(done.returncode, done.stdout, done.stderr)

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def clock_status(self) -> int:
        """The status bits of adjtimex(2), which whoever keeps the clock sets. Only reads them."""
        record = Timex()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.adjtimex(ctypes.byref(record)) < 0:
            raise CannotLook("the kernel does not tell how the clock is kept")
        return int(record.status)

    def disk(self, path: Path) -> tuple[int, int]:
        """Size and room of a file system in bytes. Raises OSError."""
        status = os.statvfs(path)
        return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize

    def kernel(self) -> str:
        return os.uname().release
