"""A disk that does not take what it should costs nothing that was accepted, and is said clearly."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import httpx
import pytest

from services.gateway.access import Access
from services.gateway.answering import Answering
from services.gateway.app import build_app
from services.gateway.engine import Engine
from services.gateway.history import History
from services.gateway.inbox import Inbox
from services.gateway.limits import Limits
from services.gateway.manner import House
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Store, StoreError
from services.wire import VERSION, VERSION_HEADER, Batch
from tests.unit.fakes import KEY, USER, FakeEngine, message, open_store, until

LINK = "L" * 43


def fill(store: Store) -> None:
    """Let the database grow no further: SQLite reports it as a full disk."""
    pages = store._db.pragma("page_count")
    store._db.pragma("max_page_count", pages)


def empty(store: Store) -> None:
    store._db.pragma("max_page_count", 10**6)


def lock(store: Store) -> None:
    store._db.pragma("query_only", 1)


def unlock(store: Store) -> None:
    store._db.pragma("query_only", 0)


BAD_DISKS = pytest.mark.parametrize(
    ("spoil", "mend", "remedy"),
    [
        (fill, empty, "the disk is full: make room"),
        (lock, unlock, "it cannot be written: check that the volume belongs to user 10003"),
    ],
    ids=["full", "read-only"],
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Store]:
    async with open_store(tmp_path) as store:
        yield store


@BAD_DISKS
async def test_new_asks_stay_with_telegram(
    store: Store,
    spoil: Callable[[Store], None],
    mend: Callable[[Store], None],
    remedy: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The relay is told to keep the updates; the operator, what to do; later the batch is taken."""
    outbox = Outbox(store, [])
    inbox = Inbox(store, Queue(), outbox, Access(store, frozenset({USER})), Limits(9, 9, 9000))
    transport = httpx.ASGITransport(build_app(inbox, outbox, LINK))
    headers = {"Authorization": f"Bearer {LINK}", VERSION_HEADER: str(VERSION)}
    body = {"bot_id": 1, "updates": [message(1, "x" * 16_000), message(2, "y" * 16_000)]}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers=headers
    ) as client:
        await store.run(spoil, store)

        refused = await client.post("/chat", json=body)
        kept = await store.run(store.asks)
        await store.run(mend, store)
        accepted = await client.post("/chat", json=body)

    assert refused.status_code == 503
    assert "keep the updates" in refused.json()["error"]
    assert kept == []
    assert remedy in [getattr(record, "remedy", "") for record in caplog.records]
    assert [r["outcome"] for r in accepted.json()["receipts"]] == ["accepted", "accepted"]


@BAD_DISKS
async def test_finished_answer_waits_for_the_disk(
    store: Store, spoil: Callable[[Store], None], mend: Callable[[Store], None], remedy: str
) -> None:
    """An answer that cannot be written is kept, not generated anew, and written in the end."""
    outbox, queue, fake = Outbox(store, []), Queue(), FakeEngine()
    engine: Engine = fake  # type: ignore[assignment]  # a fake of the same shape
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            await store.run(mend, store)
        await asyncio.sleep(0)

    history = History(store, engine, 4000)
    workers = Answering(store, queue, outbox, history, engine, 1, House(256, 0.0), sleep=wait)
    inbox = Inbox(store, queue, outbox, Access(store, frozenset({USER})), Limits(9, 9, 9000))
    full = asyncio.Event()
    fake.scripts.append(["z" * 16_000, full])
    batch = Batch(bot_id=1, updates=[message(1, "hello")])
    running = asyncio.create_task(workers.run())
    await inbox.accept(batch)
    await until(lambda: fake.requests, "the engine is asked")
    await store.run(spoil, store)

    full.set()
    await until(lambda: all(e.reply.closed for e in outbox._entries.values()), "it is closed")

    (reply,) = await store.run(store.undelivered_replies)
    running.cancel()
    await asyncio.wait({running})
    assert (reply.text, reply.closed) == ("z" * 16_000, True)
    assert waits == [1.0, 2.0, 4.0], remedy
    assert len(fake.requests) == 1
    assert (await inbox.accept(batch)).receipts[0].outcome == "duplicate"


async def test_failed_commit_does_not_spoil_the_next(store: Store) -> None:
    """A transaction that the disk refuses at its very end leaves the way free for others."""

    def write(text: str) -> None:
        with store.transaction():
            store.add_reply((7, 0), 1, text, closed=True)

    failing = True

    def refuse() -> bool:
        return failing  # SQLite makes a rollback of the commit

    store._db.set_commit_hook(refuse)
    with pytest.raises(StoreError):
        await store.run(write, "lost")
    failing = False

    await store.run(write, "kept")

    assert [reply.text for reply in await store.run(store.undelivered_replies)] == ["kept"]


@pytest.mark.parametrize(
    ("offset", "remedy"),
    [(0, "the key does not fit or the file is damaged"), (4096 * 2 + 100, "the file is damaged")],
)
def test_damaged_file_is_refused_with_a_remedy(tmp_path: Path, offset: int, remedy: str) -> None:
    """What is damaged is found at the start, said, and not written to."""
    file = tmp_path / "store.db"
    Store(file, KEY).close()
    with file.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"damage" * 100)
    before = file.read_bytes()

    with pytest.raises(StoreError, match=remedy):
        Store(file, KEY)

    assert file.read_bytes() == before


async def test_stream_that_the_store_does_not_take_is_refused(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A relay that connects while the disk is bad gets a clear refusal, not a broken stream."""
    outbox = Outbox(store, [])
    inbox = Inbox(store, Queue(), outbox, Access(store, frozenset({USER})), Limits(9, 9, 9000))
    headers = {"Authorization": f"Bearer {LINK}", VERSION_HEADER: str(VERSION)}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(build_app(inbox, outbox, LINK)),
        base_url="http://gateway",
        headers=headers,
    ) as client:
        await store.run(lock, store)

        refused = await client.get("/events")

    assert refused.status_code == 503
    assert [record.message for record in caplog.records if record.levelname == "CRITICAL"] == [
        "store failed"
    ]
