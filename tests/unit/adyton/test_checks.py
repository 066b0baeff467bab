"""Checks of the doctor against recorded answers: what a test machine cannot be made to have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.doctor import (
    census,
    clock,
    counters,
    dumps,
    room,
    rules,
    sockets,
    states,
    telegram,
    versions,
)
from scripts.doctor import tunnel as tunnel_check
from scripts.doctor.examination import checks_of, examine
from scripts.doctor.finding import Level
from scripts.lifecycle import revoked
from scripts.node.kinds import kinds
from scripts.node.node import Node
from scripts.node.tools import Said
from tests.unit.adyton.recorded import GIB, NOW, Nodes


@pytest.fixture
def node(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


# Versions


def docker_version(server: str | None) -> str:
    return json.dumps({"Client": {"Version": "28.0"}, "Server": server and {"Version": server}})


@pytest.mark.parametrize(
    ("docker", "compose", "problems"),
    [
        ("26.1.5+dfsg1", "2.26.1-4", set()),
        ("25.0.0", "2.24.4", set()),
        ("29.1.0", "v5.0.1", set()),
        ("24.0.9", "2.26.1", {"docker-old"}),
        ("20.10.24", "2.24.3", {"docker-old", "compose-old"}),
        ("26.1.5", None, {"compose-missing"}),
    ],
)
def test_versions_that_the_compose_files_need(
    node: Nodes, docker: str, compose: str | None, problems: set[str]
) -> None:
    """Docker 25 for start_interval, Compose 2.24.4 for !override."""
    node.tools.answers["docker version"] = docker_version(docker)
    node.tools.answers["docker compose version"] = Said(1) if compose is None else compose

    assert node.problems(versions.CHECK) == problems


def test_docker_that_is_not_there_or_does_not_answer(node: Nodes) -> None:
    """Told apart: not installed, not running, not for this user."""
    assert node.problems(versions.CHECK) == {"docker-missing"}

    why = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
    node.tools.answers["docker version"] = Said(1, docker_version(None), why)
    assert node.problems(versions.CHECK) == {"docker-unreachable"}

    node.tools.answers["docker version"] = Said(1, "", "permission denied while trying to connect")
    (found,) = node.find(versions.CHECK)
    assert found.level is Level.COULD_NOT_LOOK


def test_settings_that_compose_refuses_are_told_once(node: Nodes) -> None:
    """With Compose's own sentence; the other checks only refer to it."""
    node.tools.answers["docker version"] = docker_version("26.1.5")
    node.tools.answers["docker compose version"] = "2.26.1"
    why = "required variable RESOLVER is missing a value: put one into .env"
    node.tools.answers["docker compose -f compose.yml config"] = Said(1, "", f"error: {why}\n")

    found = node.find(versions.CHECK, states.CHECK, census.CHECK)

    assert [it.problem for it in found if it.problem] == ["settings-unreadable"]
    assert sum(why in it.text for it in found) == 1
    assert [it.level for it in found[-2:]] == [Level.COULD_NOT_LOOK] * 2


def test_without_docker_other_checks_say_that_they_cannot_look(node: Nodes) -> None:
    """None of them takes silence for health."""
    node.tools.answers = {"docker": Said(1, "", "Cannot connect to the Docker daemon")}
    silent = Node(kinds()["relay"], node.tools, Path("/nowhere"), (), ("compose.yml",))

    found = list(examine(silent, checks_of(kinds()["relay"])))

    looking_at_docker = {"containers", "namespaces", "rulesets", "hardening", "tunnel", "telegram"}
    for name in (*looking_at_docker, "destinations", "refused packets", "open sockets"):
        levels = {it.level for it in found if it.check == name}
        assert levels == {Level.COULD_NOT_LOOK}, name


# Containers


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"OOMKilled": True}, "container-out-of-memory"),
        ({"Health": {"Status": "unhealthy"}}, "container-unhealthy"),
        ({"Health": {"Status": "starting"}}, "container-starting"),
        ({"Status": "exited", "ExitCode": 78}, "container-stopped"),
        ({"Status": "restarting"}, "container-restarting"),
        ({"Status": "paused"}, "container-paused"),
        ({"RestartCount": 3, "StartedAt": "2027-01-15T07:50:00Z"}, "container-restarted"),
    ],
)
def test_states_of_containers(node: Nodes, state: dict[str, object], problem: str) -> None:
    """Each is told, with the container's last words where they help."""
    node.add("relay", **state)
    node.tools.answers["docker logs"] = 'RESOLVER is "": give one\n'

    found = node.find(states.CHECK)

    assert {it.problem for it in found if it.problem} == {problem}
    if problem in ("container-stopped", "container-restarting"):
        assert "give one" in found[0].text


