"""Takes batches of updates: decides on each, commits them, and only then lets them take effect."""

import logging
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import ValidationError

from services.gateway.history import estimate_tokens
from services.gateway.outbox import Outbox
from services.gateway.queue import Queue
from services.gateway.store import Ask, Store
from services.gateway.texts import Language, language_of, say
from services.wire import Batch, Button, Receipt, Receipts, Reply, Update

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How much may wait, and how long one message may be."""

    user_asks: int
    total_asks: int
    ask_tokens: int


@dataclass(frozen=True)
class _Opened:
    reply: Reply


@dataclass(frozen=True)
class _Asked:
    ask: Ask


@dataclass(frozen=True)
class _Withdrawn:
    ask: Ask
    shown: str


@dataclass(frozen=True)
class _Stopped:
    ask_id: int


_Effect = _Opened | _Asked | _Withdrawn | _Stopped

MOST_UNSEEN_REPLIES = 30
"""Replies that a chat has not been shown yet, beyond which commands get none: it would be late."""


class Inbox:
    """The only way in for what users do."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        outbox: Outbox,
        allowed_users: frozenset[int],
        limits: Limits,
    ) -> None:
        self._store = store
        self._queue = queue
        self._outbox = outbox
        self._allowed_users = allowed_users
        self._limits = limits

    async def accept(self, batch: Batch) -> Receipts:
        """Commit what can be accepted and answer for each update on its own.

        When this returns, every accepted update is on the disk. Raises StoreError when the disk
        does not take it: then nothing was accepted.
        """
        receipts, effects = await self._store.run(self._commit, batch)
        for effect in effects:
            match effect:
                case _Opened(reply):
                    self._outbox.open(reply)
                case _Asked(ask):
                    self._queue.put(ask)
                case _Withdrawn(ask, shown):
                    self._queue.withdraw(ask.id)
                    self._outbox.close(ask.reply_id, shown)
                case _Stopped(ask_id):
                    self._queue.stop(ask_id)
        return Receipts(receipts=receipts)

    def abandon(self, reply_id: int) -> None:
        """A reply can never be shown: spend nothing more on it."""
        self._queue.abandon(reply_id)

    # From here on: in the store's thread.

    def _commit(self, batch: Batch) -> tuple[list[Receipt], list[_Effect]]:
        effects: list[_Effect] = []
        with self._store.transaction():
            receipts = [self._decide(batch.bot_id, raw, effects) for raw in batch.updates]
        return receipts, effects

    def _decide(self, bot_id: int, raw: dict[str, Any], effects: list[_Effect]) -> Receipt:
        try:
            update = Update.model_validate(raw)
        except ValidationError:
            log.warning("malformed update")
            number = raw.get("update_id")
            return _receipt(number if isinstance(number, int) else None, "refused")
        if update.user_id not in self._allowed_users:
            log.warning("stranger", extra={"update": update.update_id})
            return _receipt(update.update_id, "refused")
        if not self._store.remember_update(bot_id, update.update_id, update.identity()):
            return _receipt(update.update_id, "duplicate")
        language = language_of(update.language)
        if update.kind == "press":
            return self._press(update, language, effects)
        outcome = self._message(update, language, effects)
        return _receipt(update.update_id, outcome)

    def _message(
        self, update: Update, language: Language, effects: list[_Effect]
    ) -> Literal["accepted", "refused"]:
        chat = (update.chat_id, update.thread_id)
        text = (update.text or "").strip()
        is_news = self._store.remember_wording(update.chat_id, update.message_id, text)
        if update.kind == "edit" and (not is_news or not text or text.startswith("/")):
            # Not every edit changes the text, a live location moves on by edits, and a command is
            # not run twice.
            return "accepted"
        if not text:
            return self._refuse(update, say("only text", language), effects)
        if text.startswith("/"):
            return self._command(update, text, language, effects)
        if estimate_tokens(text) > self._limits.ask_tokens:
            return self._refuse(update, say("too long", language), effects)
        if update.kind == "edit":
            for ask in self._store.asks(chat):
                if ask.message_id == update.message_id and ask.state == "waiting":
                    self._store.reword_ask(ask.id, text)
                    return "accepted"
        of_user, of_all = self._store.count_asks(update.user_id)
        if of_user >= self._limits.user_asks:
            return self._refuse(update, say("too many", language, count=of_user), effects)
        if of_all >= self._limits.total_asks:
            return self._refuse(update, say("busy", language), effects)
        reply = self._store.add_reply(chat, update.message_id)
        ask = self._store.add_ask(reply.id, update.user_id, chat, update.message_id, language, text)
        button = Button(label=say("stop", language), data=f"stop:{ask.id}")
        effects.append(_Opened(self._store.set_button(reply, button)))
        effects.append(_Asked(ask))
        return "accepted"

    def _command(
        self, update: Update, text: str, language: Language, effects: list[_Effect]
    ) -> Literal["accepted", "refused"]:
        chat = (update.chat_id, update.thread_id)
        match text.split()[0].split("@")[0].lower():
            case "/start":
                answer = say("start", language)
            case "/help":
                answer = say("help", language)
            case "/new":
                self._store.start_conversation(chat)
                answer = say("new", language)
            case "/stop":
                # Earlier asks only: what comes later in the batch is not in the store yet.
                asks = [ask for ask in self._store.asks(chat) if ask.user_id == update.user_id]
                effects.extend(self._stop(ask) for ask in asks)
                if asks:
                    return "accepted"  # the stopped answers say so themselves
                answer = say("nothing to stop", language)
            case _:
                answer = say("unknown command", language)
        if self._store.count_replies(chat) < MOST_UNSEEN_REPLIES:
            effects.append(_Opened(self._store.add_reply(chat, 0, answer, closed=True)))
        return "accepted"

    def _stop(self, ask: Ask) -> _Effect:
        if ask.state != "waiting":
            self._store.stop_ask(ask.id)
            return _Stopped(ask.id)
        shown = say("stopped", cast(Language, ask.language))
        self._store.withdraw_ask(ask, shown)
        return _Withdrawn(ask, shown)

    def _press(self, update: Update, language: Language, effects: list[_Effect]) -> Receipt:
        verb, _, number = update.press_data.partition(":")
        if verb == "stop" and number.isascii() and number.isdigit():
            for ask in self._store.asks((update.chat_id, update.thread_id)):
                if ask.id == int(number) and ask.user_id == update.user_id:
                    effects.append(self._stop(ask))
                    return _receipt(update.update_id, "accepted", say("stopping", language))
        return _receipt(update.update_id, "accepted", say("too late", language))

    def _refuse(self, update: Update, sentence: str, effects: list[_Effect]) -> Literal["refused"]:
        chat = (update.chat_id, update.thread_id)
        if self._store.count_replies(chat) < MOST_UNSEEN_REPLIES:
            reply = self._store.add_reply(chat, update.message_id, sentence, closed=True)
            effects.append(_Opened(reply))
        return "refused"


def _receipt(
    update_id: int | None,
    outcome: Literal["accepted", "duplicate", "refused"],
    notice: str = "",
) -> Receipt:
    return Receipt(update_id=update_id, outcome=outcome, notice=notice)
