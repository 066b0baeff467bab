"""The tunnel between the nodes: what passes, what does not, and what brings it back."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from python_on_whales import Container, DockerClient

from tests.integration.lab import (
    PEER,
    WIREGUARD,
    Lab,
    attempt,
    kill_process,
    probe,
    process_ids,
    start_and_fail,
    wait_until,
    wait_until_healthy,
)
from tests.integration.tunnels import (
    ADDRESSES,
    ENDS,
    OTHER,
    SERVERS,
    Keys,
    Node,
    passes,
    start_holder,
    start_node,
    start_uplink,
    status,
)

NET_ADMIN_ALONE = f"{1 << 12:016x}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def lab(docker: DockerClient) -> Iterator[Lab]:
    with Lab(docker, "tunnel-lab", "198.18.64") as lab:
        yield lab


@pytest.fixture(scope="module")
def nodes(lab: Lab, keys: Keys) -> dict[str, Node]:
    """Both ends, joined, with servers in both namespaces on permitted and other ports."""
    nodes = {end: start_node(lab, keys, end) for end in ENDS}
    wait_until(lambda: passes(nodes), "the first bytes pass the tunnel", 15)
    return nodes


# What passes and what does not


def test_payload_passes_unchanged(nodes: dict[str, Node]) -> None:
    """A mebibyte sent from the listening end to the other node's port comes back as it was."""
    listening = nodes["listen"].workload

    answered, size = probe(listening, "bulk", ADDRESSES["dial"], "8080", str(1 << 20))

    assert (answered, size) == (True, str(1 << 20))


@pytest.mark.parametrize(
    ("caller", "protocol", "port", "allowed", "why"),
    [
        ("listen", "tcp", "8080", True, "the one declared port"),
        ("listen", "tcp", "8081", False, "another port"),
        ("listen", "udp", "8080", False, "the declared port is TCP"),
        ("dial", "tcp", "8080", False, "the dialling end never begins"),
        ("dial", "tcp", "8081", False, "the dialling end never begins"),
        ("dial", "udp", "8080", False, "the dialling end never begins"),
    ],
)
def test_only_the_declared_call_crosses(
    nodes: dict[str, Node], caller: str, protocol: str, port: str, allowed: bool, why: str
) -> None:
    """Through the tunnel goes one TCP port in one direction; all of these servers do listen."""
    callee = OTHER[caller]

    at_home, _ = probe(nodes[callee].workload, protocol, ADDRESSES[callee], port)
    across, _ = probe(nodes[caller].workload, protocol, ADDRESSES[callee], port)

    assert at_home, "control: the server answers inside its own namespace"
    assert across is allowed, why


@pytest.mark.parametrize("end", ENDS)
def test_namespace_holds_loopback_and_tunnel_alone(nodes: dict[str, Node], end: str) -> None:
    """A workload sees lo and wg0, one route, and no IPv6 address."""
    workload = nodes[end].workload

    assert attempt(workload, "ls", "/sys/class/net")[1].split() == ["lo", "wg0"]
    assert attempt(workload, "ip", "-4", "route")[1].split()[0] == ADDRESSES[OTHER[end]]
    assert len(attempt(workload, "ip", "-4", "route")[1].splitlines()) == 1
    assert attempt(workload, "ip", "-6", "address")[1] == ""


@pytest.mark.parametrize("end", ENDS)
def test_uplink_reaches_nothing_but_its_peer(lab: Lab, nodes: dict[str, Node], end: str) -> None:
    """A root process in the uplink's namespace, with Docker's usual capabilities, gets nowhere."""
    bystander = lab.run("target-" + end, PEER, SERVERS, address=50, hardened=False)
    intruder = lab.run(
        "intruder-" + end,
        PEER,
        ["sleep", "infinity"],
        namespace_of=nodes[end].uplink,
        hardened=False,
    )
    target = f"{lab.subnet}.50"
    try:
        wait_until(lambda: probe(bystander, "udp", target, "8080")[0], "control: it listens", 5)

        reached = [
            call
            for call in (("tcp", target, "8080"), ("udp", target, "8080"), ("dns", "127.0.0.11"))
            if probe(intruder, *call, *(["example.org"] if call[0] == "dns" else []))[0]
        ]

        assert reached == []
        assert not attempt(intruder, "ping", "-c1", "-W1", target)[0]
        assert attempt(lab_bystander(lab), "ping", "-c1", "-W1", target)[0], "control"
    finally:
        intruder.remove(force=True)
        bystander.remove(force=True)