def test_restarts_of_long_ago_are_no_news(node: Nodes) -> None:
    """A container that was restarted in its first minute and has run for a day since."""
    node.add("relay", RestartCount=1, StartedAt="2027-01-14T08:00:00Z")

    assert node.problems(states.CHECK) == set()


def test_missing_container_and_older_image(node: Nodes) -> None:
    """A service without a container; a container of yesterday's image."""
    node.add("relay")
    node.services["egress"] = {"image": "node/egress:1"}
    node.tools.answers["docker image inspect"] = "sha256:2\n"

    assert node.problems(states.CHECK) == {"container-missing", "container-of-older-image"}


# Namespaces


HEADING = "Inter-| Receive\n face |bytes\n"


def test_fallback_interfaces_of_the_kernel_are_only_told(node: Nodes) -> None:
    """tunl0 and the like lead nowhere; anything else does."""
    node.add("wireguard")
    node.services["wireguard"]["network_mode"] = "none"
    listing = f"{HEADING} lo: 0\n tunl0: 0\n"
    node.tools.answers["docker exec id-of-wireguard cat /proc/self/net/dev"] = listing
    assert node.problems(census.CHECK) == {"interface-of-kernel"}

    listing += " eth7: 0\n"
    node.tools.answers["docker exec id-of-wireguard cat /proc/self/net/dev"] = listing
    assert node.problems(census.CHECK) == {"interface-of-kernel", "interface-too-many"}


def test_member_in_another_namespace_was_left_behind(node: Nodes) -> None:
    """By the inodes of the namespaces."""
    for service, inode in (("wireguard", 1), ("relay", 1)):
        node.add(service)
        start = f"docker exec id-of-{service}"
        node.tools.answers[f"{start} cat /proc/self/net/dev"] = f"{HEADING} lo: 0\n wg0: 0\n"
        node.tools.answers[f"{start} readlink"] = f"net:[{inode}]\n"
    node.services["wireguard"]["network_mode"] = "none"
    node.services["relay"]["network_mode"] = "service:wireguard"
    assert node.problems(census.CHECK) == set()

    node.tools.answers["docker exec id-of-relay readlink"] = "net:[2]\n"
    assert node.problems(census.CHECK) == {"left-behind"}


# Tunnel

USERSPACE = (
    "rules=standing\nrefused_in_packets=0\nrefused_out_packets=0\ncarrier=userspace\n"
    "handshake_age_seconds={age}\nreceived_bytes=1\nsent_bytes=1\n"
)
ELSEWHERE = "rules=standing\nrefused_in_packets=0\nrefused_out_packets=0\ncarrier=elsewhere\n"


@pytest.mark.parametrize(
    ("kind", "uplink", "problem"),
    [
        ("relay", USERSPACE.format(age=100), None),
        ("relay", USERSPACE.format(age=200), "other-node-silent"),
        ("relay", USERSPACE.format(age="never"), "other-node-silent"),
        ("model", USERSPACE.format(age=600), "handshake-missing"),
        ("model", USERSPACE.format(age="never"), "handshake-missing"),
        ("model", ELSEWHERE, "tunnel-missing"),
        ("relay", USERSPACE.format(age=1).replace("standing", "changed"), "rules-not-standing"),
    ],
)
def test_tunnel_as_its_own_status_tells(
    tmp_path: Path, kind: str, uplink: str, problem: str | None
) -> None:
    """A silent peer is a failure for the node that dials, and a warning for the one that waits."""
    node = Nodes(tmp_path, kind)
    node.add("wireguard")
    node.add("uplink")
    node.tools.answers["docker exec id-of-uplink status"] = uplink
    node.tools.answers["docker exec id-of-wireguard status"] = ELSEWHERE

    assert node.problems(tunnel_check.CHECK) == ({problem} if problem else set())


@pytest.mark.parametrize(
    "path", ["sys/module/wireguard/version", "modules/6.12.0-test/modules.dep"]
)
def test_kernel_that_could_carry_the_tunnel_is_told(node: Nodes, path: str) -> None:
    """Built in or as a module: then a process need not do it."""
    node.add("uplink")
    node.tools.answers["docker exec id-of-uplink status"] = USERSPACE.format(age=3)
    assert node.problems(tunnel_check.CHECK) == set(), "control: this kernel has it not"

    node.tools.write(path, "kernel/drivers/net/wireguard/wireguard.ko.xz: kernel/lib/x.ko\n")

    assert node.problems(tunnel_check.CHECK) == {"tunnel-in-userspace"}


