"""Brings a backup back onto this node: an empty one, or the one that it was made on.

The bundle and the images must be there. What stands in `.env` and in the secrets stays, unless
--settings is given: only what is missing is brought back, and the store's own key. The store is
put in its place when all of the backup was read and checked; until everything runs, what it has
replaced is kept, and comes back by itself if anything fails.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.commands.backup import describe
from scripts.commands.upgrade import refuse_interrupted
from scripts.journal.setup import refuse_plain
from scripts.lifecycle import CannotDo, archive, home, revoked
from scripts.lifecycle.archive import Manifest, Source
from scripts.lifecycle.keeper import KEY, Keeper, keeper_of
from scripts.lifecycle.lock import PASSPHRASE, Vault, new_passphrase, refuse_locked, vault_of
from scripts.lifecycle.running import (
    alone,
    is_well,
    say,
    start,
    stop,
    unmended,
    wait_until_well,
)
from scripts.lifecycle.sealing import Passphrase, opened_file, passphrase_for, unsealed
from scripts.node.arguments import add_node_arguments, node_of
from scripts.node.node import Node
from scripts.node.tools import CannotLook, Tools

ABOUT = "bring a backup back onto this node"

EXIT_STATUS = {
    0: "the node runs with what was in the backup",
    1: "it was not restored, and the node is as it was: the reason is said",
}
FILES = {
    ".env, secrets/": (
        "stay, but for what is missing and the store's key; with --settings they are replaced"
    ),
}

EXAMPLES = """\
examples:
  %(prog)s backup.gpg --dry-run      checks all of it, and says what would change
  %(prog)s backup.gpg                onto a node that has no store yet
  %(prog)s backup.gpg --replace      the node's own store is replaced
  gpg -d backup.gpg | ssh root@NODE /opt/NAME/scripts/node-admin restore -
                                     where the private key is not on the node"""

COULD_NOT = 1
STDIN = Path("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES % {"prog": parser.prog}
    add_node_arguments(parser)
    parser.add_argument("backup", type=Path, metavar="FILE", help="- for one that is decrypted")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE",
                        help="its first line opens the backup; asked for if not given")  # fmt: skip
    parser.add_argument("--store-passphrase-file", type=Path, metavar="FILE",
                        help="its first line is to open the store from now on, where a "
                        "passphrase does; asked for if not given")  # fmt: skip
    parser.add_argument("--replace", action="store_true",
                        help="also where there is another store, which is lost")  # fmt: skip
    parser.add_argument("--settings", action="store_true",
                        help="settings and secrets become those of the backup, too")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="check the backup, change nothing")


def run(arguments: argparse.Namespace) -> int:
    tools = Tools()
    try:
        node = node_of(arguments, tools)
        with alone(node.root):
            print(restore(arguments, node))
    except (CannotDo, CannotLook) as why:
        print(f"Not restored: {why}.", file=sys.stderr)
        return COULD_NOT
    return 0


@dataclass
class Restoring:
    """One call, as far as it has come."""

    arguments: argparse.Namespace
    node: Node
    env_file: Path
    staged: dict[str, Any] = field(default_factory=dict)
    """What the keeper has found; nothing where there is no store."""

    def take_store(self, manifest: Manifest, files: Mapping[str, bytes], store: Source) -> None:
        """Hand the store over as it comes. Raises CannotDo."""
        entry = manifest.store
        assert entry
        key = files.get(f"secrets/{KEY}")
        if key is None:
            raise CannotDo("the backup has a store and no key to it: take another backup")
        with self.ready(files) as node:
            keeper = keeper_of(node)
            if keeper is None:
                raise CannotDo("this kind of node keeps no store: restore it on the other one")
            check_schema(keeper, manifest)
            if self.arguments.dry_run:
                return
            say("reading the store")
            present = home.read_all(home.files_of(node, self.env_file)).get(f"secrets/{KEY}", b"")
            self.staged = keeper.stage(
                {
                    "key": key.decode().strip(),
                    "bytes": entry.bytes,
                    "sha256": entry.sha256,
                    "final": manifest.final,
                    "replace": self.arguments.replace,
                    "present_key": present.decode("ascii", "replace").strip(),
                },
                store,
            )

    @contextlib.contextmanager
    def ready(self, files: Mapping[str, bytes]) -> Iterator[Node]:
        """The node with the settings that it will have, wherever they stand."""
        settings = files.get(home.SETTINGS, b"")
        if not settings or (self.env_file.exists() and not self.arguments.settings):
            yield self.node
            return
        memory = self.node.tools.memory
        with tempfile.NamedTemporaryFile(dir=memory if memory.is_dir() else None) as written:
            written.write(settings)
            written.flush()
            yield with_env_file(self.node, self.env_file, Path(written.name))


def restore(arguments: argparse.Namespace, node: Node) -> str:
    """Bring a backup back. Returns what was done. Raises CannotDo, CannotLook."""
    env_file = Path(arguments.env_file[0]) if arguments.env_file else node.root / home.SETTINGS
    refuse_interrupted(node)
    refuse_locked(node, may_be_new=True)
    if env_file.exists() and not arguments.dry_run:
        settle_interrupted(node, env_file)
    restoring = Restoring(arguments, node, env_file)
    try:
        manifest, files = read(restoring)
        if manifest.node != node.kind.name:
            raise CannotDo(f"it is the {manifest.node} node's: restore it there")
        with restoring.ready(files) as ready:
            places = places_of(ready, env_file)
            vault = vault_of(ready)
        changes = changes_of(places, files, manifest, take_all=arguments.settings)
        coming = {name: files[name] for name in changes if name.startswith("secrets/")}
        revoked.refuse(node.root / "secrets", coming, "the backup")
        if home.SETTINGS in changes:
            refuse_plain(node.root, files[home.SETTINGS], "the backup")
        kept = sorted(
            name
            for name, content in home.read_all(places).items()
            if name not in changes and files.get(name, content) != content
        )
        if vault and f"secrets/{KEY}" in changes:
            name = f"secrets/{vault.at_rest.name}"
            changes = sorted({*changes, name})
            if not arguments.dry_run:
                files[name] = at_rest(vault, files[f"secrets/{KEY}"].decode().strip(), arguments)
    except BaseException:
        drop_staged(restoring)
        raise
    if arguments.dry_run:
        return summary("Would restore", manifest, changes, kept, {})
    has_new_store = bool(restoring.staged) and not restoring.staged["already"]
    if not changes and not has_new_store:
        start(node)
        wait_until_well(node)
        finish(node, list(places.values()))
        return f"The node is as this backup already: nothing was changed ({describe(manifest)})."
    put_in_place(restoring, places, changes, files, has_new_store=has_new_store)
    return summary("Restored", manifest, changes, kept, restoring.staged)


def places_of(node: Node, env_file: Path) -> dict[str, Path]:
    """Where each file lies that may be replaced, by its name. Raises CannotLook."""
    places = home.files_of(node, env_file)
    if vault := vault_of(node):
        places[f"secrets/{vault.at_rest.name}"] = vault.at_rest
    return places


def at_rest(vault: Vault, key: str, arguments: argparse.Namespace) -> bytes:
    """The backup's key as it is to lie on this disk. Raises CannotDo."""
    if vault.kind != PASSPHRASE:
        return vault.sealed(key)
    say("the store comes with its own key: a passphrase for that")
    return vault.wrapped(key, new_passphrase(arguments.store_passphrase_file))


