"""Owns the opening of sealed segments, where the private key is, and what their chain tells.

Nothing of a segment is given out before gpg has checked all of it.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.journal.chain import HEAD, NAME, Head, digest_of, name_of, read_head
from scripts.lifecycle import CannotDo
from scripts.node.tools import printable

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""syslog's, by their numbers."""
AT_A_TIME = 4
"""Segments that are decrypted at once, and held in memory."""
Entry = dict[str, Any]


class NotForUs(ValueError):
    """The private key that opens a segment is not here."""


@dataclass
class Chain:
    """What was found amiss, and what only has to be known."""

    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    entries: int = 0


@dataclass(frozen=True)
class Filter:
    """Which entries are shown."""

    unit: str = ""
    service: str = ""
    since: float = 0.0
    until: float = float("inf")
    level: int = len(LEVELS) - 1
    pattern: re.Pattern[str] | None = None

    def takes(self, entry: Entry) -> bool:
        unit = self.unit.removesuffix(".service")
        if unit and unit not in (
            text_of(entry, "_SYSTEMD_UNIT").removesuffix(".service"),
            text_of(entry, "SYSLOG_IDENTIFIER"),
        ):
            return False
        if self.service and service_of(entry) != self.service:
            return False
        if not self.since <= seconds_of(entry) <= self.until or level_of(entry) > self.level:
            return False
        return self.pattern is None or bool(self.pattern.search(text_of(entry, "MESSAGE")))


@contextlib.contextmanager
def gathered(places: Iterable[Path]) -> Iterator[tuple[dict[int, Path], Head | None]]:
    """Segments by their numbers, in order, out of folders, files and archives of `logs ship`; and
    the newest head among them. Raises CannotDo."""
    segments: dict[int, Path] = {}
    heads = []
    with tempfile.TemporaryDirectory(prefix="sealed-") as unpacked:
        for count, place in enumerate(places):
            for path in files_at(place, Path(unpacked) / str(count)):
                if path.name == HEAD:
                    heads.append(read_head(path))
                elif match := NAME.fullmatch(path.name):
                    number = int(match[1])
                    if number in segments and digest_of(segments[number]) != digest_of(path):
                        raise CannotDo(f"there are two different {path.name}: open one at a time")
                    segments[number] = path
        if not segments:
            raise CannotDo("there is no sealed segment: give the folder, files, or a shipped tar")
        known = [head for head in heads if head]
        yield (
            dict(sorted(segments.items())),
            max(known, key=lambda head: head.sequence, default=None),
        )


def files_at(place: Path, unpacked: Path) -> list[Path]:
    """What of a place may be a segment or a head. Raises CannotDo."""
    try:
        if place.is_dir():
            return sorted(place.iterdir())
        if NAME.fullmatch(place.name) or place.name == HEAD:
            place.open("rb").close()
            return [place]
        unpacked.mkdir()
        with tarfile.open(place) as archive:
            for member in archive:
                name = Path(member.name).name
                content = archive.extractfile(member) if member.isfile() else None
                if content and (NAME.fullmatch(name) or name == HEAD):
                    with (unpacked / name).open("wb") as file:
                        while chunk := content.read(1 << 20):
                            file.write(chunk)
        return sorted(unpacked.iterdir())
    except tarfile.TarError:
        raise CannotDo(f"{place} is neither a segment nor a whole archive of them") from None
    except OSError as error:
        raise CannotDo(f"{place} cannot be read ({error.strerror}): give another path") from None


def opened(segments: dict[int, Path], head: Head | None, chain: Chain) -> Iterator[Entry]:
    """The entries of all segments that are whole; `chain` says what is not. Raises CannotDo."""
    first, last = min(segments), max(segments)
    if first > 1:
        chain.remarks.append(
            f"it begins with {name_of(first)}: what came before was removed by its age, or is not "
            "here"
        )
    before: tuple[int, str] = (first - 1, "")
    closed = 0
    for (number, path), plain in zip(segments.items(), ahead(segments.values()), strict=True):
        if number > before[0] + 1:
            chain.faults.append(missing(before[0] + 1, number - 1))
        digest = digest_of(path)
        try:
            header, entries, trailer = parts_of(plain())
        except ValueError as why:
            closed += isinstance(why, NotForUs)
            chain.faults.append(f"{path.name} {why}")
        else:
            if header["sequence"] != number:
                chain.faults.append(f"{path.name} is number {header['sequence']} by its own word")
            if before[1] and number == before[0] + 1 and header["previous"] != before[1]:
                chain.faults.append(
                    f"{path.name} does not follow the {name_of(before[0])} that is here"
                )
            if trailer["entries"] != len(entries):
                chain.faults.append(f"{path.name} lacks entries")
            if header["gap"]:
                chain.faults.append(f"before {path.name}: {header['gap']}")
            chain.entries += len(entries)
            yield from entries
        before = (number, digest)
    if closed == len(segments):
        raise CannotDo(
            "the private key that opens this is not here: call this where it is, or set GNUPGHOME"
        )
    if head is None:
        chain.remarks.append(f"no {HEAD} is here: whether newer segments are missing is not known")
    elif head.sequence > last:
        chain.faults.append(missing(last + 1, head.sequence))
    elif head.sequence == last and head.sha256 != before[1]:
        chain.faults.append(f"{name_of(last)} is not the one that {HEAD} names")


