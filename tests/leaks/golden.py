"""Owns the golden files: what Docker was told about each container of all nodes, key by key.

    python -m tests.leaks.golden

starts the pair, makes the boxes, writes golden/NODE-SERVICE.json and removes them. What stands in
the files is reviewed like code: a capability, network, port or mount more is seen as a difference.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.pair import Pair
from scripts.setup import ROOT
from tests.leaks.wire import docker_says

FOLDER = Path(__file__).parent / "golden"

HOST_KEYS = (
    "CapAdd", "CapDrop", "CgroupParent", "DeviceCgroupRules", "DeviceRequests",
    "Devices", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "GroupAdd", "Init", "IpcMode",
    "Links", "LogConfig", "Memory", "MemorySwap", "NetworkMode",
    "OomKillDisable", "PidMode", "PidsLimit", "PortBindings", "Privileged", "PublishAllPorts",
    "ReadonlyRootfs", "RestartPolicy", "Runtime", "SecurityOpt", "ShmSize",
    "Sysctls", "Tmpfs", "UTSMode", "Ulimits", "UsernsMode", "VolumeDriver", "VolumesFrom",
)  # fmt: skip
CONFIG_KEYS = (
    "Cmd", "Domainname", "Entrypoint", "ExposedPorts", "Healthcheck", "StopSignal", "StopTimeout",
    "Tty", "User",
)  # fmt: skip
MOUNT_KEYS = ("Type", "Source", "Destination", "RW", "Mode", "Propagation")


def described(pair: Pair, container: str) -> dict[str, Any]:
    """A container's privileges, networks, ports and mounts, without what differs by machine."""
    seen = json.loads(docker_says("inspect", container))[0]
    networks = seen["NetworkSettings"]["Networks"]
    text = json.dumps(
        {
            "host": filled(seen["HostConfig"], HOST_KEYS),
            "config": filled(seen["Config"], CONFIG_KEYS),
            "environment": sorted(entry.split("=")[0] for entry in seen["Config"]["Env"]),
            "mounts": sorted(
                (
                    {key: mount.get(key, "") for key in MOUNT_KEYS}
                    | ({"Source": mount["Name"]} if mount["Type"] == "volume" else {})
                    for mount in seen["Mounts"]
                ),
                key=lambda mount: str(mount["Destination"]),
            ),
            "networks": {
                name: {
                    "address": network["IPAddress"],
                    "address6": network["GlobalIPv6Address"],
                    "aliases": sorted(set(network["Aliases"] or []) - {seen["Id"][:12]}),
                }
                for name, network in networks.items()
            },
            "volumes": {
                mount["Name"]: json.loads(docker_says("volume", "inspect", mount["Name"]))[0][
                    "Options"
                ]
                for mount in seen["Mounts"]
                if mount["Type"] == "volume"
            },
        }
    )
    for name, network in networks.items():
        if network["NetworkID"]:  # a container that was never started has none
            text = text.replace(network["NetworkID"], name)
    for match in set(re.findall(r"container:([0-9a-f]{64})", text)):
        name = docker_says("inspect", "--format", "{{.Name}}", match).lstrip("/")
        text = text.replace(match, name)
    text = text.replace(str(pair.state), "STATE").replace(str(ROOT), "CHECKOUT")
    text = text.replace(pair.name, "PAIR").replace(pair.subnet + ".", "OUTSIDE.")
    result: dict[str, Any] = json.loads(text)
    return result


def filled(part: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The keys that have a value: nothing, no and none are the same to Docker."""
    return {key: part[key] for key in keys if part.get(key)}


def file_of(node: str, service: str) -> Path:
    return FOLDER / f"{node}-{service}.json"


def main() -> None:
    from python_on_whales import DockerClient

    from tests.leaks.boxes import BOXES, container_of, made_boxes
    from tests.leaks.conftest import NETWORKS, SCANNERS
    from tests.leaks.guard import standing_guard
    from tests.leaks.world import NODES, running_world

    FOLDER.mkdir(exist_ok=True)
    with (
        standing_guard(NETWORKS, SCANNERS) as guard,
        running_world(DockerClient(), guard) as world,
    ):
        for node, services in NODES.items():
            for service in services:
                write(world.pair, node, service, world.container(node, service))
    with TemporaryDirectory() as folder, made_boxes(Path(folder)) as boxes:
        for node, services in BOXES.items():
            for service in services:
                write(boxes, node, service, container_of(boxes, node, service))


def write(pair: Pair, node: str, service: str, container: str) -> None:
    text = json.dumps(described(pair, container), indent=2)
    file_of(node, service).write_text(text + "\n", encoding="utf-8")
    print(file_of(node, service).relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
