"""Puts `inmate` in services' places: the same Compose configuration, another program inside.

Everything that confines a service is taken from the Compose file as it stands (or from a mutant of
it); replaced are the image and the command, the networks by ones without a way out, and the holder
by one that is there already. Where one key hides behind another (a set-user-id bit behind
`noexec`), the other is taken away, from the unchanged configuration as well.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import functools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.setup import ROOT, compose_environment
from tests.integration.lab import PEER, WIREGUARD
from tests.leaks.behaviour import Finding
from tests.leaks.behaviour.confinement import (
    GUEST,
    PLACES,
    TWIN,
    Place,
    judge_elevation,
    judge_guest,
    judge_mounts,
    judge_other,
    judge_own,
    judge_path,
    judge_refusal,
    judge_root,
    judge_silence,
)
from tests.leaks.behaviour.rules import source
from tests.leaks.wire import pid_of

PROJECT = "mutants-cells"
LABEL = "lab=mutants-cells"
NETWORKS = {
    "tunnel": "198.18.75",
    "telegram": "198.18.76",
    "lan": "198.18.77",
    "workers": "198.18.96",
}
SIXTH = "198.18.78"
CANARY = "mutants-canary"
NODES: dict[str, tuple[str, ...]] = {
    "vps": ("compose.vps.yml",),
    "gpu": ("compose.gpu.yml",),
    "first": ("compose.gpu.yml", "compose.gpu.router.yml"),
    "worker": ("compose.gpu.worker.yml",),
}
"""The Compose files of each; `first` is the model node that workers dial."""

HOLDERS = ("wireguard", "workers")
"""The services that keep a namespace."""

SECRETS = (
    *("bot_token", "link_token", "store_key", "telegram_ca"),
    *("tunnel_private_key", "tunnel_preshared_key"),
    *("workers_private_key", "workers_preshared_key"),
)

SETTINGS = {
    "TUNNEL_PEER_KEY": "k" * 43 + "=",
    "TUNNEL_ENDPOINT": f"{NETWORKS['tunnel']}.10:51820",
    "RESOLVER": f"{NETWORKS['telegram']}.53",
    "ALLOWED_USERS": "1001",
    "WORKERS": f"10.67.0.2={'w' * 42}A=,10.67.0.3={'x' * 42}A=",
    "WORKERS_LISTEN": "127.0.0.1:51821",
    "TUNNEL_ADDRESS": "10.67.0.2",  # of a worker; cells have no environment
}

Config = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One service's place, to be tried in one way."""

    name: str
    node: str
    service: str
    config: Config
    """The whole node's configuration, perhaps a mutant."""
    way: str = "own"

    @property
    def place(self) -> Place:
        return PLACES[self.node, self.service]


class CellFailed(Exception):
    """A container in a service's place did not do what the trial needs."""


def configuration(node: str, folder: Path, given: Mapping[str, str] | None = None) -> Config:
    """The product's file as Compose reads it, with settings and secrets from a folder."""
    secrets = folder / node
    secrets.mkdir(exist_ok=True)
    for name in SECRETS:
        (secrets / name).write_text(name, encoding="ascii")
        (secrets / name).chmod(0o444)  # so that nothing but the mount decides who reads it
    (folder / "env").write_text("", encoding="ascii")
    settings = {
        **(SETTINGS if given is None else given),
        "SECRETS": str(secrets),
        "TELEGRAM_CA_FILE": str(secrets / "telegram_ca"),
        "ENV_FILE": str(folder / "env"),
    }
    done = docker(
        *("compose", "--project-directory", str(ROOT), "--env-file", "/dev/null"),
        *(word for file in NODES[node] for word in ("-f", str(ROOT / file))),
        *("config", "--format", "json"),
        environment=settings,
    )
    config: Config = json.loads(done)
    for service in config["services"].values():
        if service.get("ulimits", {}).get("core") == {}:
            service["ulimits"]["core"] = 0  # Compose leaves a zero out when it prints
    return config


