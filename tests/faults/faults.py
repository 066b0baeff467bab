"""Owns carrying out a schedule: each fault at its moment, and how long recovery took."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.nodes import SERVICES, Dead, Nodes, State
from tests.faults.schedule import DISRUPTIVE, Fault
from tests.faults.screen import Call, Screen
from tests.stubs.telegram.client import Control

RECOVERY_SECONDS = 90.0
"""What has not recovered by then counts as dead for good."""

SETTLING_SECONDS = 0.3
"""A call that had leave before the fault may still be on its way for this long."""

FINAL_SETTLING_SECONDS = 3.0
"""The same for the final texts of an answer in several messages, which have leave in common."""


@dataclass
class Done:
    """A fault that was carried out."""

    fault: Fault
    began: float | None = None
    """Monotonic; None: it waits until it is its container's turn."""
    over: float | None = None
    """When everything worked again."""
    back_seconds: float | None = None
    """From the kill until the process is there again, and healthy."""
    recovery_seconds: float | None = None
    """From the kill, or from the end of what lasts, to the first progress."""
    is_alone: bool = True
    """No other disruptive fault came in between."""


Act = Callable[[Fault, Done], Coroutine[Any, Any, float | None]]


class Gate:
    """Lets disruptive faults come together, but for those that are to be alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._others = 0
        self._waiting = 0
        self._is_closed = False

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until nothing is going on, and keep it so."""
        async with self._changed:
            self._waiting += 1
            await self._changed.wait_for(lambda: not self._others and not self._is_closed)
            self._waiting -= 1
            self._is_closed = True
        try:
            yield
        finally:
            async with self._changed:
                self._is_closed = False
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def among_others(self) -> AsyncIterator[None]:
        """Wait for those that are, or want to be, alone."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting and not self._is_closed)
            self._others += 1
        try:
            yield
        finally:
            async with self._changed:
                self._others -= 1
                self._changed.notify_all()


KILLED = {
    "kill relay": "vps-relay",
    "kill gateway": "home-gateway",
    "kill engine": "home-engine",
    "kill egress": "vps-egress",
    "kill uplink, vps": "vps-uplink",
    "kill uplink, home": "home-uplink",
    "kill holder, vps": "vps-wireguard",
    "kill holder, home": "home-wireguard",
    "kill wireguard-go, vps": "vps-uplink",
    "kill wireguard-go, home": "home-uplink",
}
"""Whose process it is."""


_COMMANDS = {
    "kill relay": "services.relay",
    "kill gateway": "services.gateway",
    "kill wireguard-go": "wireguard-go",
}
"""What the process is called, where it is not the container's first one."""


