"""Writes an encrypted backup of this node into one file, while the node goes on.

In it are the settings, the secrets, and the store where the node has one, as it was when the backup
began. `backup verify` decrypts a backup, here or elsewhere, and checks that all of it is there.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from scripts.commands import VERSION
from scripts.lifecycle import CannotDo, archive, home
from scripts.lifecycle.archive import Manifest, entry_of
from scripts.lifecycle.keeper import Keeper, keeper_of
from scripts.lifecycle.lock import refuse_locked
from scripts.lifecycle.output import new_file
from scripts.lifecycle.running import (
    alone,
    is_mended,
    rest_timer,
    say,
    start,
    stop,
    wake_timer,
)
from scripts.lifecycle.sealing import (
    Passphrase,
    Recipient,
    new_passphrase,
    opened_file,
    passphrase_for,
    sealed,
    unsealed,
)
from scripts.node.arguments import add_node_arguments, node_of
from scripts.node.node import Node
from scripts.node.tools import CannotLook, Tools

ABOUT = "write an encrypted backup of the node into one file, or check one"

EXIT_STATUS = {
    0: "the backup is written and was checked; with `verify`: it is whole",
    1: "it was not made, or is not whole: the reason is said, and no file is left behind",
}
FILES = {
    ".env, secrets/": "what goes into it, with the store where the node has one",
    "NAME-YYYYMMDD-HHMMSS.backup.gpg": (
        "the backup, in the folder that it is called in, unless --out says another"
    ),
}

EXAMPLES = """\
examples:
  %(prog)s                                   asks for a passphrase; the file is named by the time
  %(prog)s --recipient key.asc --out b.gpg   for the owner of a public key, such as from a timer
  %(prog)s --stop                            stops the node's keeper first: to move the node
  %(prog)s verify b.gpg"""

COULD_NOT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES % {"prog": parser.prog}
    add_node_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new file, or - for the output")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--passphrase-file", type=Path, metavar="FILE",
                     help="its first line opens the backup; asked for if not given")  # fmt: skip
    who.add_argument("--recipient", type=Path, metavar="FILE",
                     help="a GnuPG public key, whose owner alone can open the backup")  # fmt: skip
    parser.add_argument("--stop", action="store_true",
                        help="stop what writes first and leave it so, for the last backup "
                        "before a move")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would be in it")
    actions = parser.add_subparsers(dest="action", metavar="verify")
    check = actions.add_parser("verify", help="decrypt a backup and check that it is whole")
    check.add_argument("file", type=Path)
    # A default of None would take back what was given before the word `verify`.
    check.add_argument("--passphrase-file", type=Path, metavar="FILE", default=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    tools = Tools()
    try:
        if arguments.action == "verify":
            return verify(tools, arguments.file, arguments.passphrase_file)
        node = node_of(arguments, tools)
        env_file = Path(arguments.env_file[0]) if arguments.env_file else node.root / home.SETTINGS
        files = home.files_of(node, env_file)
        if arguments.dry_run:
            print(plan(node, files))
            return 0
        refuse_locked(node)
        with alone(node.root), up_again_if_it_fails(node):
            how = (
                Recipient(arguments.recipient)
                if arguments.recipient
                else new_passphrase(arguments.passphrase_file)
            )
            out = arguments.out or Path(f"{node.kind.name}-{now():%Y%m%d-%H%M%S}.backup.gpg")
            made = back_up(node, files, out, how, is_final=arguments.stop)
    except (CannotDo, CannotLook) as why:
        print(f"No backup: {why}.", file=sys.stderr)
        return COULD_NOT
    say(f"written to {out}: {describe(made)}")
    if arguments.stop and node.kind.keeper:
        say(
            f"{node.kind.keeper} is stopped; `systemctl disable --now node@{node.project}` "
            "keeps it so, also when the machine is started again"
        )
    return 0


def plan(node: Node, files: dict[str, Path]) -> str:
    """What a backup would hold. Raises CannotDo."""
    names = sorted(home.read_all(files))
    lines = [f"Would back up {', '.join(names)}."]
    if missing := sorted(set(files) - set(names)):
        lines.append(f"Not there: {', '.join(missing)}.")
    if keeper := keeper_of(node):
        state = "as it is now" if node.kind.keeper in node.running else "which is not in use"
        lines.append(f"Would copy the store in the volume {keeper.volume}, {state}.")
    return "\n".join(lines)


def back_up(
    node: Node, files: dict[str, Path], out: Path, how: Passphrase | Recipient, *, is_final: bool
) -> Manifest:
    """Write a backup. Returns its manifest. Raises CannotDo, CannotLook; then nothing is left."""
    keeper = keeper_of(node)
    contents = home.read_all(files)
    manifest = Manifest(
        node.kind.name,
        VERSION,
        now().isoformat(timespec="seconds"),
        {name: entry_of(content) for name, content in contents.items()},
    )
    with new_file(out) as file:
        if keeper is None:
            with sealed(file, how, node.tools.memory) as pipe:
                archive.write(pipe, manifest, contents, None)
            return manifest
        if not keeper.has_volume():
            raise CannotDo(f"there is no volume {keeper.volume}: start the node first")
        if is_final:
            stop_for_good(node, keeper)
        say("copying the store; the node goes on" if not is_final else "copying the store")
        with keeper.copy() as (schema, entry, store):
            manifest = Manifest(
                manifest.node,
                manifest.version,
                manifest.made_at,
                {**manifest.files, archive.STORE: entry},
                schema,
                is_final,
            )
            with sealed(file, how, node.tools.memory) as pipe:
                archive.write(pipe, manifest, contents, store)
    return manifest


def stop_for_good(node: Node, keeper: Keeper) -> None:
    """Stop what writes to the store, and what would start it again. Raises CannotDo."""
    if is_mended(node):
        rest_timer(node)
    say(f"stopping {keeper.service}")
    stop(node, keeper.service)


@contextmanager
def up_again_if_it_fails(node: Node) -> Iterator[None]:
    """Leave no keeper stopped for a backup that is not there."""
    was_running, was_mended = node.kind.keeper in node.running, is_mended(node)
    try:
        yield
    except BaseException:
        node.refresh()
        if was_running and node.kind.keeper not in node.running:
            say(f"that failed: starting {node.kind.keeper} again")
            with contextlib.suppress(CannotDo, CannotLook):
                start(node, node.kind.keeper)
            if was_mended:
                wake_timer(node)
        raise


def verify(tools: Tools, file: Path, passphrase_file: Path | None) -> int:
    """Read a backup to its end, and say what it is. Raises CannotDo."""
    passphrase = passphrase_for(file, passphrase_file)
    with (
        opened_file(file) as opened,
        unsealed(opened, passphrase, tools.memory) as stream,
    ):
        manifest, _ = archive.read(stream, lambda *_: None)
    print(f"{file} is whole: {describe(manifest)}.")
    return 0


def describe(manifest: Manifest) -> str:
    """What a backup is of and what is in it, for a sentence."""
    small = len(manifest.files) - bool(manifest.store)
    words = [
        f"the {manifest.node} node's, of {manifest.made_at}, with {small} settings and secrets"
    ]
    if manifest.store:
        size = f"{manifest.store.bytes / 1e6:.1f} MB"
        words.append(f" and the store ({size}, version {manifest.schema})")
    if manifest.final:
        words.append(", the last one before a move")
    return "".join(words)


def now() -> datetime:
    return datetime.now(UTC)
