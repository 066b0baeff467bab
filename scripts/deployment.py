"""Owns the steps by which a node gets to its host, from a first look to the doctor's last.

Everything that runs there is a script in this file, run as root, with what it reads on its standard
input: no secret is in an argument. The bundle is unpacked out of memory (/run) and leaves no copy.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from dataclasses import dataclass, field

from scripts.bundle import Bundle
from scripts.commands.init import UNKNOWN_KEY
from scripts.images import (
    COMPRESSORS,
    MACHINES,
    Image,
    build,
    compressor,
    megabytes,
    pack,
    settings_of,
    unpacking,
)
from scripts.lifecycle.lock import FILE, lock_of
from scripts.node.tools import Said, printable
from scripts.ssh import Connection
from scripts.steps import Step, StepFailed, Steps

LOOK = """\
echo "machine=$(uname -m)"
echo "user=$(id -u)"
echo "docker=$(docker version --format '{{.Server.Version}}' 2>/dev/null)"
echo "compose=$(docker compose version --short 2>/dev/null)"
for name in "$@"; do
  if command -v "$name" >/dev/null; then echo "$name=there"; fi
done
"""

IMAGES = """\
for name in "$@"; do
  id=$(docker image inspect --format '{{.Id}}' "$name" 2>/dev/null)
  echo "${id:-none}"
done
"""

UNPACK = """\
set -eu
umask 077
node=$1
archive=$(mktemp /run/bundle.XXXXXX)
trap 'rm -f "$archive"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$archive"
if [ "$(sha256sum <"$archive")" != "$2  -" ]; then
  echo "the archive did not arrive whole" >&2
  exit 1
fi
if [ -d "/opt/$node/sealing" ] && ! tar -xOf "$archive" "opt/$node/.env" 2>/dev/null |
  grep -q '^COMPOSE_FILE=.*\\.journal\\.yml'; then
  echo "logs are sealed there, and with this bundle they would go to the disk in plain text:" \\
    "make a new one with init --logs journal (or first logs seal --undo there)" >&2
  exit 1
fi
secrets=/opt/$node/secrets
for name in link_token tunnel_preshared_key; do
  digest=$(tar -xOf "$archive" "opt/$node/secrets/$name" 2>/dev/null | tr -d '\n' | sha256sum)
  if grep -qsxF -e "${digest%% *}" "$secrets/.revoked-secrets"; then
    echo "its $name was revoked here: make a new bundle with init --rotate" >&2
    exit 1
  fi
done
sum() { cat "$secrets/"* 2>/dev/null | sha256sum; }
before=$(sum)
was_changed=$(ls "$secrets/.changed" 2>/dev/null || true)
if [ -d "$secrets" ]; then touch "$secrets/.changed"; fi
tar -xpf "$archive" -C /
if [ -z "$was_changed" ] && [ "$(sum)" = "$before" ]; then
  rm -f "$secrets/.changed"
else
  touch "$secrets/.changed"
fi
"""
"""The mark stays until the containers were made anew: Compose does not look into secrets. It is
there before the first of them is replaced, for a call that is interrupted. Secrets that `revoke`
has taken out of use (scripts/lifecycle/revoked.py) do not come back. Nor do settings that would
take sealed logs to the disk.
"""

KEYS = """\
set -eu
cd "/opt/$1"
exec scripts/node-admin keys
"""

STORE_KEY = """\
set -eu
cd "/opt/$1"
exec scripts/node-admin unlock --unattended
"""
"""Makes the file in memory that the store's key is to be in."""

UP = """\
set -eu
cd "/opt/$1"
shift
if [ -e secrets/.changed ]; then set -- "$@" --force-recreate; fi
docker compose up --detach --quiet-pull "$@"
rm -f secrets/.changed
"""

BOOT = """\
set -eu
if [ ! -d /run/systemd/system ]; then
  echo none
  exit
fi
systemctl daemon-reload
systemctl enable --now "node@$1"
"""

HEALTH = """\
format='{{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}}'
format="$format {{with .State.Health}}{{.Status}}{{else}}none{{end}}"
docker ps -aq --filter "label=com.docker.compose.project=$1" |
  xargs -r docker inspect --format "$format"
"""

DOCTOR = """\
cd "/opt/$1" && exec scripts/node-admin doctor --json
"""

