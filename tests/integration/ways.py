"""Owns what tests of the egress share: a way out, the relay before it, and who stands behind."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from python_on_whales import Container

from tests.integration.lab import EGRESS, PEER, Lab, probe, sysctls_of

HOST = "api.telegram.org"
SOCKET = "/run/egress/telegram.sock"
AUTHORITY = "/certificates/authority.pem"
RELAY_USER = "10001:10010"

# Echoes lines in TLS on 443 and in the clear on 80, and tells of each connection.
TELEGRAM = (
    "sh",
    "-c",
    "socat -d -d OPENSSL-LISTEN:443,cert=/certificates/telegram.pem,verify=0,fork,reuseaddr"
    " SYSTEM:'tee -a /tmp/received' & socat TCP-LISTEN:80,fork,reuseaddr EXEC:cat & wait",
)
RESOLVER = (
    *("dnsmasq", "--keep-in-foreground", "--user=root", "--no-resolv", "--no-hosts"),
    *("--log-queries", "--log-facility=-"),
)
LISTENER = ("python3", "/greeting.py", "listen", "443")


@dataclass(frozen=True)
class Answer:
    """What came back to a greeting, and after how long the other side closed."""

    answer: str
    seconds: float

    @property
    def was_served(self) -> bool:
        return self.answer == "served"


@dataclass
class Way:
    """One egress, and a process that stands where the relay stands."""

    egress: Container
    relay: Container

    def calls(self, server_name: str = HOST) -> bool:
        """Whether a TLS call from the relay arrives and the certificate is the far end's own."""
        return probe(self.relay, "tls", SOCKET, server_name, AUTHORITY) == (True, "ping")

    def greets(self, tag: str, **fields: Any) -> Answer:
        """Say one greeting, with the right name unless it says another; see greeting.py."""
        said = self.run("say", SOCKET, greeting(tag, **fields))
        return Answer(**json.loads(said))

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", "exec", self.relay.id, "python3", "/greeting.py", *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    def peak_kilobytes(self) -> int:
        """The most memory that the forwarder has held so far."""
        status = subprocess.run(
            ["docker", "exec", self.egress.id, "cat", "/proc/1/status"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return int(status.split("VmHWM:")[1].split()[0])


def greeting(tag: str, **fields: Any) -> str:
    return json.dumps({"tag": tag, "names": [[0, HOST]], **fields})


def start_way(
    lab: Lab,
    name: str,
    address: int,
    settings: Mapping[str, str],
    volumes: Sequence[tuple[str, str, str]] = (),
) -> Way:
    options = "uid=10002,gid=10010,mode=2750,size=64k,noexec,nosuid,nodev"
    volume = lab.volume(f"{name}-socket", {"type": "tmpfs", "device": "tmpfs", "o": options})
    egress = lab.run(
        name,
        EGRESS,
        ["egress"],
        address=address,
        capabilities=["NET_ADMIN", "SETUID", "SETGID", "SETPCAP"],
        settings=settings,
        volumes=[(volume, "/run/egress", "rw")],
        sysctls=sysctls_of("vps", "egress"),
        memory="48m",
    )
    relay = lab.run(
        f"{name}-relay",
        PEER,
        ["sleep", "infinity"],
        volumes=[(volume, "/run/egress", "ro"), *volumes],
        user=RELAY_USER,
    )
    return Way(egress, relay)


def make_certificates(folder: Path, name: str = HOST) -> Path:
    """A certificate by a test authority: that it verifies proves TLS untouched."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(folder / "telegram.pem")
    folder.chmod(0o755)
    (folder / "authority.pem").chmod(0o644)
    return folder


def log_of(container: Container) -> str:
    done = subprocess.run(
        ["docker", "logs", container.id], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr
