"""From two bare hosts to a conversation, as docs/operations.md tells it, over SSH alone.

One VPS with one core and 512 MB, one machine at home; the kernel's WireGuard, systemd, nftables,
fail2ban and Docker on both. The engine is the tests' stand-in, since emulated cores compute no
model in time, and Telegram is the stub Bot API server. The tests follow one another.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.setup import ROOT, compose_environment, image_id
from tests.hosts.conftest import (
    PATIENCE_SECONDS,
    RESOLVER,
    STRANGER,
    TELEGRAM,
    USER,
    Host,
    World,
)
from tests.vm.network import open_tcp_ports

HARDENED = "Done, and taken back in"
PORTS = (22, 80, 443, 2375, 2376, 8000, 8080, 9000, 51820)
STUBS = "node-test/stubs:0.1.0"
LEAST_FREE_MIB = 60


@pytest.fixture(scope="module")
def bundles(world: World) -> Path:
    """`init`, on the operator's own machine."""
    out = world.state / "nodes"
    token = world.state / "token"
    token.write_text("123456789:" + "A" * 35, encoding="ascii")
    authority = "/opt/telegram_ca.pem"
    adyton(
        world,
        *("init", "--out", str(out), "--vps", world.relay.address, "--users", str(USER)),
        *("--weights", "unused", "--resolver", RESOLVER, "--token-file", str(token)),
        *("--relay", f"TELEGRAM_NETWORKS={TELEGRAM}/32"),
        *("--relay", f"TELEGRAM_CA_FILE={authority}"),
        *("--model", "CONTEXT_TOKENS=2048", "--model", "ANSWER_TOKENS=512"),
        # Slow cores look more rarely at their containers; the engine is the stand-in.
        *("--compose", "relay=tests/vm/relay.yml"),
        *("--compose", "model=tests/stubs/engine.yml", "--compose", "model=tests/vm/model.yml"),
        *(word for node in ("relay", "model") for word in (f"--{node}", f"BASE={base_image()}")),
    )
    certificate = (world.state / "telegram" / "ca.pem").read_bytes()
    there(world.relay, f"cat >{authority} && chmod 644 {authority}", certificate)
    return out


@pytest.fixture(scope="module")
def hardened(world: World, bundles: Path) -> None:
    """Each host, before anything runs on it, and confirmed over a second connection."""

    def harden(host: Host) -> None:
        there(host, "tar -xp -C /", (bundles / f"{host.node}.tar").read_bytes())
        command = f"cd /opt/{host.node} && scripts/node-admin harden"
        with host.login.lines(f"{command} --yes --seconds 1200") as lines:
            host.login.expect(lines, HARDENED)
            there(host, f"{command} confirm")
            host.login.expect(lines, "it stays")

    timed("both hosts hardened", lambda: on_both(world, harden))


@pytest.fixture(scope="module")
def deployed(world: World, bundles: Path, hardened: None) -> None:
    """Images built here and sent, bundles unpacked, containers up, units enabled."""
    # What `deploy` does not send: the engine's image, and the volume that its weights are in.
    save = subprocess.run(["docker", "save", STUBS], check=True, capture_output=True)
    packed = subprocess.run(["gzip", "-1"], input=save.stdout, check=True, capture_output=True)
    there(
        world.model, "gzip -dc | docker load && docker volume create model_weights", packed.stdout
    )

    def deploy(host: Host) -> None:
        adyton(
            world,
            *("deploy", host.node, host.address, "--images", "--out", str(bundles)),
            *("--identity", str(world.state / "key"), "--host-key", host.fingerprint),
            *("--wait", str(PATIENCE_SECONDS)),
            codes=(0, 2),  # 2: its doctor misses the other node, which comes later
        )

    # One after the other: both calls build images, and keep what they learn in one folder.
    for host in (world.relay, world.model):
        timed(f"{host.node} deployed", lambda: deploy(host))  # noqa: B023  # within the round


