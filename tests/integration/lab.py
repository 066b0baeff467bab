"""Owns containers and networks that a test starts one by one, hardened as by Compose."""

import fcntl
import functools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from python_on_whales import Container, DockerClient
from python_on_whales.exceptions import DockerException

ROOT = Path(__file__).resolve().parents[2]
VERSION = os.environ.get("VERSION", "0.1.0")
WIREGUARD = f"node/wireguard:{VERSION}"
EGRESS = f"node/egress:{VERSION}"
PEER = f"node-test/peer:{VERSION}"


class Lab:
    """A test network and what was started on it; all of it is removed when the block ends."""

    def __init__(
        self, docker: DockerClient, name: str, subnet: str, options: Sequence[str] = ()
    ) -> None:
        self.docker = docker
        self.name = name
        self.subnet = subnet  # of 198.18.0.0/15, such as "198.18.64"
        self.options = options  # further ones for `docker network create`
        self._cleanup = ExitStack()

    def __enter__(self) -> "Lab":
        self._wait_for_turn()
        self.remove_leftovers()
        subprocess.run(
            ["docker", "network", "create", "--internal", "--subnet", f"{self.subnet}.0/24"]
            + [*self.options, "--label", self.label, self.name],
            check=True,
            capture_output=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.remove_leftovers()
        self._cleanup.close()

    def _wait_for_turn(self) -> None:
        """Names and addresses are the whole machine's: a second run waits for the first."""
        path = Path(tempfile.gettempdir(), f"lab-{self.name}.lock")
        fcntl.flock(self._cleanup.enter_context(path.open("a")), fcntl.LOCK_EX)

    @property
    def label(self) -> str:
        return f"lab={self.name}"

    def remove_leftovers(self) -> None:
        """Remove what carries this lab's label, of this run or of an interrupted one."""
        for container in self.docker.container.list(all=True, filters=[("label", self.label)]):
            container.remove(force=True, volumes=True)
        for network in self.docker.network.list(filters=[("label", self.label)]):
            network.remove()
        for volume in self.docker.volume.list(filters=[("label", self.label)]):
            volume.remove()

    def volume(self, name: str, options: Mapping[str, str]) -> str:
        """Create a volume and return its full name."""
        key, _, value = self.label.partition("=")
        volume = self.docker.volume.create(
            f"{self.name}-{name}", labels={key: value}, options=dict(options)
        )
        return volume.name

    def run(
        self,
        name: str,
        image: str,
        command: Sequence[str],
        *,
        address: int | None = None,
        namespace_of: Container | None = None,
        processes_of: Container | None = None,
        capabilities: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        volumes: Sequence[tuple[str, str, str]] = (),
        devices: Sequence[str] = (),
        sysctls: Mapping[str, str] | None = None,
        user: str | None = None,
        hardened: bool = True,
        restart: str = "no",
        memory: str = "96m",
    ) -> Container:
        """Start a container; `address` is its last number on the lab's network."""
        require(image)
        key, _, value = self.label.partition("=")
        container = self.docker.run(
            image,
            command,
            name=f"{self.name}-{name}",
            labels={key: value},
            detach=True,
            networks=[self.network_of(address, namespace_of)],
            ip=f"{self.subnet}.{address}" if address else None,
            pid=f"container:{processes_of.id}" if processes_of else None,
            cap_drop=["ALL"] if hardened else [],
            cap_add=list(capabilities),
            read_only=hardened,
            security_options=["no-new-privileges:true"] if hardened else [],
            tmpfs=[Path("/run:size=1m,noexec,nosuid,nodev")] if hardened else [],
            ulimit=["core=0"],
            memory=memory,
            memory_swap=memory,
            pids_limit=64,
            envs=dict(settings or {}),
            volumes=list(volumes),
            devices=list(devices),
            sysctl=dict(sysctls or {}),
            user=user,
            restart=restart,
        )
        assert isinstance(container, Container)
        return container

    def network_of(self, address: int | None, namespace_of: Container | None) -> str:
        if namespace_of:
            return f"container:{namespace_of.id}"
        return self.name if address else "none"


def probe(container: Container, *arguments: str) -> tuple[bool, str]:
    """Run one action of probe.py in a container: whether it succeeded, and what it printed."""
    return attempt(container, "python3", "/probe.py", *arguments)


def attempt(container: Container, *command: str) -> tuple[bool, str]:
    """Run a command in a container: whether it succeeded, and its output."""
    done = subprocess.run(
        ["docker", "exec", container.id, *command], capture_output=True, text=True, check=False
    )
    return done.returncode == 0, done.stdout.strip()


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> float:
    """Wait for a condition; return how long it took. The message names what did not happen."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)
    return time.monotonic() - started


def wait_until_healthy(container: Container, seconds: float = 20) -> float:
    """Wait for the image's own health command, and fail early when the container has died."""

    def is_healthy() -> bool:
        state = container.state  # asks Docker each time
        assert state.running or state.restarting, f"{container.name} ended:\n{container.logs()}"
        return bool(state.running) and attempt(container, "health")[0]

    return wait_until(is_healthy, f"{container.name} is healthy", seconds)


def process_ids(container: Container, text: str) -> list[int]:
    """Host process ids of a container's processes whose command line contains the text."""
    listing = subprocess.run(
        ["docker", "top", container.id, "-eo", "pid,args"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split(None, 1) for line in listing.stdout.splitlines()[1:]]
    return [int(row[0]) for row in rows if text in row[1]]


def kill_process(container: Container, text: str) -> None:
    """SIGKILL from the host: `docker kill` would suppress the restart policy."""
    found = process_ids(container, text)
    assert len(found) == 1, f"{text!r} in {container.name}: {found}"
    os.kill(found[0], signal.SIGKILL)


def start_and_fail(image: str, *options: str) -> tuple[int, str]:
    """Run a container that must end by itself; its exit status and what it said on stderr.

    Read from its log: a client that is attached may miss what a container of a moment says. On a
    busy machine Docker calls it ended two seconds after its end at the latest, and writes on.
    """
    require(image)
    started = docker_says("run", "--detach", *options)
    try:
        code = int(docker_says("wait", started.stdout.strip(), timeout=30).stdout)
        deadline = time.monotonic() + 20
        said = ""
        while not said and time.monotonic() < deadline:
            said = docker_says("logs", started.stdout.strip()).stderr
        return code, said
    finally:
        docker_says("rm", "--force", started.stdout.strip())


def docker_says(*command: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *command], capture_output=True, text=True, timeout=timeout, check=True
    )


@functools.cache
def sysctls_of(node: str, service: str) -> dict[str, str]:
    """A service's kernel settings as the Compose file of a node (vps, gpu) gives them."""
    command = ["docker", "compose", "--project-directory", str(ROOT)]
    command += ["--env-file", str(ROOT / f".env.{node}.example")]
    command += ["-f", str(ROOT / f"compose.{node}.yml"), "config", "--format", "json"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(shown.stdout)["services"][service]["sysctls"])


@functools.cache
def require(image: str) -> None:
    """Fail early, and say what to do, if this machine does not have an image."""
    try:
        DockerClient().image.inspect(image)
    except DockerException:
        raise AssertionError(f"{image} is missing: ./scripts/test integration builds it") from None
