"""Makes mutants of a node's Compose configuration: each key that protects, removed or weakened.

Reads the configuration as Compose prints it. A key that is neither given mutants here nor named as
one that protects nothing is an error, so that a new key is not forgotten.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

PROTECT_NOTHING = {
    "image": "what runs, not what confines it; cells run something else in its place",
    "build": "the same",
    "command": "the same",
    "entrypoint": "the same",
    "deploy": "asks for a GPU",
    "shm_size": "how much shared memory its own processes have",
    "environment": "settings: what each does is tried by the services' own tests",
    "ports": "internal networks publish nothing: tried in virtual machines",
}

MORE_POWERS = ("NET_RAW", "NET_ADMIN", "SYS_ADMIN", "DAC_OVERRIDE", "MKNOD", "ALL")
WAYS_OF_MOUNT_OPTIONS = {"noexec": "mounts", "nodev": "mounts", "nosuid": "elevation"}


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


class _Service:
    def __init__(self, node: str, service: str, config: Config) -> None:
        self.node = node
        self.service = service
        self.config = config
        self.keys: Config = config["services"][service]

    def mutant(
        self, name: str, change: Callable[[Config], object], way: str = "own"
    ) -> ComposeMutant:
        config = copy.deepcopy(self.config)
        change(config["services"][self.service])
        if config == self.config:
            raise UnknownKey(f"{self.service}: {name} changes nothing")
        return ComposeMutant(self.node, self.service, name, config, ((self.service, way),))

    def without(self, key: str, way: str = "own") -> ComposeMutant:
        return self.mutant(f"{key} removed", lambda keys: keys.pop(key), way)

    def given(self, key: str, value: object, way: str = "own") -> ComposeMutant:
        return self.mutant(f"{key}: {value}", lambda keys: keys.update({key: value}), way)

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
        unknown = set(self.keys) - set(makers) - set(PROTECT_NOTHING)
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
            yield self.mutant(
                f"cap_add without {power}", lambda keys, rest=rest: keys.update(cap_add=rest)
            )
        for power in MORE_POWERS:
            if power not in added:
                yield self.mutant(
                    f"cap_add with {power}",
                    lambda keys, power=power: keys.update(cap_add=[*added, power]),
                )

    def security_options(self) -> Iterator[ComposeMutant]:
        yield self.without("security_opt")
        more = [*self.keys["security_opt"], "seccomp=unconfined"]
        yield self.given("security_opt", more)

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
        if self.keys["network_mode"] == "none":
            yield self.mutant("a network", lambda keys: _attach(keys, "tunnel"))
        else:
            yield self.given("network_mode", "none")
            yield self.mutant("a network of its own", lambda keys: _attach(keys, "tunnel"))

    def networks(self) -> Iterator[ComposeMutant]:
        (own,) = self.keys["networks"]
        foreign = "telegram" if own == "tunnel" else "tunnel"
        yield self.without("networks")
        yield self.given("networks", {own: None, foreign: None})
        yield self.given("networks", {foreign: None})
        yield self.given("networks", {own: None, "default": None})
        yield self.mutant(
            "network_mode: none", lambda keys: (keys.pop("networks"), keys.update(network_mode="none"))
        )

    def sysctls(self) -> Iterator[ComposeMutant]:
        for name in self.keys["sysctls"]:
            yield self.mutant(
                f"sysctls without {name}", lambda keys, name=name: keys["sysctls"].pop(name)
            )
        yield self.without("sysctls")

    def tmpfs(self) -> Iterator[ComposeMutant]:
        for number, entry in enumerate(self.keys["tmpfs"]):
            target, _, options = entry.partition(":")

            def replaced(new: str, number: int = number) -> Callable[[Config], object]:
                return lambda keys: keys["tmpfs"].__setitem__(number, new)

            yield self.mutant(f"tmpfs {target} removed", lambda keys, n=number: keys["tmpfs"].pop(n))
            for option, way, rest in _without_each(options):
                # Docker's own default for a tmpfs is noexec,nosuid,nodev: the opposite is said.
                opposite = {"noexec": "exec", "nosuid": "suid", "nodev": "dev"}.get(option)
                rest += f",{opposite}" if opposite else ""
                yield self.mutant(
                    f"tmpfs {target} without {option}", replaced(f"{target}:{rest}"), way
                )

    def volumes(self) -> Iterator[ComposeMutant]:
        for number, mount in enumerate(self.keys["volumes"]):
            target = mount["target"]
            yield self.mutant(
                f"mount of {target} removed", lambda keys, n=number: keys["volumes"].pop(n)
            )
            if mount.get("read_only"):
                yield self.mutant(
                    f"mount of {target} not read-only",
                    lambda keys, n=number: keys["volumes"][n].pop("read_only"),
                    "mounts" if mount["type"] == "volume" else "own",
                )

    def secrets(self) -> Iterator[ComposeMutant]:
        given = [secret["source"] for secret in self.keys["secrets"]]
        for number, name in enumerate(given):
            yield self.mutant(
                f"secret {name} removed", lambda keys, n=number: keys["secrets"].pop(n)
            )
        for name in self.config["secrets"]:
            if name not in (*given, "ca"):
                secret = {"source": name, "target": f"/run/secrets/{name}"}
                yield self.mutant(
                    f"secret {name} given as well",
                    lambda keys, secret=secret: keys["secrets"].append(secret),
                )

    def devices(self) -> Iterator[ComposeMutant]:
        yield self.without("devices")
        more = {"source": "/dev/null", "target": "/dev/another", "permissions": "rwm"}
        yield self.mutant("another device", lambda keys: keys["devices"].append(more))

    def memory(self) -> Iterator[ComposeMutant]:
        yield self.mutant(
            "mem_limit and memswap_limit removed",
            lambda keys: (keys.pop("mem_limit"), keys.pop("memswap_limit")),
        )

    def logging(self) -> Iterator[ComposeMutant]:
        yield self.without("logging", "flood")
        for option in ("max-size", "max-file"):
            yield self.mutant(
                f"logging without {option}",
                lambda keys, option=option: keys["logging"]["options"].pop(option),
                "flood",
            )
        yield self.given("logging", {"driver": "none"}, "flood")

    def healthcheck(self) -> Iterator[ComposeMutant]:
        yield self.mutant(
            "healthcheck that is always content",
            lambda keys: keys["healthcheck"].update(test=["CMD", "true"]),
            "health",
        )
        yield self.mutant(
            "healthcheck disabled",
            lambda keys: keys["healthcheck"].update(disable=True),
            "health",
        )

    def dependencies(self) -> Iterator[ComposeMutant]:
        for name, dependency in self.keys["depends_on"].items():
            way = "order" if name == "wireguard" else f"order-{name}"

            def changed(
                about: str, change: Callable[[Config], object], name: str = name, way: str = way
            ) -> ComposeMutant:
                def on_one(keys: Config) -> object:
                    return change(keys["depends_on"][name])

                return self.mutant(f"depends_on {name} {about}", on_one, way)

            yield self.mutant(
                f"depends_on without {name}",
                lambda keys, name=name: keys["depends_on"].pop(name),
                way,
            )
            if dependency["condition"] == "service_healthy":
                yield changed("being started", lambda it: it.update(condition="service_started"))
            if dependency.get("restart"):
                yield changed("without restart", lambda it: it.pop("restart"))

    def holes(self) -> Iterator[ComposeMutant]:
        """What no service has and none may get."""
        yield self.given("privileged", True)
        if self.keys.get("pid") != "host":
            yield self.given("pid", "host")
        yield self.given("ipc", "host")
        socket = {
            "type": "bind",
            "source": "/var/run/docker.sock",
            "target": "/var/run/docker.sock",
        }
        yield self.mutant(
            "Docker's socket mounted",
            lambda keys: keys.update(volumes=[*keys.get("volumes", []), socket]),
        )


def _attach(keys: Config, network: str) -> None:
    keys.pop("network_mode")
    keys["networks"] = {network: None}


def _without_each(options: str) -> Iterator[tuple[str, str, str]]:
    """Each option, the way to try a mount without it, and the other options."""
    words = options.split(",")
    for word in words:
        rest = ",".join(other for other in words if other != word)
        yield word, WAYS_OF_MOUNT_OPTIONS.get(word, "own"), rest


def _volume_mutants(node: str, config: Config) -> Iterator[ComposeMutant]:
    """The volumes that carry sockets: each option, tried where the volume is mounted."""
    for volume, keys in config["volumes"].items():
        options = (keys or {}).get("driver_opts", {}).get("o", "")
        users = [
            service
            for service, other in config["services"].items()
            if any(mount.get("source") == volume for mount in other.get("volumes", []))
        ]
        if not options:
            continue  # a plain volume on the disk
        writers = [
            service
            for service in users
            if not any(
                mount.get("source") == volume and mount.get("read_only")
                for mount in config["services"][service]["volumes"]
            )
        ]

        def changed(name: str, new: str, ways: list[tuple[str, str]]) -> ComposeMutant:
            mutant = copy.deepcopy(config)
            mutant["volumes"][volume]["driver_opts"]["o"] = new  # noqa: B023
            return ComposeMutant(node, f"volume {volume}", name, mutant, tuple(ways))  # noqa: B023

        for option, way, rest in _without_each(options):
            tried = [(service, way) for service in (users if way == "own" else writers)]
            if option.startswith("size"):
                tried = [(service, "mounts") for service in writers]
            yield changed(f"without {option}", rest, tried)
        everybody = ",".join("mode=0777" if w.startswith("mode") else w for w in options.split(","))
        yield changed("open to everybody", everybody, [(service, "own") for service in users])