@pytest.mark.parametrize("secret", ["link_token", "tunnel_preshared_key"])
def test_secret_that_was_revoked_is_a_failure_where_it_comes_back(
    tmp_path: Path, secret: str
) -> None:
    """An older bundle that was unpacked by hand; until then nothing is amiss."""
    node = Nodes(tmp_path, "model")
    node.root = tmp_path
    node.add("uplink")
    node.tools.answers["docker exec id-of-uplink status"] = USERSPACE.format(age=1)
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name in ("link_token", "tunnel_preshared_key"):
        (folder / name).write_text(f"new {name}")
    assert node.problems(tunnel_check.CHECK) == set()
    revoked.note(folder, [f"old {secret}".encode()])
    assert node.problems(tunnel_check.CHECK) == set()

    (folder / secret).write_text(f"old {secret}\n")

    assert node.problems(tunnel_check.CHECK) == {"secret-revoked"}


def test_tunnel_that_was_revoked_is_no_missing_container(tmp_path: Path) -> None:
    """It says that it was meant, and how to pair again; the tunnel's check adds nothing."""
    node = Nodes(tmp_path, "model")
    node.add("wireguard")
    node.services["uplink"] = {"image": "node/uplink:1", "deploy": {"replicas": 0}}

    found = [it for it in node.find(states.CHECK, tunnel_check.CHECK) if it.problem]

    assert [it.problem for it in found] == ["other-node-cut-off"]
    assert "init --vps ADDRESS --rotate" in found[0].remedy


# Rulesets and counters


def guarded(node: Nodes, standing: str, golden: Said | str, tables: str = "") -> None:
    node.add("egress")["Config"]["Cmd"] = ["egress"]
    node.services["egress"]["cap_add"] = ["NET_ADMIN"]
    start = "docker exec id-of-egress"
    missing = Said(1, err="Error: No such file or directory")
    node.tools.answers |= {
        f"{start} nft --stateless list table inet node": standing or missing,
        f"{start} nft --stateless list table netdev node": missing,
        f"{start} nft list tables": f"table inet node\n{tables}",
        f"{start} cat /proc/self/net/dev": f"{HEADING} lo: 0\n eth0: 0\n",
        "docker run --rm": golden,
    }


RULES = "table inet node {\n\tchain output {\n\t\tpolicy drop;\n\t}\n}\n"


@pytest.mark.parametrize(
    ("standing", "golden", "tables", "problems"),
    [
        (RULES, RULES, "", set()),
        ("", RULES, "", {"rules-gone"}),
        (RULES.replace("drop", "accept"), RULES, "", {"rules-changed"}),
        (RULES, RULES, "table ip nat\n", {"rules-foreign"}),
    ],
)
def test_rulesets_are_compared(
    node: Nodes, standing: str, golden: str, tables: str, problems: set[str]
) -> None:
    """Whatever differs from the golden one is told, with the lines."""
    guarded(node, standing, golden, tables)

    found = node.find(rules.CHECK)

    assert {it.problem for it in found if it.problem} == problems
    if problems == {"rules-changed"}:
        assert "- policy drop; + policy accept;" in found[0].text


def test_ruleset_that_cannot_be_compared_is_not_taken_for_golden(node: Nodes) -> None:
    """The throwaway container did not start: then nobody knows."""
    guarded(node, RULES, Said(125, err="docker: no space left on device."))

    (found,) = node.find(rules.CHECK)

    assert found.level is Level.COULD_NOT_LOOK
    assert "no space left" in found.text


LEARNT = """\
		elements = { 198.18.8.30 limit rate 10/second expires 9s, 198.18.8.31 expires 2s }
"""
SETS = """table inet node {
	set strangers {
		type ipv4_addr
		size 16384
		flags dynamic,timeout
		timeout 10s
LEARNT	}

	set telegram {
		type ipv4_addr
		flags interval
		elements = { 198.18.8.20 }
	}
}
"""


def test_learnt_addresses_are_no_difference_and_given_ones_are(node: Nodes) -> None:
    """The kernel fills a dynamic set by itself; nobody but somebody fills the other."""
    golden, standing = SETS.replace("LEARNT", ""), SETS.replace("LEARNT", LEARNT)
    guarded(node, standing, golden)
    assert node.problems(rules.CHECK) == set()

    guarded(node, standing.replace("198.18.8.20", "198.18.8.20, 198.18.8.21"), golden)
    assert node.problems(rules.CHECK) == {"rules-changed"}


