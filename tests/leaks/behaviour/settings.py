"""Starts services with an operator's settings, and asks what they work with.

The product's Compose file is read with a value for every setting that is not its default. A
variable that is taken away must be missed: the service refuses to start and names it, or it works
with other settings than the operator's, as the kernel (rules, tunnel) and its first words tell.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.lab import PEER
from tests.leaks.behaviour import Finding
from tests.leaks.behaviour.cells import (
    HOLDERS,
    NETWORKS,
    PROJECT,
    SECRETS,
    CellFailed,
    Config,
    configuration,
    docker,
    full,
    remove_cells,
)
from tests.leaks.mutants.settings import SettingMutant

BOTH_NODES = {
    "LINK_PORT": "8099",
    "LOG_LEVEL": "DEBUG",
    "TUNNEL_MTU": "1380",
    "TUNNEL_PEER_KEY": base64.b64encode(bytes(range(32))).decode(),
}
RELAY_NODE = BOTH_NODES | {
    "TUNNEL_ADDRESS": "10.66.9.1",
    "TUNNEL_PEER_ADDRESS": "10.66.9.2",
    "ALLOWED_USERS": "1001,1002,1003",
    "BOT_NAME": "A name",
    "BOT_ABOUT": "A line",
    "BOT_DESCRIPTION": "A paragraph",
    "TELEGRAM_HOST": "bots.example.test",
    "TELEGRAM_PORT": "8443",
    "TELEGRAM_NETWORKS": f"{NETWORKS['telegram']}.0/25",
}
MODEL_NODE = BOTH_NODES | {
    "TUNNEL_ADDRESS": "10.66.9.2",
    "TUNNEL_PEER_ADDRESS": "10.66.9.1",
    "TUNNEL_ENDPOINT": f"{NETWORKS['tunnel']}.20:51821",
    "ALLOWED_USERS": "1001,1002,1003",
    "ADMINS": "1001,1002",
    "ENGINE_SLOTS": "3",
    "CONTEXT_TOKENS": "4000",
    "ANSWER_TOKENS": "400",
    "SYSTEM_PROMPT": "Be brief.",
    "PERSONAS": '{"Teacher": "You teach."}',
    "MODELS": '{"Fast": "small"}',
    "TEMPERATURE": "0.3",
    "SUMMARIES": "on",
    "FILE_CHARACTERS": "5000",
    "DOCUMENT_BYTES": "300000",
    "PICTURES": "1",
    "TRANSCRIBER_SOCKET": "/run/engine/transcriber.sock",
    "USER_ASKS": "5",
    "TOTAL_ASKS": "50",
    "DAILY_ASKS": "40",
    "DAILY_TOKENS": "40000",
    "MINUTE_ASKS": "4",
    "USER_WEIGHTS": "1001:2",
    "USER_LIMITS": "1002:7,1003:8",
    "HISTORY_DAYS": "30",
    "ENGINE_SILENCE_SECONDS": "20",
}
OTHER_KEY = base64.b64encode(bytes(range(1, 33))).decode()
FIRST_NODE = MODEL_NODE | {
    "WORKERS": f"10.67.9.2={BOTH_NODES['TUNNEL_PEER_KEY']},10.67.9.3={OTHER_KEY}",
    "WORKERS_LISTEN": "127.0.0.1:51899",
    "TOTAL_SLOTS": "9",
}
OPERATORS: dict[str, tuple[dict[str, str], ...]] = {
    # Telegram is found by a resolver, or at fixed addresses.
    "vps": (
        RELAY_NODE | {"RESOLVER": f"{NETWORKS['telegram']}.53"},
        RELAY_NODE | {"TELEGRAM_ADDRESSES": f"{NETWORKS['telegram']}.20"},
    ),
    "gpu": (MODEL_NODE,),
    "first": (FIRST_NODE,),
    "worker": (MODEL_NODE | {"TUNNEL_ADDRESS": "10.67.9.2"},),
}
"""What operators have written into .env, per node."""

STARTED = {
    "wireguard": "action=namespace-announced",
    "uplink": "action=tunnel-handed-over",
    "egress": "action=rules-loaded",
    "relay": '"action": "starting"',
    "gateway": '"action": "starting"',
    "workers": "action=namespace-announced",
    "workers-uplink": "action=tunnel-handed-over",
    "router": "action=holder-gone",
    "door": "action=holder-gone",
}
"""What a service says when its settings were good; two of them, not before they miss the holder."""

INSTEAD = {"TUNNEL_PEERS": "TUNNEL_PEER_ADDRESS"}
"""What is asked for where a setting is not given, since it may stand for it."""


@dataclass(frozen=True)
class Refused:
    """A service that has ended instead of working, with what it said."""

    sentence: str


Seen = Refused | dict[str, Any]


@dataclass(frozen=True)
class _Tried:
    """A service with the settings of one operator, and perhaps one variable that is not theirs."""

    name: str
    node: str
    service: str
    settings: Mapping[str, str]
    mutant: SettingMutant | None = None

    @property
    def container(self) -> str:
        return f"{PROJECT}-{self.name}-1"


def try_settings(mutants: Sequence[SettingMutant], folder: Path) -> list[list[Finding]]:
    """The findings of each mutant of one service. Raises CellFailed if a trial proves nothing."""
    node, service = mutants[0].node, mutants[0].service
    own = folder / "settings"
    own.mkdir(exist_ok=True)
    tried: list[_Tried] = []
    for number, settings in enumerate(OPERATORS[node]):
        tried += [
            _Tried(f"unchanged{number}", node, service, settings),
            _Tried(f"again{number}", node, service, settings),
            *(
                _Tried(f"s{number}-{mutant.key.lower()}-{index}", node, service, settings, mutant)
                for index, mutant in enumerate(mutants)
            ),
        ]
    seen = _look_at(tried, own)
    findings: dict[SettingMutant, list[Finding]] = {mutant: [] for mutant in mutants}
    survived: set[SettingMutant] = set()
    for number in range(len(OPERATORS[node])):
        unchanged, again = seen[f"unchanged{number}"], seen[f"again{number}"]
        if isinstance(unchanged, Refused) or unchanged != again:
            raise CellFailed(f"{service}, unchanged: {unchanged} and {again}")
        for one in tried:
            if one.mutant and one.settings is OPERATORS[node][number]:
                found = list(_differences(one.mutant, unchanged, seen[one.name]))
                findings[one.mutant] += found
                if one.mutant.must_be_refused and not found and not _is_idle(one):
                    survived.add(one.mutant)
    return [[] if mutant in survived else findings[mutant] for mutant in mutants]


def _is_idle(one: _Tried) -> bool:
    """Whether the setting means nothing to this operator's service."""
    return one.mutant is not None and (
        one.mutant.key == "RESOLVER" and "TELEGRAM_ADDRESSES" in one.settings
    )


