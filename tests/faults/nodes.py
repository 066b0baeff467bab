"""Owns both nodes seen from outside: their containers' states and processes, clocks, and disk.

Everything is done from the host, as a failing machine would do it: processes are killed by their
host numbers (`docker kill` suppresses the restart policy), packets are dropped by rules in the
container's own namespace, which end with it at the latest.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from scripts.pair import VERSION, Pair
from scripts.setup import ROOT

RELAY_NODE = ("wireguard", "uplink", "egress", "relay")
MODEL_NODE = ("wireguard", "uplink", "gateway", "engine")
SERVICES = (*(f"vps-{s}" for s in RELAY_NODE), *(f"home-{s}" for s in MODEL_NODE))
"""Containers by the names that faults use."""

STEADY_SECONDS = 10.5
"""Docker restarts what ran for 10 s at once, and backs off from what did not."""

DISK_MEGABYTES = 256

STUBS_IMAGE = f"node-test/stubs:{VERSION}"


class Dead(Exception):
    """A container is down and does not come back: see its last words."""


@dataclass(frozen=True)
class State:
    """One container now."""

    id: str
    pid: int
    """0: it does not run."""
    started: float
    """Seconds since the epoch."""
    status: str
    is_healthy: bool


class Nodes:
    """The running pair's eight containers."""

    def __init__(self, pair: Pair, docker: aiohttp.ClientSession) -> None:
        self.pair = pair
        self._docker = docker
        self._second_relay = f"{pair.name}-second-relay"

    def container(self, name: str) -> str:
        """Docker's name of `vps-relay`, `home-gateway` and so on."""
        node, _, service = name.partition("-")
        project = self.pair.relay_node if node == "vps" else self.pair.model_node
        return self.pair.container(project, service)

    async def inspect(self, container: str) -> dict[str, Any]:
        async with self._docker.get(f"http://docker/containers/{container}/json") as response:
            answer: dict[str, Any] = await response.json()
            if response.status != 200:
                raise Dead(f"{Dead.__doc__} {container}: {answer}")
            return answer

    async def state(self, name: str) -> State:
        seen = await self.inspect(self.container(name))
        state = seen["State"]
        return State(
            seen["Id"],
            int(state["Pid"]),
            _epoch(state["StartedAt"]),
            str(state["Status"]),
            state.get("Health", {}).get("Status", "healthy") == "healthy",
        )

    async def processes(self, name: str, text: str) -> list[int]:
        """Host numbers of a container's processes whose command line contains the text."""
        url = f"http://docker/containers/{self.container(name)}/top"
        async with self._docker.get(url, params={"ps_args": "-eo pid,args"}) as response:
            if response.status != 200:
                return []
            rows = (await response.json())["Processes"] or []
        return [int(pid) for pid, args in rows if text in args and "docker-init" not in args]

    async def wait_until_steady(self, name: str) -> State:
        """Wait until a container has run so long that its next end is not held against it."""
        while True:
            state = await self.state(name)
            left = state.started + STEADY_SECONDS - time.time()
            if state.pid and left <= 0:
                return state
            await asyncio.sleep(max(0.3, left if state.pid else 0.3))

    async def wait_until_back(self, name: str, before: State) -> State:
        """Wait until the container's process is another one, and healthy."""
        while True:
            state = await self.state(name)
            if state.pid not in (0, before.pid) and state.is_healthy:
                return state
            await asyncio.sleep(0.15)

    async def execute(self, name: str, *command: str, given: str = "", wide: bool = False) -> None:
        """Run a command as root in a container; `wide` lends it every capability."""
        flags = ["--privileged"] if wide else []
        argv = ["docker", "exec", "-i", "--user=0", *flags, self.container(name), *command]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate(given.encode())
        if process.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {said.decode().strip()}")

    async def reconcile(self) -> list[str]:
        """Do on both nodes what their timer does; what was said."""
        said = []
        for project in (self.pair.relay_node, self.pair.model_node):
            arguments = self.pair.compose(project)[2:]  # less `docker compose`
            process = await asyncio.create_subprocess_exec(
                str(ROOT / "scripts/reconcile"),
                project,
                *arguments,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **self.pair.environment()},
            )
            output, _ = await process.communicate()
            said += output.decode().splitlines()
        return said

    # Packets

    @contextlib.asynccontextmanager
    async def cut(self, name: str, hooks: tuple[str, ...]) -> AsyncIterator[None]:
        """Drop what a container's outside interface takes (`input`) or sends (`output`)."""
        chains = [
            f"chain {hook} {{ type filter hook {hook} priority -400; policy drop;"
            f' {"iifname" if hook == "input" else "oifname"} "lo" accept; }}'
            for hook in hooks
        ]
        rules = "table inet cut {\n" + "\n".join(chains) + "\n}\n"
        await _insist(lambda: self.execute(name, "nft", "-f", "-", given=rules, wide=True))
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # a new namespace does not have it
                await self.execute(name, "nft", "delete", "table", "inet", "cut", wide=True)

    # A second relay

    async def start_second_relay(self) -> None:
        """Start another relay like the first, with its settings and secrets, in its namespace."""
        first = await self.inspect(self.container("vps-relay"))
        config, host = first["Config"], first["HostConfig"]
        labels = {"com.docker.compose.project": self.pair.relay_node}  # removed with the node
        body = {
            "Image": config["Image"],
            "User": config["User"],
            "Env": config["Env"],
            "Cmd": config["Cmd"],
            "Entrypoint": config["Entrypoint"],
            "Labels": labels,
            "HostConfig": {
                **{key: host[key] for key in _SAME if key in host},
                "RestartPolicy": {"Name": "no"},
            },
        }
        await _insist(lambda: self._start(self._second_relay, body))

    async def _start(self, container: str, body: dict[str, Any]) -> None:
        await self.end_second_relay()
        url = f"http://docker/containers/create?name={container}"
        async with self._docker.post(url, json=body) as response:
            if response.status != 201:
                raise RuntimeError(f"creating {container}: {await response.text()}")
        async with self._docker.post(f"http://docker/containers/{container}/start") as response:
            if response.status != 204:
                raise RuntimeError(f"starting {container}: {await response.text()}")

    async def end_second_relay(self) -> None:
        url = f"http://docker/containers/{self._second_relay}?force=true"
        async with self._docker.delete(url) as response:
            await response.read()

    # The engine's script

    async def script_engine(self, **script: Any) -> None:
        """Tell the engine how to answer from now on; one that restarts has its first script."""
        async with self._engine() as engine:
            body = {**SCRIPT, **script}
            async with engine.post("http://engine/control/script", json=body) as response:
                response.raise_for_status()

    async def engine_requests(self) -> list[dict[str, Any]]:
        """What the engine was asked since it started."""
        async with self._engine() as engine:
            async with engine.get("http://engine/control/running") as response:
                running: dict[str, Any] = await response.json()
            return list(running["ids"])

    @contextlib.asynccontextmanager
    async def _engine(self) -> AsyncIterator[aiohttp.ClientSession]:
        pid = (await self.state("home-engine")).pid
        connector = aiohttp.UnixConnector(f"/proc/{pid}/root/run/engine/engine.sock")
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield session

    # Clocks

    def step_clock(self, service: str, seconds: int) -> None:
        """Show `relay` or `gateway` a clock that is wrong by this much; the host's stays."""
        (self.pair.state / "faketime" / service).write_text(f"{seconds:+d}", encoding="ascii")

    # The store's disk

    @property
    def _filler(self) -> Path:
        return self.pair.state / "disk" / "filler"

    def fill_disk(self) -> None:
        """Leave no byte on the disk of the store."""
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))

    def free_disk(self) -> None:
        self._filler.unlink(missing_ok=True)

    async def last_words(self, name: str, lines: int = 15) -> str:
        """The end of a container's log."""
        process = await asyncio.create_subprocess_exec(
            "docker", "logs", "--tail", str(lines), self.container(name),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        return (await process.communicate())[0].decode()


SCRIPT: dict[str, Any] = {"content": {"essay": 40}, "speed": 15}
"""As in model.yml: an engine that restarts goes on alike."""

_SAME = (
    "NetworkMode", "Binds", "Mounts", "Tmpfs", "CapDrop", "SecurityOpt", "ReadonlyRootfs", "Init",
    "Memory", "MemorySwap", "PidsLimit", "Ulimits",
)  # fmt: skip


async def _insist(act: Callable[[], Awaitable[None]], seconds: float = 30) -> None:
    """Try until it succeeds: what it is about may be restarting just now."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await act()
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.3)


def _epoch(written: str) -> float:
    """Read Docker's time, which has nanoseconds."""
    head, _, rest = written.rstrip("Z").partition(".")
    when = datetime.fromisoformat(head + "+00:00").timestamp()
    return when + float(f"0.{rest or 0}")


@contextlib.asynccontextmanager
async def open_nodes(pair: Pair) -> AsyncIterator[Nodes]:
    """Connect to Docker; every fault that this test can leave behind is taken back at the end."""
    connector = aiohttp.UnixConnector(
        os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or "/var/run/docker.sock"
    )
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as docker:
        yield Nodes(pair, docker)


@contextlib.contextmanager
def props(pair: Pair) -> Iterator[None]:
    """Lay out what the overlays bind: the clocks' library and files, and a disk of its own."""
    disk = pair.state / "disk"
    faketime = pair.state / "faketime"
    for folder in (disk, faketime):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    library = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--entrypoint=sh", STUBS_IMAGE, "-c"]
        + ["cat /usr/lib/*/faketime/libfaketimeMT.so.1"],
        check=True,
        capture_output=True,
    ).stdout
    (faketime / "libfaketime.so").write_bytes(library)
    for service in ("relay", "gateway"):
        (faketime / service).write_text("+0", encoding="ascii")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m,mode=0700,uid=10003,gid=10020"]
        + ["faults", str(disk)],
        check=True,
    )
    try:
        yield
    finally:
        unmount(disk)
        shutil.rmtree(faketime, ignore_errors=True)


def unmount(disk: Path) -> None:
    """Take the store's disk away, also one that an interrupted run left."""
    while disk.is_mount():
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
