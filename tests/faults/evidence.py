"""Owns what the checker is given: the stub's record and its chats, fetched and nothing else."""

from dataclasses import dataclass
from typing import Any

from tests.stubs.telegram.client import Control

KINDS = "say,edit,press,call,delivered,redelivered"


@dataclass(frozen=True)
class Evidence:
    """As the stub tells it."""

    entries: list[dict[str, Any]]
    """GET /record, in order."""
    chats: dict[int, dict[str, Any]]
    """GET /chat/ID, by id."""


async def collect(control: Control) -> Evidence:
    """Fetch all there is."""
    entries: list[dict[str, Any]] = []
    after = 0
    while page := (await control.get("record", after=after, kind=KINDS, limit=1000))["entries"]:
        entries += page
        after = page[-1]["seq"]
    ids = (await control.get("state"))["chats"]
    return Evidence(entries, {n: await control.get(f"chat/{n}") for n in ids})
