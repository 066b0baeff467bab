"""A store of every earlier version becomes one of today, with all that it held."""

import sqlite3
from pathlib import Path

import apsw
import pytest

from services.gateway.database import Database
from services.gateway.outbox import Outbox
from services.gateway.schema import MIGRATIONS
from services.gateway.store import Piece, Store, Usage, WantedDocument
from tests.unit.fakes import KEY

VERSION_1 = """
    INSERT INTO updates VALUES(1, 10, x'00', 1700000000);
    INSERT INTO conversations VALUES(7, 0, 3);
    INSERT INTO asks VALUES(4, 2, 7, 7, 0, 55, 3, 'en', 'waits', 'waiting', 1700000000.5);
    INSERT INTO asks VALUES(5, 3, 7, 7, 0, 56, 3, 'ru', 'runs', 'running', 1700000001.5);
    INSERT INTO asks VALUES(6, 9, 7, 7, 0, 57, 3, 'ru', '', 'answered', 1700000001.5);
    INSERT INTO replies VALUES(2, 7, 0, 55, '', 0, 'Stop', 'stop:4');
    INSERT INTO replies VALUES(3, 7, 0, 56, 'half', 0, 'Stop', 'stop:5');
    INSERT INTO parts VALUES(2, 0, 91);
    INSERT INTO turns VALUES(1, 7, 0, 'user', 'earlier', 1700000000);
    INSERT INTO usage VALUES(7, '2026-01-02', 3, 100, 50, 1234);
"""


def at_version(file: Path, version: int, content: str) -> None:
    """Write a store as an earlier gateway left it."""
    Database(file, KEY, MIGRATIONS[:version]).close()
    db = apsw.Connection(str(file))
    db.pragma("cipher", "chacha20")
    db.execute(f"PRAGMA key = 'raw:{KEY}'")
    db.execute(content)
    db.close()


async def test_version_1_becomes_todays(tmp_path: Path) -> None:
    """Asks keep their text, as one piece; replies, parts, turns and usage stay as they were."""
    at_version(tmp_path / "store.db", 1, VERSION_1)

    store = Store(tmp_path / "store.db", KEY)

    waits, runs = await store.run(store.asks)
    assert (waits.text, waits.pieces) == ("waits", (Piece(55, "waits", 1_700_000_000),))
    assert (runs.text, runs.state, runs.spent) == ("runs", "running", Usage(0, 0, 0))
    empty, half = await store.run(store.undelivered_replies)
    assert (empty.parts, empty.buttons[0].data) == ((91,), "stop:4")
    assert half.text == "half"
    assert [empty.markup, half.markup] == ["markdown", "markdown"]
    assert await store.run(store.conversation, (7, 0)) == 3
    assert [turn.text for turn in await store.run(store.latest_turns, (7, 0), 9)] == ["earlier"]
    assert not await store.run(store.remember_update, 1, 10, b"\0")
    assert await store.run(store.guests) == ()
    (usage,) = await store.run(store.usage, 10**5)
    assert (usage.asks, usage.usage) == (3, Usage(100, 50, 1234))
    store.close()


async def test_files_of_version_7_are_read(tmp_path: Path) -> None:
    """An export that was on its way when the gateway was upgraded arrives as it was."""
    content = """
        INSERT INTO replies(id, chat_id, thread_id, reply_to, text, closed)
            VALUES(2, 7, 0, 0, 'caption', 1);
        INSERT INTO files VALUES(2, 'conversation.md', 'слова');
    """
    at_version(tmp_path / "store.db", 7, content)

    store = Store(tmp_path / "store.db", KEY)

    (reply,) = await store.run(store.undelivered_replies)
    assert (reply.file, reply.is_photo) == ("conversation.md", False)
    assert await Outbox(store, [reply]).file(0, 2) == "слова".encode()
    store.close()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_every_migration_is_one_step(tmp_path: Path, version: int) -> None:
    """Stores of all versions end alike, table by table, whatever their way."""

    def shape(file: Path) -> list[tuple[object, ...]]:
        db = Database(file, KEY, MIGRATIONS)
        rows = list(db._db.execute("SELECT type, name, tbl_name FROM sqlite_schema ORDER BY name"))
        (number,) = db._row("PRAGMA user_version")
        db.close()
        return [*rows, (number,)]

    at_version(tmp_path / "old.db", version, "")

    assert shape(tmp_path / "old.db") == shape(tmp_path / "new.db")


def test_migrations_are_plain_sql(tmp_path: Path) -> None:
    """They run in any SQLite: a store can be read by other tools, once it is decrypted."""
    db = sqlite3.connect(tmp_path / "plain.db")
    for migration in MIGRATIONS:
        db.executescript(migration)
    db.close()


def test_migration_that_fails_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    """A gateway that cannot bring a store forward does not leave it half way."""
    at_version(tmp_path / "store.db", 1, VERSION_1)
    broken = (*MIGRATIONS[:1], MIGRATIONS[1] + "; SELECT * FROM no_such_table")

    with pytest.raises(Exception, match="opening the store"):
        Database(tmp_path / "store.db", KEY, broken)

    Store(tmp_path / "store.db", KEY).close()


async def test_document_that_is_on_its_way_is_still_wanted(tmp_path: Path) -> None:
    """Version 7 knew one a reply."""
    content = """
        INSERT INTO replies(id, chat_id, thread_id, reply_to, text, closed, document, document_kind,
            document_name) VALUES(2, 7, 0, 55, '', 0, 'BQAC', 'document', 'a.pdf');
        INSERT INTO replies(id, chat_id, thread_id, reply_to, text, closed)
            VALUES(3, 7, 0, 56, '', 0);
        INSERT INTO asks(id, reply_id, user_id, chat_id, thread_id, message_id, conversation,
            language, state, received_at) VALUES(4, 2, 7, 7, 0, 55, 0, 'en', 'waiting', 0);
        INSERT INTO pieces VALUES(4, 0, 55, 'what', 0, '');
    """
    at_version(tmp_path / "store.db", 7, content)

    store = Store(tmp_path / "store.db", KEY)

    replies = await store.run(store.undelivered_replies)
    assert [reply.document for reply in replies] == ["BQAC", ""]
    found = await store.run(store.wanted_document, 2)
    assert found
    assert found[0].lacks_document
    assert found[1] == WantedDocument("BQAC", "document", "a.pdf", 55)
    store.close()