def _differences(mutant: SettingMutant, unchanged: dict[str, Any], seen: Seen) -> Iterator[Finding]:
    if isinstance(seen, Refused):
        names = f"{mutant.key}|{INSTEAD.get(mutant.key, mutant.key)}"
        is_named = re.search(rf"\b({names})\b", seen.sentence)
        if not is_named and not mutant.is_other_end:  # that lacks what goes with the other end
            raise CellFailed(f"{mutant.name}: refused without naming it: {seen.sentence}")
        yield Finding("its settings are refused", seen.sentence.splitlines()[0])
    elif not mutant.must_be_refused:
        for about, value in unchanged.items():
            if seen.get(about) != value:
                yield Finding(f"it works with other settings: {about}", str(seen.get(about)))


def _look_at(tried: Sequence[_Tried], folder: Path) -> dict[str, Seen]:
    """Start all of them at once, and look at each as soon as it works or has ended."""
    parts = [_service(one, folder) for one in tried]
    networks = {name: {"name": full(name), "external": True} for name in NETWORKS}
    whole: Config = {"name": PROJECT, "networks": networks}
    for kind in ("services", "volumes", "secrets"):
        whole[kind] = {name: keys for part in parts for name, keys in part[kind].items()}
    file = folder / "settings.json"
    file.write_text(json.dumps(whole), encoding="utf-8")
    try:
        docker("compose", "-f", str(file), "up", "-d", "--no-build", "--pull=never")
        with ThreadPoolExecutor(4) as pool:
            return dict(zip((one.name for one in tried), pool.map(_seen, tried), strict=True))
    finally:
        remove_cells()


def _service(one: _Tried, folder: Path) -> Config:
    """A Compose file of one service alone, with the place that an uplink needs beside it."""
    node = folder / f"{one.node}-{OPERATORS[one.node].index(dict(one.settings))}"
    config = _configuration(one, node)
    service = copy.deepcopy(config["services"][one.service])
    for key in ("build", "depends_on", "deploy", "ports", "restart"):
        service.pop(key, None)
    service["labels"] = {"lab": PROJECT}
    service["healthcheck"] = {"disable": True}
    if one.mutant and one.mutant.value is None:
        service["environment"].pop(one.mutant.key)
    elif one.mutant:
        service["environment"][one.mutant.key] = one.mutant.value
    services = {one.name: service}
    holders = [f"service:{name}" for name in HOLDERS]
    if service.get("network_mode") in holders:
        service["network_mode"] = "none"
        service["sysctls"] = {"net.ipv4.ip_nonlocal_bind": "1"}  # as the holder has it
    if service.get("pid") in holders:
        holder = f"{one.name}-holder"
        service["pid"] = f"service:{holder}"
        service["depends_on"] = {holder: {"condition": "service_started"}}
        services[holder] = {
            "image": PEER,
            "entrypoint": ["sleep", "999"],
            "network_mode": "none",
            "cap_drop": ["ALL"],  # as the real one, whose /proc the uplink may read
            "labels": {"lab": PROJECT},
        }
    volumes = {}
    for mount in service.get("volumes", []):
        if mount["type"] == "volume":
            volume = copy.deepcopy(config["volumes"].get(mount["source"]) or {})
            volume.pop("name", None)
            mount["source"] = f"{one.name}-{mount['source']}"
            volumes[mount["source"]] = volume
    given = {}
    for secret in service.get("secrets", []):
        name = f"{one.node}-{secret['source']}"
        given[name] = {"file": config["secrets"][secret["source"]]["file"]}
        secret["source"] = name
    return {"services": services, "volumes": volumes, "secrets": given}