def lab_bystander(lab: Lab) -> Container:
    """A container on the test network with no rules at all."""
    for container in lab.docker.container.list(filters=[("name", f"{lab.name}-bystander")]):
        return container
    return lab.run("bystander", PEER, SERVERS, address=51, hardened=False)


GARBAGE = "ff" * 148
INITIATION = "01000000" + "5a" * 144  # the right type and length, no valid authentication


@pytest.mark.parametrize(
    "call",
    [
        ("udp", "51820", GARBAGE),
        ("udp", "51820", INITIATION),
        ("udp", "8080", GARBAGE),
        ("tcp", "51820"),
        ("tcp", "8080"),
    ],
    ids=lambda call: "-".join(call)[:20],
)
def test_listening_uplink_is_silent_to_strangers(
    lab: Lab, nodes: dict[str, Node], call: tuple[str, ...]
) -> None:
    """Who holds no key hears nothing: no answer, no refusal."""
    protocol, *rest = call

    answered, error = probe(lab_bystander(lab), protocol, f"{lab.subnet}.10", *rest)

    assert not answered
    assert error.startswith("TimeoutError"), "a refusal would tell that somebody is there"
    assert probe(lab_bystander(lab), "udp", f"{lab.subnet}.51", "8080")[0], "control"


@pytest.mark.parametrize("end", ENDS)
def test_processes_have_net_admin_alone(nodes: dict[str, Node], end: str) -> None:
    """Both hold one capability, and no argument or environment shows a key."""
    node = nodes[end]
    script = (
        "for process in /proc/[0-9]*; do grep -s CapEff $process/status; done;"
        "grep -as . /proc/[0-9]*/environ /proc/[0-9]*/cmdline /dev/null"
    )
    key = attempt(node.uplink, "cat", "/run/secrets/tunnel_private_key")[1]

    _, seen = attempt(node.uplink, "sh", "-c", script)

    capabilities = {line.split()[1] for line in seen.splitlines() if line.startswith("CapEff")}
    assert capabilities == {NET_ADMIN_ALONE}
    assert "wireguard-go" in seen, "control: command lines were read"
    assert len(key) == 44
    assert key not in seen


# What brings it back


@pytest.mark.parametrize("end", ENDS)
def test_killed_wireguard_process_comes_back(nodes: dict[str, Node], end: str) -> None:
    """Bytes pass again within 5 s of the WireGuard process's death, at either end."""
    before = process_ids(nodes[end].uplink, "wireguard-go")
    remember_endpoint(nodes)

    kill_process(nodes[end].uplink, "wireguard-go")

    wait_until(lambda: process_ids(nodes[end].uplink, "wireguard-go") not in ([], before), "up", 5)
    wait_until(lambda: passes(nodes), "bytes pass", 5)


@pytest.mark.parametrize("end", ENDS)
def test_deleted_interface_comes_back(nodes: dict[str, Node], end: str) -> None:
    """Bytes pass again within 5 s after somebody deleted wg0."""
    remember_endpoint(nodes)

    assert attempt(nodes[end].holder, "ip", "link", "delete", "wg0")[0]

    wait_until(lambda: passes(nodes), "bytes pass", 5)


@pytest.mark.parametrize("end", ENDS)
def test_restarted_uplink_carries_again(nodes: dict[str, Node], end: str) -> None:
    """Bytes pass again within 5 s of a restart, and the workload never noticed."""
    workload = process_ids(nodes[end].workload, "TCP-LISTEN:8080")
    remember_endpoint(nodes)

    nodes[end].uplink.restart()

    wait_until(lambda: passes(nodes), "bytes pass", 5)
    assert process_ids(nodes[end].workload, "TCP-LISTEN:8080") == workload


