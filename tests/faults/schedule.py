"""Owns which fault comes when, with which parameters: all of it follows from a seed."""

import random
from dataclasses import dataclass, field
from typing import Any

DISRUPTIVE = {
    "kill relay": 5,
    "kill gateway": 5,
    "kill engine": 5,
    "kill egress": 4,
    "kill wireguard-go, vps": 3,
    "kill wireguard-go, home": 3,
    "kill uplink, vps": 2,
    "kill uplink, home": 2,
    "kill holder, vps": 3,
    "kill holder, home": 3,
    "cut vps - home": 6,
    "cut relay - telegram": 5,
    "pause relay": 4,
    "second relay": 2,  # a relay yields longer each time that it meets a rival
    "second relay while one is paused": 2,
    "disk full": 3,
}
"""Faults that stop something for a while, and how many of each: about one every six seconds."""

TIMED = tuple(kind for kind in DISRUPTIVE if kind.startswith(("kill", "cut", "disk")))
"""Of these the first one of a run comes alone, and its recovery is timed."""

PASSING = {
    "clock of the gateway": 4,
    "clock of the relay": 4,
    "telegram: 500": 12,
    "telegram: 502": 12,
    "telegram: retry_after": 12,
    "telegram: hang": 12,
    "telegram: reset": 12,
    "telegram: lose_answer": 15,
    "telegram: delay": 12,
    "telegram: duplicates": 8,
    "telegram: reordered": 8,
    "engine: status": 7,
    "engine: refuse": 7,
    "engine: hang": 6,
    "engine: cut": 7,
    "engine: garbage": 6,
    "engine: error": 7,
    "engine: slow": 5,
}
"""Faults that befall single calls, or nobody who can cope with them."""

LATEST_SECONDS = 5.6
"""The latest that an edit was ever seen to land (docs/architecture.md)."""

ORDINARY_SECONDS = 340.0
"""The length of a run that the numbers above are for; longer ones get more of each."""


@dataclass(frozen=True)
class Fault:
    """One fault: when it begins, in seconds from the start, and what it needs to know."""

    number: int
    at: float
    kind: str
    parameters: dict[str, Any] = field(default_factory=dict)
    alone: bool = False
    """No other disruptive fault shall be going on, so that its recovery can be timed."""

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.kind} {self.parameters or ''}".rstrip()


def plan(seed: int, seconds: float = ORDINARY_SECONDS) -> list[Fault]:
    """Schedule the faults of a run, in order of their times.

    Disruptive ones come in a random order, one in each of equal spans of time; the passing ones
    anywhere. The last one kills the engine, which releases every answer that hangs in it.
    """
    rng = random.Random(seed)
    share = seconds / ORDINARY_SECONDS
    heavy = [kind for kind, n in DISRUPTIVE.items() for _ in range(max(1, round(n * share)))]
    light = [kind for kind, n in PASSING.items() for _ in range(max(1, round(n * share)))]
    rng.shuffle(heavy)
    span = (seconds - 3) / len(heavy)
    moments = [(n * span + rng.uniform(0, span), kind) for n, kind in enumerate(heavy)]
    moments += [(rng.uniform(0, seconds - 3), kind) for kind in light]
    moments.append((seconds - 1, "kill engine"))
    timed = set(TIMED)
    schedule = []
    for number, (at, kind) in enumerate(sorted(moments), start=1):
        alone = kind in timed
        timed.discard(kind)
        schedule.append(Fault(number, round(at, 2), kind, _parameters(kind, rng), alone))
    return schedule


def _parameters(kind: str, rng: random.Random) -> dict[str, Any]:
    def seconds(least: float, most: float) -> float:
        return round(rng.uniform(least, most), 1)

    method = rng.choice(["sendMessage", "editMessageText", "editMessageText", "getUpdates", "*"])

    def count(most: int) -> int:
        # The relay asks for updates again only after a while, so what is ordered for that piles up
        # until nothing else is left of the run.
        return 1 if method == "getUpdates" else rng.randint(1, most)

    match kind:
        case "cut vps - home":
            long = rng.random() < 0.2  # so long that waiting chats are told
            return {
                "seconds": seconds(22, 30) if long else seconds(1, 8),
                "end": rng.choice(["vps-uplink", "home-uplink"]),
                "hooks": rng.choice([["input", "output"], ["input"], ["output"]]),
            }
        case "cut relay - telegram":
            hooks = rng.choice([["input", "output"], ["input"], ["output"]])
            return {"seconds": seconds(1, 8), "hooks": hooks}
        case "pause relay":
            return {"seconds": seconds(1, 10)}
        case "second relay" | "second relay while one is paused":
            return {"seconds": seconds(6, 14)}
        case "disk full":
            return {"seconds": seconds(1, 5)}
        case "clock of the gateway" | "clock of the relay":
            step = rng.choice([5, 60, 3600, 86400]) * rng.choice([-1, 1])
            return {"step": step, "seconds": seconds(3, 20)}
        case "telegram: 500" | "telegram: 502" | "telegram: reset" | "telegram: lose_answer":
            when = rng.choice(["before", "after"])
            return {"method": method, "count": count(4), "when": when}
        case "telegram: retry_after":
            return {"method": method, "count": count(3), "seconds": rng.randint(1, 6)}
        case "telegram: hang":
            # While updates hang there is nothing to do: not for long, or there are no answers.
            method = rng.choice(["sendMessage", "editMessageText", "getUpdates"])
            brief = method == "getUpdates"
            return {
                "method": method,
                "count": 1 if brief else rng.randint(1, 3),
                "seconds": seconds(3, 12) if brief else seconds(10, 40),
                "when": "after",  # carried out at once: a write that lands later is a delay
            }
        case "telegram: delay":
            return {
                "method": method,
                "count": count(3),
                "seconds": seconds(0.5, LATEST_SECONDS),
                "when": "before",
            }
        case "telegram: duplicates":
            return {"repeats": rng.randint(1, 30), "seconds": seconds(1, 6)}
        case "telegram: reordered":
            return {"seconds": seconds(1, 6)}
        case "engine: status":
            return {"status": rng.choice([500, 500, 502, 503]), "count": rng.randint(1, 3)}
        case "engine: refuse":
            return {"count": rng.randint(1, 3)}
        case "engine: slow":
            return {"count": 2, "after_tokens": rng.randint(0, 30), "seconds": seconds(0.2, 0.6)}
        case "engine: hang":
            return {"count": 1, "after_tokens": rng.randint(0, 30)}
        case "engine: cut" | "engine: garbage" | "engine: error":
            return {"count": rng.randint(1, 3), "after_tokens": rng.randint(0, 30)}
    return {}