POLL_SECONDS = 3.0
POLL_SHARE = 5
"""A pause is at least so many times as long as the look before it: a slow host has better to do."""
PATIENCE = {"relay": 240, "model": 1500, "worker": 1500}
"""Seconds until a node must be healthy; an engine takes minutes to load its weights."""


@dataclass(frozen=True)
class Order:
    """What is to be brought."""

    bundle: Bundle
    archive: bytes
    images: bool
    wait_seconds: int | None = None

    @property
    def node(self) -> str:
        return self.bundle.node

    @property
    def seconds(self) -> int:
        return PATIENCE[self.node] if self.wait_seconds is None else self.wait_seconds

    @property
    def makes_keys_there(self) -> bool:
        """Whether the bundle leaves the private keys to the node itself."""
        with tarfile.open(fileobj=io.BytesIO(self.archive)) as files:
            return f"opt/{self.node}/secrets/tunnel_private_key" not in files.getnames()

    @property
    def keeps_key_in_memory(self) -> bool:
        """Whether the store's key is not to be a file on the node's disk."""
        files = settings_of(self.bundle, self.archive).get("COMPOSE_FILE", "").split(":")
        return lock_of(files) != FILE


def titles(order: Order) -> list[str]:
    """The steps in order, by their titles."""
    images = ["images, built here", "images, those that the host lacks"]
    return [
        "the host",
        *(images if order.images else []),
        f"the bundle, into /opt/{order.node}",
        *(["private keys, made there"] if order.makes_keys_there else []),
        *(["the store's key, in memory"] if order.keeps_key_in_memory else []),
        "containers",
        "start at boot",
        "health",
        "doctor",
    ]


