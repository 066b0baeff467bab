"""Takes batches of updates: decides on each, commits them, and only then lets them take effect."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import ValidationError

from services.gateway.access import Access
from services.gateway.again import Again
from services.gateway.buttons import read_press, stop_button
from services.gateway.commands import Commands
from services.gateway.documents import RECORDINGS, Documents, introduce
from services.gateway.effects import (
    Asked,
    Completed,
    Effect,
    Forgotten,
    GuestsChanged,
    Moved,
    Opened,
    Paused,
    Replaced,
    Stopped,
    Wanted,
    Withdrawn,
)
from services.gateway.limits import Allowance, Limits
from services.gateway.menu import Menu, language_for
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.reading import Unreadable
from services.gateway.store import Ask, Chat, Piece, Store, StoreError, WantedDocument
from services.gateway.texts import Language, quote, say
from services.gateway.transcriber import TranscriberUnavailable
from services.wire import Batch, Receipt, Receipts, Reply, Update

log = logging.getLogger(__name__)

MOST_UNSEEN_REPLIES = 30
"""Replies that a chat has not been shown yet, beyond which commands get none: it would be late."""

CUT_UNITS = 2048
"""A client cuts a paste at a good place in the second half of a message's 4096 units."""

CUT_SECONDS = 1
"""The pieces of a paste are sent together, but Telegram's clock may tick in between."""

PASTE_SECONDS = 1.5
"""How long an ask that may be the first piece of a paste waits for the next."""

ALBUM_SECONDS = 1.0
"""How long an ask that is part of an album waits for the next: clients send them at once, but
Telegram delivers one by one."""

MOST_PIECES = 64

LEAST_TOKEN_BYTES = 10
"""No text takes fewer bytes than this for each of its tokens, on average."""

QUOTED_SHARE = 0.25
"""How much of the longest ask a quotation of the message replied to may take: in bytes, since no
text has more tokens than bytes."""

UNHEARD_SECONDS = 900.0
"""A transcriber that takes longer than this to come up does not come up."""

CANNOT = defaultdict(
    lambda: "only text",
    dict.fromkeys(
        ("animation", "live_photo", "paid_media", "photo", "sticker", "story", "video"),
        "cannot see",
    )
    | dict.fromkeys(("audio", "video_note", "voice"), "cannot hear")
    | {"document": "cannot open"},
)
"""What is said to a message without text, by what it carries."""

STATUS = defaultdict(
    lambda: "reading", dict.fromkeys(RECORDINGS, "listening") | {"photo": "looking"}
)
"""What a reply shows while a file of this kind is brought."""

Outcome = Literal["accepted", "refused"]