def read(restoring: Restoring) -> tuple[Manifest, dict[str, bytes]]:
    """Read all of the backup; its store is staged on the way. Raises CannotDo."""
    arguments, memory = restoring.arguments, restoring.node.tools.memory
    if arguments.backup == STDIN:
        return archive.read(sys.stdin.buffer, restoring.take_store)
    passphrase: Passphrase | None = passphrase_for(arguments.backup, arguments.passphrase_file)
    with opened_file(arguments.backup) as opened, unsealed(opened, passphrase, memory) as stream:
        return archive.read(stream, restoring.take_store)


def check_schema(keeper: Keeper, manifest: Manifest) -> None:
    """Raises CannotDo where the images that are here do not know such a store yet."""
    known = keeper.schema()
    if manifest.schema > known:
        raise CannotDo(
            f"its store is of version {manifest.schema}, and the images here know {known}: "
            f"bring those of {manifest.version} here first"
        )


def changes_of(
    places: Mapping[str, Path], files: Mapping[str, bytes], manifest: Manifest, *, take_all: bool
) -> list[str]:
    """Which settings and secrets will become those of the backup."""
    there = home.read_all(places)
    return sorted(
        name
        for name, content in files.items()
        if name in places
        and there.get(name) != content
        and (
            name not in there
            or take_all
            or (name == f"secrets/{KEY}" and manifest.store is not None)
        )
    )


