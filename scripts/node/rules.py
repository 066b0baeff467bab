"""Owns the rulesets of a node: what stands in a namespace, and what its entrypoint would load.

The golden ruleset comes from the entrypoint of the same image with the settings of the Compose
files: it runs in a throwaway container without a network, up to where the rules are loaded.
"""

from __future__ import annotations

import re

from scripts.node.node import Container, Node
from scripts.node.tools import CannotLook

LOAD_AND_PRINT = r"""
set -euo pipefail
# The entrypoint's functions, without its last line, which calls them.
source <(grep -vx 'main "\$@"' "$(command -v "$1")")
eval "loading_$(declare -f load_rules)"
load_rules() {
  loading_load_rules "$@"
  for family in inet netdev; do nft --stateless list table "$family" node 2>/dev/null || true; done
  exit 0 # no further than the rules
}
outside_interfaces() { echo '{ "lo" }'; } # stands for those outside, which are put in its place
require_key() { :; } # keys are no part of the rules, and stay where they are
require_key_file() { :; }
main
"""


def standing_rules(node: Node, container: Container) -> str:
    """This project's tables as they are in a container's namespace. Raises CannotLook."""
    found = ""
    for family in ("inet", "netdev"):
        said = node.execute(container, "nft", "--stateless", "list", "table", family, "node")
        if said.code == 0:
            found += said.out
        elif "No such file" not in said.err:
            raise CannotLook(f"nft in {container.name} does not answer ({said.why})")
    return without_learnt(found)


def other_tables(node: Node, container: Container) -> list[str]:
    """Tables that are not this project's."""
    said = node.execute(container, "nft", "list", "tables")
    lines = [line.removeprefix("table ") for line in said.out.splitlines()]
    return [line for line in lines if line not in ("inet node", "netdev node")]


def golden_rules(node: Node, service: str, container: Container) -> str:
    """What a service's entrypoint loads, by the Compose files' settings. Raises CannotLook.

    Loaded once for each container: a look does not change what is wanted.
    """
    if container.id not in node.golden:
        node.golden[container.id] = load_golden_rules(node, service, container)
    return node.golden[container.id]


def load_golden_rules(node: Node, service: str, container: Container) -> str:
    settings = node.services[service].get("environment") or {}
    command = container.raw["Config"]["Cmd"] or []
    if not command:
        raise CannotLook(f"{service} has no entrypoint that loads rules")
    said = node.tools.run(
        *("docker", "run", "--rm", "--interactive", "--network=none", "--pull=never"),
        *("--cap-drop=ALL", "--cap-add=NET_ADMIN", "--security-opt=no-new-privileges:true"),
        *("--read-only", "--tmpfs=/run:size=1m,noexec,nosuid,nodev", "--memory=64m"),
        f"--label={THROWAWAY}",
        *(f"--env={name}={value}" for name, value in settings.items() if value is not None),
        *("--entrypoint=bash", container.image, "-s", str(command[0])),
        stdin=LOAD_AND_PRINT,
    )
    if said.code != 0 or "table inet node" not in said.out:
        raise CannotLook(f"the rules of {service} could not be loaded for comparison ({said.why})")
    return without_learnt(said.out.replace('device "lo"', devices(node, container)))


THROWAWAY = "node-check=throwaway"
"""The label of containers that are removed at once."""


def devices(node: Node, container: Container) -> str:
    """A container's interfaces that lead out of it, as nft prints those of a chain."""
    inside = {"lo", "wg0", "wg-new", "hop-new"}
    names = [f'"{it}"' for it in sorted(interfaces(node, container) - inside)] or ['"lo"']
    return f"device {names[0]}" if len(names) == 1 else f"devices = {{ {', '.join(names)} }}"


def interfaces(node: Node, container: Container) -> set[str]:
    """Every interface in a container's namespace. Raises CannotLook."""
    lines = node.read(container, "/proc/self/net/dev").splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines if ":" in line}


def without_learnt(rules: str) -> str:
    """A listing without what the kernel itself puts into dynamic sets."""
    kept = []
    for block in re.split(r"(?m)^(?=\tset )", rules):
        learns = re.match(r"\tset [^\n]*\n(?:[^}]*\n)?\t\tflags [^\n]*dynamic", block)
        kept.append(re.sub(r"\t\telements = \{[^}]*\}\n", "", block) if learns else block)
    return "".join(kept)


def refusals(node: Node, container: Container) -> dict[str, int]:
    """Packets that each of a ruleset's counters has seen. Raises CannotLook."""
    said = node.execute(container, "nft", "list", "counters", "table", "inet", "node")
    if said.code != 0:
        raise CannotLook(f"the counters of {container.name} cannot be read ({said.why})")
    found = re.findall(r"counter (\w+) \{\s*packets (\d+)", said.out)
    return {name: int(packets) for name, packets in found}


def permitted_networks(rules: str) -> list[str]:
    """The networks of the set that the way to Telegram is limited to."""
    found = re.search(r"set telegram \{[^}]*elements = \{([^}]*)\}", rules)
    return re.findall(r"[\d./]+(?:-[\d.]+)?", found.group(1)) if found else []