@dataclass
class Deployment:
    """One node on its way to its host."""

    connection: Connection
    steps: Steps
    order: Order
    facts: dict[str, str] = field(default_factory=dict)

    def run(self) -> bool:
        """Take all steps; whether the node is well then. Raises StepFailed, NoConnection."""
        titled = iter(titles(self.order))
        with self.steps.step(next(titled)) as step:
            self.look(step)
        if self.order.images:
            with self.steps.step(next(titled)) as step:
                built = build(step, self.order.bundle, self.order.archive)
            with self.steps.step(next(titled)) as step:
                self.send_images(step, built)
        with self.steps.step(next(titled)) as step:
            self.unpack(step)
        if self.order.makes_keys_there:
            with self.steps.step(next(titled)) as step:
                self.make_keys(step)
            if settings_of(self.order.bundle, self.order.archive)["TUNNEL_PEER_KEY"] == UNKNOWN_KEY:
                self.steps.say(
                    "Not started yet: make the other node's bundle, give its public key to "
                    "`init --peer-key KEY`, and run this again."
                )
                return True
        if self.order.keeps_key_in_memory:
            with self.steps.step(next(titled)) as step:
                said = self.ask("store key", STORE_KEY, self.order.node)
                step.say(printable(said.out.strip()))
        with self.steps.step(next(titled)) as step:
            is_up = self.start(step)
        with self.steps.step(next(titled)) as step:
            self.enable(step)
        with self.steps.step(next(titled)) as step:
            is_healthy = self.wait(step, self.order.seconds if is_up else 0)
        with self.steps.step(next(titled)) as step:
            findings = self.examine(step)
        for finding in findings:
            self.steps.say(f"  {finding}")
        return is_up and is_healthy and not any(it.startswith("failure") for it in findings)

    def ask(self, name: str, script: str, *arguments: str, given: bytes = b"") -> Said:
        """Run a script there. Raises StepFailed where it fails."""
        said = self.connection.run(name, script, *arguments, given=given)
        if said.code != 0:
            raise StepFailed(f"On the host `{name}` failed ({said.why}): mend that, and run again.")
        return said

    def look(self, step: Step) -> None:
        said = self.ask("look", LOOK, *COMPRESSORS)
        self.facts = said.pairs
        if self.facts.get("user") != "0":
            raise StepFailed("The steps there need root: log in as root, or as who may use sudo.")
        for name in ("docker", "compose"):
            if not self.facts.get(name):
                raise StepFailed(
                    f"The host has no {name.capitalize()} that answers: install Docker Engine 25 "
                    "or newer with Compose there, then run this again."
                )
        docker, compose = (printable(self.facts[it]) for it in ("docker", "compose"))
        step.say(f"Docker {docker}, Compose {compose}")

    def send_images(self, step: Step, built: list[Image]) -> None:
        """Only those that are not there, by their ids: the tags may be those of older ones."""
        there = MACHINES.get(self.facts["machine"], self.facts["machine"])
        if other := {image.architecture for image in built} - {there}:
            raise StepFailed(
                f"The images are for {min(other)}, and the host is {printable(there)}: build them "
                f"for that (DOCKER_DEFAULT_PLATFORM=linux/{printable(there)}), then run this again."
            )
        lacking = self.lacking(built)
        if not lacking:
            step.say("all are there")
            return
        by = compressor(self.facts)
        with self.connection.opened("load", f"set -e\n{unpacking(by)}\n") as (sink, end):
            pack(step, lacking, by, sink)
            said = end()
        if said.code != 0 or self.lacking(lacking):
            raise StepFailed(
                f"The host did not take the images ({said.why}): see how much room it has, and "
                "run this again."
            )
        size = megabytes(sum(image.size for image in lacking))
        step.say(f"{len(lacking)} of {len(built)} sent, {size}")

    def lacking(self, images: list[Image]) -> list[Image]:
        said = self.ask("images", IMAGES, *(image.name for image in images))
        return [
            image
            for image, found in zip(images, said.out.split(), strict=True)
            if found != image.id
        ]

    def unpack(self, step: Step) -> None:
        digest = hashlib.sha256(self.order.archive).hexdigest()
        self.ask("unpack", UNPACK, self.order.node, digest, given=self.order.archive)
        step.say("unpacked; no copy is left")

    def make_keys(self, step: Step) -> None:
        said = self.ask("keys", KEYS, self.order.node)
        step.say(f"the public key, for the other node's --peer-key: {printable(said.out.strip())}")

    def start(self, step: Step) -> bool:
        """Whether all containers started; if not, the doctor still says more."""
        # The VPS has nothing to build from, and is too small for it.
        flags = ["--no-build"] if not self.order.bundle.sources else []
        said = self.connection.run("up", UP, self.order.node, *flags)
        if said.code != 0:
            step.say(f"not all started ({said.why})")
        return said.code == 0

    def enable(self, step: Step) -> None:
        said = self.ask("boot", BOOT, self.order.node)
        has_none = said.out.strip() == "none"
        step.say("no systemd there: see to it yourself" if has_none else "enabled")

    def wait(self, step: Step, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            said = self.ask("health", HEALTH, self.order.node)
            took = time.monotonic() - began
            states = [printable(line).split() for line in said.out.splitlines()]
            waiting = [it[0] for it in states if it[1:] not in WELL]
            if states and not waiting:
                step.say(f"{', '.join(sorted(it[0] for it in states))}: all healthy")
                return True
            words = f"waiting for {', '.join(waiting)}" if states else "there is no container"
            if time.monotonic() >= deadline:
                step.say(f"{words}: not healthy after {seconds:.0f} s")
                return False
            step.note = words
            left = max(0.0, deadline - time.monotonic())
            time.sleep(min(max(POLL_SECONDS, POLL_SHARE * took), left))

    def examine(self, step: Step) -> list[str]:
        """What the doctor found amiss there, in lines, failures first."""
        said = self.connection.run("doctor", DOCTOR, self.order.node)
        try:
            found = json.loads(said.out)["findings"]
            amiss = [it for it in found if it["level"] in AMISS]
            amiss.sort(key=lambda it: AMISS.index(it["level"]))
            lines = list(dict.fromkeys(printable(line_of(it)) for it in amiss))
        except (ValueError, KeyError, TypeError):
            step.say("it could not look")
            return [f"failure: the doctor did not answer ({said.why}) -> run it there yourself."]
        step.say("all is in order" if not lines else "it found this:")
        return lines


def line_of(finding: dict[str, str]) -> str:
    remedy = f" -> {finding['remedy']}" if finding["remedy"] else ""
    return f"{finding['level']}: {finding['text']}{remedy}"


WELL = (["running", "healthy"], ["running", "none"])
AMISS = ("failure", "warning", "could not look")
