"""The doctor on a running pair: it finds nothing where all is well, and each thing that is bent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from scripts.doctor import (
    census,
    counters,
    hardening,
    refusals,
    rules,
    sockets,
    states,
    telegram,
    tunnel,
)
from scripts.doctor.examination import checks_of
from scripts.doctor.model import engine
from scripts.node.kinds import kinds
from tests.conftest import ROOT
from tests.integration.doctor.conftest import (
    SUBNET,
    TARGET_NAME,
    Bench,
    Later,
    Undo,
    docker,
)
from tests.integration.lab import PEER, wait_until
from tests.operating import Nodes, problems_of

OF_THE_MACHINE = {"open sockets", "clock", "room", "core dumps", "refused packets"}
"""Checks that depend on what else runs on this machine, or on what happened before."""


@pytest.mark.parametrize(
    ("kind", "elsewhere"), [("relay", {"tunnel-port-closed"}), ("model", set())]
)
def test_nothing_is_amiss_where_all_is_well(nodes: Nodes, kind: str, elsewhere: set[str]) -> None:
    """Every check looks, and none finds anything but that an `internal` network publishes no port.

    As the command tells it for machines, and by its exit status.
    """
    wait_for_handshake(nodes)
    done = subprocess.run(nodes.command(kind, "doctor", "--json"), capture_output=True, text=True)

    told = json.loads(done.stdout)
    found = [it for it in told["findings"] if it["check"] not in OF_THE_MACHINE]
    assert [it["text"] for it in found if it["problem"] or it["level"] == "could not look"] == []
    assert {it["check"] for it in told["findings"]} == {it.name for it in checks_of(kinds()[kind])}
    problems = {it["problem"] for it in told["findings"]}
    assert problems & {"tunnel-port-closed"} == elsewhere
    assert (told["node"], told["status"]) == (kind, done.returncode)
    assert (done.returncode == 2) is bool(elsewhere)
    assert all(it["remedy"] for it in told["findings"] if it["problem"])


def wait_for_handshake(nodes: Nodes) -> None:
    def is_heard() -> bool:
        told = docker("exec", nodes.container("relay", "uplink"), "status")
        return "handshake_age_seconds=" in told and "=never" not in told

    wait_until(is_heard, "the nodes have shaken hands", 30)


def test_command_without_root_says_what_it_could_not_see(nodes: Nodes) -> None:
    """Somebody who may only talk to Docker gets everything else, and a sentence about the rest."""
    options, files = nodes.compose_of("relay")
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        Path(folder).chmod(0o755)
        copied = []
        for at, word in enumerate(options):  # the pair's state is closed to others
            is_file = at > 0 and options[at - 1] == "--env-file"
            copied.append(shutil.copy(word, folder) if is_file else word)
        group = str(Path("/var/run/docker.sock").stat().st_gid)
        home = {"HOME": folder, "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        named = [word for file in files for word in ("-f", file)]
        done = subprocess.run(
            ["setpriv", "--reuid=65534", f"--regid={group}", "--clear-groups"]
            + [str(ROOT / "scripts/adyton"), "doctor", "--json", "--node=relay", *copied, *named],
            capture_output=True, text=True, env=home,
        )  # fmt: skip

    assert done.returncode == 2, done.stderr
    found = json.loads(done.stdout)["findings"]
    assert {it["problem"] for it in found if it["check"] in ("namespaces", "rulesets")} == {""}
    blind = {it["check"] for it in found if it["level"] == "could not look"}
    assert blind >= {"destinations", "hardening"}
    assert blind & {"namespaces", "rulesets", "containers", "tunnel", "telegram"} == set()


# Rulesets and counters


def test_added_member_of_a_set_is_found(nodes: Nodes, afterwards: Undo) -> None:
    """One more network on the way to Telegram."""
    egress = nodes.container("relay", "egress")
    element = ("element", "inet", "node", "telegram", "{ 198.18.84.1 }")
    docker("exec", egress, "nft", "add", *element)
    afterwards("exec", egress, "nft", "delete", *element)

    found = nodes.find("relay", rules.CHECK)

    assert problems_of(found) == {"rules-changed"}
    assert any("198.18.84.1" in it.text for it in found)


def test_added_rule_and_strange_table_are_found(nodes: Nodes, afterwards: Undo) -> None:
    """A rule more in a namespace, and a table that nobody of ours has made."""
    holder = nodes.container("model", "wireguard")
    docker("exec", holder, "nft", "insert", "rule", "inet", "node", "output", "accept")
    docker("exec", holder, "nft", "add", "table", "ip", "stranger")
    handle = docker("exec", holder, "sh", "-c", HANDLE)
    afterwards("exec", holder, "nft", "delete", "rule", "inet", "node", "output", "handle", handle)
    afterwards("exec", holder, "nft", "delete", "table", "ip", "stranger")

    found = problems_of(nodes.find("model", rules.CHECK, tunnel.CHECK))

    assert found == {"rules-changed", "rules-foreign", "rules-not-standing"}


HANDLE = "nft -a list chain inet node output | sed -n 's/^\\t\\taccept # handle //p'"


def test_flushed_ruleset_is_found_from_all_sides(nodes: Nodes, afterwards: Undo) -> None:
    """No rules: the listing says so, the container says so, and packets and questions pass."""
    uplink = nodes.container("model", "uplink")
    afterwards("restart", "--time", "3", uplink)
    docker("exec", uplink, "nft", "flush", "ruleset")

    found = nodes.problems("model", rules.CHECK, tunnel.CHECK, refusals.CHECK)

    assert found == {"rules-gone", "rules-not-standing", "way-out", "names-answered"}


def test_growing_counters_are_told_once(nodes: Nodes, target: str) -> None:
    """Packets that were refused since the last look, in either direction; no news, no warning."""
    egress = nodes.container("relay", "egress")
    nodes.find("relay", counters.CHECK)
    assert nodes.problems("relay", counters.CHECK) == set()

    refused = subprocess.run(
        ["docker", "exec", egress, "bash", "-c", f"echo >/dev/udp/{target}/9"],
        capture_output=True, text=True,
    )  # fmt: skip
    address = f"{SUBNET}.11"
    docker("exec", TARGET_NAME, "sh", "-c", f"echo | socat -u - UDP-SENDTO:{address}:9")

    assert "not permitted" in refused.stderr
    found = nodes.find("relay", counters.CHECK)
    assert problems_of(found) == {"refused-out", "refused-in"}
    assert all("egress" in it.text for it in found if it.problem)
    assert nodes.problems("relay", counters.CHECK) == set()


# What stops


def test_stopped_and_paused_containers_are_found(nodes: Nodes, afterwards: Undo) -> None:
    """Each with its last words, and the engine by its own check as well."""
    stopped, paused = nodes.container("model", "engine"), nodes.container("relay", "egress")
    docker("stop", "--time", "1", stopped)
    afterwards("start", stopped)
    docker("pause", paused)
    afterwards("unpause", paused)

    assert nodes.problems("model", states.CHECK, engine.CHECK) == {
        "container-stopped", "engine-down",
    }  # fmt: skip
    assert nodes.problems("relay", states.CHECK) == {"container-paused"}


def test_telegram_that_is_silent_and_updates_that_wait(nodes: Nodes, afterwards: Undo) -> None:
    """By the relay's own sign: two minutes without an answer, a minute of waiting."""
    assert nodes.problems("relay", telegram.CHECK) == set()
    assert "telegram-silent" in nodes.problems("relay", telegram.CHECK, tools=Later(600))

    gateway = nodes.container("model", "gateway")
    docker("stop", "--time", "1", gateway)
    afterwards("start", gateway)
    nodes.user.say("is anybody there?")
    relay = nodes.container("relay", "relay")
    wait_until(lambda: "waiting=1" in docker("exec", relay, "cat", "/tmp/polls"), "it waits", 60)

    assert nodes.problems("relay", telegram.CHECK) == set()
    assert "updates-wait" in nodes.problems("relay", telegram.CHECK, tools=Later(100))