@contextmanager
def prison() -> Iterator[None]:
    """Networks with a neighbour on each, and the holders; removed afterwards."""
    canary = Path("/dev/shm", CANARY)
    with Path(tempfile.gettempdir(), f"{PROJECT}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # names are the whole machine's: one run at a time
        clear()
        canary.touch()
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(_start_neighbour, NETWORKS.items()))
                list(pool.map(_start_holder, NODES))
            yield
        finally:
            canary.unlink(missing_ok=True)
            clear()


def _start_neighbour(network: tuple[str, str]) -> None:
    name, subnet = network
    docker(
        "network", "create", "--internal", f"--subnet={subnet}.0/24", "--label", LABEL, full(name)
    )
    docker(
        *("run", "-d", "--name", full(f"neighbour-{name}"), "--label", LABEL, "--init"),
        *("--network", full(name), "--ip", neighbour_of(name), PEER),
        *("socat", "TCP-LISTEN:8080,fork,reuseaddr", "EXEC:cat"),
    )


def _start_holder(node: str) -> None:
    """What keeps the namespace of a node's workload: the product's sidecar, without a tunnel."""
    listens = node in ("vps", "first")
    near, far = ("10.66.0.1", "10.66.0.2") if listens else ("10.66.0.2", "10.66.0.1")
    docker(
        *("run", "-d", "--name", full(f"holder-{node}"), "--label", LABEL, "--network=none"),
        *("--cap-drop=ALL", "--cap-add=NET_ADMIN", "--tmpfs=/run:size=1m"),
        *("--sysctl=net.ipv6.conf.all.disable_ipv6=1", "--sysctl=net.ipv4.ip_nonlocal_bind=1"),
        *("-v", f"{ROOT}/wireguard/resolv.conf:/etc/resolv.conf:ro"),
        *("-e", f"TUNNEL_END={'listen' if listens else 'dial'}"),
        *("-e", f"TUNNEL_ADDRESS={near}", "-e", f"TUNNEL_PEER_ADDRESS={far}", WIREGUARD, "sidecar"),
    )


def full(name: str) -> str:
    return f"{PROJECT}-{name}"


def neighbour_of(network: str) -> str:
    return f"{NETWORKS[network]}.9"


def clear() -> None:
    """Remove all that this module ever makes."""
    for label in (LABEL, f"com.docker.compose.project={PROJECT}"):
        for listing, removal in (
            (("ps", "-aq"), ("rm", "-f", "-v")),
            (("network", "ls", "-q"), ("network", "rm")),
            (("volume", "ls", "-q"), ("volume", "rm", "-f")),
        ):
            found = docker(*listing, "--filter", f"label={label}").split()
            if found:
                docker(*removal, *found)


