"""Both nodes from the product Compose files, with a programmable engine: faults, stops, secrets."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.pair import USER, Pair
from scripts.telegram_user import BotMessage, Said, TelegramUser
from tests.conftest import STATE, STRANGER, running
from tests.unit.documents import docx, pdf

CANARY = "quetzalcoatlus-4711"
RELAY_NODE = ("wireguard", "uplink", "egress", "relay")
MODEL_NODE = ("wireguard", "uplink", "gateway", "engine")


class Nodes:
    """The running pair, its user, and its engine's controls."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.user = TelegramUser(pair.control_socket, USER)

    def relay(self, service: str) -> str:
        return self.pair.container(self.pair.relay_node, service)

    def model(self, service: str) -> str:
        return self.pair.container(self.pair.model_node, service)

    def script(self, **script: Any) -> None:
        """Tell the engine how to answer from now on."""
        with self._engine() as engine:
            engine.post("/control/script", json=script).raise_for_status()

    def requests(self) -> list[dict[str, Any]]:
        """What the engine was asked, and what became of it."""
        with self._engine() as engine:
            return list(engine.get("/control/record").raise_for_status().json())

    def _engine(self) -> httpx.Client:
        socket = f"/proc/{process_of(self.model('engine'))}/root/run/engine/engine.sock"
        transport = httpx.HTTPTransport(uds=socket)
        return httpx.Client(transport=transport, base_url="http://engine", timeout=10)

    def final(self, said: Said, seconds: float = 60) -> list[BotMessage]:
        """Wait for the whole answer to a message, and give its messages."""
        return list(self.user.watch(said, seconds))[-1]

    def wait_for_text(self, said: Said, seconds: float = 30) -> BotMessage:
        """Wait until the answer has begun to grow on the screen."""
        for shown in self.user.watch(said, seconds):
            if shown and shown[-1].is_growing and "word" in shown[-1].text:
                return shown[-1]
        raise AssertionError("the answer was complete before it was seen growing")