# The host


def test_open_socket_and_reader_of_packets_are_named(nodes: Nodes) -> None:
    """Whatever listens on an address of this machine's, and whatever reads along."""
    with socket.create_server((f"{SUBNET}.1", 0)) as listener, reading():
        port = listener.getsockname()[1]

        found = [it for it in nodes.find("model", sockets.CHECK) if it.problem]

    name = Path(f"/proc/{os.getpid()}/comm").read_text(encoding="utf-8").strip()
    texts = [it.text for it in found if it.problem == "socket-open"]
    assert f"Open to others on this machine: tcp {SUBNET}.1:{port} (`{name}`)." in texts
    assert any(it.problem == "packets-read" and f"`{name}`" in it.text for it in found)
    later = [it.text for it in nodes.find("model", sockets.CHECK) if it.problem == "socket-open"]
    assert not [text for text in later if f"{SUBNET}.1:{port} " in text]


# Containers that are not as the files want them


def reading() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)


def service(name: str, *lines: str) -> str:
    """One service in YAML, on no network unless its lines say so."""
    if not any(line.startswith("networks") for line in lines):
        lines = ("network_mode: none", *lines)
    return f"  {name}:\n    <<: *strict" + "".join(f"\n    {line}" for line in lines)


STRICT = f"""
x-strict: &strict
  image: {PEER}
  command: [sleep, infinity]
  init: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  read_only: true
  user: "10001:10001"
  mem_limit: 32m
  memswap_limit: 32m
  pids_limit: 16
  ulimits: {{ core: 0 }}
  stop_grace_period: 0s
services:
"""
BENT = {
    "read-only-root": (["read_only: false"], {"read-only root"}),
    "capability": (["cap_add: [NET_RAW]", 'user: "0"'], {"capabilities added", "user"}),
    "capabilities-kept": (["cap_drop: []"], {"capabilities dropped"}),
    "privileges": (["security_opt: []"], {"security options"}),
    "privileged": (["privileged: true"], {"privileged"}),
    "memory": (["mem_limit: 64m", "memswap_limit: 64m"], {"memory limit", "memory and swap limit"}),
    "mount": (['volumes: ["/etc/hostname:/etc/hostname.host"]'], {"mounts"}),
    "network": (["networks: [inside]"], {"network mode", "networks"}),
    "environment": (["environment: { WORD: other }"], {"environment"}),
    "dump": (["ulimits: { core: 1000 }"], {"resource limits"}),
    "processes": (["pid: host"], {"process namespace"}),
    "command": (["command: [sleep, '1000000']"], {"command"}),
    "sysctl": (["sysctls: { net.ipv4.ip_forward: '1' }"], {"sysctls"}),
    "device": (["devices: [/dev/net/tun]"], {"devices"}),
}
"""What is bent about each service, and the properties that must be named."""


