"""A second hop: a provider's file becomes settings and secrets, and the doctor looks at it."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest

from scripts.doctor.census import CHECK as NAMESPACES
from scripts.doctor.model.hop import CHECK
from scripts.hop import BadProvider, read_provider
from scripts.keys import public_key_of
from scripts.node import arguments
from scripts.node.arguments import node_of
from scripts.node.node import Container
from scripts.node.rules import devices
from tests.unit.adyton.recorded import NOW, Nodes, Recorded
from tests.unit.adyton.test_init import Operator, operator
from tests.unit.adyton.test_status import World, told

__all__ = ["operator"]

OWN = "compose.gpu.yml"
PRIVATE, SERVER, SHARED = (
    "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=",
    "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
    "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
)
FILE = f"""\
# Device: Sly Fox
[Interface]
PrivateKey = {PRIVATE}
Address = 10.64.12.3/32, fc00:bbbb::3/128
DNS = 10.64.0.1

[Peer]
PublicKey = {SERVER}
AllowedIPs = 0.0.0.0/0,::0/0
Endpoint = 198.18.3.4:51820
"""


def test_file_becomes_settings_and_secrets() -> None:
    """Keys are apart from what anybody may read; the tunnel inside is 60 bytes narrower."""
    settings, secrets = read_provider(FILE)

    assert settings == {
        "HOP_ENDPOINT": "198.18.3.4:51820",
        "HOP_PEER_KEY": SERVER,
        "HOP_ADDRESS": "10.64.12.3",
        "HOP_MTU": "1420",
        "TUNNEL_MTU": "1360",
    }
    assert secrets == {"hop_private_key": PRIVATE, "hop_preshared_key": ""}


def test_what_else_the_file_may_say() -> None:
    """A preshared key, a packet size, several lines of one name, any case."""
    text = FILE.replace("DNS = 10.64.0.1", "MTU=1380").replace(
        "Address =", "address=fd00::9/128\nADDRESS ="
    )
    settings, secrets = read_provider(text + f"PresharedKey = {SHARED}\n")

    assert (settings["HOP_MTU"], settings["TUNNEL_MTU"]) == ("1380", "1320")
    assert settings["HOP_ADDRESS"] == "10.64.12.3"
    assert secrets["hop_preshared_key"] == SHARED


@pytest.mark.parametrize(
    ("line", "instead", "why"),
    [
        (f"PrivateKey = {PRIVATE}", "", "PrivateKey must be"),
        (f"PrivateKey = {PRIVATE}", "PrivateKey = c2hvcnQ=", "PrivateKey must be"),
        (f"PublicKey = {SERVER}", "PublicKey = no key", "PublicKey must be"),
        (f"PublicKey = {SERVER}", f"PublicKey = {public_key_of(PRIVATE)}", "file's own"),
        ("Endpoint = 198.18.3.4:51820", "", "Endpoint must be an IPv4 address"),
        ("198.18.3.4:51820", "wg.example.org:51820", "Endpoint must be an IPv4 address"),
        ("198.18.3.4:51820", "198.18.3.4", "Endpoint must be an IPv4 address"),
        ("198.18.3.4:51820", "198.18.3.4:99999", "Endpoint must be an IPv4 address"),
        ("198.18.3.4:51820", "127.0.0.1:51820", "Endpoint must be an IPv4 address"),
        ("10.64.12.3/32, ", "", "Address must hold an IPv4 address"),
        ("DNS = 10.64.0.1", "MTU = 1300", "MTU must be a number of bytes between 1340"),
        ("[Peer]", "[Pear]", "one .Interface. and one .Peer."),
        ("# Device: Sly Fox", "[Peer]", "one .Interface. and one .Peer."),
    ],
)
def test_bad_files_are_refused_with_what_would_do(line: str, instead: str, why: str) -> None:
    """And what they hold is not repeated."""
    assert line in FILE

    with pytest.raises(BadProvider, match=why) as refused:
        read_provider(FILE.replace(line, instead))

    assert PRIVATE not in str(refused.value)


def test_bundle_has_the_hop(operator: Operator, tmp_path: Path) -> None:
    """Settings, secrets and the further Compose file, on the model node alone; it is kept."""
    file = tmp_path / "provider.conf"
    file.write_text(FILE, encoding="utf-8")
    assert operator.init_all("--hop", str(file)) == 0
    file.unlink()

    for again in ((), ("--rotate",)):
        assert operator.init(*again) == 0
        settings = operator.settings("model")
        assert settings["COMPOSE_FILE"] == "compose.gpu.yml:compose.gpu.hop.yml"
        assert settings["HOP_ENDPOINT"] == "198.18.3.4:51820"
        assert settings["TUNNEL_MTU"] == "1360"
        assert operator.text("model", "secrets/hop_private_key") == PRIVATE
        assert operator.text("model", "secrets/hop_preshared_key") == ""
        assert operator.bundle("model")["opt/model/secrets/hop_private_key"].mode == 0o400
        assert "hop" in operator.text("model", "compose.gpu.hop.yml")
        assert not any("hop" in name for name in operator.bundle("relay"))
        assert PRIVATE not in operator.text("model", ".env")


def test_logs_go_to_the_journal_with_and_without_a_hop(operator: Operator, tmp_path: Path) -> None:
    """What `logs seal` writes into .env is in later bundles; `files` takes it back."""
    assert operator.init_all("--logs", "journal") == 0
    assert operator.init("--rotate") == 0
    assert operator.settings("relay")["COMPOSE_FILE"] == "compose.vps.yml:compose.vps.journal.yml"
    assert operator.settings("model")["COMPOSE_FILE"] == "compose.gpu.yml:compose.gpu.journal.yml"

    file = tmp_path / "provider.conf"
    file.write_text(FILE, encoding="utf-8")
    assert operator.init("--hop", str(file)) == 0

    assert operator.settings("model")["COMPOSE_FILE"] == (
        "compose.gpu.yml:compose.gpu.hop.yml:compose.gpu.journal.yml:compose.gpu.hop.journal.yml"
    )
    assert operator.init("--hop", "none", "--logs", "files") == 0
    assert operator.settings("model")["COMPOSE_FILE"] == "compose.gpu.yml"
    assert operator.settings("relay")["COMPOSE_FILE"] == "compose.vps.yml"


def test_hop_can_be_taken_back(operator: Operator, tmp_path: Path) -> None:
    """With `none`; the node is then as if there had never been one."""
    file = tmp_path / "provider.conf"
    file.write_text(FILE, encoding="utf-8")
    operator.init_all()
    before = operator.files()["model.tar"]

    assert operator.init("--hop", str(file)) == 0
    assert operator.files()["model.tar"] != before
    assert operator.init("--hop", "none") == 0

    assert operator.files()["model.tar"] == before


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_init_refuses_a_bad_file(
    operator: Operator, tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """And leaves everything as it is."""
    file = tmp_path / "provider.conf"
    if content:
        file.write_text(content, encoding="utf-8")

    assert operator.init_all("--hop", str(file)) == 1

    assert f"--hop {file}: " in capsys.readouterr().err
    assert not operator.out.exists()


# Looking at it


@pytest.mark.parametrize(
    ("hop", "uplink", "problems"),
    [
        ("rules=standing\ncarrier=userspace\nhandshake_age_seconds=9\n", "rules=standing\n", set()),
        ("rules=standing\ncarrier=elsewhere\n", "rules=x\nhop_handshake_age_seconds=9\n", set()),
        (
            "rules=standing\nhandshake_age_seconds=never\n",
            "rules=standing\n",
            {"hop-unheard"},
        ),
        ("rules=standing\nhandshake_age_seconds=900\n", "rules=standing\n", {"hop-unheard"}),
        ("rules=standing\ncarrier=elsewhere\n", "rules=standing\n", {"hop-unheard"}),
    ],
)
def test_doctor_hears_the_provider(
    tmp_path: Path, hop: str, uplink: str, problems: set[str]
) -> None:
    """By the process that carries it, or by the uplink where the kernel does."""
    nodes = Nodes(tmp_path, "model")
    for service in ("uplink", "hop"):
        nodes.add(service)
    nodes.tools.answers |= {
        "docker exec id-of-hop status": hop,
        "docker exec id-of-uplink status": uplink,
    }

    assert nodes.problems(CHECK) == problems


def test_doctor_sees_a_hop_that_is_down_or_none(tmp_path: Path) -> None:
    """None is no problem."""
    nodes = Nodes(tmp_path, "model")
    assert nodes.problems(CHECK) == set()

    nodes.add("hop", Status="exited")

    assert nodes.problems(CHECK) == {"hop-down"}


@pytest.mark.parametrize(
    ("names", "problems"),
    [
        (["lo", "wg-hop"], set()),
        (["lo", "hop-new", "wg-new"], set()),
        (["lo", "eth0", "wg-hop"], {"interface-too-many"}),
        (["lo", "wg0"], {"interface-too-many"}),
    ],
)
def test_uplink_behind_a_hop_sees_nothing_else(
    tmp_path: Path, names: list[str], problems: set[str]
) -> None:
    """A bridge beside the hop would be the way around it."""
    nodes = Nodes(tmp_path, "model")
    nodes.add("uplink")
    lines = "".join(f"{name}: 0\n" for name in names)
    nodes.tools.answers["docker exec id-of-uplink cat /proc/self/net/dev"] = f"a\nb\n{lines}"

    assert nodes.problems(NAMESPACES) == problems


@pytest.mark.parametrize(
    ("names", "expected"), [("lo", 'device "lo"'), ("lo wg-hop hop-new", 'device "wg-hop"')]
)
def test_rules_at_the_wire_are_compared_by_what_is_there(
    tmp_path: Path, names: str, expected: str
) -> None:
    """Loopback stands for a hop that has not come yet, as the entrypoint has it."""
    world = World(tmp_path, "model")
    node = world.looker().node
    uplink = node.running["uplink"]
    lines = "".join(f"{name}: 0\n" for name in names.split())
    world.tools.write("proc/12/net/dev", f"a\nb\n{lines}")

    assert devices(node, uplink) == expected


def test_status_shows_the_hop(tmp_path: Path) -> None:
    """When the provider was heard, as old as that is by now."""
    world = World(tmp_path, "model")
    container: Container | dict[str, object] = world.add("hop", Pid=15)
    assert container
    world.containers[-1]["HostConfig"]["Memory"] = 0
    world.services["hop"]["environment"] = {"HOP_ENDPOINT": "198.18.3.4:51820"}
    world.tools.answers["docker exec id-of-hop status"] = "rules=x\nhandshake_age_seconds=9\n"
    looker = world.looker()
    looker.look()
    world.tools.time = NOW + 5

    assert told(looker.look(), "hop") == {
        "handshake_age_seconds": 14,
        "endpoint": "198.18.3.4:51820",
    }


@pytest.mark.parametrize(
    ("env", "files"),
    [
        ("COMPOSE_FILE=compose.gpu.yml:compose.gpu.hop.yml\n", [OWN, "compose.gpu.hop.yml"]),
        ("A=b\n", [OWN]),
        ("COMPOSE_FILE=other.yml\n", [OWN]),
        (None, [OWN]),
    ],
)
def test_node_is_looked_at_with_the_files_that_it_runs_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: str | None, files: list[str]
) -> None:
    """Those of COMPOSE_FILE, as Compose itself takes them."""
    monkeypatch.setattr(arguments, "ROOT", tmp_path)
    if env is not None:
        (tmp_path / ".env").write_text(env, encoding="utf-8")
    parser = argparse.ArgumentParser()
    arguments.add_node_arguments(parser)

    node = node_of(parser.parse_args(["--node", "model"]), Recorded(tmp_path))

    assert list(node.files) == [tmp_path / file for file in files]


# The scripts in the container

WIREGUARD = Path(__file__).resolve().parents[3] / "wireguard"


def run(folder: Path, script: str, commands: str) -> list[str]:
    """Run commands among a script's functions; what was called, and what rules loaded."""
    for name in ("ip", "wg"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{folder}/called\n', "utf-8")
        (folder / name).chmod(0o755)
    text = (WIREGUARD / script).read_text(encoding="utf-8")
    functions = text.replace("/usr/local/lib/node", str(WIREGUARD)).removesuffix('main "$@"\n')
    functions += f'load_rules() {{ echo load "$@" >>{folder}/called; }}\n'
    done = subprocess.run(
        ["bash", "-c", functions + commands],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    called = folder / "called"
    return called.read_text(encoding="utf-8").splitlines() if called.exists() else []


@pytest.mark.parametrize(("home", "is_handed"), [("uplink", True), ("self", False), ("1", False)])
def test_interface_is_handed_to_no_namespace_but_the_uplinks(
    tmp_path: Path, home: str, is_handed: bool
) -> None:
    """Neither to the hop's own nor to the holder's, whoever has the process id by now."""
    for name in ("uplink", "self", "1"):
        (tmp_path / "proc" / name / "ns").mkdir(parents=True)
        (tmp_path / "proc" / name / "ns/net").touch()
    (tmp_path / "proc/uplink/ns/net").unlink()
    if home == "uplink":
        (tmp_path / "proc/uplink/ns/net").touch()
    else:
        (tmp_path / "proc/uplink/ns/net").hardlink_to(tmp_path / "proc" / home / "ns/net")
    function = "$(declare -f hand_over_hop | sed 's,/proc/\\([a-z1$]*\\)/ns,proc/\\1/ns,g')"

    called = run(
        tmp_path, "hop", f'cd {tmp_path}; eval "{function}"; uplink=uplink; hand_over_hop || true'
    )

    assert [it.partition("/fd/")[0] for it in called] == (
        ["ip link set hop-new netns /proc/self"] if is_handed else []
    )


def test_interface_of_an_uplink_that_is_gone_stays(tmp_path: Path) -> None:
    """The hop tries again."""
    assert run(tmp_path, "hop", "uplink=999999999; ! hand_over_hop 2>/dev/null") == []


def test_rules_of_an_uplink_whose_hop_has_not_come(tmp_path: Path) -> None:
    """They stand from the first moment, by address and by the interface's name."""
    settings = "HOP_ADDRESS=10.64.12.3 TUNNEL_END=dial TUNNEL_ENDPOINT=198.18.6.10:51820"

    (call,) = run(tmp_path, "uplink", f"export {settings}; load_rules_of_end")

    rules = f"{WIREGUARD}/rules/uplink-hop.nft"
    variables = 'outside={ "lo" } address=10.64.12.3 endpoint=198.18.6.10 port=51820'
    assert call == f"load {rules} {variables}"


def test_key_encrypts_for_the_other_node_alone(tmp_path: Path) -> None:
    """Whatever AllowedIPs the provider names; and the keys are given by their files."""
    settings = "HOP_ENDPOINT=198.18.3.4:51820 HOP_PEER_KEY=key TUNNEL_ENDPOINT=198.18.6.10:51820"

    (call,) = run(tmp_path, "hop", f"export {settings}; configure_hop")

    assert "allowed-ips 198.18.6.10/32 " in call
    assert "private-key /run/secrets/hop_private_key" in call
    assert "preshared-key" not in call
