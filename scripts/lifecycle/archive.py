"""Owns the form of a backup: a tar archive with a manifest first, settings and secrets, the store.

The manifest says what comes after it, with digests, so that a reader can refuse before it acts.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Protocol

from scripts.lifecycle import CannotDo

FORMAT = 1
MANIFEST = "manifest.json"
STORE = "store.db"

MOST_FILE_BYTES = 1 << 20
"""Settings and secrets are small; whatever is not is no such file."""

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One file as the manifest describes it."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup is of, and what is in it."""

    node: str
    """The kind of node."""
    version: str
    """Of the scripts that made it."""
    made_at: str
    """UTC, ISO 8601."""
    files: Mapping[str, Entry] = field(default_factory=dict)
    schema: int = 0
    """The version of the store's tables; 0: there is no store in it."""
    final: bool = False
    """Whether nothing happened on the node since: it was stopped before."""

    @property
    def store(self) -> Entry | None:
        """The store, where there is one."""
        return self.files.get(STORE)


class Source(Protocol):
    """What can be read from."""

    def read(self, size: int = -1, /) -> bytes: ...


TakeStore = Callable[[Manifest, Mapping[str, bytes], Source], None]
"""Gets the manifest, the small files, and the store to read from."""


def entry_of(content: bytes) -> Entry:
    """Describe a small file."""
    return Entry(len(content), hashlib.sha256(content).hexdigest())


def write(
    out: IO[bytes], manifest: Manifest, files: Mapping[str, bytes], store: IO[bytes] | None
) -> None:
    """Write an archive as a stream. Raises CannotDo if the store is not as long as was said."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        described = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode()
        for name, content in ((MANIFEST, described), *sorted(files.items())):
            archive.addfile(tar_entry(name, len(content)), io.BytesIO(content))
        if store and manifest.store:
            try:
                archive.addfile(tar_entry(STORE, manifest.store.bytes), store)
            except OSError as error:
                raise CannotDo(f"copying the store: {error}: try again") from None


def tar_entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


def read(stream: IO[bytes], take_store: TakeStore) -> tuple[Manifest, dict[str, bytes]]:
    """Read and check an archive. Returns its manifest and its small files. Raises CannotDo."""
    manifest: Manifest | None = None
    files: dict[str, bytes] = {}
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                if content is None or entry.name in seen:
                    raise CannotDo(DAMAGED)
                seen.add(entry.name)
                if manifest is None:
                    manifest = read_manifest(entry, content)
                    continue
                wanted = manifest.files.get(entry.name)
                if wanted is None or entry.size != wanted.bytes:
                    raise CannotDo(DAMAGED)
                measured = Measured(content)
                if entry.name == STORE:
                    take_store(manifest, files, measured)
                    while measured.read(PIECE_BYTES):
                        pass
                else:
                    files[entry.name] = read_small(entry, measured)
                if measured.digest.hexdigest() != wanted.sha256:
                    raise CannotDo(DAMAGED)
    except (tarfile.TarError, EOFError):
        raise CannotDo(DAMAGED) from None
    if manifest is None or seen != {MANIFEST, *manifest.files}:
        raise CannotDo(DAMAGED)
    return manifest, files


DAMAGED = "the backup is damaged, or is none: take another copy of it"


class Measured:
    """Reads on, and keeps the digest of what was read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        piece = self._source.read(size)
        self.digest.update(piece)
        return piece


def read_manifest(entry: tarfile.TarInfo, content: Source) -> Manifest:
    """Raises CannotDo."""
    if entry.name != MANIFEST:
        raise CannotDo(DAMAGED)
    try:
        told: dict[str, Any] = json.loads(read_small(entry, content))
        if told.pop("format") != FORMAT:
            raise CannotDo("the backup is of another format: restore it with newer scripts")
        files = {str(name): Entry(**described) for name, described in told.pop("files").items()}
        return Manifest(files=files, **told)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CannotDo(DAMAGED) from None


def read_small(entry: tarfile.TarInfo, content: Source) -> bytes:
    if entry.size > MOST_FILE_BYTES:
        raise CannotDo(DAMAGED)
    return content.read()
