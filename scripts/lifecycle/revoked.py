"""Owns which secrets `revoke` took out of use on this node: no older bundle may bring them back."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from scripts.lifecycle import CannotDo

LIST = ".revoked-secrets"
"""In the folder of the secrets; a line is the SHA-256 of one that was there, in hexadecimal."""

SHARED = ("link_token", "tunnel_preshared_key")
"""What the other node has as well."""


def note(folder: Path, secrets: Iterable[bytes]) -> None:
    """Add secrets to the list, for good. Raises OSError."""
    lines = sorted(listed(folder) | {digest_of(secret) for secret in secrets})
    part = folder / f"{LIST}.part"
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / LIST)


def listed(folder: Path) -> set[str]:
    """The list of a folder; nothing where there is none, or where it may not be read."""
    with contextlib.suppress(OSError):
        return set((folder / LIST).read_text(encoding="ascii").split())
    return set()


def among(folder: Path, secrets: Mapping[str, bytes]) -> list[str]:
    """The names of those that were revoked."""
    revoked = listed(folder)
    return sorted(name for name, secret in secrets.items() if digest_of(secret) in revoked)


def refuse(folder: Path, secrets: Mapping[str, bytes], source: str) -> None:
    """Raises CannotDo where one of them was revoked."""
    if names := among(folder, secrets):
        raise CannotDo(
            f"{source} has a {names[0]} that was revoked here, and would let the lost VPS in "
            "again: take a bundle that was made since (`init --vps ADDRESS --rotate "
            "--token-file FILE`)"
        )


def digest_of(secret: bytes) -> str:
    return hashlib.sha256(secret.strip()).hexdigest()
