"""Upgrades this node to a new bundle, or to images that were loaded, and goes back if that fails.

Messages wait at Telegram meanwhile: the new store is opened, and if need be brought to its new
form, before the tunnel is let in again, so that until then going back loses nothing. The other node
goes on as it is; upgrade it afterwards. Where nothing is stored, all containers are exchanged at
once, and go back if they do not run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from scripts.journal.setup import refuse_plain
from scripts.lifecycle import CannotDo, home, revoked
from scripts.lifecycle.images import Facts, Used, check_wire, facts_of, id_of, used_by
from scripts.lifecycle.keeper import KEY, Keeper
from scripts.lifecycle.lock import lock_of, refuse_locked, vault_of
from scripts.lifecycle.running import (
    alone,
    compose,
    is_well,
    say,
    shown,
    start,
    stop,
    unmended,
    wait_until_well,
)
from scripts.node.arguments import add_node_arguments, files_of, node_of
from scripts.node.node import UPLINK, Node
from scripts.node.tools import CannotLook, Tools

ABOUT = "upgrade this node to a new bundle or to new images, and go back if that fails"

EXIT_STATUS = {
    0: "the node runs with what is new, or had it already",
    1: "it does not: files, images and store are what they were",
}
FILES = {
    ".env, secrets/, Compose files": "replaced by those of the archive",
    "/etc/systemd/system/node*": "the units; the same",
}

EXAMPLES = """\
examples:
  %(prog)s NODE.tar --dry-run   checks the bundle and its images, and says what would change
  %(prog)s NODE.tar             its images are loaded already (docker load)
  %(prog)s NODE.tar --build     builds them first, while the node goes on
  %(prog)s                      the files are as they are; newer images were loaded"""

COULD_NOT = 1
WORK = ".upgrade"
UNITS = Path("/etc/systemd/system")
MOST_BYTES = 256 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES % {"prog": parser.prog}
    add_node_arguments(parser)
    parser.add_argument("bundle", type=Path, nargs="?", metavar="FILE",
                        help="the node's archive, as `init` writes it")  # fmt: skip
    parser.add_argument("--build", action="store_true", help="build the new images first")
    parser.add_argument("--dry-run", action="store_true", help="check all, change nothing")


def run(arguments: argparse.Namespace) -> int:
    tools = Tools()
    try:
        node = node_of(arguments, tools)
        with alone(node.root):
            print(upgrade(arguments, node))
    except (CannotDo, CannotLook) as why:
        print(f"Not upgraded: {why}.", file=sys.stderr)
        return COULD_NOT
    return 0


@dataclass
class Upgrade:
    """One upgrade, written down before it begins, so that the next call knows of it."""

    work: Path
    files: dict[str, str] = field(default_factory=dict)
    """Those that are replaced: by their path in `work`/new, their path on this machine."""
    added: list[str] = field(default_factory=list)
    """Those that were not there before."""
    images: list[Used] = field(default_factory=list)
    """Those that were in use before."""
    migrates: bool = False
    """Whether the new images bring the store to a new form."""
    is_open: bool = False
    """Whether messages may have come in since: then the store does not go back."""
    is_over: bool = False
    """Whether only what was kept is still to be removed."""

    def write_down(self) -> None:
        told = {**asdict(self), "work": str(self.work)}
        part = self.work / "state.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(told, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.work / "state.json")

    @staticmethod
    def read(work: Path) -> Upgrade | None:
        """The one that an earlier call has begun; None if there is none. Raises CannotDo."""
        try:
            told = json.loads((work / "state.json").read_text(encoding="utf-8"))
            images = [Used(**image) for image in told.pop("images")]
            return Upgrade(**{**told, "work": work, "images": images})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            raise CannotDo(
                f"{work} is damaged: compare what is in it with the node, then remove it"
            ) from None


def upgrade(arguments: argparse.Namespace, node: Node) -> str:
    """Check, then change, then go back if need be. Returns what was done. Raises CannotDo."""
    work = node.root / WORK
    refuse_locked(node)
    if not arguments.dry_run:
        settle_interrupted(node, work)
    elif Upgrade.read(work):
        raise CannotDo("an earlier upgrade was interrupted: call this without --dry-run first")
    with clean(work):
        staged = stage(node, work / "new", arguments.bundle)
        if arguments.build:
            if arguments.dry_run:
                raise CannotDo("--build changes the images: leave it out with --dry-run")
            say("building the images; the node goes on")
            compose(staged, "build", seconds=7200)
        images = used_by(node)
        changed = changed_images(staged, images)
        files = changed_files(node, work / "new") if arguments.bundle else {}
        check_key(node, files, work / "new")
        check_lock(node, work / "new")
        check_revoked(node, work / "new", str(arguments.bundle))
        if (settings := work / "new/.env").is_file():
            refuse_plain(node.root, settings.read_bytes(), str(arguments.bundle))
        if not changed and not files:
            return "The node runs on these files and images already: nothing was changed."
        old, new = facts_before_and_after(node, staged, images)
        wire = check_wire(node, old, new)
        if new.schema < old.schema:
            raise CannotDo(
                f"the node's store is of version {old.schema}, and the new images know "
                f"{new.schema}: take newer ones, or restore a backup of their time"
            )
        if new.schema > old.schema:
            refuse_kept(node, images)
        what = plan(changed, files, wire, old, new)
        if arguments.dry_run:
            return f"Would change {what}"
        begun = Upgrade(work, files, [], images, new.schema > old.schema)
        carry_out(node, begun, staged)
        return f"Changed {what}"


@contextlib.contextmanager
def clean(work: Path) -> Iterator[None]:
    """Leave no work folder behind, unless something that is still needed is in it."""
    try:
        yield
    finally:
        if not (work / "state.json").exists():
            shutil.rmtree(work, ignore_errors=True)


def stage(node: Node, folder: Path, bundle: Path | None) -> Node:
    """The node as it will be: unpacked beside it, or as it is. Raises CannotDo."""
    if bundle is None:
        return Node(node.kind, node.tools, node.root, node.options, tuple(map(str, node.files)))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    unpack(bundle, folder, node.kind.name)
    if not (folder / node.kind.file).exists():
        raise CannotDo(f"{bundle} is no bundle of a {node.kind.name} node: take the other one")
    files = files_of([str(folder / home.SETTINGS)], node.kind, folder) if node.follows else ()
    return Node(node.kind, node.tools, folder, ("-p", node.project), files)


def unpack(bundle: Path, folder: Path, name: str) -> None:
    """Unpack a bundle; files of the system go to `folder`/units. Raises CannotDo."""
    places: dict[tuple[str, ...], Path] = {
        ("opt", name): folder,
        ("etc", "systemd", "system"): folder / "units",
    }
    total = 0
    try:
        with tarfile.open(bundle, mode="r:") as archive:
            for entry in archive:
                parts = PurePosixPath(entry.name).parts
                start = next((it for it in places if parts[: len(it)] == it), None)
                if start is None or ".." in parts or not (entry.isreg() or entry.isdir()):
                    raise CannotDo(
                        f"{bundle} has {entry.name!r} in it: it is no bundle of this node"
                    )
                target = places[start].joinpath(*parts[len(start) :])
                total += entry.size
                if total > MOST_BYTES:
                    raise CannotDo(f"{bundle} is too large to be a bundle: take another file")
                write_entry(archive, entry, target)
    except (OSError, tarfile.TarError) as error:
        raise CannotDo(f"{bundle} cannot be unpacked ({error}): carry it here again") from None


def write_entry(archive: tarfile.TarFile, entry: tarfile.TarInfo, target: Path) -> None:
    if entry.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = archive.extractfile(entry)
    assert content
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(content, file)
        os.fchmod(file.fileno(), entry.mode & 0o777)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), entry.uid, entry.gid)


def changed_files(node: Node, new: Path) -> dict[str, str]:
    """What the bundle has and the node has not, or has otherwise."""
    found = {}
    for path in sorted(new.rglob("*")):
        name = path.relative_to(new)
        there = UNITS / path.name if name.parts[0] == "units" else node.root / name
        if path.is_file() and not (
            there.is_file()
            and there.read_bytes() == path.read_bytes()
            and there.stat().st_mode == path.stat().st_mode
        ):
            found[str(name)] = str(there)
    return found


def check_key(node: Node, files: dict[str, str], new: Path) -> None:
    """Raises CannotDo where the bundle would close the store for good, or lay its key open."""
    name = f"secrets/{KEY}"
    if name in files and (vault := vault_of(node)):
        raise CannotDo(
            f"the bundle has the store's key as a file, and this node has none on its disk: make "
            f"it with `init --store-key {vault.kind}`"
        )
    there = Path(files.get(name, os.devnull))
    if there.is_file() and there.read_bytes() != (new / name).read_bytes():
        raise CannotDo(
            f"the bundle's secrets/{KEY} is not this node's: make it with the `nodes` folder that "
            "this node's bundle came from"
        )


def check_lock(node: Node, new: Path) -> None:
    """Raises CannotDo where the bundle keeps the store's key in another place than this node."""
    named = files_of([str(new / home.SETTINGS)], node.kind)
    here = lock_of(file.name for file in node.files)
    if named and (there := lock_of(named)) != here:
        raise CannotDo(
            f"the bundle has `--store-key {there}`, and this node `{here}`: change that by "
            "`deploy`, or by hand as `init` prints it, apart from an upgrade"
        )


def check_revoked(node: Node, new: Path, bundle: str) -> None:
    """Raises CannotDo where the bundle is older than a `revoke` that was called here."""
    found = {name: new / "secrets" / name for name in revoked.SHARED}
    secrets = {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    revoked.refuse(node.root / "secrets", secrets, bundle)


def refuse_kept(node: Node, images: list[Used]) -> None:
    """Raises CannotDo where another command has kept a store: going back would take it for ours."""
    name = next(image.id for image in images if image.service == node.kind.keeper)
    if Keeper(node, name).has_kept():
        raise CannotDo(
            "a `restore` was interrupted, and what it replaced is still kept: call it again with "
            "the same backup first"
        )


def changed_images(staged: Node, images: list[Used]) -> list[str]:
    """Names of the images that are to be used and are not yet. Raises CannotDo."""
    used = {image.service: image.id for image in images}
    changed: dict[str, None] = {}
    for service, want in staged.services.items():
        name = str(want["image"])
        found = id_of(staged.tools, name)
        if not found:
            raise CannotDo(f"the image {name} is not here: bring it (`docker load`), or --build")
        if used.get(service) != found:
            changed[name] = None
    return list(changed)


def facts_before_and_after(node: Node, staged: Node, images: list[Used]) -> tuple[Facts, Facts]:
    """Raises CannotDo."""
    mark = node.kind.mark
    before = next((image.id for image in images if image.service == mark), None)
    if before is None:
        raise CannotDo(f"{mark} has no container: start the node first (`docker compose up -d`)")
    new = facts_of(staged, str(staged.services[mark]["image"]))
    return facts_of(node, before), new


def plan(changed: list[str], files: dict[str, str], wire: str, old: Facts, new: Facts) -> str:
    lines = [f"images: {shown(changed)}; files: {shown(sorted(files))}."]
    lines += [f"It speaks {wire}."] if wire else []
    if new.schema > old.schema:
        lines.append(
            f"The store goes from version {old.schema} to {new.schema}, with a copy until it runs."
        )
    return "\n".join(lines)


def carry_out(node: Node, begun: Upgrade, staged: Node) -> None:
    """Change the node; go back if it does not run then. Raises CannotDo."""
    begun.added = [there for there in begun.files.values() if not Path(there).exists()]
    (begun.work / "before").mkdir(mode=0o700, parents=True, exist_ok=True)
    for image in begun.images:
        node.ask("docker", "tag", image.id, image.aside)
    begun.write_down()
    with unmended(node):
        try:
            keeper = keeper_with(node, begun.images)
            if keeper:
                say("messages wait at Telegram from now on")
                stop(node, UPLINK, keeper.service)
            put_files(node, begun)
            bring_up(anew(node), begun, keeper)
        except BaseException:
            give_up(node, begun)
            raise
    discard(anew(node), begun)


def give_up(node: Node, begun: Upgrade) -> None:
    """Go back, unless that would lose messages. Raises CannotDo."""
    if begun.is_open and begun.migrates:
        say("the store is in its new form and in use: the node stays upgraded")
        discard(node, begun)
    else:
        say("that failed: going back to what ran before")
        go_back(anew(node), begun)


def bring_up(node: Node, begun: Upgrade, keeper: Keeper | None) -> None:
    """Start the node as it is now. Raises CannotDo if it does not become well."""
    is_anew = bool(begun.files)
    if keeper is None:
        stop(node, *dependents(node))
        start(node, anew=is_anew)
        wait_until_well(node)
        begun.is_open = True
        begun.write_down()
        return
    # Each half by itself: no message comes in before both are known to run.
    say("starting the tunnel alone")
    start(node, UPLINK, anew=is_anew)
    wait_until_well(node, UPLINK, seconds=120)
    stop(node, UPLINK)
    if begun.migrates:
        say("keeping a copy of the store")
        keeper.keep()
    others = [service for service in node.services if service != UPLINK]
    say("starting the rest; that may take minutes")
    stop(node, *dependents(node))
    start(node, *others, anew=is_anew)
    wait_until_well(node, *others)
    begun.is_open = True
    begun.write_down()
    start(node, UPLINK, anew=True)  # the holder that it was tried in may be another one by now
    wait_until_well(node)


def dependents(node: Node) -> list[str]:
    """Services that end by themselves when another one is made anew, and may then be ending when
    Compose would stop them, which it takes for a failure: stop them first.
    """
    return [name for name, it in node.services.items() if it.get("depends_on")]


def go_back(node: Node, begun: Upgrade) -> None:
    """Bring back files, images and store of before, and start them. Raises CannotDo."""
    with contextlib.suppress(CannotDo, CannotLook):
        compose(node, "stop", "--timeout", "30")
        compose(node, "rm", "--force")  # one that was left half made keeps the name of another
    take_back_files(node, begun)
    for image in begun.images:
        if "@" not in image.name:  # a digest is nobody else's
            node.ask("docker", "tag", image.aside, image.name)
    node = anew(node)
    if begun.migrates and (keeper := keeper_with(node, begun.images)):
        keeper.undo()
    start(node, anew=True)
    wait_until_well(node)
    discard(node, begun)
    say("what ran before runs again")


def refuse_interrupted(node: Node) -> None:
    """Raises CannotDo where an upgrade is to be settled before anything else is changed."""
    if Upgrade.read(node.root / WORK):
        raise CannotDo("an upgrade was interrupted: call `upgrade` first, which settles it")


def settle_interrupted(node: Node, work: Path) -> None:
    """Bring an upgrade that was interrupted to an end: forward where messages came in already.

    Raises CannotDo where it went back, or does not become well.
    """
    begun = Upgrade.read(work)
    if begun is None:
        return
    if begun.is_over:
        discard(node, begun)
        return
    with unmended(node):
        if begun.is_open or is_in_use(node, begun):
            say("an earlier upgrade was interrupted in its last steps: bringing it to its end")
            try:
                bring_to_end(node, begun)
            except BaseException:
                give_up(node, begun)
                raise
            discard(anew(node), begun)
            return
        say("an earlier upgrade was interrupted: going back to what ran before")
        go_back(node, begun)
    raise CannotDo("the earlier upgrade has been taken back: call this again for the new one")


def is_in_use(node: Node, begun: Upgrade) -> bool:
    """Whether messages come into a store of the new form, as after a restart of the machine."""
    keeper = node.running.get(node.kind.keeper)
    before = {image.service: image.id for image in begun.images}
    return (
        begun.migrates
        and UPLINK in node.running
        and keeper is not None
        and is_well(keeper)
        and keeper.image != before.get(keeper.service)
    )


def bring_to_end(node: Node, begun: Upgrade) -> None:
    """Take the steps that are left. Raises CannotDo if the node does not become well."""
    if begun.is_open:
        start(node)
        start(node, UPLINK, anew=True)
    else:
        begun.is_open = True
        begun.write_down()
        put_files(node, begun)
        start(anew(node), anew=True)
    wait_until_well(anew(node))


def put_files(node: Node, begun: Upgrade) -> None:
    """Put the bundle's files in their places; what they replace is kept. Raises CannotDo."""
    try:
        for name, there in begun.files.items():
            source, target = begun.work / "new" / name, Path(there)
            before = begun.work / "before" / name
            if target.exists() and not before.exists():
                before.parent.mkdir(parents=True, exist_ok=True)
                copy_with_owner(target, before)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_with_owner(source, target)
    except OSError as error:
        raise CannotDo(f"{error.filename}: {error.strerror}: run this as root") from None
    reload_units(node, begun)


def take_back_files(node: Node, begun: Upgrade) -> None:
    for name, there in begun.files.items():
        before = begun.work / "before" / name
        if before.exists():
            copy_with_owner(before, Path(there))
    for there in begun.added:
        Path(there).unlink(missing_ok=True)
    reload_units(node, begun)


def reload_units(node: Node, begun: Upgrade) -> None:
    if any(name.startswith("units/") for name in begun.files):
        node.tools.run("systemctl", "daemon-reload")


def copy_with_owner(source: Path, target: Path) -> None:
    """Copy a file as a whole or not at all; nobody else may read it meanwhile."""
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    status = source.stat()
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(source.read_bytes())
        if os.geteuid() == 0:
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)


def discard(node: Node, begun: Upgrade) -> None:
    """Remove what was kept for going back; from here on nothing goes back."""
    begun.is_over = True
    begun.write_down()
    if begun.migrates and (keeper := keeper_with(node, begun.images)):
        with contextlib.suppress(CannotDo, CannotLook):
            keeper.done()
    for image in begun.images:
        node.tools.run("docker", "image", "rm", "--no-prune", image.aside)
    shutil.rmtree(begun.work, ignore_errors=True)


def keeper_with(node: Node, images: list[Used]) -> Keeper | None:
    """The node's keeper, made of the image that was in use before."""
    aside = [image.aside for image in images if image.service == node.kind.keeper]
    return Keeper(node, aside[0]) if aside else None


def anew(node: Node) -> Node:
    """The same node, which asks for everything again, with the files that its settings name now."""
    named = files_of([], node.kind, node.root) if node.follows else ()
    files = named or tuple(map(str, node.files))
    again = Node(node.kind, node.tools, node.root, node.options, files)
    again.follows = node.follows
    return again
