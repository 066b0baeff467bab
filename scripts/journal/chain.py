"""Owns the folder of sealed segments: their names, where they end, and how old ones are removed.

A segment is on the disk under its name only when all of it is; `head.json` names the last one. What
was interrupted between the two is settled by `settle`, so that no entry is sealed twice or never.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.lifecycle import CannotDo
from scripts.node.disk import sync

HEAD = "head.json"
PENDING = "pending.json"
LOOKED = "looked"
"""An empty file: its time is that of the last sealing, also where nothing was new."""
NAME = re.compile(r"(\d{8})\.gpg")
FOLDER = Path("/var/log/node-sealed")


@dataclass(frozen=True)
class Head:
    """The last segment, and how far the journal is sealed. It holds nothing of an entry."""

    sequence: int = 0
    sha256: str = ""
    cursor: str = ""
    """journald's own word for the place of an entry; empty: from the beginning."""
    boot: str = ""
    closed: bool = False
    """Whether that was the last sealing before the machine stopped."""


def name_of(sequence: int) -> str:
    return f"{sequence:08d}.gpg"


def segments_in(folder: Path) -> dict[int, Path]:
    """Segments by their numbers, in order."""
    found = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """One at a time; another call waits. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_head(path: Path) -> Head | None:
    """What a head says; None where there is none. Raises CannotDo."""
    try:
        return Head(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise CannotDo(
            f"{path} makes no sense: move it and the segments beside it to another folder"
        ) from None


def write_head(path: Path, head: Head) -> None:
    """At once or not at all. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(head), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync(path.parent)


def publish(folder: Path, part: Path, head: Head) -> None:
    """Give a segment, which is on the disk, its name, and the chain its new end. Raises OSError."""
    write_head(folder / PENDING, head)
    part.replace(folder / name_of(head.sequence))
    sync(folder)
    write_head(folder / HEAD, head)
    (folder / PENDING).unlink()


def settle(folder: Path) -> Head:
    """Finish or forget what was interrupted. Returns the head. Raises CannotDo, OSError."""
    pending = read_head(folder / PENDING)
    if pending:
        segment = folder / name_of(pending.sequence)
        if segment.exists() and digest_of(segment) == pending.sha256:
            write_head(folder / HEAD, pending)
        (folder / PENDING).unlink()
    for part in folder.glob(".*.part"):
        part.unlink()
    head = read_head(folder / HEAD)
    if head is None and segments_in(folder):
        raise CannotDo(
            f"{folder} has segments and no {HEAD}, so where they end is not known: move them to "
            "another folder"
        )
    head = head or Head()
    if max(segments_in(folder), default=0) > head.sequence:
        raise CannotDo(
            f"{folder / HEAD} is older than the segments beside it, which would be written over: "
            "move them to another folder"
        )
    return head


def remove_old(folder: Path, *, now: float, days: int, mebibytes: int) -> list[str]:
    """Remove segments beyond an age or a total size, oldest first; the last one stays."""
    segments = list(segments_in(folder).values())
    total = sum(path.stat().st_size for path in segments)
    removed = []
    for path in segments[:-1]:
        status = path.stat()
        if status.st_mtime >= now - days * 86400 and total <= mebibytes << 20:
            break
        path.unlink()
        total -= status.st_size
        removed.append(path.name)
    return removed
