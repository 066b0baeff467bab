"""Looks at the tunnel to further machines with engines, where there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.doctor.model.workers import WORKERS_UPLINK, addresses_by_key, ages_by_key
from scripts.doctor.tunnel import STALE_SECONDS
from scripts.status.facts import Fact, Tone, duration

if TYPE_CHECKING:
    from scripts.status.look import Looker

NAME, TITLE = "workers", "Workers"


def look(looker: Looker) -> list[Fact] | None:
    node = looker.node
    if WORKERS_UPLINK not in node.services:
        return None
    if WORKERS_UPLINK not in node.running:
        text = f"{WORKERS_UPLINK} does not run: no worker is reached."
        return [Fact("problem", "not running", "", text, Tone.BAD)]
    at, ages = looker.seldom("workers", lambda: (looker.now, ages_by_key(node)))
    if ages is None:
        return [Fact("problem", "no tunnel", "", "there is no tunnel to the workers", Tone.BAD)]
    passed = max(0, round(looker.now - at))
    return [
        heard(address, ages.get(key), passed) for key, address in addresses_by_key(node).items()
    ]


def heard(address: str, age: int | None, passed: int) -> Fact:
    """When a worker was heard, `passed` seconds after that was asked."""
    if age is not None:
        age += passed
    text = "never heard" if age is None else f"heard {duration(age)} ago"
    tone = Tone.NOTICE if age is None or age > STALE_SECONDS else Tone.GOOD
    return Fact(address, age, address, text, tone)