@pytest.mark.parametrize("end", ENDS)
def test_restarted_holder_gets_a_new_tunnel(nodes: dict[str, Node], end: str) -> None:
    """The holder's end takes the uplink with it; both return by themselves, and so do the bytes."""
    node = nodes[end]
    bystander_of_old_namespace = node.workload

    node.holder.restart()
    bystander_of_old_namespace.restart()

    wait_until_healthy(node.uplink, 30)
    wait_until(lambda: passes(nodes), "bytes pass", 60)
    assert attempt(node.workload, "ls", "/sys/class/net")[1].split() == ["lo", "wg0"]


@pytest.mark.parametrize("end", ENDS)
def test_killed_listener_and_monitor_come_back(nodes: dict[str, Node], end: str) -> None:
    """The sign of life returns before any member gives up on it (3 s), the monitor as well."""
    holder, workload = nodes[end].holder, nodes[end].workload

    kill_process(holder, "ABSTRACT-LISTEN")
    kill_process(holder, "ip monitor")

    wait_until(lambda: lives(workload), "the namespace shows life", 2)
    wait_until(lambda: len(process_ids(holder, "ip monitor")) == 1, "the monitor is back", 5)


def lives(workload: Container) -> bool:
    """Connected, told of the tunnel and let go: what a member of the namespace looks for."""
    return "refused_in_packets=" in probe(workload, "plain", "@namespace", "")[1]


@pytest.mark.parametrize("end", ENDS)
def test_members_are_told_of_the_tunnel(nodes: dict[str, Node], end: str) -> None:
    """When the other node was last heard, and how much was refused: here and by the uplink."""
    node = nodes[end]
    wait_until(lambda: told(node, "handshake_at") != [], "a handshake is told of", 15)
    assert abs(time.time() - told(node, "handshake_at")[0]) < 200  # at the latest, there is another
    wait_until(lambda: len(told(node, "refused_out_packets")) == 2, "both containers tell", 15)
    before = told(node, "refused_out_packets")

    assert not probe(node.workload, "udp", ADDRESSES[OTHER[end]], "9")[0]

    wait_until(lambda: sum(told(node, "refused_out_packets")) > sum(before), "it is counted", 15)


def told(node: Node, name: str) -> list[int]:
    """What a member of the namespace is told under a name, by each container that says so."""
    lines = probe(node.workload, "plain", "@namespace", "")[1].splitlines()
    return [int(line.split("=")[1]) for line in lines if line.startswith(f"{name}=")]


def remember_endpoint(nodes: dict[str, Node]) -> None:
    """Wait until the listening end has noted where its peer is: it does so every five seconds."""
    wait_until(lambda: passes(nodes), "control: bytes pass", 15)
    node = nodes["listen"]

    def is_noted() -> bool:
        noted = attempt(node.holder, "cat", "/run/peer-endpoint")[1]
        return bool(noted) and attempt(node.uplink, "wg", "show", "all", "endpoints")[1].endswith(
            noted
        )

    wait_until(is_noted, "the peer's endpoint is noted", 10)


def test_holder_leaves_no_zombies(nodes: dict[str, Node]) -> None:
    """Process 1 reaps what ends in its namespace, however often members look for life."""
    holder, workload = nodes["listen"].holder, nodes["listen"].workload

    assert all(lives(workload) for _ in range(20))

    wait_until(lambda: not process_ids(holder, "<defunct>"), "all children are reaped", 3)


@pytest.mark.parametrize("part", ["uplink", "holder"])
def test_stop_takes_no_grace_period(lab: Lab, keys: Keys, part: str) -> None:
    """SIGTERM ends either container at once and in order: Docker need not kill it."""
    holder = start_holder(lab, "listen", "stopping")
    uplink = start_uplink(lab, keys, "listen", holder, name="stopping", address=60)
    wait_until_healthy(uplink)
    container = {"uplink": uplink, "holder": holder}[part]
    try:
        started = time.monotonic()
        container.stop(time=10)

        assert time.monotonic() - started < 3
        assert container.state.exit_code == 0
    finally:
        uplink.remove(force=True)
        holder.remove(force=True)


# Health and status


def test_listening_end_is_healthy_alone(lab: Lab, keys: Keys) -> None:
    """A node that boots while the other one is off comes up: a handshake is no part of health."""
    holder = start_holder(lab, "listen", "lonely")
    try:
        wait_until_healthy(holder)
        assert attempt(holder, "ls", "/sys/class/net")[1].split() == ["lo"], "before the tunnel"
        uplink = start_uplink(lab, keys, "listen", holder, name="lonely", address=61)
        wait_until_healthy(uplink)
        wait_until_healthy(holder)

        assert "handshake_age_seconds=never" in attempt(uplink, "status")[1]
    finally:
        lab.docker.container.remove(f"{lab.name}-lonely-uplink-listen", force=True)
        holder.remove(force=True)


def test_status_tells_handshake_and_refusals(nodes: dict[str, Node]) -> None:
    """Status gives figures for an operator: carrier, handshake age, traffic, refused packets."""
    wait_until(lambda: passes(nodes), "bytes pass", 15)
    probe(nodes["listen"].workload, "udp", ADDRESSES["dial"], "8081")

    tunnel = status(nodes["listen"].uplink)
    namespace = status(nodes["listen"].holder)

    assert tunnel["carrier"] == "userspace"
    assert tunnel["rules"] == namespace["rules"] == "standing"
    assert 0 <= int(tunnel["handshake_age_seconds"]) < 180
    assert int(tunnel["received_bytes"]) > 0
    assert int(namespace["refused_out_packets"]) > 0


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "delete chain inet node forward",
        "chain inet node output { policy accept; }",
        "insert rule inet node output accept",
    ],
)
def test_health_sees_damaged_rules(lab: Lab, damage: str) -> None:
    """A holder whose rules were flushed or changed is not healthy, and says nothing about it."""
    holder = start_holder(lab, "listen", "damaged")
    try:
        wait_until_healthy(holder)

        assert attempt(holder, "nft", damage)[0]

        assert attempt(holder, "health") == (False, "")
    finally:
        holder.remove(force=True)


# Settings

HOLDER = {"TUNNEL_END": "dial", "TUNNEL_ADDRESS": "10.66.0.2", "TUNNEL_PEER_ADDRESS": "10.66.0.1"}


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("TUNNEL_END", "both", "give one of: listen dial"),
        ("TUNNEL_END", "", "give one of: listen dial"),
        ("TUNNEL_ADDRESS", "10.66.0.256", "give this node's IPv4 address"),
        ("TUNNEL_ADDRESS", "fd00::1", "give this node's IPv4 address"),
        ("TUNNEL_ADDRESS", "127.0.0.1", "give this node's IPv4 address"),
        ("TUNNEL_PEER_ADDRESS", "10.66.0.1/32", "give the other node's IPv4 address"),
        ("TUNNEL_PEER_ADDRESS", "10.66.0.2", "give the two ends different addresses"),
        ("TUNNEL_MTU", "1279", "give a number of bytes between 1280 and 9000"),
        ("TUNNEL_MTU", "1420; reboot", "give a number of bytes between 1280 and 9000"),
        ("LINK_PORT", "70000", "give a port between 1 and 65535"),
        ("LINK_PORT", "0", "give a port between 1 and 65535"),
    ],
)
def test_bad_setting_stops_the_sidecar(setting: str, value: str, remedy: str) -> None:
    """One sentence that names the setting, its value and the remedy; nothing else; exit 78."""
    settings = HOLDER | {setting: value}

    code, said = start_and_fail(
        WIREGUARD, "--network", "none", *environment(settings), WIREGUARD, "sidecar"
    )

    assert code == 78
    assert said.startswith(f'{setting} is "{value}": {remedy}')
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("TUNNEL_ENDPOINT", "vps.example.org:51820", "give the other node's IPv4 address and UDP"),
        ("TUNNEL_ENDPOINT", "198.18.64.10", "give the other node's IPv4 address and UDP port"),
        ("TUNNEL_ENDPOINT", "198.18.64.10:65536", "give the other node's IPv4 address and UDP"),
        ("TUNNEL_PEER_KEY", "short", "give the other node's public key"),
        ("TUNNEL_PEER_KEY", "itself", "that is this node's own key"),
        ("TUNNEL_PEER_ADDRESS", "10.66", "give the other node's IPv4 address"),
    ],
)
def test_bad_setting_stops_the_uplink(keys: Keys, setting: str, value: str, remedy: str) -> None:
    """One sentence that names the setting, its value and the remedy; nothing else; exit 78."""
    value = keys.public["dial"] if value == "itself" else value
    settings = uplink_settings(keys) | {setting: value}

    code, said = start_and_fail(
        WIREGUARD, *environment(settings), *mounts(keys.volumes_of("dial")), WIREGUARD, "uplink"
    )

    assert code == 78
    assert said.startswith(f'{setting} is "{value}": {remedy}')
    assert len(said.splitlines()) == 1


