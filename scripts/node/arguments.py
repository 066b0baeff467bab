"""Owns how a node is named on the command line, and which one is meant when it is not."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from scripts.node.kinds import Kind, kinds
from scripts.node.node import Node
from scripts.node.tools import CannotLook, Tools

ROOT = Path(__file__).resolve().parents[2]


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    known = sorted(kinds())
    group = parser.add_argument_group("the node", "As Docker Compose is called for it.")
    group.add_argument("--node", choices=known, help="which kind; found out where it is clear")
    group.add_argument("-p", "--project-name", metavar="PROJECT", help="the file's own by default")
    group.add_argument("-f", "--file", action="append", default=[], metavar="FILE")
    group.add_argument("--env-file", action="append", default=[], metavar="FILE")
    group.add_argument("--project-directory", metavar="FOLDER")


def node_of(arguments: argparse.Namespace, tools: Tools) -> Node:
    """The node that the arguments mean. Raises CannotLook where they leave it open."""
    options: list[str] = []
    if arguments.project_name:
        options += ["-p", arguments.project_name]
    for file in arguments.env_file:
        options += ["--env-file", file]
    if arguments.project_directory:
        options += ["--project-directory", arguments.project_directory]

    def make(kind: Kind) -> Node:
        files = tuple(arguments.file) or files_of(arguments.env_file, kind)
        node = Node(kind, tools, ROOT, tuple(options), files)
        node.follows = not arguments.file and not arguments.env_file
        return node

    if arguments.node:
        return make(kinds()[arguments.node])
    here = [
        kind
        for kind in kinds().values()
        if kind.file in {Path(file).name for file in arguments.file}
        or (not arguments.file and (ROOT / kind.file).exists())
    ]
    if len(here) > 1:
        here = [kind for kind in here if runs_here(kind, tools)] or here
    if len(here) == 1:
        return make(here[0])
    raise CannotLook("which node is meant is not clear: give --node")


def files_of(env_files: Sequence[str], kind: Kind, root: Path | None = None) -> tuple[str, ...]:
    """The Compose files that COMPOSE_FILE in .env names, as Compose itself would take them.

    `root` is where they lie, if not here. None where it says nothing of this kind's own file, or
    cannot be read.
    """
    named, root = "", root or ROOT
    for file in env_files or [str(root / ".env")]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = Path(file).read_text(encoding="utf-8")
            for match in re.finditer(r"^COMPOSE_FILE=(\S+)\s*$", text, re.MULTILINE):
                named = match[1]
    files = named.split(":")
    return tuple(str(root / file) for file in files) if kind.file in files else ()


def runs_here(kind: Kind, tools: Tools) -> bool:
    label = f"label=com.docker.compose.service={kind.mark}"
    return bool(tools.run("docker", "ps", "-q", "--filter", label).out.strip())
