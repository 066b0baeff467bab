"""One whole machine is hardened: what can be called from outside, before and after, and back.

The tests follow one another on the same machine, since a boot costs a minute of a core.
"""

import base64
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.setup import ROOT
from tests.hardening.conftest import (
    ATTACKER,
    ATTACKER_V6,
    BOOT_SECONDS,
    MACHINE,
    MACHINE_V6,
    PATIENCE_SECONDS,
    World,
)
from tests.vm.login import Lines
from tests.vm.network import Namespace

PORTS = (22, 80, 443, 2375, 2376, 8080, 9000, 51820)
"""What is there, what Docker would listen on, and some that nobody has."""
LEFT_OPEN = [22, 8080, 9000]
TUNNEL = 51820
HARDEN = "cd /opt/relay && scripts/node-admin harden"
DONE = "Done, and taken back in"
SCAN_SECONDS = 20

CENSUS = r"""
cd /
find etc usr/local root var/lib/node-harden -xdev -printf '%p %y %m %U:%G %l\n' 2>/dev/null | sort
find /etc /root -xdev -type f -exec sha256sum {} + | sort -k2
systemctl list-unit-files --no-legend --state=enabled,masked | sort
systemctl is-active nftables fail2ban ssh docker systemd-timesyncd
systemctl is-active apt-daily.timer apt-daily-upgrade.timer
nft --stateless list table inet host 2>&1
sysctl kernel.sysrq kernel.kptr_restrict kernel.core_pattern
sysctl net.ipv4.conf.all.rp_filter net.ipv4.conf.all.send_redirects
sshd -T
docker info --format '{{.LiveRestoreEnabled}}'
"""


@pytest.fixture(scope="module")
def before(world: World) -> str:
    """Everything that undoing must bring back."""
    wait_until(
        lambda: world.machine.ask("systemctl is-system-running --wait; true") is not None,
        "it has started everything",
    )
    wait_until(lambda: scan(world.attacker) == (LEFT_OPEN, LEFT_OPEN), "its ports are open")
    return census(world)


def test_everything_is_open_at_first(world: World, before: str) -> None:
    """The positive control: this scan finds what is there, in IPv4 and IPv6."""
    assert scan(world.attacker) == (LEFT_OPEN, LEFT_OPEN)
    assert tunnel_answers(world.attacker)
    assert "kernel.sysrq" in before


def test_dry_run_changes_nothing(world: World, before: str) -> None:
    """It shows what it would do."""
    done = world.run(f"{HARDEN} --dry-run")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "+PasswordAuthentication no" in done.stdout
    assert "sysctl kernel.sysrq" in done.stdout
    assert census(world) == before


def test_unconfirmed_run_goes_back(world: World, before: str) -> None:
    """Though its own connection is still open, and another login over that one does not count."""
    shared = ("-o", "ControlMaster=auto", "-o", f"ControlPath={world.state}/shared")
    with applying(world, "--seconds 150", *shared) as lines:
        world.login.expect(lines, DONE)
        assert scan(world.attacker) == ([22], [22])
        again = world.run(f"{HARDEN} confirm", *shared)
        assert "this connection is older than the change" in again.stderr
        world.login.expect(lines, "Not confirmed")

    assert census(world) == before
    wait_until(lambda: scan(world.attacker) == (LEFT_OPEN, LEFT_OPEN), "its ports are open again")


def test_lost_connection_changes_nothing_of_that(world: World, before: str) -> None:
    """The way back is the machine's own."""
    with applying(world, "--seconds 40") as lines:
        world.login.expect(lines, DONE)
    wait_until(lambda: "node-harden" not in census(world), "it has gone back", pause=5)

    assert census(world) == before


