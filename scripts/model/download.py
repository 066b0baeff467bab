"""Brings one file from a server to the disk, whatever breaks off, and finds out its digest."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scripts.model import WeightsFailed, size
from scripts.model.progress import Progress
from scripts.model.web import Answer, Passing, Web

PATIENCE = 8
"""Failures in a row without a byte more, before it gives up: about four minutes."""
LONGEST_PAUSE = 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """A file, and what is known of it before."""

    name: str
    """Its name on the disk: a plain one."""
    url: str
    size: int | None = None
    sha256: str = ""
    git: str = ""
    """SHA-1 of the file as a Git blob, which a hub knows of small files."""


class Downloads:
    """Fetches files into a folder. `sleep` is received, so that tests need not wait."""

    def __init__(
        self, web: Web, progress: Progress, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._web = web
        self._progress = progress
        self._sleep = sleep

    def patiently(self, doing: str, attempt: Callable[[], T], made: Callable[[], int]) -> T:
        """Try until it works, with longer and longer pauses. Raises WeightsFailed.

        `made` tells how far it is: as long as that changes, nothing is given up.
        """
        failures = 0
        while True:
            before = made()
            try:
                return attempt()
            except Passing as why:
                failures = 1 if made() > before else failures + 1
                if failures > PATIENCE:
                    raise WeightsFailed(
                        f"{doing}: {why}; what is here is kept: run it again to go on"
                    ) from None
                pause = why.wait_seconds
                if pause is None:
                    pause = min(LONGEST_PAUSE, 2.0 ** (failures - 1))
                self._progress.say(f"{doing}: {why}; trying again in {pause:.0f} s")
                self._sleep(pause)

    def ask(self, url: str, most: int) -> bytes:
        """A small answer as a whole. Raises WeightsFailed."""

        def attempt() -> bytes:
            with self._web.get(url, {"Accept": "application/json"}) as answer:
                body = b""
                while piece := answer.read():
                    body += piece
                    if len(body) > most:
                        raise WeightsFailed(f"{url} answers with too much: check the address")
                if len(body) < int(answer.headers.get("Content-Length") or 0):
                    raise Passing("the connection broke off")
                return body

        return self.patiently(url, attempt, lambda: 0)

    def fetch(self, wanted: Wanted, folder: Path) -> str:
        """Bring a file into a folder, under its name once it is whole and right; returns SHA-256.

        Raises WeightsFailed. What has come is kept in NAME.part, and gone on with.
        """
        final, part = folder / wanted.name, folder / f"{wanted.name}.part"
        if final.exists():
            final.replace(part)  # from an earlier call: looked at again, not fetched again
        self.patiently(wanted.name, lambda: self._go_on(wanted, part), lambda: _length(part))
        digest = self._check(wanted, part)
        part.replace(final)
        _mark(part).unlink(missing_ok=True)
        return digest

    def _go_on(self, wanted: Wanted, part: Path) -> None:
        """Fetch what is missing of a file. Raises Passing where it did not become whole."""
        have = _length(part)
        tag = _mark(part).read_text(encoding="ascii") if _mark(part).exists() else ""
        if wanted.size is not None and have > wanted.size:
            have = 0
        if have and not (tag or wanted.sha256 or wanted.git):
            have = 0  # nothing would tell whether the rest belongs to this beginning
        if have and have == wanted.size:
            return
        headers = {}
        if have:
            headers["Range"] = f"bytes={have}-"
            if tag:
                headers["If-Range"] = tag
        with self._web.get(wanted.url, headers) as answer:
            if answer.status == 416:
                if answer.headers.get("Content-Range", "") == f"bytes */{have}":
                    return
                part.unlink()
                raise Passing("the server has a shorter file now; it is fetched from its beginning")
            begin, total = _range(answer)
            if answer.status == 206 and (begin != have or (tag and _tag(answer) not in ("", tag))):
                part.unlink()
                raise Passing("the server has another file now; it is fetched from its beginning")
            if wanted.size is not None and total not in (None, wanted.size):
                raise WeightsFailed(
                    f"{wanted.name} has {total} bytes, and should have {wanted.size}: the server "
                    "is not to be trusted with it; try another"
                )
            total = total if total is not None else wanted.size
            if total is not None:
                ensure_room(part.parent, total - begin)
                self._progress.expect(wanted.name, total)
            if begin == 0:
                part.unlink(missing_ok=True)  # before the new tag, which would vouch for it
            _mark(part).write_text(_tag(answer) or (tag if begin else ""), encoding="ascii")
            self._write(answer, part, begin, total)

    def _write(self, answer: Answer, part: Path, begin: int, total: int | None) -> None:
        try:
            begin = self._copy(answer, part, begin, total)
        except OSError as error:
            raise WeightsFailed(
                f"{part} cannot be written ({error.strerror}): mend that and run it again to go on"
            ) from None
        if total is not None and begin < total:
            raise Passing("the connection broke off")

    def _copy(self, answer: Answer, part: Path, begin: int, total: int | None) -> int:
        """Write what comes, from `begin` on; returns how far that is."""
        with part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(begin)
            file.seek(begin)
            self._progress.at(part.name.removesuffix(".part"), begin)
            try:
                while piece := answer.read():
                    begin += len(piece)
                    if total is not None and begin > total:
                        raise WeightsFailed(f"{part.name}: the server sends more than it announced")
                    file.write(piece)
                    self._progress.at(part.name.removesuffix(".part"), begin)
            finally:
                file.flush()
                os.fsync(file.fileno())
        return begin

    def _check(self, wanted: Wanted, part: Path) -> str:
        """The digest of what is on the disk. Raises WeightsFailed if it is not the right one."""
        digest = digest_of(part, self._progress)
        right = digest == wanted.sha256 if wanted.sha256 else True
        if wanted.git and not wanted.sha256:
            content = part.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            right = blob.hexdigest() == wanted.git
        if not right:
            part.unlink()
            _mark(part).unlink(missing_ok=True)
            raise WeightsFailed(
                f"{wanted.name} does not have the digest that it should have, and was deleted: run "
                "it again; if that happens again, somebody on the way or the server changes it"
            )
        return digest


def digest_of(path: Path, progress: Progress) -> str:
    """SHA-256 of a file. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
            progress.checked(len(piece))
    return digest.hexdigest()


def ensure_room(folder: Path, count: int) -> None:
    """Raise WeightsFailed if so many bytes do not fit onto the disk."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if count > free:
        raise WeightsFailed(
            f"{size(count)} are still to come, and the disk of {folder} has {size(free)} left: "
            "make room there, or choose another place with --into"
        )


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _mark(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _tag(answer: Answer) -> str:
    """The file's strong entity tag: a weak one does not promise the same bytes (RFC 9110)."""
    tag = answer.headers.get("ETag", "")
    return tag if re.fullmatch(r'"[\x21\x23-\x7e]*"', tag) else ""


def _range(answer: Answer) -> tuple[int, int | None]:
    """Where the body begins in the file, and the whole file's size where that is told."""
    if answer.status == 206:
        found = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip()
        )
        if not found:
            return -1, None
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None
