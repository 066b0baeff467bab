"""Owns the key of a store that is not to lie on the disk: in memory while the node works, on the
disk only wrapped with a passphrase, or sealed by the machine's TPM.

The file in memory is made before the containers start, and empty while the store is locked. It is
written in place: a container has that very file mounted.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts.lifecycle import CannotDo
from scripts.lifecycle.home import owner_of
from scripts.lifecycle.keeper import KEY, Keeper, keeper_of, secret_file
from scripts.lifecycle.running import say
from scripts.node.node import Node
from scripts.node.tools import CannotLook

FILE, PASSPHRASE, TPM = "file", "passphrase", "tpm"
"""An ordinary secret; what opens the store without one."""

OVERLAYS = {PASSPHRASE: ".passphrase.yml", TPM: ".tpm.yml"}
"""How the Compose files end that say so."""

AT_REST = {PASSPHRASE: f"{KEY}.wrapped", TPM: f"{KEY}.sealed"}
"""What the key on the disk is called, in the folder of secrets."""

FEWEST_CHARACTERS = 12
SEALED_WITH = ("--with-key=tpm2", "--tpm2-pcrs=7")
"""PCR 7 is the state of Secure Boot: another system that is started there gets nothing."""


def lock_of(files: Iterable[str]) -> str:
    """What opens the store, by the names of the Compose files."""
    names = list(files)
    for kind, ending in OVERLAYS.items():
        if any(name.endswith(ending) for name in names):
            return kind
    return FILE


@dataclass(frozen=True)
class Vault:
    """Where one node's key is."""

    node: Node
    keeper: Keeper
    kind: str

    @property
    def in_memory(self) -> Path:
        """The file that the store's keeper reads."""
        return secret_file(self.node, KEY)

    @property
    def folder(self) -> Path:
        """Where the node's other secrets lie."""
        return secret_file(self.node, "link_token").parent

    @property
    def at_rest(self) -> Path:
        """What the key on the disk is opened from."""
        return self.folder / AT_REST[self.kind]

    @property
    def plain(self) -> Path:
        """Where the key lay before it was to be in memory alone."""
        return self.folder / KEY

    @property
    def is_locked(self) -> bool:
        return not self.held()

    def held(self) -> str:
        """The key in memory; nothing while the store is locked. Raises CannotDo."""
        return _read(self.in_memory)

    def hold(self, key: str) -> None:
        """Write the key into memory, or take it out of there (an empty one). Raises CannotDo."""
        path = self.in_memory
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.refuse_disk()
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            with contextlib.closing(os.fdopen(opened, "wb", buffering=0)) as file:
                if os.geteuid() == 0:
                    os.fchown(opened, owner_of(self.node, KEY), 0)
                file.truncate(0)
                file.write(key.encode())
        except OSError as error:
            raise CannotDo(
                f"{path} cannot be written ({error.strerror}): run this as root"
            ) from None

    def refuse_disk(self) -> None:
        """Raises CannotDo where the folder of the key is not in memory."""
        folder = self.in_memory.parent
        said = self.node.tools.run("stat", "--file-system", "--format=%T", str(folder))
        if said.out.strip() not in ("tmpfs", "ramfs"):
            raise CannotDo(f"{folder} is not in memory, but on a disk: mount a tmpfs there")

    def prepare(self) -> None:
        """Let the file in memory be there. Raises CannotDo."""
        if not self.in_memory.exists():
            self.hold("")

    def first_key(self) -> str:
        """The key to be wrapped: the node's own, or a new one where there is no store yet.

        Raises CannotDo, CannotLook.
        """
        if key := _read(self.plain) or self.held():
            return key
        if self.keeper.has_store():
            raise CannotDo(
                f"there is a store, and neither {self.at_rest} nor {self.plain} to open it: bring "
                "it back from a copy, or `restore` a backup"
            )
        return secrets.token_hex(32)

    def wrapped(self, key: str, passphrase: str) -> bytes:
        """The key as only the passphrase opens it. Raises CannotDo."""
        made = self.keeper.wrap(key, passphrase)
        if self.keeper.unwrap(made, passphrase) != key:
            raise CannotDo("the wrapped key does not open: nothing was changed; try again")
        return made.encode()

    def unwrapped(self, passphrase: str) -> str:
        """The key by its passphrase. Raises CannotDo, WrongPassphrase."""
        return self.keeper.unwrap(_read(self.folder / AT_REST[PASSPHRASE]), passphrase)

    def sealed(self, key: str) -> bytes:
        """The key as only this machine's TPM opens it. Raises CannotDo."""
        said = self.node.tools.run(
            "systemd-creds", "encrypt", f"--name={KEY}", *SEALED_WITH, "-", "-", stdin=key
        )
        if said.code != 0 or not said.out:
            raise CannotDo(
                f"the TPM does not seal the key ({said.why}): `systemd-creds has-tpm2` says what "
                "is missing; without a TPM take `init --store-key passphrase`"
            )
        if said.err.strip():  # such as that this firmware measures nothing into the PCR
            say(said.why)
        return said.out.encode()

    def unsealed(self) -> str:
        """The key by the TPM. Raises CannotDo."""
        said = self.node.tools.run(
            "systemd-creds", "decrypt", f"--name={KEY}", str(self.at_rest), "-"
        )
        if said.code != 0 or not said.out:
            raise CannotDo(
                f"the TPM does not open the key ({said.why}). It is another machine, or its Secure "
                "Boot was changed: take that back, or `restore` a backup"
            )
        return said.out.strip()

    def keep(self, content: bytes, kind: str) -> None:
        """Put the wrapped or sealed key on the disk, at once. Raises CannotDo."""
        path = self.folder / AT_REST[kind]
        part = path.with_name(f".{path.name}.part")
        try:
            part.unlink(missing_ok=True)
            opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with os.fdopen(opened, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise CannotDo(
                f"{path} cannot be written ({error.strerror}): run this as root"
            ) from None

    def is_plain_in_use(self) -> bool:
        """Whether the keeper was started with the key as a file, or nobody knows."""
        try:
            container = self.node.running.get(self.keeper.service)
        except CannotLook:
            return True
        mounts = container.raw.get("Mounts") or [] if container else []
        return any(Path(str(mount.get("Source"))) == self.plain for mount in mounts)

    def leave_no_other_way(self, key: str) -> str:
        """Remove what opens the store besides: its key as a file, and what the TPM had sealed.

        Returns a sentence about the file.
        """
        if self.kind != TPM:
            (self.folder / AT_REST[TPM]).unlink(missing_ok=True)
        there = _read(self.plain)
        if not there:
            return ""
        if there != key:
            return f"{self.plain} holds another key, and stays: see whose it is."
        if self.is_plain_in_use():
            return (
                f"{self.plain} stays, since {self.keeper.service} still runs on it: "
                "`docker compose up -d`, then call this again."
            )
        self.plain.chmod(0o600)
        with self.plain.open("r+b") as file:
            file.write(bytes(self.plain.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        self.plain.unlink()
        return (
            f"{self.plain} was overwritten and removed; a drive may keep old blocks, and copies "
            "and old backups of it stay."
        )


def vault_of(node: Node) -> Vault | None:
    """Where the key is; None where it is an ordinary file, or there is no store."""
    kind = lock_of(file.name for file in node.files)
    if not node.kind.keeper or kind == FILE:
        return None
    keeper = keeper_of(node)
    assert keeper
    return Vault(node, keeper, kind)


def refuse_locked(node: Node, *, may_be_new: bool = False) -> None:
    """Raises CannotDo while the store is locked; `may_be_new`: unless it was never opened."""
    vault = vault_of(node)
    if vault and vault.is_locked and not (may_be_new and not vault.at_rest.exists()):
        raise CannotDo("the store is locked: `scripts/node-admin unlock` opens it; do that first")


def new_passphrase(file: Path | None) -> str:
    """A passphrase that is to open the store: from its file, or typed twice. Raises CannotDo."""
    passphrase = passphrase_from(file) if file else _typed("A passphrase for the store")
    if len(passphrase) < FEWEST_CHARACTERS:
        raise CannotDo(
            f"the passphrase is too short: give {FEWEST_CHARACTERS} characters or more, such as "
            "six words that were drawn by lot"
        )
    if not file and _typed("The same again") != passphrase:
        raise CannotDo("the two are not the same: begin again")
    return passphrase


def passphrase(file: Path | None) -> str:
    """The passphrase that opens the store: from its file, or typed. Raises CannotDo."""
    return passphrase_from(file) if file else _typed("The store's passphrase")


def passphrase_from(file: Path) -> str:
    """The first line of a file; `-` is the standard input. Raises CannotDo."""
    try:
        if str(file) == "-":
            return sys.stdin.readline().rstrip("\r\n")
        with file.open(encoding="utf-8") as opened:
            return opened.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CannotDo(
            f"the passphrase's file {file} cannot be read ({error}): give another"
        ) from None


def _typed(what: str) -> str:
    if not sys.stdin.isatty():
        raise CannotDo("nobody is there to ask: give the passphrase's file, or - for the input")
    return getpass.getpass(f"{what} (it is not shown): ")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise CannotDo(f"{path} cannot be read ({why}): run this as root") from None