def test_confirmed_run_stays(world: World, before: str) -> None:
    """A connection that came after it has shown that one still gets in."""
    containers = world.machine.run("docker ps -q --no-trunc | sort; pgrep -x httpd | sort")
    with applying(world, "--seconds 900") as lines:
        world.login.expect(lines, DONE)
        done = world.run(f"{HARDEN} confirm")
        assert done.returncode == 0, done.stdout + done.stderr
        world.login.expect(lines, "it stays")

    assert world.machine.run("docker ps -q --no-trunc | sort; pgrep -x httpd | sort") == containers
    # It fails where it finds none.
    left = "systemctl list-unit-files --no-legend 'node-harden-rollback*' || true"
    assert not world.machine.run(left)


def test_second_run_has_nothing_to_change(world: World) -> None:
    """And asks for nothing."""
    hardened = census(world)

    done = world.run(HARDEN)

    assert (done.returncode, done.stdout) == (0, "Nothing to change.\n"), done.stdout + done.stderr
    assert census(world) == hardened


def test_scan_finds_ssh_and_nothing_else(world: World) -> None:
    """In IPv4 and IPv6, of the host's own and of what Docker publishes; the tunnel is there."""
    assert scan(world.attacker) == ([22], [22])
    assert tunnel_answers(world.attacker)
    assert "dropped in: " in world.machine.run("journalctl -k --no-pager")
    assert "dropped to a container: " in world.machine.run("journalctl -k --no-pager")


def test_passwords_are_not_taken(world: World) -> None:
    """What a stranger is offered is a key, and no other way."""
    told = ssh_of(world.attacker, MACHINE, "-v")

    assert "Authentications that can continue: publickey\n" in told


def test_names_are_closed_but_in_a_window(world: World) -> None:
    """A reboot would close it, too: it is no file that changes."""
    assert "nameserver 127.0.0.1" in world.machine.run("cat /etc/resolv.conf")
    done = world.run(f"{HARDEN} maintenance open --minutes 30")
    assert done.returncode == 0, done.stderr
    assert "nameserver 198.18.7.1" in world.machine.run("cat /etc/resolv.conf")
    world.run(f"{HARDEN} maintenance close")
    assert "nameserver 127.0.0.1" in world.machine.run("cat /etc/resolv.conf")


def test_reboot_changes_nothing(world: World) -> None:
    """What was confirmed stays."""
    boot = world.machine.boot_id()
    world.machine.tell("systemctl --no-block reboot")
    wait_until(
        lambda: world.machine.ask("cat /proc/sys/kernel/random/boot_id") not in (None, boot + "\n"),
        "it has booted", BOOT_SECONDS,
    )  # fmt: skip
    wait_until(lambda: tunnel_answers(world.attacker), "its container is up", BOOT_SECONDS)

    assert scan(world.attacker) == ([22], [22])
    done = world.run(HARDEN)
    assert done.stdout == "Nothing to change.\n", done.stdout + done.stderr


