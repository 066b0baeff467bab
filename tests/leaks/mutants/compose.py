"""Makes mutants of a node's Compose configuration: each key that protects, removed or weakened.

Reads the configuration as Compose prints it. A key that is neither given mutants here nor named
among those that are left out is an error, so that a new key is not forgotten.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

LEFT_OUT = {
    "image": "what runs, not what confines it; cells run something else in its place",
    "build": "the same",
    "command": "the same",
    "entrypoint": "the same",
    "deploy": "asks for a GPU",
    "shm_size": "how much shared memory its own processes have",
    "environment": "mutants/settings.py makes those",
    "ports": "networks without a way out publish nothing: tests/vm scans whole machines instead",
}

MORE_POWERS = ("NET_RAW", "NET_ADMIN", "SYS_ADMIN", "DAC_OVERRIDE", "MKNOD", "ALL")
WAYS_OF_MOUNT_OPTIONS = {"noexec": "mounts", "nodev": "mounts", "nosuid": "elevation"}

WAYS_OF_SYSCTLS = {"net.ipv4.tcp_retries2": "silence"}
WEAKER_SYSCTLS = {
    "net.ipv4.ip_no_pmtu_disc": "1",
    "net.ipv4.icmp_ratelimit": "10",
    "net.ipv4.tcp_retries2": "8",
}


@dataclass(frozen=True)
class ComposeMutant:
    """A node's configuration with one thing removed or weakened."""

    node: str
    service: str
    name: str
    config: Config
    ways: tuple[tuple[str, str], ...]
    """In which services' places it is tried, and how; one finding anywhere is enough."""


class UnknownKey(Exception):
    """A service has a key that no mutant is made of: teach mutants/compose.py what it is for."""


def mutants_of(node: str, config: Config) -> Iterator[ComposeMutant]:
    """All mutants of one node."""
    for service in config["services"]:
        yield from _Service(node, service, config).mutants()
    yield from _volume_mutants(node, config)
    for network in config["networks"]:
        mutant = copy.deepcopy(config)
        mutant["networks"][network]["enable_ipv6"] = True
        yield ComposeMutant(
            node, f"network {network}", "enable_ipv6: True", mutant, ((network, "network"),)
        )


Change = Callable[[Config], None]


def put(value: object, *path: str | int) -> Change:
    """Set what stands at a path of keys and positions."""

    def change(keys: Config) -> None:
        place: Any = keys
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def drop(*path: str | int) -> Change:
    """Remove what stands at a path."""

    def change(keys: Config) -> None:
        place: Any = keys
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return change


