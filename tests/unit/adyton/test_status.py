"""The status of a node: what is looked at, what it costs, and how the page is laid out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from scripts.node.kinds import kinds
from scripts.node.node import Node
from scripts.node.signs import read_small
from scripts.node.tools import CannotLook, Said
from scripts.status.facts import Fact, Panel, duration, size
from scripts.status.look import SELDOM_SECONDS, Looker, Snapshot
from scripts.status.page import fitted, page, written
from tests.unit.adyton.recorded import GIB, NOW, Nodes

RELAY = ("wireguard", "uplink", "egress", "relay")
LISTING = "docker ps -aq --no-trunc --filter label"
MODEL = ("wireguard", "uplink", "gateway", "engine")

SIGN = f"""\
refused_in_packets=1
refused_out_packets=0
handshake_at={NOW - 12:.0f}
heard_packets=4321
refused_in_packets=6
refused_out_packets=2
"""
STATUS = """\
rules=standing
refused_in_packets=6
carrier=userspace
handshake_age_seconds=12
received_bytes=1048576
sent_bytes=2048
"""
POLLS = f"""\
answered_at={NOW - 3:.0f}
waiting=2
waiting_since={NOW - 90:.0f}
came_at={NOW - 100:.0f}
went_at=0
"""
FIGURES = f"""\
written_at={NOW - 1:.0f}
came_at={NOW - 30:.0f}
went_at={NOW - 7:.0f}
waiting=3
running=2
slots=16
paused=0
undelivered=4
tokens_per_second=41
relay_connected=1
engine_ready=1
store_bytes=5242880
disk_free_bytes={50 * GIB}
disk_total_bytes={100 * GIB}
gpu_1_load_percent=87
gpu_1_used_bytes={20 * GIB}
gpu_1_total_bytes={48 * GIB}
"""


class World(Nodes):
    """A node whose containers keep signs, looked at by root."""

    def __init__(self, folder: Path, kind: str) -> None:
        super().__init__(folder, kind)
        for pid, service in enumerate(RELAY if kind == "relay" else MODEL, start=11):
            container = self.add(service, Pid=pid, StartedAt="2027-01-15T07:00:00.5Z")
            container["HostConfig"]["Memory"] = 96 << 20
        self.services["uplink"]["environment"] = {"TUNNEL_ENDPOINT": "198.18.7.1:51820"}
        self.tools.root = True
        self.tools.write("proc/uptime", "90061.2 1.0\n")
        self.tools.write("proc/11/root/run/status", SIGN)
        self.tools.write("proc/11/root/run/peer-endpoint", "198.18.9.9:4711\n")
        self.tools.write("proc/14/root/tmp/polls", POLLS)
        self.tools.write("proc/13/root/tmp/figures", FIGURES)
        self.tools.write("proc/12/cgroup", "0::/system.slice/docker-12.scope\n")
        group = "sys/fs/cgroup/system.slice/docker-12.scope"
        self.tools.write(f"{group}/memory.current", f"{30 << 20}\n")
        self.tools.write(f"{group}/memory.stat", f"anon 1\ninactive_file {10 << 20}\n")
        self.tools.answers |= {
            "docker exec id-of-uplink status": STATUS,
            "docker exec id-of-egress nft": "counter refused_in {\n packets 5 bytes 9\n",
            "docker info": "/docker\n",
        }

    def looker(self) -> Looker:
        self.find()  # which records what Docker and Compose say
        folder = Path("/nowhere")
        return Looker(lambda: Node(kinds()[self.kind], self.tools, folder, (), ("compose.yml",)))

    def look(self) -> Snapshot:
        return self.looker().look()


def told(snapshot: Snapshot, panel: str) -> dict[str, Any]:
    found = snapshot.as_json()[panel]
    assert isinstance(found, dict)
    return found


def text_of(snapshot: Snapshot, width: int = 80) -> str:
    return "\n".join(written(line, is_coloured=False) for line in page(snapshot, width))


def test_relay_node(tmp_path: Path) -> None:
    """Containers, tunnel, Telegram and machine; the refusals of both tunnel's ends are one sum."""
    snapshot = World(tmp_path, "relay").look()

    assert snapshot.problems == []
    assert [(it.service, it.state, it.health) for it in snapshot.rows] == [
        (service, "running", "healthy") for service in RELAY
    ]
    uplink = snapshot.rows[1]
    assert (uplink.up_seconds, uplink.memory_bytes, uplink.memory_limit_bytes) == (
        3600,
        20 << 20,
        96 << 20,
    )
    assert told(snapshot, "tunnel") == {
        "handshake_age_seconds": 12,
        "endpoint": "198.18.9.9:4711",
        "carrier": "userspace",
        "received_bytes": 1048576,
        "sent_bytes": 2048,
        "heard_packets": 4321,
        "refused_packets": {"in": 7, "out": 2},
        "egress_refused_packets": {"in": 5, "out": 0},
    }
    assert told(snapshot, "telegram") == {
        "answered_seconds_ago": 3,
        "waiting_updates": 2,
        "came_seconds_ago": 100,
        "went_seconds_ago": None,
    }
    assert told(snapshot, "machine")["up_seconds"] == 90061
    assert "work" not in snapshot.as_json()
    json.dumps(snapshot.as_json())


