"""Cuts a lost or seized VPS off: the first act, at home, when nobody knows who has it.

It takes the tunnel away, closes what came through it, and replaces what the VPS knows of secrets,
so that its keys open nothing here any more; it then looks whether that is so. Called again, it
finishes what was not done. A bundle that was made since lifts it; `deploy` and `upgrade` refuse
an older one.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from scripts.keys import make_preshared_key
from scripts.lifecycle import revoked
from scripts.lifecycle.running import is_busy, to_its_end
from scripts.node.kinds import kinds
from scripts.node.node import HOLDER, UPLINK, Container, Node
from scripts.node.sockets import readable
from scripts.node.tools import CannotLook, Tools

ABOUT = "cut a lost or seized VPS off, and say what else is to be done"

EXIT_STATUS = {
    0: "the VPS is cut off: that was looked at",
    1: "it was not finished: call it again",
    2: "all was done, and the VPS is not cut off: what is open is said",
}
FILES = {
    ".env, revoked.yml": "keep the tunnel down",
    "secrets/link_token, secrets/tunnel_preshared_key": "are replaced",
    "secrets/.revoked-secrets": (
        "digests of what was taken out of use: no older bundle brings it back"
    ),
}

ROOT = Path(__file__).resolve().parents[2]
COULD_NOT = 1
NOT_CUT = 2

OVERLAY = "revoked.yml"
OVERLAY_TEXT = """\
# Written by `revoke`: no tunnel is started, by nobody, until another bundle is unpacked.
services:
  uplink: { deploy: { replicas: 0 } }
"""

AT_TELEGRAM = """\
First, in BotFather: /revoke, and choose the bot. From that moment the lost machine can neither read
nor write as the bot; until then it reads what waits (up to 24 h of messages).
"""

NEXT = """\
What is left to do:
  1. In BotFather: /revoke, if you have not done so yet. Put the new token into a file.
  2. Take another VPS. On your own machine: init --vps ADDRESS --rotate --token-file FILE
     Do not unpack the old model.tar here any more: it would let the lost VPS in again. `deploy`
     and `upgrade` refuse it; tar does not.
  3. `deploy model HOST` and `deploy relay HOST --images`, or by hand as at the first time.
  4. Whoever has the machine may know the address that this node dialled from, and ids of its users
     by trial; no conversation and no model was on it. docs/operations.md says more.
"""

EXAMPLES = """\
examples:
  revoke             on the node at home, as root
  revoke --dry-run   say what would be done
"""

ESTABLISHED = "01"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("-p", "--project-name", metavar="PROJECT", default="model")
    parser.add_argument(
        "--directory", type=Path, default=ROOT, help="where .env is, if it is not this one's"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


def run(arguments: argparse.Namespace) -> int:
    with to_its_end():
        return revoke(arguments)


def revoke(arguments: argparse.Namespace) -> int:
    """Take the steps, and look what came of them. Returns the exit status."""
    say(AT_TELEGRAM)
    try:
        home = Home(arguments.directory, arguments.project_name, Tools())
        for what, act in home.steps():
            say(f"{'Would ' if arguments.dry_run else ''}{what} ...")
            if not arguments.dry_run:
                act()
        if arguments.dry_run:
            return 0
        wrong = list(home.still_open())
    except (CannotLook, OSError) as why:
        print(
            f"Not finished: {why}. Mend that and call this again; until then keep this machine "
            "off the network.",
            file=sys.stderr,
        )
        return COULD_NOT
    for sentence in wrong:
        print(f"NOT CUT: {sentence}.", file=sys.stderr)
    if wrong:
        print("Call this again; if that does not help, `docker compose down`.", file=sys.stderr)
        return NOT_CUT
    print("Looked: the VPS is cut off. There is no uplink, no tunnel and no open stream.\n")
    print(NEXT)
    return 0


def say(line: str) -> None:
    """A terminal that is gone must not keep the VPS from being cut off."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


