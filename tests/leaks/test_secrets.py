"""What a node leaves behind: no word of a user, no answer, no token, in no log, layer or dump."""

import asyncio
import json
import secrets
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from python_on_whales import DockerClient

from scripts.telegram_user import TelegramUser
from tests.conftest import USERS
from tests.faults.nodes import open_nodes
from tests.integration.lab import PEER, Lab, wait_until
from tests.leaks.report import Report
from tests.leaks.wire import docker_says
from tests.leaks.world import NODES, OTHER_SUBNET, RELAY_NODE, World, kill

FLOOD_BYTES = 10 << 20
LOG_BYTES = 3 * 1_000_000
"""As the Compose files have it: three files of a megabyte."""
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


@dataclass(frozen=True)
class Needles:
    """What must be found nowhere."""

    prompt: bytes
    answer: bytes
    bot_token: bytes
    link_token: bytes
    relay_key: bytes
    model_key: bytes

    def all(self) -> dict[str, bytes]:
        return vars(self)


@pytest.fixture(scope="module")
def needles(world: World) -> Needles:
    """Fresh canaries, and the credentials of both nodes."""
    state = world.pair.state
    return Needles(
        b"prompt-" + secrets.token_hex(12).encode(),
        b"answer-" + secrets.token_hex(12).encode(),
        *(
            (state / file).read_bytes().strip()
            for file in (
                "relay/bot_token",
                "relay/link_token",
                "relay/tunnel_private_key",
                "model/tunnel_private_key",
            )
        ),
    )


@pytest.fixture(scope="module")
def conversation(world: World, needles: Needles) -> None:
    """The canaries pass both nodes, twice; in the middle relay and gateway die of a signal."""
    asyncio.run(script(world, needles.answer.decode()))
    user = TelegramUser(world.pair.control_socket, USERS[7])
    for number in (signal.SIGSEGV, signal.SIGABRT):
        world.wait_until_well()
        world.wait_until_steady("relay", "relay")
        world.wait_until_steady("model", "gateway")
        said = user.say(f"Say it {needles.prompt.decode()}")
        for shown in user.watch(said, 60):
            if any("answer-" in message.text for message in shown):
                break
        kill(world.process("relay", "relay", "-m services.relay"), number)
        kill(world.process("model", "gateway", "-m services.gateway"), number)
        shown = list(user.watch(said, 120))[-1]
        assert needles.answer.decode() in shown[-1].text


async def script(world: World, answer: str) -> None:
    text = " ".join([answer] * 40)
    async with open_nodes(world.pair) as nodes:
        await nodes.script_engine(content={"text": text}, speed=8)


def files_of(container: str) -> list[Path]:
    """All that Docker keeps of a container on the disk: logs, settings, layer, volumes."""
    seen = json.loads(docker_says("inspect", container))[0]
    places = [Path(seen["LogPath"]).parent, Path(seen["GraphDriver"]["Data"]["UpperDir"])]
    places += [Path(mount["Source"]) for mount in seen["Mounts"] if mount["Type"] == "volume"]
    return [file for place in places for file in place.rglob("*") if file.is_file()]


def found(needles: dict[str, bytes], container: str) -> list[str]:
    """Where one of the needles stands: files, logs and description of a container."""
    texts = {
        "inspect": docker_says("inspect", container).encode(),
        "logs": subprocess.run(
            ["docker", "logs", container], capture_output=True, check=True
        ).stdout,
        **{str(file): file.read_bytes() for file in files_of(container)},
    }
    return [
        f"{name} in {place}"
        for place, text in texts.items()
        for name, needle in needles.items()
        if needle in text
    ]


EVERY = [(node, service) for node, services in NODES.items() for service in services]


@pytest.mark.usefixtures("conversation")
@pytest.mark.parametrize(("node", "service"), EVERY)
def test_disk_holds_no_word(
    world: World, needles: Needles, report: Report, node: str, service: str
) -> None:
    """Prompt, answer, tokens and keys are in no log, layer, volume or description."""
    row = report.row(32, "canaries on the disk, in logs and descriptions")
    container = world.container(node, service)

    where = found(needles.all(), container)

    row.probed += len(files_of(container)) + 2
    row.leaked += len(where)
    assert where == []


@pytest.mark.usefixtures("conversation")
@pytest.mark.parametrize("service", RELAY_NODE)
def test_relay_node_changes_no_file(world: World, service: str) -> None:
    """Its containers' layers are as they were made, but for the places where things are mounted."""
    container = world.container("relay", service)
    mounts = {m["Destination"] for m in json.loads(docker_says("inspect", container))[0]["Mounts"]}
    mounts |= {"/run", "/tmp", "/etc/resolv.conf"}

    changed = [line.split()[1] for line in docker_says("diff", container).splitlines()]
    mounts |= {path for path in changed if path.endswith("/docker-init")}  # for `init: true`

    strange = [path for path in changed if not any(is_on_the_way(path, to) for to in mounts)]
    assert strange == []


