"""Owns reading the JSON objects inside parameters: text with entities, keyboards, replies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.stubs.telegram.errors import BotApiError, bad_request
from tests.stubs.telegram.params import Params, leading_integer
from tests.stubs.telegram.parsing import checked_link, parse
from tests.stubs.telegram.text import FOUND_TYPES, USER_TYPES, Entity

_MAX_TEXT_BYTES = 1 << 15
_MAX_BUTTON_BYTES = 64
_EXTRA_FIELDS = {
    "pre": "language",
    "text_link": "url",
    "text_mention": "user",
    "custom_emoji": "custom_emoji_id",
    "date_time": "unix_time",
}


class _FieldError(Exception):
    """An object lacks a field or has it with a wrong type; the text is Telegram's."""


@dataclass(frozen=True)
class RawText:
    """Visible text and entities of a request, before cleaning."""

    text: str
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class ReplyTarget:
    """What a message is to reply to; message_id 0 means nothing."""

    message_id: int = 0
    chat_id: str = ""
    may_be_missing: bool = False


def read_text(params: Params, field: str, entities_field: str) -> RawText:
    """Parse a text by parse_mode, else by the entities given."""
    text = params.text(field)
    parse_mode = params.text("parse_mode")
    try:
        entities = json.loads(params.text(entities_field) or "null")
    except ValueError:
        # Telegram ignores entities that are no JSON.
        entities = None
    return _formatted(text, parse_mode, entities)


def read_media_caption(media: dict[str, Any]) -> RawText:
    """Parse the caption inside an InputMedia object."""
    return _formatted(
        str(media.get("caption") or ""),
        str(media.get("parse_mode") or ""),
        media.get("caption_entities"),
    )


def _formatted(text: str, parse_mode: str, entities: Any) -> RawText:
    if len(text.encode("utf-8", "surrogatepass")) > _MAX_TEXT_BYTES:
        raise bad_request("Text is too long")
    if text and parse_mode and parse_mode.lower() != "none":
        visible, found = parse(text, parse_mode)
        return RawText(visible, tuple(found))
    read = []
    if isinstance(entities, list):
        for item in entities:
            try:
                entity = _entity(item)
            except _FieldError as error:
                raise bad_request(f"Can't parse MessageEntity: {error}") from error
            if entity is not None:
                read.append(entity)
    return RawText(text, tuple(read))


def _entity(item: Any) -> Entity | None:
    if not isinstance(item, dict):
        raise _FieldError("expected an Object")
    offset = _integer(item, "offset")
    length = _integer(item, "length")
    kind = _string(item, "type")
    if not kind:
        raise _FieldError("Type is not specified")
    if kind in FOUND_TYPES:
        return None
    if kind not in USER_TYPES:
        raise _FieldError("Unsupported type specified")
    extra = {}
    name = _EXTRA_FIELDS.get(kind)
    if name is not None:
        value = item.get(name)
        if value is not None:
            extra[name] = value
        elif kind != "pre":
            raise _FieldError(f'Can\'t find field "{name}"')
    if kind == "text_link":
        extra["url"] = checked_link(_string(item, "url"))
        if not extra["url"]:
            return None  # Telegram drops a link that it does not know, and keeps its text
    return Entity(kind, offset, length, extra)


def read_reply_target(params: Params) -> ReplyTarget:
    """Read reply_parameters, or the older reply_to_message_id."""
    if "reply_parameters" not in params.values:
        return ReplyTarget(
            message_id=params.integer("reply_to_message_id"),
            may_be_missing=params.boolean("allow_sending_without_reply"),
        )
    encoded = params.text("reply_parameters")
    if not encoded:
        return ReplyTarget()
    try:
        decoded = json.loads(encoded)
    except ValueError as error:
        raise bad_request("Can't parse reply parameters JSON object") from error
    if not isinstance(decoded, dict):
        raise bad_request("Object expected as reply parameters")
    if not decoded:
        return ReplyTarget()
    try:
        message_id = _integer(decoded, "message_id")
    except _FieldError as error:
        raise bad_request(str(error)) from error
    return ReplyTarget(
        message_id=max(message_id, 0),
        chat_id=str(decoded.get("chat_id") or ""),
        may_be_missing=decoded.get("allow_sending_without_reply") is True,
    )


def read_reply_markup(params: Params) -> dict[str, Any] | None:
    """Read reply_markup; an inline keyboard comes back as it will be shown."""
    encoded = params.text("reply_markup")
    if not encoded:
        return None
    try:
        decoded = json.loads(encoded)
    except ValueError as error:
        raise bad_request("Can't parse reply keyboard markup JSON object") from error
    if not isinstance(decoded, dict):
        raise bad_request("Object expected as reply markup")
    rows = decoded.get("inline_keyboard")
    if rows is None:
        return decoded or None
    if not isinstance(rows, list):
        raise bad_request('Field "inline_keyboard" must be of type Array')
    shown = []
    for row in rows:
        if not isinstance(row, list):
            raise bad_request(
                'Field "inline_keyboard" of the InlineKeyboardMarkup must be an Array of Arrays'
            )
        try:
            buttons = [_button(button) for button in row]
        except _FieldError as error:
            raise bad_request(f"Can't parse inline keyboard button: {error}") from error
        if buttons:
            shown.append(buttons)
    return {"inline_keyboard": shown} if shown else None