class Home:
    """The node at home, as far as the other one can reach it."""

    def __init__(self, folder: Path, project: str, tools: Tools) -> None:
        self.folder = folder
        self.settings = folder / ".env"
        self.project = project
        self.node = Node(kinds()["model"], tools, folder, (), ())
        if not self.settings.is_file():
            raise CannotLook(f"there is no {self.settings}: call this on the node at home, as root")

    def steps(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """What is not done yet, in order: each as a sentence, and as what does it."""
        if not self.stays_down:
            yield f"keep the tunnel down from now on (.env, {OVERLAY})", self.keep_down
        for uplink in self.containers(UPLINK):
            yield f"remove {uplink.name}", partial(self.node.ask, "docker", "rm", "-f", uplink.id)
        for holder, interface in self.tunnels():
            delete = ("docker", "exec", holder.id, "ip", "link", "delete", interface)
            yield f"take {interface} out of {holder.name}", partial(self.node.ask, *delete)
        if not self.has_other_secrets:
            what = "replace the link token and the preshared key, and close all streams"
            yield what, self.replace_secrets
        elif any(self.streams()):
            yield "close all streams", self.restart_gateway

    def still_open(self) -> Iterator[str]:
        """Every way that the VPS still has."""
        if not self.stays_down:
            yield f"{self.settings} would start the tunnel again"
        for uplink in self.containers(UPLINK):
            yield f"{uplink.name} is still there"
        for holder, interface in self.tunnels():
            yield f"{holder.name} still has {interface}"
        for stream in self.streams():
            yield f"a stream with {stream} is still open"
        if not self.has_other_secrets:
            yield "the secrets that the VPS knows are still in use"
        if is_busy(self.folder):
            yield "another command is changing this node, and may undo this: wait for its end"

    # The tunnel

    @property
    def stays_down(self) -> bool:
        files = self.setting("COMPOSE_FILE").split(":")
        overlay = self.folder / OVERLAY
        return OVERLAY in files and overlay.is_file() and overlay.read_text() == OVERLAY_TEXT

    def keep_down(self) -> None:
        """A container that is only stopped is started again: by its timer, and at boot."""
        replace(self.folder / OVERLAY, OVERLAY_TEXT, 0o644, 0)
        files = self.setting("COMPOSE_FILE") or self.node.kind.file
        if OVERLAY in files.split(":"):
            return
        text = self.settings.read_text(encoding="utf-8")
        line = f"COMPOSE_FILE={files}:{OVERLAY}"
        text, count = re.subn("(?m)^COMPOSE_FILE=.*$", lambda _: line, text)
        replace(self.settings, text if count else f"{text}{line}\n", 0o600, 0)
        # A look that is under way has read what was there before, and would start it again.
        self.node.tools.run("systemctl", "stop", f"node-reconcile@{self.project}.service")

    def tunnels(self) -> Iterator[tuple[Container, str]]:
        """Interfaces of the tunnel that are in the holder's namespace; kernel WireGuard's stay."""
        for holder in self.containers(HOLDER):
            if holder.is_running:
                lines = self.node.read(holder, "/proc/self/net/dev").splitlines()
                names = {line.partition(":")[0].strip() for line in lines if ":" in line}
                for name in sorted(names & {"wg0", "wg-new"}):
                    yield holder, name

    # What came through it

    def streams(self) -> Iterator[str]:
        """Addresses that the namespace has an established connection with."""
        for holder in self.containers(HOLDER):
            if holder.is_running:
                rows = self.node.read(holder, "/proc/self/net/tcp").splitlines()[1:]
                for words in map(str.split, rows):
                    address = readable(words[2].partition(":")[0])
                    if words[3] == ESTABLISHED and not address.startswith("127."):
                        yield address

    @property
    def secrets(self) -> tuple[Path, Path]:
        folder = self.folder / (self.setting("SECRETS") or "secrets")
        return folder / "link_token", folder / "tunnel_preshared_key"

    @property
    def mark(self) -> Path:
        return self.secrets[0].with_name(".revoked")

    @property
    def has_other_secrets(self) -> bool:
        """Whether those that are there were made here; another bundle brings its own."""
        return self.mark.is_file() and self.mark.read_text(encoding="ascii") == self.digest()

    def digest(self) -> str:
        return hashlib.sha256(b"".join(file.read_bytes() for file in self.secrets)).hexdigest()

    def replace_secrets(self) -> None:
        revoked.note(self.mark.parent, [file.read_bytes() for file in self.secrets])
        for file, secret in zip(
            self.secrets, (secrets.token_hex(32), make_preshared_key()), strict=True
        ):
            replace(file, secret, 0o400, file.stat().st_uid)
        self.restart_gateway()
        replace(self.mark, self.digest(), 0o600, 0)

    def restart_gateway(self) -> None:
        """It reads its token anew; what it has taken in is on the disk."""
        for gateway in self.containers(self.node.kind.mark):
            if gateway.is_running:
                self.node.ask("docker", "restart", "--time", "3", gateway.id)

    def setting(self, name: str) -> str:
        """As it stands in .env, or nothing."""
        found = re.findall(rf"(?m)^{name}=(.*)$", self.settings.read_text(encoding="utf-8"))
        return found[-1].strip("'\"") if found else ""

    def containers(self, service: str) -> list[Container]:
        labels = (f"project={self.project}", f"service={service}")
        filters = [f"--filter=label=com.docker.compose.{label}" for label in labels]
        return self.node.inspect("ps", "-aq", "--no-trunc", *filters)


def replace(file: Path, content: str, mode: int, owner: int) -> None:
    """Put a file in its place at once."""
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as written:
        written.write(content)
        os.fchmod(descriptor, mode)
        os.fchown(descriptor, owner, 0)
        os.fsync(descriptor)
    part.replace(file)
