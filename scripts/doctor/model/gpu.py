"""Checks that the GPU can be used from a container, where the Compose files ask for one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, failure, not_applicable, ok, warning
from scripts.node.node import Node
from scripts.node.properties import reservations
from scripts.node.tools import NOT_FOUND, CannotLook

NO_DRIVER = failure(
    "gpu-driver-missing",
    "There is no NVIDIA driver: nvidia-smi was not found.",
    "Install the driver (Debian: nvidia-driver, from non-free) and restart the machine.",
)
DRIVER_BROKEN = failure(
    "gpu-driver-broken",
    "The NVIDIA driver does not answer: {why}",
    "Restart the machine after an upgrade of the driver or the kernel; if that does not help, "
    "install the driver again.",
)
TOO_FEW = failure(
    "gpu-too-few",
    "{wanted} GPUs are asked for, and there are {count}.",
    "Set GPU_COUNT in .env to what the machine has.",
)
NO_TOOLKIT = failure(
    "gpu-toolkit-missing",
    "Docker cannot give a GPU to a container: it knows no NVIDIA runtime and no CDI device.",
    "Install nvidia-container-toolkit, run `nvidia-ctk runtime configure --runtime=docker`, and "
    "restart Docker.",
)
DRIVER_OLD = failure(
    "gpu-driver-old",
    "The driver ({driver}) offers CUDA {offered}, and the engine's image needs {needed}.",
    "Upgrade the driver, or take an older image with VLLM_VERSION.",
)
TAKEN = failure(
    "gpu-memory-taken",
    "Of the {total} MiB of GPU {index} other programs hold {taken}, and the engine wants {wanted} "
    "for itself. They are: {programs}",
    "End those programs, or let the engine take a smaller share with GPU_MEMORY in .env.",
)
HOT = warning(
    "gpu-hot",
    "GPU {index} is at {degrees} degrees.",
    "Let it have more air, or lower its power limit (`nvidia-smi -pl`).",
)

HOT_DEGREES = 87
FIELDS = "index,name,driver_version,memory.used,memory.total,temperature.gpu,uuid"
APPS = "gpu_uuid,pid,used_memory,process_name"
USUAL_SHARE = 0.92  # vLLM's own (gpu_memory_utilization)


def look(node: Node) -> Iterator[Finding]:
    wanted = wanted_count(node)
    if wanted is None:
        yield not_applicable("The Compose files in use ask for no GPU.")
        return
    said = node.tools.run("nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
    if said.code == NOT_FOUND:
        yield NO_DRIVER.found()
    elif said.code != 0:
        yield DRIVER_BROKEN.found(why=said.why)
    else:
        cards = [[cell.strip() for cell in row.split(",")] for row in said.out.splitlines() if row]
        yield from of_cards(node, cards, wanted)
    yield from of_toolkit(node)


def wanted_count(node: Node) -> int | None:
    """How many GPUs the Compose files ask for; -1 for all, None for none."""
    counts = [
        -1 if device.get("count") in (None, "all", -1) else int(device["count"])
        for service in node.services.values()
        for device in reservations(service).get("devices") or []
        if "gpu" in (device.get("capabilities") or [])
    ]
    return max(counts) if counts else None


def of_cards(node: Node, cards: list[list[str]], wanted: int) -> Iterator[Finding]:
    if len(cards) < max(wanted, 1):
        yield TOO_FEW.found(wanted=max(wanted, 1), count=len(cards))
        return
    for index, name, driver, used, total, degrees, _ in cards:
        if degrees.isdigit() and int(degrees) >= HOT_DEGREES:
            yield HOT.found(index=index, degrees=degrees)
        yield ok(f"GPU {index}: {name}, {used} of {total} MiB in use, driver {driver}.")
    yield from of_memory(node, cards)
    needed, offered = needed_cuda(node), offered_cuda(node)
    if needed and offered and offered < needed:
        yield DRIVER_OLD.found(
            driver=cards[0][2],
            offered=".".join(map(str, offered)),
            needed=".".join(map(str, needed)),
        )


def of_memory(node: Node, cards: list[list[str]]) -> Iterator[Finding]:
    """Before the engine serves: vLLM does not start where less is free than it wants."""
    engine = node.containers.get("engine")
    if engine is not None and engine.is_running and engine.health == "healthy":
        return
    own: set[str] = set()
    if engine is not None and engine.is_running:
        own = set(node.tools.run("docker", "top", engine.id, "-eo", "pid").out.split())
    share = node.setting("engine", "GPU_MEMORY")
    wanted_share = float(share) if re.fullmatch(r"0\.[0-9]{1,2}", share) else USUAL_SHARE
    apps = programs(node)
    for index, _, _, used, total, _, card in cards:
        if not (used.isdigit() and total.isdigit()):
            continue
        here = [app for app in apps if app[0] == card]
        if any(pid in own and not held.isdigit() for _, pid, held, _ in here):
            continue  # a driver that does not tell programs apart
        taken = int(used) - sum(int(held) for _, pid, held, _ in here if pid in own)
        wanted = round(int(total) * wanted_share)
        if taken > int(total) - wanted:
            names = [f"{name} ({held} MiB)" for _, pid, held, name in here if pid not in own]
            words = ", ".join(names) or "none that the driver names."
            yield TAKEN.found(index=index, total=total, taken=taken, wanted=wanted, programs=words)


def programs(node: Node) -> list[list[str]]:
    """Programs that compute: card, process, MiB, name."""
    said = node.tools.run(
        "nvidia-smi", f"--query-compute-apps={APPS}", "--format=csv,noheader,nounits"
    )
    rows = [[cell.strip() for cell in row.split(",", 3)] for row in said.out.splitlines()]
    return [row for row in rows if len(row) == 4] if said.code == 0 else []


def needed_cuda(node: Node) -> tuple[int, ...] | None:
    """The CUDA version that the image says it needs (NVIDIA_REQUIRE_CUDA); its first condition."""
    for service in node.services.values():
        if not reservations(service).get("devices"):
            continue
        said = node.tools.run(
            "docker", "image", "inspect", "--format", "{{json .Config.Env}}", str(service["image"])
        )
        found = re.search(r"NVIDIA_REQUIRE_CUDA=cuda>=(\d+)\.(\d+)", said.out)
        if found:
            return tuple(map(int, found.groups()))
    return None


def offered_cuda(node: Node) -> tuple[int, ...] | None:
    found = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", node.tools.run("nvidia-smi").out)
    return tuple(map(int, found.groups())) if found else None


def of_toolkit(node: Node) -> Iterator[Finding]:
    said = node.tools.run("docker", "info", "--format", "{{json .}}")
    if said.code != 0:
        raise CannotLook(f"Docker does not tell its runtimes ({said.why})")
    info = json.loads(said.out)
    devices = [str(it.get("ID", "")) for it in info.get("DiscoveredDevices") or []]
    by_cdi = any("nvidia.com/gpu" in device for device in devices)
    if "nvidia" in (info.get("Runtimes") or {}) or by_cdi:
        version = node.tools.run("nvidia-ctk", "--version").out.splitlines()
        yield ok(f"Docker can give GPUs to containers{': ' + version[0] if version else ''}.")
        return
    hook = node.tools.run("nvidia-container-cli", "--version")
    if hook.code == 0:  # `--gpus` works by this hook even where no runtime is configured
        yield ok("Docker can give GPUs to containers by the NVIDIA hook.")
    else:
        yield NO_TOOLKIT.found()


CHECK = Check(
    "GPU",
    "On the model node and on workers, where the Compose files in use ask for a GPU: the driver, "
    "the number of GPUs, whether other programs hold memory that the engine wants, whether the "
    "driver is new enough for the engine's image, and whether Docker can hand them to a container.",
    (NO_DRIVER, DRIVER_BROKEN, TOO_FEW, NO_TOOLKIT, DRIVER_OLD, TAKEN, HOT),
    look,
)
