"""Owns the way to a host: OpenSSH with options of ours alone, through a proxy where one is set.

No configuration of the user's or of the machine's has a say (`-F none`): it could lead around the
proxy, or to another host. What OpenSSH makes of the options is asked of OpenSSH itself before the
first connection. Host keys are kept beside the bundles, and are never accepted unseen.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scripts.node.tools import Said
from scripts.steps import StepFailed, finish

CONNECTOR = Path(__file__).with_name("socks.py")


class NoConnection(StepFailed):
    """The host cannot be reached, or must not be; the message says what to do."""


@dataclass(frozen=True)
class Host:
    """Where to, and as whom."""

    user: str
    name: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Host:
        """Read `[USER@]HOST[:PORT]`, an IPv6 address in brackets. Raises ValueError."""
        # Nothing that OpenSSH or a shell would read as something else than a name.
        found = re.fullmatch(
            r"(?:([a-z_][a-z0-9_-]{0,31})@)?"
            r"(?:([A-Za-z0-9][A-Za-z0-9.-]{0,252})|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?",
            text,
        )
        try:
            if not found or not 1 <= int(found[4] or 22) <= 65535:
                raise ValueError
            name = found[2].lower() if found[2] else str(ipaddress.IPv6Address(found[3]))
        except ValueError:
            raise ValueError(
                "give the host as HOST, USER@HOST or USER@HOST:PORT, an IPv6 address in brackets"
            ) from None
        return cls(found[1] or "root", name, int(found[4] or 22))

    @property
    def known_as(self) -> str:
        """As it is called in a list of known hosts."""
        return self.name if self.port == 22 else f"[{self.name}]:{self.port}"

    def __str__(self) -> str:
        is_bare_ipv6 = ":" in self.name and self.port == 22
        return f"{self.user}@[{self.name}]" if is_bare_ipv6 else f"{self.user}@{self.known_as}"


@dataclass(frozen=True)
class HostKey:
    """One key of a host, as a line of a list of known hosts has it."""

    kind: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"

    def line(self, host: Host) -> str:
        return f"{host.known_as} {self.kind} {self.blob}\n"


def known_keys(file: Path, host: Host) -> list[HostKey]:
    """The keys of a host in a list of known hosts; none where there is no such list."""
    with contextlib.suppress(FileNotFoundError):
        rows = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
        return [HostKey(row[1], row[2]) for row in rows if row[:1] == [host.known_as]]
    return []


class Connection:
    """One host, for as long as the body of `with` takes; logs in once."""

    def __init__(
        self, host: Host, known_hosts: Path, *, proxy: str = "", identity: Path | None = None
    ) -> None:
        """`proxy` is ADDRESS:PORT; without it the host is dialled as it is."""
        self.host = host
        self.known_hosts = known_hosts
        self.proxy = proxy
        self.identity = identity
        # OpenSSH reads spaces and signs in paths in its own way; and a socket's path is short.
        self._folder = Path(tempfile.mkdtemp(prefix="deploy-", dir="/tmp"))
        self._control = self._folder / "control"
        self._known = self._folder / "known_hosts"
        self._login: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._login:
            finish(self._login)
        shutil.rmtree(self._folder, ignore_errors=True)

    def log_in(self) -> None:
        """Log in once, for all that is run there. Raises NoConnection."""
        keys = known_keys(self.known_hosts, self.host)
        self._known.write_text("".join(key.line(self.host) for key in keys), encoding="ascii")
        words = self._folder / "words"
        with words.open("wb") as err:
            self._login = subprocess.Popen(
                [*self.command(ControlMaster="yes"), "-N", self.host.name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        while not self._control.exists():
            if self._login.poll() is not None:
                raise NoConnection(self._why(words.read_text(encoding="utf-8", errors="replace")))
            time.sleep(0.05)

    @property
    def proxy_command(self) -> str:
        words = [sys.executable, "-P", str(CONNECTOR), self.proxy]
        return f"{shlex.join(words).replace('%', '%%')} %h %p"

    def command(self, **other: str) -> list[str]:
        """OpenSSH with its options; the host comes after it. `other` replaces some of them."""
        options = {
            "User": self.host.user,
            "Port": str(self.host.port),
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self._known),
            "GlobalKnownHostsFile": "none",
            "HashKnownHosts": "no",
            "UpdateHostKeys": "no",
            "VerifyHostKeyDNS": "no",
            "CheckHostIP": "no",
            "CanonicalizeHostname": "no",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "PermitLocalCommand": "no",
            "ControlMaster": "no",
            "ControlPath": str(self._control),
            "ControlPersist": "no",
            "ConnectTimeout": "150" if self.proxy else "30",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "LogLevel": "ERROR",
            **({"ProxyCommand": self.proxy_command} if self.proxy else {}),
            **({"IdentitiesOnly": "yes"} if self.identity else {}),
            **other,
        }
        words = ["ssh", "-F", "none"]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return [*words, *(["-i", str(self.identity)] if self.identity else [])]

    def check(self) -> None:
        """Ask OpenSSH what it would do; it connects to nobody meanwhile. Raises NoConnection.

        Must come before everything else: here it is refused to go around a proxy.
        """
        try:
            done = subprocess.run(
                [*self.command(), "-G", self.host.name], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise NoConnection(
                "OpenSSH was not found: install it (`apt-get install openssh-client`)"
            ) from None
        if done.returncode != 0:
            raise NoConnection(f"OpenSSH does not take its options: {done.stderr.strip()}")
        effective = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
        wanted = {
            "hostname": self.host.name,
            "proxycommand": self.proxy_command if self.proxy else "none",
            "proxyjump": "none",
            "controlpath": str(self._control),
            "userknownhostsfile": str(self._known),
        }
        for name, value in wanted.items():
            found = effective.get(name, "none")
            if found != value:
                raise NoConnection(
                    f"nothing was connected: OpenSSH would use {name} {found}, and not {value}; "
                    "find out which `ssh` stands first in PATH"
                )

    def ask_for_key(self) -> HostKey:
        """The key that the host shows to whoever calls, without logging in. Raises NoConnection."""
        shown = self._folder / "shown"
        command = self.command(
            StrictHostKeyChecking="accept-new",
            UserKnownHostsFile=str(shown),
            PreferredAuthentications="none",
            ControlPath="none",
        )
        done = subprocess.run(
            [*command, self.host.name, "true"], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", check=False,
        )  # fmt: skip
        keys = known_keys(shown, self.host)
        if not keys:
            raise NoConnection(self._why(done.stderr))
        return keys[0]

    def run(self, name: str, script: str, *arguments: str, given: bytes = b"") -> Said:
        """Run a script as root there; `name` is what it is called there. Raises NoConnection."""
        return self.send(name, script, *arguments, pieces=[given])

    def send(self, name: str, script: str, *arguments: str, pieces: Iterable[bytes]) -> Said:
        """The same, with what it reads from standard input piece by piece."""
        with self.opened(name, script, *arguments) as (sink, end):
            with contextlib.suppress(BrokenPipeError):  # it says why it has had enough
                for piece in pieces:
                    sink.write(piece)
            return end()

    @contextlib.contextmanager
    def opened(
        self, name: str, script: str, *arguments: str
    ) -> Iterator[tuple[IO[bytes], Callable[[], Said]]]:
        """A script that runs there: its standard input, and what ends it and tells what it said."""
        as_root = [] if self.host.user == "root" else ["sudo", "-n"]
        remote = shlex.join([*as_root, "sh", "-c", script, name, *arguments])
        process = subprocess.Popen(
            [*self.command(), self.host.name, remote],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin
        assert process.stdout
        assert process.stderr
        out, err = Reader(process.stdout), Reader(process.stderr)

        def end() -> Said:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
            code = process.wait()
            said = Said(code, out.text(), err.text())
            if code == 255:  # OpenSSH's own
                raise NoConnection(self._why(said.err))
            return said

        try:
            yield process.stdin, end
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    pipe.close()

    def _why(self, words: str) -> str:
        """What OpenSSH says, and what to do about it."""
        of_connector = [line for line in words.splitlines() if line.startswith("proxy: ")]
        why = Said(255, err="\n".join(of_connector) or words).why
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in words or "verification failed" in words:
            return (
                f"{self.host} shows another key than the one that is kept in {self.known_hosts}: "
                "if you have set it up anew, remove its line there; if not, somebody is between"
            )
        if "Permission denied" in words:
            return f"{self.host} lets nobody in with these keys ({why}): give --identity"
        through = f" through the proxy {self.proxy}" if self.proxy else ""
        return f"{self.host} cannot be reached{through} ({why}): mend that, and run this again"


class Reader(threading.Thread):
    """Reads a pipe to its end, so that nobody waits for it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._read = b""
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._read = self._pipe.read()

    def text(self) -> str:
        self.join()
        return self._read.decode("utf-8", "replace")