def uplink_settings(keys: Keys) -> dict[str, str]:
    return {
        "TUNNEL_END": "dial",
        "TUNNEL_PEER_ADDRESS": "10.66.0.1",
        "TUNNEL_PEER_KEY": keys.public["listen"],
        "TUNNEL_ENDPOINT": "198.18.64.10:51820",
    }


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("missing", "/run/secrets/tunnel_private_key is missing: give the one that goes with"),
        ("malformed", "/run/secrets/tunnel_private_key holds no WireGuard key: give the one"),
        ("foreign", "/run/secrets/tunnel_private_key cannot be read: make root its owner"),
    ],
)
def test_bad_key_file_stops_the_uplink(
    keys: Keys, tmp_path: Path, damage: str, sentence: str
) -> None:
    """A sentence about the file, which never shows what the file holds."""
    secret = "not-a-key-at-all"
    (tmp_path / "private").write_text(secret, encoding="ascii")
    (tmp_path / "private").chmod(0o600)
    if damage == "foreign":
        os.chown(tmp_path / "private", 1000, 1000)
    volumes = keys.volumes_of("dial")[1:]
    if damage != "missing":
        volumes.append((str(tmp_path / "private"), "/run/secrets/tunnel_private_key", "ro"))

    code, said = start_and_fail(
        WIREGUARD,
        *("--cap-drop", "ALL", "--cap-add", "NET_ADMIN"),
        *environment(uplink_settings(keys)),
        *mounts(volumes),
        *(WIREGUARD, "uplink"),
    )

    assert code == 78
    assert said.startswith(sentence)
    assert secret not in said


def test_unknown_setting_stops_the_sidecar(tmp_path: Path) -> None:
    """A misspelt name in .env stops the start; Docker's own names and known ones do not."""
    (tmp_path / "env").write_text(
        "# note\nTUNNEL_PROT=1\nCOMPOSE_PROFILES=x\nDOCKER_HOST=y\nLINK_PORT=8080\nMTU = 5\n",
        encoding="utf-8",
    )
    (tmp_path / "example").write_text("TUNNEL_PORT=51820\n# LINK_PORT=8080\n", encoding="utf-8")
    volumes = [
        (str(tmp_path / "env"), "/run/env", "ro"),
        (str(tmp_path / "example"), "/run/env.example", "ro"),
    ]

    code, said = start_and_fail(
        WIREGUARD,
        *("--network", "none"),
        *environment(HOLDER),
        *mounts(volumes),
        *(WIREGUARD, "sidecar"),
    )

    assert code == 78
    remedy = "remove it, or take its right name from .env.example"
    assert said.splitlines() == [
        f"unknown setting TUNNEL_PROT in .env: {remedy}",
        f"unknown setting MTU in .env: {remedy}",
    ]


def environment(settings: dict[str, str]) -> list[str]:
    return [argument for name, value in settings.items() for argument in ("-e", f"{name}={value}")]


def mounts(volumes: list[tuple[str, str, str]]) -> list[str]:
    return [argument for volume in volumes for argument in ("-v", ":".join(volume))]


def test_killed_uplink_script_leaves_no_process_behind(nodes: dict[str, Node]) -> None:
    """When the uplink's own script is killed, its WireGuard process dies too; both come back."""
    uplink = nodes["dial"].uplink
    old = process_ids(uplink, "wireguard-go")
    wait_until(lambda: passes(nodes), "control: bytes pass", 15)
    assert uplink.state.pid is not None

    os.kill(uplink.state.pid, signal.SIGKILL)

    wait_until(lambda: not Path(f"/proc/{old[0]}").exists(), "the old process is gone", 5)
    wait_until(lambda: passes(nodes), "bytes pass", 30)
