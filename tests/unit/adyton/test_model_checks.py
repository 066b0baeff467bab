"""Checks of the model node alone, against what NVIDIA's tools print elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.doctor.finding import Level
from scripts.doctor.model import engine, gpu
from scripts.node.tools import Said
from tests.unit.adyton.recorded import Nodes

CARDS = "0, NVIDIA GeForce RTX 4090, 570.133.07, 20123, 24564, {degrees}, GPU-5ba4538b\n"
SUMMARY = "| NVIDIA-SMI 570.133.07   Driver Version: 570.133.07   CUDA Version: {cuda} |\n"
BROKEN = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
WITH_RUNTIME = json.dumps(
    {"Runtimes": {"runc": {}, "nvidia": {"path": "nvidia-container-runtime"}}}
)
WITH_CDI = json.dumps({"Runtimes": {"runc": {}}, "DiscoveredDevices": [
    {"Source": "cdi", "ID": "nvidia.com/gpu=0"}]})  # fmt: skip
WITHOUT = json.dumps({"Runtimes": {"runc": {}}})


@pytest.fixture
def node(tmp_path: Path) -> Nodes:
    node = Nodes(tmp_path, "model")
    node.add("engine")
    node.services["engine"]["deploy"] = {
        "resources": {
            "reservations": {"devices": [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]}
        }
    }
    node.tools.answers |= {
        "nvidia-smi --query-gpu": CARDS.format(degrees=61),
        "nvidia-smi": SUMMARY.format(cuda="12.8"),
        "docker info": WITH_RUNTIME,
        "docker image inspect --format {{json .Config.Env}}": json.dumps(
            ["PATH=/bin", "NVIDIA_REQUIRE_CUDA=cuda>=12.8 brand=unknown,driver>=470"]
        ),
    }
    return node


@pytest.mark.parametrize("runtimes", [WITH_RUNTIME, WITH_CDI])
def test_gpu_that_can_be_used(node: Nodes, runtimes: str) -> None:
    """By a runtime of NVIDIA's or by CDI."""
    node.tools.answers["docker info"] = runtimes

    found = node.find(gpu.CHECK)

    assert {it.level for it in found} == {Level.OK}
    assert "20123 of 24564 MiB in use, driver 570.133.07" in found[0].text


@pytest.mark.parametrize(
    ("command", "answer", "problem"),
    [
        ("nvidia-smi --query-gpu", Said(127), "gpu-driver-missing"),
        ("nvidia-smi --query-gpu", Said(9, BROKEN), "gpu-driver-broken"),
        ("nvidia-smi --query-gpu", "", "gpu-too-few"),
        ("nvidia-smi --query-gpu", CARDS.format(degrees=91), "gpu-hot"),
        ("nvidia-smi", SUMMARY.format(cuda="12.4"), "gpu-driver-old"),
        ("docker info", WITHOUT, "gpu-toolkit-missing"),
    ],
)
def test_gpu_that_cannot(node: Nodes, command: str, answer: Said | str, problem: str) -> None:
    """Each with its remedy."""
    node.tools.answers[command] = answer

    found = [it for it in node.find(gpu.CHECK) if it.problem]

    assert [it.problem for it in found] == [problem]
    assert found[0].remedy


def test_more_gpus_asked_for_than_there_are(node: Nodes) -> None:
    """GPU_COUNT of another machine."""
    reservations = node.services["engine"]["deploy"]["resources"]["reservations"]
    reservations["devices"][0]["count"] = 2

    assert node.problems(gpu.CHECK) == {"gpu-too-few"}


@pytest.mark.parametrize(
    ("state", "apps", "used", "is_taken"),
    [
        # The engine serves: what is taken is its own.
        ({}, "GPU-5ba4538b, 71, 20100, vllm\n", 20123, False),
        # It loads, or fails again and again, and its own share does not count.
        ({"Health": {"Status": "starting"}}, "GPU-5ba4538b, 71, 20100, vllm\n", 20123, False),
        ({"Health": {"Status": "starting"}}, "GPU-5ba4538b, 9, 8000, game\n", 8100, True),
        ({"Status": "restarting"}, "GPU-5ba4538b, 9, 8000, game\n", 8100, True),
        ({"Status": "restarting"}, "GPU-other, 9, 8000, game\n", 1100, False),
        # A desktop is no program that computes, and takes memory all the same.
        ({"Status": "exited"}, "", 2100, True),
        ({"Health": {"Status": "starting"}}, "GPU-5ba4538b, 71, [N/A], vllm\n", 20123, False),
    ],
)
def test_memory_that_others_hold(
    node: Nodes, state: dict[str, object], apps: str, used: int, is_taken: bool
) -> None:
    """Found before the engine fails by it, with the programs' names."""
    node.containers.clear()
    node.services = {"engine": node.services["engine"]}
    node.containers.append(Nodes(node.tools.proc.parent, "model").add("engine", **state))
    node.tools.answers |= {
        "nvidia-smi --query-gpu": CARDS.format(degrees=61).replace("20123", str(used)),
        "nvidia-smi --query-compute-apps": apps,
        "docker top id-of-engine": "PID\n71\n72\n",
    }

    found = [it for it in node.find(gpu.CHECK) if it.problem]

    assert [it.problem for it in found] == (["gpu-memory-taken"] if is_taken else [])
    assert not is_taken or not apps or "game (8000 MiB)" in found[0].text


def test_smaller_share_leaves_others_their_memory(node: Nodes) -> None:
    """GPU_MEMORY, as the Compose files give it to the engine."""
    node.containers[0]["State"]["Status"] = "exited"
    taken = node.problems(gpu.CHECK)
    node.services["engine"]["environment"] = {"GPU_MEMORY": "0.15"}

    assert taken == {"gpu-memory-taken"}
    assert node.problems(gpu.CHECK) == set()


def test_machine_without_a_gpu_on_purpose(node: Nodes) -> None:
    """The Compose files in use ask for none: nothing is amiss."""
    del node.services["engine"]["deploy"]

    (found,) = node.find(gpu.CHECK)

    assert found.level is Level.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({}, None),
        ({"Status": "exited"}, "engine-down"),
        ({"Health": {"Status": "unhealthy"}}, "engine-ill"),
        ({"Health": {"Status": "starting"}}, "engine-loading"),
    ],
)
def test_engine_by_its_health(
    tmp_path: Path, state: dict[str, object], problem: str | None
) -> None:
    """As the container's own health check finds it."""
    node = Nodes(tmp_path, "model")
    node.add("engine", **state)

    assert node.problems(engine.CHECK) == ({problem} if problem else set())