def is_on_the_way(path: str, mount: str) -> bool:
    """Whether Docker had to make this path for the mount."""
    return mount == path or mount.startswith(path + "/")


@pytest.fixture(scope="module")
def careless(docker: DockerClient) -> Iterator[Lab]:
    with Lab(docker, "leaks-other", OTHER_SUBNET) as lab:
        yield lab


def test_search_finds_what_is_left_behind(careless: Lab, needles: Needles, report: Report) -> None:
    """A container that writes the canary into log, layer, volume and argument is found out."""
    volume = careless.volume("careless", {})
    command = ["sh", "-c", 'echo "$0"; echo "$0" >/left; echo "$0" >/kept/left; exec sleep inf']
    container = careless.run(
        "careless", PEER, [*command, needles.prompt.decode()], hardened=False,
        volumes=[(volume, "/kept", "rw")],
    )  # fmt: skip
    wait_until(lambda: needles.prompt.decode() in docker_says("logs", container.name), "said", 5)
    container.execute(["sh", "-c", "until [ -s /kept/left ]; do sleep 0.1; done"])

    where = found(needles.all(), container.name)

    report.row(32, "canaries on the disk, in logs and descriptions").control = len(where)
    assert len({place.rpartition("/")[2] for place in where if "left" in place}) == 1
    assert sum("/left" in place for place in where) == 2
    assert {"prompt in inspect", "prompt in logs"} <= set(where)


# Core dumps

DYING = """
import os, signal, sys
text = sys.stdin.readline()
os.kill(os.getpid(), signal.SIGABRT)
"""


@pytest.mark.usefixtures("conversation")
def test_no_core_dump(world: World, careless: Lab, needles: Needles, report: Report) -> None:
    """Relay and gateway died with the canaries in memory, and no image of that memory is anywhere.

    The control dies alike without the limit that the Compose files set, and leaves one.
    """
    if CORE_PATTERN.read_text(encoding="ascii").startswith("|"):
        pytest.skip("this host gives core dumps to a program, whatever a container's limit is")
    row = report.row(32, "core dumps after SIGSEGV and SIGABRT")
    plain = docker_says(
        "run", "--detach", "--name", f"{careless.name}-dying", "--label", careless.label,
        "--network=none", "--ulimit=core=-1", "--workdir=/tmp", PEER, "sleep", "infinity",
    )  # fmt: skip
    subprocess.run(
        ["docker", "exec", "-i", "--workdir=/tmp", plain, "python3", "-c", DYING],
        input=needles.prompt + b"\n",
        check=False,
    )

    dumps = [file for file in files_of(plain) if needles.prompt in file.read_bytes()]
    mine = [
        file
        for node, service in (("relay", "relay"), ("model", "gateway"))
        for file in [
            *files_of(world.container(node, service)),
            *dumps_on_tmpfs(world, node, service),
        ]
        if file.name.startswith("core")
    ]

    row.probed, row.leaked, row.control = 4, len(mine), len(dumps)
    assert len(dumps) == 1, "control: without the limit there is a dump, and the canary in it"
    assert mine == []


def dumps_on_tmpfs(world: World, node: str, service: str) -> list[Path]:
    root = Path(f"/proc/{world.pid(node, service)}/root")
    return [file for place in ("tmp", "app") for file in (root / place).rglob("core*")]


# Logs


@pytest.mark.parametrize(("node", "service"), [("relay", "relay"), ("model", "gateway")])
def test_flooded_log_stays_small(
    world: World, careless: Lab, report: Report, node: str, service: str
) -> None:
    """Ten megabytes said by one container leave three on the disk; without limits, all of them."""
    row = report.row(31, "a flooded log stays within its limit")
    container = world.container(node, service)
    noisy = careless.run("noisy-" + node, PEER, ["sleep", "infinity"], hardened=False)

    flood(world.pid(node, service))
    flood(int(noisy.state.pid or 0))

    wait_until(lambda: log_bytes(noisy.name) >= FLOOD_BYTES, "the control's log has all", 30)
    row.probed += FLOOD_BYTES // 1000
    row.control += log_bytes(noisy.name) // 1000
    kept = log_bytes(container)
    row.leaked += max(0, kept - LOG_BYTES - 100_000) // 1000
    row.note = "figures in kilobytes; a full disk of the store is played in tests/faults"
    assert 100_000 < kept <= LOG_BYTES + 100_000
    noisy.remove(force=True)


def flood(pid: int) -> None:
    """Say a lot in the name of a container's first process."""
    line = b"x" * 999 + b"\n"
    with Path(f"/proc/{pid}/fd/1").open("wb") as out:
        out.writelines(line for _ in range(FLOOD_BYTES // len(line)))


def log_bytes(container: str) -> int:
    log = Path(docker_says("inspect", "--format", "{{.LogPath}}", container))
    return sum(file.stat().st_size for file in log.parent.glob(log.name + "*"))
