"""Checks that a crash writes nobody's words to a disk."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, ok, warning
from scripts.node.node import Node
from scripts.node.tools import CannotLook

PIPED = warning(
    "core-piped",
    "Core dumps are piped to `{command}`, which ignores the containers' limit of 0.",
    "Set `kernel.core_pattern=core` in /etc/sysctl.d (and remove what collects crashes, such as "
    "apport or systemd-coredump).",
)


def look(node: Node) -> Iterator[Finding]:
    try:
        pattern = (node.tools.proc / "sys/kernel/core_pattern").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CannotLook(f"the core pattern cannot be read ({error.strerror})") from None
    if pattern.startswith("|"):
        yield PIPED.found(command=pattern[1:].split()[0])
    else:
        yield ok("A crash leaves no core dump of a container.")


CHECK = Check(
    "core dumps",
    "Whether the host collects core dumps in spite of the containers' limit.",
    (PIPED,),
    look,
)
