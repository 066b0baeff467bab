"""Looks at the way to Telegram, by the sign of its polls that the relay keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.doctor.telegram import LAG_SECONDS, SIGN, SILENT_SECONDS
from scripts.node.signs import read_sign
from scripts.status.facts import NOTHING, Fact, Tone, ago, duration

if TYPE_CHECKING:
    from scripts.status.look import Looker

NAME, TITLE = "telegram", "Telegram"


def look(looker: Looker) -> list[Fact]:
    node = looker.node
    relay = node.running.get(node.kind.mark)
    if relay is None:
        text = f"{node.kind.mark} does not run."
        return [Fact("problem", "not running", "", text, Tone.BAD)]
    sign, now = read_sign(node, relay, SIGN), looker.now
    answered = ago("answered_seconds_ago", "answered", sign.get("answered_at", 0), now)
    is_fresh = isinstance(answered.value, int) and answered.value <= SILENT_SECONDS
    waiting, since = sign.get("waiting", 0), sign.get("waiting_since", 0)
    lag = max(0, round(now - since)) if waiting and since else 0
    return [
        Fact(
            answered.name,
            answered.value,
            answered.label,
            answered.text,
            Tone.GOOD if is_fresh else Tone.BAD,
        ),
        Fact(
            "waiting_updates",
            waiting,
            "waiting",
            f"{waiting} updates, for {duration(lag)}" if waiting else "nothing",
            Tone.NOTICE if lag > LAG_SECONDS else Tone.PLAIN,
        ),
        ago("came_seconds_ago", "last came", sign.get("came_at", 0), now, NOTHING),
        ago("went_seconds_ago", "last went", sign.get("went_at", 0), now, NOTHING),
    ]
