"""Reads the small files that services keep in memory for whoever looks after the node.

What runs in a container chooses what its files are: a link, a pipe without an end, anything. Only a
small regular file is believed, and of it only lines of a name and a number.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from scripts.node.node import Container, Node
from scripts.node.tools import CannotLook

MOST_BYTES = 4096
SECONDS = 10.0


def read_sign(node: Node, container: Container, path: str) -> dict[str, int]:
    """The NAME=NUMBER lines of a file; the numbers of a name that comes twice are added up.

    Raises CannotLook.
    """
    numbers: dict[str, int] = {}
    text = read_small(node, container, path)
    for name, number in re.findall(r"^([a-z0-9_]+)=([0-9]{1,15})$", text, re.MULTILINE):
        numbers[name] = numbers.get(name, 0) + int(number)
    return numbers


def read_small(node: Node, container: Container, path: str) -> str:
    """The first bytes of a file: by the host, which starts no process, else by the container's cat.

    Raises CannotLook.
    """
    if node.tools.is_root:
        return _read_here(node.tools.proc / f"{container.pid}/root{path}")
    said = node.tools.run("docker", "exec", container.id, "cat", path, seconds=SECONDS)
    if said.code != 0:
        raise CannotLook(f"{path} of {container.name} cannot be read ({said.why})")
    return said.out[:MOST_BYTES]


def _read_here(file: Path) -> str:
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CannotLook(f"{file} cannot be read ({error.strerror})") from None
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise CannotLook(f"{file} is no ordinary file")
        return os.read(opened, MOST_BYTES).decode("utf-8", "replace")
    finally:
        os.close(opened)
