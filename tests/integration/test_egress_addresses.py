"""Where the egress finds its Bot API server: by name, at fixed addresses, at one's own."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from python_on_whales import Container, DockerClient

from tests.integration.lab import (
    PEER,
    ROOT,
    VERSION,
    Lab,
    attempt,
    require,
    wait_until,
    wait_until_healthy,
)
from tests.integration.ways import (
    HOST,
    LISTENER,
    RELAY_USER,
    RESOLVER,
    Way,
    log_of,
    make_certificates,
    start_way,
)

SUBNET = "198.18.86"
TELEGRAM, STRANGER, OWN, NOBODY = (f"{SUBNET}.{number}" for number in (20, 22, 30, 19))
RELAY = f"node/relay:{VERSION}"


@pytest.fixture(scope="module")
def lab(docker: DockerClient) -> Iterator[Lab]:
    with Lab(docker, "edges-addresses", SUBNET) as lab:
        yield lab


@pytest.fixture(scope="module")
def telegram(lab: Lab) -> Container:
    return lab.run("telegram", PEER, LISTENER, address=20, hardened=False)


@pytest.fixture(scope="module")
def stranger(lab: Lab) -> Container:
    return lab.run("stranger", PEER, LISTENER, address=22, hardened=False)


@pytest.fixture(scope="module")
def resolver(lab: Lab) -> Container:
    records = [f"--host-record={HOST},{TELEGRAM}"]
    return lab.run("resolver", PEER, [*RESOLVER, *records], address=53, hardened=False)


# Fixed addresses


def test_fixed_addresses_need_no_name_server(
    lab: Lab, telegram: Container, resolver: Container
) -> None:
    """Calls pass, over one that is dead as well, and not one DNS packet leaves; a name asks."""
    common = {"RESOLVER": f"{SUBNET}.53", "TELEGRAM_NETWORKS": f"{SUBNET}.0/24"}
    fixed = start_way(lab, "fixed", 40, common | {"TELEGRAM_ADDRESSES": f"{NOBODY}, {TELEGRAM}"})
    named = start_way(lab, "named", 41, common)
    captures = [capture_dns(lab, way, name) for way, name in ((fixed, "fixed"), (named, "named"))]
    served = [wait_until_served(way) for way in (fixed, named)]

    answers = [fixed.greets(f"fixed-{number}") for number in range(4)]

    assert served
    assert all(answer.was_served for answer in answers)
    # One resolution every ten seconds: the capture has seen one when this has passed.
    wait_until(lambda: HOST in log_of(captures[1]), "control: the named one asks", 15)
    assert log_of(captures[0]).count(" IP ") == 0
    asked = [line for line in log_of(resolver).splitlines() if "query[" in line]
    assert {line.split(" from ")[1] for line in asked} == {f"{SUBNET}.41"}
    assert "resolver=none" in log_of(fixed.egress)


def test_with_fixed_addresses_everything_else_is_closed(
    lab: Lab, telegram: Container, stranger: Container, resolver: Container
) -> None:
    """Root in its namespace reaches neither the name server nor a neighbour in the networks."""
    way = start_way(
        lab,
        "closed",
        42,
        {
            "RESOLVER": f"{SUBNET}.53",
            "TELEGRAM_NETWORKS": f"{SUBNET}.0/24",
            "TELEGRAM_ADDRESSES": TELEGRAM,
        },
    )
    wait_until_healthy(way.egress)
    intruder = lab.run(
        "intruder", PEER, ["sleep", "infinity"], namespace_of=way.egress, hardened=False
    )

    def reaches(address: str) -> bool:
        return attempt(
            intruder, "socat", "-u", "OPEN:/dev/null", f"TCP:{address},connect-timeout=2"
        )[0]

    assert not attempt(intruder, "python3", "/probe.py", "dns", f"{SUBNET}.53", HOST)[0]
    assert not reaches(f"{STRANGER}:443")
    assert reaches(f"{TELEGRAM}:443"), "control: the address is open"
    assert attempt(stranger, "python3", "/probe.py", "dns", f"{SUBNET}.53", HOST)[0], "control"


def capture_dns(lab: Lab, way: Way, name: str) -> Container:
    capture = lab.run(
        f"{name}-capture",
        PEER,
        ["tcpdump", "-l", "-n", "-i", "eth0", "port 53 or port 853 or port 5353"],
        namespace_of=way.egress,
        hardened=False,
    )
    wait_until(lambda: "listening on" in log_of(capture), "the capture runs", 10)
    return capture


def wait_until_served(way: Way, seconds: float = 20) -> float:
    wait_until_healthy(way.egress)
    return wait_until(lambda: way.greets("plain").was_served, "a greeting arrives", seconds)


# Name servers that misbehave


@pytest.fixture(scope="module", autouse=True)
def stories(
    lab: Lab, telegram: Container, stranger: Container
) -> Iterator[dict[str, Future[list[str]]]]:
    """Each takes some rounds of ten seconds, in which the egress asks again: beside the others."""
    tellers = {"forbidden": forbidden_answer, "silent": silence, "unknown": unknown_name}
    with ThreadPoolExecutor(len(tellers)) as pool:
        yield {name: pool.submit(tell, lab, stranger) for name, tell in tellers.items()}


@pytest.mark.parametrize("story", ["forbidden", "silent", "unknown"])
def test_name_server_that_misbehaves(stories: dict[str, Future[list[str]]], story: str) -> None:
    """Nothing is dialled that is not Telegram's; health stays; what is known or comes is used."""
    assert stories[story].result(timeout=90) == STORIES[story]


