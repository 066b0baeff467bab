"""Owns one pair of nodes on this machine: their keys and settings, and their starting and removal.

Three Compose projects: the test internet, the relay node, the model node. The demonstration and the
tests use pairs of different names, networks and state directories, so that both can run at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.setup import ROOT, answer_of, compose_environment, image_id
from scripts.steps import Step, StepFailed
from scripts.telegram_user import TelegramUser

VERSION = "0.1.0"
WIREGUARD_IMAGE = f"node/wireguard:{VERSION}"
USER = 1001  # the Telegram user of demonstrations and tests
ENGINES = ("llamacpp", "vllm-cpu", "stub")
ENGINE_SECONDS = {"llamacpp": 180, "vllm-cpu": 900, "stub": 120}
SETTINGS_VERSION = 1  # raised whenever what stands in a state directory changes


@dataclass(frozen=True)
class Pair:
    """A relay node and a model node, joined by a network that plays the internet."""

    name: str
    subnet: str
    """The first three numbers of the test internet's /24, within 198.18.0.0/15."""
    state: Path
    engine: str = "llamacpp"
    users: tuple[int, ...] = (USER,)
    token_file: Path | None = None
    """The token of a real bot; None for the stub Bot API server."""
    resolver: str = ""
    """The name server for real Telegram."""
    extra_settings: tuple[tuple[str, str], ...] = ()
    """Settings of the model node beyond those that a start needs."""
    relay_overlays: tuple[str, ...] = ()
    model_overlays: tuple[str, ...] = ()
    """Compose files on top of the others, by their paths in the repository."""

    @property
    def internet(self) -> str:
        return f"{self.name}-internet"

    @property
    def relay_node(self) -> str:
        return f"{self.name}-relay"

    @property
    def model_node(self) -> str:
        return f"{self.name}-model"

    @property
    def control_socket(self) -> Path:
        """Where the stub Bot API server takes orders from whoever plays the users."""
        return self.state / "telegram" / "control.sock"

    def container(self, project: str, service: str) -> str:
        return f"{project}-{service}-1"

    # Making it

    def prepare(self, step: Step) -> None:
        """Write keys, secrets and settings, unless a whole set from an earlier start is there."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._is_prepared():
            step.say("kept from the last start")
        else:
            # New keys do not open an old store, so what an interrupted start left must go first.
            self.down(step, volumes=True)
            self._write_secrets(step)
            step.say(f"written to {self.state}")
        self._write_settings()

    def start_internet(self, step: Step) -> None:
        """The network that both nodes see, with its Bot API server and name server."""
        if self.token_file is None:
            self._up(step, {self.internet: 60})
            step.say(f"Bot API server at {self.subnet}.20, name server at {self.subnet}.53")
            return
        if not answer_of(["docker", "network", "inspect", "-f", "{{.Id}}", self.internet]):
            step.run(
                ["docker", "network", "create", "--internal", f"--subnet={self.subnet}.0/24"]
                + [f"--label=com.docker.compose.project={self.internet}", self.internet],
                doing="creating the network between the nodes",
                remedy=f"Is {self.subnet}.0/24 in use? Then remove that network.",
            )
        step.say("joins the two ends of the tunnel; Telegram is the real one")

    def start_nodes(self, step: Step) -> None:
        """Both nodes at once, until every container is healthy."""
        step.note = "waiting for eight healthy containers"
        self._up(step, {self.model_node: ENGINE_SECONDS[self.engine], self.relay_node: 120})
        step.say("eight containers are healthy")

    def wait_for_contact(self, step: Step, seconds: float = 60) -> None:
        """Until the relay follows the gateway's stream and asks Telegram for updates."""
        relay = self.container(self.relay_node, "relay")
        step.note = "waiting for the relay to reach the gateway through the tunnel"
        wait_until(
            lambda: '"action": "connected"' in output_of(["docker", "logs", relay]),
            seconds=seconds,
            doing="The relay reaching the gateway",
            remedy=f"Its reasons: docker logs {relay}",
        )
        if self.token_file is None:
            user = TelegramUser(self.control_socket, self.users[0])
            step.note = "waiting for the relay to ask for updates"
            wait_until(
                lambda: bool(user.state()["active_poller"]),
                seconds=seconds,
                doing="The relay asking for updates",
                remedy=f"Its reasons: docker logs {relay}",
            )
        step.say("the relay follows the gateway and listens to Telegram")

    def down(self, step: Step, *, volumes: bool) -> None:
        """Remove containers and networks; with `volumes`, everything that this pair ever kept."""
        remove_projects(step, (self.relay_node, self.model_node, self.internet), volumes=volumes)
        if self.token_file is not None or volumes:
            step.attempt(["docker", "network", "rm", "-f", self.internet])
        if volumes:
            self._clear_state(step)

    def is_up(self) -> bool:
        return any(containers_of(project) for project in (self.relay_node, self.model_node))

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep others from using this pair meanwhile."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.state / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise StepFailed(
                    f"The pair `{self.name}` is in use by process {lock.read().strip() or '?'}: "
                    "end that one (Ctrl-C, or /quit in its chat), then run this again."
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    # Compose

    def compose(self, project: str, *arguments: str) -> list[str]:
        """The command line for one of the three projects."""
        files = {
            self.internet: ["tests/stubs/internet.yml"],
            self.relay_node: [
                "compose.vps.yml",
                "tests/stubs/vps.yml" if self.token_file is None else "tests/stubs/tunnel.yml",
                *self.relay_overlays,
            ],
            self.model_node: [
                "compose.gpu.yml",
                "tests/stubs/engine.yml"
                if self.engine == "stub"
                else f"services/engine/{self.engine}.yml",
                "tests/stubs/gpu.yml",
                *self.model_overlays,
            ],
        }[project]
        command = ["docker", "compose", "--project-directory", str(ROOT), "-p", project]
        env_file = self._env_file(project)
        command += ["--env-file", str(env_file)] if env_file else []
        for file in files:
            command += ["-f", str(ROOT / file)]
        return [*command, *arguments]

    def environment(self) -> dict[str, str]:
        """The variables of the overlays; the nodes' own settings stand in their env files."""
        return compose_environment(
            {
                "SUBNET": self.subnet,
                "INTERNET": self.internet,
                "STATE": str(self.state),
                "VERSION": os.environ.get("VERSION", VERSION),
            }
        )

    def _up(self, step: Step, seconds: Mapping[str, int]) -> None:
        """Start projects at once; `seconds` says how long each may take to become healthy."""
        flags = ["--detach", "--no-build", "--pull=never", "--remove-orphans", "--wait"]
        codes = step.attempt_together(
            [
                self.compose(project, "up", *flags, f"--wait-timeout={limit}")
                for project, limit in seconds.items()
            ],
            timeout=max(seconds.values()) + 60,
            env=self.environment(),
            cwd=ROOT,
        )
        for project, code in zip(seconds, codes, strict=True):
            if code:
                raise StepFailed(self._why_down(project))
        if None in codes:
            raise StepFailed(f"Starting {' and '.join(seconds)} did not end. Run this again.")

    def _why_down(self, project: str) -> str:
        """Name the first container that is not as it should be, with its last words."""
        for container in containers_of(project):
            if container["State"] == "running" and "unhealthy" not in container["Status"]:
                continue
            if container["State"] == "created":
                continue
            words = output_of(["docker", "logs", "--tail", "5", container["Names"]])
            said = words.strip() or "nothing"
            return (
                f"Container {container['Names']} is not well ({container['Status']}). It said:\n"
                f"{said}\nMend that, then run this again."
            )
        return f"Starting {project} failed: see the lines below, then run this again."

    # Keys, secrets, settings

    def _is_prepared(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            made = json.loads((self.state / "made.json").read_text(encoding="utf-8"))
            return bool(made.get("version") == SETTINGS_VERSION and made.get("bot") == self._bot())
        return False

    def _bot(self) -> str:
        """Which bot the keys in the state directory were made for."""
        if self.token_file is None:
            return "stub"
        return hashlib.sha256(read_token(self.token_file).encode()).hexdigest()

    def _write_secrets(self, step: Step) -> None:
        """Make all secrets in a container of root's: they belong to the services' own users."""
        token = (
            f"{secrets.randbelow(10**9) + 10**9}:{secrets.token_urlsafe(48)[:35]}"
            if self.token_file is None
            else read_token(self.token_file)
        )
        made = subprocess.run(
            ["docker", "run", "--rm", "-i", "--network=none", "--entrypoint=bash"]
            + ["-v", f"{self.state}:/state", WIREGUARD_IMAGE, "-c", MAKE_SECRETS],
            input=f"{token}\n{secrets.token_urlsafe(32)}\n{secrets.token_hex(32)}\n",
            capture_output=True,
            text=True,
            check=False,
        )
        public_keys = made.stdout.split()
        if made.returncode != 0 or len(public_keys) != 2:
            with step.steps.log.open("a", encoding="utf-8") as log:
                log.write(made.stderr)
            raise StepFailed("Making keys in a container failed: see the lines below.")
        part = self.state / "made.part"
        part.write_text(
            json.dumps(
                {
                    "version": SETTINGS_VERSION,
                    "bot": self._bot(),
                    "relay_key": public_keys[0],
                    "model_key": public_keys[1],
                }
            ),
            encoding="utf-8",
        )
        part.replace(self.state / "made.json")  # written last: its presence means "complete"

    def _write_settings(self) -> None:
        made = json.loads((self.state / "made.json").read_text(encoding="utf-8"))
        users = ",".join(map(str, self.users))
        relay = {
            "ALLOWED_USERS": users,
            "TUNNEL_PEER_KEY": made["model_key"],
            "RESOLVER": f"{self.subnet}.53" if self.token_file is None else self.resolver,
            **({"TELEGRAM_NETWORKS": f"{self.subnet}.20/32"} if self.token_file is None else {}),
        }
        model = {
            "ALLOWED_USERS": users,
            "TUNNEL_ENDPOINT": f"{self.subnet}.10:51820",
            "TUNNEL_PEER_KEY": made["relay_key"],
            "WEIGHTS": "unused",  # the overlays of the small engines bring their own
            "CONTEXT_TOKENS": "2048",
            "ANSWER_TOKENS": "512",
            "ENGINE_SLOTS": "4",
            "TEMPERATURE": "0",  # a small model that is asked twice should say the same
            **dict(self.extra_settings),
        }
        for project, settings in ((self.relay_node, relay), (self.model_node, model)):
            env_file = self._env_file(project)
            assert env_file is not None
            own = {"SECRETS": str(env_file.with_suffix("")), "ENV_FILE": str(env_file)}
            lines = [f"{name}={value}\n" for name, value in {**settings, **own}.items()]
            env_file.write_text("".join(lines), encoding="utf-8")
            env_file.chmod(0o644)  # the containers' root has no capability to read past modes

    def _env_file(self, project: str) -> Path | None:
        if project == self.internet:
            return None
        return self.state / ("relay.env" if project == self.relay_node else "model.env")

    def _clear_state(self, step: Step) -> None:
        """Empty the state directory, lock excepted; other users' files take a container's root."""
        if not self.state.exists():
            return
        kept = "lock"
        if os.geteuid() != 0 and image_id(WIREGUARD_IMAGE):
            step.attempt(
                ["docker", "run", "--rm", "--network=none", "--entrypoint=find"]
                + ["-v", f"{self.state}:/state", WIREGUARD_IMAGE, "/state", "-mindepth", "1"]
                + ["-not", "-name", kept, "-delete"]
            )
        for path in self.state.iterdir():
            if path.name == kept or path == step.steps.log:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


MAKE_SECRETS = """
set -euo pipefail
umask 077
cd /state
rm -rf relay model telegram resolver
mkdir relay model telegram resolver
chmod 755 relay model        # the directory above is closed to everybody else
chmod 777 telegram resolver  # the stubs write here as users of their own
read -r bot_token; read -r link_token; read -r store_key
printf '%s' "$bot_token" >relay/bot_token
for node in relay model; do
  printf '%s' "$link_token" >$node/link_token
  wg genkey >$node/tunnel_private_key
done
wg genpsk | tee relay/tunnel_preshared_key >model/tunnel_preshared_key
printf '%s' "$store_key" >model/store_key
chown 10001 relay/bot_token relay/link_token
chown 10003 model/link_token model/store_key
chmod 400 relay/* model/*
wg pubkey <relay/tunnel_private_key
wg pubkey <model/tunnel_private_key
"""


def read_token(file: Path) -> str:
    """The bot's token from the operator's file."""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StepFailed(
            f"The token file {file} cannot be read ({error.strerror}): "
            "put the token that BotFather gave you into it."
        ) from None
    number, _, secret = token.partition(":")
    if not (number.isdigit() and len(secret) >= 30 and not set(token) & set(" \n\t")):
        raise StepFailed(
            f"{file} holds no bot token: it should be one line such as 123456789:AAE…, "
            "as BotFather gave it to you."
        )
    return token


def output_of(argv: Sequence[str]) -> str:
    """Everything that a short command prints, whether or not it succeeds."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def containers_of(project: str) -> list[dict[str, Any]]:
    """All containers of a Compose project, running or not, as `docker ps` describes them."""
    label = f"label=com.docker.compose.project={project}"
    shown = answer_of(["docker", "ps", "-a", "--filter", label, "--format", "{{json .}}"])
    return [json.loads(line) for line in (shown or "").splitlines()]


def remove_projects(step: Step, projects: Sequence[str], *, volumes: bool) -> None:
    """Remove Compose projects by their names alone, whatever became of their settings."""
    kinds: list[tuple[list[str], list[str]]] = [
        (["docker", "ps", "-aq"], ["docker", "rm", "-f", "-v"]),
        (["docker", "network", "ls", "-q"], ["docker", "network", "rm"]),
    ]
    if volumes:
        kinds.append((["docker", "volume", "ls", "-q"], ["docker", "volume", "rm", "-f"]))
    running = labelled(["docker", "ps", "-q"], projects)
    if running:
        step.attempt(["docker", "stop", "-t", "3", *running], timeout=60)
    for list_them, remove_them in kinds:
        found = labelled(list_them, projects)
        if found:
            step.run(
                [*remove_them, *found],
                doing=f"removing {', '.join(projects)}",
                remedy="Run `./scripts/demo down` again.",
                timeout=120,
            )


def labelled(list_them: Sequence[str], projects: Sequence[str]) -> list[str]:
    """Ids (or names) of what belongs to the projects."""
    found: list[str] = []
    for project in projects:
        label = f"label=com.docker.compose.project={project}"
        found += (answer_of([*list_them, "--filter", label]) or "").split()
    return found


def wait_until(
    is_true: Callable[[], bool],
    *,
    seconds: float,
    doing: str,
    remedy: str,
    every_seconds: float = 0.2,
) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise StepFailed(f"{doing}: not within {seconds:.0f} s. {remedy}")
        time.sleep(every_seconds)
