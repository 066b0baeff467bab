"""Looks at the model node's work, by the figures that the gateway keeps: numbers, no words."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from scripts.doctor.room import LOW_DISK
from scripts.lifecycle import CannotDo
from scripts.lifecycle.lock import vault_of
from scripts.node.signs import read_sign
from scripts.status.facts import NOTHING, Fact, Tone, ago, duration, size

if TYPE_CHECKING:
    from scripts.node.node import Node
    from scripts.status.look import Looker

NAME, TITLE = "work", "Work"

FIGURES = "/tmp/figures"
STALE_SECONDS = 15


def look(looker: Looker) -> list[Fact]:
    node = looker.node
    gateway = node.running.get(node.kind.mark)
    if gateway is None:
        text = f"{node.kind.mark} does not run."
        return [Fact("problem", "not running", "", text, Tone.BAD)]
    if is_locked(node):
        text = "the store is locked: `scripts/node-admin unlock`"
        return [Fact("problem", "locked", "", text, Tone.BAD)]
    figures, now = read_sign(node, gateway, FIGURES), looker.now
    age = round(now - figures.get("written_at", 0))
    facts = of_queue(figures)
    if age > STALE_SECONDS:
        text = f"the gateway has said nothing for {duration(age)}"
        facts.insert(0, Fact("stale_seconds", age, "", text, Tone.BAD))
    facts += [
        ago("came_seconds_ago", "last came", figures.get("came_at", 0), now, NOTHING),
        ago("went_seconds_ago", "last went", figures.get("went_at", 0), now, NOTHING),
        of_store(figures),
    ]
    return facts + of_gpus(figures)


def is_locked(node: Node) -> bool:
    """Whether the gateway waits for its store's key, as far as this user may know."""
    with contextlib.suppress(CannotDo, OSError):
        vault = vault_of(node)
        return bool(vault and vault.is_locked)
    return False


def of_store(figures: dict[str, int]) -> Fact:
    used, free = figures.get("store_bytes", 0), figures.get("disk_free_bytes")
    left = "" if free is None else f", {size(free)} free beside it"
    tone = Tone.PLAIN if free is None or free >= LOW_DISK else Tone.BAD
    value = {"used": used, "free": free}
    return Fact("store_bytes", value, "store", f"{size(used)}{left}", tone)


def of_queue(figures: dict[str, int]) -> list[Fact]:
    waiting, running, slots = (figures.get(it, 0) for it in ("waiting", "running", "slots"))
    speed = figures.get("tokens_per_second", 0)
    is_ready, is_connected = figures.get("engine_ready") == 1, figures.get("relay_connected") == 1
    is_paused = figures.get("paused") == 1
    return [
        Fact("engine_ready", is_ready, "engine", "ready" if is_ready else "not ready",
             Tone.GOOD if is_ready else Tone.BAD),
        Fact("relay_connected", is_connected, "relay", "connected" if is_connected else "away",
             Tone.GOOD if is_connected else Tone.NOTICE),
        Fact("waiting", waiting, "queue",
             f"{waiting} waiting{', paused' if is_paused else ''}",
             Tone.NOTICE if is_paused else Tone.PLAIN),
        Fact("paused", is_paused, "", ""),
        Fact("running", running, "answering", f"{running} of {slots} slots"),
        Fact("slots", slots, "", ""),
        Fact("tokens_per_second", speed, "speed", f"{speed} tokens/s"),
        Fact("undelivered", figures.get("undelivered", 0), "on the way",
             f"{figures.get('undelivered', 0)} replies"),
    ]  # fmt: skip


def of_gpus(figures: dict[str, int]) -> list[Fact]:
    facts, number = [], 1
    while (load := figures.get(f"gpu_{number}_load_percent")) is not None:
        used, total = (figures.get(f"gpu_{number}_{it}_bytes", 0) for it in ("used", "total"))
        value = {"load_percent": load, "used_bytes": used, "total_bytes": total}
        text = f"{load} %, {size(used)} of {size(total)}"
        facts.append(Fact(f"gpu_{number}", value, f"GPU {number}", text))
        number += 1
    return facts
