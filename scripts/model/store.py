"""The place where models lie, one folder each: staging, publishing, digests, what there is.

A model is gathered in a hidden folder (.NAME.part) and renamed when all of it is right, so that an
engine sees it whole or not at all. SHA256SUMS holds its digests, fetched.json where it came from.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.model import WeightsFailed
from scripts.model.download import digest_of
from scripts.model.progress import Progress
from scripts.model.sources import NAME
from scripts.node.disk import sync
from scripts.node.tools import NOT_FOUND, Tools

VOLUME = "model_weights"
DIGESTS = "SHA256SUMS"
ORIGIN = "fetched.json"
STAGED = "staged.json"
READERS = 8


def place_of(tools: Tools, *, may_make: bool = False) -> Path:
    """The folder of the volume that the engine reads. Raises WeightsFailed."""
    command = ("docker", "volume", "inspect", "--format", "{{.Mountpoint}}", VOLUME)
    said = tools.run(*command)
    if said.code == NOT_FOUND:
        raise WeightsFailed(
            "there is no Docker here, so no volume of an engine: give a folder with --into"
        )
    if said.code != 0 and "no such volume" in said.why.lower() and may_make:
        made = tools.run("docker", "volume", "create", VOLUME)
        said = tools.run(*command) if made.code == 0 else made
    if said.code != 0:
        raise WeightsFailed(
            f"Docker does not show the volume {VOLUME} ({said.why}): run this as root on the model "
            f"node, after `docker volume create {VOLUME}` or a first start, or give a folder with "
            "--into"
        )
    place = Path(said.out.strip())
    if not os.access(place, os.R_OK | os.X_OK):
        raise WeightsFailed(f"{place} may not be looked into by this user: run this as root")
    return place


@dataclass(frozen=True)
class Model:
    """A folder with weights, as they lie there."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def files(self) -> list[Path]:
        """Of the model itself, in order."""
        return sorted(path for path in self.folder.iterdir() if path.name not in (DIGESTS, ORIGIN))

    @property
    def tensors(self) -> list[Path]:
        return [path for path in self.files if path.suffix == ".safetensors"]

    @property
    def ggufs(self) -> list[Path]:
        return [path for path in self.files if path.suffix == ".gguf"]

    @property
    def bytes(self) -> int:
        return sum(path.lstat().st_size for path in self.files)

    @property
    def digests(self) -> dict[str, str] | None:
        """SHA-256 by file name; None where none were recorded. Raises WeightsFailed."""
        try:
            lines = (self.folder / DIGESTS).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        parted = [line.partition("  ") for line in lines]
        if not lines or not all(len(digest) == 64 and name for digest, _, name in parted):
            raise WeightsFailed(f"{self.folder / DIGESTS} is damaged: fetch {self.name} anew")
        return {name: digest for digest, _, name in parted}

    @property
    def origin(self) -> dict[str, Any]:
        """Where it came from and when it was verified; nothing where nobody wrote that down."""
        try:
            told = json.loads((self.folder / ORIGIN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def record(self, digests: Mapping[str, str], origin: Mapping[str, object]) -> None:
        """Write digests and origin down, for good."""
        lines = [f"{digest}  {name}\n" for name, digest in sorted(digests.items())]
        write_whole(self.folder / DIGESTS, "".join(lines))
        write_whole(self.folder / ORIGIN, json.dumps(dict(origin), indent=1) + "\n")


def models_in(place: Path) -> list[Model]:
    """All models at a place: every folder with weights."""
    try:
        folders = sorted(path for path in place.iterdir() if path.is_dir())
    except OSError as error:
        raise WeightsFailed(
            f"{place} cannot be read ({error.strerror}): run this as root"
        ) from None
    models = [Model(path) for path in folders if NAME.fullmatch(path.name)]
    return [it for it in models if it.tensors or it.ggufs]


def model_at(place: Path, name: str) -> Model:
    """The model of that name. Raises WeightsFailed."""
    if not NAME.fullmatch(name):
        raise WeightsFailed(f'"{name}" is no name of a model: give one of those that `list` shows')
    found = {model.name: model for model in models_in(place)}
    if name not in found:
        there = ", ".join(found) or "none"
        raise WeightsFailed(f"there is no model {name} in {place} (there are: {there}): fetch it")
    return found[name]


def half_done(place: Path) -> list[str]:
    """Names of models whose fetching was begun and not ended."""
    found = [path.name for path in place.iterdir() if path.name.endswith(".part")]
    return sorted(name[1:].removesuffix(".part") for name in found if name.startswith("."))


def verify(model: Model, progress: Progress) -> str:
    """Read all of a model anew; what is wrong with it, or nothing. Raises WeightsFailed."""
    recorded = model.digests
    if recorded is None:
        raise WeightsFailed(
            f"{model.name} has no digests: write them down as it is now with --record, or fetch it"
        )
    found = {path.name: path for path in model.files}
    if missing := sorted(recorded.keys() - found.keys()):
        return f"{missing[0]} is missing"
    if added := sorted(found.keys() - recorded.keys()):
        return f"{added[0]} is not named in {DIGESTS}"
    if links := [name for name, path in found.items() if path.is_symlink() or not path.is_file()]:
        return f"{links[0]} is not an ordinary file"
    actual = digests_of([found[name] for name in sorted(found)], progress)
    wrong = sorted(name for name, digest in actual.items() if digest != recorded[name])
    return f"{wrong[0]} differs from what was fetched" if wrong else ""


def digests_of(files: Sequence[Path], progress: Progress) -> dict[str, str]:
    """SHA-256 of several files, read at once: hashing leaves Python's lock."""
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda path: digest_of(path, progress), files)
        return dict(zip([path.name for path in files], found, strict=True))


class Staging:
    """A model while it is gathered."""

    def __init__(self, place: Path, name: str) -> None:
        self.folder = place / f".{name}.part"
        self._final = place / name

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep a second call away from the same model. Raises WeightsFailed."""
        try:
            self.folder.mkdir(mode=0o755, exist_ok=True)
            lock = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise WeightsFailed(
                f"{self.folder.parent} cannot be written to ({error.strerror}): run this as root, "
                "or give another folder with --into"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise WeightsFailed(f"another call fetches {self._final.name}: wait for it") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self.folder.rmdir()  # where nothing was gathered
            os.close(lock)

    @property
    def begun(self) -> dict[str, Any]:
        """What an earlier call has begun: its source, revision, way."""
        try:
            told = json.loads((self.folder / STAGED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def begin(self, what: Mapping[str, object], names: Sequence[str]) -> None:
        """Note what is gathered; what an earlier call left of other files goes."""
        write_whole(self.folder / STAGED, json.dumps(dict(what)))
        kept = {f"{name}{end}" for name in names for end in ("", ".part", ".part.etag")}
        for path in self.folder.iterdir():
            if path.name not in kept | {STAGED}:
                path.unlink()

    def discard(self) -> None:
        """Throw away what was gathered."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def publish(self, digests: Mapping[str, str], origin: Mapping[str, object]) -> Model:
        """Make the gathered model one that engines see, at once and for good."""
        for name in digests:
            (self.folder / name).chmod(0o644)  # the engine's user is not its owner
        Model(self.folder).record(digests, origin)
        (self.folder / STAGED).unlink(missing_ok=True)
        sync(self.folder)
        self.folder.chmod(0o755)
        self.folder.rename(self._final)
        sync(self._final.parent)
        return Model(self._final)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    part = path.with_name(f"{path.name}.new")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.chmod(0o644)
    part.replace(path)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
