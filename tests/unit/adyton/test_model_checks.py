"""Checks of the model node alone, against what NVIDIA's tools print elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.doctor.finding import Level
from scripts.doctor.model import engine, gpu
from scripts.node.tools import Said
from tests.unit.adyton.recorded import Nodes

CARDS = "0, NVIDIA GeForce RTX 4090, 570.133.07, 20123, 24564, {degrees}\n"
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
