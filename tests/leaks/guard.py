"""Owns the last line: nothing of a test may be forwarded to an interface that is no test's.

A table of its own on the host, before Docker's rules: it drops and counts. Whatever the tests
provoke stays on this machine, and a count that is not 0 at the end fails the run.
"""

import contextlib
import fcntl
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.integration.lab import PEER
from tests.leaks.wire import docker_says

CONTAINER = "leaks-guard"
TABLE = "inet leaks_guard"

RULES = """
table inet leaks_guard {{
  counter escaped {{}}
  counter control {{}}
  set scanners {{ type ipv4_addr; elements = {{ {scanners} }}; }}
  set networks {{ type ipv4_addr; flags interval; elements = {{ {networks} }}; }}
  set bridges {{ type ifname; }}
  set controls {{ type ifname; }}
  set escapes {{ type ipv4_addr . ipv4_addr . ifname; flags dynamic; size 64; }}
  # A scan of every port would fill the host's table of connections.
  chain untracked {{
    type filter hook prerouting priority raw; policy accept;
    ip saddr @scanners notrack
  }}
  # By bridge; and by address, for what an interrupted run left before its bridge was known here.
  chain forward {{
    type filter hook forward priority -500; policy accept;
    iifname @bridges oifname @controls counter name "control" drop
    iifname @bridges oifname != @bridges add @escapes {{ ip saddr . ip daddr . oifname }}
    iifname @bridges oifname != @bridges counter name "escaped" drop
    ip saddr @networks oifname != "br-*" add @escapes {{ ip saddr . ip daddr . oifname }}
    ip saddr @networks oifname != "br-*" counter name "escaped" drop
  }}
}}
"""


class Guard:
    """The rules on the host, while the block of `standing_guard` lasts."""

    def watch(self, bridge: str) -> None:
        """Let nothing out of the network behind this bridge."""
        nft(f"add element {TABLE} bridges {{ {bridge} }}")

    def count_as_control(self, bridge: str) -> None:
        """Count what would be forwarded to this bridge apart: it proves that the guard counts."""
        nft(f"add element {TABLE} controls {{ {bridge} }}")

    def escaped(self) -> int:
        return self._packets("escaped")

    def escapes(self) -> str:
        """Whence, whither and through which interface: the first of them."""
        return nft(f"list set {TABLE} escapes")

    def controlled(self) -> int:
        return self._packets("control")

    def _packets(self, counter: str) -> int:
        words = nft(f"list counter {TABLE} {counter}").split()
        return int(words[words.index("packets") + 1])


@contextlib.contextmanager
def standing_guard(networks: Sequence[str], scanners: Sequence[str]) -> Iterator[Guard]:
    with only_one(), rules(networks, scanners):
        yield Guard()


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """The table is the whole machine's: a second run waits for the first."""
    with Path(tempfile.gettempdir(), f"{CONTAINER}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def rules(networks: Sequence[str], scanners: Sequence[str]) -> Iterator[None]:
    remove(CONTAINER)
    docker_says(
        "run", "--detach", "--name", CONTAINER, "--label", "lab=leaks-guard", "--init",
        "--network=host", "--cap-drop=ALL", "--cap-add=NET_ADMIN", "--read-only",
        PEER, "sleep", "infinity",
    )  # fmt: skip
    try:
        nft(f"add table {TABLE}; delete table {TABLE}")  # of an interrupted run
        nft(RULES.format(networks=", ".join(networks), scanners=", ".join(scanners)))
        try:
            yield
        finally:
            nft(f"delete table {TABLE}")
    finally:
        remove(CONTAINER)


def nft(commands: str) -> str:
    return subprocess.run(
        ["docker", "exec", "-i", CONTAINER, "nft", "-f", "-"],
        input=commands,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def remove(container: str) -> None:
    subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)
