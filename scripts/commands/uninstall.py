"""Removes this node from this machine: containers, networks, volumes, images, units, its folder.

Everything is listed first, and looked for again at the end. With --keep-store the store's volume
stays, with the settings and secrets that open it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.harden.settings import HOME
from scripts.harden.snapshot import PENDING
from scripts.lifecycle import CannotDo
from scripts.lifecycle.images import aside
from scripts.lifecycle.lock import vault_of
from scripts.lifecycle.running import alone, say
from scripts.node.arguments import add_node_arguments, node_of
from scripts.node.node import Node
from scripts.node.tools import CannotLook, Tools

ABOUT = "remove this node from this machine, and see that nothing is left"

EXIT_STATUS = {
    0: "nothing is left of it, or nothing was there",
    1: "something is left and named, it could not look, or nobody agreed",
}
FILES = {
    "/opt/NAME": "the node's folder; removed",
    "/etc/systemd/system/node*": "its units; removed",
}

EXAMPLES = """\
examples:
  %(prog)s --dry-run      lists what would be removed
  %(prog)s                lists it, asks, removes it, and looks for it again
  %(prog)s --keep-store   all but the store and what opens it"""

COULD_NOT = 1
UNITS = Path("/etc/systemd/system")
OPT = Path("/opt")
HARDENED = Path(HOME)
TEMPLATES = (
    "node@.service", "node-reconcile@.service", "node-reconcile@.timer", "node-seal@.service",
    "node-seal@.timer", "node-seal-last@.service", "node-key@.service",
)  # fmt: skip
STAYS = """\
What this command leaves: Docker itself, its build cache (`docker builder prune`) and images that
others use; what was set up on the machine around it (firewall, SSH, updates): where `harden` did
that, `harden --undo` first, since its maintenance window ends with this folder; the journal, and
where it is sealed, its settings (`logs seal --undo` first) and /var/log/node-sealed; backups; keys
and bundles in the folder `nodes` where `init` ran. The bot stays at Telegram until BotFather
deletes it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES % {"prog": parser.prog}
    add_node_arguments(parser)
    parser.add_argument("--keep-store", action="store_true", help="keep it, and what opens it")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only list")


def run(arguments: argparse.Namespace) -> int:
    tools = Tools()
    try:
        node = node_of(arguments, tools)
        with alone(node.root):
            return uninstall(arguments, node)
    except (CannotDo, CannotLook) as why:
        print(f"Not removed: {why}.", file=sys.stderr)
        return COULD_NOT


@dataclass(frozen=True)
class Kind:
    """One kind of what a node leaves on a machine."""

    name: str
    find: Callable[[], list[str]]
    remove: Callable[[list[str]], None]


def uninstall(arguments: argparse.Namespace, node: Node) -> int:
    """List, ask, remove, look again. Returns the exit status. Raises CannotDo, CannotLook."""
    if why := node.why_unreadable:
        print(
            f"Compose cannot read this node's files ({why}): its images are not found then, and "
            "its volumes only as far as Compose made them. Mend that first, or look yourself."
        )
    if (HARDENED / PENDING).exists():
        raise CannotDo(
            "a run of `harden` waits to be confirmed, and could not be taken back without what "
            "lies here: `harden confirm` or `harden rollback` first"
        )
    kinds = kinds_of(node, keeps_store=arguments.keep_store)
    found = {kind.name: kind.find() for kind in kinds}
    for name, items in found.items():
        print(f"{name}: {', '.join(items) or 'none'}")
    if backups := [path.name for path in node.root.glob("*.gpg") if found["files"]]:
        print(f"In that folder, and going with it: {', '.join(backups)}. Move them away first.")
    print(f"\n{STAYS}\n")
    if not any(found.values()):
        print("There is nothing to remove.")
        return 0
    if arguments.dry_run:
        return 0
    if not arguments.yes:
        confirm(node.kind.name, keeps_store=arguments.keep_store or not node.kind.keeper)
    os.chdir("/")  # this folder may be among what goes
    for kind in kinds:
        if items := found[kind.name]:
            say(f"removing {kind.name}")
            kind.remove(items)
    left = {kind.name: items for kind in kinds if (items := kind.find())}
    for name, items in left.items():
        print(f"Left of {name}: {', '.join(items)}.", file=sys.stderr)
    if left:
        print("Not all is gone: see why with `docker rm` and the like, and call this again.")
        return COULD_NOT
    print("Looked again: nothing of that is left.")
    return 0


def confirm(name: str, *, keeps_store: bool) -> None:
    """Raises CannotDo unless somebody types the node's name."""
    if not sys.stdin.isatty():
        raise CannotDo("nobody is there to ask: give --yes")
    what = "all of the above" if keeps_store else "all of the above, every conversation included"
    if input(f"This removes {what}. Type `{name}` to go on: ").strip() != name:
        raise CannotDo("that was another word: nothing was changed")


