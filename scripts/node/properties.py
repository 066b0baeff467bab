"""Owns the one form in which a service of Compose and a container of Docker can be compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from scripts.node.node import Container, Node

MIB = 1 << 20
DEFAULT_SHM = 64 * MIB


def wanted_properties(node: Node, service: str, container: Container) -> dict[str, Any]:
    """What the Compose files want of a service; what they leave open, the image decides."""
    want = node.services[service]
    image = image_configuration(node, container)
    environment = {
        **dict(entry.partition("=")[::2] for entry in image.get("Env") or []),
        **{k: str(v) for k, v in (want.get("environment") or {}).items() if v is not None},
    }
    command = want.get("command")
    if command is None and want.get("entrypoint") is None:
        command = image.get("Cmd")
    entrypoint = want.get("entrypoint")
    health = (want.get("healthcheck") or {}).get("test")
    limit = number(want.get("mem_limit"))
    return {
        "image": str(want.get("image")),
        "privileged": bool(want.get("privileged")),
        "capabilities dropped": names(want.get("cap_drop")),
        "capabilities added": names(want.get("cap_add")),
        "security options": frozenset(want.get("security_opt") or []),
        "read-only root": bool(want.get("read_only")),
        "user": str(want.get("user") or image.get("User") or ""),
        "groups": frozenset(map(str, want.get("group_add") or [])),
        "network mode": reference(node, str(want.get("network_mode") or "")),
        "networks": frozenset(
            str(node.config["networks"][name]["name"]) for name in want.get("networks") or {}
        ),
        "published ports": frozenset(port_wanted(port) for port in want.get("ports") or []),
        "process namespace": reference(node, str(want.get("pid") or "")),
        "IPC": str(want.get("ipc") or "private"),
        "user namespace": str(want.get("userns_mode") or ""),
        "host name namespace": str(want.get("uts") or ""),
        "devices": frozenset(device_wanted(device) for device in want.get("devices") or []),
        "device requests": frozenset(
            (
                str(it.get("driver", "")),
                number(it.get("count"), -1),
                *sorted(names(it.get("capabilities"))),
            )
            for it in reservations(want).get("devices") or []
        ),
        "tmpfs": dict(tmpfs_wanted(entry) for entry in want.get("tmpfs") or []),
        "mounts": frozenset(mounts_wanted(node, want)),
        "process limit": number(want.get("pids_limit")),
        "memory limit": limit,
        "memory and swap limit": number(want.get("memswap_limit"), 2 * limit),
        "shared memory": number(want.get("shm_size")) or DEFAULT_SHM,
        "resource limits": {name: limits(it) for name, it in (want.get("ulimits") or {}).items()},
        "restart": str(want.get("restart") or "no"),
        "init process": bool(want.get("init")),
        "sysctls": {name: str(value) for name, value in (want.get("sysctls") or {}).items()},
        "extra hosts": frozenset(str(it).replace("=", ":") for it in want.get("extra_hosts") or []),
        "name servers": frozenset(want.get("dns") or []),
        "environment": environment,
        "entrypoint": list(image.get("Entrypoint") or []) if entrypoint is None else entrypoint,
        "command": list(command or []),
        **(
            {"log": (want["logging"]["driver"], *pairs(want["logging"], "options"))}
            if (want.get("logging") or {}).get("driver")
            else {}  # then it is the daemon's own setting
        ),
        "health check": list(health or (image.get("Healthcheck") or {}).get("Test") or []),
    }


def actual_properties(node: Node, container: Container) -> dict[str, Any]:
    """The same of a container."""
    host, config = container.raw["HostConfig"], container.raw["Config"]
    mode = str(host["NetworkMode"])
    on_networks = frozenset(container.raw["NetworkSettings"].get("Networks") or {})
    shares = mode in ("none", "host") or mode.startswith("container:")
    return {
        "image": str(config["Image"]),
        "privileged": bool(host["Privileged"]),
        "capabilities dropped": names(host["CapDrop"]),
        "capabilities added": names(host["CapAdd"]),
        # A label is SELinux' own affair: Docker adds one where namespaces are shared.
        "security options": frozenset(
            it for it in host.get("SecurityOpt") or [] if not it.startswith("label=")
        ),
        "read-only root": bool(host["ReadonlyRootfs"]),
        "user": str(config.get("User") or ""),
        "groups": frozenset(host.get("GroupAdd") or []),
        "network mode": mode if shares else "",
        "networks": on_networks - {"none"} if not shares else on_networks - {"none", "host"},
        "published ports": frozenset(
            (str(it["HostIp"]).replace("0.0.0.0", ""), str(it["HostPort"]), port)
            for port, bindings in (host.get("PortBindings") or {}).items()
            for it in bindings or []
        ),
        "process namespace": str(host.get("PidMode") or ""),
        "IPC": str(host.get("IpcMode") or "private"),
        "user namespace": str(host.get("UsernsMode") or ""),
        "host name namespace": str(host.get("UTSMode") or ""),
        "devices": frozenset(
            (it["PathOnHost"], it["PathInContainer"], it["CgroupPermissions"])
            for it in host.get("Devices") or []
        ),
        "device requests": frozenset(
            (
                it["Driver"],
                int(it["Count"]),
                *sorted(names(c for group in it["Capabilities"] for c in group)),
            )
            for it in host.get("DeviceRequests") or []
        ),
        "tmpfs": {
            target: frozenset(options.split(","))
            for target, options in (host.get("Tmpfs") or {}).items()
        },
        "mounts": frozenset(
            (
                it["Type"],
                it["Name"] if it["Type"] == "volume" else it["Source"],
                it["Destination"],
                "rw" if it["RW"] else "ro",
            )
            for it in container.raw["Mounts"]
            if it["Type"] != "tmpfs"
        ),
        "process limit": int(host.get("PidsLimit") or 0),
        "memory limit": int(host["Memory"]),
        "memory and swap limit": int(host["MemorySwap"]),
        "shared memory": int(host["ShmSize"]),
        "resource limits": {
            it["Name"]: (int(it["Soft"]), int(it["Hard"])) for it in host.get("Ulimits") or []
        },
        "restart": str(host["RestartPolicy"]["Name"] or "no"),
        "init process": bool(host.get("Init")),
        "sysctls": dict(host.get("Sysctls") or {}),
        "extra hosts": frozenset(host.get("ExtraHosts") or []),
        "name servers": frozenset(host.get("Dns") or []),
        "environment": dict(entry.partition("=")[::2] for entry in config.get("Env") or []),
        "entrypoint": list(config.get("Entrypoint") or []),
        "command": list(config.get("Cmd") or []),
        "log": (host["LogConfig"]["Type"], *pairs(host["LogConfig"], "Config")),
        "health check": list((config.get("Healthcheck") or {}).get("Test") or []),
    }


def image_configuration(node: Node, container: Container) -> dict[str, Any]:
    said = node.ask("docker", "image", "inspect", "--format", "{{json .Config}}", container.image)
    return dict(json.loads(said) or {})


def reference(node: Node, mode: str) -> str:
    """`service:NAME` as Docker writes it."""
    kind, _, service = mode.partition(":")
    if kind == "service" and service in node.containers:
        return f"container:{node.containers[service].id}"
    return mode


def names(capabilities: Iterable[str] | None) -> frozenset[str]:
    return frozenset(str(name).removeprefix("CAP_") for name in capabilities or [])


def number(value: Any, default: int = 0) -> int:
    return int(value) if value not in (None, "", "all") else default


def limits(value: Any) -> tuple[int, int]:
    if not isinstance(value, dict):
        return int(value), int(value)
    single = int(value.get("single") or 0)
    return int(value.get("soft", single)), int(value.get("hard", single))


def pairs(section: Any, key: str) -> list[tuple[str, str]]:
    found = (section or {}).get(key) or {}
    return sorted((str(name), str(value)) for name, value in found.items())


def reservations(want: dict[str, Any]) -> dict[str, Any]:
    resources = (want.get("deploy") or {}).get("resources") or {}
    return dict(resources.get("reservations") or {})


def port_wanted(port: dict[str, Any]) -> tuple[str, str, str]:
    address = str(port.get("host_ip") or "").replace("0.0.0.0", "")
    return address, str(port.get("published") or ""), f"{port['target']}/{port['protocol']}"


def device_wanted(device: Any) -> tuple[str, str, str]:
    if isinstance(device, dict):
        source = str(device["source"])
        return source, str(device.get("target") or source), str(device.get("permissions") or "rwm")
    source, target, permissions = ([*str(device).split(":"), "", ""])[:3]
    return source, target or source, permissions or "rwm"


def tmpfs_wanted(entry: str) -> tuple[str, frozenset[str]]:
    target, _, options = entry.partition(":")
    return target, frozenset(options.split(","))


def mounts_wanted(node: Node, want: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    found = []
    for mount in want.get("volumes") or []:
        source = str(mount.get("source") or "")
        if mount["type"] == "volume":
            source = str(node.config["volumes"][source]["name"])
        access = "ro" if mount.get("read_only") else "rw"
        found.append((str(mount["type"]), source, str(mount["target"]), access))
    for kind in ("secrets", "configs"):
        for secret in want.get(kind) or []:
            source = str(node.config[kind][secret["source"]]["file"])
            target = str(secret.get("target") or secret["source"])
            if not target.startswith("/"):
                target = f"/run/secrets/{target}" if kind == "secrets" else f"/{target}"
            found.append(("bind", source, target, "ro"))
    return found