def put_in_place(
    restoring: Restoring,
    places: Mapping[str, Path],
    changes: list[str],
    files: Mapping[str, bytes],
    *,
    has_new_store: bool,
) -> None:
    """Replace what is to be replaced, and start; if that fails, put all of it back.

    Raises CannotDo.
    """
    paths = [places[name] for name in changes]
    with restoring.ready(files) as ready, unmended(ready):
        try:
            keeper = keeper_of(ready) if has_new_store else None
            if keeper:
                stop(ready, keeper.service)
            for name in changes:
                home.put(ready, name, places[name], files[name])
            if keeper:
                keeper.commit()
            node = node_anew(restoring.node)
            say("starting; that may take minutes")
            start(node, anew=bool(changes))
            wait_until_well(node)
        except BaseException:
            say("that failed: putting back what was there")
            go_back(node_anew(restoring.node), paths)
            raise
    finish(node, paths)


def finish(node: Node, paths: list[Path]) -> None:
    """Remove what was kept. Raises CannotDo."""
    if keeper := keeper_of(node):
        keeper.done()
    home.finish(paths)


def settle_interrupted(node: Node, env_file: Path) -> None:
    """Put back what an earlier call has replaced and not brought to its end, unless it is in use.

    Raises CannotDo.
    """
    paths = list(places_of(node, env_file).values())
    if not any(home.kept_beside(path).exists() for path in paths):
        return
    if is_in_use(node):
        say("an earlier call was interrupted when its store was in use: it stays")
        start(node)
        finish(node, paths)
        return
    say("an earlier call was interrupted: putting back what was there")
    go_back(node, paths)


def is_in_use(node: Node) -> bool:
    """Whether a store that took another one's place is at work: to go back would lose messages."""
    keeper, container = keeper_of(node), node.containers.get(node.kind.keeper)
    return bool(keeper and container and is_well(container) and keeper.has_kept())


def go_back(node: Node, paths: list[Path]) -> None:
    """Put back files and store, and start what was there. Raises CannotDo."""
    with contextlib.suppress(CannotDo, CannotLook):
        if node.kind.keeper:
            stop(node, node.kind.keeper)
    with contextlib.suppress(CannotDo, CannotLook):
        # By its present settings: those that come back may name another image.
        if keeper := keeper_of(node):
            keeper.undo()
    home.undo(paths)
    with contextlib.suppress(CannotDo, CannotLook):
        start(node_anew(node), anew=True)


def drop_staged(restoring: Restoring) -> None:
    """Leave nothing of a store that did not come whole."""
    if restoring.staged and not restoring.staged["already"]:
        with contextlib.suppress(CannotDo, CannotLook):
            if keeper := keeper_of(restoring.node):
                keeper.undo()


def with_env_file(node: Node, old: Path, new: Path) -> Node:
    """The same node, with the settings of another file."""
    options = tuple(str(new) if word == str(old) else word for word in node.options)
    if options == node.options:
        options = ("--env-file", str(new), *options)
    return Node(node.kind, node.tools, node.root, options, tuple(map(str, node.files)))


def node_anew(node: Node) -> Node:
    """The same node, which asks for everything again."""
    return Node(node.kind, node.tools, node.root, node.options, tuple(map(str, node.files)))


def summary(
    verb: str, manifest: Manifest, changes: list[str], kept: list[str], staged: Mapping[str, Any]
) -> str:
    """What was done, or would be."""
    lines = [f"{verb} {describe(manifest)}."]
    lines.append(f"Settings and secrets that change: {', '.join(changes) or 'none'}.")
    if kept:
        lines.append(
            f"Others than in the backup, and kept: {', '.join(kept)} (--settings takes its own)."
        )
    if staged and not staged["already"]:
        lines.append(
            f"Asks that go on: {staged['asks']}; whose users are asked whether to try again: "
            f"{staged['put']}; complete replies left out: {staged['left_out']}."
        )
    return "\n".join(lines)