def ahead(paths: Iterable[Path]) -> Iterator[Callable[[], bytes]]:
    """For each segment, in order, what gives its content or raises as `decrypted` does.

    Several gpg work at a time. One gpg for many segments would hardly be faster, since its agent
    takes the most time, and would write files (`--multifile`).
    """
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        begun: deque[Future[bytes]] = deque()
        try:
            for path in paths:
                begun.append(pool.submit(decrypted, path))
                if len(begun) == AT_A_TIME:
                    yield begun.popleft().result
            while begun:
                yield begun.popleft().result
        finally:
            pool.shutdown(cancel_futures=True)


def missing(first: int, last: int) -> str:
    if first == last:
        return f"{name_of(first)} is missing"
    return f"{name_of(first)} to {name_of(last)} are missing"


def parts_of(plain: bytes) -> tuple[Entry, list[Entry], Entry]:
    """Header, entries and trailer. Raises ValueError."""
    lines = plain.splitlines()
    if len(lines) < 2:
        raise ValueError("does not hold what a segment does")
    try:
        header, *entries, trailer = [json.loads(line) for line in lines]
        if header["format"] != 1:
            raise ValueError("is of another format: take newer scripts")
        _ = header["sequence"], header["previous"], header["gap"], trailer["entries"]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError("does not hold what a segment does") from None
    return header, entries, trailer


def decrypted(path: Path) -> bytes:
    """What is in a segment, by this user's own keys.

    Raises ValueError where it is damaged, NotForUs where the private key is not here, CannotDo.
    """
    command = ["gpg", "--batch", "--quiet", "--status-fd", "2", "--decrypt", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        raise CannotDo("gpg was not found: install gnupg (`apt-get install gnupg`)") from None
    status = done.stderr.decode("utf-8", "replace")
    if done.returncode != 0 or "[GNUPG:] DECRYPTION_OKAY" not in status:
        # gpg says "No secret key" of a damaged segment as well.
        to = re.findall(r"^\[GNUPG:\] ENC_TO ([0-9A-F]+) ", status, re.MULTILINE)
        if to and not any(map(has_private_key, to)):
            raise NotForUs("is for the owner of another key")
        raise ValueError("is damaged: take another copy of it")
    return done.stdout


def has_private_key(key_id: str) -> bool:
    command = ["gpg", "--batch", "--quiet", "--list-secret-keys", key_id]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def line_of(entry: Entry) -> str:
    """An entry for a person."""
    moment = text_of(entry, "__REALTIME_TIMESTAMP")
    who = service_of(entry) or text_of(entry, "SYSLOG_IDENTIFIER") or text_of(entry, "_COMM")
    lines = [printable(line) for line in text_of(entry, "MESSAGE").splitlines()] or [""]
    began = f"{utc(int(moment or 0))} {LEVELS[level_of(entry)]:7} {printable(who) or '-'}: "
    return began + ("\n" + " " * 4).join(lines)


def utc(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_of(entry: Entry) -> float:
    return int(text_of(entry, "__REALTIME_TIMESTAMP") or 0) / 1e6


def level_of(entry: Entry) -> int:
    """syslog's; of a service that writes JSON the one in it, which Docker does not see."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        word = str(json.loads(text_of(entry, "MESSAGE"))["level"]).lower()
        return LEVELS.index({"error": "err", "critical": "crit"}.get(word, word))
    number = text_of(entry, "PRIORITY")
    return int(number) if re.fullmatch("[0-7]", number) else LEVELS.index("info")


def service_of(entry: Entry) -> str:
    """The Compose service of a container's entry: `gateway` of PROJECT-gateway-1."""
    match = re.fullmatch(r"[^-]+-(.+)-\d+", text_of(entry, "CONTAINER_NAME"))
    return match[1] if match else ""


def text_of(entry: Entry, name: str) -> str:
    """A field as text: journalctl gives bytes as a list of numbers, and a repeated field as one of
    its values."""
    value = entry.get(name)
    if isinstance(value, list) and value and all(isinstance(it, int) for it in value):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, list):
        return "\n".join(text_of({name: it}, name) for it in value)
    return "" if value is None else str(value)
