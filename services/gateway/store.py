"""The encrypted database of the model node: all SQL is here, and nothing else is.

SQLite in WAL mode with full synchronisation: a transaction that has returned survives a power
failure. Encrypted at rest by SQLite3 Multiple Ciphers (ChaCha20-Poly1305), so that neither the
file nor its journal shows any text. One thread owns the connection; `Store.run` sends work to it.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw

from services.wire import Button, Reply

T = TypeVar("T")

MIGRATIONS = (
    """
    CREATE TABLE updates(
        bot_id INTEGER, update_id INTEGER, identity BLOB, received_at INTEGER NOT NULL,
        PRIMARY KEY(bot_id, update_id, identity)) WITHOUT ROWID;
    CREATE TABLE wordings(
        chat_id INTEGER, message_id INTEGER, digest BLOB NOT NULL, received_at INTEGER NOT NULL,
        PRIMARY KEY(chat_id, message_id)) WITHOUT ROWID;
    CREATE TABLE conversations(
        chat_id INTEGER, thread_id INTEGER, number INTEGER NOT NULL,
        PRIMARY KEY(chat_id, thread_id)) WITHOUT ROWID;
    CREATE TABLE asks(
        id INTEGER PRIMARY KEY AUTOINCREMENT, reply_id INTEGER NOT NULL, user_id INTEGER NOT NULL,
        chat_id INTEGER NOT NULL, thread_id INTEGER NOT NULL, message_id INTEGER NOT NULL,
        conversation INTEGER NOT NULL, language TEXT NOT NULL, text TEXT NOT NULL,
        state TEXT NOT NULL, received_at REAL NOT NULL);
    CREATE INDEX asks_of_chat ON asks(chat_id, thread_id);
    CREATE INDEX asks_of_user ON asks(user_id);
    CREATE INDEX asks_of_reply ON asks(reply_id);
    CREATE TABLE replies(
        id INTEGER PRIMARY KEY AUTOINCREMENT, chat_id INTEGER NOT NULL, thread_id INTEGER NOT NULL,
        reply_to INTEGER NOT NULL, text TEXT NOT NULL, closed INTEGER NOT NULL,
        button_label TEXT NOT NULL, button_data TEXT NOT NULL);
    CREATE TABLE parts(
        reply_id INTEGER, position INTEGER, message_id INTEGER NOT NULL,
        PRIMARY KEY(reply_id, position)) WITHOUT ROWID;
    CREATE TABLE turns(
        id INTEGER PRIMARY KEY AUTOINCREMENT, chat_id INTEGER NOT NULL, thread_id INTEGER NOT NULL,
        role TEXT NOT NULL, text TEXT NOT NULL, created_at INTEGER NOT NULL);
    CREATE INDEX turns_of_chat ON turns(chat_id, thread_id, id);
    CREATE TABLE usage(
        user_id INTEGER, day TEXT, asks INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
        answer_tokens INTEGER NOT NULL, engine_ms INTEGER NOT NULL,
        PRIMARY KEY(user_id, day)) WITHOUT ROWID;
    CREATE TABLE counters(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    """,
)
"""Migration n brings a store of version n to version n + 1. Never edit one that was released."""


class StoreError(Exception):
    """The store cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Ask:
    """A message of a user that waits for its answer, or is being answered."""

    id: int
    reply_id: int
    user_id: int
    chat_id: int
    thread_id: int
    message_id: int
    conversation: int
    language: str
    text: str
    state: Literal["waiting", "running", "stopping"]
    received_at: float


@dataclass(frozen=True)
class Turn:
    """One side's words in a conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Usage:
    """What one answer cost."""

    prompt_tokens: int
    answer_tokens: int
    engine_ms: int


class Store:
    """An open store; its methods belong into its own thread: `await store.run(store.asks)`."""

    def __init__(self, file: Path, key: str) -> None:
        """Open or create the store.

        Raises StoreError if the file cannot be opened with this key. `key` is 64 hex digits.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db = self._thread.submit(_open, file, key).result()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do work in the store's thread. Raises StoreError if the disk does not take it."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work, *arguments)
        except apsw.Error as error:
            raise StoreError(_remedy(error)) from None

    def close(self) -> None:
        """Close the store; whoever calls has stopped all work."""
        self._thread.submit(self._db.close).result()
        self._thread.shutdown()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on the disk when it ends."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Updates

    def remember_update(self, bot_id: int, update_id: int, identity: bytes) -> bool:
        """Note an update; False if it is known already."""
        self._db.execute(
            "INSERT OR IGNORE INTO updates VALUES(?, ?, ?, ?)",
            (bot_id, update_id, identity, int(time.time())),
        )
        return self._db.changes() == 1

    def remember_wording(self, chat_id: int, message_id: int, text: str) -> bool:
        """Note a message's text by its digest; False if it is known with this text already."""
        digest = hashlib.sha256(text.encode()).digest()[:16]
        self._db.execute(
            "INSERT INTO wordings VALUES(?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " digest = excluded.digest WHERE digest != excluded.digest",
            (chat_id, message_id, digest, int(time.time())),
        )
        return self._db.changes() == 1

    def forget_updates(self, older_than_seconds: int) -> None:
        """Drop what is known of updates that Telegram can no longer deliver again."""
        limit = int(time.time()) - older_than_seconds
        self._db.execute("DELETE FROM updates WHERE received_at < ?", (limit,))
        self._db.execute("DELETE FROM wordings WHERE received_at < ?", (limit,))

    # Asks

    def add_ask(
        self, reply_id: int, user_id: int, chat: tuple[int, int], message_id: int, language: str,
        text: str,
    ) -> Ask:  # fmt: skip
        """Store an ask in the chat's current conversation."""
        conversation = self.conversation(chat)
        now = time.time()
        self._db.execute(
            "INSERT INTO asks(reply_id, user_id, chat_id, thread_id, message_id, conversation,"
            " language, text, state, received_at) VALUES(?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?)",
            (reply_id, user_id, *chat, message_id, conversation, language, text, now),
        )
        return Ask(
            self._db.last_insert_rowid(), reply_id, user_id, *chat, message_id, conversation,
            language, text, "waiting", now,
        )  # fmt: skip

    def asks(self, chat: tuple[int, int] | None = None) -> list[Ask]:
        """List the unanswered asks, oldest first; of one chat and topic, or all."""
        if chat is None:
            return self._select_asks("", ())
        return self._select_asks("AND chat_id = ? AND thread_id = ?", chat)

    def _select_asks(self, condition: str, values: tuple[int, ...]) -> list[Ask]:
        rows = self._db.execute(
            "SELECT id, reply_id, user_id, chat_id, thread_id, message_id, conversation, language,"
            f" text, state, received_at FROM asks WHERE state != 'answered' {condition}"
            " ORDER BY id",
            values,
        )
        return [Ask(*row) for row in rows]

    def count_asks(self, user_id: int) -> tuple[int, int]:
        """Count the unanswered asks: of this user, and of all."""
        of_user, of_all = self._row(
            "SELECT total(user_id = ?), count(*) FROM asks WHERE state != 'answered'", (user_id,)
        )
        return int(of_user), int(of_all)

    def take_ask(self, ask_id: int) -> Ask | None:
        """Begin to answer an ask: as it is worded now. None: it was stopped before its turn."""
        self._db.execute(
            "UPDATE asks SET state = 'running' WHERE id = ? AND state = 'waiting'", (ask_id,)
        )
        return next(iter(self._select_asks("AND id = ?", (ask_id,))), None)

    def requeue_asks(self) -> None:
        """Let the asks that an earlier process was answering wait again."""
        self._db.execute("UPDATE asks SET state = 'waiting' WHERE state = 'running'")

    def reword_ask(self, ask_id: int, text: str) -> None:
        """Replace the text of an ask that waits."""
        self._db.execute("UPDATE asks SET text = ? WHERE id = ?", (text, ask_id))

    def stop_ask(self, ask_id: int) -> None:
        """Note that the ask shall not be answered any further."""
        self._db.execute("UPDATE asks SET state = 'stopping' WHERE id = ?", (ask_id,))

    def withdraw_ask(self, ask: Ask, shown: str) -> None:
        """Close an ask that still waits."""
        self.close_reply(ask.reply_id, shown)
        self._db.execute("UPDATE asks SET state = 'answered', text = '' WHERE id = ?", (ask.id,))

    def finish_ask(self, ask: Ask, answer: str, shown: str, usage: Usage | None) -> None:
        """Close the ask: its reply, its turns in the history and its cost, in one transaction.

        `answer` is what the conversation remembers, `shown` what the user sees.
        """
        with self.transaction():
            chat = (ask.chat_id, ask.thread_id)
            self.close_reply(ask.reply_id, shown)
            self._db.execute(
                "UPDATE asks SET state = 'answered', text = '' WHERE id = ?", (ask.id,)
            )
            is_wanted = self._db.changes() == 1  # not if its chat is gone
            if answer and is_wanted and ask.conversation == self.conversation(chat):
                now = int(time.time())
                self._db.executemany(
                    "INSERT INTO turns(chat_id, thread_id, role, text, created_at)"
                    " VALUES(?, ?, ?, ?, ?)",
                    [(*chat, "user", ask.text, now), (*chat, "assistant", answer, now)],
                )
            if usage:
                self._db.execute(
                    "INSERT INTO usage VALUES(?, date('now'), 1, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " asks = asks + 1, prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
                    " answer_tokens = answer_tokens + excluded.answer_tokens,"
                    " engine_ms = engine_ms + excluded.engine_ms",
                    (ask.user_id, usage.prompt_tokens, usage.answer_tokens, usage.engine_ms),
                )

    # Conversations

    def conversation(self, chat: tuple[int, int]) -> int:
        """Number the chat's current conversation."""
        row = self._db.execute(
            "SELECT number FROM conversations WHERE chat_id = ? AND thread_id = ?", chat
        ).fetchone()
        return row[0] if row else 0

    def start_conversation(self, chat: tuple[int, int]) -> None:
        """Forget the chat's turns; answers to earlier asks no longer add any."""
        self._db.execute(
            "INSERT INTO conversations VALUES(?, ?, 1)"
            " ON CONFLICT DO UPDATE SET number = number + 1",
            chat,
        )
        self._db.execute("DELETE FROM turns WHERE chat_id = ? AND thread_id = ?", chat)

    def latest_turns(self, chat: tuple[int, int], most: int) -> list[Turn]:
        """Read the last turns of the conversation, oldest first."""
        rows = self._db.execute(
            "SELECT role, text FROM turns WHERE chat_id = ? AND thread_id = ?"
            " ORDER BY id DESC LIMIT ?",
            (*chat, most),
        )
        return [Turn(*row) for row in rows][::-1]

    # Replies

    def add_reply(
        self, chat: tuple[int, int], reply_to: int, text: str = "", *, closed: bool = False
    ) -> Reply:
        """Store a reply: a complete one, or an empty one that will grow."""
        self._db.execute(
            "INSERT INTO replies(chat_id, thread_id, reply_to, text, closed, button_label,"
            " button_data) VALUES(?, ?, ?, ?, ?, '', '')",
            (*chat, reply_to, text, closed),
        )
        return Reply(
            id=self._db.last_insert_rowid(), chat_id=chat[0], thread_id=chat[1],
            reply_to=reply_to, text=text, closed=closed,
        )  # fmt: skip

    def set_button(self, reply: Reply, button: Button) -> Reply:
        """Give a growing reply its button."""
        self._db.execute(
            "UPDATE replies SET button_label = ?, button_data = ? WHERE id = ?",
            (button.label, button.data, reply.id),
        )
        return reply.model_copy(update={"buttons": (button,)})

    def count_replies(self, chat: tuple[int, int]) -> int:
        """Count the replies that this chat has not been shown yet."""
        (count,) = self._row(
            "SELECT count(*) FROM replies WHERE chat_id = ? AND thread_id = ?", chat
        )
        return int(count)

    def close_reply(self, reply_id: int, text: str) -> None:
        """Store the reply's whole text; it has no button any more."""
        self._db.execute(
            "UPDATE replies SET text = ?, closed = 1, button_label = '', button_data = ''"
            " WHERE id = ?",
            (text, reply_id),
        )

    def undelivered_replies(self) -> list[Reply]:
        """Read every reply that the relay has not confirmed, oldest first."""
        parts: dict[int, list[int]] = {}
        for reply_id, message_id in self._db.execute(
            "SELECT reply_id, message_id FROM parts ORDER BY reply_id, position"
        ):
            parts.setdefault(reply_id, []).append(message_id)
        return [
            Reply(
                id=row[0], chat_id=row[1], thread_id=row[2], reply_to=row[3], text=row[4],
                closed=bool(row[5]), parts=tuple(parts.get(row[0], ())),
                buttons=(Button(label=row[6], data=row[7]),) if row[7] else (),
            )
            for row in self._db.execute(
                "SELECT id, chat_id, thread_id, reply_to, text, closed, button_label, button_data"
                " FROM replies ORDER BY id"
            )
        ]  # fmt: skip

    def record_part(self, reply_id: int, position: int, message_id: int) -> bool:
        """Note which Telegram message carries a part; False if another one does already."""
        self._db.execute(
            "INSERT OR IGNORE INTO parts VALUES(?, ?, ?)", (reply_id, position, message_id)
        )
        (stored,) = self._row(
            "SELECT message_id FROM parts WHERE reply_id = ? AND position = ?", (reply_id, position)
        )
        return bool(stored == message_id)

    def drop_reply(self, reply_id: int) -> None:
        """Forget a reply that stands in its chat, and its ask."""
        with self.transaction():
            self._db.execute("DELETE FROM replies WHERE id = ?", (reply_id,))
            self._db.execute("DELETE FROM parts WHERE reply_id = ?", (reply_id,))
            self._db.execute("DELETE FROM asks WHERE reply_id = ?", (reply_id,))

    # Epochs

    def next_epoch(self) -> int:
        """Number a new stream: higher than every stream before it, restarts included."""
        (epoch,) = self._row(
            "INSERT INTO counters VALUES('epoch', 1)"
            " ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value"
        )
        return int(epoch)

    def _row(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        return next(iter(self._db.execute(sql, values)))


def _open(file: Path, key: str) -> apsw.Connection:
    try:
        db = apsw.Connection(str(file))
        db.set_busy_timeout(5000)  # a backup may be reading
        db.pragma("cipher", "chacha20")
        db.execute(f"PRAGMA key = 'raw:{key}'")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        db.execute("PRAGMA temp_store = MEMORY")
        _migrate(db)
    except apsw.Error as error:
        raise StoreError(f"opening the store {file}: {_remedy(error)}") from None
    return db


def _migrate(db: apsw.Connection) -> None:
    version = int(db.pragma("user_version"))
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the store has version {version}, newer than this gateway's {len(MIGRATIONS)}: "
            "start the newer gateway, or restore an older backup"
        )
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        with db:
            db.execute(migration)
            db.execute(f"PRAGMA user_version = {number}")


def _remedy(error: apsw.Error) -> str:
    match error:
        case apsw.NotADBError():
            return "the key does not fit or the file is damaged: check the secret store_key"
        case apsw.CorruptError():
            return "the file is damaged: restore a backup"
        case apsw.FullError():
            return "the disk is full: make room"
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            return "it cannot be written: check that the volume belongs to user 10003"
        case apsw.CantOpenError():
            return "it cannot be opened: check that its directory exists and belongs to user 10003"
        case _:
            return f"{type(error).__name__}: check the disk"