def _button(button: Any) -> dict[str, Any]:
    if not isinstance(button, dict):
        raise _FieldError("InlineKeyboardButton must be an Object")
    text = _string(button, "text")
    shown: dict[str, Any] = {"text": text}
    for name in ("icon_custom_emoji_id", "style"):
        if button.get(name):
            shown[name] = button[name]
    for name in ("url", "callback_data"):
        if button.get(name) is not None and _string(button, name):
            return {**shown, name: button[name]}
    for name in (
        "callback_game",
        "pay",
        "switch_inline_query",
        "switch_inline_query_chosen_chat",
        "switch_inline_query_current_chat",
        "login_url",
        "web_app",
        "copy_text",
    ):
        if button.get(name) is not None:
            return {**shown, name: button[name]}
    raise _FieldError("Text buttons are unallowed in the inline keyboard")


def check_buttons(markup: dict[str, Any] | None) -> None:
    """Apply the rules for buttons that are checked when the message is carried out."""
    for row in (markup or {}).get("inline_keyboard", []):
        for button in row:
            if not button["text"].strip():
                raise bad_request("Inline keyboard button text must be non-empty")
            if len(button.get("callback_data", "").encode()) > _MAX_BUTTON_BYTES:
                raise bad_request("BUTTON_DATA_INVALID")


def read_json(params: Params, field: str, what: str) -> Any:
    """Decode a JSON parameter; None if it is absent."""
    encoded = params.text(field)
    if not encoded:
        return None
    try:
        return json.loads(encoded)
    except ValueError as error:
        raise bad_request(f"Can't parse {what} JSON object") from error


def read_commands(params: Params) -> list[dict[str, str]]:
    """Read setMyCommands' list, checked as the server does."""
    decoded = read_json(params, "commands", "commands")
    if decoded is None:
        return []
    if not isinstance(decoded, list):
        raise bad_request("Expected an Array of BotCommand")
    commands = []
    for item in decoded:
        try:
            if not isinstance(item, dict):
                raise _FieldError("expected an Object")
            command = _string(item, "command").strip().removeprefix("/")
            description = _string(item, "description").strip()
        except _FieldError as error:
            raise bad_request(f"Can't parse BotCommand: {error}") from error
        if not command:
            raise bad_request("Command must be non-empty")
        if len(command) > 32:
            raise bad_request("Command length must not exceed 32")
        if not description:
            raise bad_request("Command description must be non-empty")
        if len(description) > 256:
            raise bad_request("Command description length must not exceed 256")
        if not all(c in "abcdefghijklmnopqrstuvwxyz0123456789_" for c in command):
            raise bad_request("BOT_COMMAND_INVALID")
        commands.append({"command": command, "description": description})
    if len(commands) > 100:
        raise bad_request("BOT_COMMANDS_TOO_MUCH")
    return commands


def read_scope(params: Params) -> str:
    """Return the command scope as a key: its type, plus the chat and user it names."""
    scope = read_json(params, "scope", "BotCommandScope")
    if scope is None:
        return "default"
    prefix = "Can't parse BotCommandScope:"
    if not isinstance(scope, dict):
        raise bad_request(f"{prefix} BotCommandScope must be an Object")
    kind = scope.get("type")
    if kind in {"default", "all_private_chats", "all_group_chats", "all_chat_administrators"}:
        return str(kind)
    if kind not in {"chat", "chat_administrators", "chat_member"}:
        raise bad_request(f"{prefix} Unsupported type specified")
    if not scope.get("chat_id"):
        raise bad_request(f"{prefix} Empty chat_id specified")
    return f"{kind}:{scope['chat_id']}:{scope.get('user_id', '')}"


def read_reactions(params: Params) -> list[dict[str, Any]]:
    """Read setMessageReaction's list."""
    decoded = read_json(params, "reaction", "reaction types")
    if decoded is None:
        return []
    if not isinstance(decoded, list):
        raise bad_request("Expected an Array of ReactionType")
    for item in decoded:
        try:
            if not isinstance(item, dict):
                raise _FieldError("expected an Object")
            kind = _string(item, "type")
            if kind not in {"emoji", "custom_emoji"}:
                raise _FieldError("invalid reaction type specified")
            _string(item, "emoji" if kind == "emoji" else "custom_emoji_id")
        except _FieldError as error:
            raise bad_request(f"Can't parse ReactionType: {error}") from error
    return decoded


def _string(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    if value is None:
        raise _FieldError(f'Can\'t find field "{name}"')
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _FieldError(f'Field "{name}" must be of type String')
    return str(value)


def _integer(item: dict[str, Any], name: str) -> int:
    value = item.get(name)
    if value is None:
        raise _FieldError(f'Can\'t find field "{name}"')
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _FieldError(f'Field "{name}" must be a Number')
    return value if isinstance(value, int) else leading_integer(value)


def not_implemented(what: str) -> BotApiError:
    """Refuse loudly what the stub cannot do, so that no test passes by accident."""
    return BotApiError(501, f"The stub does not implement {what}")
