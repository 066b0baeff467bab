"""Owns starting and stopping a node's containers, and waiting for them, without others meddling."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scripts.lifecycle import CannotDo
from scripts.node.node import Container, Node
from scripts.node.tools import printable

READY_SECONDS = 1200.0
"""What has a hundred gigabytes to load takes its time."""

MOST_RESTARTS = 3

SAY_SECONDS = 15.0


def say(what: str) -> None:
    """Progress, apart from what a command has to tell; nobody has to be there to hear it."""
    with contextlib.suppress(OSError):
        print(f"... {what}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep two of these commands from changing one node at a time. Raises CannotDo.

    Each goes on to its end.
    """
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotDo("another command is changing this node: wait for its end") from None
        with to_its_end():
            yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def to_its_end() -> Iterator[None]:
    """A connection that is lost (SIGHUP) ends nothing half-way; SIGTERM takes Ctrl-C's way out."""
    before = {}
    try:
        with contextlib.suppress(ValueError):  # signals belong to the main thread
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
            before[signal.SIGTERM] = signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_busy(root: Path) -> bool:
    """Whether another command is changing the node just now."""
    with contextlib.suppress(CannotDo), alone(root):
        return False
    return True


@contextlib.contextmanager
def unmended(node: Node) -> Iterator[None]:
    """Keep the timer that brings containers back from doing so; afterwards it goes on."""
    was_mended = is_mended(node)
    if was_mended:
        rest_timer(node)
    try:
        yield
    finally:
        if was_mended:
            wake_timer(node)


def is_mended(node: Node) -> bool:
    """Whether the timer is on, or is to be: its node's unit brings it along.

    It is off by itself where a call like this one was killed.
    """
    units = (timer_of(node), f"node@{node.project}.service")
    return any(
        node.tools.run("systemctl", "is-active", "--quiet", unit).code == 0 for unit in units
    )


def rest_timer(node: Node) -> None:
    """Stop the timer; the look that may be under way ends before this returns."""
    timer = timer_of(node)
    node.tools.run("systemctl", "stop", timer, timer.replace(".timer", ".service"))


def wake_timer(node: Node) -> None:
    node.tools.run("systemctl", "start", timer_of(node))


def timer_of(node: Node) -> str:
    return f"node-reconcile@{node.project}.timer"


def compose(node: Node, *command: str, seconds: float = 300) -> None:
    """Call Compose for the node. Raises CannotDo."""
    said = node.tools.run(*node.compose, *command, seconds=seconds)
    node.refresh()
    if said.code != 0:
        raise CannotDo(f"`docker compose {' '.join(command)}`: {said.why}")


def stop(node: Node, *services: str) -> None:
    """Stop services that run, with time to close what they have open. Raises CannotDo."""
    running = [service for service in services if service in node.running]
    if running:
        compose(node, "stop", "--timeout", "30", *running)


def start(node: Node, *services: str, anew: bool = False) -> None:
    """Start services, or all, out of the images that are here. Raises CannotDo.

    `anew`: also those that Compose takes for unchanged, whose files are not.
    """
    force = ["--force-recreate"] if anew else []
    compose(node, "up", "--detach", "--no-build", "--pull", "never", *force, *services)


def wait_until_well(
    node: Node,
    *services: str,
    seconds: float = READY_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until services, or all, are running and healthy. Raises CannotDo with what one said."""
    wanted = [service for service in services or node.services if not node.is_off(service)]
    began = said_at = time.monotonic()
    while True:
        node.refresh()
        waiting = [service for service in wanted if not is_well(node.containers.get(service))]
        if not waiting:
            return
        for service in waiting:
            if why := why_hopeless(node.containers.get(service)):
                raise CannotDo(f"{service} {why}. {last_words(node, service)}")
        now = time.monotonic()
        if now - began > seconds:
            raise CannotDo(
                f"{waiting[0]} was not ready within {seconds:.0f} s. {last_words(node, waiting[0])}"
            )
        if now - said_at > SAY_SECONDS:
            said_at = now
            say(f"waiting for {', '.join(waiting)}, {now - began:.0f} s so far")
        sleep(1.0)


def is_well(container: Container | None) -> bool:
    return bool(container and container.is_running and container.health in ("healthy", "none"))


def why_hopeless(container: Container | None) -> str:
    """Why it makes no sense to wait any longer; nothing while it does."""
    if container is None:
        return ""
    if container.health == "unhealthy":
        return "is unhealthy"
    if int(container.raw.get("RestartCount") or 0) >= MOST_RESTARTS:
        return "does not stay up"
    return ""


def last_words(node: Node, service: str) -> str:
    """What a container has said last, for a sentence."""
    container = node.containers.get(service)
    if not container:
        return "Its container is not there: see `docker compose ps -a`"
    said = node.tools.run("docker", "logs", "--tail", "5", container.id)
    lines = [line for line in f"{said.out}{said.err}".splitlines() if line.strip()]
    return f"It said: {printable(lines[-1])[:400]}" if lines else "It said nothing"


def shown(paths: Sequence[str]) -> str:
    """A list for a sentence."""
    return ", ".join(paths) or "nothing"
