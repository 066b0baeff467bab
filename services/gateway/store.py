"""What the model node knows: all SQL is here, and nothing else is.

Methods belong into the store's own thread: `await store.run(store.asks)`. Those that say so are
transactions of their own; the others are called within one (`with store.transaction()`).
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from services.gateway.database import Database, StoreError
from services.gateway.manner import Preferences
from services.gateway.pictures import MOST_PICTURES
from services.gateway.schema import MIGRATIONS
from services.wire import Button, Reply

__all__ = [
    "INVITATION_SECONDS",
    "NOTHING",
    "Ask",
    "Chat",
    "Checkpoint",
    "Exchange",
    "Piece",
    "ShownMenu",
    "Store",
    "StoreError",
    "Summary",
    "Turn",
    "Usage",
    "UsageRow",
    "WantedDocument",
]

Chat = tuple[int, int]
"""Chat id and forum topic; topic 0 outside of forums."""

OPEN = "state IN ('waiting', 'running', 'stopping')"
"""The condition of an ask that is not answered; failed ones wait for their user to try again."""

_TURN = (
    "id, role, text, created_at,"
    " (SELECT json_group_array(id ORDER BY id) FROM pictures WHERE turn_id = turns.id)"
)
"""Columns of a turn; see `_turn`."""

_CONVERSATION = (
    "coalesce((SELECT number FROM conversations WHERE chat_id = ? AND thread_id = ?), 0)"
)
"""The number of a chat's current conversation."""

_OF_CHAT = "reply_id IN (SELECT id FROM replies WHERE chat_id = ? AND thread_id = ?)"

INVITATION_SECONDS = 24 * 3600

SKIPPED = 10_000_000
"""More numbers than a store gives out between two backups."""

HARD_CUT_UNITS = 4096
"""UTF-16 units at which a client cuts what is too long for one message, wherever that is."""


@dataclass(frozen=True)
class Usage:
    """What an answer has cost: tokens, and milliseconds of one of the engine's slots."""

    prompt_tokens: int = 0
    answer_tokens: int = 0
    engine_ms: int = 0

    @property
    def tokens(self) -> int:
        """Those read and those written."""
        return self.prompt_tokens + self.answer_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.answer_tokens + other.answer_tokens,
            self.engine_ms + other.engine_ms,
        )


NOTHING = Usage()


@dataclass(frozen=True)
class Piece:
    """One message of an ask: a client cuts a long paste into several, and sends albums so."""

    message_id: int
    text: str
    sent_at: int
    """Unix time in seconds, by Telegram's clock."""
    context: str = ""
    """What the model is to know of it: what is replied to, and what cannot be read."""
    album: str = ""
    """What Telegram calls the album that it is one of."""

    @property
    def units(self) -> int:
        """Length in UTF-16 units, as Telegram counts."""
        return utf16_units(self.text)


@dataclass(frozen=True)
class Ask:
    """What a user wrote, that waits for its answer or is being answered."""

    id: int
    reply_id: int
    user_id: int
    chat_id: int
    thread_id: int
    message_id: int
    conversation: int
    language: str
    state: Literal["waiting", "running", "stopping"]
    received_at: float
    spent: Usage = NOTHING
    """What its answer has cost so far."""
    pieces: tuple[Piece, ...] = ()
    lacks_document: bool = False
    """Whether it must wait for a document that belongs to it."""
    pictures: tuple[int, ...] = ()
    """Those that go with it, by the store's numbers."""

    @property
    def chat(self) -> Chat:
        """Where it was written: within it asks are answered in order."""
        return self.chat_id, self.thread_id

    @property
    def text(self) -> str:
        """The whole of it, as it was before the client cut it, behind what it refers to."""
        text = "".join(piece.context for piece in self.pieces)
        glue = ""
        for piece in self.pieces:
            if not piece.text:
                continue  # one of an album has the caption
            text += glue + piece.text
            # Clients cut at white space, which is lost, unless there is none for a whole message.
            glue = "" if piece.units >= HARD_CUT_UNITS else "\n"
        return text


@dataclass(frozen=True)
class WantedDocument:
    """A file that a user has sent, and that Telegram still holds."""

    id: str
    kind: str
    """By Telegram's name for what a message carries: `document`, `voice`."""
    name: str
    message_id: int
    """Which message of the ask it came with."""


@dataclass(frozen=True)
class Turn:
    """One side's words in a conversation."""

    role: Literal["user", "assistant"]
    text: str
    at: int = field(default=0, compare=False)
    """Unix time in seconds."""
    pictures: tuple[int, ...] = ()
    """Those that go with it, by the store's numbers."""
    id: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Summary:
    """What the beginning of a conversation comes to; it stands for those turns in a prompt."""

    text: str
    until_turn: int
    """The last turn that is in it."""
    since: int
    """When the oldest turn that is in it was said: Unix time in seconds."""


@dataclass(frozen=True)
class Exchange:
    """The latest question of a chat that was answered, and where its answer stands."""

    ask_id: int
    user_id: int
    message_id: int
    """Of the question."""
    first_turn: int
    """The question's turn; the next one is the answer's."""
    parts: tuple[int, ...]
    """The answer's messages; none until the relay is done with them."""
    pieces: int
    """The question's messages; 0 where that is not known any more."""
    pictures: int = 0
    """How many go with the question."""


@dataclass(frozen=True)
class ShownMenu:
    """A message with buttons that are for one user."""

    chat_id: int
    message_id: int
    thread_id: int
    user_id: int
    reply_id: int
    """The page that is on its way; 0 if there is none."""
    heartbeat: str
    """Its language, if it is one that is renewed."""


@dataclass(frozen=True)
class Checkpoint:
    """How far the answer to an ask has come."""

    ask_id: int
    reply_id: int
    text: str
    spent: Usage


@dataclass(frozen=True)
class UsageRow:
    """What one user has used on one day (UTC); never any text."""

    user_id: int
    day: str
    asks: int
    usage: Usage


