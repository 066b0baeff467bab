"""Owns the digests of a release's files: written, signed, and checked file by file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from scripts.node.tools import Tools
from scripts.prove.signature import sign, verify

SUMS = "SHA256SUMS"
SIGNATURE = f"{SUMS}.sig"
NAMESPACE = "release"


class Damaged(Exception):
    """A release is not what was signed; the message says what differs."""


def write_sums(folder: Path) -> Path:
    """Write the digests of all other files, as sha256sum does."""
    names = sorted(it.name for it in folder.iterdir() if it.name not in (SUMS, SIGNATURE))
    sums = folder / SUMS
    lines = [f"{digest_of(folder / name)}  {name}\n" for name in names]
    sums.write_text("".join(lines), encoding="utf-8")
    return sums


def sign_sums(tools: Tools, folder: Path, key: Path) -> Path:
    """Sign them with an SSH key. Raises CannotLook."""
    return sign(tools, key, folder / SUMS, NAMESPACE)


def check(tools: Tools, folder: Path, signers: Path) -> tuple[str, list[str]]:
    """Who has signed a release, and its files, all of which are as they were then.

    Raises Damaged, BadSignature, or CannotLook.
    """
    try:
        content = (folder / SUMS).read_bytes()
    except OSError as error:
        raise Damaged(f"{folder / SUMS} cannot be read ({error.strerror})") from None
    who = verify(tools, content, folder / SIGNATURE, signers, NAMESPACE)
    listed = {
        name: digest
        for digest, name in re.findall("(?m)^([0-9a-f]{64})  ([^/\n]+)$", content.decode())
    }
    there = {it.name for it in folder.iterdir()} - {SUMS, SIGNATURE}
    if strange := there - listed.keys():
        raise Damaged(f"{min(strange)} is no part of the release: remove it")
    for name, digest in listed.items():
        if name not in there:
            raise Damaged(f"{name} is missing: get it again")
        if digest_of(folder / name) != digest:
            raise Damaged(f"{name} is not what was signed: get it again")
    return who, sorted(listed)


def digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
