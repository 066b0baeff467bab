"""Answers once more: a question whose answer failed, was cut short, or could be another one.

All of it in the store's thread, within a batch's transaction.
"""

from typing import Literal

from services.gateway.buttons import stop_button
from services.gateway.effects import Asked, Effect, Opened
from services.gateway.limits import Allowance
from services.gateway.store import Ask, Chat, Piece, Store
from services.gateway.texts import Language, say
from services.wire import Reply, Update

Verb = Literal["retry", "again", "more"]


class Again:
    """Puts questions back into the queue."""

    def __init__(self, store: Store, allowance: Allowance) -> None:
        self._store = store
        self._allowance = allowance

    def press(
        self, verb: Verb, ask_id: int, update: Update, language: Language, effects: list[Effect]
    ) -> str:
        """Carry a press out; returns what its user is told.

        The messages of the old answer are used again, so the relay must be done with them.
        """
        chat = (update.chat_id, update.thread_id)
        if why := self._allowance.refusal(update.user_id, language):
            return why
        if verb == "retry":
            failed = self._store.failed_ask(ask_id, update.user_id, chat)
            if failed is None:
                return say("too late", language)
            if self._store.is_open(failed.reply_id):
                return say("one moment", language)
            self._open(*self._store.retry_ask(failed), language, effects)
            return say("retrying", language)
        exchange = self._store.exchange(chat)
        if not exchange or (exchange.ask_id, exchange.user_id) != (ask_id, update.user_id):
            return say("not the latest", language)
        if self._store.asks(chat):
            return say("still answering", language)
        if not exchange.parts:
            return say("one moment", language)
        reopened = self._store.reopen(chat, exchange, language, goes_on=verb == "more")
        self._open(*reopened, language, effects)
        return say("retrying" if verb == "again" else "going on", language)

    def reword(self, update: Update, piece: Piece, language: Language) -> tuple[Reply, Ask] | None:
        """Let the latest question wait anew, to be answered in place, as its user has reworded it.

        None: it cannot be.

        One of several messages is not the whole of the question, except for an album of pictures,
        which keeps them; and an answer that the relay is still working on is not to be disturbed.
        """
        chat: Chat = (update.chat_id, update.thread_id)
        exchange = self._store.exchange(chat)
        is_album = bool(
            exchange
            and piece.album
            and exchange.pictures > 1
            and exchange.pieces in (1, exchange.pictures)
        )
        if (
            not exchange
            or (exchange.message_id, exchange.user_id) != (piece.message_id, update.user_id)
            or (exchange.pieces != 1 and not is_album)
            or not exchange.parts
            or self._store.asks(chat)
        ):
            return None
        return self._store.reopen(chat, exchange, language, wording=piece, keeps_pictures=is_album)

    def command(self, update: Update, language: Language, effects: list[Effect]) -> str:
        """Answer the latest question once more, below; returns why not, if it cannot be."""
        chat: Chat = (update.chat_id, update.thread_id)
        if why := self._allowance.refusal(update.user_id, language):
            return why
        if self._store.asks(chat):
            return say("still answering", language)
        exchange = self._store.exchange(chat)
        failed = self._store.failed_ask(None, update.user_id, chat)
        if failed and failed.id > (exchange.ask_id if exchange else 0):
            if self._store.is_open(failed.reply_id):
                return say("one moment", language)
            self._open(*self._store.retry_ask(failed), language, effects)
            return ""
        if not exchange or exchange.user_id != update.user_id:
            return say("nothing to retry", language)
        below = self._store.reopen(chat, exchange, language, in_place=False)
        self._open(*below, language, effects)
        return ""

    def _open(self, reply: Reply, ask: Ask, language: Language, effects: list[Effect]) -> None:
        effects.append(Opened(self._store.set_buttons(reply, stop_button(ask, language))))
        effects.append(Asked(ask))
