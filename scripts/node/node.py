"""Owns what is known of one node: what its Compose files want, and what containers there are."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.node.kinds import Kind
from scripts.node.tools import CannotLook, Said, Tools

HOLDER = "wireguard"
UPLINK = "uplink"
EGRESS = "egress"
HOP = "hop"
"""Carries the uplink through another provider, where the Compose files have it."""


@dataclass(frozen=True)
class Container:
    """One container, as Docker describes it."""

    raw: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.raw["Id"])

    @property
    def name(self) -> str:
        return str(self.raw["Name"]).lstrip("/")

    @property
    def service(self) -> str:
        return str(self.raw["Config"]["Labels"].get("com.docker.compose.service", ""))

    @property
    def status(self) -> str:
        return str(self.raw["State"]["Status"])

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    @property
    def health(self) -> str:
        return str((self.raw["State"].get("Health") or {}).get("Status", "none"))

    @property
    def pid(self) -> int:
        return int(self.raw["State"]["Pid"])

    @property
    def image(self) -> str:
        """The image's id."""
        return str(self.raw["Image"])

    @property
    def networks(self) -> dict[str, dict[str, Any]]:
        """Networks with an address in them; Docker lists `none` among them."""
        found = (self.raw["NetworkSettings"].get("Networks") or {}).items()
        return {name: network for name, network in found if network.get("IPAddress")}


class Node:
    """The node that runs here. What it needs to ask, it asks once."""

    def __init__(
        self, kind: Kind, tools: Tools, root: Path, options: tuple[str, ...], files: tuple[str, ...]
    ) -> None:
        """`options` and `files` go to Compose: -p, --env-file; the files' paths."""
        self.kind = kind
        self.tools = tools
        self.root = root
        self.options = options
        self.follows = False
        """Whether its Compose files are those that its .env names, also when that changes."""
        self.golden: dict[str, str] = {}
        """Rulesets as they should be, by their containers' ids."""
        self.files = tuple(Path(file) for file in files) or (root / kind.file,)
        self.compose = (
            "docker",
            "compose",
            *options,
            *(w for f in self.files for w in ("-f", str(f))),
        )

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the Compose files want, with every setting filled in. Raises CannotLook."""
        if self._resolved.code != 0:
            raise CannotLook("Compose does not tell what it wants: see the first check")
        return dict(json.loads(self._resolved.out))

    @property
    def why_unreadable(self) -> str:
        """Why Compose cannot read its files; nothing where it can."""
        return self._resolved.why if self._resolved.code != 0 else ""

    @cached_property
    def _resolved(self) -> Said:
        return self.tools.run(*self.compose, "config", "--format", "json")

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        return dict(self.config["services"])

    @property
    def project(self) -> str:
        return str(self.config["name"])

    @cached_property
    def all_containers(self) -> list[Container]:
        """Every container of the project, running or not. Raises CannotLook."""
        label = f"label=com.docker.compose.project={self.project}"
        return [
            container
            for container in self.inspect("ps", "-aq", "--no-trunc", "--filter", label)
            if container.raw["Config"]["Labels"].get("com.docker.compose.oneoff") != "True"
        ]

    def inspect(self, *listing: str) -> list[Container]:
        """Describe the containers that a listing names; one that went meanwhile is left out."""
        listed = self.ask("docker", *listing).split()
        if not listed:
            return []
        said = self.tools.run("docker", "inspect", "--type", "container", *listed)
        with contextlib.suppress(ValueError):
            return [Container(raw) for raw in json.loads(said.out)]
        raise CannotLook(f"Docker does not describe its containers ({said.why})")

    @cached_property
    def containers(self) -> dict[str, Container]:
        """The first container of each service that the Compose files have."""
        found: dict[str, Container] = {}
        for container in sorted(self.all_containers, key=lambda it: (not it.is_running, it.name)):
            if container.service in self.services:
                found.setdefault(container.service, container)
        return found

    @property
    def running(self) -> dict[str, Container]:
        return {name: it for name, it in self.containers.items() if it.is_running}

    def refresh(self) -> None:
        """Ask Docker for the containers again."""
        for name in ("containers", "all_containers"):
            self.__dict__.pop(name, None)

    def is_off(self, service: str) -> bool:
        """Whether the Compose files want no container of it, as after `revoke`."""
        return (self.services.get(service, {}).get("deploy") or {}).get("replicas") == 0

    def holder_of(self, service: str) -> str | None:
        """The service in whose namespace another one lives."""
        mode = str(self.services[service].get("network_mode") or "")
        return mode.removeprefix("service:") if mode.startswith("service:") else None

    @property
    def guarded(self) -> dict[str, Container]:
        """Running containers that load a ruleset: those that may, by their one capability."""
        return {
            name: container
            for name, container in self.running.items()
            if "NET_ADMIN" in (self.services[name].get("cap_add") or [])
        }

    @property
    def carrier(self) -> str:
        """The service whose own packets carry the tunnel outside."""
        return HOP if HOP in self.services else UPLINK

    def setting(self, service: str, name: str, default: str = "") -> str:
        """A variable of a service's environment, as the Compose files want it."""
        if service not in self.services:
            return default
        return str((self.services[service].get("environment") or {}).get(name) or default)

    def ask(self, *command: str) -> str:
        """What a command prints. Raises CannotLook if it fails."""
        said = self.tools.run(*command)
        if said.code != 0:
            raise CannotLook(f"`{' '.join(command[:3])}` failed ({said.why})")
        return said.out

    def execute(self, container: Container, *command: str) -> Said:
        """Run a command in a running container."""
        return self.tools.run("docker", "exec", container.id, *command)

    def read(self, container: Container, path: str) -> str:
        """A file as a container sees it: by the host where it may, else by the container's own cat.

        Raises CannotLook.
        """
        if self.tools.is_root:
            of_process = path.replace("/proc/self/", f"{self.tools.proc}/{container.pid}/")
            if of_process == path:
                of_process = f"{self.tools.proc}/{container.pid}/root{path}"
            with contextlib.suppress(OSError):
                return Path(of_process).read_text(encoding="utf-8", errors="replace")
        said = self.execute(container, "cat", path)
        if said.code != 0:
            raise CannotLook(f"{path} of {container.name} cannot be read ({said.why})")
        return said.out

    def namespace(self, container: Container) -> str:
        """The network namespace's name, such as `net:[4026532000]`. Raises CannotLook."""
        if self.tools.is_root:
            with contextlib.suppress(OSError):
                return str((self.tools.proc / str(container.pid) / "ns/net").readlink())
        said = self.execute(container, "readlink", "/proc/self/ns/net")
        if said.code != 0:
            raise CannotLook(f"the namespace of {container.name} cannot be read ({said.why})")
        return said.out.strip()

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each Compose file and of what they come to with all settings."""
        found = {}
        for file in self.files:
            with contextlib.suppress(OSError):
                found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        resolved = json.dumps(self.config, sort_keys=True).encode()
        return {**found, "with all settings": hashlib.sha256(resolved).hexdigest()}
