"""Nothing on the relay node tells what it serves: no model, no engine, no GPU, not this project.

Whoever takes the VPS apart finds a Telegram bot and a tunnel.
"""

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.pair import VERSION, Pair
from scripts.setup import compose_environment
from tests.ignorance import EVERY, STRONG, spot

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("wireguard", "uplink", "egress", "relay")
IMAGES = ("wireguard", "egress", "relay")

OWN = ("app/", "usr/local/", "etc/haproxy", "usr/share/haproxy/")
"""Where this project puts files into an image."""

ALLOWED_PATHS = {
    # Debian's own files.
    r"usr/share/zoneinfo/.*": "names of places",
    r"var/lib/dpkg/.*": "lists of the packages below",
    # Packages from the locks.
    r"opt/venv/.*/pygments/lexers/.*": "names of languages that a highlighter knows",
}


def output(*argv: str) -> bytes:
    return subprocess.run(argv, capture_output=True, check=True, cwd=ROOT).stdout


@pytest.fixture(scope="module", params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    return f"node/{request.param}:{VERSION}"


@pytest.fixture
def files(image: str) -> Iterator[tarfile.TarFile]:
    """Every file of an image, as a stream."""
    container = output("docker", "create", "--network=none", image, "true").decode().strip()
    export = subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE)
    try:
        assert export.stdout is not None
        with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
            yield archive
        export.stdout.close()
    finally:
        export.kill()
        export.wait()
        output("docker", "rm", "-f", container)


@pytest.mark.parametrize(
    "file",
    [
        "compose.vps.yml",
        ".env.vps.example",
        "wireguard/resolv.conf",
        "scripts/reconcile",
        "scripts/systemd/node@.service",
        "scripts/systemd/node-reconcile@.service",
        "scripts/systemd/node-reconcile@.timer",
        "scripts/systemd/node-seal@.service",
        "scripts/systemd/node-seal@.timer",
        "scripts/systemd/node-seal-last@.service",
    ],
)
def test_files_for_the_vps_name_nothing(file: str) -> None:
    """What is carried to the VPS."""
    assert spot(EVERY, (ROOT / file).read_bytes()) == []


def test_resolved_compose_file_names_nothing() -> None:
    """Defaults, names and labels that Compose adds."""
    resolved = subprocess.run(
        ["docker", "compose", "--env-file", ".env.vps.example", "-f", "compose.vps.yml", "config"],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env=compose_environment(),
    ).stdout

    assert spot(EVERY, resolved.replace(str(ROOT).encode(), b"")) == []


@pytest.mark.parametrize("service", SERVICES)
def test_container_names_nothing(pair: Pair, service: str) -> None:
    """Name, environment, labels, mounts and health of a running container."""
    described = output("docker", "inspect", pair.container(pair.relay_node, service))

    # The checkout's own path is this machine's, and Docker's words for AppArmor and cgroups too.
    assert spot(EVERY, described.replace(str(ROOT).encode(), b"")) == []


@pytest.mark.parametrize("service", SERVICES)
def test_logs_name_nothing(pair: Pair, service: str) -> None:
    """What a container has said so far."""
    assert spot(EVERY, output("docker", "logs", pair.container(pair.relay_node, service))) == []


def test_image_configuration_names_nothing(image: str) -> None:
    """Environment, labels, command and the history of how the image was made."""
    assert spot(EVERY, output("docker", "image", "inspect", image)) == []
    assert spot(EVERY, output("docker", "history", "--no-trunc", image)) == []


def test_image_files_name_nothing(files: tarfile.TarFile) -> None:
    """This project's files by name and content, all other files by name."""
    found: list[str] = []
    own_count = 0
    for member in files:
        is_own = member.name.startswith(OWN)
        path = member.name.encode()
        allowed = any(re.fullmatch(pattern, member.name) for pattern in ALLOWED_PATHS)
        if spot(EVERY if is_own else STRONG, path) and not allowed:
            found.append(member.name)
        if is_own and member.isfile():
            own_count += 1
            content = files.extractfile(member)
            assert content is not None
            found += [f"{member.name}: {line}" for line in spot(EVERY, content.read())]

    assert own_count > 0
    assert found == []


def test_relay_image_lists_no_distribution_of_this_project(files: tarfile.TarFile) -> None:
    """Metadata would name the extras, and so the engine."""
    installed = [member.name for member in files if member.name.endswith(".dist-info")]

    assert not [name for name in installed if "adyton" in name.lower()]