def test_every_bent_property_is_named(bench: Bench) -> None:
    """Containers made from a weaker file, compared with the strict one."""
    strict = bench.write("strict.yml", STRICT + "\n".join(service(name) for name in BENT))
    networks = "\nnetworks: { inside: { internal: true, ipam: { config: [{ subnet: SUBNET }] } } }"
    weak = bench.write(
        "weak.yml",
        STRICT
        + "\n".join(service(name, *lines) for name, (lines, _) in BENT.items())
        + networks.replace("SUBNET", "198.18.80.0/24"),
    )
    bench.up(weak)

    against_itself = bench.find(weak, hardening.CHECK)
    found = bench.find(strict, hardening.CHECK)

    assert "could not look" not in {it.level for it in found + against_itself}, (
        "every container was looked at"
    )
    differing = [it.text for it in against_itself if it.problem == "container-differs"]
    assert differing == [], "control: they are as the weak file wants them"
    for name, (_, properties) in BENT.items():
        differing = [
            it.text for it in found if it.problem == "container-differs" and f"{name}:" in it.text
        ]
        named = {text.partition(": ")[2].partition(" is ")[0] for text in differing}
        assert named == properties, name
        assert not any("other" in text for text in differing if "environment" in text)
    assert [it.text for it in found if it.problem == "process-unfiltered"] == [
        "The system calls of privileged are not filtered."
    ]
    may_more = {it.text.split()[4] for it in found if it.problem == "process-may-more"}
    assert may_more == {"capability", "capabilities-kept", "privileges", "privileged"}


