"""A machine that says what was recorded elsewhere: no Docker, no root, no GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.doctor.examination import examine
from scripts.doctor.finding import Check, Finding
from scripts.node.kinds import kinds
from scripts.node.node import Node
from scripts.node.tools import NOT_FOUND, CannotLook, Said, Tools

GIB = 1 << 30
NOW = 1_800_000_000.0  # 2027


class Recorded(Tools):
    """Answers commands by the longest recorded beginning; says that all others do not exist."""

    def __init__(self, folder: Path, answers: Mapping[str, Said | str] | None = None) -> None:
        self.answers = dict(answers or {})
        self.ordinary: dict[str, Said | str] = {}
        """What a machine answers where nothing else is recorded."""
        self.proc = folder / "proc"
        self.sys = folder / "sys"
        self.modules = folder / "modules"
        self.root = False
        self.time = NOW
        self.status = 0
        self.room: tuple[int, int] | OSError = (100 * GIB, 50 * GIB)
        self.asked: list[str] = []
        self.write("proc/meminfo", "MemTotal: 500000 kB\nMemAvailable: 250000 kB\n")
        self.write("proc/sys/kernel/core_pattern", "core\n")

    def write(self, path: str, text: str) -> None:
        file = self.proc.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    @property
    def is_root(self) -> bool:
        return self.root

    @property
    def memory(self) -> Path:
        return self.proc.parent / "run"

    def run(
        self,
        *command: str,
        stdin: str = "",
        seconds: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Said:
        words = " ".join(command)
        self.asked.append(words)
        answers = {**self.ordinary, **self.answers}
        fitting = [start for start in answers if words.startswith(start)]
        if not fitting:
            return Said(NOT_FOUND, err=f"{command[0]} was not found")
        answer = answers[max(fitting, key=len)]
        return answer if isinstance(answer, Said) else Said(0, answer)

    def now(self) -> float:
        return self.time

    def clock_status(self) -> int:
        if self.status < 0:
            raise CannotLook("the kernel does not tell how the clock is kept")
        return self.status

    def disk(self, path: Path) -> tuple[int, int]:
        if isinstance(self.room, OSError):
            raise self.room
        return self.room

    def kernel(self) -> str:
        return "6.12.0-test"


class Nodes:
    """A node whose Compose files and containers are what a test says."""

    def __init__(self, folder: Path, kind: str = "relay") -> None:
        self.tools = Recorded(folder)
        self.kind = kind
        self.root = Path("/nowhere")
        self.services: dict[str, dict[str, Any]] = {}
        self.containers: list[dict[str, Any]] = []
        self.others: list[dict[str, Any]] = []
        self.root = Path("/nowhere")

    def add(self, service: str, **state: Any) -> dict[str, Any]:
        """A service with a healthy container; `state` replaces parts of Docker's description."""
        self.services[service] = {"image": f"node/{service}:1"}
        container: dict[str, Any] = {
            "Id": f"id-of-{service}",
            "Name": f"/p-{service}-1",
            "Image": "sha256:1",
            "RestartCount": state.pop("RestartCount", 0),
            "State": {
                "Status": "running", "Pid": 7, "OOMKilled": False, "ExitCode": 0,
                "StartedAt": "2026-01-01T00:00:00.123456789Z", "Health": {"Status": "healthy"},
                **state,
            },
            "Config": {"Labels": {"com.docker.compose.service": service}, "Image": "node/x:1"},
            "HostConfig": {"NetworkMode": "none"},
            "NetworkSettings": {"Networks": {}, "Ports": {}},
        }  # fmt: skip
        self.containers.append(container)
        return container

    def find(self, *checks: Check) -> list[Finding]:
        config = {"name": "p", "services": self.services, "volumes": {}, "networks": {}}
        ids = "\n".join(str(it["Id"]) for it in self.containers)
        all_ids = "\n".join(str(it["Id"]) for it in [*self.containers, *self.others])
        described = {str(it["Id"]): it for it in [*self.containers, *self.others]}
        self.tools.ordinary = {
            "docker compose -f compose.yml config": json.dumps(config),
            "docker ps -aq --no-trunc --filter": ids,
            "docker ps -q --no-trunc": all_ids,
            "docker inspect --type container": json.dumps(list(described.values())),
            f"docker inspect --type container {' '.join(ids.split())}": json.dumps(self.containers),
            f"docker inspect --type container {' '.join(all_ids.split())}": json.dumps(
                [*self.containers, *self.others]
            ),
            "docker image inspect": "sha256:1\n",
            "docker logs": "",
        }
        node = Node(kinds()[self.kind], self.tools, self.root, (), ("compose.yml",))
        return list(examine(node, checks))

    def problems(self, *checks: Check) -> set[str]:
        return {finding.problem for finding in self.find(*checks) if finding.problem}
