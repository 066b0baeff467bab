"""Brings one reply into its chat: placeholder first, then edits, then the final text, exactly once.

sendMessage has no idempotency key, so a message is only ever sent empty, as a placeholder, and its
id is recorded at the gateway before any text goes into it. Text travels by edits alone, and an edit
can be repeated without harm. A crash can leave an empty placeholder behind; it cannot double text.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, TypeVar

from aiogram import Bot
from aiogram.exceptions import (
    AiogramError,
    TelegramBadRequest,
    TelegramMigrateToChat,
    TelegramRetryAfter,
)
from aiogram.types import (
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaDocument,
    InputMediaPhoto,
    ReplyParameters,
)

from services.log import describe_error
from services.relay.backoff import Backoff
from services.relay.cutting import Parts
from services.relay.decorations import DECORATION_SECONDS
from services.relay.link import Link, persist
from services.relay.pacing import Pacing
from services.relay.rendering import PLACEHOLDER, Rendered
from services.relay.telegram import EditFile, EditText, SendText, is_gone, is_shown
from services.wire import Button, Outcome, PartRecord, Reply

log = logging.getLogger(__name__)

T = TypeVar("T")

SETTLE_SECONDS = 6.0
"""An edit of which no answer came may still be on its way; one was seen to land 5.6 s later."""

MOST_ABREAST = 2
"""More buttons than this stand below one another: a telephone is narrow."""

TYPING_SECONDS = 4.5
"""Telegram shows `typing` for five seconds."""


class Undeliverable(Exception):
    """The chat is gone, or the user has blocked the bot: nothing can ever be shown there."""


class Moved(Exception):
    """The group is a supergroup now and has another id: the reply goes on there."""

    def __init__(self, chat_id: int) -> None:
        super().__init__()
        self.chat_id = chat_id


Shown = tuple[int, tuple[Button, ...]]
"""What a part shows: its content, by its hash, since long answers are many; and its buttons."""


class Delivery:
    """One reply on its way. `update`, `grow` and `close` change it; `run` follows the changes."""

    def __init__(
        self,
        reply: Reply,
        bot: Bot,
        link: Link,
        pacing: Pacing,
        epoch: Callable[[int], Awaitable[int]],
        uploads: asyncio.Semaphore,
        lock: Callable[[int, int], asyncio.Lock],
        after: asyncio.Event | None = None,
    ) -> None:
        """Prepare to deliver a reply.

        `epoch` gives the current stream's epoch, and waits until there is one beyond its argument;
        `uploads` bounds how many files are in memory; `lock` gives that of a message, by chat and
        message, since another page of a menu may come into the same one; `after` is set when the
        reply before this one in its chat has begun, so that they stand in order.
        """
        self.reply = reply
        self._bot = bot
        self._link = link
        self._pacing = pacing
        self._epoch = epoch
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._content = Parts(reply.markup)
        self._parts = list(reply.parts)
        self._shown: list[Shown | None] = [None] * len(reply.parts)
        # An earlier relay may have edits of these parts on their way.
        self._is_unsettled = bool(reply.parts)
        self._uploads = uploads
        self._lock = lock
        self._after = after
        self.begun = asyncio.Event()
        self._typing: asyncio.Task[None] | None = None

    def update(self, reply: Reply) -> None:
        """Take over the reply as the gateway has it now."""
        self.reply = reply
        self._changed.set()
        if reply.closed:
            self._closed.set()

    def grow(self, at: int, text: str) -> None:
        """Replace the text from character `at` on."""
        self.update(self.reply.model_copy(update={"text": self.reply.text[:at] + text}))

    def show_status(self, status: str) -> None:
        """Show this while there is no text."""
        self.update(self.reply.model_copy(update={"status": status}))

    def close(self, text: str, buttons: tuple[Button, ...]) -> None:
        """Complete the reply."""
        self.update(
            self.reply.model_copy(update={"text": text, "buttons": buttons, "closed": True})
        )

    async def run(self) -> None:
        """Return when the reply stands in its chat, or never can.

        Raises link.Settled when somebody else has brought the reply to its end.
        """
        try:
            if self._after:
                await self._after.wait()
            await self._run()
        finally:
            if self._typing:
                self._typing.cancel()

    async def _run(self) -> None:
        end: Literal["delivered", "undeliverable", "moved"] = "delivered"
        moved_to = 0
        try:
            while not await self._show():
                pass
        except Undeliverable:
            end = "undeliverable"
        except Moved as move:
            end, moved_to = "moved", move.chat_id
        parts = len(self._parts) if end == "delivered" else None
        await self._persist(
            lambda epoch: self._link.settle(
                Outcome(epoch=epoch, outcome=end, moved_to=moved_to, parts=parts), self.reply.id
            )
        )
        log.info(end, extra={"reply": self.reply.id, "parts": len(self._parts)})

    async def _show(self) -> bool:
        """Bring what there is now into the chat; True when that was the whole, final text."""
        self._changed.clear()
        reply = self.reply
        if not self._parts and not reply.text:
            self._type()
        await self._make_room(reply)
        self.begun.set()
        if reply.closed:
            await self._finish(self._wanted(reply))
            return self.reply.file == reply.file  # else it goes on as text
        if self._first_difference(reply) is None:
            await self._wait_for_change()
            return False
        await self._wait_for_turn()
        if self._closed.is_set():
            return False  # the final text is more urgent, and does not wait for this turn
        # What there is by now: the turn may have been long in coming. The next message is there
        # before this one loses its button: else what still grows would look complete.
        await self._make_room(self.reply)
        await self._persist(lambda epoch: self._link.claim(epoch, reply.id))
        reply = self.reply
        if len(self._parts) < len(self._wanted(reply)):
            return False
        position = self._first_difference(reply)
        if position is not None and not reply.closed and position < len(self._parts):
            _, buttons = self._wanted(reply)[position]
            await self._edit(position, buttons)
        return False

    async def _make_room(self, reply: Reply) -> None:
        """Send as many messages as the text takes."""
        while len(self._parts) < len(self._wanted(reply)):
            await self._send_placeholder()

    def _wanted(self, reply: Reply) -> list[Shown]:
        """Say what each part should show: the buttons stand under the last one."""
        self._content.read(reply.text)
        last = max(1, len(self._content)) - 1
        return [
            *((self._content.token(position), ()) for position in range(last)),
            (hash(self._message(last)), reply.buttons),
        ]

    def _message(self, position: int) -> Rendered:
        """Render a part; one without text shows what it waits for."""
        if position < len(self._content):
            return self._content.render(position)
        return Rendered((not position and self.reply.status) or PLACEHOLDER)

    def _first_difference(self, reply: Reply) -> int | None:
        for position, wanted in enumerate(self._wanted(reply)):
            if position >= len(self._shown) or self._shown[position] != wanted:
                return position
        return None

    async def _wait_for_turn(self) -> None:
        """Wait until the growing text may be shown, or until there is a final one."""
        turn = asyncio.create_task(self._pacing.turn(self.reply.chat_id, urgent=False))
        closed = asyncio.create_task(self._closed.wait())
        try:
            await asyncio.wait({turn, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            turn.cancel()
            closed.cancel()

    async def _wait_for_change(self) -> None:
        while not self._changed.is_set():
            try:
                await asyncio.wait_for(self._changed.wait(), TYPING_SECONDS)
            except TimeoutError:
                self._type()

    async def _finish(self, wanted: list[Shown]) -> None:
        await self._assert_final(wanted)
        if self._is_unsettled:
            await asyncio.sleep(SETTLE_SECONDS)
            self._shown = [None] * len(self._parts)
            await self._assert_final(wanted)

    async def _assert_final(self, wanted: list[Shown]) -> None:
        for position, shown in enumerate(wanted):
            if self._shown[position] != shown:
                edit = partial(self._edit, position, shown[1], is_final=True)
                await self._try_until_done(self._parts[position], edit)
        while len(self._parts) > len(wanted):
            # The answer began anew and is shorter now.
            await self._try_until_done(self._parts[-1], lambda: self._delete(self._parts[-1]))
            self._parts.pop()
            self._shown.pop()

    async def _try_until_done(self, message_id: int, call: Callable[[], Awaitable[bool]]) -> None:
        backoff = Backoff()
        while True:
            await self._pacing.turn(self.reply.chat_id, urgent=True)
            async with self._lock(self.reply.chat_id, message_id):
                # Each time: meanwhile a retry may have put another answer into these messages.
                await self._persist(lambda epoch: self._link.claim(epoch, self.reply.id))
                if await call():
                    return
            await backoff.wait()

    async def _send_placeholder(self) -> None:
        reply = self.reply
        reply_to = (
            ReplyParameters(message_id=reply.reply_to, allow_sending_without_reply=True)
            if reply.reply_to and not self._parts
            else None
        )
        backoff = Backoff()
        while True:
            await self._pacing.turn(reply.chat_id, urgent=True)
            try:
                message = await self._bot(
                    SendText(
                        chat_id=reply.chat_id,
                        text=PLACEHOLDER,
                        message_thread_id=reply.thread_id or None,
                        reply_parameters=reply_to,
                    )
                )
                message_id = int(message["message_id"])
                break
            except (AiogramError, OSError) as error:
                if not self._may_pass(error):
                    raise Undeliverable from None
                await backoff.wait()
        position = len(self._parts)
        await self._persist(
            lambda epoch: self._link.record_part(
                PartRecord(
                    epoch=epoch, chat_id=reply.chat_id, position=position, message_id=message_id
                ),
                reply.id,
            )
        )
        self._parts.append(message_id)
        self._shown.append(_EMPTY)

    async def _edit(
        self, position: int, buttons: tuple[Button, ...], *, is_final: bool = False
    ) -> bool:
        """Edit one part; False if it should be tried again."""
        if self.reply.file:
            return await self._edit_file(buttons)
        message = self._message(position)
        end = await self._carry_out(
            EditText(
                text=message.text,
                entities=message.entities_json(),
                chat_id=self.reply.chat_id,
                message_id=self._parts[position],
                reply_markup=_keyboard(buttons),
            )
        )
        if end == "refused" and message.entities:
            log.error("formatting refused", extra={"reply": self.reply.id, "part": position})
            self._content.give_up(position)
            return False
        if end == "refused":
            log.error("edit refused", extra={"reply": self.reply.id, "part": position})
            if is_final:
                # No repetition mends it. At least no button shall promise that it goes on.
                with contextlib.suppress(AiogramError, OSError):
                    await self._bot.edit_message_reply_markup(
                        chat_id=self.reply.chat_id, message_id=self._parts[position]
                    )
                raise Undeliverable
        if end == "again":
            return False
        self._shown[position] = (hash(message), buttons)
        return True

    async def _edit_file(self, buttons: tuple[Button, ...]) -> bool:
        """Put the file into the only part; False if it should be tried again.

        If there is none any more, or Telegram will not have it, the reply goes on as text.
        """
        reply = self.reply
        media = InputMediaPhoto if reply.is_photo else InputMediaDocument
        async with self._uploads:
            content = await self._persist(lambda epoch: self._link.file(epoch, reply.id))
            if not content:
                self.update(reply.model_copy(update={"file": ""}))
                return True
            end = await self._carry_out(
                EditFile(
                    chat_id=reply.chat_id,
                    message_id=self._parts[0],
                    media=media(
                        media=BufferedInputFile(content, reply.file),
                        caption=reply.text,
                        parse_mode=None,
                    ),
                    reply_markup=_keyboard(buttons),
                )
            )
        if end == "again":
            return False
        if end == "refused":
            log.error("file refused", extra={"reply": reply.id})
            text = reply.text if reply.is_photo else f"{reply.text}\n\n{content.decode()}"
            self.update(reply.model_copy(update={"file": "", "text": text}))
            return True
        self._shown[0] = (hash(self._message(0)), buttons)
        return True

    async def _carry_out(self, edit: EditText | EditFile) -> Literal["shown", "refused", "again"]:
        """Edit a message; what the user has deleted stays deleted, and counts as shown.

        Raises Undeliverable or Moved.
        """
        try:
            await self._bot(edit)
        except TelegramBadRequest as error:
            if is_gone(error):
                raise Undeliverable from None
            return "shown" if is_shown(error) else "refused"
        except (AiogramError, OSError) as error:
            if not self._may_pass(error):
                raise Undeliverable from None
            return "again"
        return "shown"

    async def _delete(self, message_id: int) -> bool:
        """Delete a part that is not needed any more; False if it should be tried again."""
        try:
            await self._bot.delete_message(self.reply.chat_id, message_id)
        except TelegramBadRequest:
            pass  # it is gone already, or too old to be deleted
        except (AiogramError, OSError) as error:
            return not self._may_pass(error)
        return True

    def _may_pass(self, error: Exception) -> bool:
        """Tell whether trying again can help, and note what it means for the next try.

        Raises Moved.
        """
        if isinstance(error, TelegramMigrateToChat):
            raise Moved(error.migrate_to_chat_id) from None
        if isinstance(error, TelegramRetryAfter):
            self._pacing.obey(self.reply.chat_id, error.retry_after)
            return True
        if is_gone(error):
            return False
        if isinstance(error, TelegramBadRequest):
            log.error("refused by telegram", extra={"reply": self.reply.id})
            return False
        log.warning("telegram failed", extra={"error": describe_error(error)})
        self._is_unsettled = True  # it may have been carried out, now or in a moment
        return True

    async def _persist(self, call: Callable[[int], Awaitable[T]]) -> T:
        """Call the gateway until it answers. If the next stream is another relay's, the outbox
        ends this delivery. Raises link.Settled.
        """
        return await persist(self._epoch, call)

    def _type(self) -> None:
        """Show that somebody is typing: a decoration, which must hold up nothing.

        Nobody is for those who wait in line: they see that, and may be hundreds.
        """
        is_idle = not self._typing or self._typing.done()
        if not self.reply.status and is_idle and self._pacing.may_type(self.reply.chat_id):
            self._typing = asyncio.create_task(self._send_typing())

    async def _send_typing(self) -> None:
        await self._epoch(0)  # nobody is typing while the gateway is away
        with contextlib.suppress(AiogramError, OSError):
            await self._bot.send_chat_action(
                self.reply.chat_id,
                "typing",
                message_thread_id=self.reply.thread_id or None,
                request_timeout=DECORATION_SECONDS,
            )


_EMPTY: Shown = (hash(Rendered(PLACEHOLDER)), ())


def _keyboard(buttons: tuple[Button, ...]) -> InlineKeyboardMarkup | None:
    if not buttons:
        return None
    keys = [
        InlineKeyboardButton(text=button.label, callback_data=button.data) for button in buttons
    ]
    is_menu = len(keys) > MOST_ABREAST
    return InlineKeyboardMarkup(inline_keyboard=[[key] for key in keys] if is_menu else [keys])