def _configuration(one: _Tried, folder: Path) -> Config:
    """The node's file with one operator's settings; made once per folder."""
    kept = folder / "configuration.json"
    if not kept.exists():
        folder.mkdir(exist_ok=True)
        config = configuration(one.node, folder, one.settings)
        _write_secrets(folder / one.node)
        kept.write_text(json.dumps(config), encoding="utf-8")
    return dict(json.loads(kept.read_text(encoding="utf-8")))


def _write_secrets(folder: Path) -> None:
    texts = {
        "bot_token": "123456:" + "A" * 35,
        "link_token": "L" * 43,
        "store_key": "0" * 64,
        "telegram_ca": Path("/etc/ssl/certs/ca-certificates.crt").read_text(encoding="utf-8"),
        **{
            name: base64.b64encode(secrets.token_bytes(32)).decode()
            for name in SECRETS
            if name.endswith(("private_key", "preshared_key"))
        },
    }
    for name, text in texts.items():
        (folder / name).chmod(0o644)
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o444)


def _seen(one: _Tried) -> Seen:
    """What a service works with, or its refusal."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended = docker("inspect", "-f", "{{.State.Status}}", one.container).strip() == "exited"
        said = _said(one)
        if STARTED[one.service] in said:
            return dict(LOOKS[one.service](one, said))
        if ended:
            return Refused(said.strip())
        time.sleep(0.2)
    raise CellFailed(f"{one.name}: it neither works nor ends: {said[-300:]}")


def _said(one: _Tried) -> str:
    """Both streams: a refusal goes to the other one."""
    command = ["docker", "logs", one.container]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    ).stdout


def _own_words(one: _Tried, said: str) -> Iterator[tuple[str, Any]]:
    line = next(line for line in said.splitlines() if STARTED[one.service] in line)
    yield from json.loads(line)["settings"].items()


def _rules(one: _Tried) -> str:
    return docker("exec", one.container, "nft", "--stateless", "--terse", "list", "ruleset")


def _forwarder(one: _Tried, said: str) -> Iterator[tuple[str, Any]]:
    yield "rules", _rules(one)
    yield "words", next(line for line in said.splitlines() if STARTED["egress"] in line)


def _holder(one: _Tried, said: str) -> Iterator[tuple[str, Any]]:
    """Given a device in the tunnel's place, it says by what it does how the tunnel is to be."""
    del said
    yield "rules", _rules(one)
    device = ("link", "add", "wg-new", "type", "veth", "peer", "name", "other")
    docker("exec", "--privileged", one.container, "ip", *device)
    deadline = time.monotonic() + 30
    route = ""
    while not route and time.monotonic() < deadline:
        route = docker("exec", one.container, "ip", "route")
        time.sleep(0.1)
    if not route:
        raise CellFailed(f"{one.name}: the tunnel was not adopted")
    yield "route", route
    link = json.loads(docker("exec", one.container, "ip", "-json", "address", "show", "wg0"))[0]
    yield "mtu", link["mtu"]
    yield "addresses", [address["local"] for address in link["addr_info"]]


def _tunnel(one: _Tried, said: str) -> Iterator[tuple[str, Any]]:
    del said
    yield "rules", _rules(one)
    for about in ("peers", "allowed-ips", "endpoints", "persistent-keepalive"):
        shown = docker("exec", one.container, "wg", "show", "wg-new", about)
        yield about, sorted(shown.splitlines())  # several peers come in any order


def _nothing_more(one: _Tried, said: str) -> Iterator[tuple[str, Any]]:
    """It refuses to start without any of its settings."""
    del one
    yield "starts", "action=" in said


LOOKS = {
    "wireguard": _holder,
    "uplink": _tunnel,
    "egress": _forwarder,
    "relay": _own_words,
    "gateway": _own_words,
    "workers": _holder,
    "workers-uplink": _tunnel,
    "router": _nothing_more,
    "door": _nothing_more,
}