def test_model_node(tmp_path: Path) -> None:
    """Its work stands in Telegram's place, and the endpoint is the one that it calls."""
    snapshot = World(tmp_path, "model").look()

    assert told(snapshot, "tunnel")["endpoint"] == "198.18.7.1:51820"
    work = told(snapshot, "work")
    assert (work["waiting"], work["running"], work["tokens_per_second"]) == (3, 2, 41)
    assert (work["engine_ready"], work["relay_connected"], work["paused"]) == (True, True, False)
    assert work["gpu_1"]["load_percent"] == 87
    assert "telegram" not in snapshot.as_json()
    text = text_of(snapshot)
    assert "2 of 16 slots" in text
    assert "41 tokens/s" in text
    assert "87 %, 20.0 GiB of 48.0 GiB" in text


def test_figures_that_grow_old_are_told_from_new_ones(tmp_path: Path) -> None:
    """A gateway that hangs leaves its last figures."""
    world = World(tmp_path, "model")
    world.tools.time = NOW + 60

    assert "said nothing for 1 min 1 s" in text_of(world.look())


def test_cost_of_a_look(tmp_path: Path) -> None:
    """Two processes a look, and what is dear every ten seconds: a view may stay open for days."""
    world = World(tmp_path, "model")
    looker = world.looker()
    looker.look()

    world.tools.asked.clear()
    world.tools.time += 2
    looker.look()
    assert [it.split()[1] for it in world.tools.asked] == ["ps", "inspect"]

    world.tools.asked.clear()
    world.tools.time += SELDOM_SECONDS
    looker.look()
    assert [it.split()[1] for it in world.tools.asked] == ["ps", "inspect", "exec"]


def test_pace_is_of_the_time_between_two_looks(tmp_path: Path) -> None:
    """And is not told where a tunnel has begun anew."""
    world = World(tmp_path, "model")
    looker = world.looker()
    assert "/s" not in text_of(looker.look()).partition("Work")[0]

    world.tools.time += 16
    later = STATUS.replace("1048576", str(1048576 + 16 * 2048)).replace("=2048", "=9")
    world.tools.answers["docker exec id-of-uplink status"] = later
    text = text_of(looker.look())

    assert "1.0 MiB, 2.0 KiB/s" in text
    assert "9 B\n" in text or "9 B " in text
    assert "9 B," not in text


def test_docker_is_down(tmp_path: Path) -> None:
    """It is said, and the machine is shown all the same."""
    world = World(tmp_path, "relay")
    looker = world.looker()
    world.tools.answers[LISTING] = Said(1, err="Cannot connect to the Docker daemon\n")

    snapshot = looker.look()

    assert snapshot.problems == [
        "`docker ps -aq` failed (Cannot connect to the Docker daemon): the doctor says what to do"
    ]
    assert snapshot.rows == []
    assert told(snapshot, "machine")["disk_bytes"] == {"free": 50 * GIB, "total": 100 * GIB}
    del world.tools.answers[LISTING]
    assert looker.look().problems == []


def test_settings_that_are_mended_are_read_again(tmp_path: Path) -> None:
    """The view need not be started anew."""
    world = World(tmp_path, "relay")
    looker = world.looker()
    good = world.tools.ordinary["docker compose -f compose.yml config"]
    world.tools.ordinary["docker compose -f compose.yml config"] = Said(1, err="no such file\n")
    assert looker.look().problems == ["no such file: the doctor says what to do"]

    world.tools.ordinary["docker compose -f compose.yml config"] = good

    assert looker.look().problems == []


def test_containers_that_are_missing_or_have_ended(tmp_path: Path) -> None:
    """Each keeps its row."""
    world = World(tmp_path, "relay")
    world.containers[0]["State"]["Status"] = "exited"
    world.containers[3]["RestartCount"] = 8
    del world.containers[1]

    snapshot = world.look()

    assert [(it.service, it.state) for it in snapshot.rows] == [
        ("wireguard", "exited"),
        ("uplink", "missing"),
        ("egress", "running"),
        ("relay", "running"),
    ]
    assert snapshot.rows[3].restarts == 8
    assert told(snapshot, "tunnel") == {"problem": "no holder"}


@pytest.mark.parametrize("kind", ["relay", "model"])
def test_tunnel_is_down(tmp_path: Path, kind: str) -> None:
    """No handshake ever, nobody who carries it."""
    world = World(tmp_path, kind)
    world.tools.write("proc/11/root/run/status", "refused_in_packets=0\n")
    (tmp_path / "proc/11/root/run/peer-endpoint").unlink()
    nothing = "rules=standing\ncarrier=elsewhere\n"
    world.tools.answers["docker exec id-of-uplink status"] = nothing
    world.tools.answers["docker exec id-of-wireguard status"] = nothing.replace("standing", "x")

    found = told(world.look(), "tunnel")

    assert found["handshake_age_seconds"] is None
    assert found["carrier"] is None
    assert found["rules_changed"] == "wireguard"


