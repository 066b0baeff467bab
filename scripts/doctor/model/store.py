"""Checks where the store's key is: that the store is open, and the key on no disk where it should
not be."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, failure, ok
from scripts.lifecycle import CannotDo
from scripts.lifecycle.lock import PASSPHRASE, Vault, vault_of
from scripts.node.node import Node
from scripts.node.tools import CannotLook

LOCKED = failure(
    "store-locked",
    "The store is locked, and nothing is answered: nobody has opened it since the machine started, "
    "or `lock` has closed it.",
    "`scripts/node-admin unlock` opens it; restarting does not. Until then users are told that the "
    "bot is asleep, and no message is lost for 24 hours.",
)
ON_DISK = failure(
    "store-key-on-disk",
    "The store's key lies on this disk as {file}, and is to be in memory alone.",
    "`scripts/node-admin unlock` removes it once the key is wrapped or sealed.",
)
NOT_KEPT = failure(
    "store-key-not-kept",
    "The store is open, and {file} is missing: nothing will open the store when the machine has "
    "been restarted.",
    "Write it anew now: `scripts/node-admin unlock`.",
)


def look(node: Node) -> Iterator[Finding]:
    vault = vault_of(node)
    if vault is None:
        yield ok(
            "The store's key is a file on this machine: it starts without you, and whoever has the "
            "disk can open the store."
        )
        return
    try:
        found = list(amiss(vault))
    except CannotDo as why:
        raise CannotLook(str(why)) from None
    except PermissionError as why:
        raise CannotLook(f"{why.filename} cannot be looked at: run this as root") from None
    yield from found
    if not found:
        by = "a passphrase" if vault.kind == PASSPHRASE else "the TPM"
        yield ok(f"The store is open, and its key is in memory alone; {by} opens it.")


def amiss(vault: Vault) -> Iterator[Finding]:
    """Raises CannotDo."""
    if vault.is_locked:
        yield LOCKED.found()
    elif not vault.at_rest.exists():
        yield NOT_KEPT.found(file=vault.at_rest)
    if vault.plain.exists():
        yield ON_DISK.found(file=vault.plain)


CHECK = Check(
    "store's key",
    "On the model node: whether the store is open where a passphrase or the TPM opens it, and "
    "whether its key is on the disk where it is to be in memory alone.",
    (LOCKED, ON_DISK, NOT_KEPT),
    look,
)
