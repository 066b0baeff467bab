"""The rules of `init` for settings are those of the services that read them, value by value."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from scripts.bundle import MODEL, RELAY, WORKER, Bundle, defaults
from scripts.values import PICTURE_TOKENS, RULES, refusals
from services.gateway import pictures
from services.gateway.settings import GatewaySettings
from services.relay.settings import RelaySettings
from services.settings import BadSetting, Settings, read_settings

ROOT = Path(__file__).resolve().parents[3]
BUNDLES: dict[str, Bundle] = {"relay": RELAY, "model": MODEL, "worker": WORKER}
FIXED = {
    "relay": {"LINK_ADDRESS": "10.66.0.2", "ALLOWED_USERS": "11"},
    # As Compose gives them: what a service assumes by itself is not checked by it.
    "model": {
        "LISTEN_ADDRESS": "10.66.0.2",
        "ALLOWED_USERS": "11,22",
        "CONTEXT_TOKENS": "8192",
        "ANSWER_TOKENS": "1024",
        "PICTURES": "0",
    },
}
KINDS: dict[str, type[Settings]] = {"relay": RelaySettings, "model": GatewaySettings}
LOCAL = {"SECRETS", "ENV_FILE", "COMPOSE_FILE"}

NUMBERS = [
    *("0", "1", "2", "15", "16", "17", "20", "21", "255", "256", "1023", "1024", "1025", "3600"),
    *("3601", "9999", "10000", "10001", "36500", "36501", "65535", "65536", "100000", "100001"),
    *("1000000", "1000001", "10000000", "10000001", "20000000", "20000001", "999999999"),
    *("1000000000", "-1", "+1", "1.0", "1e3", "007", "1_000", " 1", "1 ", "0x10", "١", "²"),
]
WORDS = [
    *("on", "off", "On", "maybe", "true", "DEBUG", "debug", "INFO", "WARN", "WARNING", "ERROR"),
    *("0.5", "2", "2.0", "2.1", "10", ".5", "1.", "nan", "a" * 64, "a" * 65, "a" * 120, "a" * 121),
    *("a" * 512, "a" * 513, " " + "a" * 64 + " ", "я" * 64, "я" * 65),
    *("11", "11,22", "11, 22,", ",", "0", "011", "11;22", "11 22", "x", "1" * 16, "1" * 17),
    *("0a" * 16, "0A" * 16, "0a" * 15, "11,33"),
    *("11:2", "11:0", "11:0.5", "11:0.0", "11:2,22:3", "11:2.5", "11:99999", "11:9999.9", "11:"),
    *("{}", "[]", "null", "{", '{"a": "b"}', '{"a": 1}', '{"a": ""}', '{"": "b"}', '"x"', "1"),
    *(json.dumps({name: "b"}) for name in ("a" * 32, "a" * 33, "я" * 16, "я" * 17)),
    '{"a": "\\ud800"}',
    *(json.dumps({str(n): "x" for n in range(count)}) for count in (10, 11, 20, 21)),
]


def refused(node: str, settings: Mapping[str, str]) -> bool:
    return bool(list(refusals(node, settings, defaults(BUNDLES[node]))))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    for name, value in {
        "bot_token": "123456789:" + "A" * 35,
        "link_token": "a" * 64,
        "store_key": "0" * 64,
    }.items():
        (folder / name).write_text(value)
    return folder


@pytest.mark.parametrize("node", ["relay", "model", "worker"])
def test_every_setting_has_its_rule(node: str) -> None:
    """A new one needs a line in scripts/values.py; `anything` where its service takes anything."""
    rules = RULES[node][0]

    assert set(defaults(BUNDLES[node])) - LOCAL == set(rules)


@pytest.mark.parametrize("node", ["relay", "model"])
def test_services_refuse_the_same_values(node: str, secrets: Path) -> None:
    """Each setting of the service, alone, with many odd values.

    The tunnel is stricter about LINK_PORT, ADMINS is a question of `init`'s own, and whether
    there is a file can be seen on the node alone.
    """
    kind = KINDS[node]
    names = {name.upper() for name in kind.model_fields} & set(RULES[node][0])
    disagreed, taken, not_taken = [], 0, 0
    for name in sorted(names - {"LINK_PORT", "ADMINS", "TELEGRAM_CA_FILE"}):
        for value in [*NUMBERS, *WORDS]:
            try:
                read_settings(kind, FIXED[node] | {name: value}, secrets)
                service_refuses = False
            except BadSetting:
                service_refuses = True
            if service_refuses != refused(node, {name: value}):
                disagreed.append((name, value, service_refuses))
            taken, not_taken = taken + (not service_refuses), not_taken + service_refuses

    assert disagreed == []
    assert min(taken, not_taken) > 50, "control"


@pytest.mark.parametrize("context", [256, 2048, 4096, 8192, 9000, 30000])
@pytest.mark.parametrize("answer", [16, 128, 129, 1024, 4096, 4097])
def test_services_refuse_the_same_combinations(context: int, answer: int, secrets: Path) -> None:
    """Context, answer and pictures have to fit each other."""
    assert pictures.PICTURE_TOKENS == PICTURE_TOKENS
    for count in (0, 1, 2, 3, 4, 8, 14, 15, 20):
        given = {
            "CONTEXT_TOKENS": str(context),
            "ANSWER_TOKENS": str(answer),
            "PICTURES": str(count),
        }
        try:
            read_settings(GatewaySettings, FIXED["model"] | given, secrets)
            service_refuses = False
        except BadSetting:
            service_refuses = True
        assert refused("model", given) == service_refuses, given


ADDRESSES = [
    *("9.9.9.9", "0.0.0.0", "127.0.0.1", "224.0.0.1", "223.255.255.255", "256.1.1.1", "1.2.3"),
    *("1.2.3.4.5", "01.2.3.4", "dns", "10.66.0.1", " 9.9.9.9", "::1"),
]
KEYS = ["A" * 43 + "=", "A" * 42 + "B=", "A" * 44, "A" * 42 + "E=", "wg", "/+" * 21 + "8="]
NETWORKS = [
    *("149.154.160.0/20", "149.154.160.0/20,91.108.4.0/22", "10.0.0.0/7", "10.0.0.0/8", "1.2.3.4"),
    *("1.2.3.4/32", "1.2.3.4/33", "1.2.3.4/", "127.0.0.0/8", ",", "10.0.0.0/8, 11.0.0.0/8", "x/8"),
]
SHELL = {
    "TUNNEL_MTU": (*NUMBERS, "1279", "1280", "1420", "9000", "9001"),
    "LINK_PORT": (*NUMBERS, "8080"),
    "TUNNEL_PORT": (*NUMBERS, "51820"),
    "TUNNEL_ADDRESS": ADDRESSES,
    "TUNNEL_PEER_ADDRESS": ADDRESSES,
    "TUNNEL_PEER_KEY": KEYS,
}
SHELL_CHECKS = {
    "TUNNEL_MTU": "require_number TUNNEL_MTU 1280 9000 x",
    "LINK_PORT": "require_port LINK_PORT",
    "TUNNEL_PORT": "require_port TUNNEL_PORT",
    "TUNNEL_ADDRESS": "require_destination TUNNEL_ADDRESS x",
    "TUNNEL_PEER_ADDRESS": "require_destination TUNNEL_PEER_ADDRESS x",
    "TUNNEL_PEER_KEY": "require_key TUNNEL_PEER_KEY",
}


def bash_refuses(setup: str, cases: Sequence[tuple[Mapping[str, str], str]]) -> list[bool]:
    """Whether a check of the entrypoints refuses settings; one shell for all cases."""
    lines = [setup, "set +e"]
    for settings, check in cases:
        given = "; ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
        lines.append(
            f"( {given}; bad_settings=0; {check}; exit $((bad_settings > 0)) ) 2>/dev/null"
        )
        lines.append("echo $?")
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True, timeout=60
    )
    return [line != "0" for line in done.stdout.split()]


@pytest.mark.parametrize("name", SHELL)
def test_tunnel_refuses_the_same_values(name: str) -> None:
    """The containers of the tunnel check theirs in shell."""
    cases = [({name: value}, SHELL_CHECKS[name]) for value in SHELL[name]]
    source = f"source {ROOT}/wireguard/settings.sh"

    said = bash_refuses(source, cases)

    scripts = "".join((ROOT / "wireguard" / it).read_text() for it in ("sidecar", "uplink"))
    assert SHELL_CHECKS[name].removesuffix(" x") in scripts, "control: that is what they check"
    assert len(set(said)) == 2, "control"
    assert said == [refused("relay", {name: value}) for value in SHELL[name]]


def test_router_refuses_the_same_workers() -> None:
    """Init, the tunnel and the router judge the list of workers alike."""
    addresses = [*ADDRESSES, "10.67.0.1", "10.67.0.2"]
    pairs = [f"{address}={key}" for address in addresses for key in KEYS]
    many = [f"10.67.1.{number}={'A' * 40}{number:02}E=" for number in range(1, 18)]
    lists = [
        *pairs, ",".join(many[:2]), ", ".join(many[:15]), ",".join(many[:16]), ",", "x",
        f"{many[0]},{many[0]}", f"{many[0]},10.67.1.9={many[0].partition('=')[2]}",
        f"{many[0]},10.67.1.1={many[1].partition('=')[2]}", f"{many[0]},",
    ]  # fmt: skip
    source = (ROOT / "services/router/router").read_text(encoding="utf-8")
    functions = source.replace("/usr/local/lib/node", str(ROOT / "wireguard"))
    functions = functions.removesuffix('main "$@"\n')
    fixed = {"ENGINE_SLOTS": "16", "ENGINE_PORT": "8000", "TUNNEL_ADDRESS": "10.67.0.1"}

    said = bash_refuses(
        f"refuse_bad_settings() {{ :; }}\n{functions}\nrefuse_bad_settings() {{ :; }}",
        [({**fixed, "TUNNEL_PEERS": value}, "check_router") for value in lists],
    )

    assert len(set(said)) == 2, "control"
    assert dict(zip(lists, said, strict=True)) == {
        value: refused("model", {"WORKERS": value}) for value in lists
    }


def test_egress_refuses_the_same_values() -> None:
    """It checks names, addresses and networks, also against each other."""
    hosts = ["api.telegram.org", "API.telegram.org", "bots.example.org", "x", "1.2.3.4", "a_b.org",
             "-a.org", "a." * 127 + "a", "a." * 130 + "a", "a" * 64 + ".org"]  # fmt: skip
    cases: list[dict[str, str]] = [
        *({"RESOLVER": value} for value in ADDRESSES),
        *({"TELEGRAM_PORT": value} for value in NUMBERS),
        *({"TELEGRAM_NETWORKS": value} for value in NETWORKS),
        *({"TELEGRAM_HOST": value} for value in hosts),
        *({"TELEGRAM_HOST": value, "TELEGRAM_NETWORKS": "10.0.0.0/8"} for value in hosts),
        *({"TELEGRAM_HOST": value, "TELEGRAM_ADDRESSES": "10.1.2.3"} for value in hosts),
        *({"TELEGRAM_ADDRESSES": value} for value in (
            "149.154.167.220", "149.154.167.220,149.154.167.221", "149.154.167.220 9.9.9.9",
            ",".join(["149.154.167.220"] * 4), ",".join(["149.154.167.220"] * 5),
            "9.9.9.9", "x", "127.0.0.1")),
        {"TELEGRAM_ADDRESSES": "10.1.2.3", "TELEGRAM_NETWORKS": "10.1.0.0/16"},
        {"TELEGRAM_ADDRESSES": "10.2.2.3", "TELEGRAM_NETWORKS": "10.1.0.0/16"},
    ]  # fmt: skip
    source = (ROOT / "services/egress/egress").read_text(encoding="utf-8")
    functions = source.replace("/usr/local/lib/node", str(ROOT / "wireguard"))
    functions = functions.removesuffix('main "$@"\n')
    given = [{"RESOLVER": "9.9.9.9", **case} for case in cases]

    said = bash_refuses(functions, [(case, "read_addresses; check_settings") for case in given])

    ours = [refused("relay", case) for case in cases]
    assert min(said.count(True), said.count(False)) > 20, "control"
    assert [case for case, one, other in zip(cases, said, ours, strict=True) if one != other] == []
