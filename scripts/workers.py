"""Owns what `init` makes for further boxes with GPUs: keys, and settings of both ends.

How many there are and where they call is kept as one word among what `init` keeps; the keys stand
beside it. docs/scaling.md says what the boxes are to each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from scripts.keys import make_preshared_key, make_private_key, public_key_of
from scripts.values import MOST_WORKERS, OF_ENGINES, listening

COMPOSE_FILE = "compose.gpu.router.yml"
OF_FIRST = ("workers_private_key", "workers_preshared_key")
MOST_SLOTS = 1024


class BadWorkers(Exception):
    """What is said of them cannot be used; the message says what would do."""


def workers_from(count: str | None, listen: str | None, kept: str) -> str:
    """`COUNT ADDRESS:PORT`, from what is given and what was kept; "": none. Raises BadWorkers."""
    known_count, _, known_listen = kept.partition(" ")
    count, listen = count or known_count or "0", listen or known_listen
    if not re.fullmatch("[0-9]{1,2}", count) or int(count) > MOST_WORKERS:
        raise BadWorkers(f"--workers: give a number of boxes, at most {MOST_WORKERS}, or 0")
    if int(count) and (not listen or listening(listen)):
        raise BadWorkers(
            "--workers-listen: give the model node's address in the network that it shares with "
            "the workers, and a UDP port, such as 192.0.2.10:51821"
        )
    return f"{int(count)} {listen}" if int(count) else ""


def numbers_of(workers: str) -> range:
    return range(1, int(workers.partition(" ")[0] or 0) + 1)


def with_keys(keys: Mapping[str, str]) -> dict[str, str]:
    """What is kept, with the keys that are missing, without those of workers that are gone.

    The preshared key is made anew when one goes: it had it.
    """
    numbers = numbers_of(keys.get("workers", ""))
    wanted = {key_of(number) for number in numbers} | (
        {"workers_private_key"} if numbers else set()
    )
    old = {name for name in keys if re.fullmatch("workers?[0-9]*_private_key", name)}
    others = {name: value for name, value in keys.items() if name not in old}
    preshared = others.pop("workers_preshared_key", "")
    if not numbers:
        return others
    made = {name: keys.get(name) or make_private_key() for name in sorted(wanted)}
    if not preshared or old - wanted:
        preshared = make_preshared_key()
    return {**others, **made, "workers_preshared_key": preshared}


def key_of(number: int) -> str:
    return f"worker{number}_private_key"


def address_of(number: int) -> str:
    return f"10.67.0.{number + 1}"


def settings_of_first(
    keys: Mapping[str, str], own: Mapping[str, str], engine_slots: str
) -> dict[str, str]:
    """The first model node's settings; `own`: those that were given for it. Raises KeysFailed."""
    workers = keys["workers"]
    numbers = numbers_of(workers)
    slots = int(own.get("ENGINE_SLOTS") or engine_slots) * (len(numbers) + 1)
    return {
        "WORKERS": ",".join(
            f"{address_of(number)}={public_key_of(keys[key_of(number)])}" for number in numbers
        ),
        "WORKERS_LISTEN": workers.partition(" ")[2],
        **({} if own.get("TOTAL_SLOTS") else {"TOTAL_SLOTS": str(min(slots, MOST_SLOTS))}),
    }


def settings_of_worker(keys: Mapping[str, str], number: int) -> dict[str, str]:
    """What a worker is told of the tunnel. Raises KeysFailed."""
    return {
        "TUNNEL_ENDPOINT": keys["workers"].partition(" ")[2],
        "TUNNEL_PEER_KEY": public_key_of(keys["workers_private_key"]),
        "TUNNEL_ADDRESS": address_of(number),
    }


def secrets_of_worker(keys: Mapping[str, str], number: int) -> dict[str, str]:
    return {
        "tunnel_private_key": keys[key_of(number)],
        "tunnel_preshared_key": keys["workers_preshared_key"],
    }


def own_of_worker(model: Mapping[str, str], worker: Mapping[str, str]) -> dict[str, str]:
    """Settings that a worker has as the first model node, and those that were given for workers."""
    names = (*OF_ENGINES, "IMAGES", "VERSION", "BASE", "BUILD_CA")
    return {name: model[name] for name in names if name in model} | dict(worker)
