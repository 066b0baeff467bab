"""Closes the store of a node whose key is not on its disk: takes the key out of memory.

The store's keeper is started anew, and waits; users are told that the node is asleep until
`unlock`. What was asked and not answered yet waits in the store.
"""

from __future__ import annotations

import argparse
import sys

from scripts.lifecycle import CannotDo
from scripts.lifecycle.lock import Vault, vault_of
from scripts.lifecycle.running import alone
from scripts.node.arguments import add_node_arguments, node_of
from scripts.node.tools import CannotLook, Tools

ABOUT = "close the store until `unlock`: its key leaves the machine's memory"

EXIT_STATUS = {
    0: "the store is locked",
    1: "it is not, or its keeper still has the key: the reason is said",
}
FILES = {"/run/node-key/store_key": "the key while the store is open; empty while it is locked"}

COULD_NOT = 1

EXAMPLES = """\
examples:
  %(prog)s             users are told that the node is asleep
  %(prog)s --dry-run   says what would be done"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES % {"prog": parser.prog}
    add_node_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


def run(arguments: argparse.Namespace) -> int:
    try:
        node = node_of(arguments, Tools())
        vault = vault_of(node)
        if vault is None:
            raise CannotDo(
                "the store's key is a file of this node's: `init --store-key passphrase` first"
            )
        if arguments.dry_run:
            print(f"Would empty {vault.in_memory} and start {vault.keeper.service} anew.")
            return 0
        with alone(node.root):
            print(close(vault))
    except (CannotDo, CannotLook) as why:
        print(f"Not locked: {why}.", file=sys.stderr)
        return COULD_NOT
    return 0


def close(vault: Vault) -> str:
    """Take the key away, from the running keeper too. Raises CannotDo, CannotLook."""
    if not vault.at_rest.exists():
        raise CannotDo(
            f"without {vault.at_rest} nothing would open the store again: `unlock --change` first"
        )
    vault.hold("")
    container = vault.node.running.get(vault.keeper.service)
    if container:
        said = vault.node.tools.run("docker", "restart", "--time", "30", container.id)
        if said.code != 0:
            raise CannotDo(
                f"{container.name} still has the key in its own memory ({said.why}): "
                f"`docker restart {container.name}`"
            )
    return "The store is locked; `scripts/node-admin unlock` opens it."
