"""A gateway's HTTP interface with all that is behind it but the engine; no port is opened."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from services.gateway.access import Access
from services.gateway.app import build_app
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store
from services.wire import VERSION, VERSION_HEADER
from tests.unit.fakes import USER, open_store

LINK = "L" * 43


@dataclass
class Gateway:
    client: httpx.AsyncClient
    store: Store
    outbox: Outbox
    inbox: Inbox


@asynccontextmanager
async def serve(directory: Path) -> AsyncGenerator[Gateway]:
    """Serve one user's gateway to a client that knows the link token and the version."""
    async with open_store(directory) as store:
        outbox = Outbox(store, [])
        inbox = Inbox(store, Queue(), outbox, Access(store, frozenset({USER})), Limits(5, 5, 3000))
        transport = httpx.ASGITransport(build_app(inbox, outbox, LINK))
        headers = {"Authorization": f"Bearer {LINK}", VERSION_HEADER: str(VERSION)}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://gateway", headers=headers
        ) as client:
            yield Gateway(client, store, outbox, inbox)