class Inbox:
    """The only way in for what users do."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        outbox: Outbox,
        access: Access,
        limits: Limits,
        history_days: int = 0,
        personas: Sequence[str] = (),
        describe: Callable[[Language], str] = lambda _: "",
        documents: Documents | None = None,
        note_batch: Callable[[Batch], None] = lambda _: None,
        models: Sequence[str] = (),
        has_summaries: bool = False,
    ) -> None:
        """`history_days` 0: conversations are kept until their user forgets them.

        `personas`, `models`: the names of those that users can choose; `describe` says how things
        stand; `documents` None: none is read; `note_batch` is shown what the relay says of
        itself with each batch; `has_summaries`: of long conversations summaries are made.
        """
        self._note_batch = note_batch
        self._documents = documents or Documents(0)
        self._store = store
        self._queue = queue
        self._outbox = outbox
        self._access = access
        self._ask_tokens = limits.ask_tokens
        self._allowance = Allowance(store, limits)
        self._again = Again(store, self._allowance)
        self._menu = Menu(store, personas, models)
        self._unheard: dict[int, float] = {}
        """Since when recordings have waited for a transcriber, by their replies."""
        self._refused_albums: dict[Chat, tuple[str, int]] = {}
        """Of each chat the latest album that was not taken, and by which of its messages."""
        self._commands = Commands(
            store,
            access,
            self._again,
            self._menu,
            self._allowance,
            history_days,
            describe,
            has_summaries,
        )

    async def accept(self, batch: Batch) -> Receipts:
        """Commit what can be accepted and answer for each update on its own.

        When this returns, every accepted update is on the disk. Raises StoreError when the disk
        does not take it: then nothing was accepted.
        """
        self._note_batch(batch)
        receipts, effects = await self._store.run_in_order(self._commit, batch)
        self._take_effect(effects)
        if Forgotten() in effects:
            await self._erase()
        return Receipts(receipts=receipts)

    async def bring(self, reply_id: int, content: bytes | None, document_id: str = "") -> None:
        """Take a document that a reply waits for; None: Telegram does not give it out.

        `document_id` says which one; without it, it is the first. When this returns, its text is
        on the disk, or the picture that it is, or its user is told why not. Raises StoreError or
        TranscriberUnavailable; then it must be brought again. The latter for a while only: one that
        does not come up is told to the user.
        """
        wanted = await self._store.run(self._store.wanted_document, reply_id, document_id)
        if not wanted:
            return  # it was brought before, or is not wanted any more
        ask, document = wanted
        said: str | bytes = ""
        why = ""
        try:
            if content is None:
                raise Unreadable("document unavailable")
            most = LEAST_TOKEN_BYTES * self._ask_tokens
            said = await self._documents.read(document.kind, document.name, content, most)
        except Unreadable as error:
            why = str(error)
        except TranscriberUnavailable:
            since = self._unheard.setdefault(reply_id, time.monotonic())
            if time.monotonic() - since < UNHEARD_SECONDS:
                self._outbox.show_status(reply_id, say("waking", ask.language))
                raise
            why = "recording unreadable"
        self._unheard.pop(reply_id, None)
        self._take_effect(
            await self._store.run_in_order(self._complete, reply_id, document.id, said, why)
        )

    def _take_effect(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Opened(reply):
                    self._outbox.open(reply)
                case Replaced(reply_id):
                    self._outbox.forget(reply_id)
                case Asked(ask, delay_seconds):
                    self._queue.put(ask, delay_seconds)
                case Wanted(reply_id, document, status):
                    self._outbox.note_document(reply_id, document, status)
                case Completed(ask):
                    self._outbox.note_document(ask.reply_id)
                    self._queue.put(ask, paste_delay(ask))
                case Withdrawn(ask, shown):
                    self._queue.withdraw(ask.id)
                    self._outbox.close(ask.reply_id, shown)
                case Stopped(ask_id):
                    self._queue.stop(ask_id)
                case GuestsChanged(guests, invitations):
                    self._outbox.tell_guests(guests, invitations)
                case Paused(is_paused):
                    self._queue.pause(is_paused)
                case Moved(old_chat_id, new_chat_id, replies):
                    self._queue.move_chat(old_chat_id, new_chat_id)
                    self._outbox.move(replies)

    async def move(self, old_chat_id: int, new_chat_id: int) -> None:
        """Let a group go on as the supergroup that it has become. Raises StoreError."""
        replies = await self._store.run_in_order(self._move, old_chat_id, new_chat_id)
        self._queue.move_chat(old_chat_id, new_chat_id)
        self._outbox.move(replies)

    async def _erase(self) -> None:
        try:
            if await self._store.run(self._store.truncate_journal):
                return
            log.warning("journal in use", extra={"remedy": "it is emptied within a minute"})
        except StoreError as error:
            log.critical("store failed", extra={"remedy": str(error)})

    def abandon(self, reply_id: int) -> None:
        """A reply can never be shown: spend nothing more on it."""
        self._queue.abandon(reply_id)

    # From here on: in the store's thread.

    def _commit(self, batch: Batch) -> tuple[list[Receipt], list[Effect]]:
        effects: list[Effect] = []
        self._commands.bot_name = batch.bot_name
        with self._store.transaction():
            receipts = [self._decide(batch.bot_id, raw, effects) for raw in batch.updates]
        return receipts, effects

    def _complete(
        self, reply_id: int, document_id: str, said: str | bytes, why: str
    ) -> list[Effect]:
        with self._store.transaction():
            wanted = self._store.wanted_document(reply_id, document_id)
            if not wanted:
                return []
            ask, document = wanted
            if isinstance(said, str):
                name = " ".join(document.name.split()) or say("nameless", ask.language)
                said = introduce(document.kind, name, said)
            length = len(ask.text.encode()) + (len(said.encode()) if isinstance(said, str) else 0)
            if not why and length <= LEAST_TOKEN_BYTES * self._ask_tokens:
                ask = self._store.add_document(ask, document, said)
                return [self._wanted(ask)] if ask.lacks_document else [Completed(ask)]
            sentence = say(
                why or "document too long",
                ask.language,
                size=megabytes(self._documents.most_bytes(document.kind)),
            )
            self._store.withdraw_ask(ask, sentence)
            return [Withdrawn(ask, sentence)]

    def _wanted(self, ask: Ask) -> Effect:
        """Have the first document brought that an ask still lacks."""
        wanted = self._store.wanted_document(ask.reply_id)
        assert wanted
        _, document = wanted
        return Wanted(ask.reply_id, document.id, say(STATUS[document.kind], ask.language))

    def _move(self, old_chat_id: int, new_chat_id: int) -> list[Reply]:
        with self._store.transaction():
            return self._store.move_chat(old_chat_id, new_chat_id)

    def _decide(self, bot_id: int, raw: dict[str, Any], effects: list[Effect]) -> Receipt:
        try:
            update = Update.model_validate(raw)
        except ValidationError:
            log.warning("malformed update")
            number = raw.get("update_id")
            return _receipt(number if isinstance(number, int) else None, "refused")
        if update.kind == "move":
            # Telegram says it, whoever the sender is; and a chat that is not known stays so.
            replies = self._store.move_chat(update.chat_id, update.moved_to)
            effects.append(Moved(update.chat_id, update.moved_to, replies))
            return _receipt(update.update_id, "accepted")
        is_allowed = self._access.is_allowed(update.user_id)
        if not is_allowed and not self._commands.admit(update, effects):
            log.warning("stranger", extra={"update": update.update_id})
            return _receipt(update.update_id, "refused")
        if not self._store.remember_update(bot_id, update.update_id, update.identity()):
            return _receipt(update.update_id, "duplicate")
        chosen = self._store.preferences(update.user_id)
        language = language_for(update, chosen)
        if update.kind == "press":
            return self._press(update, language, effects)
        outcome = self._message(update, language, effects, steers=chosen.steering)
        return _receipt(update.update_id, outcome)

    def _message(
        self, update: Update, language: Language, effects: list[Effect], *, steers: bool
    ) -> Outcome:
        chat = (update.chat_id, update.thread_id)
        text = (update.text or "").strip()
        is_news = self._store.remember_wording(update.chat_id, update.message_id, text)
        # Whoever forwards a command does not give it.
        is_command = text.startswith("/") and not update.is_forwarded
        if update.kind == "edit" and (not is_news or not text or is_command):
            # Not every edit changes the text, a live location moves on by edits, and a command is
            # not run twice.
            return "accepted"
        most = self._documents.most_bytes(update.attachment)
        document = None
        if update.document_id and most:
            document = WantedDocument(
                *(update.document_id, update.attachment, update.document_name, update.message_id)
            )
        if document and update.document_bytes > most:
            sentence = say("document too big", language, size=megabytes(most))
            return self._refuse(update, sentence, effects)
        note = _note(update, document)
        context = self._quotation(update, chat) + note
        piece = Piece(update.message_id, text, update.sent_at, context, update.album)
        waiting = [
            ask
            for ask in self._store.asks(chat)
            if ask.user_id == update.user_id and ask.state == "waiting"
        ]
        if update.kind == "message" and waiting and _is_of_album(waiting[-1], piece):
            # All of an album reply to the same message.
            return self._join(waiting[-1], replace(piece, context=note), document, effects)
        if not text and self._is_of_refused_album(update):
            return "refused"  # the first may have had the question
        if not text and not document and (update.attachment or not context):
            return self._refuse(update, say(CANNOT[update.attachment], language), effects)
        if update.kind == "edit" and self._reword(waiting, update.message_id, text):
            return "accepted"
        if is_command and self._commands.knows(text):
            return self._run(update, text, language, effects)
        is_alone = update.kind == "message" and not document
        if is_alone and waiting and _goes_on(waiting[-1], piece):
            self._store.add_piece(waiting[-1], piece)
            effects.append(Asked(waiting[-1], _delay(piece)))
            return "accepted"
        if is_command:
            return self._run(update, text, language, effects)
        if len((context + text).encode()) > LEAST_TOKEN_BYTES * self._ask_tokens:
            # The engine's tokenizer has the last word, when the ask's turn comes.
            return self._refuse(update, say("too long", language), effects)
        return self._ask(update, chat, piece, language, effects, document, steers=steers)

    def _join(
        self, ask: Ask, piece: Piece, document: WantedDocument | None, effects: list[Effect]
    ) -> Outcome:
        """Add one more message of its album to an ask that waits for them."""
        ask = self._store.add_piece(ask, piece)
        if document:
            ask = self._store.want_another(ask, document)
            effects.append(self._wanted(ask))
        effects.append(Asked(ask, _delay(piece)))
        return "accepted"

    def _is_of_refused_album(self, update: Update) -> bool:
        """Tell whether the user knows already that the album of a message is not taken."""
        album, first = self._refused_albums.get((update.chat_id, update.thread_id), ("", 0))
        return (
            update.kind == "message"
            and update.album != ""
            and update.album == album
            and update.message_id != first
        )

    def _quotation(self, update: Update, chat: Chat) -> str:
        """Write what a message refers to, for the model."""
        if not update.quoted.strip():
            return ""
        exchange = self._store.exchange(chat)
        if not update.is_excerpt and exchange and update.reply_to in exchange.parts:
            return ""  # the latest answer is what the model has said last, so it need not be told
        most = int(QUOTED_SHARE * self._ask_tokens)
        return quote(update.quoted.encode()[:most].decode(errors="ignore")) + "\n\n"

    def _ask(
        self,
        update: Update,
        chat: Chat,
        piece: Piece,
        language: Language,
        effects: list[Effect],
        document: WantedDocument | None,
        *,
        steers: bool,
    ) -> Outcome:
        why = self._allowance.refusal(update.user_id, language)
        if why := why or self._allowance.haste(update, language):
            return self._refuse(update, why, effects)
        if update.kind == "message" and steers:
            effects += self._commands.interrupt(chat, update.user_id)
        reworded = self._again.reword(update, piece, language) if update.kind == "edit" else None
        if reworded:
            reply, ask = reworded
        else:
            reply = self._store.add_reply(chat, update.message_id, markup="markdown")
            ask = self._store.add_ask(reply.id, update.user_id, chat, language, [piece])
        reply = self._store.set_buttons(reply, stop_button(ask, language))
        if document and not ask.pictures:  # a caption was edited: the album's pictures are here
            ask, reply = self._store.want_document(ask, reply, document)
            reply = reply.model_copy(update={"status": say(STATUS[document.kind], language)})
        effects.append(Opened(reply))
        effects.append(Asked(ask, paste_delay(ask)))
        return "accepted"

    def _reword(self, waiting: list[Ask], message_id: int, text: str) -> bool:
        """Change what waits; False if the message is not part of it."""
        for ask in waiting:
            for position, piece in enumerate(ask.pieces):
                if piece.message_id == message_id:
                    self._store.reword_piece(ask, position, text)
                    return True
        return False

    def _run(self, update: Update, text: str, language: Language, effects: list[Effect]) -> Outcome:
        chat = (update.chat_id, update.thread_id)
        has_room = self._store.count_replies(chat) < MOST_UNSEEN_REPLIES
        if not has_room and self._commands.only_speaks(text):
            return "accepted"
        sentence = self._commands.run(update, text, language, effects)
        if sentence and has_room:
            effects.append(Opened(self._store.add_reply(chat, 0, sentence, closed=True)))
        return "accepted"

    def _press(self, update: Update, language: Language, effects: list[Effect]) -> Receipt:
        chat = (update.chat_id, update.thread_id)
        verb, ask_id = read_press(update.press_data)
        notice = say("too late", language)
        match verb:
            case "stop":
                for ask in self._store.asks(chat):
                    if ask.id == ask_id and ask.user_id == update.user_id:
                        effects.append(self._commands.stop(ask))
                        notice = say("stopping", language)
            case "retry" | "again" | "more":
                notice = self._again.press(verb, ask_id, update, language, effects)
            case "set" | "forget" | "keep" | "heartbeat":
                notice = self._commands.press(update, language, effects)
        return _receipt(update.update_id, "accepted", notice)

    def _refuse(self, update: Update, sentence: str, effects: list[Effect]) -> Outcome:
        """Say why a message is not taken; of an album, once."""
        if self._is_of_refused_album(update):
            return "refused"
        chat = (update.chat_id, update.thread_id)
        if update.album:
            self._refused_albums[chat] = (update.album, update.message_id)
        if self._store.count_replies(chat) < MOST_UNSEEN_REPLIES:
            reply = self._store.add_reply(chat, update.message_id, sentence, closed=True)
            effects.append(Opened(reply))
        return "refused"


def paste_delay(ask: Ask) -> float:
    """Seconds that an ask is to wait for more of it."""
    return _delay(ask.pieces[-1])


def _delay(piece: Piece) -> float:
    if piece.album:
        return ALBUM_SECONDS
    return PASTE_SECONDS if piece.units >= CUT_UNITS else 0.0


def _goes_on(ask: Ask, piece: Piece) -> bool:
    """Tell whether a message is the next piece of a paste that a client has cut."""
    last = ask.pieces[-1]
    return (
        last.units >= CUT_UNITS
        and not ask.lacks_document
        and not last.album
        and not ask.pictures
        and not piece.context  # a client cuts text alone
        and 0 <= piece.sent_at - last.sent_at <= CUT_SECONDS
        and len(ask.pieces) < MOST_PIECES
    )


def _note(update: Update, document: WantedDocument | None) -> str:
    """Tell the model of what a message carries and it will not get."""
    if not update.attachment or document:
        return ""
    return f"[{update.attachment.replace('_', ' ')} attached that you cannot see or open]\n\n"


def _is_of_album(ask: Ask, piece: Piece) -> bool:
    """Tell whether a message belongs to the album that an ask is made of so far."""
    return (
        piece.album != ""
        and piece.album == ask.pieces[-1].album
        and piece.message_id not in {known.message_id for known in ask.pieces}
        and len(ask.pieces) < MOST_PIECES
    )


def megabytes(count: int) -> str:
    """Write a size as people read it."""
    return f"{count / 1_000_000:.3g}"


def _receipt(
    update_id: int | None,
    outcome: Literal["accepted", "duplicate", "refused"],
    notice: str = "",
) -> Receipt:
    return Receipt(update_id=update_id, outcome=outcome, notice=notice)
