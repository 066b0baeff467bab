"""Makes mutants of the environment that Compose gives a service: each variable removed or too wide.

The engine's are left out: it has no network, and what its flags do is tried with the real engines.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.leaks.mutants.compose import Config

WITHOUT_NETWORK = "engine"

TOO_WIDE = {
    "ALLOWED_USERS": "*",
    "LISTEN_ADDRESS": "0.0.0.0",
    "RESOLVER": "127.0.0.11",
    "TELEGRAM_ADDRESSES": "0.0.0.0",
    "TELEGRAM_NETWORKS": "0.0.0.0/0",
    "TUNNEL_ADDRESS": "0.0.0.0",
    "TUNNEL_ENDPOINT": "0.0.0.0:51820",
    "TUNNEL_PEER_ADDRESS": "0.0.0.0",
    "TUNNEL_PEER_KEY": "*",
    "TUNNEL_PEERS": f"0.0.0.0={'A' * 43}=",
}
"""Values that would open what the variable narrows: no service may start with one."""

OTHER_END = {"listen": "dial", "dial": "listen"}


@dataclass(frozen=True)
class SettingMutant:
    """One variable of one service, removed or with another value."""

    node: str
    service: str
    key: str
    value: str | None
    """None: removed."""

    @property
    def name(self) -> str:
        return f"{self.key} removed" if self.value is None else f"{self.key}: {self.value}"

    @property
    def is_other_end(self) -> bool:
        return self.key == "TUNNEL_END" and self.value is not None

    @property
    def must_be_refused(self) -> bool:
        return self.value is not None and self.value == TOO_WIDE.get(self.key)


def mutants_of(node: str, config: Config) -> Iterator[SettingMutant]:
    """All mutants of one node's variables, given its configuration as Compose prints it."""
    for service, keys in config["services"].items():
        if service == WITHOUT_NETWORK:
            continue
        for key, value in keys.get("environment", {}).items():
            yield SettingMutant(node, service, key, None)
            if key in TOO_WIDE:
                yield SettingMutant(node, service, key, TOO_WIDE[key])
            if key == "TUNNEL_END":
                yield SettingMutant(node, service, key, OTHER_END[value])
