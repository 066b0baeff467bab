"""Names the services that are confined by the same keys as another one, of which each is tried.

Their mutants would be the same once more, so it is the keys that are compared. What they have
beside, or under another name, is named here; what is added gets its own mutants.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tests.leaks.mutants.compose import LEFT_OUT, ComposeMutant, Config


@dataclass(frozen=True)
class Alike:
    """What a service, a volume or a network is like."""

    tried: str
    """Node and service whose keys are tried."""
    renamed: tuple[tuple[str, str], ...] = ()
    """How what is tried would have to be rewritten."""
    more: frozenset[str] = frozenset()
    """Mounts that it has beside: their mutants are tried."""
    fewer: frozenset[str] = frozenset()
    """Mounts that only the one that is tried has."""
    keys: frozenset[str] = frozenset()
    """The only keys that are the same, or there in neither; none: all are."""

    def excuses(self, mutant: ComposeMutant, config: Config) -> bool:
        """Whether another's mutant shows what becomes of this one."""
        if self.keys:
            before, after = (it["services"][mutant.service] for it in (config, mutant.config))
            changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
            return changed <= self.keys
        return not any(f"mount of {target} " in mutant.name for target in self.more)


OF_WORKERS = (
    ('"service:wireguard"', '"service:workers"'),
    ('"wireguard": {', '"workers": {'),
    ('"tunnel": null', '"workers": null'),
    ('"source": "tunnel_', '"source": "workers_'),
)
OF_WORKER = ((".env.gpu.example", ".env.worker.example"),)

OF_ROUTER = frozenset(
    {
        *("cap_drop", "cap_add", "security_opt", "privileged", "read_only", "network_mode"),
        *("networks", "pid", "ipc", "pids_limit", "ulimits", "restart", "stop_grace_period"),
        *("logging",),
    }
)

ALIKE: dict[str, Alike] = {
    **{
        f"first {name}": Alike(f"gpu {name}")
        for name in (
            *("wireguard", "uplink", "engine"),
            *("network tunnel", "volume engine-socket", "volume store", "volume weights"),
        )
    },
    "first gateway": Alike("gpu gateway", more=frozenset({"/run/router"})),
    "first router": Alike("vps relay", OF_WORKERS, keys=OF_ROUTER),
    "first workers": Alike(
        "vps wireguard", OF_WORKERS, fewer=frozenset({"/run/env", "/run/env.example"})
    ),
    "first workers-uplink": Alike("vps uplink", OF_WORKERS),
    **{
        f"worker {name}": Alike(f"gpu {name}", OF_WORKER)
        for name in (
            *("wireguard", "uplink", "engine"),
            *("network tunnel", "volume engine-socket", "volume weights"),
        )
    },
    "worker door": Alike(
        "first router",
        (('"service:workers"', '"service:wireguard"'), ('"workers": {', '"wireguard": {')),
        fewer=frozenset({"/run/router"}),
    ),
}


def keys_of(
    config: Config,
    name: str,
    without: frozenset[str] = frozenset(),
    only: frozenset[str] = frozenset(),
) -> str:
    """What confines a service or is said of a volume or network, as text."""
    kind, _, thing = name.partition(" ")
    if thing:
        said = config[f"{kind}s"][thing] or {}
        return written({key: value for key, value in said.items() if key != "name"})
    keys = {key: value for key, value in config["services"][name].items() if key not in LEFT_OUT}
    if only:
        return written({key: keys.get(key) for key in only})
    mounts = [mount for mount in keys.pop("volumes", []) if mount["target"] not in without]
    secrets = [
        secret | {"target": PurePath(secret.get("target", secret["source"])).name}
        for secret in keys.pop("secrets", [])
    ]
    return written(
        keys
        | {"volumes": sorted(mounts, key=lambda mount: str(mount["target"]))}
        | {"secrets": sorted(secrets, key=lambda secret: str(secret["target"]))}
    )


def variables_of(config: Config, service: str) -> set[str]:
    return set(config["services"][service].get("environment", {}))


def new_variables(configs: Mapping[str, Config], name: str) -> set[str]:
    """The variables of a service that the one it is like has not."""
    node, _, service = name.partition(" ")
    own, alike = variables_of(configs[node], service), ALIKE.get(name)
    if alike is None or alike.keys:
        return own
    node, _, service = alike.tried.partition(" ")
    return own - variables_of(configs[node], service)


def written(said: Any) -> str:
    return json.dumps(said, indent=1, sort_keys=True)


def expected_of(alike: Alike, config: Config) -> str:
    """What it has to say, given the configuration of the node that is tried."""
    text = keys_of(config, alike.tried.partition(" ")[2], alike.fewer, alike.keys)
    for old, new in alike.renamed:
        text = text.replace(old, new)
    return text
