"""Makes the private keys of the node that it runs on, and shows the public one.

They never leave it. What is there is kept. The public key goes to where the other node's bundle
is made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.keys import KeysFailed, make_private_key, public_key_of
from scripts.lifecycle.lock import FILE, lock_of

ABOUT = "make this node's own private keys here, and show its public key"

EXIT_STATUS = {
    0: "the keys are there; the public one is shown",
    1: "they could not be made: the reason is said",
}
FILES = {
    "secrets/": "the private keys, readable by their users alone",
}

ROOT = Path(__file__).resolve().parents[2]
COULD_NOT = 1

TUNNEL_KEY = "tunnel_private_key"
STORE_KEY = "store_key"
MADE_HERE: Mapping[str, tuple[Callable[[], str], int]] = {
    TUNNEL_KEY: (make_private_key, 0),
    STORE_KEY: (lambda: secrets.token_hex(32), 10003),
}
"""How each key is made, and whose it is; which of them a node has, its Compose file says."""

EXAMPLES = """\
examples:
  keys              make what is missing; shows the public key of the tunnel
  keys --renew      another key for the tunnel: the other node must get its public key
  keys --dry-run    say what would be made
"""


class CannotMake(Exception):
    """The keys cannot be made; the message says what would allow it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--renew", action="store_true", help="another private key for the tunnel")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made")


def run(arguments: argparse.Namespace) -> int:
    try:
        folder = ROOT / "secrets"
        wanted = names_of(ROOT)
        if not folder.is_dir() or not wanted:
            raise CannotMake(f"{ROOT} is no node: call this where the bundle was unpacked")
        for name in wanted:
            is_anew = arguments.renew and name == TUNNEL_KEY
            if (folder / name).exists() and not is_anew:
                continue
            print(f"{'Would make' if arguments.dry_run else 'Made'} {name}.", file=sys.stderr)
            if not arguments.dry_run:
                make, owner = MADE_HERE[name]
                write(folder / name, make(), owner)
        if (folder / TUNNEL_KEY).exists():
            print("The public key of this node:", file=sys.stderr, flush=True)
            print(public_key_of((folder / TUNNEL_KEY).read_text(encoding="ascii").strip()))
    except PermissionError:
        print("The secrets are root's: call this as root.", file=sys.stderr)
        return COULD_NOT
    except (CannotMake, KeysFailed) as why:
        print(f"{why}.", file=sys.stderr)
        return COULD_NOT
    return 0


def names_of(root: Path) -> list[str]:
    """The keys that the node in a folder has, out of those that are made on nodes."""
    compose = [path for path in sorted(root.glob("compose.*.yml")) if path.is_file()]
    text = "".join(path.read_text(encoding="utf-8") for path in compose)
    names = [name for name in MADE_HERE if re.search(rf"^  {name}: {{ file:", text, re.MULTILINE)]
    # One that is to be in memory alone is made by `unlock`.
    return [name for name in names if name != STORE_KEY or lock_of(files_named(root)) == FILE]


def files_named(root: Path) -> list[str]:
    """The Compose files that the settings of the node in a folder name."""
    with contextlib.suppress(FileNotFoundError):
        settings = (root / ".env").read_text(encoding="utf-8")
        if found := re.findall(r"^COMPOSE_FILE=(\S+)[ \t]*$", settings, re.MULTILINE):
            return str(found[-1]).split(":")
    return []


def write(file: Path, key: str, owner: int) -> None:
    """Put a key in its place at once, for its owner alone."""
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "w", encoding="ascii") as written:
        written.write(key)
        os.fchown(descriptor, owner, 0)
        os.fsync(descriptor)
    part.replace(file)
