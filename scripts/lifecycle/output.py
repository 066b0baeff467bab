"""Owns the file that a command writes for whoever calls it: there as a whole, or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scripts.lifecycle import CannotDo


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there under its name only when all of it is on the disk. Raises CannotDo."""
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists():
        raise CannotDo(f"{path} is there already: give another name with --out")
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise CannotDo(f"writing {path}: {error.strerror}: choose another place") from None
    finally:
        part.unlink(missing_ok=True)