COUNTERS = "counter refused_in {{\n packets {0} bytes 1\n}}\ncounter refused_out {{\n packets {1}"


def test_counters_are_news_once(node: Nodes) -> None:
    """At the first look since the container's start, then since the look before."""
    guarded(node, RULES, RULES)
    listing = "docker exec id-of-egress nft list counters"

    def problems(refused_in: int, refused_out: int) -> set[str]:
        node.tools.answers[listing] = COUNTERS.format(refused_in, refused_out)
        return node.problems(counters.CHECK)

    assert problems(0, 2) == {"refused-out"}
    assert problems(0, 2) == set()
    assert problems(4, 2) == {"refused-in"}

    node.containers[0]["State"]["StartedAt"] = "2026-06-01T00:00:00Z"
    assert problems(1, 1) == {"refused-in", "refused-out"}, "a restarted container begins anew"


# The host


def socket_row(address: str, port: int, state: str, inode: int) -> str:
    queues = "00000000:00000000 00:00000000 00000000     0        0"
    return f"   0: {address}:{port:04X} 00000000:0000 {state} {queues} {inode} 1 0 100 0\n"


def hold(node: Nodes, pid: int, name: str, inode: int) -> None:
    node.tools.write(f"proc/{pid}/comm", f"{name}\n")
    folder = node.tools.proc / str(pid) / "fd"
    folder.mkdir(exist_ok=True)
    (folder / "3").symlink_to(f"socket:[{inode}]")


@pytest.mark.parametrize(
    ("table", "address", "port", "process", "problem"),
    [
        ("tcp", "00000000", 22, "sshd", None),
        ("tcp", "00000000", 2222, "sshd", None),
        ("tcp", "00000000", 22, "", None),
        ("tcp", "0100007F", 631, "cupsd", None),
        ("tcp6", "0" * 24 + "01000000", 631, "cupsd", None),
        ("tcp", "00000000", 80, "nginx", "socket-open"),
        ("tcp", "00000000", 8080, "", "socket-open"),
        ("tcp6", "0" * 32, 80, "nginx", "socket-open"),
        ("udp", "00000000", 51820, "docker-proxy", None),
        ("udp", "00000000", 51821, "docker-proxy", "socket-open"),
        ("udp", "00000000", 51820, "socat", "socket-open"),
        ("udp", "00000000", 68, "dhclient", None),
        ("udp", "00000000", 5353, "avahi-daemon", "socket-open"),
        ("raw", "00000000", 1, "pinger", "packets-read"),
    ],
)
def test_open_sockets(
    node: Nodes, table: str, address: str, port: int, process: str, problem: str | None
) -> None:
    """sshd, the published port, what asks for the machine's address are known; others told."""
    node.add("uplink")["NetworkSettings"]["Ports"] = {
        "51820/udp": [{"HostIp": "0.0.0.0", "HostPort": "51820"}]
    }
    node.services["uplink"]["ports"] = [{"published": "51820", "target": 51820, "protocol": "udp"}]
    state = "0A" if table.startswith("tcp") else "07"
    node.tools.write(f"proc/1/net/{table}", "heading\n" + socket_row(address, port, state, 99))
    if process:
        hold(node, 50, process, 99)

    found = [it for it in node.find(sockets.CHECK) if it.problem]

    assert [it.problem for it in found] == ([problem] if problem else [])
    if problem:
        assert (process or "cannot be seen") in found[0].text


def test_packet_socket_is_told(node: Nodes) -> None:
    """Whoever reads the interface sees with whom this machine speaks."""
    row = "ffff 3 3 0003 2 1 0 0 77\n".replace("ffff", "ffff0000")
    node.tools.write("proc/1/net/packet", "sk RefCnt Type Proto Iface R Rmem User Inode\n" + row)
    hold(node, 51, "tcpdump", 77)

    assert node.problems(sockets.CHECK) == {"packets-read"}


def test_published_ports_of_others_and_a_closed_one_of_our_own(node: Nodes) -> None:
    """Another container's port on all addresses; the tunnel's port that nothing publishes."""
    node.add("uplink")
    node.services["uplink"]["ports"] = [{"published": "51820", "target": 51820, "protocol": "udp"}]
    other = Nodes(node.tools.proc.parent / "other").add("web")
    other["NetworkSettings"]["Ports"] = {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "80"}],
        "81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "81"}],
    }
    node.others.append(other)

    found = [it for it in node.find(sockets.CHECK) if it.problem]

    assert [it.problem for it in found] == ["port-published", "tunnel-port-closed"]
    assert "80/tcp" in found[0].text


