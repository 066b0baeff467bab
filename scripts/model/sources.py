"""Finds out which files make up a model, on a hub, at an address or in a folder, and which may not.

A hub speaks the interface of Hugging Face's: GET /api/models/ID/revision/REVISION?blobs=true lists
a repository's files with size and digest, GET /ID/resolve/COMMIT/FILE is one of them.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from scripts.model import WeightsFailed, size
from scripts.model.download import Wanted

HUB = "https://huggingface.co"
WEIGHTS = (".safetensors", ".gguf")
BESIDE = (".json", ".txt", ".model", ".tiktoken", ".jinja")
"""Configuration, vocabularies, chat templates."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PICKLE = "a pickle, which can run code as it is loaded"
CODE = "code, which is never run here"
LARGEST_LIST = 64 << 20
LARGEST_BESIDE = 256 << 20  # vocabularies of 20 MB exist

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
FILE = re.compile(r"[A-Za-z0-9_][\w.+-]{0,199}", re.ASCII)
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class Entry:
    """A file as a source lists it."""

    path: str
    size: int | None = None
    sha256: str = ""
    git: str = ""
    is_link: bool = False


@dataclass(frozen=True)
class Choice:
    """Which files are taken, and what is left out and why."""

    taken: tuple[Entry, ...]
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Found:
    """A source's model."""

    name: str
    """What it is called here, if nothing else is asked for."""
    revision: str
    """The commit; nothing where there is none."""
    files: tuple[Wanted, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def on_hub(
    ask: Callable[[str, int], bytes], hub: str, repository: str, revision: str, files: Sequence[str]
) -> Found:
    """A repository's model. Raises WeightsFailed."""
    listing = f"{hub}/api/models/{quote(repository)}/revision/{quote(revision, safe='')}?blobs=true"
    try:
        told = json.loads(ask(listing, LARGEST_LIST))
        commit = str(told["sha"])
        entries = [_entry(it) for it in told["siblings"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsFailed(
            f"{hub} does not answer as a hub does: check the address given with --hub"
        ) from None
    if not re.fullmatch(r"[0-9a-f]{7,64}", commit):
        raise WeightsFailed(f"{hub} names no commit for {revision}: check --revision")
    choice = choose(entries, files)
    wanted = [
        Wanted(
            Path(it.path).name,
            f"{hub}/{quote(repository)}/resolve/{commit}/{quote(it.path)}",
            it.size,
            it.sha256,
            it.git,
        )
        for it in choice.taken
    ]
    return Found(repository.rpartition("/")[2], commit, tuple(wanted), choice.left_out)


def at_address(url: str, sha256: str) -> Found:
    """A GGUF file at an address of its own. Raises WeightsFailed."""
    name = Path(urlsplit(url).path).name
    if not name.endswith(".gguf") or not FILE.fullmatch(name):
        raise WeightsFailed(
            f"{url} does not end in the name of a GGUF file: give a repository's name and --hub "
            "for anything else"
        )
    return Found(name.removesuffix(".gguf"), "", (Wanted(name, url, None, sha256),))


def in_folder(folder: Path, files: Sequence[str]) -> Found:
    """A model that was carried here. Raises WeightsFailed."""
    try:
        entries = [
            Entry(
                str(path.relative_to(folder)),
                path.lstat().st_size,
                is_link=path.is_symlink(),
            )
            for path in sorted(folder.rglob("*"))
            if path.is_symlink() or path.is_file()
        ]
    except OSError as error:
        raise WeightsFailed(f"{folder} cannot be read ({error.strerror})") from None
    choice = choose([it for it in entries if it.path not in ("SHA256SUMS", "fetched.json")], files)
    wanted = [Wanted(Path(it.path).name, str(folder / it.path), it.size) for it in choice.taken]
    return Found(folder.resolve().name, "", tuple(wanted), choice.left_out)


def choose(entries: Sequence[Entry], files: Sequence[str]) -> Choice:
    """Out of all files those that an engine needs. `files` are patterns. Raises WeightsFailed."""
    left_out: list[tuple[str, str]] = []
    usable: list[Entry] = []
    for entry in entries:
        if any(part.startswith(".") and part != ".." for part in entry.path.split("/")):
            continue  # a version control's own
        why = refusal(entry)
        if why:
            left_out.append((entry.path, why))
        elif entry.path.endswith((*WEIGHTS, *BESIDE)):
            usable.append(entry)
    tops = [it for it in usable if "/" not in it.path]
    if files:
        taken = [it for it in usable if any(fnmatch.fnmatchcase(it.path, f) for f in files)]
        if not any(it.path.endswith(WEIGHTS) for it in taken):
            raise WeightsFailed(
                f"--file {' '.join(files)} fits no weights; there are: {_listed(usable)}"
            )
        if any(it.path.endswith(".safetensors") for it in taken):
            taken += [it for it in tops if it.path.endswith(BESIDE) and it not in taken]
    elif tensors := [it for it in tops if it.path.endswith(".safetensors")]:
        # Mistral's own name for the same weights once more, all in one file.
        sharded = [it for it in tensors if not it.path.startswith("consolidated")]
        left_out += [(it.path, "the same weights again") for it in tensors if it not in sharded]
        taken = (sharded or tensors) + [it for it in tops if it.path.endswith(BESIDE)]
    else:
        taken = _one_gguf(usable)
    if not taken:
        raise WeightsFailed(_nothing(left_out))
    names = [Path(it.path).name for it in taken]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise WeightsFailed(f"{twice[0]} is there more than once: choose one with --file")
    return Choice(tuple(taken), tuple(left_out))


def refusal(entry: Entry) -> str:
    """Why a file is never taken; nothing if it may be."""
    if entry.is_link:
        return "a symbolic link: copy what it leads to instead (`cp -rL`)"
    if not all(FILE.fullmatch(part) for part in entry.path.split("/")):
        return "an odd name"
    if entry.path.endswith(PICKLES):
        return PICKLE
    if entry.path.endswith((".py", ".so", ".sh")):
        return CODE
    if entry.path.endswith(BESIDE) and (entry.size or 0) > LARGEST_BESIDE:
        return "too large for what it is"
    return ""


def _one_gguf(usable: Sequence[Entry]) -> list[Entry]:
    models = [it for it in usable if it.path.endswith(".gguf") and not is_projector(it.path)]
    groups: dict[str, list[Entry]] = {}
    for entry in models:
        groups.setdefault(PART.sub("", entry.path), []).append(entry)
    if len(groups) > 1:
        raise WeightsFailed(f"choose one with --file; there are: {_listed(models)}")
    return next(iter(groups.values()), [])


def is_projector(path: str) -> bool:
    """Whether a GGUF file makes a model see, and is no model itself."""
    return Path(path).name.startswith("mmproj")


def _listed(entries: Sequence[Entry]) -> str:
    shown = [it for it in entries if it.path.endswith(WEIGHTS)]
    words = [f"{it.path} ({size(it.size)})" if it.size else it.path for it in shown[:40]]
    return ", ".join(words + ["…"] * (len(shown) > 40)) or "none"


def _nothing(left_out: Sequence[tuple[str, str]]) -> str:
    if links := [path for path, why in left_out if "symbolic" in why]:
        return f"{links[0]} is a symbolic link: copy what it leads to instead (`cp -rL`)"
    if pickles := [path for path, why in left_out if why == PICKLE]:
        return (
            f"there are weights only as {pickles[0]} and the like, each {PICKLE}: take a model "
            "that comes as safetensors or GGUF"
        )
    return "there are no weights as safetensors or GGUF: take another model"


def _entry(it: dict[str, object]) -> Entry:
    lfs = it.get("lfs")
    large = lfs if isinstance(lfs, dict) else {}
    count, sha256, git = it.get("size", large.get("size")), large.get("sha256"), it.get("blobId")
    return Entry(
        str(it["rfilename"]),
        count if isinstance(count, int) and count >= 0 else None,
        sha256 if isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256) else "",
        git if isinstance(git, str) and re.fullmatch("[0-9a-f]{40}", git) and not large else "",
    )
