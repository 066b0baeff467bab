"""Owns the control API, by which tests play users, order faults and read the record.

JSON in and out, over a Unix socket or a loopback port. Errors are 400 {"error": sentence}.

POST /say      {"user", "chat"?, "text"?, "message_thread_id"?, "reply_to_message_id"?, "extra"?}
               -> {"update_id", "message_id"}; extra fields go into the message as they are
POST /edit     {"user", "chat"?, "message_id", "text"} -> {"update_id", "message_id"}
POST /press    {"user", "chat_id", "message_id", "data", "force"?}
               -> {"update_id", "callback_query_id"}; the button must exist unless forced
POST /update   an update of any kind, update_id optional, "force"? -> {"update_id"}
POST /batch    [any of the above with "kind": "say" | "edit" | "press" | "update"]
               -> a list; queued so that one getUpdates returns them all; all or nothing is not
               promised: the first bad one stops the list
POST /file     {"content_base64", "file_name", "mime_type"?, "width"?, "height"?}
               -> {"file_id", "file_path", "document", "photo", ...}: either goes into "extra" of
               /say; several with one "media_group_id" are an album
GET  /record   ?after=SEQ&wait=SECONDS&limit=N and &FIELD=VALUE[,VALUE] for kind, method, chat_id,
               update_id, update_kind, ... -> {"entries", "last"}; ask on with the last entry's seq,
               or with "last" if there was none
GET  /chat/ID  what is on the screen -> {"chat", "blocked", "messages", "deleted"}
GET  /state    queue, offset, commands, webhook, poller, limits, faults
POST /fault    {"kind": "status" | "hang" | "delay" | "reset" | "lose_answer" | "retry_after",
               "method"?: "*", "status"?: 502, "description"?, "seconds"?, "count"?: 1 (null:
               until cleared), "skip"?: 0, "chat_id"?, "when"?: "before" | "after"}
               "method": "file" is a download; a hang without seconds lasts until cleared
DELETE /fault  clears all and releases what hangs -> {"cleared"}
POST /limits   changed values -> all of them (see budgets.Limits)
POST /block    {"chat_id", "blocked"?: true} -> {"update_id"}; the user blocks the bot
POST /migrate  {"chat_id", "new_chat_id", "user"?} -> {"update_ids"}; the group becomes a
               supergroup: one note in each chat, and the old one takes no call any more
POST /tokens   {"accept": [token, ...]}: what is not listed is refused; [] accepts any again
POST /reset    everything as after a start; numbers of updates and record entries go on

An "update_id" of null means that the bot has not asked for updates of that kind.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.stubs.telegram.chats import Chat, Message, private_chat
from tests.stubs.telegram.errors import ControlError
from tests.stubs.telegram.text import FormattedText, find_entities
from tests.stubs.telegram.updates import KINDS

if TYPE_CHECKING:
    from tests.stubs.telegram.stub import Stub

_MAX_BODY = 100 << 20
_MAX_WAIT = 300.0
_PAGING = frozenset({"after", "wait", "limit"})

Act = Callable[[dict[str, Any]], dict[str, Any]]


def control_app(stub: Stub) -> web.Application:
    """Build the application; it can serve several sockets at once."""
    control = _Control(stub)
    app = web.Application(client_max_size=_MAX_BODY, middlewares=[_errors_as_json])
    for kind, act in control.acts.items():
        app.router.add_post(f"/{kind}", _posting(act))
    app.router.add_post("/batch", control.batch)
    app.router.add_get("/record", control.read_record)
    app.router.add_get("/chat/{chat_id}", control.read_chat)
    app.router.add_get("/state", control.read_state)
    app.router.add_delete("/fault", control.clear_faults)
    return app


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ControlError as error:
        return web.json_response({"error": str(error)}, status=400)
    except (KeyError, TypeError, ValueError) as error:
        # A test that sends nonsense is told so; the stub goes on.
        return web.json_response({"error": f"bad request: {error!r}"}, status=400)


def _posting(act: Act) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        decoded = json.loads(body) if body.strip() else {}
        if not isinstance(decoded, dict):
            raise ControlError("the body must be a JSON object")
        return web.json_response(act(decoded))

    return handle


class _Control:
    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self.acts: dict[str, Act] = {
            "say": self.say,
            "edit": self.edit,
            "press": self.press,
            "update": self.update,
            "file": self.file,
            "fault": self.fault,
            "limits": self.limits,
            "block": self.block,
            "migrate": self.migrate,
            "tokens": self.tokens,
            "reset": self.reset,
        }

    # Acts of users

    def say(self, request: dict[str, Any]) -> dict[str, Any]:
        user, chat = self._user_and_chat(request)
        content = _user_text(str(request.get("text", "")))
        message = self._stub.chats.add(
            chat,
            user,
            content,
            is_from_bot=False,
            reply_to=request.get("reply_to_message_id"),
            thread=request.get("message_thread_id"),
        )
        message.added = dict(request.get("extra") or {})
        shown = message.as_json()
        channel = chat.type == "channel"
        number = self._stub.updates.push("channel_post" if channel else "message", shown)
        self._stub.record.add(
            "say",
            update_id=number,
            message_id=message.message_id,
            chat_id=chat.chat_id,
            user_id=user["id"],
            text=content.text,
        )
        return {"update_id": number, "message_id": message.message_id}

    def edit(self, request: dict[str, Any]) -> dict[str, Any]:
        user, chat = self._user_and_chat(request)
        message = self._message(chat, int(request["message_id"]))
        if message.is_from_bot:
            raise ControlError(f"message {message.message_id} is the bot's: users edit their own")
        message.content = _user_text(str(request["text"]))
        message.edit_date = time.time()
        message.remember(message.edit_date)
        number = self._stub.updates.push("edited_message", message.as_json())
        self._stub.record.add(
            "edit",
            update_id=number,
            message_id=message.message_id,
            chat_id=chat.chat_id,
            user_id=user["id"],
            text=message.content.text,
        )
        return {"update_id": number, "message_id": message.message_id}

    def press(self, request: dict[str, Any]) -> dict[str, Any]:
        user = _user(request)
        chat_id, message_id = int(request["chat_id"]), int(request["message_id"])
        data = str(request["data"])
        forced = bool(request.get("force"))
        chat = self._stub.chats.find(chat_id)
        if chat is None:
            raise ControlError(f"chat {chat_id} is unknown: say something in it first")
        message = chat.messages.get(message_id)
        if not forced:
            rows = (self._message(chat, message_id).reply_markup or {}).get("inline_keyboard", [])
            offered = [b.get("callback_data") for row in rows for b in row]
            if data not in offered:
                raise ControlError(
                    f"message {message_id} has no button {data!r}, but {offered!r}: wait for it, "
                    'or press with "force"'
                )
        callback = self._stub.methods.press(chat, message_id)
        content = {
            "id": callback.callback_id,
            "from": user,
            "message": message.as_json()
            if message is not None
            else {"chat": chat.as_json(), "message_id": message_id, "date": 0},
            "chat_instance": str(-7919 * abs(chat_id) - 1),
            "data": data,
        }
        number = self._stub.updates.push("callback_query", content)
        self._stub.record.add(
            "press",
            update_id=number,
            callback_query_id=callback.callback_id,
            message_id=message_id,
            chat_id=chat_id,
            user_id=user["id"],
            data=data,
        )
        return {"update_id": number, "callback_query_id": callback.callback_id}

    def update(self, request: dict[str, Any]) -> dict[str, Any]:
        raw = dict(request)
        number = raw.pop("update_id", None)
        forced = bool(raw.pop("force", False))
        # "kind" is batch's own word, never a field of an update.
        raw.pop("kind", None)
        if len(raw) != 1:
            raise ControlError(f"an update has one field besides update_id, not {sorted(raw)}")
        kind, content = next(iter(raw.items()))
        self._meet(kind, content)
        number = self._stub.updates.push(kind, content, number, forced)
        self._stub.record.add("update", update_id=number, update_kind=kind)
        return {"update_id": number}

    def block(self, request: dict[str, Any]) -> dict[str, Any]:
        chat = self._stub.chats.find(int(request["chat_id"]))
        if chat is None:
            raise ControlError(f"chat {request['chat_id']} is unknown: say something in it first")
        blocked = bool(request.get("blocked", True))
        was_blocked, chat.is_blocked = chat.is_blocked, blocked
        number = None
        if was_blocked != blocked:
            bot = self._stub.methods.bot
            states = {False: "member", True: "kicked"}
            person = chat.as_json() if chat.type == "private" else {"id": 1, "first_name": "Admin"}
            content = {
                "chat": chat.as_json(),
                "from": {
                    "is_bot": False,
                    **{key: value for key, value in person.items() if key != "type"},
                },
                "date": int(time.time()),
                "old_chat_member": _member(bot, states[was_blocked]),
                "new_chat_member": _member(bot, states[blocked]),
            }
            number = self._stub.updates.push("my_chat_member", content)
        self._stub.record.add("block", update_id=number, chat_id=chat.chat_id, blocked=blocked)
        return {"update_id": number}

    def migrate(self, request: dict[str, Any]) -> dict[str, Any]:
        old = self._stub.chats.find(int(request["chat_id"]))
        new_id = int(request["new_chat_id"])
        if old is None or old.type != "group" or old.moved_to is not None:
            raise ControlError(f"chat {request['chat_id']} is no group that the bot knows")
        if self._stub.chats.find(new_id) is not None:
            raise ControlError(f"chat {new_id} exists already")
        new = self._stub.chats.meet({**old.as_json(), "id": new_id, "type": "supergroup"})
        user = _user({"user": {"id": 1, "first_name": "Admin"}, **request})
        numbers = []
        for chat, note in (
            (old, {"migrate_to_chat_id": new_id}),
            (new, {"migrate_from_chat_id": old.chat_id}),
        ):
            message = self._stub.chats.add(chat, user, FormattedText(""), is_from_bot=False)
            message.added = note
            numbers.append(self._stub.updates.push("message", message.as_json()))
        old.moved_to = new_id
        self._stub.record.add(
            "migrate", chat_id=old.chat_id, new_chat_id=new_id, update_ids=numbers
        )
        return {"update_ids": numbers}

    async def batch(self, request: web.Request) -> web.Response:
        items = json.loads(await request.read())
        if not isinstance(items, list):
            raise ControlError("the body must be a JSON array")
        kinds = ("say", "edit", "press", "update", "block", "migrate")
        acts = {kind: self.acts[kind] for kind in kinds}
        for item in items:
            if item.get("kind") not in acts:
                raise ControlError(f"kind is {item.get('kind')!r}: use {', '.join(acts)}")
        # No await in between: the poller wakes up after the last one is queued.
        answers = [acts[item["kind"]](item) for item in items]
        numbers = [
            number
            for answer in answers
            for number in answer.get("update_ids", [answer.get("update_id")])
        ]
        self._stub.record.add("batch", update_ids=numbers)
        return web.json_response(answers)

    def file(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            content = base64.b64decode(request["content_base64"], validate=True)
        except binascii.Error as error:
            raise ControlError(f"content_base64 is no base64: {error}") from error
        mime_type = str(request.get("mime_type") or "application/octet-stream")
        stored = self._stub.files.store(content, str(request["file_name"]), mime_type)
        self._stub.record.add("file", file_id=stored.file_id, size=len(content))
        return {
            "file_id": stored.file_id,
            "file_unique_id": stored.unique_id,
            "file_path": stored.path,
            "document": stored.as_document(),
            "photo": stored.as_sizes(
                int(request.get("width", 1280)), int(request.get("height", 960))
            ),
        }

    # Circumstances

    def fault(self, request: dict[str, Any]) -> dict[str, Any]:
        fault = self._stub.faults.order(request)
        self._stub.record.add("fault", ordered=fault.as_json())
        return fault.as_json()

    async def clear_faults(self, _: web.Request) -> web.Response:
        cleared = self._stub.faults.clear()
        self._stub.record.add("fault", cleared=cleared)
        return web.json_response({"cleared": cleared})

    def limits(self, request: dict[str, Any]) -> dict[str, Any]:
        limits = asdict(self._stub.set_limits(request))
        self._stub.record.add("limits", limits=limits)
        return limits

    def tokens(self, request: dict[str, Any]) -> dict[str, Any]:
        accepted = frozenset(str(token) for token in request["accept"])
        self._stub.accept_tokens(accepted)
        self._stub.record.add("tokens", accepted=len(accepted))
        return {"accepted": len(accepted)}

    def reset(self, _: dict[str, Any]) -> dict[str, Any]:
        self._stub.reset()
        return {"last": self._stub.record.last}

    # What happened

    async def read_record(self, request: web.Request) -> web.Response:
        query = request.query
        wanted = {name: value for name, value in query.items() if name not in _PAGING and value}
        wait = min(float(query.get("wait", 0)), _MAX_WAIT)
        limit = int(query["limit"]) if "limit" in query else None
        record = self._stub.record
        entries = await record.wait(int(query.get("after", 0)), wanted, wait, limit)
        return web.json_response({"entries": entries, "last": record.last})

    async def read_chat(self, request: web.Request) -> web.Response:
        chat = self._stub.chats.find(int(request.match_info["chat_id"]))
        if chat is None:
            return web.json_response({"error": "the bot has not seen this chat"}, status=404)
        messages = [message.for_checker() for message in chat.messages.values()]
        return web.json_response(
            {
                "chat": chat.as_json(),
                "blocked": chat.is_blocked,
                "messages": messages,
                "deleted": chat.deleted,
            }
        )

    async def read_state(self, _: web.Request) -> web.Response:
        stub = self._stub
        profile = stub.methods.profile
        pending = stub.updates.pending()
        state = {
            "bot": stub.methods.bot,
            "pending_update_count": len(pending),
            "pending_update_ids": [update.number for update in pending],
            "next_update_id": stub.updates.next_number,
            "offset": stub.updates.offset,
            "active_poller": stub.updates.has_poller,
            "allowed_updates": stub.updates.allowed,
            "webhook": profile.webhook_url,
            "commands": [
                {"scope": scope, "language_code": language, "commands": commands}
                for (scope, language), commands in profile.commands.items()
            ],
            "texts": [
                {"name": name, "language_code": language, "value": value}
                for (name, language), value in profile.texts.items()
            ],
            "open_callbacks": [
                callback.callback_id
                for callback in stub.methods.callbacks.values()
                if not callback.is_answered
            ],
            "chats": stub.chats.ids(),
            "limits": asdict(stub.limits),
            "faults": stub.faults.as_json(),
            "last": stub.record.last,
        }
        return web.json_response(state)

    # Parts of requests

    def _user_and_chat(self, request: dict[str, Any]) -> tuple[dict[str, Any], Chat]:
        user = _user(request)
        described = request.get("chat") or private_chat(user)
        return user, self._stub.chats.meet(described)

    @staticmethod
    def _message(chat: Chat, message_id: int) -> Message:
        message = chat.messages.get(message_id)
        if message is None:
            raise ControlError(f"chat {chat.chat_id} shows no message {message_id}")
        return message

    def _meet(self, kind: str, content: Any) -> None:
        """Make chats of raw updates known, as they are to a bot that gets the update."""
        if kind not in KINDS or not isinstance(content, dict):
            return
        for holder in (content, content.get("message")):
            chat = holder.get("chat") if isinstance(holder, dict) else None
            if isinstance(chat, dict) and "id" in chat and "type" in chat:
                self._stub.chats.meet(chat)


def _user(request: dict[str, Any]) -> dict[str, Any]:
    user = request.get("user")
    if not isinstance(user, dict) or not isinstance(user.get("id"), int):
        raise ControlError("user needs an integer id")
    known = {"id": user["id"], "is_bot": False, "first_name": f"User {user['id']}"}
    return {**known, **user}


def _user_text(text: str) -> FormattedText:
    return FormattedText(text, tuple(find_entities(text)))


def _member(bot: dict[str, Any], status: str) -> dict[str, Any]:
    member: dict[str, Any] = {"user": bot, "status": status}
    if status == "kicked":
        member["until_date"] = 0
    return member
