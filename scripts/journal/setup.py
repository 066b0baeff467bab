"""Owns what sealing sets up on a node: the key, journald in memory, containers' output into it, the
timer. Each step is there only while it would change something."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.harden.host import Host
from scripts.harden.states import read_swap
from scripts.harden.swap import is_encrypted
from scripts.journal.recipient import fingerprint_of
from scripts.lifecycle import CannotDo
from scripts.node.tools import Tools

SYSTEM = Path("/")
OWN = "sealing"
"""The folder in the node's, with the public key and the limits."""
KEY = f"{OWN}/recipient.asc"
LIMITS = f"{OWN}/limits.json"
JOURNALD = "etc/systemd/journald.conf.d/zz-node-seal.conf"
JOURNALD_TEXT = """\
# Written by `logs seal`: the journal is in memory alone, and sealed from there (node-seal@.timer).
[Journal]
Storage=volatile
RuntimeMaxUse=64M
ForwardToSyslog=no
ForwardToConsole=no
ForwardToWall=no
"""
BANS = "etc/fail2ban/fail2ban.d/zz-node-seal.local"
BANS_TEXT = """\
# Written by `logs seal`: it logs into the journal, not into a file of its own.
[Definition]
logtarget = SYSTEMD-JOURNAL
"""
PLAIN_LOGGERS = ("rsyslog.service", "syslog-ng.service")


@dataclass(frozen=True)
class Step:
    says: str
    do: Callable[[], None]


@dataclass(frozen=True)
class Place:
    """Where it is set up."""

    root: Path
    """The node's folder."""
    project: str
    tools: Tools
    system: Path

    @property
    def units(self) -> tuple[str, str]:
        return (f"node-seal@{self.project}.timer", f"node-seal-last@{self.project}.service")

    def system_do(self, *command: str) -> None:
        """Raises CannotDo."""
        said = self.tools.run(*command, seconds=120)
        if said.code != 0:
            raise CannotDo(f"`{' '.join(command)}`: {said.why}")


def set_up(place: Place, key: Path, limits: dict[str, int]) -> Iterator[Step]:
    """The steps that are left to do. Raises CannotDo where sealing would be in vain."""
    fingerprint = fingerprint_of(key, place.tools.memory)
    for unit in PLAIN_LOGGERS:
        if place.tools.run("systemctl", "is-active", "--quiet", unit).code == 0:
            raise CannotDo(
                f"{unit} writes the kernel's and the logins' words to the disk in plain text: "
                f"`systemctl disable --now {unit} syslog.socket`, then call this again"
            )
    host = Host(place.tools, place.system)
    for swap in read_swap(host, "all").split():
        if not is_encrypted(host, swap):
            raise CannotDo(
                f"the journal in memory may be swapped to {swap} in plain text: turn that off "
                "(`scripts/node-admin harden` does), or encrypt it, then call this again"
            )
    own = place.root / KEY
    content = key.read_bytes()
    if not own.is_file() or own.read_bytes() != content:
        yield Step(f"seal for the key {fingerprint}", lambda: put(own, content))
    text = json.dumps(limits).encode()
    if not is_written(place.root / LIMITS, text):
        yield Step(
            f"keep segments for {limits['days']} days, and {limits['mebibytes']} MiB at most",
            lambda: put(place.root / LIMITS, text),
        )
    yield from written(place, JOURNALD, JOURNALD_TEXT, "systemd-journald.service")
    if (place.system / "etc/fail2ban").is_dir():
        yield from written(place, BANS, BANS_TEXT, "fail2ban.service")
    for unit in place.units:
        if place.tools.run("systemctl", "is-enabled", "--quiet", unit).code != 0:
            yield switched(place, "enable", unit)


def written(place: Place, name: str, text: str, unit: str) -> Iterator[Step]:
    path = place.system / name
    if not is_written(path, text.encode()):

        def do() -> None:
            put(path, text.encode(), 0o644)
            place.system_do("systemctl", "try-restart", unit)

        yield Step(f"write /{name} and restart {unit}", do)


def switched(place: Place, verb: str, unit: str) -> Step:
    return Step(f"{verb} {unit}", lambda: place.system_do("systemctl", verb, "--now", unit))


def take_back(place: Place) -> Iterator[Step]:
    """The steps back; sealed segments stay."""
    for unit in place.units:
        if place.tools.run("systemctl", "is-enabled", "--quiet", unit).code == 0:
            yield switched(place, "disable", unit)
    for name, unit in ((JOURNALD, "systemd-journald.service"), (BANS, "fail2ban.service")):
        path = place.system / name
        if path.exists():

            def do(path: Path = path, unit: str = unit) -> None:
                path.unlink()
                place.system_do("systemctl", "try-restart", unit)

            yield Step(f"remove /{name} and restart {unit}", do)
    if (place.root / OWN).exists():
        yield Step(f"remove {place.root / OWN}", lambda: shutil.rmtree(place.root / OWN))


def with_journal(settings: str, root: Path) -> str:
    """The settings with the Compose files that give containers' output to the journal."""
    return with_files(
        settings,
        lambda files: [*files, *(it for it in overlays_of(files, root) if it not in files)],
    )


def refuse_plain(root: Path, settings: bytes, source: str) -> None:
    """Raises CannotDo where logs are sealed, and with new settings would go to the disk in plain
    text."""
    is_sealed = re.search(rb"(?m)^COMPOSE_FILE=.*\.journal\.yml", settings)
    if (root / OWN).is_dir() and not is_sealed:
        raise CannotDo(
            f"logs are sealed here, and with the settings of {source} they would go to the disk in "
            "plain text: make a bundle with `init --logs journal` (or first `logs seal --undo`)"
        )


def without_journal(settings: str) -> str:
    return with_files(
        settings, lambda files: [file for file in files if not file.endswith(".journal.yml")]
    )


def overlays_of(files: list[str], root: Path) -> list[str]:
    """Those that are there for Compose files."""
    named = (re.sub(r"\.yml$", ".journal.yml", file) for file in files)
    return [name for name in named if name not in files and (root / name).is_file()]


def with_files(settings: str, change: Callable[[list[str]], list[str]]) -> str:
    """Raises CannotDo where COMPOSE_FILE is not set, since a guess could start another node."""
    found = re.findall(r"^COMPOSE_FILE=(\S+)[ \t]*$", settings, re.MULTILINE)
    if len(found) != 1:
        raise CannotDo("COMPOSE_FILE does not stand in .env once: take it from the example there")
    line = f"COMPOSE_FILE={':'.join(change(found[0].split(':')))}"
    return re.sub(r"(?m)^COMPOSE_FILE=\S+[ \t]*$", lambda _: line, settings)


def remains(system: Path) -> list[str]:
    """What older logs are still on the disk in plain text."""
    patterns = ("journal/*/*.journal*", "auth.log*", "syslog*", "kern.log*", "messages*",
                "fail2ban.log*", "secure*")  # fmt: skip
    return sorted({str(path) for it in patterns for path in (system / "var/log").glob(it)})


def limits_of(root: Path) -> dict[str, int]:
    """How long and how much is kept. Raises CannotDo."""
    try:
        limits = json.loads((root / LIMITS).read_text(encoding="utf-8"))
        return {"days": int(limits["days"]), "mebibytes": int(limits["mebibytes"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise CannotDo(
            f"{root / LIMITS} is missing or makes no sense: call `logs seal --recipient FILE`"
        ) from None


def is_written(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def put(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.chmod(mode)
    part.replace(path)