@pytest.mark.usefixtures("deployed")
def test_a_question_is_answered(world: World) -> None:
    """The first message after `deploy`."""
    converse(world, "Are you there?")

    for host in world.hosts:
        shown = there(host, f"docker exec {host.node}-wireguard-1 ip -d link show wg0")
        assert re.search(r"^\s+wireguard ", shown, re.MULTILINE), "the kernel's own"


@pytest.mark.usefixtures("deployed")
def test_vps_has_room_left(world: World) -> None:
    """With the system, Docker and fail2ban beside the node."""
    shown = there(world.relay, "grep -E '^Mem(Total|Available)' /proc/meminfo")
    total, free = (int(kb) // 1024 for kb in re.findall(r"(\d+) kB", shown))
    print(f"relay: {free} of {total} MiB available", flush=True)

    assert total < 512
    assert free >= LEAST_FREE_MIB


@pytest.mark.usefixtures("deployed")
def test_a_stranger_finds_ssh_alone(world: World) -> None:
    """No port of a container, of Docker or of the hosts but SSH."""
    for host in world.hosts:
        found = open_tcp_ports(world.namespace, STRANGER, host.address, PORTS, 30)
        assert found == [22], host.node


@pytest.mark.usefixtures("deployed")
def test_both_reboot_and_the_conversation_goes_on(world: World) -> None:
    """Nobody lends a hand: units, rules and containers come back with the machine."""
    before = {host.node: host.machine.boot_id() for host in world.hosts}
    for host in world.hosts:
        host.machine.tell("systemctl --no-block reboot")
    for host in world.hosts:
        wait_until(lambda: has_booted(host, before[host.node]), f"{host.node} has booted")  # noqa: B023

    converse(world, "And now?")

    for host in world.hosts:
        again = there(host, f"cd /opt/{host.node} && scripts/node-admin harden")
        assert again == "Nothing to change.\n"
        assert open_tcp_ports(world.namespace, STRANGER, host.address, PORTS, 30) == [22]


@pytest.mark.usefixtures("deployed")
def test_doctor_finds_no_failure(world: World) -> None:
    """On either host, after all of it."""
    for host in world.hosts:
        done = host.login.run(f"cd /opt/{host.node} && scripts/node-admin doctor")
        assert done.returncode in (0, 1), done.stdout + done.stderr


# What is done and seen


def base_image() -> str:
    """What the images here were built on: where no registry answers it is not the official one."""
    return next(tag for tag in ("debian:trixie-slim", "node-base:trixie") if image_id(tag))


def adyton(world: World, *words: str, codes: Sequence[int] = (0,)) -> None:
    """The operator's command, out of the network that the hosts are on."""
    done = subprocess.run(
        [*world.namespace.enter, str(ROOT / "scripts/adyton"), *words],
        cwd=ROOT,
        env=compose_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
    )
    print(done.stdout[-3000:], flush=True)
    assert done.returncode in codes, done.stdout[-4000:] + done.stderr[-4000:]


def there(host: Host, command: str, given: bytes = b"") -> str:
    """What a command prints on a host, over SSH."""
    done = host.login.run(command, given=given)
    assert done.returncode == 0, f"{host.node}: {command[:200]}: {done.stdout}{done.stderr}"
    return done.stdout


def on_both(world: World, work: Callable[[Host], None]) -> None:
    """Side by side: each host has a core of its own."""
    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(work, host) for host in world.hosts]:
            future.result()


def converse(world: World, text: str) -> None:
    """Say something; the stand-in for the engine repeats it."""
    said = world.user.say(text)

    def answers() -> Iterable[str]:
        return (it.text for it in world.user.bot_messages(said.message_id) if it.is_final)

    timed(f"`{text}` answered", lambda: wait_until(lambda: text in answers(), "it is answered"))


def has_booted(host: Host, before: str) -> bool:
    now = host.machine.ask("cat /proc/sys/kernel/random/boot_id")
    return now is not None and now.strip() != before


def timed(what: str, work: Callable[[], None]) -> None:
    began = time.monotonic()
    work()
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}"
        time.sleep(1)
