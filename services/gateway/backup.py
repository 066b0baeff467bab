"""Copies the store while the gateway uses it: `python3 -m services.gateway.backup >FILE`.

One line of JSON (`Description`) comes first, then the copy, which is as encrypted as the store and
holds what was committed when it began, without what was deleted. It is written beside the store,
checked, and removed from there before its first byte leaves. `keep` leaves it there instead, for
`services.gateway.restore`.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, ClassVar

from pydantic import AfterValidator

from services.gateway.database import StoreError
from services.gateway.settings import check_key
from services.gateway.store import Store
from services.settings import BadSetting, Settings, read_settings

SPARE_BYTES = 16 << 20
"""Room that a gateway at work needs meanwhile."""

PIECE_BYTES = 1 << 20


class StoreSettings(Settings):
    """What it takes to open the store; the gateway's other settings are not needed."""

    SECRETS: ClassVar[frozenset[str]] = frozenset({"store_key"})

    store_file: Path = Path("/var/lib/gateway/store.db")
    store_key: Annotated[str, AfterValidator(check_key)]


@dataclass(frozen=True)
class Description:
    """What comes after it."""

    schema: int
    """The version of the store's tables."""
    bytes: int
    sha256: str
    """In hexadecimal digits."""


def main() -> int:
    """Read arguments and settings, and copy. Returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="backup", description=__doc__)
    parser.add_argument("keep", nargs="?", choices=["keep"], help="leave the copy beside the store")
    arguments = parser.parse_args()
    os.umask(0o077)
    try:
        settings = read_settings(StoreSettings)
        if arguments.keep:
            keep(settings.store_file, settings.store_key)
        else:
            write(settings.store_file, settings.store_key, sys.stdout.buffer)
    except (BadSetting, StoreError) as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1  # whoever wanted the copy is gone
    return 0


def write(file: Path, key: str, out: IO[bytes]) -> None:
    """Write a description and the copy. Raises StoreError, and OSError where `out` fails."""
    with _only_one(file):
        copy = file.with_name(f"{file.name}.copy")
        schema = _copy(file, key, copy)
        with copy.open("rb") as opened:
            copy.unlink()  # from here on it is gone with this process
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            description = Description(schema, opened.tell(), digest)
            out.write(json.dumps(asdict(description)).encode() + b"\n")
            opened.seek(0)
            shutil.copyfileobj(opened, out, PIECE_BYTES)
        out.flush()


def keep(file: Path, key: str) -> None:
    """Leave a copy beside the store, under the name that `restore undo` knows. Raises StoreError.

    One that is there already belongs to somebody who was interrupted, and stays.
    """
    with _only_one(file):
        kept = kept_beside(file)
        if kept.exists():
            raise StoreError(f"{kept.name} is kept already: call again what was interrupted")
        copy = file.with_name(f"{file.name}.copy")
        _copy(file, key, copy)
        copy.rename(kept)


def kept_beside(file: Path) -> Path:
    """Where the store waits that something else has taken the place of."""
    return file.with_name(f"{file.name}.kept")


def check_room(folder: Path, wanted: int) -> None:
    """Raises StoreError unless the file system has room for this many bytes, and some to spare."""
    free = shutil.disk_usage(folder).free
    if free < wanted + SPARE_BYTES:
        raise StoreError(
            f"the copy needs {wanted + SPARE_BYTES >> 20} MiB beside the store, "
            f"and {free >> 20} MiB are free: make room"
        )


def _copy(file: Path, key: str, copy: Path) -> int:
    """Copy the store and open what came of it. Returns its version. Raises StoreError."""
    if not file.exists():
        raise StoreError(f"there is no store {file} yet: start the gateway first")
    copy.unlink(missing_ok=True)  # of a process that was killed
    try:
        store = Store(file, key)
        try:
            check_room(file.parent, store.bytes())
            store.copy_to(copy)
        finally:
            store.close()
        copied = Store(copy, key)
        try:
            return copied.check()
        finally:
            copied.close()
            for leftover in ("-wal", "-shm"):
                copy.with_name(copy.name + leftover).unlink(missing_ok=True)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise


@contextmanager
def _only_one(file: Path) -> Iterator[None]:
    """Keep a second copy from being made meanwhile; the lock ends with the process."""
    folder = file.parent
    if not folder.is_dir():
        raise StoreError(f"{folder} is missing: check the volume of the store")
    with (folder / "backup.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError("another backup is being made: wait for its end") from None
        yield


if __name__ == "__main__":
    sys.exit(main())