class _Service:
    def __init__(self, node: str, service: str, config: Config) -> None:
        self.node = node
        self.service = service
        self.config = config
        self.keys: Config = config["services"][service]

    def mutant(self, name: str, *changes: Change, way: str = "own") -> ComposeMutant:
        config = copy.deepcopy(self.config)
        for change in changes:
            change(config["services"][self.service])
        if config == self.config:
            raise UnknownKey(f"{self.service}: {name} changes nothing")
        return ComposeMutant(self.node, self.service, name, config, ((self.service, way),))

    def without(self, key: str, way: str = "own") -> ComposeMutant:
        return self.mutant(f"{key} removed", drop(key), way=way)

    def given(self, key: str, value: object, way: str = "own") -> ComposeMutant:
        return self.mutant(f"{key}: {value}", put(value, key), way=way)

    def mutants(self) -> Iterator[ComposeMutant]:
        makers: dict[str, Callable[[], Iterator[ComposeMutant]]] = {
            "cap_drop": self.powers,
            "cap_add": lambda: iter(()),  # with the others above
            "security_opt": self.security_options,
            "read_only": lambda: iter([self.without("read_only")]),
            "user": self.user,
            "init": self.init,
            "network_mode": self.network_mode,
            "networks": self.networks,
            "pid": lambda: iter([self.without("pid")]),
            "ipc": lambda: iter([self.given("ipc", "shareable", "ipc")]),
            "sysctls": self.sysctls,
            "tmpfs": self.tmpfs,
            "volumes": self.volumes,
            "secrets": self.secrets,
            "devices": self.devices,
            "mem_limit": self.memory,
            "memswap_limit": lambda: iter([self.without("memswap_limit")]),
            "pids_limit": lambda: iter([self.without("pids_limit")]),
            "ulimits": lambda: iter([self.without("ulimits")]),
            "restart": lambda: iter([self.without("restart", "restart")]),
            "stop_grace_period": lambda: iter([self.without("stop_grace_period", "stop")]),
            "logging": self.logging,
            "healthcheck": self.healthcheck,
            "depends_on": self.dependencies,
        }
        unknown = set(self.keys) - set(makers) - set(LEFT_OUT)
        if unknown:
            raise UnknownKey(f"{self.service}: {sorted(unknown)}")
        for key, make in makers.items():
            if key in self.keys:
                yield from make()
        yield from self.holes()

    def powers(self) -> Iterator[ComposeMutant]:
        yield self.without("cap_drop")
        added = self.keys.get("cap_add", [])
        for power in added:
            rest = [other for other in added if other != power]
            yield self.mutant(f"cap_add without {power}", put(rest, "cap_add"))
        for power in MORE_POWERS:
            if power not in added:
                yield self.mutant(f"cap_add with {power}", put([*added, power], "cap_add"))

    def security_options(self) -> Iterator[ComposeMutant]:
        yield self.without("security_opt")
        yield self.given("security_opt", [*self.keys["security_opt"], "seccomp=unconfined"])

    def user(self) -> Iterator[ComposeMutant]:
        number = self.keys["user"].partition(":")[0]
        yield self.without("user")
        yield self.given("user", "0:0")
        yield self.given("user", f"{number}:{number}")

    def init(self) -> Iterator[ComposeMutant]:
        yield self.given("init", not self.keys["init"])

    def network_mode(self) -> Iterator[ComposeMutant]:
        yield self.without("network_mode")
        yield self.given("network_mode", "host")
        if self.keys["network_mode"] != "none":
            yield self.given("network_mode", "none")
        yield self.mutant("a network", drop("network_mode"), put({"tunnel": None}, "networks"))

    def networks(self) -> Iterator[ComposeMutant]:
        (own,) = self.keys["networks"]
        foreign = "telegram" if own == "tunnel" else "tunnel"
        yield self.without("networks")
        yield self.given("networks", {own: None, foreign: None})
        yield self.given("networks", {foreign: None})
        yield self.given("networks", {own: None, "default": None})
        yield self.mutant("network_mode: none", drop("networks"), put("none", "network_mode"))

    def sysctls(self) -> Iterator[ComposeMutant]:
        for name in self.keys["sysctls"]:
            way = WAYS_OF_SYSCTLS.get(name, "own")
            yield self.mutant(f"sysctls without {name}", drop("sysctls", name), way=way)
            if name in WEAKER_SYSCTLS:
                weaker = WEAKER_SYSCTLS[name]
                yield self.mutant(
                    f"sysctls {name}: {weaker}", put(weaker, "sysctls", name), way=way
                )
        yield self.without("sysctls")

    def tmpfs(self) -> Iterator[ComposeMutant]:
        for number, entry in enumerate(self.keys["tmpfs"]):
            target, _, options = entry.partition(":")
            yield self.mutant(f"tmpfs {target} removed", drop("tmpfs", number))
            for option, way, rest in _without_each(options):
                # Docker's own default for a tmpfs is noexec,nosuid,nodev: the opposite is said.
                opposite = {"noexec": "exec", "nosuid": "suid", "nodev": "dev"}.get(option)
                rest += f",{opposite}" if opposite else ""
                yield self.mutant(
                    f"tmpfs {target} without {option}",
                    put(f"{target}:{rest}", "tmpfs", number),
                    way=way,
                )

    def volumes(self) -> Iterator[ComposeMutant]:
        for number, mount in enumerate(self.keys["volumes"]):
            target = mount["target"]
            yield self.mutant(f"mount of {target} removed", drop("volumes", number))
            if mount.get("read_only"):
                yield self.mutant(
                    f"mount of {target} not read-only",
                    drop("volumes", number, "read_only"),
                    way="mounts" if mount["type"] == "volume" else "own",
                )

    def secrets(self) -> Iterator[ComposeMutant]:
        given = [secret["source"] for secret in self.keys["secrets"]]
        for number, name in enumerate(given):
            yield self.mutant(f"secret {name} removed", drop("secrets", number))
        for name in self.config["secrets"]:
            if name not in (*given, "ca"):
                secret = {"source": name, "target": f"/run/secrets/{name}"}
                yield self.mutant(
                    f"secret {name} given as well", put([*self.keys["secrets"], secret], "secrets")
                )

    def devices(self) -> Iterator[ComposeMutant]:
        yield self.without("devices")
        more = {"source": "/dev/null", "target": "/dev/another", "permissions": "rwm"}
        yield self.mutant("another device", put([*self.keys["devices"], more], "devices"))

    def memory(self) -> Iterator[ComposeMutant]:
        yield self.mutant(
            "mem_limit and memswap_limit removed", drop("mem_limit"), drop("memswap_limit")
        )

    def logging(self) -> Iterator[ComposeMutant]:
        yield self.without("logging", "flood")
        for option in ("max-size", "max-file"):
            yield self.mutant(
                f"logging without {option}", drop("logging", "options", option), way="flood"
            )
        yield self.given("logging", {"driver": "none"}, "flood")

    def healthcheck(self) -> Iterator[ComposeMutant]:
        content = put(["CMD", "true"], "healthcheck", "test")
        yield self.mutant("healthcheck that is always content", content, way="health")
        yield self.mutant("healthcheck disabled", put(True, "healthcheck", "disable"), way="health")

    def dependencies(self) -> Iterator[ComposeMutant]:
        for name, dependency in self.keys["depends_on"].items():
            way = f"order-{name}" if name == "egress" else "order"
            yield self.mutant(f"depends_on without {name}", drop("depends_on", name), way=way)
            if dependency["condition"] == "service_healthy":
                started = put("service_started", "depends_on", name, "condition")
                yield self.mutant(f"depends_on {name} being started", started, way=way)
            if dependency.get("restart"):
                alone = drop("depends_on", name, "restart")
                yield self.mutant(f"depends_on {name} without restart", alone, way=way)

    def holes(self) -> Iterator[ComposeMutant]:
        """What no service has and none may get."""
        yield self.given("privileged", True)
        yield self.given("pid", "host")
        yield self.given("ipc", "host")
        socket = {
            "type": "bind",
            "source": "/var/run/docker.sock",
            "target": "/var/run/docker.sock",
        }
        mounted = put([*self.keys.get("volumes", []), socket], "volumes")
        yield self.mutant("Docker's socket mounted", mounted)