STORIES = {
    "forbidden": ["healthy", "refused", "tried", "not dialled", "control: dialled"],
    "silent": ["healthy", "refused", "served when it speaks", "served when it is silent again"],
    "unknown": ["healthy", "refused", "served when it is known", "served when it is unknown again"],
}


def forbidden_answer(lab: Lab, stranger: Container) -> list[str]:
    """The name leads to a stranger, beyond the networks; then once more within them."""
    records = [f"--host-record={HOST},{STRANGER}"]
    lab.run("lying-resolver", PEER, [*RESOLVER, *records], address=54, hardened=False)
    settings = {"RESOLVER": f"{SUBNET}.54", "TELEGRAM_NETWORKS": f"{TELEGRAM}/32"}
    way = start_way(lab, "misled", 44, settings)
    told = told_of_refusal(way, "misled")

    def refusals() -> int:
        counters = attempt(way.egress, "nft", "list", "counter", "inet", "node", "refused_out")[1]
        return int(counters.split("packets ")[1].split()[0])

    wait_until(lambda: not way.greets("misled").was_served and refusals() > 0, "it tries", 15)
    told.append("tried")
    if "tag=misled" not in log_of(stranger):
        told.append("not dialled")
    control = start_way(lab, "open", 45, settings | {"TELEGRAM_NETWORKS": f"{SUBNET}.0/24"})
    wait_until_healthy(control.egress)
    wait_until(lambda: control.greets("control").was_served, "the stranger is there", 15)
    return told + ["control: dialled"]


def silence(lab: Lab, _stranger: Container) -> list[str]:
    """The name server says nothing, then answers, then says nothing for two rounds."""
    mute = "socat -u UDP-RECV:53 OPEN:/dev/null & echo $! >/tmp/pid; sleep infinity"
    resolver = lab.run("mute-resolver", PEER, ["sh", "-c", mute], address=55, hardened=False)
    way = start_way(lab, "unheard", 46, settings_for(55))
    told = told_of_refusal(way, "unheard")
    speaks = (  # once more, until the port is free
        f"kill $(cat /tmp/pid); dnsmasq --user=root --no-resolv --no-hosts --pid-file=/tmp/pid"
        f" --host-record={HOST},{TELEGRAM}"
    )
    wait_until(lambda: attempt(resolver, "sh", "-c", speaks)[0], "it speaks", 10)
    wait_until(lambda: way.greets("plain").was_served, "served when it speaks", 30)
    told.append("served when it speaks")
    counts = "kill $(cat /tmp/pid); (socat -u UDP-RECV:53,reuseaddr OPEN:/tmp/heard,creat,append &)"
    assert attempt(resolver, "sh", "-c", counts)[0]
    # Two rounds of four queries each: what it knew has stood longer than `hold valid`.
    wait_until(lambda: queries(resolver) >= 8, "it asks in vain, twice", 60)
    if way.greets("plain").was_served:
        told.append("served when it is silent again")
    return told


def queries(resolver: Container) -> int:
    """How often the name was asked for while nobody answered."""
    script = "print(open('/tmp/heard', 'rb').read().count(b'telegram'))"
    return int(attempt(resolver, "python3", "-c", script)[1])


def unknown_name(lab: Lab, _stranger: Container) -> list[str]:
    """The name does not exist, then it does, then it does not for two rounds."""
    nobody = (
        f"mkdir /tmp/hosts; exec {' '.join(RESOLVER)}"
        " --address=/#/ --hostsdir=/tmp/hosts --local-ttl=1"
    )
    resolver = lab.run("empty-resolver", PEER, ["sh", "-c", nobody], address=56, hardened=False)
    way = start_way(lab, "unnamed", 47, settings_for(56))
    told = told_of_refusal(way, "unnamed")
    assert attempt(resolver, "sh", "-c", f"echo {TELEGRAM} {HOST} >/tmp/hosts/telegram")[0]
    wait_until(lambda: way.greets("plain").was_served, "served when it is known", 30)
    told.append("served when it is known")
    assert attempt(resolver, "sh", "-c", ": >/tmp/hosts/telegram; kill -HUP 1")[0]
    before = log_of(resolver).count("NXDOMAIN")
    wait_until(lambda: log_of(resolver).count("NXDOMAIN") >= before + 2, "it is told, twice", 40)
    if way.greets("plain").was_served:
        told.append("served when it is unknown again")
    return told