@pytest.mark.parametrize(
    ("time", "status", "problems"),
    [
        (NOW, 0, set()),
        (NOW, 0x0041, {"clock-unsynchronised"}),
        (0.0, 0, {"clock-wrong"}),
        (3e9, 0x0040, {"clock-wrong", "clock-unsynchronised"}),
    ],
)
def test_clock(node: Nodes, time: float, status: int, problems: set[str]) -> None:
    """By the kernel's own word, whoever keeps it."""
    node.tools.time, node.tools.status = time, status

    assert node.problems(clock.CHECK) == problems


@pytest.mark.parametrize(
    ("free", "memory", "problems"),
    [
        (50 * GIB, 250_000, set()),
        (GIB // 2, 250_000, {"disk-low"}),
        (GIB // 16, 250_000, {"disk-full"}),
        (50 * GIB, 30_000, {"memory-low"}),
    ],
)
def test_room(node: Nodes, free: int, memory: int, problems: set[str]) -> None:
    """On Docker's disk and in memory."""
    node.tools.answers["docker info"] = "/var/lib/docker\n"
    node.tools.room = (100 * GIB, free)
    node.tools.write("proc/meminfo", f"MemTotal: 500000 kB\nMemAvailable: {memory} kB\n")

    assert node.problems(room.CHECK) == problems


def test_room_that_this_user_cannot_see(node: Nodes) -> None:
    """Said, with the remedy."""
    node.tools.answers["docker info"] = "/var/lib/docker\n"
    node.tools.room = PermissionError(13, "Permission denied")

    found = node.find(room.CHECK)

    assert [it.level for it in found] == [Level.COULD_NOT_LOOK, Level.OK]
    assert found[0].remedy


def test_core_dumps_that_are_piped(node: Nodes) -> None:
    """A pipe ignores the containers' limit of 0."""
    assert node.problems(dumps.CHECK) == set()

    node.tools.write("proc/sys/kernel/core_pattern", "|/usr/share/apport/apport %p\n")

    assert node.problems(dumps.CHECK) == {"core-piped"}


# Telegram


SIGN = "answered_at={answered}\nwaiting={waiting}\nwaiting_since={since}\n"


def event(action: str) -> str:
    return json.dumps({"time": NOW, "level": "warning", "action": action}) + "\n"


@pytest.mark.parametrize(
    ("sign", "log", "problems"),
    [
        (SIGN.format(answered=NOW - 40, waiting=0, since=0), "", set()),
        (SIGN.format(answered=NOW - 130, waiting=0, since=0), "", {"telegram-silent"}),
        (SIGN.format(answered=0, waiting=0, since=0), "", {"telegram-never"}),
        (
            SIGN.format(answered=NOW - 4, waiting=0, since=0),
            event("telegram unreachable") * 3,
            {"telegram-troubled"},
        ),
        (
            SIGN.format(answered=NOW, waiting=0, since=0),
            event("another poller"),
            {"another-poller"},
        ),
        (SIGN.format(answered=NOW, waiting=3, since=NOW - 61), "", {"updates-wait"}),
        (SIGN.format(answered=NOW, waiting=3, since=NOW - 10), "", set()),
    ],
)
def test_telegram_by_the_relays_own_sign(
    node: Nodes, sign: str, log: str, problems: set[str]
) -> None:
    """When it answered last, how many updates wait, and who else asks."""
    node.add("relay")
    node.tools.answers["docker exec id-of-relay cat /tmp/polls"] = sign.replace(".0", "")
    node.tools.answers["docker logs --since"] = log + "no JSON\n"

    assert node.problems(telegram.CHECK) == problems


def test_relay_without_a_sign_is_not_taken_for_well(node: Nodes) -> None:
    """An older image leaves none; one that was just started has nothing to tell yet."""
    node.add("relay")
    (found,) = node.find(telegram.CHECK)
    assert found.level is Level.COULD_NOT_LOOK

    node.containers.clear()
    node.add("relay", StartedAt="2027-01-15T08:00:00Z")
    sign = SIGN.format(answered=0, waiting=0, since=0)
    node.tools.answers["docker exec id-of-relay cat /tmp/polls"] = sign
    node.tools.time = NOW
    assert node.find(telegram.CHECK)[0].level is Level.COULD_NOT_LOOK