def kinds_of(node: Node, *, keeps_store: bool) -> list[Kind]:
    """What to look for, in the order in which it can go."""
    ask, tools, project = node.ask, node.tools, project_of(node)
    label = f"label=com.docker.compose.project={project}"
    # Asked once, now: the Compose file that names them goes in the end.
    volume_names, image_names = named_volumes(node), named_images(node)
    kept = store_of(node) if keeps_store else ""

    def containers() -> list[str]:
        return ask("docker", "ps", "-a", "--filter", label, "--format", "{{.Names}}").split()

    def networks() -> list[str]:
        return ask("docker", "network", "ls", "--filter", label, "--format", "{{.Name}}").split()

    def volumes() -> list[str]:
        labelled = ask("docker", "volume", "ls", "--filter", label, "--format", "{{.Name}}").split()
        there = ask("docker", "volume", "ls", "--format", "{{.Name}}").split()
        named = [name for name in volume_names if name in there]
        return sorted({*labelled, *named} - {kept})

    def images() -> list[str]:
        listed = ask("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
        form = '{{.Image}} {{.Label "com.docker.compose.project"}}'
        users = [line.split() for line in ask("docker", "ps", "-a", "--format", form).splitlines()]
        elsewhere = {image for image, *of in users if of != [project]}
        return [name for name in image_names if name in listed and name not in elsewhere]

    def remove_by(*command: str) -> Callable[[list[str]], None]:
        return lambda items: none_of(tools.run("docker", *command, *items, seconds=300))

    def stop_units(items: list[str]) -> None:
        tools.run("systemctl", "disable", "--now", *items, seconds=120)
        tools.run("systemctl", "reset-failed", *items)

    def remove_templates(items: list[str]) -> None:
        for item in items:
            Path(item).unlink(missing_ok=True)
        tools.run("systemctl", "daemon-reload")

    return [
        Kind("units", lambda: units_of(tools, project), stop_units),
        Kind("containers", containers, remove_by("rm", "--force", "--volumes")),
        Kind("networks", networks, remove_by("network", "rm")),
        Kind("volumes", volumes, remove_by("volume", "rm")),
        Kind("images", images, remove_by("image", "rm")),
        Kind("unit files", lambda: templates_of(project), remove_templates),
        Kind("files in memory", lambda: remembered(node), remove_paths),
        Kind("files", lambda: files_of(node, keeps_store=keeps_store), remove_paths),
    ]


def none_of(_: object) -> None:
    """Whether it did what it should is seen at the end."""


def project_of(node: Node) -> str:
    """The Compose project, also where its settings cannot be read any more."""
    with contextlib.suppress(CannotLook):
        return node.project
    return node.kind.name


def named_volumes(node: Node) -> list[str]:
    """Volumes that the Compose file names: one that was made by hand bears no label."""
    with contextlib.suppress(CannotLook):
        return [str(volume["name"]) for volume in (node.config.get("volumes") or {}).values()]
    return []


def named_images(node: Node) -> list[str]:
    """The images that the node's services want, and those that an upgrade has put aside."""
    found: dict[str, None] = {}
    with contextlib.suppress(CannotLook):
        for service in node.services.values():
            name = str(service["image"])
            found |= {name: None, aside(name): None}
    return list(found)


def store_of(node: Node) -> str:
    """The store's volume. Raises CannotDo, CannotLook."""
    if not node.kind.keeper:
        raise CannotDo("this kind of node keeps no store: leave out --keep-store")
    return str(node.config["volumes"][node.kind.store]["name"])


def units_of(tools: Tools, project: str) -> list[str]:
    """The instances for this node that systemd starts or runs."""
    names = [
        f"node@{project}.service",
        f"node-reconcile@{project}.timer",
        f"node-seal@{project}.timer",
        f"node-seal-last@{project}.service",
        f"node-key@{project}.service",
    ]
    return [
        name
        for name in names
        if tools.run("systemctl", "is-active", "--quiet", name).code == 0
        or tools.run("systemctl", "is-enabled", "--quiet", name).code == 0
    ]


def templates_of(project: str) -> list[str]:
    """The unit files, unless another node on this machine needs them."""
    own = f"node@{project}.service"
    if any(path.name != own for path in UNITS.glob("*.wants/node@*.service")):
        return []
    return [str(UNITS / name) for name in TEMPLATES if (UNITS / name).exists()]


def remembered(node: Node) -> list[str]:
    """What `doctor` keeps in memory from one look to the next, and the store's key."""
    paths = [node.tools.memory / "node-check" / f"{project_of(node)}.json"]
    with contextlib.suppress(CannotLook):
        if vault := vault_of(node):
            paths.append(vault.in_memory.parent)
    return [str(path) for path in paths if path.exists()]


def files_of(node: Node, *, keeps_store: bool) -> list[str]:
    """The node's folder, or all in it but what opens the store."""
    root = node.root
    if not root.is_dir() or (root / "scripts/commands/init.py").exists():
        return []  # no bundle: a checkout is its owner's own
    if keeps_store:
        return sorted(str(path) for path in root.iterdir() if path.name not in (".env", "secrets"))
    link = OPT / node.kind.name
    leads_here = link.is_symlink() and link.resolve() == root
    return [*([str(link)] if leads_here else []), str(root)]


def remove_paths(items: list[str]) -> None:
    for item in map(Path, items):
        if item.is_symlink() or item.is_file():
            item.unlink(missing_ok=True)
        else:
            shutil.rmtree(item, ignore_errors=True)
