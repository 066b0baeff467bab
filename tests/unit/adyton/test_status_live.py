"""The live view, on a terminal of its own: what it draws, how it ends, and what it leaves behind.

A program called `docker` stands first on the PATH.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

DOCKER = """\
#!/bin/sh
here=${0%/*}
case "$1 $2" in
  "compose -f") cat "$here/config" ;;
  "ps -aq")
    [ ! -e "$here/hangs" ] || { echo $$ >"$here/hanging"; exec sleep 60; }
    [ -e "$here/inspect" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
    echo one ;;
  "inspect --type") cat "$here/inspect" ;;
  "info --format") echo / ;;
  *) exit 1 ;;
esac
"""

CONFIG = {"name": "p", "services": {"wireguard": {}, "relay": {}}}
CONTAINER = {
    "Id": "one",
    "Name": "/p-relay-1",
    "Image": "i",
    "RestartCount": 3,
    "State": {"Status": "running", "Pid": 1 << 30, "StartedAt": "2026-01-01T00:00:00Z"},
    "Config": {"Labels": {"com.docker.compose.service": "relay"}},
    "HostConfig": {"Memory": 0},
    "NetworkSettings": {},
}

ALTERNATE, ORDINARY = "\x1b[?1049h", "\x1b[?1049l"
SHOWN = "\x1b[?25h"


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Path]:
    """The folder that holds `docker` and what it says."""
    program = tmp_path / "docker"
    program.write_text(DOCKER, encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "config").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "inspect").write_text(json.dumps([CONTAINER]), encoding="utf-8")
    yield tmp_path
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "hanging").read_text(encoding="ascii")), signal.SIGKILL)


def environment(docker: Path, **more: str) -> dict[str, str]:
    path = f"{docker}:{os.environ['PATH']}"
    return {"PATH": path, "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}


COMMAND = [sys.executable, "-P", "-m", "scripts.commands", "status", "--node", "relay"]


class Terminal:
    """A terminal with the command on it."""

    def __init__(
        self,
        docker: Path,
        width: int = 80,
        height: int = 24,
        *,
        is_session: bool = True,
        **more: str,
    ) -> None:
        """`is_session`: the terminal's keys send signals; else the kernel lets it be stopped."""

        def prepare() -> None:
            if is_session:
                os.setsid()
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            else:
                os.setpgid(0, 0)

        self.master, slave = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.said = ""
        self.process = subprocess.Popen(
            [*COMMAND, "--interval", "1"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(docker, **more),
            preexec_fn=prepare,
        )

    def resize(self, width: int, height: int) -> None:
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def read_until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.said[-2000:]
            if select.select([self.master], [], [], 0.02)[0]:
                self.said += os.read(self.master, 65536).decode()

    def read_until_over(self) -> int:
        """Its exit status."""
        self.read_until(lambda: self.process.poll() is not None)
        while select.select([self.master], [], [], 0)[0]:
            self.said += os.read(self.master, 65536).decode()
        return self.process.wait()

    @property
    def frames(self) -> list[str]:
        """What was drawn each time, from the top of the screen; the last one may be incomplete."""
        return self.said.split("\x1b[H")[2:]  # before the first one the screen is cleared

    def shows(self, words: str) -> bool:
        return any(words in frame for frame in self.frames[:-1])

    def was_given_back(self) -> bool:
        """Neither the alternate screen, a hidden cursor nor single keys are left."""
        return (
            self.said.rindex(ORDINARY) > self.said.rindex(ALTERNATE)
            and self.said.rindex(SHOWN) > self.said.rindex("\x1b[?25l")
            and termios.tcgetattr(self.slave) == self.before
        )


@pytest.fixture
def open_terminal(docker: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*size: int, **more: Any) -> Terminal:
        opened.append(Terminal(docker, *size, **more))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
        os.close(terminal.slave)


def plain(frame: str) -> list[str]:
    """A frame's lines as they stand on the screen."""
    return re.split(r"\r+\n", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", frame))


def test_view_is_drawn_again_and_ends_with_q(open_terminal: Callable[..., Terminal]) -> None:
    """In the alternate screen, and nothing of it stays."""
    terminal = open_terminal()

    terminal.read_until(lambda: terminal.shows("relay") and len(terminal.frames) > 2)
    rows = plain(terminal.frames[-2])
    assert rows[0].startswith("relay node")
    assert any(re.match(r"wireguard +missing", row) for row in rows)
    assert any(re.match(r"relay +running +none +\d+ d \d+ h +3", row) for row in rows)
    assert len(rows) <= 24
    terminal.type("q")

    assert terminal.read_until_over() == 0
    assert terminal.was_given_back()
    assert "Traceback" not in terminal.said


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda terminal: terminal.type("\x03"), 0),
        (lambda terminal: terminal.process.send_signal(signal.SIGINT), 0),
        (lambda terminal: terminal.process.send_signal(signal.SIGTERM), 143),
        (lambda terminal: terminal.process.send_signal(signal.SIGHUP), 129),
    ],
    ids=["ctrl-c", "interrupt", "terminate", "hang-up"],
)
def test_terminal_is_given_back_whatever_ends_it(
    open_terminal: Callable[..., Terminal], end: Callable[[Terminal], None], status: int
) -> None:
    """Otherwise the operator's shell would show no cursor and no keys."""
    terminal = open_terminal()
    terminal.read_until(lambda: terminal.shows("relay"))

    end(terminal)

    assert terminal.read_until_over() == status
    assert terminal.was_given_back()
    assert "Traceback" not in terminal.said


def test_stopped_view_gives_the_terminal_back_and_takes_it_again(
    open_terminal: Callable[..., Terminal],
) -> None:
    """Ctrl-Z and fg."""
    terminal = open_terminal(is_session=False)
    terminal.read_until(lambda: terminal.shows("relay"))

    def is_stopped() -> bool:
        stat = Path(f"/proc/{terminal.process.pid}/stat").read_text(encoding="ascii")
        return stat.rpartition(")")[2].split()[0] == "T"

    terminal.process.send_signal(signal.SIGTSTP)
    terminal.read_until(is_stopped)
    terminal.read_until(lambda: ORDINARY in terminal.said)
    assert terminal.was_given_back()
    terminal.process.send_signal(signal.SIGCONT)
    terminal.read_until(lambda: terminal.said.count(ALTERNATE) == 2)
    terminal.type("q")

    assert terminal.read_until_over() == 0
    assert terminal.was_given_back()


def test_change_of_size_is_followed_at_once(open_terminal: Callable[..., Terminal]) -> None:
    """Nothing is wider or higher than the window is now."""
    terminal = open_terminal(120, 40)
    terminal.read_until(lambda: terminal.shows("relay"))

    terminal.resize(30, 5)
    terminal.read_until(lambda: terminal.shows("more lines"))

    rows = plain(next(it for it in reversed(terminal.frames[:-1]) if "more lines" in it))
    assert len(rows) == 5
    assert max(map(len, rows)) <= 30


def test_docker_that_hangs_holds_no_key_up(
    docker: Path, open_terminal: Callable[..., Terminal]
) -> None:
    """And it is said for how long it has hung."""
    (docker / "hangs").touch()
    terminal = open_terminal()
    terminal.read_until(lambda: terminal.shows("looking for"))

    terminal.type("q")

    assert terminal.read_until_over() == 0
    assert terminal.was_given_back()


def test_docker_that_comes_back_is_seen(
    docker: Path, open_terminal: Callable[..., Terminal]
) -> None:
    """The view outlives it."""
    (docker / "inspect").rename(docker / "away")
    terminal = open_terminal()
    terminal.read_until(lambda: terminal.shows("Cannot connect to the Docker daemon"))

    (docker / "away").rename(docker / "inspect")

    terminal.read_until(lambda: terminal.shows("running"))


@pytest.mark.parametrize(("more", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_those_who_want_it(
    open_terminal: Callable[..., Terminal], more: dict[str, str], is_coloured: bool
) -> None:
    """NO_COLOR switches all of it off."""
    terminal = open_terminal(**more)

    terminal.read_until(lambda: terminal.shows("relay"))

    assert bool(re.search(r"\x1b\[[0-9;]*m", terminal.said)) == is_coloured


def run(docker: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(docker, **more), capture_output=True, text=True
    )


def test_elsewhere_it_is_printed_once(docker: Path) -> None:
    """Without anything that steers a terminal."""
    done = run(docker)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("relay node")
    assert re.search(r"^relay +running", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout


def test_for_machines(docker: Path) -> None:
    """All of it, and the exit status says whether Docker told anything."""
    done = run(docker, "--json")
    (docker / "inspect").unlink()
    down = run(docker, "--json")

    assert done.returncode == 0
    rows = json.loads(done.stdout)["containers"]
    assert [(it["service"], it["state"]) for it in rows] == [
        ("wireguard", "missing"),
        ("relay", "running"),
    ]
    assert down.returncode == 1
    assert "Cannot connect" in json.loads(down.stdout)["problems"][0]


def test_terminal_that_cannot_be_drawn_on_gets_it_once(
    open_terminal: Callable[..., Terminal],
) -> None:
    """TERM=dumb, as in an editor's shell."""
    terminal = open_terminal(TERM="dumb")

    assert terminal.read_until_over() == 0
    assert ALTERNATE not in terminal.said
    assert "relay node" in terminal.said


@pytest.mark.parametrize("seconds", ["0", "nan", "99999", "soon"])
def test_bad_intervals_are_refused(docker: Path, seconds: str) -> None:
    """With what would do."""
    done = run(docker, "--interval", seconds)

    assert done.returncode == 64
    assert "between 1 and 3600" in done.stderr
