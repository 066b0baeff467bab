"""Checks the weights of a model against their SHA-256 digests before an engine starts.

`python3 digests.py FOLDER` says nothing and ends with 0 where all fits, else one sentence and 2.
What Debian's python3-minimal has, alone: it runs in llama.cpp's image, and in vLLM's, which this
project does not build. A folder without digests (copied by hand) is not checked.
"""

import hashlib
import os
import re
import sys
from pathlib import Path
from threading import Thread

DIGESTS = "SHA256SUMS"
"""As `sha256sum` writes and reads it, one line a file."""

BESIDE = frozenset({DIGESTS, "fetched.json"})
"""What lies beside the weights and is no part of them."""

READERS = 8  # files read at once; hashing leaves Python's lock


class BadWeights(Exception):
    """The weights are not those whose digests were recorded; the message ends with what to do."""


def main(arguments: list[str]) -> int:
    try:
        check_digests(Path(arguments[0]))
    except BadWeights as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def check_digests(folder: Path) -> int:
    """Read all of a folder's files anew; returns how many were checked. Raises BadWeights.

    A file too many is refused as well: an engine loads what it finds.
    """
    if not (folder / DIGESTS).exists():
        return 0
    recorded = read_digests(folder / DIGESTS)
    found = {path.name for path in folder.iterdir()} - BESIDE
    if missing := sorted(recorded.keys() - found):
        raise BadWeights(_sentence(folder, missing[0], "is missing"))
    if added := sorted(found - recorded.keys()):
        raise BadWeights(_sentence(folder, added[0], f"is not named in {DIGESTS}"))
    for name in sorted(recorded):
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise BadWeights(_sentence(folder, name, "is not an ordinary file"))
    for name, digest in sorted(_digests(folder, sorted(recorded)).items()):
        if isinstance(digest, BadWeights):
            raise digest
        if digest != recorded[name]:
            raise BadWeights(_sentence(folder, name, "differs from what was fetched"))
    return len(recorded)


def read_digests(file: Path) -> dict[str, str]:
    """The digests by file name. Raises BadWeights where a line is not one of `sha256sum`'s."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    matches = [re.fullmatch(r"([0-9a-f]{64})  ([^/]+)", line) for line in lines]
    if not lines or None in matches:
        raise BadWeights(_sentence(file.parent, file.name, "is damaged"))
    return {match[2]: match[1] for match in matches if match}


def _digests(folder: Path, names: list[str]) -> dict[str, str | BadWeights]:
    """Each file's digest, or why there is none; several are read at once."""
    found: dict[str, str | BadWeights] = {}
    waiting = list(names)

    def read() -> None:
        while waiting:
            try:
                name = waiting.pop()
            except IndexError:  # another one was quicker
                return
            found[name] = _digest(folder, name)

    readers = [Thread(target=read) for _ in range(min(READERS, os.cpu_count() or 1))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    if missing := set(names) - found.keys():
        return {min(missing): BadWeights(_sentence(folder, min(missing), "could not be read"))}
    return found


def _digest(folder: Path, name: str) -> str | BadWeights:
    try:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return BadWeights(_sentence(folder, name, f"cannot be read ({error.strerror})"))


def _sentence(folder: Path, name: str, what: str) -> str:
    return (
        f'the weights in "{folder}" are not what was fetched: {name} {what}; fetch them anew '
        "(`model fetch`), or choose another model (`model use`)"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