def utf16_units(text: str) -> int:
    """Count as Telegram does."""
    return len(text) + sum(character > "\uffff" for character in text)


class Store(Database):
    """Updates, asks, replies, conversations, guests, preferences and usage."""

    def __init__(self, file: Path, key: str) -> None:
        """Open or create the store. Raises StoreError; see Database."""
        super().__init__(file, key, MIGRATIONS)

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

    # Asks

    def add_ask(
        self, reply_id: int, user_id: int, chat: Chat, language: str, pieces: Sequence[Piece]
    ) -> Ask:
        """Store an ask in the chat's current conversation."""
        now = time.time()
        ask_id, conversation = self._row(
            "INSERT INTO asks(reply_id, user_id, chat_id, thread_id, message_id, conversation,"
            " language, state, received_at)"
            f" VALUES(?, ?, ?, ?, ?, {_CONVERSATION}, ?, 'waiting', ?) RETURNING id, conversation",
            (reply_id, user_id, *chat, pieces[0].message_id, *chat, language, now),
        )
        ask = Ask(
            ask_id, reply_id, user_id, chat[0], chat[1], pieces[0].message_id, conversation,
            language, "waiting", now, pieces=tuple(pieces),
        )  # fmt: skip
        for position, piece in enumerate(pieces):
            self._write_piece(ask.id, position, piece)
        return ask

    def add_piece(self, ask: Ask, piece: Piece) -> Ask:
        """Lengthen an ask that waits."""
        self._change_piece(ask, len(ask.pieces), piece)
        return replace(ask, pieces=(*ask.pieces, piece))

    def reword_piece(self, ask: Ask, position: int, text: str) -> None:
        """Replace the text of one message of an ask that waits."""
        old = ask.pieces[position]
        self._change_piece(ask, position, replace(old, text=text))

    def _change_piece(self, ask: Ask, position: int, piece: Piece) -> None:
        self._write_piece(ask.id, position, piece)
        # What an earlier process has said already is no beginning of an answer to this.
        self._db.execute("UPDATE replies SET text = '' WHERE id = ?", (ask.reply_id,))

    def _write_piece(self, ask_id: int, position: int, piece: Piece) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO pieces VALUES(?, ?, ?, ?, ?, ?, ?)",
            (
                *(ask_id, position, piece.message_id, piece.text, piece.sent_at),
                *(piece.context, piece.album),
            ),
        )

    def asks(self, chat: Chat | None = None) -> list[Ask]:
        """List the unanswered asks, oldest first; of one chat and topic, or all."""
        if chat is None:
            return self._select_asks(OPEN, ())
        return self._select_asks(f"{OPEN} AND chat_id = ? AND thread_id = ?", chat)

    def _select_asks(self, condition: str, values: tuple[int, ...]) -> list[Ask]:
        rows = self._db.execute(
            "SELECT id, reply_id, user_id, chat_id, thread_id, message_id, conversation, language,"
            " state, received_at, prompt_tokens, answer_tokens, engine_ms,"
            " EXISTS(SELECT 1 FROM wanted WHERE wanted.reply_id = asks.reply_id)"
            " FROM asks"
            f" WHERE {condition} ORDER BY id",
            values,
        )
        return [
            replace(
                Ask(*row[:10]),
                spent=Usage(*row[10:13]),
                pieces=self._pieces(row[0]),
                lacks_document=bool(row[13]),
                pictures=self._pictures_of(row[0]),
            )
            for row in list(rows)
        ]

    def _pictures_of(self, ask_id: int) -> tuple[int, ...]:
        rows = self._db.execute("SELECT id FROM pictures WHERE ask_id = ? ORDER BY id", (ask_id,))
        return tuple(row[0] for row in rows)

    def pictures(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Read pictures by their numbers, less those that were erased meanwhile."""
        rows = self._db.execute(
            f"SELECT id, content FROM pictures WHERE id IN ({','.join('?' * len(numbers))})",
            tuple(numbers),
        )
        return {row[0]: row[1] for row in rows}

    def _pieces(self, ask_id: int) -> tuple[Piece, ...]:
        rows = self._db.execute(
            "SELECT message_id, text, sent_at, context, album FROM pieces WHERE ask_id = ?"
            " ORDER BY position",
            (ask_id,),
        )
        return tuple(Piece(*row) for row in rows)

    def count_asks(self, user_id: int) -> tuple[int, int]:
        """Count the unanswered asks: of this user, and of all."""
        of_user, of_all = self._row(
            f"SELECT total(user_id = ?), count(*) FROM asks WHERE {OPEN}",
            (user_id,),
        )
        return int(of_user), int(of_all)

    def take_ask(self, ask_id: int) -> tuple[Ask, str] | None:
        """Begin to answer an ask as it is worded now; a transaction.

        Returns it with what its reply says so far. None: it was stopped before its turn. One that
        has come to lack a document in this moment is returned as it waits.
        """
        with self.transaction():
            for ask in self._select_asks(f"{OPEN} AND id = ?", (ask_id,)):
                if ask.state == "waiting" and not ask.lacks_document:
                    self._db.execute("UPDATE asks SET state = 'running' WHERE id = ?", (ask_id,))
                    ask = replace(ask, state="running")
                return ask, self.said(ask)
        return None

    def requeue_asks(self) -> None:
        """Let the asks that an earlier process was answering wait again."""
        self._db.execute("UPDATE asks SET state = 'waiting' WHERE state = 'running'")

    def want_document(self, ask: Ask, reply: Reply, document: WantedDocument) -> tuple[Ask, Reply]:
        """Let an ask wait until a document of it has been brought."""
        ask = self.want_another(ask, document)
        return ask, reply.model_copy(update={"document": document.id})

    def want_another(self, ask: Ask, document: WantedDocument) -> Ask:
        """Let an ask wait for one more document; the same one need not be brought twice."""
        self._db.execute(
            "INSERT INTO wanted(reply_id, document, kind, name, message_id) SELECT ?, ?, ?, ?, ?"
            " WHERE NOT EXISTS(SELECT 1 FROM wanted WHERE reply_id = ? AND document = ?)",
            (
                *(ask.reply_id, document.id, document.kind, document.name, document.message_id),
                *(ask.reply_id, document.id),
            ),
        )
        return replace(ask, lacks_document=True)

    def wanted_document(
        self, reply_id: int, document_id: str = ""
    ) -> tuple[Ask, WantedDocument] | None:
        """Find the ask that lacks this document, or any, with the first one; None if none does."""
        row = self._db.execute(
            "SELECT document, kind, name, message_id FROM wanted"
            " WHERE reply_id = ? AND ? IN ('', document) ORDER BY id LIMIT 1",
            (reply_id, document_id),
        ).fetchone()
        asks = self._select_asks(f"{OPEN} AND reply_id = ?", (reply_id,))
        return (asks[0], WantedDocument(*row)) if row and asks else None

    def add_document(self, ask: Ask, document: WantedDocument, content: str | bytes) -> Ask:
        """Give an ask a document that it lacks: text as the model is to read it, or a picture."""
        if isinstance(content, bytes):
            self._db.execute(
                "INSERT INTO pictures(ask_id, turn_id, content) VALUES(?, 0, ?)", (ask.id, content)
            )
        else:
            numbers = [piece.message_id for piece in ask.pieces]
            position = numbers.index(document.message_id) if document.message_id in numbers else 0
            piece = ask.pieces[position]
            self._write_piece(ask.id, position, replace(piece, context=piece.context + content))
        self._db.execute(
            "DELETE FROM wanted WHERE reply_id = ? AND document = ?", (ask.reply_id, document.id)
        )
        return self._select_asks("id = ?", (ask.id,))[0]

    def stop_ask(self, ask_id: int) -> None:
        """Note that the ask shall not be answered any further."""
        self._db.execute("UPDATE asks SET state = 'stopping' WHERE id = ?", (ask_id,))

    def said(self, ask: Ask) -> str:
        """Read how far its answer had come when it was last saved."""
        (text,) = self._row("SELECT text FROM replies WHERE id = ?", (ask.reply_id,))
        return str(text)

    def withdraw_ask(self, ask: Ask, shown: str, answer: str = "") -> None:
        """Close an ask with these words, whether it waits or is being answered.

        `answer` is what the conversation remembers.
        """
        self.close_reply(ask.reply_id, shown)
        self._end_ask(ask.id, "answered")
        if answer:
            self._remember(ask, answer)
        self._delete_pieces(ask.id)
        if ask.state == "waiting":  # otherwise whoever answers it knows better
            self._charge(ask.user_id, ask.spent)

    def _end_ask(self, ask_id: int, state: Literal["answered", "failed"]) -> bool:
        """False if it was ended before."""
        self._db.execute(
            f"UPDATE asks SET state = ? WHERE id = ? AND {OPEN}",
            (state, ask_id),
        )
        return self._db.changes() == 1

    def _delete_pieces(self, ask_id: int) -> None:
        """Drop what an ask said; its turn has it, and its pictures."""
        self._db.execute("DELETE FROM pieces WHERE ask_id = ?", (ask_id,))

    def save(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Note how far answers have come; a transaction. What has ended meanwhile is left alone."""
        with self.transaction():
            for point in checkpoints:
                self._db.execute(
                    "UPDATE asks SET prompt_tokens = ?, answer_tokens = ?, engine_ms = ?"
                    " WHERE id = ? AND state IN ('running', 'stopping')",
                    (
                        point.spent.prompt_tokens,
                        point.spent.answer_tokens,
                        point.spent.engine_ms,
                        point.ask_id,
                    ),
                )
                if self._db.changes() == 1:
                    self._db.execute(
                        "UPDATE replies SET text = ? WHERE id = ?", (point.text, point.reply_id)
                    )

    def finish_ask(
        self,
        ask: Ask,
        answer: str,
        shown: str,
        spent: Usage,
        *buttons: Button,
        caption: str = "",
    ) -> list[Reply] | None:
        """Close an ask: its reply, its turns in the history and its cost; a transaction.

        `answer` is what the conversation remembers, `shown` what the user sees; with a `caption`
        the user gets the answer as a file, too. Returns the replies that follow, or None if the
        ask was withdrawn meanwhile: then only the cost is noted.
        """
        with self.transaction():
            following: list[Reply] | None = None
            if self._end_ask(ask.id, "answered"):
                self.close_reply(ask.reply_id, shown, *buttons)
                if answer:
                    self._remember(ask, answer)
                self._delete_pieces(ask.id)
                following = []
                if caption:
                    reply = self.add_reply(self._chat_of(ask), 0, caption, closed=True)
                    following.append(self.add_file(reply, "answer.md", answer))
            self._charge(ask.user_id, spent)
        return following

    def _chat_of(self, ask: Ask) -> Chat:
        """Where an ask belongs by now: its group may have moved since it was read."""
        chat_id, thread_id = self._row(
            "SELECT chat_id, thread_id FROM asks WHERE id = ?", (ask.id,)
        )
        return chat_id, thread_id

    def _remember(self, ask: Ask, answer: str) -> None:
        """Add a question and its answer to the conversation, unless another has begun since."""
        chat = self._chat_of(ask)
        if ask.conversation == self.conversation(chat):
            now = int(time.time())
            first = 0
            for role, text in (("user", ask.text), ("assistant", answer)):
                self._db.execute(
                    "INSERT INTO turns(chat_id, thread_id, role, text, created_at)"
                    " VALUES(?, ?, ?, ?, ?)",
                    (*chat, role, text, now),
                )
                first = first or self._db.last_insert_rowid()
            self._db.execute(
                "UPDATE pictures SET turn_id = ?, ask_id = 0 WHERE ask_id = ?", (first, ask.id)
            )
            if ask.pictures:
                self._empty_old_pictures(chat)
            self._db.execute(
                "INSERT OR REPLACE INTO exchanges VALUES(?, ?, ?, ?, ?, ?, '[]', ?)",
                (*chat, ask.id, ask.user_id, ask.message_id, first, len(ask.pieces)),
            )

    def _empty_old_pictures(self, chat: Chat) -> None:
        """Keep of pictures that no engine will be shown any more only that they were there."""
        of_chat = (
            "FROM pictures JOIN turns ON turns.id = turn_id WHERE chat_id = ? AND thread_id = ?"
            " ORDER BY turn_id DESC, pictures.id DESC LIMIT -1 OFFSET ?"
        )
        self._db.execute(
            f"UPDATE pictures SET content = x'' WHERE id IN (SELECT pictures.id {of_chat})",
            (*chat, MOST_PICTURES),
        )

    def fail_ask(self, ask: Ask, shown: str, retry: Button, spent: Usage) -> bool:
        """Close an ask that could not be answered, so that it can be taken up; a transaction.

        False if the ask was withdrawn meanwhile.
        """
        with self.transaction():
            is_wanted = self._end_ask(ask.id, "failed")
            if is_wanted:
                self.close_reply(ask.reply_id, shown, retry)
            self._charge(ask.user_id, spent)
        return is_wanted

    def failed_ask(self, ask_id: int | None, user_id: int, chat: Chat) -> Ask | None:
        """Find an ask of this user that failed here: this one, or the latest."""
        failed = self._select_asks(
            "state = 'failed' AND ? IN (0, id) AND user_id = ? AND chat_id = ? AND thread_id = ?",
            (ask_id or 0, user_id, *chat),
        )
        return failed[-1] if failed else None

    def retry_ask(self, failed: Ask) -> tuple[Reply, Ask]:
        """Let a failed ask wait anew, with a new reply in the old one's messages."""
        reply = self.add_reply(failed.chat, failed.message_id, markup="markdown")
        self._db.execute(
            "UPDATE parts SET reply_id = ? WHERE reply_id = ?", (reply.id, failed.reply_id)
        )
        pieces = failed.pieces
        ask = self.add_ask(reply.id, failed.user_id, failed.chat, failed.language, pieces)
        self._db.execute("UPDATE pictures SET ask_id = ? WHERE ask_id = ?", (ask.id, failed.id))
        self._delete_asks([failed.id])
        return (
            reply.model_copy(update={"parts": self._parts(reply.id)}),
            replace(ask, pictures=failed.pictures),
        )

    def exchange(self, chat: Chat) -> Exchange | None:
        """Read the latest exchange of the chat's conversation."""
        row = self._db.execute(
            "SELECT ask_id, user_id, message_id, first_turn, parts, pieces,"
            " (SELECT count(*) FROM pictures WHERE turn_id = first_turn) FROM exchanges"
            " WHERE chat_id = ? AND thread_id = ?",
            chat,
        ).fetchone()
        if not row:
            return None
        ask_id, user_id, message_id, first_turn, parts, *counts = row
        return Exchange(ask_id, user_id, message_id, first_turn, tuple(json.loads(parts)), *counts)

    def reopen(
        self,
        chat: Chat,
        exchange: Exchange,
        language: str,
        *,
        in_place: bool = True,
        goes_on: bool = False,
        wording: Piece | None = None,
        keeps_pictures: bool = True,
    ) -> tuple[Reply, Ask]:
        """Take the latest exchange back, and let its question wait again.

        In the answer's messages or in new ones; `goes_on`: with the answer as a beginning;
        `wording`: as it is worded now; `keeps_pictures`: with those that went with it.
        """
        question, answer = (
            row[0]
            for row in self._db.execute(
                "SELECT text FROM turns WHERE chat_id = ? AND thread_id = ? AND id >= ?"
                " ORDER BY id LIMIT 2",
                (*chat, exchange.first_turn),
            )
        )
        self._forget_exchange(chat)
        beginning = answer if goes_on else ""
        reply = self.add_reply(chat, exchange.message_id, beginning, markup="markdown")
        parts = exchange.parts if in_place else ()
        self._db.executemany(
            "INSERT INTO parts VALUES(?, ?, ?)",
            ((reply.id, position, message_id) for position, message_id in enumerate(parts)),
        )
        piece = wording or Piece(exchange.message_id, question, 0)
        ask = self.add_ask(reply.id, exchange.user_id, chat, language, [piece])
        if keeps_pictures:
            self._db.execute(
                "UPDATE pictures SET ask_id = ?, turn_id = 0 WHERE turn_id = ?",
                (ask.id, exchange.first_turn),
            )
            ask = replace(ask, pictures=self._pictures_of(ask.id))
        self._db.execute(
            "DELETE FROM turns WHERE chat_id = ? AND thread_id = ? AND id >= ?",
            (*chat, exchange.first_turn),
        )
        return reply.model_copy(update={"parts": parts}), ask

    def _forget_exchange(self, chat: Chat) -> None:
        self._db.execute("DELETE FROM exchanges WHERE chat_id = ? AND thread_id = ?", chat)

    def _delete_asks(self, ask_ids: Iterable[int]) -> None:
        for ask_id in ask_ids:
            # The messages of a failed ask were kept for another try after their reply was gone.
            self._db.execute(
                "DELETE FROM parts WHERE reply_id = (SELECT reply_id FROM asks WHERE id = ?)"
                " AND reply_id NOT IN (SELECT id FROM replies)",
                (ask_id,),
            )
            self._delete_pieces(ask_id)
            self._db.execute("DELETE FROM asks WHERE id = ?", (ask_id,))

    # Conversations

    def conversation(self, chat: Chat) -> int:
        """Number the chat's current conversation."""
        (number,) = self._row(f"SELECT {_CONVERSATION}", chat)
        return int(number)

    def start_conversation(self, chat: Chat) -> None:
        """Forget the chat's turns; answers to earlier asks no longer add any."""
        self._db.execute(
            "INSERT INTO conversations VALUES(?, ?, 1)"
            " ON CONFLICT DO UPDATE SET number = number + 1",
            chat,
        )
        self._db.execute("DELETE FROM turns WHERE chat_id = ? AND thread_id = ?", chat)
        self._db.execute("DELETE FROM summaries WHERE chat_id = ? AND thread_id = ?", chat)
        self._forget_exchange(chat)

    def latest_turns(self, chat: Chat, most: int) -> list[Turn]:
        """Read the last turns of the conversation, oldest first."""
        rows = self._db.execute(
            f"SELECT {_TURN} FROM turns WHERE chat_id = ? AND thread_id = ?"
            " ORDER BY id DESC LIMIT ?",
            (*chat, most),
        )
        return [_turn(*row) for row in rows][::-1]

    def turns(self, chat: Chat) -> Iterator[Turn]:
        """Read the whole conversation, oldest first, a turn at a time."""
        rows = self._db.execute(
            f"SELECT {_TURN} FROM turns WHERE chat_id = ? AND thread_id = ? ORDER BY id", chat
        )
        return (_turn(*row) for row in rows)

    def turns_before(self, ask: Ask, most: int) -> list[Turn]:
        """Read the last turns of the conversation that an ask belongs to by now, oldest first."""
        return self.latest_turns(self._place(ask), most)

    def _place(self, ask: Ask) -> Chat:
        row = self._db.execute("SELECT chat_id, thread_id FROM asks WHERE id = ?", (ask.id,))
        return next(row, ask.chat)  # withdrawn: nobody will see it

    def summary(self, chat: Chat) -> Summary | None:
        """Read what the beginning of the conversation comes to, if that was written down."""
        row = self._db.execute(
            "SELECT text, until_turn, since FROM summaries WHERE chat_id = ? AND thread_id = ?",
            chat,
        ).fetchone()
        return Summary(*row) if row else None

    def summary_before(self, ask: Ask) -> Summary | None:
        """Read the summary of the conversation that an ask belongs to by now."""
        return self.summary(self._place(ask))

    def save_summary(
        self, chat: Chat, conversation: int, old: Summary | None, new: Summary, first_turn: int
    ) -> bool:
        """Put a summary in place of the old one that it was made from; a transaction.

        False: that, or the conversation's turns from `first_turn` on, are not what they were.
        """
        with self.transaction():
            (left,) = self._row(
                "SELECT count(*) FROM turns WHERE chat_id = ? AND thread_id = ? AND id IN (?, ?)",
                (*chat, first_turn, new.until_turn),
            )
            if left != 2 or self.conversation(chat) != conversation or self.summary(chat) != old:
                return False
            self._db.execute(
                "INSERT OR REPLACE INTO summaries VALUES(?, ?, ?, ?, ?)",
                (*chat, new.text, new.until_turn, new.since),
            )
        return True

    def forget_summaries(self) -> None:
        """Erase the summaries of all conversations; a transaction."""
        with self.transaction():
            self._db.execute("DELETE FROM summaries")

    def move_chat(self, old_id: int, new_id: int) -> list[Reply]:
        """Let everything about a group belong to the supergroup that it has become.

        Returns the replies that are not delivered yet. Message ids of the group mean nothing in
        the supergroup, so their parts are sent anew, and reply to nothing.
        """
        if old_id == new_id:
            return []  # the group was found to have moved twice: by its note, and by an edit
        moved = [reply.id for reply in self.undelivered_replies() if reply.chat_id == old_id]
        for table in ("asks", "turns", "replies"):
            self._db.execute(f"UPDATE {table} SET chat_id = ? WHERE chat_id = ?", (new_id, old_id))
        self._db.execute(
            "UPDATE OR REPLACE summaries SET chat_id = ? WHERE chat_id = ?", (new_id, old_id)
        )
        # The number decides which answers are remembered: it must fit the asks that moved.
        self._db.execute(
            "INSERT OR REPLACE INTO conversations SELECT ?, thread_id, number"
            " FROM conversations WHERE chat_id = ?",
            (new_id, old_id),
        )
        self._db.execute("DELETE FROM conversations WHERE chat_id = ?", (old_id,))
        self._db.execute("DELETE FROM wordings WHERE chat_id = ?", (old_id,))
        self._db.execute("DELETE FROM exchanges WHERE chat_id = ?", (old_id,))
        self._db.execute("DELETE FROM menus WHERE chat_id = ?", (old_id,))
        for reply_id in moved:
            self._db.execute("DELETE FROM parts WHERE reply_id = ?", (reply_id,))
            self._db.execute("UPDATE replies SET reply_to = 0 WHERE id = ?", (reply_id,))
        return [reply for reply in self.undelivered_replies() if reply.id in moved]

    def forget_chat(self, chat: Chat) -> None:
        """Erase what was said in a chat: its turns, failed asks, and what tells its messages apart.

        The caller has withdrawn the asks that wait. Counts of tokens stay, updates' ids too.
        """
        self.start_conversation(chat)
        failed = self._select_asks("state = 'failed' AND chat_id = ? AND thread_id = ?", chat)
        self._delete_asks(ask.id for ask in failed)
        self._db.execute("DELETE FROM wordings WHERE chat_id = ?", chat[:1])
        self._db.execute(f"DELETE FROM files WHERE {_OF_CHAT}", chat)

    # Replies

    def add_reply(
        self,
        chat: Chat,
        reply_to: int,
        text: str = "",
        *,
        closed: bool = False,
        markup: Literal["plain", "markdown"] = "plain",
    ) -> Reply:
        """Store a reply: a complete one, or an empty one that will grow."""
        self._db.execute(
            "INSERT INTO replies(chat_id, thread_id, reply_to, text, closed, markup)"
            " VALUES(?, ?, ?, ?, ?, ?)",
            (*chat, reply_to, text, closed, markup),
        )
        return Reply(
            id=self._db.last_insert_rowid(), chat_id=chat[0], thread_id=chat[1],
            reply_to=reply_to, text=text, closed=closed, markup=markup,
        )  # fmt: skip

    def set_buttons(self, reply: Reply, *buttons: Button) -> Reply:
        """Give a growing reply its buttons."""
        self._db.execute(
            "UPDATE replies SET buttons = ? WHERE id = ?", (_written(buttons), reply.id)
        )
        return reply.model_copy(update={"buttons": buttons})

    def add_file(self, reply: Reply, name: str, content: str, *, is_chart: bool = False) -> Reply:
        """Give a reply a file, which its text is the caption of; or a chart to be drawn."""
        self._db.execute(
            "INSERT INTO files VALUES(?, ?, ?, ?)", (reply.id, name, content, is_chart)
        )
        return reply.model_copy(update={"file": name, "is_photo": is_chart})

    def file(self, reply_id: int) -> str:
        """Read a reply's file; nothing if its user has had it erased meanwhile."""
        row = self._db.execute(
            "SELECT content FROM files WHERE reply_id = ?", (reply_id,)
        ).fetchone()
        return str(row[0]) if row else ""

    def count_files(self, chat: Chat, name: str) -> int:
        """Count the files of a name, by its beginning, that this chat has not been given yet."""
        (count,) = self._row(
            f"SELECT count(*) FROM files WHERE {_OF_CHAT} AND substr(name, 1, ?) = ?",
            (*chat, len(name), name),
        )
        return int(count)

    def add_menu(self, chat: Chat, user_id: int, text: str, heartbeat: str = "") -> Reply:
        """Store a complete reply with buttons that are for one user.

        `heartbeat`: its language, if it is one.
        """
        reply = self.add_reply(chat, 0, text, closed=True)
        self._db.execute(
            "UPDATE replies SET menu_of = ?, heartbeat = ? WHERE id = ?",
            (user_id, heartbeat, reply.id),
        )
        return reply

    def menu(self, chat_id: int, message_id: int) -> ShownMenu | None:
        """Find whose menu stands in a message: one that is on its way, or one that was shown."""
        row = self._db.execute(
            "SELECT thread_id, menu_of, replies.id, heartbeat FROM replies"
            " JOIN parts ON reply_id = replies.id"
            " WHERE chat_id = ? AND message_id = ? AND menu_of != 0",
            (chat_id, message_id),
        ).fetchone()
        row = (
            row
            or self._db.execute(
                "SELECT thread_id, user_id, 0, heartbeat FROM menus"
                " WHERE chat_id = ? AND message_id = ?",
                (chat_id, message_id),
            ).fetchone()
        )
        return ShownMenu(chat_id, message_id, *row) if row else None

    def heartbeats(self) -> list[ShownMenu]:
        """Find all heartbeats: those that were shown, and those that are on their way.

        Message 0: it does not stand in its chat yet.
        """
        rows = self._db.execute(
            "SELECT chat_id, message_id, thread_id, user_id, 0, heartbeat FROM menus"
            " WHERE heartbeat != '' UNION ALL"
            " SELECT chat_id, coalesce(message_id, 0), thread_id, menu_of, replies.id, heartbeat"
            " FROM replies LEFT JOIN parts ON reply_id = replies.id WHERE heartbeat != ''"
        )
        return [ShownMenu(*row) for row in rows]

    def replace_menu(self, menu: ShownMenu, text: str, *buttons: Button) -> Reply:
        """Store another page in a menu's message; one without buttons ends it.

        What was on its way there is forgotten.
        """
        if menu.reply_id:
            self._db.execute("DELETE FROM parts WHERE reply_id = ?", (menu.reply_id,))
            self._db.execute("DELETE FROM replies WHERE id = ?", (menu.reply_id,))
        self._db.execute(
            "DELETE FROM menus WHERE chat_id = ? AND message_id = ?",
            (menu.chat_id, menu.message_id),
        )
        chat = (menu.chat_id, menu.thread_id)
        reply = (
            self.add_menu(chat, menu.user_id, text, menu.heartbeat)
            if buttons
            else self.add_reply(chat, 0, text, closed=True)
        )
        self._db.execute("INSERT INTO parts VALUES(?, 0, ?)", (reply.id, menu.message_id))
        reply = reply.model_copy(update={"parts": (menu.message_id,)})
        return self.set_buttons(reply, *buttons)

    def is_open(self, reply_id: int) -> bool:
        """Tell whether the relay may still be working on a reply."""
        (count,) = self._row("SELECT count(*) FROM replies WHERE id = ?", (reply_id,))
        return bool(count)

    def count_replies(self, chat: Chat, *, closed: bool = False) -> int:
        """Count the replies that this chat has not been shown yet: all, or the complete ones."""
        (count,) = self._row(
            "SELECT count(*) FROM replies WHERE chat_id = ? AND thread_id = ? AND closed >= ?",
            (*chat, closed),
        )
        return int(count)

    def close_reply(self, reply_id: int, text: str, *buttons: Button) -> None:
        """Store the reply's whole text, and the buttons that stay under it."""
        self._db.execute(
            "UPDATE replies SET text = ?, closed = 1, buttons = ? WHERE id = ?",
            (text, _written(buttons), reply_id),
        )
        self._db.execute("DELETE FROM wanted WHERE reply_id = ?", (reply_id,))

    def undelivered_replies(self) -> list[Reply]:
        """Read every reply that the relay has not confirmed, oldest first."""
        return [
            Reply(
                id=row[0], chat_id=row[1], thread_id=row[2], reply_to=row[3], text=row[4],
                closed=bool(row[5]), parts=self._parts(row[0]),
                buttons=tuple(Button(**button) for button in json.loads(row[6])), markup=row[7],
                file=row[8] or "", is_photo=bool(row[9]), document=row[10] or "",
            )
            for row in list(self._db.execute(
                "SELECT id, chat_id, thread_id, reply_to, text, closed, buttons, markup, name,"
                " is_chart, (SELECT document FROM wanted WHERE reply_id = replies.id"
                " ORDER BY wanted.id LIMIT 1)"
                " FROM replies LEFT JOIN files ON files.reply_id = replies.id ORDER BY replies.id"
            ))
        ]  # fmt: skip

    def _parts(self, reply_id: int) -> tuple[int, ...]:
        rows = self._db.execute(
            "SELECT message_id FROM parts WHERE reply_id = ? ORDER BY position", (reply_id,)
        )
        return tuple(row[0] for row in rows)

    def record_part(self, reply_id: int, position: int, message_id: int, chat_id: int = 0) -> bool:
        """Note which Telegram message carries a part; False if another one does already.

        Neither is it noted if the reply belongs to another chat by now (0: wherever it belongs).
        """
        self._db.execute(
            "INSERT OR IGNORE INTO parts SELECT id, ?, ? FROM replies"
            " WHERE id = ? AND ? IN (0, chat_id)",
            (position, message_id, reply_id, chat_id),
        )
        (is_noted,) = self._row(
            "SELECT count(*) FROM parts WHERE reply_id = ? AND position = ? AND message_id = ?",
            (reply_id, position, message_id),
        )
        return bool(is_noted)

    def drop_reply(self, reply_id: int, parts: int | None = None, *, is_shown: bool = True) -> None:
        """Forget a reply that stands in its chat, or never can, and its ask; a transaction.

        The messages of a failed ask stay known, and those of a chat's latest answer: another try
        can use them. `parts`: how many there are by now; None: all that were recorded.
        """
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO menus"
                " SELECT chat_id, message_id, thread_id, menu_of, ?, heartbeat"
                " FROM replies JOIN parts ON reply_id = replies.id"
                " WHERE replies.id = ? AND menu_of != 0 AND ?",
                (int(time.time()), reply_id, is_shown),
            )
            self._db.execute("DELETE FROM replies WHERE id = ?", (reply_id,))
            self._db.execute("DELETE FROM wanted WHERE reply_id = ?", (reply_id,))
            self._db.execute("DELETE FROM files WHERE reply_id = ?", (reply_id,))
            if parts is not None:
                self._db.execute(
                    "DELETE FROM parts WHERE reply_id = ? AND position >= ?", (reply_id, parts)
                )
            rows = self._db.execute("SELECT id, state FROM asks WHERE reply_id = ?", (reply_id,))
            asks = list(rows)
            if any(state == "failed" for _, state in asks):
                return
            for ask_id, _ in asks:
                self._db.execute(
                    "UPDATE exchanges SET parts = ? WHERE ask_id = ?",
                    (json.dumps(self._parts(reply_id)), ask_id),
                )
            self._db.execute("DELETE FROM parts WHERE reply_id = ?", (reply_id,))
            self._delete_asks(ask_id for ask_id, _ in asks)

    # Guests

    def is_guest(self, user_id: int) -> bool:
        """Tell whether an admin has let this user in."""
        (count,) = self._row("SELECT count(*) FROM guests WHERE user_id = ?", (user_id,))
        return bool(count)

    def add_guest(self, user_id: int) -> None:
        """Let a user in."""
        self._db.execute("INSERT OR IGNORE INTO guests VALUES(?, ?)", (user_id, int(time.time())))

    def remove_guest(self, user_id: int) -> bool:
        """Let a user in no more; False if they were no guest."""
        self._db.execute("DELETE FROM guests WHERE user_id = ?", (user_id,))
        return self._db.changes() == 1

    def add_invitation(self, digest: str, admin_id: int) -> None:
        """Note the digest of a code that lets somebody in, once and within INVITATION_SECONDS."""
        now = int(time.time())
        self._db.execute("DELETE FROM invitations WHERE made_at <= ?", (now - INVITATION_SECONDS,))
        self._db.execute("INSERT INTO invitations VALUES(?, ?, ?)", (digest, admin_id, now))

    def use_invitation(self, digest: str) -> int | None:
        """Take an invitation; returns who made it, or None if there is none any more."""
        if digest not in self.invitations():
            return None
        (admin_id,) = self._row("SELECT admin_id FROM invitations WHERE digest = ?", (digest,))
        self._db.execute("DELETE FROM invitations WHERE digest = ?", (digest,))
        return int(admin_id)

    def invitations(self) -> tuple[str, ...]:
        """List the digests of the codes that are good now."""
        since = int(time.time()) - INVITATION_SECONDS
        rows = self._db.execute(
            "SELECT digest FROM invitations WHERE made_at > ? ORDER BY digest", (since,)
        )
        return tuple(row[0] for row in rows)

    def guests(self) -> tuple[int, ...]:
        """List the users whom admins have let in."""
        return tuple(row[0] for row in self._db.execute("SELECT user_id FROM guests ORDER BY 1"))

    # Admins

    def name_admins(self, admins: Iterable[int]) -> tuple[int, ...]:
        """Note who the admins are now; returns those who once were, and are none; a transaction."""
        now = set(admins)
        with self.transaction():
            self._db.executemany("INSERT OR IGNORE INTO admins VALUES(?)", ((id_,) for id_ in now))
            rows = self._db.execute("SELECT user_id FROM admins ORDER BY 1")
            return tuple(row[0] for row in rows if row[0] not in now)

    # Preferences

    def preferences(self, user_id: int) -> Preferences:
        """Read what a user has chosen."""
        row = self._db.execute(
            "SELECT language, persona, instruction, style, length, streaming, reasoning, steering,"
            " model FROM preferences WHERE user_id = ?",
            (user_id,),
        ).fetchone()
        if not row:
            return Preferences()
        language, persona, instruction, style, length, *switches, model = row
        streaming, reasoning, steering = map(bool, switches)
        return Preferences(
            language, persona, instruction, style, length, streaming, reasoning, steering, model
        )

    def save_preferences(self, user_id: int, chosen: Preferences) -> None:
        """Keep what a user has chosen."""
        self._db.execute(
            "INSERT OR REPLACE INTO preferences VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                user_id,
                chosen.language,
                chosen.persona,
                chosen.instruction,
                chosen.style,
                chosen.length,
                chosen.streaming,
                chosen.reasoning,
                chosen.steering,
                chosen.model,
            ),
        )

    # Usage

    def meter(self, user_id: int, spent: Usage) -> None:
        """Note what a user's conversation has cost beside its answers; a transaction."""
        with self.transaction():
            self._charge(user_id, spent, asks=0)

    def _charge(self, user_id: int, spent: Usage, asks: int = 1) -> None:
        if spent == NOTHING:
            return  # it never reached the engine
        self._db.execute(
            "INSERT INTO usage VALUES(?, date('now'), ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " asks = asks + excluded.asks, prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
            " answer_tokens = answer_tokens + excluded.answer_tokens,"
            " engine_ms = engine_ms + excluded.engine_ms",
            (user_id, asks, spent.prompt_tokens, spent.answer_tokens, spent.engine_ms),
        )

    def usage(self, days: int, user_id: int | None = None) -> list[UsageRow]:
        """Read the usage of the last `days` days, today included: of one user, or of all."""
        rows = self._db.execute(
            "SELECT user_id, day, asks, prompt_tokens, answer_tokens, engine_ms FROM usage"
            " WHERE day > date('now', ?) AND (? IS NULL OR user_id = ?) ORDER BY day, user_id",
            (f"-{days} days", user_id, user_id),
        )
        return [UsageRow(row[0], row[1], row[2], Usage(*row[3:])) for row in rows]

    def used_today(self, user_id: int) -> tuple[int, int]:
        """Count what a user has had answered today (UTC): asks, and tokens read and written."""
        asks, tokens = self._row(
            "SELECT total(asks), total(prompt_tokens + answer_tokens) FROM usage"
            " WHERE user_id = ? AND day = date('now')",
            (user_id,),
        )
        return int(asks), int(tokens)

    # Retention

    def forget_old(
        self, updates_seconds: int, failed_seconds: int, history_seconds: int | None
    ) -> None:
        """Drop what has outlived its use; a transaction.

        Updates that Telegram can no longer deliver again, menus of that time, failed asks that
        nobody took up, and the turns of conversations (None: they are kept until the user forgets
        them). A summary goes with the oldest turn that is in it. Heartbeats stay: an absence may
        have kept them from being renewed.
        """
        now = int(time.time())
        with self.transaction():
            for table in ("updates", "wordings", "menus"):
                kept = " AND heartbeat = ''" if table == "menus" else ""
                self._db.execute(
                    f"DELETE FROM {table} WHERE received_at < ?{kept}", (now - updates_seconds,)
                )
            old = self._db.execute(
                "SELECT id, reply_id FROM asks WHERE state = 'failed' AND received_at < ?",
                (now - failed_seconds,),
            )
            for ask_id, reply_id in list(old):
                (shown_still,) = self._row("SELECT count(*) FROM replies WHERE id = ?", (reply_id,))
                if not shown_still:
                    self._delete_asks([ask_id])
            if history_seconds is not None:
                self._db.execute("DELETE FROM turns WHERE created_at < ?", (now - history_seconds,))
                self._db.execute("DELETE FROM summaries WHERE since < ?", (now - history_seconds,))
                self._db.execute(
                    "DELETE FROM exchanges WHERE first_turn NOT IN (SELECT id FROM turns)"
                )

    # Counters

    def is_paused(self) -> bool:
        """Tell whether admins let asks wait."""
        row = self._db.execute("SELECT value FROM counters WHERE name = 'paused'").fetchone()
        return bool(row and row[0])

    def pause(self, is_paused: bool) -> None:
        """Note whether asks wait."""
        self._db.execute("INSERT OR REPLACE INTO counters VALUES('paused', ?)", (is_paused,))

    def next_epoch(self) -> int:
        """Number a new stream: higher than every stream before it, restarts included."""
        (epoch,) = self._row(
            "INSERT INTO counters VALUES('epoch', 1)"
            " ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value"
        )
        return int(epoch)

    # Restoring

    def skip_numbers(self, mark: int) -> None:
        """Let no number be given again that was given since this store was copied; a transaction.

        The relay, and buttons that stand in chats, know asks, replies and streams by their numbers.
        `mark` is kept, and says which copy this is.
        """
        with self.transaction():
            for table in ("asks", "replies"):
                self._db.execute(
                    "INSERT INTO sqlite_sequence SELECT ?, 0"
                    " WHERE NOT EXISTS(SELECT 1 FROM sqlite_sequence WHERE name = ?)",
                    (table, table),
                )
                self._db.execute(
                    "UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?", (SKIPPED, table)
                )
            self._db.execute(
                "INSERT INTO counters VALUES('epoch', ?)"
                " ON CONFLICT DO UPDATE SET value = value + excluded.value",
                (SKIPPED,),
            )
            self._db.execute("INSERT OR REPLACE INTO counters VALUES('restored', ?)", (mark,))

    def restored_from(self) -> int | None:
        """The mark of the copy that this store began as; None if it is none."""
        row = self._db.execute("SELECT value FROM counters WHERE name = 'restored'").fetchone()
        return int(row[0]) if row else None

    def is_unused(self) -> bool:
        """Tell whether nobody has ever written to it."""
        (is_used,) = self._row(
            "SELECT EXISTS(SELECT 1 FROM updates) OR EXISTS(SELECT 1 FROM turns)"
            " OR EXISTS(SELECT 1 FROM asks) OR EXISTS(SELECT 1 FROM usage)"
            " OR EXISTS(SELECT 1 FROM guests)"
        )
        return not is_used


def _written(buttons: Iterable[Button]) -> str:
    return json.dumps([button.model_dump() for button in buttons])


def _turn(
    number: int, role: Literal["user", "assistant"], text: str, at: int, pictures: str
) -> Turn:
    return Turn(role, text, at, tuple(json.loads(pictures)), number)