def settings_for(resolver: int) -> dict[str, str]:
    return {"RESOLVER": f"{SUBNET}.{resolver}", "TELEGRAM_NETWORKS": f"{SUBNET}.0/24"}


def told_of_refusal(way: Way, tag: str) -> list[str]:
    wait_until_healthy(way.egress)
    answer = way.greets(tag)
    return ["healthy"] + ["refused"] * (answer.answer == "" and answer.seconds < 16)


# A Bot API server of one's own


def test_bot_api_server_of_ones_own(lab: Lab, tmp_path: Path) -> None:
    """Name, port, address and authority are settings; the relay's own client gets through."""
    certificates = make_certificates(tmp_path, "bot.example.org")
    server = lab.run(
        "own",
        PEER,
        ["python3", "/probe.py", "bot-api", "8443", "/certificates/telegram.pem"],
        address=30,
        volumes=[(str(certificates), "/certificates", "ro")],
        hardened=False,
    )
    settings = {
        "TELEGRAM_HOST": "bot.example.org",
        "TELEGRAM_PORT": "8443",
        "TELEGRAM_ADDRESSES": OWN,
        "TELEGRAM_CA_FILE": str(certificates / "authority.pem"),
    }
    services = as_composed(tmp_path, settings)
    environment = {**services["egress"]["environment"], "RESOLVER": ""}
    way = start_way(lab, "own-egress", 48, environment)
    wait_until_healthy(way.egress)
    wait_until(lambda: "listening" in log_of(server), "the server listens", 10)

    trusted = ask_who_i_am(lab, way, services["relay"], tmp_path, certificates)
    without = as_composed(tmp_path, settings | {"TELEGRAM_CA_FILE": ""})
    untrusted = ask_who_i_am(lab, way, without["relay"], tmp_path, certificates)

    assert trusted == (0, "own")
    assert "asked host=bot.example.org:8443" in log_of(server)
    assert untrusted[0] != 0, "control: its authority is not among the public ones"
    assert log_of(server).count("asked") == 1


def as_composed(folder: Path, settings: dict[str, str]) -> dict[str, Any]:
    """The services as the Compose file makes them of an operator's .env."""
    required = {"ALLOWED_USERS": "1", "TUNNEL_PEER_KEY": "unused"}
    env_file = folder / "env"
    lines = [f"{name}={value}\n" for name, value in (required | settings).items()]
    env_file.write_text("".join(lines), encoding="utf-8")
    shown = subprocess.run(
        ["docker", "compose", "--env-file", str(env_file), "-f", "compose.vps.yml"]
        + ["config", "--format", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    composed = json.loads(shown.stdout)
    assert composed["secrets"]["telegram_ca"]["file"] == (
        settings["TELEGRAM_CA_FILE"] or "/dev/null"
    )
    return dict(composed["services"])


ASK = """
import asyncio, os
from pathlib import Path
from services.relay.settings import RelaySettings
from services.relay.telegram import GetRawMe, open_bot
from services.settings import read_settings

async def main():
    s = read_settings(RelaySettings, os.environ, Path("/tmp/secrets"))
    bot = open_bot(s.bot_token, s.telegram_api, s.telegram_socket, s.telegram_ca_file)
    try:
        print((await bot(GetRawMe()))["username"])
    finally:
        await bot.session.close()

asyncio.run(main())
"""


def ask_who_i_am(
    lab: Lab, way: Way, relay: dict[str, Any], folder: Path, certificates: Path
) -> tuple[int, str]:
    """Run the relay's settings and client, in its image, with its environment."""
    require(RELAY)
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "bot_token").write_text("123456:" + "A" * 35, encoding="ascii")
    (secrets / "link_token").write_text("L" * 43, encoding="ascii")
    volume = next(mount for mount in way.relay.mounts if str(mount.destination) == "/run/egress")
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--user", RELAY_USER, "--label", lab.label]
        + ["--read-only", "--cap-drop", "ALL", "--entrypoint", "python3"]
        + [
            word
            for name, value in relay["environment"].items()
            for word in ("-e", f"{name}={value}")
        ]
        + ["-v", f"{volume.name}:/run/egress:ro", "-v", f"{secrets}:/tmp/secrets:ro"]
        + ["-v", f"{certificates}/authority.pem:/run/secrets/telegram_ca:ro", RELAY, "-c", ASK],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout.strip()
