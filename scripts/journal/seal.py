"""Owns the sealing: what the journal has beyond the head becomes a new segment, encrypted.

Inside a segment stand one JSON object a line: a header, the entries as `journalctl -o json` gives
them, a trailer. Plain text is in pipes and in gpg's memory, never in a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from scripts.journal.chain import (
    HEAD,
    LOOKED,
    Head,
    digest_of,
    held,
    name_of,
    publish,
    remove_old,
    settle,
    write_head,
)
from scripts.journal.recipient import fingerprint_of
from scripts.lifecycle import CannotDo
from scripts.lifecycle.sealing import Recipient, sealed

FORMAT = 1
MOST_BYTES = 16 << 20
"""Of plain text in one segment: what `logs open` holds in memory at a time."""
DAYS, MEBIBYTES = 90, 500


def seal(
    folder: Path,
    key: Path,
    memory: Path,
    *,
    days: int = DAYS,
    mebibytes: int = MEBIBYTES,
    closes: bool = False,
) -> list[str]:
    """Seal all that is new, then remove what is old. Returns the new segments' names.

    `closes`: the machine is about to stop. Raises CannotDo; then the journal keeps what it has.
    """
    fingerprint_of(key, memory)
    made = []
    try:
        with held(folder):
            head = settle(folder)
            boot = boot_id()
            is_full = True
            while is_full:
                before = head.sequence
                head, is_full = seal_one(folder, key, memory, head, boot)
                made += [name_of(head.sequence)] if head.sequence > before else []
            if closes != head.closed:
                write_head(folder / HEAD, replace(head, closed=closes))
            (folder / LOOKED).touch(0o600)
            remove_old(folder, now=time.time(), days=days, mebibytes=mebibytes)
    except OSError as error:
        raise CannotDo(
            f"writing into {folder}: {error.strerror}: see to its disk; until then the journal "
            "stays in memory, and its oldest entries are lost when it is full"
        ) from None
    return made


def seal_one(folder: Path, key: Path, memory: Path, head: Head, boot: str) -> tuple[Head, bool]:
    """Write one segment, if anything is new. Returns the head, and whether the segment is full.

    Raises CannotDo, OSError.
    """
    reached = head.cursor if head.boot == boot else ""
    lines = entries_after(head, boot)
    with contextlib.closing(lines):
        gap = next(lines)
        first = next(lines, None)
        if first is None and not gap:
            return replace(head, cursor=reached, boot=boot), False
        sequence = head.sequence + 1
        part = folder / f".{name_of(sequence)}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with sealed(file, Recipient(key), memory, "sealing the logs") as pipe:
                header = {
                    "format": FORMAT,
                    "sequence": sequence,
                    "previous": head.sha256,
                    "gap": gap.decode(),
                }
                write_line(pipe, header)
                trailer = write_entries(pipe, first, lines)
                write_line(pipe, trailer)
            file.flush()
            os.fsync(file.fileno())
    new = Head(sequence, digest_of(part), trailer["cursor"] or reached, boot)
    publish(folder, part, new)
    return new, trailer["full"]


def write_entries(pipe: IO[bytes], first: bytes | None, lines: Iterator[bytes]) -> dict[str, Any]:
    """Copy entries, up to a segment's size. Returns the trailer."""
    count = size = 0
    opening: dict[str, Any] = {}
    entry: dict[str, Any] = {}
    boots: dict[str, None] = {}
    line = first
    while line is not None:
        pipe.write(line)
        entry = json.loads(line)
        opening = opening or entry
        boots[entry.get("_BOOT_ID", "")] = None
        count += 1
        size += len(line)
        line = next(lines, None) if size < MOST_BYTES else None
    return {
        "entries": count,
        "first": opening.get("__REALTIME_TIMESTAMP", ""),
        "last": entry.get("__REALTIME_TIMESTAMP", ""),
        "first_cursor": opening.get("__CURSOR", ""),
        "cursor": entry.get("__CURSOR", ""),
        "boots": list(boots),
        "full": size >= MOST_BYTES,
    }


def write_line(pipe: IO[bytes], record: dict[str, Any]) -> None:
    pipe.write(json.dumps(record).encode() + b"\n")


def entries_after(head: Head, boot: str) -> Generator[bytes, None, None]:
    """First what is known to be lost, in words, or nothing; then the journal's entries as lines.

    Of the boot that runs: what an earlier one had is gone with its memory. Raises CannotDo.
    """
    same_boot = head.boot == boot
    from_cursor = [f"--cursor={head.cursor}"] if same_boot and head.cursor else []
    lines = journal("--boot", *from_cursor)
    with contextlib.closing(lines):
        if not from_cursor:
            stopped = bool(head.boot) and not same_boot and not head.closed
            yield b"the machine stopped before its last entries were sealed" if stopped else b""
            yield from lines
            return
        first = next(lines, None)
        if first is None:
            yield b""
        elif (at := json.loads(first).get("__CURSOR", "")) == head.cursor:
            yield b""
            yield from lines
        else:
            yield lost_between(head.cursor, at).encode()
            yield first
            yield from lines


def lost_between(before: str, after: str) -> str:
    """How much is missing between two cursors (`s=…;i=…`, i: the entry's number, hexadecimal)."""
    numbers = [re.search(r"s=(\w+);i=([0-9a-f]+)", cursor) for cursor in (before, after)]
    words = "the journal was full before its entries were sealed"
    if numbers[0] and numbers[1] and numbers[0][1] == numbers[1][1]:
        return f"{words}: {int(numbers[1][2], 16) - int(numbers[0][2], 16) - 1} are lost"
    return f"{words}: some are lost"


def journal(*options: str) -> Generator[bytes, None, None]:
    """Entries of the journal, oldest first, one JSON object a line. Raises CannotDo."""
    command = ["journalctl", "--output=json", "--all", "--no-pager", "--quiet", *options]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise CannotDo("journalctl was not found: sealed logs need systemd") from None
    assert process.stdout
    assert process.stderr
    ended = False
    try:
        yield from process.stdout
        ended = True
    finally:
        if not ended:
            process.kill()
        said = process.stderr.read().decode("utf-8", "replace").strip()
        process.stdout.close()
        process.stderr.close()
        code = process.wait()
        if ended and code != 0:
            raise CannotDo(f"reading the journal: {said or code}: call this as root")


def boot_id() -> str:
    """The boot that runs, as the journal writes it. Raises OSError."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return text.strip().replace("-", "")
