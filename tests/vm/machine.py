"""Owns one virtual machine: its power, its console, and commands in it that leave no traffic.

Commands go to QEMU's guest agent over a virtual serial port, so nothing of the test's own is on
the network, and nothing needs a port in the machine.
"""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vm.disk import System
from tests.vm.pace import Boot

AGENT = "org.qemu.guest_agent.0"
COMMAND_SECONDS = 300.0  # an emulated core under load takes its time


class MachineFailed(Exception):
    """A machine did not do what it should; its console's last lines say why."""


@dataclass(frozen=True)
class Done:
    """What a command in a machine came to."""

    code: int
    out: str
    err: str


class Machine:
    """A computer with one core, one disk and one network card, emulated or virtualised."""

    def __init__(
        self, name: str, system: System, memory: int, mac: str, tap: str, state: Path
    ) -> None:
        """Prepare; `memory` is in MiB, `tap` the port in the namespace that it is started in."""
        self.name = name
        self._system = system
        self._memory = memory
        self._mac = mac
        self._tap = tap
        self._state = state
        self._process: subprocess.Popen[bytes] | None = None
        self.boot = Boot(0.0, 0.0)
        """Its last."""

    @property
    def console(self) -> Path:
        return self._state / f"{self.name}.console"

    @property
    def _agent_socket(self) -> Path:
        return self._state / f"{self.name}.agent"

    # Power

    def power_on(self, enter_namespace: Sequence[str]) -> None:
        """Start it; `enter_namespace` is the command that puts it where its port is."""
        assert not self.is_on
        self.console.write_bytes(b"")
        with (self._state / f"{self.name}.qemu").open("wb") as log:
            self._process = subprocess.Popen(
                [*enter_namespace, *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._state,
                start_new_session=True,
            )

    def _command(self) -> list[str]:
        append = "root=/dev/vda rw console=ttyS0 net.ifnames=0 loglevel=4 panic=5"
        # What costs an emulated processor dearly, and what nothing here is about.
        append += " mitigations=off init_on_alloc=0 hardened_usercopy=off"
        append += " randomize_kstack_offset=off audit=0 lsm=capability,apparmor"
        return [
            *("setpriv", "--pdeathsig", "KILL"),  # a run that is killed leaves no machine behind
            *("qemu-system-x86_64", "-M", "q35", "-accel", _accelerator()),
            *("-cpu", _processor(), "-smp", "1", "-m", str(self._memory), "-nodefaults"),
            *("-kernel", str(self._system.kernel), "-initrd", str(self._system.initrd)),
            *("-append", append, "-display", "none", "-monitor", "none"),
            *("-serial", f"file:{self.console.name}"),
            *("-drive", f"file={self._system.disk},format=raw,if=virtio,cache=unsafe"),
            *("-netdev", f"tap,id=net,ifname={self._tap},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=net,mac={self._mac},romfile="),
            *("-object", "rng-random,id=random,filename=/dev/urandom"),
            *("-device", "virtio-rng-pci,rng=random", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=agent,path={self._agent_socket.name},server=on,wait=off"),
            *("-device", f"virtserialport,chardev=agent,name={AGENT}"),
        ]

    @property
    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def pull_plug(self) -> None:
        """Power off without a word to the system."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._process is not None:
            self._process.wait(30)
        self._process = None

    def power_off(self, seconds: float = 90) -> None:
        """Shut the system down, and wait until the power is off."""
        assert self._process is not None
        self.tell("systemctl --no-block poweroff")
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failure(f"is not off after {seconds:.0f} s") from None
        self._process = None

    # Commands

    def run(self, script: str, seconds: float = COMMAND_SECONDS) -> str:
        """What a shell script prints; raises MachineFailed if it fails."""
        done = self.attempt(script, seconds)
        if done.code != 0:
            raise self.failure(f"`{script[:200]}` gave {done.code}: {done.out}{done.err}")
        return done.out

    def attempt(self, script: str, seconds: float = COMMAND_SECONDS) -> Done:
        """Run a shell script as root."""
        deadline = time.monotonic() + seconds
        with _Agent(self._agent_socket, deadline) as agent:
            started = agent.call("guest-exec", **_shell(script), **{"capture-output": True})
            pause = 0.1
            while True:
                status = agent.call("guest-exec-status", pid=started["pid"])
                if status["exited"]:
                    break
                if time.monotonic() > deadline:
                    raise self.failure(f"`{script[:200]}` did not end in {seconds:.0f} s")
                time.sleep(pause)
                pause = min(1.0, pause * 1.4)  # each look costs the machine a line in its journal
        out, err = (
            base64.b64decode(status.get(name, "")).decode(errors="replace")
            for name in ("out-data", "err-data")
        )
        return Done(status.get("exitcode", -1), out, err)

    def ask(self, script: str, seconds: float = COMMAND_SECONDS) -> str | None:
        """What a shell script prints, or None if it fails or the machine is in no state to say."""
        try:
            done = self.attempt(script, seconds)
        except (OSError, ValueError, MachineFailed):
            return None
        return done.out if done.code == 0 else None

    def tell(self, script: str) -> None:
        """Begin a shell script and do not wait for it: it may end the machine."""
        with _Agent(self._agent_socket, time.monotonic() + COMMAND_SECONDS) as agent:
            agent.call("guest-exec", **_shell(script))

    def wait_until_up(self, seconds: float) -> None:
        """Wait until the machine takes commands, after it has been started."""
        deadline = time.monotonic() + seconds
        while True:
            if not self.is_on:
                raise self.failure("has ended")
            try:
                with _Agent(self._agent_socket, min(deadline, time.monotonic() + 5)):
                    break
            except (OSError, TimeoutError, ValueError):
                if time.monotonic() > deadline:
                    raise self.failure(f"takes no commands after {seconds:.0f} s") from None
                time.sleep(0.2)
        seconds = self.uptime()
        self.boot = Boot(time.monotonic() - seconds, seconds)

    def uptime(self) -> float:
        """Seconds since its kernel started."""
        return float(self.run("cat /proc/uptime").split()[0])

    def boot_id(self) -> str:
        return self.run("cat /proc/sys/kernel/random/boot_id").strip()

    def failure(self, what: str) -> MachineFailed:
        """An error with the console's last lines, and with QEMU's own."""
        said = []
        for suffix in ("qemu", "console"):
            path = self._state / f"{self.name}.{suffix}"
            text = path.read_bytes().decode(errors="replace") if path.exists() else ""
            said += [line.strip() for line in text.splitlines() if line.strip()][-15:]
        return MachineFailed("\n".join([f"{self.name} {what}. Its console said:", *said]))


def remove_machines(state: Path) -> None:
    """End the emulators that work in this state directory, of whichever run."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_emulator = (path / "comm").read_text().startswith("qemu-system")
            if is_emulator and (path / "cwd").readlink() == state:
                os.kill(int(path.name), signal.SIGKILL)


def _has_hardware() -> bool:
    """Whether the processor itself can do it: /dev/kvm alone may be something else's."""
    modules = [Path("/sys/module") / name for name in ("kvm_intel", "kvm_amd")]
    return Path("/dev/kvm").exists() and any(module.exists() for module in modules)


def _accelerator() -> str:
    return "kvm" if _has_hardware() else "tcg,thread=multi"


def _processor() -> str:
    """Wide vectors cost an emulator more than they save (measured: a tenth of Python's start)."""
    return "host" if _has_hardware() else "Nehalem"


def _shell(script: str) -> dict[str, Any]:
    return {"path": "/bin/bash", "arg": ["-c", script]}


class _Agent:
    """One connection to the guest agent, in step with it."""

    def __init__(self, path: Path, deadline: float) -> None:
        self._deadline = deadline
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._limit_time()
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._socket.connect(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
            self._lines = self._socket.makefile("rb")
            self._synchronise()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "_Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def call(self, command: str, **arguments: Any) -> Any:
        self._send(command, arguments)
        answer = json.loads(self._read())
        if "error" in answer:
            raise ValueError(f"guest agent, {command}: {answer['error']}")
        return answer["return"]

    def _synchronise(self) -> None:
        """Skip what was meant for somebody before: an answer may have outlived its question."""
        mark = time.monotonic_ns() % 2**31
        self._socket.sendall(b"\xff")  # makes the agent drop a command that was cut off
        self._send("guest-sync", {"id": mark})
        while True:
            line = self._read()
            try:
                if json.loads(line).get("return") == mark:
                    return
            except (ValueError, AttributeError):
                continue

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        text = json.dumps({"execute": command, "arguments": arguments})
        self._socket.sendall(text.encode() + b"\n")

    def _read(self) -> bytes:
        self._limit_time()
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the machine's agent is gone")
        return line.lstrip(b"\xff")

    def _limit_time(self) -> None:
        self._socket.settimeout(max(0.1, self._deadline - time.monotonic()))