def test_brute_force_is_banned(world: World) -> None:
    """The attacker's address alone, on all ports; the operator still gets in."""
    wait_until(
        lambda: world.machine.ask("fail2ban-client status sshd") is not None, "fail2ban is up"
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while ATTACKER not in world.machine.run("fail2ban-client get sshd banip"):
        assert time.monotonic() < deadline, world.machine.run("journalctl -u ssh -n 30 --no-pager")
        ssh_of(world.attacker, MACHINE)

    assert open_ports(world.attacker, ATTACKER, MACHINE, [22]) == []
    assert open_ports(world.attacker, ATTACKER_V6, MACHINE_V6, [22]) == [22]
    assert world.run("true").returncode == 0


def test_sealed_logs_are_opened_outside_alone(world: World, before: str) -> None:
    """What the machine logs is on its disk encrypted only; whoever has the private key reads it."""
    home = world.state / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    free = ["--pinentry-mode", "loopback", "--passphrase", ""]
    subprocess.run([*gpg, *free, "--quick-gen-key", "logs", "default", "default"], check=True)
    public = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout
    put = f"echo {base64.b64encode(public).decode()} | base64 -d >/run/key.asc"
    word = "quetzalcoatlus"
    shipped = world.state / "logs.tar"
    logs = "/opt/relay/scripts/node-admin logs"
    try:
        done = world.run(
            f"{put} && {logs} seal --recipient /run/key.asc && logger -t canary {word} && "
            "systemctl start node-seal@relay && systemctl stop node-seal-last@relay"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert word in world.machine.run("journalctl -t canary --no-pager"), "the positive control"
        plain = world.machine.run(f"grep -rls {word} /var/log /var/lib/docker; true")
        assert plain.strip() == ""
        done = world.run(f"{logs} ship --out - | base64")
        shipped.write_bytes(base64.b64decode(done.stdout))

        opened = subprocess.run(
            [str(ROOT / "scripts/adyton"), "logs", "open", str(shipped)],
            env={**os.environ, "GNUPGHOME": str(home)},
            capture_output=True,
            text=True,
        )

        assert opened.returncode == 0, opened.stderr
        assert f"canary: {word}" in opened.stdout
        assert "dropped in: " in opened.stdout, "the firewall's words too"
    finally:
        world.run(f"{logs} seal --undo; rm -rf /var/log/node-sealed /run/key.asc")
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def test_undo_restores_everything(world: World, before: str) -> None:
    """Every file, mode and state; and nothing of its own is left."""
    done = world.run(f"{HARDEN} --undo --yes")

    assert done.returncode == 0, done.stdout + done.stderr
    assert census(world) == before
    wait_until(
        lambda: world.machine.ask("fail2ban-client unban --all") is not None, "fail2ban is up"
    )
    wait_until(lambda: scan(world.attacker) == (LEFT_OPEN, LEFT_OPEN), "its ports are open again")


# What is done and seen


def census(world: World) -> str:
    return world.machine.run(CENSUS, PATIENCE_SECONDS)


def applying(world: World, words: str, *options: str) -> contextlib.AbstractContextManager[Lines]:
    """`harden` over a connection of its own; its lines, and None at its end."""
    return world.login.lines(f"{HARDEN} --yes {words}", *options)


def wait_until(
    holds: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS, pause: float = 1
) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)


def scan(who: Namespace) -> tuple[list[int], list[int]]:
    """Which of PORTS accept a connection, in IPv4 and in IPv6."""
    with ThreadPoolExecutor() as both:
        v4 = both.submit(open_ports, who, ATTACKER, MACHINE, PORTS)
        v6 = both.submit(open_ports, who, ATTACKER_V6, MACHINE_V6, PORTS)
        return v4.result(), v6.result()


def open_ports(who: Namespace, source: str, target: str, ports: Iterable[int]) -> list[int]:
    """Calls all at once; those that do not answer are given time for it."""

    def call(port: int) -> bool:
        try:
            with socket.create_connection((target, port), SCAN_SECONDS, (source, 0)):
                return True
        except OSError:
            return False

    with ThreadPoolExecutor() as callers:
        calls = {port: callers.submit(who.do, lambda port=port: call(port)) for port in ports}
    return sorted(port for port, made in calls.items() if made.result())


def tunnel_answers(who: Namespace) -> bool:
    """Whether what stands in for the tunnel, behind Docker's published port, is reached."""

    def ask() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.bind((ATTACKER, 0))
            asker.settimeout(SCAN_SECONDS)
            try:
                asker.sendto(b"is somebody there?\n", (MACHINE, TUNNEL))
                return asker.recvfrom(100)[0].startswith(b"is somebody there?")
            except OSError:
                return False

    return who.do(ask)


def ssh_of(who: Namespace, target: str, *options: str) -> str:
    """A login of somebody without a key; what ssh says."""
    command = [
        *(*who.enter, "ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", *options),
        *("-o", "UserKnownHostsFile=/dev/null", "-o", "IdentityFile=none"),
        *("-o", "BatchMode=yes", "-o", "ConnectTimeout=20", f"root@{target}", "true"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode != 0
    return done.stderr.replace("\r", "")
