"""The store keeps what it was given, encrypted, and says clearly why it cannot."""

from pathlib import Path

import apsw
import pytest

from services.gateway.schema import MIGRATIONS
from services.gateway.store import NOTHING, Piece, Store, StoreError, Usage
from tests.unit.fakes import KEY

CHAT = (7, 0)
CANARY = "quetzalcoatlus canary"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def test_reopened_store_knows_what_was_committed(file: Path) -> None:
    """An ask, its reply and the parts recorded for it survive the process."""
    store = Store(file, KEY)
    with_reply = await store.run(store.add_reply, CHAT, 5)
    await store.run(store.add_ask, with_reply.id, 7, CHAT, "en", [Piece(5, "hello", 0)])
    await store.run(store.record_part, with_reply.id, 0, 91)
    store.close()

    store = Store(file, KEY)
    asks = await store.run(store.asks)
    replies = await store.run(store.undelivered_replies)
    store.close()

    assert [(ask.text, ask.state, ask.reply_id) for ask in asks] == [
        ("hello", "waiting", with_reply.id)
    ]
    assert [reply.parts for reply in replies] == [(91,)]


async def test_no_text_is_readable_in_the_files(file: Path) -> None:
    """Neither the database nor its journal shows a user's text."""
    store = Store(file, KEY)
    reply = await store.run(store.add_reply, CHAT, 5)
    ask = await store.run(store.add_ask, reply.id, 7, CHAT, "en", [Piece(5, CANARY, 0)])
    await store.run(store.finish_ask, ask, CANARY, CANARY, NOTHING)

    raw = b"".join(path.read_bytes() for path in file.parent.iterdir())
    store.close()

    assert len(raw) > 4096
    assert CANARY.encode() not in raw
    assert not raw.startswith(b"SQLite format 3")


def test_wrong_key_is_refused_with_a_remedy(file: Path) -> None:
    """A store that was made with another key stays closed and unharmed."""
    Store(file, KEY).close()

    with pytest.raises(StoreError, match="check the secret store_key"):
        Store(file, "f" * 64)

    Store(file, KEY).close()


def test_missing_directory_is_refused_with_a_remedy(tmp_path: Path) -> None:
    """A volume that is not there gives a sentence, not a stack trace."""
    with pytest.raises(StoreError, match="check that its directory exists"):
        Store(tmp_path / "absent" / "store.db", KEY)


def test_newer_store_is_refused(file: Path) -> None:
    """An older gateway does not touch a newer store."""
    Store(file, KEY).close()
    db = apsw.Connection(str(file))
    db.pragma("cipher", "chacha20")
    db.execute(f"PRAGMA key = 'raw:{KEY}'")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()

    with pytest.raises(StoreError, match="start the newer gateway"):
        Store(file, KEY)


async def test_failed_transaction_leaves_nothing(file: Path) -> None:
    """What was written before an error inside a transaction is taken back."""
    store = Store(file, KEY)

    def fail() -> None:
        with store.transaction():
            store.add_reply(CHAT, 1, "half", closed=True)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.run(fail)

    assert await store.run(store.undelivered_replies) == []
    store.close()


async def test_answer_history_and_cost_come_together(file: Path) -> None:
    """Closing an ask writes the reply's text and the conversation's turns at once."""
    store = Store(file, KEY)
    reply = await store.run(store.add_reply, CHAT, 5)
    ask = await store.run(store.add_ask, reply.id, 7, CHAT, "en", [Piece(5, "question", 0)])

    await store.run(store.finish_ask, ask, "answer", "answer (shown)", Usage(3, 4, 5))

    turns = await store.run(store.latest_turns, CHAT, 10)
    (closed,) = await store.run(store.undelivered_replies)
    assert [(turn.role, turn.text) for turn in turns] == [
        ("user", "question"),
        ("assistant", "answer"),
    ]
    assert (closed.text, closed.closed) == ("answer (shown)", True)
    assert await store.run(store.asks) == []
    store.close()


async def test_answer_to_a_forgotten_conversation_is_not_remembered(file: Path) -> None:
    """After /new, an answer that was still under way adds nothing to the new conversation."""
    store = Store(file, KEY)
    reply = await store.run(store.add_reply, CHAT, 5)
    ask = await store.run(store.add_ask, reply.id, 7, CHAT, "en", [Piece(5, "old question", 0)])
    await store.run(store.start_conversation, CHAT)

    await store.run(store.finish_ask, ask, "old answer", "old answer", NOTHING)

    assert await store.run(store.latest_turns, CHAT, 10) == []
    store.close()


async def test_epochs_grow_over_restarts(file: Path) -> None:
    """No two streams ever have the same epoch."""
    store = Store(file, KEY)
    first = await store.run(store.next_epoch)
    store.close()
    store = Store(file, KEY)

    second = await store.run(store.next_epoch)

    store.close()
    assert second > first


async def test_first_record_of_a_part_stands(file: Path) -> None:
    """A part that was recorded cannot be moved to another message."""
    store = Store(file, KEY)
    reply = await store.run(store.add_reply, CHAT, 5)

    assert await store.run(store.record_part, reply.id, 0, 91)
    assert await store.run(store.record_part, reply.id, 0, 91)
    assert not await store.run(store.record_part, reply.id, 0, 92)

    (stored,) = await store.run(store.undelivered_replies)
    store.close()
    assert stored.parts == (91,)