@dataclass
class Injector:
    """Carries faults out and keeps book."""

    nodes: Nodes
    control: Control
    screen: Screen
    say: Callable[[str], None] = print
    done: list[Done] = field(default_factory=list)
    _gate: "Gate" = field(default_factory=lambda: Gate())
    _turns: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def run(self, schedule: list[Fault]) -> None:
        """Carry out a schedule; return when its last fault is over."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in schedule:
                await asyncio.sleep(began + fault.at - time.monotonic())
                group.create_task(self._carry_out(fault))

    async def _carry_out(self, fault: Fault) -> None:
        if fault.kind in DISRUPTIVE:
            if fault.alone and (name := KILLED.get(fault.kind)):
                await self.nodes.wait_until_steady(name)
            async with self._gate.alone() if fault.alone else self._gate.among_others():
                await self._do(fault)
        else:
            await self._do(fault)

    async def _do(self, fault: Fault) -> None:
        act = self._act(fault)
        done = Done(fault)
        task = asyncio.create_task(act(fault, done))
        limit = RECOVERY_SECONDS + float(fault.parameters.get("seconds", 0))
        while not (await asyncio.wait({task}, timeout=1))[0]:
            if done.began and time.monotonic() - done.began > limit:
                task.cancel()
                await asyncio.wait({task})
                raise Dead(f"{Dead.__doc__} No recovery within {limit:.0f} s from: {fault}")
        done.recovery_seconds = task.result()
        done.over = time.monotonic()
        self.done.append(done)
        if fault.kind in DISRUPTIVE:
            self._note_company(done)
            took = "" if done.recovery_seconds is None else f": {done.recovery_seconds:.1f} s"
            took += "" if done.back_seconds is None else f" (back in {done.back_seconds:.1f} s)"
            self.say(f"{fault}{took}{'' if done.is_alone else ', among others'}")

    def _note_company(self, done: Done) -> None:
        for other in self.done[:-1]:
            if other.fault.kind in DISRUPTIVE and (other.over or 0) > (done.began or 0):
                done.is_alone = other.is_alone = False

    def _act(self, fault: Fault) -> Act:
        kind = fault.kind
        if kind.startswith("telegram: "):
            return self._trouble_telegram
        if kind.startswith("engine: "):
            return self._trouble_engine
        if kind in KILLED:
            return self._kill
        return {
            "cut vps - home": self._cut_tunnel,
            "cut relay - telegram": self._cut_telegram,
            "pause relay": self._pause_relay,
            "second relay": self._second_relay,
            "second relay while one is paused": self._second_relay,
            "disk full": self._fill_disk,
            "clock of the gateway": self._step_clock,
            "clock of the relay": self._step_clock,
        }[kind]

    # Signs of progress

    async def _any_call(self, since: float) -> None:
        await self.screen.wait_for(lambda call: call.started > since)

    async def _growth(self, since: float) -> None:
        """An edit for which the gateway has given leave since then.

        It gives leave just before each growing one, and at most some paced calls before a final
        one; placeholders need none.
        """

        def fits(call: Call) -> bool:
            settling = SETTLING_SECONDS if call.grows else FINAL_SETTLING_SECONDS
            return call.method == "editmessagetext" and call.started > since + settling

        await self.screen.wait_for(fits)

    async def _engine_asked(self) -> None:
        while True:
            with contextlib.suppress(OSError, aiohttp.ClientError):
                if await self.nodes.engine_requests():
                    return
            await asyncio.sleep(0.2)

    # Kills

    async def _kill(self, fault: Fault, done: Done) -> float:
        """Kill a container's process, or the WireGuard process beside it."""
        kind, name = fault.kind, KILLED[fault.kind]
        async with self._turn(name):
            before = await self.nodes.wait_until_steady(name)
            pid = before.pid
            if text := _COMMANDS.get(kind.removesuffix(", vps").removesuffix(", home")):
                found = await self.nodes.processes(name, text)
                pid = found[0] if found else pid
            done.began = time.monotonic()
            since = time.time()
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself just now
                os.kill(pid, signal.SIGKILL)
            if "wireguard-go" not in kind:  # the uplink starts another one itself
                await self._back(name, before)
                done.back_seconds = time.monotonic() - done.began
                since = (await self.nodes.state(name)).started
            if kind in ("kill relay", "kill egress"):
                await self._any_call(since)
            elif kind == "kill engine":
                await self._engine_asked()
            else:
                await self._growth(since)
            return time.monotonic() - done.began

    async def _back(self, name: str, before: State) -> None:
        await self.nodes.wait_until_back(name, before)
        if name.endswith("-wireguard"):
            # Its members were left behind, and move into the new namespace.
            node = name.partition("-")[0]
            for member in SERVICES:
                if member.startswith(node) and not member.endswith(("-engine", "-egress")):
                    await self._moved(member, before)

    async def _moved(self, member: str, holder: State) -> None:
        while True:
            state = await self.nodes.state(member)
            if state.pid and state.is_healthy and state.started > holder.started:
                now = await self.nodes.state(member.partition("-")[0] + "-wireguard")
                if state.started >= now.started:
                    return
            await asyncio.sleep(0.2)

    @contextlib.asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """One fault of a container at a time."""
        async with self._turns.setdefault(name, asyncio.Lock()):
            yield

    # What lasts

    async def _cut_tunnel(self, fault: Fault, done: Done) -> float:
        end, hooks = fault.parameters["end"], tuple(fault.parameters["hooks"])
        async with self._turn(end):
            await self.nodes.wait_until_steady(end)
            done.began = time.monotonic()
            async with self.nodes.cut(end, hooks):
                await asyncio.sleep(fault.parameters["seconds"])
            restored = time.time()
            await self._growth(restored - SETTLING_SECONDS)
            return time.time() - restored

    async def _cut_telegram(self, fault: Fault, done: Done) -> float:
        async with self._turn("vps-egress"):
            await self.nodes.wait_until_steady("vps-egress")
            done.began = time.monotonic()
            async with self.nodes.cut("vps-egress", tuple(fault.parameters["hooks"])):
                await asyncio.sleep(fault.parameters["seconds"])
            restored = time.time()
            await self._any_call(restored)
            return time.time() - restored

    async def _pause_relay(self, fault: Fault, done: Done) -> float:
        async with self._turn("vps-relay"), self._paused_relay():
            done.began = time.monotonic()
            await asyncio.sleep(fault.parameters["seconds"])
        resumed = time.time()
        await self._any_call(resumed)
        return time.time() - resumed

    @contextlib.asynccontextmanager
    async def _paused_relay(self) -> AsyncIterator[None]:
        await self.nodes.wait_until_steady("vps-relay")
        found = await self.nodes.processes("vps-relay", "services.relay")
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def _second_relay(self, fault: Fault, done: Done) -> float:
        async with self._turn("vps-relay"), self._turn("vps-wireguard"):
            await self.nodes.wait_until_steady("vps-relay")
            done.began = time.monotonic()
            is_paused = fault.kind.endswith("paused")
            async with self._paused_relay() if is_paused else contextlib.nullcontext():
                await self.nodes.start_second_relay()
                await asyncio.sleep(fault.parameters["seconds"] / 2)
            await asyncio.sleep(fault.parameters["seconds"] / 2)
            await self.nodes.end_second_relay()
            ended = time.time()
            await self._growth(ended)
            return time.time() - ended

    async def _fill_disk(self, fault: Fault, done: Done) -> float:
        async with self._turn("home-gateway"):
            await self.nodes.wait_until_steady("home-gateway")
            done.began = time.monotonic()
            try:
                await asyncio.to_thread(self.nodes.fill_disk)
                await asyncio.sleep(fault.parameters["seconds"])
            finally:
                self.nodes.free_disk()
            freed = time.time()
            await self._growth(freed)
            return time.time() - freed

    async def _step_clock(self, fault: Fault, done: Done) -> None:
        service = fault.kind.rpartition(" ")[2]
        async with self._turn(f"clock of {service}"):
            self.nodes.step_clock(service, fault.parameters["step"])
            try:
                await asyncio.sleep(fault.parameters["seconds"])
            finally:
                self.nodes.step_clock(service, 0)

    # What befalls single calls

    async def _trouble_telegram(self, fault: Fault, _: Done) -> None:
        kind = fault.kind.removeprefix("telegram: ")
        if kind in ("duplicates", "reordered"):
            changes = (
                {"repeats": fault.parameters["repeats"]}
                if kind == "duplicates"
                else {"shuffled": True}
            )
            async with self._turn(kind):
                await self.control.post("limits", changes)
                await asyncio.sleep(fault.parameters["seconds"])
                back = {"repeats": 0} if kind == "duplicates" else {"shuffled": False}
                await self.control.post("limits", back)
            return
        what: dict[str, Any] = {"kind": kind}
        if kind in ("500", "502"):
            what = {"kind": "status", "status": int(kind)}
        await self.control.post("fault", {**fault.parameters, **what})

    async def _trouble_engine(self, fault: Fault, _: Done) -> None:
        kind = fault.kind.removeprefix("engine: ")
        while True:
            # The engine may be starting just now.
            with contextlib.suppress(OSError, aiohttp.ClientError):
                await self.nodes.script_engine(fault={"kind": kind, **fault.parameters})
                return
            await asyncio.sleep(0.2)