def process_of(container: str) -> int:
    """The host's number of a container's first process."""
    inspected = subprocess.run(
        ["docker", "inspect", "-f", "{{.State.Pid}}", container],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    pid = int(inspected.stdout)
    assert pid > 0, f"{container} does not run"
    return pid


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pair = Pair(name="test-nodes", subnet="198.18.3", state=STATE / "nodes", engine="stub")
    with contextmanager(running)(pair):
        yield Nodes(pair)


@pytest.fixture(autouse=True)
def _ordinary_engine(nodes: Nodes) -> None:
    nodes.script()


@pytest.mark.quick
def test_answer_comes_through_both_nodes(nodes: Nodes) -> None:
    """A question reaches the engine through the tunnel, and its answer the user's screen."""
    nodes.script(content={"words": 30}, speed=50)

    answer = nodes.final(nodes.user.say("count to thirty"))

    assert [message.text for message in answer] == [" ".join(f"word{n}" for n in range(1, 31))]
    assert nodes.requests()[-1]["messages"][-1] == {"role": "user", "content": "count to thirty"}


@pytest.mark.quick
def test_document_comes_through_both_nodes(nodes: Nodes) -> None:
    """It is fetched by way of the egress, read in the gateway's container, and answered."""
    nodes.script(content={"words": 3}, speed=50)

    answer = nodes.final(nodes.user.send(pdf("The bird is blue."), "bird.pdf", "Which colour?"))

    assert [message.text for message in answer] == ["word1 word2 word3"]
    asked = nodes.requests()[-1]["messages"][-1]["content"]
    assert "The bird is blue." in asked
    assert asked.endswith("Which colour?")


def test_document_that_exhausts_its_reader_leaves_the_gateway_alone(nodes: Nodes) -> None:
    """In the container's own memory: the reader ends, the gateway does not."""
    before = process_of(nodes.model("gateway"))
    bomb = docx([], "<w:p/>" * 6_000_000)

    (refusal,) = nodes.final(nodes.user.send(bomb, "bomb.docx", "What is this?"))

    assert refusal.text.startswith("Reading this file took too much."), refusal.text
    assert len(nodes.final(nodes.user.say("still there?"))) == 1
    assert process_of(nodes.model("gateway")) == before


def test_stop_ends_the_engines_work_within_a_second(nodes: Nodes) -> None:
    """From the moment the gateway has the /stop, the engine works for one more second at most."""
    nodes.script(content={"words": 2000}, speed=20)
    said = nodes.user.say("count")
    nodes.wait_for_text(said)

    asked = time.time()
    nodes.user.say("/stop")

    (answer,) = nodes.final(said)
    assert answer.text.endswith("(stopped)")
    request = nodes.requests()[-1]
    assert request["outcome"] == "aborted"
    assert request["ended"] - asked < 1.0


def test_stop_button_under_the_answer(nodes: Nodes) -> None:
    """A press under the growing answer stops that answer."""
    nodes.script(content={"words": 2000}, speed=20)
    said = nodes.user.say("count")
    message = nodes.wait_for_text(said)

    nodes.user.press(message.message_id)

    (answer,) = nodes.final(said)
    assert answer.text.endswith("(stopped)")
    assert nodes.requests()[-1]["outcome"] == "aborted"


@pytest.mark.parametrize(
    ("node", "service"),
    [("relay", "relay"), ("relay", "egress"), ("relay", "uplink"), ("model", "uplink"),
     ("model", "gateway"), ("model", "engine")],
)  # fmt: skip
def test_killed_process_costs_nothing(nodes: Nodes, node: str, service: str) -> None:
    """Whichever process is killed in mid answer, the user gets one whole answer in one message."""
    text = " ".join(f"word{n}" for n in range(1, 61))
    # The answer is a rule, not the script's state: a killed engine starts without a script.
    nodes.script(rules=[{"contains": "sixty", "content": {"words": 60}}], speed=10)
    said = nodes.user.say(f"sixty, and then kill {service}")
    nodes.wait_for_text(said)
    container = nodes.relay(service) if node == "relay" else nodes.model(service)

    killed = process_of(container)
    os.kill(killed, signal.SIGKILL)  # by the host: `docker kill` would suppress the restart

    answer = nodes.final(said, seconds=90)
    assert len(answer) == 1
    if service == "engine":
        # What was said stays, and the new engine, which echoes, goes on from there.
        said_before = answer[0].text.removesuffix(f"sixty, and then kill {service}")
        assert said_before
        assert text.startswith(said_before)
    else:
        assert answer[0].text == text
    wait_until_restarted(container, killed)


def wait_until_restarted(container: str, before: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        state = json.loads(
            subprocess.run(
                ["docker", "inspect", "-f", "{{json .State}}", container],
                check=True, capture_output=True, text=True,
            ).stdout
        )  # fmt: skip
        if state["Pid"] not in (0, before) and state["Health"]["Status"] == "healthy":
            return
        assert time.monotonic() < deadline, f"{container}: {state['Status']}"
        time.sleep(0.1)


def test_stranger_gets_silence(nodes: Nodes) -> None:
    """Somebody who is on no list gets nothing at all, whatever kind of update they send."""
    stranger = TelegramUser(nodes.pair.control_socket, STRANGER)
    before = len(nodes.requests())
    said = stranger.say("hello?")
    stranger.say("/start")

    nodes.final(nodes.user.say("hello"))  # by now the stranger's updates were handed over too

    assert stranger.bot_messages() == []
    asked = [request["messages"][-1]["content"] for request in nodes.requests()[before:]]
    assert asked == ["hello"]
    calls = [e for e in stranger.record(said.seq)[0] if e["kind"] == "call"]
    assert not [call for call in calls if call["chat_id"] == str(STRANGER)]


def test_words_of_users_are_in_no_log_and_on_no_disk(nodes: Nodes) -> None:
    """A sentence that was asked and answered is in no container's log, nor in what it has written.

    The encrypted store is the one place that keeps it.
    """
    nodes.script(content={"echo": True})
    (answer,) = nodes.final(nodes.user.say(f"remember {CANARY}"))
    assert CANARY in answer.text  # the control: it did travel

    containers = [nodes.relay(s) for s in RELAY_NODE] + [nodes.model(s) for s in MODEL_NODE]
    for container in containers:
        logs = subprocess.run(["docker", "logs", container], capture_output=True, check=True)
        assert CANARY.encode() not in logs.stdout + logs.stderr, container
        health = subprocess.run(
            ["docker", "inspect", "-f", "{{json .State.Health}}", container],
            capture_output=True, check=True,
        )  # fmt: skip
        assert CANARY.encode() not in health.stdout, container
        changed = subprocess.run(["docker", "diff", container], capture_output=True, check=True)
        for line in changed.stdout.decode().splitlines():
            assert line.split(maxsplit=1)[1] in MOUNT_POINTS, f"{container} has written {line}"
    store = Path(
        subprocess.run(
            ["docker", "volume", "inspect", "-f", "{{.Mountpoint}}",
             f"{nodes.pair.model_node}_store"],
            capture_output=True, check=True, text=True,
        ).stdout.strip()
    )  # fmt: skip
    files = [path for path in store.rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert CANARY.encode() not in file.read_bytes(), file


MOUNT_POINTS = {
    "/usr", "/usr/sbin", "/usr/sbin/docker-init", "/etc", "/etc/resolv.conf", "/run", "/run/env",
    "/run/env.example", "/run/egress", "/run/engine", "/run/secrets", "/var", "/var/lib",
    "/var/lib/gateway", "/tmp", "/run/secrets/bot_token", "/run/secrets/link_token",
    "/run/secrets/store_key", "/run/secrets/telegram_ca", "/run/secrets/tunnel_private_key",
    "/run/secrets/tunnel_preshared_key",
}  # fmt: skip
"""Empty places that Docker makes to mount something over."""


def test_two_relays_answer_once(nodes: Nodes) -> None:
    """A relay that was paused and comes back after another took its place doubles nothing."""
    nodes.script(content={"words": 60}, speed=15)
    said = nodes.user.say("count")
    nodes.wait_for_text(said)
    relay = process_of(nodes.relay("relay"))

    os.kill(relay, signal.SIGSTOP)
    answered_late = nodes.user.say("and this")
    os.kill(relay, signal.SIGCONT)

    assert len(nodes.final(answered_late, seconds=90)) == 1
    finals = [message for message in nodes.user.bot_messages(said.message_id) if message.is_final]
    assert len(finals) == 2
