"""Owns how an operator calls the tools of the nodes, for a pair that runs on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.doctor.examination import examine
from scripts.doctor.finding import Check, Finding
from scripts.node.kinds import kinds
from scripts.node.node import Node
from scripts.node.tools import Tools
from scripts.pair import USER, Pair
from scripts.setup import answer_of
from scripts.telegram_user import TelegramUser
from tests.conftest import ROOT
from tests.integration.lab import VERSION


@dataclass
class Nodes:
    """The running pair, as an operator calls it on either node."""

    pair: Pair

    @property
    def user(self) -> TelegramUser:
        return TelegramUser(self.pair.control_socket, USER)

    def node(self, kind: str, tools: Tools | None = None) -> Node:
        options, files = self.compose_of(kind)
        return Node(kinds()[kind], tools or Tools(), ROOT, options, files)

    def compose_of(self, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What an operator gives to Compose: options, and files."""
        project = f"{self.pair.name}-{kind}"
        words = self.pair.compose(project)[2:]
        files = tuple(words[at + 1] for at, word in enumerate(words) if word == "-f")
        cut = words.index("-f")
        # The overlays of tests want variables, which have to stand in a file like the others.
        return (*words[:cut], "--env-file", str(self.pair.state / "overlays.env")), files

    def command(self, kind: str, sub_command: str, *arguments: str) -> list[str]:
        options, files = self.compose_of(kind)
        named = [word for file in files for word in ("-f", file)]
        command = [str(ROOT / "scripts/adyton"), sub_command, "--node", kind]
        return [*command, *options, *named, *arguments]

    def container(self, kind: str, service: str) -> str:
        return self.pair.container(f"{self.pair.name}-{kind}", service)

    def find(self, kind: str, *checks: Check, tools: Tools | None = None) -> list[Finding]:
        return list(examine(self.node(kind, tools), checks))

    def problems(self, kind: str, *checks: Check, tools: Tools | None = None) -> set[str]:
        """Names of the problems that checks find."""
        return problems_of(self.find(kind, *checks, tools=tools))

    def bridge(self) -> str:
        """The test internet as an interface of this machine."""
        told = answer_of(["docker", "network", "inspect", "-f", "{{.Id}}", self.pair.internet])
        assert told, f"there is no network {self.pair.internet}"
        return f"br-{told[:12]}"

    def write_overlays(self) -> None:
        """The file that `compose_of` names: what the overlays of tests want to know."""
        variables = {**self.pair.environment(), "VERSION": VERSION}
        wanted = ("SUBNET", "INTERNET", "STATE", "VERSION")
        lines = [f"{name}={variables[name]}\n" for name in wanted]
        (self.pair.state / "overlays.env").write_text("".join(lines), encoding="utf-8")


def problems_of(findings: Sequence[Finding]) -> set[str]:
    return {finding.problem for finding in findings if finding.problem}