def test_kernel_tunnel_is_told_by_the_holder(tmp_path: Path) -> None:
    """There the interface is."""
    world = World(tmp_path, "relay")
    world.tools.answers["docker exec id-of-uplink status"] = "rules=standing\ncarrier=elsewhere\n"
    world.tools.answers["docker exec id-of-wireguard status"] = STATUS.replace(
        "userspace", "kernel"
    )

    assert told(world.look(), "tunnel")["carrier"] == "kernel"


def test_without_root_the_containers_are_asked(tmp_path: Path) -> None:
    """Members of the group `docker` see the same."""
    world = World(tmp_path, "relay")
    world.tools.root = False
    world.tools.answers |= {
        "docker exec id-of-wireguard cat /run/status": SIGN,
        "docker exec id-of-wireguard cat /run/peer-endpoint": "198.18.9.9:4711\n",
        "docker exec id-of-relay cat /tmp/polls": POLLS,
    }

    snapshot = world.look()

    assert told(snapshot, "tunnel")["endpoint"] == "198.18.9.9:4711"
    assert told(snapshot, "telegram")["waiting_updates"] == 2


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_sign_that_is_no_file_is_not_read(tmp_path: Path, what: str) -> None:
    """A container chooses what it leaves there: a link would lead to a file of the host's."""
    world = World(tmp_path, "relay")
    sign = tmp_path / "proc/14/root/tmp/polls"
    secret = sign.rename(tmp_path / "secret")
    match what:
        case "link":
            sign.symlink_to(secret)
        case "pipe":
            os.mkfifo(sign)
        case _:
            sign.mkdir()
    looker = world.looker()

    with pytest.raises(CannotLook):
        read_small(looker.node, looker.node.running["relay"], "/tmp/polls")
    assert list(told(looker.look(), "telegram")) == ["problem"]


def test_memory_of_the_older_control_groups(tmp_path: Path) -> None:
    """Hosts that have not changed to the second version."""
    world = World(tmp_path, "relay")
    world.tools.write("proc/11/cgroup", "9:cpu:/docker/a\n3:memory:/docker/a\n0::/other\n")
    group = "sys/fs/cgroup/memory/docker/a"
    world.tools.write(f"{group}/memory.usage_in_bytes", "5000\n")
    world.tools.write(f"{group}/memory.stat", "total_inactive_file 1000\n")

    rows = world.look().rows

    assert rows[0].memory_bytes == 4000
    assert rows[2].memory_bytes is None


def test_look_that_breaks_ends_nothing(tmp_path: Path) -> None:
    """It names the kind of error and its place, and no words."""
    world = World(tmp_path, "relay")
    looker = world.looker()
    world.tools.answers[LISTING] = "x\n"
    world.tools.answers["docker inspect --type container x"] = '[{"Id": "x"}]'

    (problem,) = looker.look().problems

    assert problem.startswith("this look broke: KeyError at ")


@pytest.mark.parametrize("kind", ["relay", "model"])
def test_page_fits_an_ordinary_terminal(tmp_path: Path, kind: str) -> None:
    """All of it, in 80 by 24."""
    lines = page(World(tmp_path, kind).look(), 80, "every 2 s   q: quit")

    shown = [written(line, is_coloured=False) for line in fitted(lines, 80, 24)]

    assert len(shown) <= 24
    assert max(map(len, shown)) <= 80
    assert "make the window higher" not in shown[-1]
    assert shown[0].endswith("q: quit")
    assert any("of 96.0 MiB" in line for line in shown)


@pytest.mark.parametrize("width", [1, 12, 20, 39, 40, 60, 79, 81, 132, 300])
def test_page_fits_any_terminal(tmp_path: Path, width: int) -> None:
    """What finds no room below is counted."""
    snapshot = World(tmp_path, "model").look()

    for height in (1, 2, 10, 24, 60):
        lines = fitted(page(snapshot, width, "q: quit"), width, height)

        shown = [written(line, is_coloured=False) for line in lines]
        assert len(shown) <= height
        assert max(map(len, shown)) <= width
        if width >= 60 and height <= 10:
            assert "more lines" in shown[-1]


def test_narrow_table_leaves_columns_out_from_the_right(tmp_path: Path) -> None:
    """The state is never left out."""
    snapshot = World(tmp_path, "relay").look()

    narrow = text_of(snapshot, 45).partition("Tunnel")[0]
    assert "memory" not in narrow
    assert "health" in narrow
    assert "running" in text_of(snapshot, 20)


def test_words_of_others_do_not_steer_the_terminal() -> None:
    """Compose and Docker say what they like."""
    fact = Fact("x", "x", "label", "a\x1b[2Jb")
    snapshot = Snapshot("relay", NOW, ["bad\x1b[2J"], [], [Panel("p", "P", [fact])])

    assert "\x1b" not in text_of(snapshot)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds: float, words: str) -> None:
    """The two largest units."""
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (2048, "2.0 KiB"), (512 << 20, "512 MiB"), (1 << 42, "4.0 TiB")],
)
def test_sizes(count: int, words: str) -> None:
    """At most four digits."""
    assert size(count) == words
