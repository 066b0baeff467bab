"""Looks at the provider that the tunnel leaves through, where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.doctor.model.hop import handshake_age
from scripts.doctor.tunnel import STALE_SECONDS
from scripts.node.node import HOP
from scripts.status.facts import Fact, Tone, duration

if TYPE_CHECKING:
    from scripts.status.look import Looker

NAME, TITLE = "hop", "Hop"


def look(looker: Looker) -> list[Fact] | None:
    node = looker.node
    if HOP not in node.services:
        return None
    if HOP not in node.running:
        text = f"{HOP} does not run: nothing leaves."
        return [Fact("problem", "not running", "", text, Tone.BAD)]
    at, age = looker.seldom("hop", lambda: (looker.now, handshake_age(node)))
    endpoint = node.setting(HOP, "HOP_ENDPOINT")
    if age is not None:
        age += max(0, round(looker.now - at))
    text = "never" if age is None else f"{duration(age)} ago"
    tone = Tone.BAD if age is None or age > STALE_SECONDS else Tone.GOOD
    return [
        Fact("handshake_age_seconds", age, "handshake", text, tone),
        Fact("endpoint", endpoint, "calls", endpoint),
    ]
