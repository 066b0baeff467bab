"""Owns the machine that is hardened: its files below one root, and the commands run on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scripts.node.tools import Said, Tools

PROGRAMS = ("usr/sbin", "usr/bin", "usr/lib/systemd", "sbin", "bin", "lib/systemd")
UNITS = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")


class Refused(Exception):
    """Nothing has been changed; the message says why, and what to do."""


class Failed(Exception):
    """Something could not be done on the way; what was changed so far has to go back."""


@dataclass(frozen=True)
class Host:
    """Everything is read and written below `root`; commands are run by `tools`."""

    tools: Tools
    root: Path = Path("/")

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str:
        """A file's text, nothing where there is none. Raises Refused where it is no text."""
        try:
            return self.path(name).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except (UnicodeDecodeError, OSError) as error:
            raise Refused(f"{name} cannot be read ({error}): look at it, then try again") from None

    def run(self, *command: str, stdin: str = "", seconds: float = 180) -> Said:
        return self.tools.run(*command, stdin=stdin, seconds=seconds)

    def do(self, *command: str, stdin: str = "") -> str:
        """What a command prints. Raises Failed if it fails."""
        said = self.run(*command, stdin=stdin)
        if said.code != 0:
            raise Failed(f"`{' '.join(command)}` failed ({said.why})")
        return said.out

    def has_program(self, name: str) -> bool:
        return any((self.root / folder / name).exists() for folder in PROGRAMS)

    def has_unit(self, name: str) -> bool:
        return any((self.root / folder / name).exists() for folder in UNITS)

    def has_directory(self, name: str) -> bool:
        return self.path(name).is_dir()