def docker(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=compose_environment(dict(environment or {})),
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise CellFailed(f"{' '.join(arguments[:3])}: {lines[-1] if lines else done.returncode}")
    return done.stdout


# Building


def furnish(cell: Cell) -> tuple[Config, Config, Config]:
    """The service in Compose's words, with the volumes and secrets that it names."""
    config = copy.deepcopy(cell.config)
    service: Config = config["services"][cell.service]
    place = cell.place
    given = {
        "report": {"own": "own", "mounts": "mounts", "elevation": "mounts"}.get(
            cell.way, cell.way if cell.way in ("flood", "silence") else "nothing"
        ),
        "stays": True,
        "stubborn": cell.way == "stop",
        "room_kib": 6144,
        "memory_mib": place.memory_mib,
        "tasks": place.tasks,
        "neighbours": {name: neighbour_of(name) for name in NETWORKS},
        "interfaces": sorted(place.interfaces),
        "canary": CANARY,
        "reaps": place.reaps,
        "log_kib": 5120,
    }
    for key in ("build", "deploy", "ports", "command", "shm_size", "environment"):
        service.pop(key, None)
    dependencies = service.pop("depends_on", {})
    service["image"] = PEER
    service["labels"] = {"lab": PROJECT}
    service["entrypoint"] = [
        "python3",
        "-c",
        source("inmate.py").replace("$", "$$"),
        json.dumps(given),
    ]
    waited_for = {"order": HOLDERS, "order-egress": ("egress",)}.get(cell.way, ())
    holder = "service:slow" if cell.way == "order" else f"container:{full(f'holder-{cell.node}')}"
    for key in ("network_mode", "pid"):
        if service.get(key) in [f"service:{name}" for name in HOLDERS]:
            service[key] = holder
    if cell.way == "order-egress":
        service["network_mode"] = "none"  # joining the holder would make it wait by itself
    if waited_for:
        service.pop("restart", None)  # it would hide who brings it back
        service["depends_on"] = {
            "late" if name == "egress" else "slow": how
            for name, how in dependencies.items()
            if name in waited_for
        }
    if service.get("pids_limit", 0) > 1000:
        service["pids_limit"] //= 16  # so many are had soon, and leave room for the others
    if cell.way == "health":
        service["healthcheck"] |= {"interval": "1s", "retries": 1, "start_period": "0s"}
        service["healthcheck"].pop("start_interval", None)
    else:
        service["healthcheck"] = {"disable": True}
    mounts = [scaled(options) for options in service.get("tmpfs", [])]
    service["tmpfs"] = [*mounts, *(TWIN + mount for mount in mounts)]
    volumes = {}
    for mount in service.get("volumes", []):
        if mount["type"] == "volume":
            volume = copy.deepcopy(config["volumes"].get(mount["source"]) or {})
            volume.pop("name", None)
            if mount["source"] == "store":  # an image's directory gives it to the gateway
                options = {"type": "tmpfs", "device": "tmpfs", "o": "uid=10003,gid=10020,mode=0700"}
                volume = {"driver_opts": options}
            mount["source"] = f"{cell.name}-{mount['source']}"
            volumes[mount["source"]] = volume
    if cell.way in ("mounts", "elevation"):
        bare(service, volumes, may_run=cell.way == "elevation")
    secrets = {
        secret["source"]: {"file": str(Path(config["secrets"]["ca"]["file"]))}
        if secret["source"] not in config["secrets"]
        else {"file": config["secrets"][secret["source"]]["file"]}
        for secret in service.get("secrets", [])
    }
    return service, volumes, secrets


def scaled(options: str) -> str:
    """Gibibytes as mebibytes, so that they can be filled."""
    return options.replace("size=2g", "size=2m").replace("size=4g", "size=4m")


SLOW: Config = {
    # Healthy only when it is told, as a holder whose rules come late.
    "slow": {
        "image": PEER,
        "init": True,
        "entrypoint": ["sleep", "999"],
        "network_mode": "none",
        "tmpfs": ["/run:size=64k"],
        "labels": {"lab": PROJECT},
        "healthcheck": {
            "test": ["CMD", "test", "-e", "/run/ready"],
            "interval": "1s",
            "retries": 999,
            "start_period": "120s",
            "start_interval": "500ms",
        },
    },
    # Starts after that one: what a member waits for that needs only to be started.
    "late": {
        "image": PEER,
        "init": True,
        "entrypoint": ["sh", "-c", "date +%s.%N; exec sleep 999"],
        "network_mode": "none",
        "labels": {"lab": PROJECT},
        "depends_on": {"slow": {"condition": "service_healthy"}},
    },
}
"""What members wait for, in the trial of their order."""


def member_of(cell: Cell, number: int) -> tuple[Config, Config]:
    """A container on one of the node's networks, and the network, without a way out.

    `number`, of at most 15, gives it addresses of its own.
    """
    network = copy.deepcopy(cell.config["networks"][cell.service])
    subnets = [f"{SIXTH}.{number * 16}/28"]
    if network.get("enable_ipv6"):
        subnets.append(f"fd66:{number + 1}::/64")
    network |= {
        "name": full(cell.name),
        "internal": True,
        "ipam": {"config": [{"subnet": subnet} for subnet in subnets]},
    }
    given = {"report": "network", "stays": True, "interfaces": ["lo", "eth0"]}
    service = {
        "image": PEER,
        "entrypoint": ["python3", "-c", source("inmate.py").replace("$", "$$"), json.dumps(given)],
        "networks": {cell.name: None},
        "labels": {"lab": PROJECT},
    }
    return service, network


def bare(service: Config, volumes: Config, *, may_run: bool) -> None:
    """Take away what would refuse the trial of a mount's own options before these can."""
    service["user"] = "0:0"
    service.pop("cap_drop", None)
    if not may_run:
        return
    service.pop("security_opt", None)

    def opened(options: str) -> str:
        words = [word for word in options.split(",") if not word.startswith("mode=")]
        return ",".join(["exec" if word == "noexec" else word for word in words] + ["mode=0755"])

    service["tmpfs"] = [
        f"{target}:{opened(options)}"
        for target, _, options in (entry.partition(":") for entry in service["tmpfs"])
    ]
    for volume in volumes.values():
        if "driver_opts" in volume:
            volume["driver_opts"]["o"] = opened(volume["driver_opts"]["o"])


# Trying


def try_cells(cells: Sequence[Cell], folder: Path) -> dict[str, list[Finding]]:
    """Start all cells at once, let everything be tried in them, and remove them."""
    file = folder / "cells.json"
    services: Config = {}
    volumes: Config = {}
    secrets: Config = {}
    networks: Config = {name: {"name": full(name), "external": True} for name in NETWORKS}
    networks["default"] = {"name": full("lan"), "external": True}
    if any(cell.way.startswith("order") for cell in cells):
        services |= SLOW
    for cell in cells:
        if cell.way == "network":
            services[cell.name], networks[cell.name] = member_of(cell, len(networks))
            continue
        service, own_volumes, own_secrets = furnish(cell)
        services[cell.name] = service
        volumes |= own_volumes
        secrets |= {f"{cell.node}-{name}": secret for name, secret in own_secrets.items()}
        for secret in service.get("secrets", []):
            secret["source"] = f"{cell.node}-{secret['source']}"
    file.write_text(
        json.dumps(
            {
                "name": PROJECT,
                "services": services,
                "volumes": volumes,
                "secrets": secrets,
                "networks": networks,
            }
        ),
        encoding="utf-8",
    )
    try:
        is_order = any(cell.way.startswith("order") for cell in cells)
        failed, ready = start_in_order(file, cells) if is_order else (start(file, cells), {})
        alive = [cell for cell in cells if cell.name not in failed]
        if is_order:
            with ThreadPoolExecutor(6) as pool:  # one that ends before it has spoken was not seen
                list(pool.map(wait_for_start, alive))
            docker("compose", "-f", str(file), "restart", "slow")
        look = functools.partial(examine, ready=ready)
        with ThreadPoolExecutor(6) as pool:
            found = dict(zip((c.name for c in alive), pool.map(look, alive), strict=True))
    finally:
        remove_cells()
    return {**found, **{name: [Finding("starting", why)] for name, why in failed.items()}}


def remove_cells() -> None:
    label = f"label=com.docker.compose.project={PROJECT}"
    containers = docker("ps", "-aq", "--filter", label).split()
    if containers:
        docker("rm", "-f", "-v", *containers)
    for kind in ("volume", "network"):
        found = docker(kind, "ls", "-q", "--filter", label).split()
        if found:
            docker(kind, "rm", "-f", *found)


def start(file: Path, cells: Sequence[Cell]) -> dict[str, str]:
    """Start all; those that Docker does not start at all, with its reason."""
    up = ("compose", "-f", str(file), "up", "-d", "--no-build", "--pull=never", "--no-recreate")
    try:
        docker(*up)
        return {}
    except CellFailed:
        pass  # one that cannot start keeps others from it: then each alone
    failed = {}
    for cell in cells:
        try:
            docker(*up, "--no-deps", cell.name)
        except CellFailed as error:
            failed[cell.name] = str(error)
    return failed


QUIET_SECONDS = 6.0
"""So long nobody may have started before it is believed that nobody else will."""


def start_in_order(file: Path, cells: Sequence[Cell]) -> tuple[dict[str, str], dict[str, float]]:
    """Start all; what they wait for is ready only when whoever does not wait has started.

    Returns those that do not start, with the reason, and when what they wait for was ready.
    """
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(start, file, cells)
        began = last_change = time.monotonic()
        started: set[str] = set()
        while time.monotonic() - last_change < QUIET_SECONDS and time.monotonic() - began < 60:
            label = f"label=com.docker.compose.project={PROJECT}"
            now = set(docker("ps", "-q", "--filter", label).split())
            if now != started or not now:
                started, last_change = now, time.monotonic()
            time.sleep(0.3)
        ready = {"order": time.time()}
        docker("exec", f"{PROJECT}-slow-1", "touch", "/run/ready")
        failed = starting.result()
    ready["order-egress"] = float(docker("logs", f"{PROJECT}-late-1").splitlines()[0])
    return failed, ready


def wait_for_start(cell: Cell) -> None:
    with contextlib.suppress(CellFailed):  # whether that is a finding is said later
        report_of(cell, "started")


def container_of(cell: Cell) -> str:
    return f"{PROJECT}-{cell.name}-1"


def examine(cell: Cell, ready: Mapping[str, float]) -> list[Finding]:
    """All findings in one cell that has started. Raises CellFailed if it could not be tried."""
    if cell.way.startswith("order"):
        return list(_order(cell, ready[cell.way]))
    return list(WAYS[cell.way](cell))


def report_of(cell: Cell, key: str = "report", count: int = 1) -> Any:
    """What the inmate has printed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = [
            line for line in docker("logs", container_of(cell)).splitlines() if f'"{key}"' in line
        ]
        if len(lines) >= count:
            return json.loads(lines[-1])[key]
        time.sleep(0.1)
    raise CellFailed(f"{cell.name}: it gave no report within 60 s")


def report_as(cell: Cell, user: str) -> Any:
    """A report by somebody else in the same container."""
    given = {"report": "guest", "stays": False}
    printed = docker(
        *("exec", "-u", user, container_of(cell)),
        *("python3", "-c", source("inmate.py"), json.dumps(given)),
    )
    return json.loads(printed.splitlines()[-1])["report"]


def report_of_root(container: str, report: str, **given: object) -> Any:
    """A report by an almighty root in a container: what the kernel does for it, not what it may."""
    printed = docker(
        *("exec", "-u", "0:0", "--privileged", container, "python3", "-c", source("inmate.py")),
        json.dumps({"report": report, "stays": False, **given}),
    )
    return json.loads(printed.splitlines()[-1])["report"]


def _wire(cell: Cell) -> Iterator[Finding]:
    """What the kernel says and believes at the tunnel's outside, before any rules stand."""
    address = json.loads(docker("inspect", container_of(cell)))[0]["NetworkSettings"]["Networks"]
    (network,) = cell.place.reaches
    if full(network) not in address:
        return  # the trial of whom it reaches has found that
    own, neighbour = address[full(network)]["IPAddress"], neighbour_of(network)
    yield from judge_path(report_of_root(container_of(cell), "path", called=neighbour))
    yield from judge_refusal(report_of_root(full(f"neighbour-{network}"), "refusal", asked=own))


def _silence(cell: Cell) -> Iterable[Finding]:
    return judge_silence(report_of(cell))


def _own(cell: Cell) -> Iterable[Finding]:
    place = cell.place
    return (
        list(judge_own(place, report_of(cell)))
        or list(judge_root(place, report_as(cell, "0:0")))
        or list(judge_guest(place, report_as(cell, f"{GUEST}:{GUEST}")))
        or (place.carries_tunnel and list(_wire(cell)))
        or (
            place.rooms_of_others
            and list(judge_other(place, report_as(cell, f"{place.other[0]}:{place.other[1]}")))
        )
        or []
    )


def _mounts(cell: Cell) -> Iterable[Finding]:
    return judge_mounts(cell.place, report_of(cell))


def _elevation(cell: Cell) -> Iterable[Finding]:
    return judge_elevation(cell.place, report_of(cell))


def _restart(cell: Cell) -> Iterator[Finding]:
    """Its process ends: Docker starts it again."""
    report_of(cell, "pid")
    # From the host: a shell in the container might end along with it, and after `docker kill`,
    # whatever the signal, Docker starts nothing again.
    os.kill(pid_of(container_of(cell)), signal.SIGUSR1)
    try:
        report_of_restarted(cell)
    except CellFailed:
        yield Finding("its process ends", "it is not started again")


def report_of_restarted(cell: Cell) -> None:
    """Raises CellFailed where it stays ended; one that Docker is about to start is waited for."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < 30:
        if docker("logs", container_of(cell)).count('"started"') > 1:
            return
        status = docker("inspect", "--format", "{{.State.Status}}", container_of(cell)).strip()
        if waited > QUIET_SECONDS and status == "exited":
            break
        time.sleep(0.2)
    raise CellFailed("it was not started again")


def _stop(cell: Cell) -> Iterator[Finding]:
    """It does not listen to SIGTERM: it is gone all the same, soon."""
    report_of(cell, "started")
    began = time.monotonic()
    docker("stop", container_of(cell))
    took = time.monotonic() - began
    if not 2 < took < 8:
        yield Finding("stopping one that does not want to", f"took {took:.1f} s")


def _flood(cell: Cell) -> Iterator[Finding]:
    """It says 5 MiB: the last megabytes are kept, and no more."""
    try:
        report_of(cell)
    except CellFailed as error:
        yield Finding("saying 5 MiB to the log", str(error))
        return
    kept = len(docker("logs", container_of(cell))) >> 10
    if not 1536 <= kept <= 3584:
        yield Finding("saying 5 MiB to the log", f"{kept} KiB are kept")


def _health(cell: Cell) -> Iterator[Finding]:
    """It does not do its part: Docker must come to know."""
    deadline = time.monotonic() + 15
    status = ""
    while time.monotonic() < deadline:
        status = docker("ps", "--filter", f"name=^{container_of(cell)}$", "--format", "{{.Status}}")
        if "(unhealthy)" in status:
            return
        if "(healthy)" in status or "(" not in status:
            break
        time.sleep(0.2)
    yield Finding("not doing its part", f"Docker says {status.strip()!r}")


def _ipc(cell: Cell) -> Iterator[Finding]:
    """Another container wants to share its memory segments."""
    report_of(cell, "started")
    try:
        docker(
            "run", "--rm", "--network=none", f"--ipc=container:{container_of(cell)}", PEER, "true"
        )
    except CellFailed:
        return
    yield Finding("joining its shared memory from another container", "it works")


def _order(cell: Cell, ready: float) -> Iterator[Finding]:
    """What it depends on is ready before it starts, and it follows when that is restarted."""
    deadline = time.monotonic() + 15
    started: list[float] = []
    while len(started) < (2 if cell.way == "order" else 1) and time.monotonic() < deadline:
        lines = docker("logs", container_of(cell)).splitlines()
        started = [json.loads(line)["started"] for line in lines if '"started"' in line]
    if not started or started[0] < ready:
        yield Finding("starts before what it depends on is ready", f"{started} and {ready}")
    if cell.way == "order" and len(started) < 2:
        yield Finding("the holder is restarted by Compose", "it is not restarted with it")


def _network(cell: Cell) -> Iterator[Finding]:
    sent = report_of(cell)["sends_ipv6"]
    if "eth0" in sent:
        yield Finding("a member of the network sends an IPv6 packet", str(sent))


WAYS = {
    "network": _network,
    "own": _own,
    "silence": _silence,
    "mounts": _mounts,
    "elevation": _elevation,
    "restart": _restart,
    "stop": _stop,
    "flood": _flood,
    "health": _health,
    "ipc": _ipc,
}
ORDERS = ("order", "order-egress")
"""Ways in which several are tried together."""
