"""Owns what is asked of images before they are used: whether they are here, and what they speak."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from scripts.lifecycle import CannotDo
from scripts.node.node import Node
from scripts.node.tools import Tools

ASIDE = "before-upgrade"
"""The tag under which an image stays that another one takes the place of."""

HEARD = "/tmp/wire"
"""Where a service of either node notes which version of the wire it last spoke with the other."""


@dataclass(frozen=True)
class Facts:
    """What an image of the service that speaks with the other node can do."""

    wire: int
    """The version of the wire that it speaks."""
    spoken: frozenset[int]
    """All that it understands."""
    schema: int
    """The newest version of the store that it knows; 0 where there is none."""


@dataclass(frozen=True)
class Used:
    """The image that a container runs on."""

    service: str
    name: str
    id: str

    @property
    def aside(self) -> str:
        """Another name of it, that a newer one does not take."""
        return aside(self.name)


def aside(name: str) -> str:
    """The name that an image has while another one may have its own."""
    name = name.partition("@")[0]
    repository, _, tag = name.rpartition(":")
    return f"{repository if repository and '/' not in tag else name}:{ASIDE}"


def id_of(tools: Tools, image: str) -> str:
    """An image's id; nothing where it is not here."""
    said = tools.run("docker", "image", "inspect", "--format", "{{.Id}}", image)
    return said.out.strip() if said.code == 0 else ""


def facts_of(node: Node, image: str) -> Facts:
    """Ask an image, in a container without a network. Raises CannotDo."""
    if not node.kind.speaks:
        return Facts(0, frozenset(), 0)
    program = "import json, services.wire as w; schema = 0\n"
    if node.kind.keeper:
        program += f"from services.{node.kind.keeper}.schema import MIGRATIONS as m\n"
        program += "schema = len(m)\n"
    program += "print(json.dumps([w.VERSION, sorted(w.SPOKEN), schema]))"
    command = ["docker", "run", "--rm", "--pull=never", "--network=none", "--read-only"]
    command += ["--cap-drop=ALL", "--security-opt=no-new-privileges:true", "--log-driver=none"]
    said = node.tools.run(*command, "--entrypoint=python3", image, "-c", program)
    try:
        told: Any = json.loads(said.out)
        return Facts(int(told[0]), frozenset(map(int, told[1])), int(told[2]))
    except (ValueError, TypeError, IndexError):
        raise CannotDo(
            f"the image {image} does not say what it speaks ({said.why}): load it anew"
        ) from None


def used_by(node: Node) -> list[Used]:
    """The images that the node's containers run on. Raises CannotLook."""
    return [
        Used(service, str(container.raw["Config"]["Image"]), container.image)
        for service, container in sorted(node.containers.items())
    ]


def heard_version(node: Node) -> int | None:
    """Which version of the wire the other node was last heard to speak; None if nobody knows."""
    container = node.running.get(node.kind.mark)
    said = node.execute(container, "cat", HEARD).out.strip() if container else ""
    return int(said) if said.isdigit() and len(said) < 6 else None


def check_wire(node: Node, old: Facts, new: Facts) -> str:
    """What the nodes will speak, for a sentence; nothing where this one does not speak.

    Raises CannotDo where they would not understand each other.
    """
    if not node.kind.speaks:
        return ""
    heard = heard_version(node)
    speaks = heard if heard is not None else old.wire
    spoken = f"{min(new.spoken)} to {max(new.spoken)}"
    if speaks not in new.spoken:
        who = "the other node was last heard with" if heard is not None else "this node speaks"
        raise CannotDo(
            f"{who} version {speaks} of the wire, and the new images speak {spoken}: upgrade the "
            "other node first, or go through the release in between"
        )
    seen = "as heard from the other node" if heard is not None else "the other node was not heard"
    return f"wire {speaks} of {spoken}, {seen}"
