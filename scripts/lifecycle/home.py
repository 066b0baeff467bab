"""Owns a node's settings and secrets as files: which they are, and how they are replaced.

What is replaced is kept beside it, with the ending `.kept`, until `finish`; `undo` brings it back.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from scripts.lifecycle import CannotDo
from scripts.node.node import Node

SETTINGS = ".env"
"""The name of the settings in a backup; secrets are `secrets/NAME`."""


def files_of(node: Node, env_file: Path) -> dict[str, Path]:
    """Where each file of the node lies, by its name in a backup. Raises CannotLook."""
    files = {SETTINGS: env_file}
    for service in node.services.values():
        for secret in service.get("secrets") or []:
            path = Path(str(node.config["secrets"][secret["source"]]["file"]))
            if path != Path(os.devnull):
                files[f"secrets/{secret['source']}"] = path
    return files


def read_all(files: Mapping[str, Path]) -> dict[str, bytes]:
    """What stands in those that are there. Raises CannotDo."""
    found = {}
    for name, path in files.items():
        try:
            found[name] = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CannotDo(f"{path} cannot be read ({error.strerror}): run this as root") from None
    return found


def owner_of(node: Node, name: str) -> int:
    """Who reads a secret: the user of the services that have it, or root."""
    users = {
        str(service.get("user") or "0").partition(":")[0]
        for service in node.services.values()
        if f"secrets/{name}" in {f"secrets/{it['source']}" for it in service.get("secrets") or []}
    }
    return int(users.pop()) if len(users) == 1 else 0


def put(node: Node, name: str, path: Path, content: bytes) -> None:
    """Put a file of a backup in its place, and keep what was there. Raises CannotDo."""
    kept = kept_beside(path)
    try:
        if path.exists() and not kept.exists():
            kept.hardlink_to(path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.unlink(missing_ok=True)
        mode = 0o600 if name == SETTINGS else 0o400
        if kept.exists():
            mode = stat.S_IMODE(kept.stat().st_mode)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            if os.geteuid() == 0:
                owner = owner_of(node, name.removeprefix("secrets/")) if name != SETTINGS else 0
                os.fchown(file.fileno(), kept.stat().st_uid if kept.exists() else owner, -1)
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise CannotDo(f"{path} cannot be written ({error.strerror}): run this as root") from None


def undo(paths: Iterable[Path]) -> None:
    """Bring back what was kept; what was not there before stays."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            kept_beside(path).replace(path)


def finish(paths: Iterable[Path]) -> None:
    """Remove what was kept."""
    for path in paths:
        kept_beside(path).unlink(missing_ok=True)


def kept_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.kept")
