"""Owns the Bot API's methods: what each checks, in Telegram's order, and what it changes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.stubs.telegram import inputs
from tests.stubs.telegram.budgets import Budgets, Limits
from tests.stubs.telegram.chats import Chat, Chats, Message
from tests.stubs.telegram.errors import (
    BotApiError,
    bad_request,
    chat_moved,
    too_many_requests,
)
from tests.stubs.telegram.files import File, Files
from tests.stubs.telegram.inputs import RawText
from tests.stubs.telegram.params import Params, leading_integer
from tests.stubs.telegram.record import Record
from tests.stubs.telegram.text import FormattedText, fix_formatted_text, utf16_length
from tests.stubs.telegram.updates import WEBHOOK_ACTIVE, WEBHOOK_SET, Pending, UpdateQueue

MAX_TEXT = 4096
MAX_CAPTION = 1024
_ACTIONS = frozenset(
    {
        "cancel",
        "typing",
        "record_video",
        "upload_video",
        "record_audio",
        "record_voice",
        "upload_audio",
        "upload_voice",
        "upload_photo",
        "upload_document",
        "choose_sticker",
        "pick_up_location",
        "find_location",
        "record_video_note",
        "upload_video_note",
    }
)
_EMOJI = """
👍 👎 ❤ 🔥 🥰 👏 😁 🤔 🤯 😱 🤬 😢 🎉 🤩 🤮 💩 🙏 👌 🕊 🤡 🥱 🥴 😍 🐳
❤‍🔥 🌚 🌭 💯 🤣 ⚡ 🍌 🏆 💔 🤨 😐 🍓 🍾 💋 🖕 😈 😴 😭 🤓 👻 👨‍💻 👀 🎃 🙈
😇 😨 🤝 ✍ 🤗 🫡 🎅 🎄 ☃ 💅 🤪 🗿 🆒 💘 🙉 🦄 😘 💊 🙊 😎 👾 🤷‍♂ 🤷 🤷‍♀
😡
"""
_REACTIONS = frozenset(_EMOJI.split())
_CLOSE_WAIT = 600


@dataclass(frozen=True)
class Answer:
    """A result, with the remark that a few methods put beside it."""

    result: Any
    description: str = ""


@dataclass
class Callback:
    """A button press that waits for its answer."""

    callback_id: str
    chat_id: int
    message_id: int
    pressed_at: float
    is_answered: bool = False


@dataclass
class Profile:
    """What the bot has told Telegram about itself."""

    commands: dict[tuple[str, str], list[dict[str, str]]] = field(default_factory=dict)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    webhook_url: str = ""
    is_logged_out: bool = False


Method = Callable[[Params], Any]


class Methods:
    """One bot's view of Telegram. Methods are looked up in lower case."""

    def __init__(
        self,
        *,
        bot: dict[str, Any],
        limits: Callable[[], Limits],
        clock: Callable[[], float],
        budgets: Budgets,
        chats: Chats,
        files: Files,
        updates: UpdateQueue,
        record: Record,
    ) -> None:
        self.bot = bot
        self.profile = Profile()
        self.callbacks: dict[str, Callback] = {}
        self._limits = limits
        self._clock = clock
        self._budgets = budgets
        self._chats = chats
        self._files = files
        self._updates = updates
        self._record = record
        self._launched = clock()
        self._methods: dict[str, Method] = {
            "getme": self._get_me,
            "getupdates": self._get_updates,
            "setwebhook": self._set_webhook,
            "deletewebhook": self._delete_webhook,
            "getwebhookinfo": self._get_webhook_info,
            "sendmessage": self._send_message,
            "senddocument": partial(self._send_media, "document"),
            "sendphoto": partial(self._send_media, "photo"),
            "editmessagetext": self._edit_message_text,
            "editmessagecaption": self._edit_message_caption,
            "editmessagereplymarkup": self._edit_message_reply_markup,
            "editmessagemedia": self._edit_message_media,
            "deletemessage": self._delete_message,
            "sendchataction": self._send_chat_action,
            "sendmessagedraft": self._send_message_draft,
            "setmessagereaction": self._set_message_reaction,
            "answercallbackquery": self._answer_callback_query,
            "setmycommands": self._set_my_commands,
            "getmycommands": self._get_my_commands,
            "deletemycommands": self._delete_my_commands,
            "setmyname": self._setter("name", 64),
            "getmyname": self._getter("name"),
            "setmydescription": self._setter("description", 512),
            "getmydescription": self._getter("description"),
            "setmyshortdescription": self._setter("short_description", 120),
            "getmyshortdescription": self._getter("short_description"),
            "getfile": self._get_file,
            "getchat": self._get_chat,
            "logout": self._log_out,
            "close": self._close,
        }

    async def call(self, method: str, params: Params) -> Answer:
        """Carry a method out; raise BotApiError where Telegram answers with an error."""
        if self.profile.is_logged_out:
            raise BotApiError(400, "Logged out")
        handler = self._methods.get(method)
        if handler is None:
            raise BotApiError(404, "Not Found: method not found")
        result = handler(params)
        if isinstance(result, Awaitable):
            result = await result
        return result if isinstance(result, Answer) else Answer(result)

    # Updates

    async def _get_updates(self, params: Params) -> list[Pending]:
        if self.profile.webhook_url:
            await self._updates.delay_conflict()
            raise BotApiError(409, WEBHOOK_ACTIVE)
        offset = params.integer("offset", 0, -(2**31), 2**31 - 1)
        limit = params.integer("limit", 100, 1, 100)
        timeout = params.integer("timeout", 0, 0, 50)
        self._updates.allow(params.text("allowed_updates"))
        try:
            return await self._updates.poll(offset, limit, timeout)
        except BotApiError as error:
            if error.code == 409:
                await self._updates.delay_conflict()
            raise

    def _set_webhook(self, params: Params) -> Answer:
        url = params.text("url")
        if not url:
            return self._delete_webhook(params)
        if not url.startswith("https://"):
            raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")
        self._updates.allow(params.text("allowed_updates"))
        if params.boolean("drop_pending_updates"):
            self._updates.drop_all()
        if self.profile.webhook_url == url:
            return Answer(True, "Webhook is already set")
        self.profile.webhook_url = url
        self._updates.abort_poll(WEBHOOK_SET)
        return Answer(True, "Webhook was set")

    def _delete_webhook(self, params: Params) -> Answer:
        if params.boolean("drop_pending_updates"):
            self._updates.drop_all()
        was_set, self.profile.webhook_url = self.profile.webhook_url, ""
        return Answer(True, "Webhook was deleted" if was_set else "Webhook is already deleted")

    def _get_webhook_info(self, _: Params) -> dict[str, Any]:
        info: dict[str, Any] = {
            "url": self.profile.webhook_url,
            "has_custom_certificate": False,
            "pending_update_count": len(self._updates.pending()),
        }
        if self.profile.webhook_url:
            info["max_connections"] = 40
            info["ip_address"] = "<unknown>"
        if not self._updates.is_allowed_default:
            info["allowed_updates"] = self._updates.allowed
        return info

    # Messages

    def _send_message(self, params: Params) -> dict[str, Any]:
        raw = self._text(params)
        target = inputs.read_reply_target(params)
        markup = inputs.read_reply_markup(params)
        chat = self._chat(params)
        thread = self._thread(params, chat)
        reply_to = self._reply_to(target, chat)
        content = fix_formatted_text(raw.text, raw.entities)
        # The Bot API server counts characters; units beyond that are refused further inside.
        if len(content.text) > MAX_TEXT:
            raise bad_request("Message is too long")
        self._charge(chat)
        if utf16_length(content.text) > MAX_TEXT:
            raise bad_request("MESSAGE_TOO_LONG")
        return self._add(chat, content, markup, reply_to, thread)

    def _send_media(self, kind: str, params: Params) -> dict[str, Any]:
        stored = self._input_file(params, params.text(kind), kind)
        raw = inputs.read_text(params, "caption", "caption_entities")
        target = inputs.read_reply_target(params)
        markup = inputs.read_reply_markup(params)
        chat = self._chat(params)
        thread = self._thread(params, chat)
        reply_to = self._reply_to(target, chat)
        content = self._caption(raw, "Message caption is too long")
        self._charge(chat)
        extra = stored.as_media(kind)
        return self._add(chat, content, markup, reply_to, thread, extra)

    def _add(
        self,
        chat: Chat,
        content: FormattedText,
        markup: dict[str, Any] | None,
        reply_to: int | None,
        thread: int | None,
        extra: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        inputs.check_buttons(markup)
        message = self._chats.add(
            chat,
            self.bot,
            content,
            is_from_bot=True,
            # Only inline keyboards belong to a message; the others belong to the screen.
            reply_markup=markup if markup and "inline_keyboard" in markup else None,
            reply_to=reply_to,
            thread=thread,
            extra=extra,
        )
        return message.as_json()

    def _edit_message_text(self, params: Params) -> dict[str, Any]:
        raw = self._text(params)
        message, markup = self._editable(params)
        if message.extra:
            raise bad_request("There is no text in the message to edit")
        content = fix_formatted_text(raw.text, raw.entities)
        self._charge(message.chat)
        if utf16_length(content.text) > MAX_TEXT:
            raise bad_request("MESSAGE_TOO_LONG")
        return self._edit(message, content, markup, message.extra)

    def _edit_message_caption(self, params: Params) -> dict[str, Any]:
        raw = inputs.read_text(params, "caption", "caption_entities")
        message, markup = self._editable(params)
        if not message.extra:
            raise bad_request("There is no caption in the message to edit")
        content = self._caption(raw, "MEDIA_CAPTION_TOO_LONG")
        self._charge(message.chat)
        return self._edit(message, content, markup, message.extra)

    def _edit_message_reply_markup(self, params: Params) -> dict[str, Any]:
        message, markup = self._editable(params)
        self._charge(message.chat)
        return self._edit(message, message.content, markup, message.extra)

    def _edit_message_media(self, params: Params) -> dict[str, Any]:
        media = inputs.read_json(params, "media", "input media")
        if media is None:
            raise bad_request("media is empty")
        if not isinstance(media, dict):
            raise bad_request("Can't parse InputMedia: expected an Object")
        kind = media.get("type")
        if kind not in {"document", "photo"}:
            raise inputs.not_implemented(f"media of type {kind!r}")
        stored = self._input_file(params, str(media.get("media") or ""), "media")
        raw = inputs.read_media_caption(media)
        message, markup = self._editable(params)
        content = self._caption(raw, "MEDIA_CAPTION_TOO_LONG")
        self._charge(message.chat)
        return self._edit(message, content, markup, stored.as_media(kind))

    def _editable(self, params: Params) -> tuple[Message, dict[str, Any] | None]:
        markup = inputs.read_reply_markup(params)
        message_id = params.integer("message_id")
        if not params.text("chat_id") and message_id == 0:
            if not params.text("inline_message_id"):
                raise bad_request("Message identifier is not specified")
            raise bad_request("MESSAGE_ID_INVALID")
        message = self._message(params, "message to edit")
        if not message.is_from_bot:
            raise bad_request("Message can't be edited")
        if markup is not None and "inline_keyboard" not in markup:
            raise bad_request("Inline keyboard expected")
        return message, markup

    def _edit(
        self,
        message: Message,
        content: FormattedText,
        markup: dict[str, Any] | None,
        extra: dict[str, Any],
    ) -> dict[str, Any]:
        inputs.check_buttons(markup)
        if content == message.content and markup == message.reply_markup and extra == message.extra:
            raise bad_request(
                "message is not modified: specified new message content and reply markup are "
                "exactly the same as a current content and reply markup of the message"
            )
        is_content_new = content != message.content or extra != message.extra
        message.content = content
        message.reply_markup = markup
        message.extra = extra
        message.edit_date = time.time()
        if is_content_new:
            message.remember(message.edit_date)
        return message.as_json()

    def _delete_message(self, params: Params) -> bool:
        if not params.text("chat_id"):
            raise bad_request("Chat identifier is not specified")
        if params.integer("message_id") == 0:
            raise bad_request("Message identifier is not specified")
        message = self._message(params, "message to delete")
        is_old = time.time() - message.date > 48 * 3600
        if is_old or (message.chat.type != "private" and not message.is_from_bot):
            raise bad_request("message can't be deleted")
        del message.chat.messages[message.message_id]
        message.chat.deleted.append(message.message_id)
        return True

    def _send_message_draft(self, params: Params) -> bool:
        raw = inputs.read_text(params, "text", "entities")
        chat = self._chat(params)
        if chat.type != "private":
            raise bad_request("PEER_ID_INVALID")
        if params.integer("draft_id") == 0:
            raise bad_request("draft_id is empty")
        self._charge(chat)
        if raw.text and utf16_length(raw.text) > MAX_TEXT:
            raise bad_request("MESSAGE_TOO_LONG")
        return True

    def _send_chat_action(self, params: Params) -> bool:
        if params.text("action").lower() not in _ACTIONS:
            raise bad_request("Wrong parameter action in request")
        self._refuse_blocked(self._chat(params))
        return True

    def _set_message_reaction(self, params: Params) -> bool:
        reactions = inputs.read_reactions(params)
        message = self._message(params, "message to react")
        if len(reactions) > 1:
            raise bad_request("REACTIONS_TOO_MANY")
        for reaction in reactions:
            emoji = str(reaction.get("emoji", "")).replace("\ufe0f", "")
            if reaction["type"] == "emoji" and emoji not in _REACTIONS:
                raise bad_request("REACTION_INVALID")
        self._refuse_blocked(message.chat)
        message.reactions = reactions
        return True

    def press(self, chat: Chat, message_id: int) -> Callback:
        """Open a callback query for a button; control.py queues its update."""
        callback = Callback(
            str(secrets.randbits(62) | 1 << 61), chat.chat_id, message_id, self._clock()
        )
        self.callbacks[callback.callback_id] = callback
        return callback

    def _answer_callback_query(self, params: Params) -> bool:
        callback = self.callbacks.get(params.text("callback_query_id"))
        now = self._clock()
        if (
            callback is None
            or callback.is_answered
            or now - callback.pressed_at > self._limits().callback_seconds
        ):
            raise bad_request(
                "query is too old and response timeout expired or query ID is invalid"
            )
        if utf16_length(params.text("text")) > 200:
            raise bad_request("MESSAGE_TOO_LONG")
        callback.is_answered = True
        return True

    # The bot itself

    def _get_me(self, _: Params) -> dict[str, Any]:
        return {
            **self.bot,
            "can_join_groups": True,
            "can_read_all_group_messages": False,
            "supports_inline_queries": False,
            "supports_guest_queries": False,
            "can_connect_to_business": False,
            "has_main_web_app": False,
            "has_topics_enabled": False,
            "allows_users_to_create_topics": False,
            "can_manage_bots": False,
        }

    def _set_my_commands(self, params: Params) -> bool:
        key = self._command_key(params)
        commands = inputs.read_commands(params)
        if commands:
            self.profile.commands[key] = commands
        else:
            self.profile.commands.pop(key, None)
        return True

    def _get_my_commands(self, params: Params) -> list[dict[str, str]]:
        return self.profile.commands.get(self._command_key(params), [])

    def _delete_my_commands(self, params: Params) -> bool:
        self.profile.commands.pop(self._command_key(params), None)
        return True

    def _command_key(self, params: Params) -> tuple[str, str]:
        language = params.text("language_code")
        if language and not (len(language) == 2 and language.isascii() and language.islower()):
            raise bad_request("Invalid language code specified")
        scope = inputs.read_scope(params)
        if ":" in scope:
            self._chat_of(scope.split(":")[1])
        return scope, language

    def _setter(self, name: str, longest: int) -> Method:
        def change(params: Params) -> bool:
            value = params.text(name)
            # How Telegram words this one is not known; that it refuses is.
            if len(value) > longest:
                raise bad_request(f"{name} is too long")
            self.profile.texts[name, params.text("language_code")] = value
            return True

        return change

    def _getter(self, name: str) -> Method:
        def read(params: Params) -> dict[str, str]:
            default = self.bot["first_name"] if name == "name" else ""
            texts = self.profile.texts
            value = texts.get((name, params.text("language_code"))) or texts.get((name, ""))
            return {name: value or default}

        return read

    def _log_out(self, _: Params) -> bool:
        self.profile.is_logged_out = True
        return True

    def _close(self, _: Params) -> bool:
        wait = _CLOSE_WAIT - int(self._clock() - self._launched)
        if wait > 0:
            raise too_many_requests(wait)
        return True

    # Files and chats

    def _get_file(self, params: Params) -> dict[str, Any]:
        return self._files.describe(params.text("file_id"))

    def _get_chat(self, params: Params) -> dict[str, Any]:
        chat = self._chat(params)
        full: dict[str, Any] = {
            **chat.as_json(),
            "accent_color_id": 0,
            "max_reaction_count": 11,
            "accepted_gift_types": {
                "unlimited_gifts": False,
                "limited_gifts": False,
                "unique_gifts": False,
                "premium_subscription": False,
                "gifts_from_channels": False,
            },
        }
        if chat.type != "private":
            full["permissions"] = {"can_send_messages": True}
        return full

    # Checks that methods share

    def _text(self, params: Params) -> RawText:
        if not params.text("text"):
            raise bad_request("Message text is empty")
        return inputs.read_text(params, "text", "entities")

    @staticmethod
    def _caption(raw: RawText, too_long: str) -> FormattedText:
        if not raw.text.strip("\n "):
            return FormattedText("")
        content = fix_formatted_text(raw.text, raw.entities)
        if utf16_length(content.text) > MAX_CAPTION:
            raise bad_request(too_long)
        return content

    def _input_file(self, params: Params, value: str, field_name: str) -> File:
        if value.startswith("attach://"):
            field_name = value.removeprefix("attach://")
        elif value:
            stored = self._files.find(value)
            if stored is None:
                raise bad_request("wrong file identifier/HTTP URL specified")
            return stored
        upload = params.files.get(field_name)
        if upload is None:
            if value:
                raise bad_request("media not found")
            raise bad_request(f"There is no {field_name} in the request")
        if not upload.content:
            raise bad_request("file must be non-empty")
        return self._files.store(upload.content, upload.file_name, upload.mime_type)

    def _chat(self, params: Params) -> Chat:
        return self._chat_of(params.text("chat_id"))

    def _chat_of(self, value: str) -> Chat:
        if not value:
            raise bad_request("chat_id is empty")
        chat = None if value.startswith("@") else self._chats.find(leading_integer(value))
        if chat is None:
            raise bad_request("chat not found")
        if chat.moved_to is not None:
            raise chat_moved(chat.moved_to)
        return chat

    def _message(self, params: Params, what: str) -> Message:
        chat = self._chat(params)
        message = chat.messages.get(params.integer("message_id"))
        if message is None:
            raise bad_request(f"{what} not found")
        return message

    @staticmethod
    def _thread(params: Params, chat: Chat) -> int | None:
        thread = params.integer("message_thread_id")
        if thread <= 0:
            return None
        known: Sequence[int | None] = [message.thread for message in chat.messages.values()]
        if thread not in known and thread not in chat.messages:
            raise bad_request("message thread not found")
        return thread

    def _reply_to(self, target: inputs.ReplyTarget, chat: Chat) -> int | None:
        if target.message_id <= 0:
            return None
        replied_in = self._chat_of(target.chat_id) if target.chat_id else chat
        if target.message_id not in replied_in.messages:
            if target.may_be_missing:
                return None
            raise bad_request("message to be replied not found")
        return target.message_id if replied_in is chat else None

    @staticmethod
    def _refuse_blocked(chat: Chat) -> None:
        if chat.is_blocked:
            if chat.type == "private":
                raise BotApiError.worded(403, "bot was blocked by the user")
            raise BotApiError.worded(403, f"bot was kicked from the {chat.type} chat")

    def _charge(self, chat: Chat) -> None:
        """Everything after this is refused by Telegram's inner servers, so it costs budget."""
        self._refuse_blocked(chat)
        wait = self._budgets.charge(chat.chat_id)
        if wait:
            raise too_many_requests(wait)
