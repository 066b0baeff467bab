"""Opens the store of a node whose key is not on its disk, by a passphrase or by its TPM.

The key goes into memory, from where it is gone when the machine stops; until somebody calls this,
the node waits, and its users are told that it is asleep. At the first call the key is made, or
taken from its old file, and a passphrase is set.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.lifecycle import CannotDo, lock
from scripts.lifecycle.keeper import WrongPassphrase
from scripts.lifecycle.lock import AT_REST, PASSPHRASE, TPM, Vault, vault_of
from scripts.lifecycle.running import alone
from scripts.node.arguments import add_node_arguments, node_of
from scripts.node.tools import CannotLook, Tools

ABOUT = "open the store with its passphrase, after each start of the machine"

EXIT_STATUS = {
    0: "the store is open",
    1: "it could not be opened: the reason is said",
    2: "the passphrase is wrong",
}
FILES = {
    "/run/node-key/store_key": "the key while the store is open; empty while it is locked",
    "secrets/store_key.wrapped": "the key, wrapped with the passphrase",
    "secrets/store_key.sealed": "the key, sealed by the machine's TPM",
    "secrets/store_key": "is overwritten and removed once one of the two above is there",
}

COULD_NOT = 1
WRONG = 2

EXAMPLES = """\
examples:
  %(prog)s                         asks for the passphrase; the first time for a new one
  %(prog)s --passphrase-file -     its first line comes by the standard input
  %(prog)s --change                another passphrase; the store has to be open"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES % {"prog": parser.prog}
    add_node_arguments(parser)
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE",
                        help="its first line; asked for if not given")  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--change", action="store_true",
                       help="set another passphrase; where a TPM opens the store, one beside "
                       "it")  # fmt: skip
    which.add_argument("--unattended", action="store_true",
                       help="as at the machine's start: ask nobody, and leave locked what "
                       "only a passphrase opens")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


def run(arguments: argparse.Namespace) -> int:
    try:
        node = node_of(arguments, Tools())
        vault = vault_of(node)
        if vault is None:
            if arguments.unattended:
                return 0
            raise CannotDo(
                "the store's key is a file of this node's, and opens it at each start: "
                "`init --store-key passphrase` changes that"
            )
        if arguments.dry_run:
            print(plan(arguments, vault))
            return 0
        with alone(node.root):
            vault.prepare()
            print(act(arguments, vault))
    except WrongPassphrase as why:
        print(f"Still locked: {why}.", file=sys.stderr)
        return WRONG
    except (CannotDo, CannotLook) as why:
        print(f"Not done: {why}.", file=sys.stderr)
        return COULD_NOT
    return 0


def plan(arguments: argparse.Namespace, vault: Vault) -> str:
    if arguments.change:
        return f"Would ask for a new passphrase, and write {AT_REST[PASSPHRASE]} anew."
    if not vault.is_locked and vault.at_rest.exists():
        return "The store is open: nothing would change."
    if vault.kind == PASSPHRASE and arguments.unattended:
        return "Would leave the store locked."
    if vault.at_rest.exists():
        return f"Would open {vault.at_rest} and put the key into {vault.in_memory}."
    return f"Would make {vault.at_rest}, and put the key into {vault.in_memory}."


def act(arguments: argparse.Namespace, vault: Vault) -> str:
    """Do what was asked for; returns what was done.

    Raises CannotDo, WrongPassphrase, CannotLook.
    """
    if arguments.change:
        return change(vault, arguments.passphrase_file)
    if not vault.is_locked and vault.at_rest.exists():
        return joined("The store is open already.", vault.leave_no_other_way(vault.held()))
    if vault.kind == TPM:
        return by_tpm(arguments, vault)
    if arguments.unattended:
        if not vault.is_locked:
            return "The store is open; `scripts/node-admin unlock` sets a passphrase for it."
        return "The store is locked: `scripts/node-admin unlock` asks for its passphrase."
    if not vault.at_rest.exists():
        key = vault.first_key()
        vault.keep(vault.wrapped(key, lock.new_passphrase(arguments.passphrase_file)), PASSPHRASE)
        vault.hold(key)
        first = f"The key is in {vault.at_rest}, wrapped, and the store is open."
        return joined(first, FORGOTTEN, vault.leave_no_other_way(key))
    return open_by_passphrase(arguments, vault)


FORGOTTEN = (
    "Nothing opens it without the passphrase but a backup: make one, and keep both elsewhere."
)


def open_by_passphrase(arguments: argparse.Namespace, vault: Vault) -> str:
    key = vault.unwrapped(lock.passphrase(arguments.passphrase_file))
    vault.hold(key)
    return joined("The store is open.", vault.leave_no_other_way(key))


def by_tpm(arguments: argparse.Namespace, vault: Vault) -> str:
    """Open it by the TPM; where that refuses, by a passphrase that was set beside it."""
    if not vault.at_rest.exists():
        key = vault.first_key()
        vault.keep(vault.sealed(key), TPM)
        vault.hold(key)
        first = f"The key is in {vault.at_rest}, sealed by the TPM, and the store is open."
        return joined(first, vault.leave_no_other_way(key))
    try:
        vault.hold(vault.unsealed())
    except CannotDo as why:
        if arguments.unattended or not (vault.folder / AT_REST[PASSPHRASE]).exists():
            raise
        print(f"By its passphrase, then: {why}.", file=sys.stderr)
        opened = open_by_passphrase(arguments, vault)
        vault.keep(vault.sealed(vault.held()), TPM)
        return joined(opened, "The TPM has sealed the key anew.")
    return joined("The store is open.", vault.leave_no_other_way(vault.held()))


def change(vault: Vault, file: Path | None) -> str:
    """Wrap the key that is in memory with another passphrase. Raises CannotDo."""
    key = vault.held()
    if not key:
        raise CannotDo("the store is locked: `unlock` it first, without --change")
    vault.keep(vault.wrapped(key, lock.new_passphrase(file)), PASSPHRASE)
    return joined(
        "The new passphrase opens the store from now on; an old copy of "
        f"{AT_REST[PASSPHRASE]} still takes the old one.",
        vault.leave_no_other_way(key),
    )


def joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
