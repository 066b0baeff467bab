"""Owns how the store is copied and put back: by the keeper's own image, which alone can read it.

Its steps are described in the keeper's modules `backup` and `restore`. Keys go by stdin or as the
mounted secret; a container that is started for a step has no network and leaves nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scripts.lifecycle import CannotDo
from scripts.lifecycle.archive import PIECE_BYTES, Entry, Source
from scripts.node.node import Node
from scripts.node.tools import printable

KEY = "store_key"
"""The secret that opens the store."""

WRONG_PASSPHRASE = 3
"""The exit status by which the keeper's module `wrapping` says so."""


class WrongPassphrase(CannotDo):
    """The passphrase is another one than that of the store's key."""


@dataclass(frozen=True)
class Keeper:
    """The service that keeps the store, on the node that runs here."""

    node: Node
    image: str
    """What its one-off containers are made of: a name or an id."""

    @property
    def service(self) -> str:
        return self.node.kind.keeper

    @property
    def volume(self) -> str:
        """The name of the store's volume."""
        return str(self.node.config["volumes"][self.node.kind.store]["name"])

    def has_volume(self) -> bool:
        """Whether the volume is there."""
        return self.node.tools.run("docker", "volume", "inspect", self.volume).code == 0

    def make_volume(self) -> None:
        """Make the volume as Compose would, unless it is there. Raises CannotDo."""
        if self.has_volume():
            return
        labels = {"project": self.node.project, "volume": self.node.kind.store}
        options = [f"--label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        said = self.node.tools.run("docker", "volume", "create", *options, self.volume)
        if said.code != 0:
            raise CannotDo(f"making the volume {self.volume}: {said.why}")

    @contextlib.contextmanager
    def copy(self) -> Iterator[tuple[int, Entry, IO[bytes]]]:
        """A copy of the store as it is now: its version, its description, and what to read.

        Raises CannotDo, at the end as well.
        """
        container = self.node.running.get(self.service)
        command = (
            ["docker", "exec", container.id, "python3", "-m", self._module("backup")]
            if container
            else [*self._one_off(secret=True), "-m", self._module("backup")]
        )
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout
            try:
                told = described(process.stdout.readline())
                if told is None:
                    raise CannotDo("the store's keeper did not answer: look at `docker logs`")
                yield told["schema"], Entry(told["bytes"], told["sha256"]), process.stdout
            except CannotDo:
                if not process.stdout.read(1):  # it ended early: then it knows why
                    finish(process, "copying the store")
                process.kill()
                raise
            except BaseException:
                process.kill()
                raise
            finish(process, "copying the store")

    def schema(self) -> int:
        """The newest version of the store that the image knows. Raises CannotDo."""
        program = f"from services.{self.service}.schema import MIGRATIONS; print(len(MIGRATIONS))"
        said = self.node.tools.run(*self._one_off(store=False), "-c", program)
        if said.code != 0 or not said.out.strip().isdigit():
            raise CannotDo(f"asking the image {self.image} for its version: {said.why}")
        return int(said.out)

    def has_store(self) -> bool:
        """Whether there is a store that a key has been used for. Raises CannotDo, CannotLook."""
        listed = self.node.ask("docker", "volume", "ls", "--format", "{{.Name}}").split()
        if self.volume not in listed:
            return False
        program = (
            f"from services.{self.service}.restore import STORE_FILE as it; print(it.exists())"
        )
        said = self.node.tools.run(*self._one_off(), "-c", program)
        if said.code != 0:
            raise CannotDo(f"looking at the volume {self.volume}: {said.why}")
        return said.out.strip() == "True"

    def wrap(self, key: str, passphrase: str) -> str:
        """The key as JSON that only the passphrase opens. Raises CannotDo."""
        return self._wrapping("wrap", {"key": key, "passphrase": passphrase})

    def unwrap(self, wrapped: str, passphrase: str) -> str:
        """The key that was wrapped. Raises CannotDo, WrongPassphrase."""
        try:
            content = json.loads(wrapped)
        except ValueError:
            content = None
        return self._wrapping("unwrap", {"wrapped": content, "passphrase": passphrase})

    def _wrapping(self, step: str, order: Mapping[str, Any]) -> str:
        command = [*self._one_off(store=False), "-m", self._module("wrapping"), step]
        said = self.node.tools.run(*command, stdin=json.dumps(order) + "\n")
        if said.code == WRONG_PASSPHRASE:
            raise WrongPassphrase("the passphrase is wrong: try again")
        if said.code != 0 or not said.out.strip():
            raise CannotDo(
                f"the image {self.image} does not {step} the key ({said.why}): where it is not "
                "there yet, `docker compose build` first"
            )
        return said.out.strip()

    def has_kept(self) -> bool:
        """Whether a store waits beside the store to be put back. Raises CannotDo."""
        program = (
            f"from services.{self.service} import backup, restore; "
            "print(backup.kept_beside(restore.STORE_FILE).exists())"
        )
        said = self.node.tools.run(*self._one_off(), "-c", program)
        if said.code != 0:
            raise CannotDo(f"looking at the volume {self.volume}: {said.why}")
        return said.out.strip() == "True"

    def keep(self) -> None:
        """Keep a copy beside the store, for `undo`; nothing may write now. Raises CannotDo."""
        self._do([*self._one_off(secret=True), "-m", self._module("backup"), "keep"])

    def stage(self, order: Mapping[str, Any], source: Source) -> dict[str, Any]:
        """Write a backup beside the store. Returns what was found. Raises CannotDo."""
        self.make_volume()
        command = [*self._one_off(), "-m", self._module("restore"), "stage"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdin
            assert process.stdout
            try:
                with contextlib.suppress(BrokenPipeError):  # it refuses early; its words say why
                    process.stdin.write(json.dumps(order).encode() + b"\n")
                    shutil.copyfileobj(source, process.stdin, PIECE_BYTES)
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            except BaseException:
                process.kill()
                raise
            answer = process.stdout.read()
            finish(process, "restoring the store")
        return dict(json.loads(answer))

    def commit(self) -> None:
        """Put what was staged in the store's place. Raises CannotDo."""
        self._do([*self._one_off(), "-m", self._module("restore"), "commit"])

    def undo(self) -> None:
        """Put back what was kept, and drop what was staged. Raises CannotDo."""
        self._do([*self._one_off(), "-m", self._module("restore"), "undo"])

    def done(self) -> None:
        """Remove what was kept. Raises CannotDo."""
        self._do([*self._one_off(), "-m", self._module("restore"), "done"])

    def _do(self, command: list[str]) -> None:
        said = self.node.tools.run(*command, seconds=3600)
        if said.code != 0:
            raise CannotDo(f"`{' '.join(command[-2:])}`: {said.why}")

    def _module(self, name: str) -> str:
        return f"services.{self.service}.{name}"

    def _one_off(self, *, store: bool = True, secret: bool = False) -> list[str]:
        """A container of the keeper's image with the store alone, confined as the service is."""
        want = self.node.services[self.service]
        (place,) = (
            mount["target"]
            for mount in want["volumes"]
            if mount["type"] == "volume" and mount["source"] == self.node.kind.store
        )
        command = ["docker", "run", "--rm", "--interactive", "--pull=never", "--network=none"]
        command += ["--log-driver=none", "--read-only", "--cap-drop=ALL", "--pids-limit=64"]
        command += ["--security-opt=no-new-privileges:true", "--ulimit=core=0"]
        command += [f"--memory={want['mem_limit']}", f"--memory-swap={want['mem_limit']}"]
        command += [f"--user={want['user']}", *(f"--tmpfs={it}" for it in want.get("tmpfs") or [])]
        if store:
            command += [f"--mount=type=volume,source={self.volume},target={place}"]
        if secret:
            source = secret_file(self.node, KEY)
            command += [f"--mount=type=bind,source={source},target=/run/secrets/{KEY},readonly"]
        return [*command, "--entrypoint=python3", self.image]


def secret_file(node: Node, name: str) -> Path:
    """Where a secret lies on this machine."""
    return Path(str(node.config["secrets"][name]["file"]))


def keeper_of(node: Node) -> Keeper | None:
    """The node's keeper, made of the image that its Compose file names."""
    if not node.kind.keeper:
        return None
    return Keeper(node, str(node.services[node.kind.keeper]["image"]))


def described(line: bytes) -> dict[str, Any] | None:
    """Read the line that comes before a copy; None if it is none."""
    try:
        told = dict(json.loads(line))
        int(told["bytes"]), int(told["schema"]), str(told["sha256"])
    except (ValueError, TypeError, KeyError):
        return None
    return told


def finish(process: subprocess.Popen[bytes], doing: str) -> None:
    """Wait for a process. Raises CannotDo with its last words if it failed."""
    assert process.stderr
    words = process.stderr.read().decode("utf-8", "replace").splitlines()
    if process.wait() != 0:
        said = next((word for word in reversed(words) if word.strip()), "it did not say why")
        raise CannotDo(f"{doing}: {printable(said)}")