def _without_each(options: str) -> Iterator[tuple[str, str, str]]:
    """Each option, the way to try a mount without it, and the other options."""
    words = options.split(",")
    for word in words:
        rest = ",".join(other for other in words if other != word)
        yield word, WAYS_OF_MOUNT_OPTIONS.get(word, "own"), rest


def _volume_mutants(node: str, config: Config) -> Iterator[ComposeMutant]:
    """The volumes that carry sockets: each option, tried where the volume is mounted."""
    for volume, keys in config["volumes"].items():
        options: str = (keys or {}).get("driver_opts", {}).get("o", "")
        mounts = {
            service: mount
            for service, other in config["services"].items()
            for mount in other.get("volumes", [])
            if mount.get("source") == volume
        }
        writers = [service for service, mount in mounts.items() if not mount.get("read_only")]
        everywhere = tuple((service, "own") for service in mounts)
        if not options:
            continue  # a plain volume on the disk
        changes = []
        for option, way, rest in _without_each(options):
            way = "mounts" if option.startswith("size") else way
            tried = tuple((service, way) for service in writers) if way != "own" else everywhere
            changes.append((f"without {option}", rest, tried))
        everybody = [
            "mode=0777" if word.startswith("mode") else word for word in options.split(",")
        ]
        changes.append(("open to everybody", ",".join(everybody), everywhere))
        for name, new, tried in changes:
            mutant = copy.deepcopy(config)
            mutant["volumes"][volume]["driver_opts"]["o"] = new
            yield ComposeMutant(node, f"volume {volume}", name, mutant, tried)