ONCE = "test -e /once || { touch /once; exit 1; }; exec sleep 1000"
LIVING = f"""
services:
  holder: &quiet
    image: {PEER}
    network_mode: none
    init: true
    stop_grace_period: 0s
    command: [sleep, infinity]
  member: {{ <<: *quiet, network_mode: "service:holder", depends_on: [holder] }}
  again: {{ <<: *quiet, restart: always, command: ["false"] }}
  twice: {{ <<: *quiet, restart: always, command: [sh, -c, "{ONCE}"] }}
  ill: {{ <<: *quiet, healthcheck: {{ test: ["CMD", "false"], interval: 1s, retries: 1 }} }}
  slow: {{ <<: *quiet, healthcheck: {{ test: ["CMD", "false"], start_period: 1h }} }}
  open: {{ image: {PEER}, init: true, command: [sleep, infinity], networks: [inside] }}
  missing: {{ <<: *quiet, scale: 0 }}
networks:
  inside: {{ internal: true, ipam: {{ config: [{{ subnet: 198.18.81.0/24 }}] }} }}
"""


def test_living_containers_that_are_not_well(bench: Bench) -> None:
    """A holder that was restarted, an interface too many, a name server, and all states."""
    file = bench.write("living.yml", LIVING)
    bench.up(file)
    assert not problems_of(bench.find(file, census.CHECK)), "control"
    docker("restart", "--time", "0", bench.name("holder"))
    put_interface_into(bench, "holder")
    listener = bench.project + "-resolver"
    docker(
        *("run", "--detach", "--name", listener, "--pull=never", PROJECT_LABEL),
        *("--network", f"container:{bench.name('holder')}", PEER),
        *("socat", "UDP-RECVFROM:53,fork", "EXEC:cat"),
    )
    wait_until(lambda: bench.container("ill").health == "unhealthy", "it is unhealthy", 20)
    wait_until(lambda: bench.container("twice").raw["RestartCount"] == 1, "it was restarted", 20)
    wait_until(lambda: bench.container("again").raw["RestartCount"] > 4, "it ends again", 30)
    wait_until(lambda: bench.container("again").status == "restarting", "it waits", 20)

    found = bench.find(file, states.CHECK, census.CHECK, refusals.CHECK)

    by_service = {(it.problem, it.text.split()[0]) for it in found if it.problem}
    assert {name for name, _ in by_service} == {
        *("container-missing", "container-restarting", "container-restarted"),
        *("container-unhealthy", "container-starting", "container-left-over", "left-behind"),
        *("interface-too-many", "name-server-listed", "names-answered", "way-out"),
    }
    assert ("left-behind", "member") in by_service
    assert ("container-left-over", listener) in by_service
    assert any(it.problem == "way-out" and "198.18.81.1" in it.text for it in found)


PROJECT_LABEL = "--label=com.docker.compose.project=doctor-bench"


def put_interface_into(bench: Bench, service: str) -> None:
    """From the host: Docker itself refuses to attach anything to such a namespace."""
    pid = str(bench.container(service).pid)
    subprocess.run(
        ["ip", "link", "add", "doctor-out", "type", "veth"]
        + ["peer", "name", "doctor-in", "netns", pid],
        check=True,
    )


def test_image_that_was_replaced_is_told(bench: Bench) -> None:
    """A container of yesterday's image runs on until it is made anew."""
    tag = "doctor-bench/image:test"
    docker("tag", PEER, tag)
    try:
        text = f"services: {{ it: {{ image: {tag}, network_mode: none, init: true }} }}"
        file = bench.write("image.yml", text)
        bench.up(file)
        assert not problems_of(bench.find(file, states.CHECK)), "control"

        docker("tag", f"node/wireguard:{PEER.rpartition(':')[2]}", tag)

        assert problems_of(bench.find(file, states.CHECK)) == {"container-of-older-image"}
    finally:
        docker("rmi", "--no-prune", tag)
