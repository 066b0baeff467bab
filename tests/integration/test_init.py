"""What `init` makes is what Docker Compose and WireGuard's own tools take."""

import os
import subprocess
from pathlib import Path

import pytest
from python_on_whales import DockerClient

from scripts.commands.__main__ import main
from tests.integration.lab import WIREGUARD


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both bundles, unpacked as the operator is told to."""
    folder = tmp_path_factory.mktemp("init")
    token = folder / "token"
    token.write_text("123456789:" + "A" * 35)
    arguments = ["--vps", "198.18.5.7", "--users", "11", "--admins", "11", "--weights", "Model"]
    arguments += ["--resolver", "198.18.5.53", "--token-file", str(token)]
    assert main(["init", "--out", str(folder / "nodes"), *arguments]) == 0
    for node in ("relay", "model"):
        archive = folder / "nodes" / f"{node}.tar"
        subprocess.run(["tar", "-xpf", str(archive), "-C", str(folder)], check=True)
    return folder


@pytest.mark.parametrize("node", ["relay", "model"])
def test_compose_takes_what_was_unpacked(target: Path, node: str) -> None:
    """Without any argument: every required setting is there, and every secret."""
    home = target / "opt" / node
    clean = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}

    done = subprocess.run(
        ["docker", "compose", "config", "--quiet"], cwd=home, env=clean, capture_output=True
    )

    assert (done.returncode, done.stderr.decode()) == (0, "")
    owners = {path.name: path.stat().st_uid for path in (home / "secrets").iterdir()}
    assert owners["tunnel_private_key"] == 0
    assert owners["link_token"] == {"relay": 10001, "model": 10003}[node]


def test_keys_are_wireguards_own(target: Path, docker: DockerClient) -> None:
    """`wg pubkey` says the same of each private key as the other end's settings."""
    for node, other in (("relay", "model"), ("model", "relay")):
        private = (target / "opt" / node / "secrets" / "tunnel_private_key").read_text()
        done = subprocess.run(
            ["docker", "run", "--rm", "-i", "--network=none", "--entrypoint=wg", WIREGUARD]
            + ["pubkey"],
            input=private,
            capture_output=True,
            text=True,
            check=True,
        )

        settings = (target / "opt" / other / ".env").read_text()
        assert f"TUNNEL_PEER_KEY={done.stdout.strip()}\n" in settings
