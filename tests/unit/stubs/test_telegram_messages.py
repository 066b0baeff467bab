"""Owns the promises about messages: sending, editing, limits of size, Telegram's refusals."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stubs.telegram.budgets import Limits
from tests.stubs.telegram.client import Clock, Refused, Session, started
from tests.stubs.telegram.stub import Options

UNLIMITED = Options(limits=Limits(budgets=False, repeat_guard=False))
NOT_MODIFIED = (
    "Bad Request: message is not modified: specified new message content and reply markup are "
    "exactly the same as a current content and reply markup of the message"
)
KEYBOARD = {"inline_keyboard": [[{"text": "Stop", "callback_data": "stop:1"}]]}


async def sent(telegram: Session, text: str = "hello", **fields: object) -> dict[str, Any]:
    """Let user 7 say something, then let the bot send a message to that chat."""
    await telegram.say(7, "hi")
    message: dict[str, Any] = await telegram.result("sendMessage", chat_id=7, text=text, **fields)
    return message


async def test_message_is_shown_and_returned() -> None:
    """sendMessage returns the message that the chat then shows, with keyboard and reply."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "question")

        message = await telegram.result(
            "sendMessage",
            chat_id=7,
            text="*answer*",
            parse_mode="MarkdownV2",
            reply_markup=KEYBOARD,
            reply_parameters={"message_id": 1},
        )

        assert message["text"] == "answer"
        assert message["entities"] == [{"offset": 0, "length": 6, "type": "bold"}]
        assert message["reply_to_message"]["text"] == "question"
        assert message["from"]["is_bot"]
        question, answer = await telegram.messages(7)
        assert not question["from_bot"]
        assert answer["text"] == "answer"
        assert answer["reply_markup"] == KEYBOARD
        assert answer["reply_to_message_id"] == question["message_id"]


@pytest.mark.parametrize(
    ("fields", "description"),
    [
        ({"text": ""}, "Bad Request: message text is empty"),
        ({}, "Bad Request: message text is empty"),
        ({"text": "  \n "}, "Bad Request: text must be non-empty"),
        ({"text": "<b></b>", "parse_mode": "HTML"}, "Bad Request: text must be non-empty"),
        ({"text": "x" * 4097}, "Bad Request: message is too long"),
        ({"text": "😀" * 2049}, "Bad Request: MESSAGE_TOO_LONG"),
        ({"text": "x" * 32769}, "Bad Request: text is too long"),
        ({"text": "x", "chat_id": ""}, "Bad Request: chat_id is empty"),
        ({"text": "x", "chat_id": 8}, "Bad Request: chat not found"),
        ({"text": "x", "chat_id": "@nobody"}, "Bad Request: chat not found"),
        (
            {"text": "<b>x", "parse_mode": "HTML"},
            "Bad Request: can't parse entities: "
            'Can\'t find end tag corresponding to start tag "b"',
        ),
        (
            {"text": "x", "reply_parameters": {"message_id": 99}},
            "Bad Request: message to be replied not found",
        ),
        (
            {"text": "x", "reply_to_message_id": 99},
            "Bad Request: message to be replied not found",
        ),
        (
            {"text": "x", "reply_parameters": "{"},
            "Bad Request: can't parse reply parameters JSON object",
        ),
        (
            {"text": "x", "reply_markup": "{"},
            "Bad Request: can't parse reply keyboard markup JSON object",
        ),
        ({"text": "x", "reply_markup": "[]"}, "Bad Request: object expected as reply markup"),
        (
            {"text": "x", "reply_markup": {"inline_keyboard": [{}]}},
            'Bad Request: field "inline_keyboard" of the InlineKeyboardMarkup must be an Array of '
            "Arrays",
        ),
        (
            {"text": "x", "reply_markup": {"inline_keyboard": [[{"text": "a"}]]}},
            "Bad Request: can't parse inline keyboard button: Text buttons are unallowed in the "
            "inline keyboard",
        ),
        (
            {"text": "x", "reply_markup": {"inline_keyboard": [[{"callback_data": "a"}]]}},
            "Bad Request: can't parse inline keyboard button: Can't find field \"text\"",
        ),
        (
            {
                "text": "x",
                "reply_markup": {
                    "inline_keyboard": [[{"text": "a", "callback_data": "x" + "й" * 32}]]
                },
            },
            "Bad Request: BUTTON_DATA_INVALID",
        ),
        ({"text": "x", "message_thread_id": 5}, "Bad Request: message thread not found"),
    ],
)
async def test_bad_sends_are_refused(fields: dict[str, Any], description: str) -> None:
    """Each refusal has Telegram's words, and no message appears."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")

        assert await telegram.error("sendMessage", **{"chat_id": 7, **fields}) == description

        assert len(await telegram.messages(7)) == 1


async def test_limits_of_length_count_what_is_visible() -> None:
    """4096 units are allowed after parsing, and 64 bytes of callback data."""
    async with started(UNLIMITED) as telegram:
        await sent(telegram, f"<b>{'x' * 4096}</b>", parse_mode="HTML")
        await sent(telegram, "😀" * 2048)
        message = await sent(
            telegram,
            reply_markup={"inline_keyboard": [[{"text": "a", "callback_data": "й" * 32}]]},
        )

        await telegram.result(
            "editMessageText", chat_id=7, message_id=message["message_id"], text="x" * 4096
        )
        assert len((await telegram.messages(7))[-1]["text"]) == 4096


async def test_reply_may_be_optional() -> None:
    """With allow_sending_without_reply a vanished message does not stop the answer."""
    async with started(UNLIMITED) as telegram:
        message = await sent(
            telegram, reply_parameters={"message_id": 99, "allow_sending_without_reply": True}
        )

        assert "reply_to_message" not in message


async def test_edit_changes_the_message_and_keeps_its_history() -> None:
    """An edit replaces text and keyboard; the checker sees every text with its time."""
    async with started(UNLIMITED) as telegram:
        message = await sent(telegram, "one", reply_markup=KEYBOARD)
        place = {"chat_id": 7, "message_id": message["message_id"]}

        edited = await telegram.result("editMessageText", **place, text="two")

        assert edited["text"] == "two"
        assert edited["edit_date"] >= edited["date"]
        assert "reply_markup" not in edited
        shown = (await telegram.messages(7))[-1]
        assert shown["reply_markup"] is None
        assert [edit["text"] for edit in shown["edits"]] == ["one", "two"]
        assert shown["edits"][0]["time"] <= shown["edits"][1]["time"]


async def test_edit_without_a_change_is_refused() -> None:
    """Same text, entities and keyboard: "not modified"; a change in any one is an edit."""
    async with started(UNLIMITED) as telegram:
        message = await sent(telegram, "one", reply_markup=KEYBOARD)
        place = {"chat_id": 7, "message_id": message["message_id"]}

        async def edit(**fields: object) -> dict[str, Any]:
            return await telegram.call("editMessageText", **place, **fields)

        assert (await edit(text="one", reply_markup=KEYBOARD))["description"] == NOT_MODIFIED
        assert (await edit(text=" one\n", reply_markup=KEYBOARD))["description"] == NOT_MODIFIED
        assert (await edit(text="one"))["ok"]
        assert (await edit(text="<b>one</b>", parse_mode="HTML"))["ok"]
        answer = await edit(text="*one*", parse_mode="MarkdownV2")
        assert answer["description"] == NOT_MODIFIED
        answer = await telegram.call("editMessageReplyMarkup", **place)
        assert answer["description"] == NOT_MODIFIED
        assert await telegram.result("editMessageReplyMarkup", **place, reply_markup=KEYBOARD)


@pytest.mark.parametrize(
    ("fields", "description"),
    [
        ({"text": ""}, "Bad Request: message text is empty"),
        ({"text": "x" * 4097}, "Bad Request: MESSAGE_TOO_LONG"),
        ({"text": "x", "message_id": 99}, "Bad Request: message to edit not found"),
        ({"text": "x", "message_id": -1}, "Bad Request: message to edit not found"),
        ({"text": "x", "chat_id": 8}, "Bad Request: chat not found"),
        (
            {"text": "x", "chat_id": None, "message_id": None},
            "Bad Request: message identifier is not specified",
        ),
        ({"text": "x", "message_id": 1}, "Bad Request: message can't be edited"),
        (
            {"text": "x", "reply_markup": {"keyboard": [[{"text": "a"}]]}},
            "Bad Request: inline keyboard expected",
        ),
        (
            {"text": "*x", "parse_mode": "MarkdownV2"},
            "Bad Request: can't parse entities: Can't find end of Bold entity at byte offset 0",
        ),
    ],
)
async def test_bad_edits_are_refused(fields: dict[str, Any], description: str) -> None:
    """Each refusal has Telegram's words, and the message stays as it was."""
    async with started(UNLIMITED) as telegram:
        message = await sent(telegram, "one")
        place = {"chat_id": 7, "message_id": message["message_id"]}

        assert await telegram.error("editMessageText", **{**place, **fields}) == description

        assert (await telegram.messages(7))[-1]["text"] == "one"


async def test_deleted_message_is_gone() -> None:
    """A deleted message is not shown, cannot be edited and cannot be deleted again."""
    async with started(UNLIMITED) as telegram:
        message = await sent(telegram)
        place = {"chat_id": 7, "message_id": message["message_id"]}

        assert await telegram.result("deleteMessage", **place) is True

        assert await telegram.error("deleteMessage", **place) == (
            "Bad Request: message to delete not found"
        )
        assert await telegram.error("editMessageText", **place, text="x") == (
            "Bad Request: message to edit not found"
        )
        chat = await telegram.get("chat/7")
        assert [shown["text"] for shown in chat["messages"]] == ["hi"]
        assert chat["deleted"] == [message["message_id"]]


async def test_blocked_bot_cannot_write() -> None:
    """After the user blocks the bot, sends are 403 and the bot is told; unblocking ends it."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")

        await telegram.post("block", {"chat_id": 7})

        answer = await telegram.call("sendMessage", chat_id=7, text="x")
        assert answer["error_code"] == 403
        assert answer["description"] == "Forbidden: bot was blocked by the user"
        action = await telegram.call("sendChatAction", chat_id=7, action="typing")
        assert action["error_code"] == 403
        updates = await telegram.result("getUpdates")
        assert updates[-1]["my_chat_member"]["new_chat_member"]["status"] == "kicked"
        await telegram.post("block", {"chat_id": 7, "blocked": False})
        assert await telegram.result("sendMessage", chat_id=7, text="x")


async def test_chat_action_is_checked() -> None:
    """Known actions are accepted, others refused, and nothing is shown."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")

        assert await telegram.result("sendChatAction", chat_id=7, action="typing") is True
        assert await telegram.error("sendChatAction", chat_id=7, action="dancing") == (
            "Bad Request: wrong parameter action in request"
        )
        assert len(await telegram.messages(7)) == 1


async def test_reactions() -> None:
    """A bot may set one known reaction on a message and take it back."""
    async with started(UNLIMITED) as telegram:
        said = await telegram.say(7, "hi")
        place = {"chat_id": 7, "message_id": said["message_id"]}
        eyes = {"type": "emoji", "emoji": "👀"}

        async def react(*reactions: object) -> dict[str, Any]:
            return await telegram.call("setMessageReaction", **place, reaction=reactions)

        assert (await react(eyes))["ok"]
        assert (await telegram.messages(7))[0]["reactions"] == [eyes]
        assert (await react({"type": "emoji", "emoji": "🧊"}))["description"] == (
            "Bad Request: REACTION_INVALID"
        )
        assert (await react(eyes, eyes))["description"] == "Bad Request: REACTIONS_TOO_MANY"
        assert (await react())["ok"]
        assert (await telegram.messages(7))[0]["reactions"] == []
        assert await telegram.error("setMessageReaction", chat_id=7, message_id=99) == (
            "Bad Request: message to react not found"
        )


async def test_pressed_button_comes_as_callback_query() -> None:
    """A press carries user, data and the message; answering works once."""
    async with started(UNLIMITED) as telegram:
        message = await sent(telegram, reply_markup=KEYBOARD)
        await telegram.result("getUpdates")

        pressed = await telegram.press(7, message["message_id"], "stop:1")

        query = (await telegram.result("getUpdates"))[-1]["callback_query"]
        assert query["id"] == pressed["callback_query_id"]
        assert query["data"] == "stop:1"
        assert query["from"]["id"] == 7
        assert query["message"]["message_id"] == message["message_id"]
        assert await telegram.result("answerCallbackQuery", callback_query_id=query["id"])
        assert await telegram.error("answerCallbackQuery", callback_query_id=query["id"]) == (
            "Bad Request: query is too old and response timeout expired or query ID is invalid"
        )


async def test_button_must_be_on_the_screen() -> None:
    """A button that the message does not show can be pressed only by force."""
    async with started(UNLIMITED) as telegram:
        message = await sent(telegram, reply_markup=KEYBOARD)

        with pytest.raises(Refused, match="no button"):
            await telegram.press(7, message["message_id"], "other")
        with pytest.raises(Refused, match="shows no message"):
            await telegram.press(7, 99, "stop:1")
        assert await telegram.press(7, message["message_id"], "other", force=True)
        forced = await telegram.press(7, 99, "stop:1", force=True)

        query = (await telegram.result("getUpdates"))[-1]["callback_query"]
        assert query["id"] == forced["callback_query_id"]
        assert query["message"] == {
            "chat": query["message"]["chat"],
            "message_id": 99,
            "date": 0,
        }


async def test_late_answer_to_a_press_is_refused() -> None:
    """After its time a callback query can no longer be answered."""
    clock = Clock()
    async with started(UNLIMITED, clock) as telegram:
        message = await sent(telegram, reply_markup=KEYBOARD)
        pressed = await telegram.press(7, message["message_id"], "stop:1")
        clock.now += 151

        assert "query is too old" in await telegram.error(
            "answerCallbackQuery", callback_query_id=pressed["callback_query_id"]
        )


async def test_group_numbers_its_own_messages() -> None:
    """A supergroup counts its messages itself, private chats share one row of numbers."""
    async with started(UNLIMITED) as telegram:
        group = {"id": -1001, "type": "supergroup", "title": "G"}

        assert (await telegram.say(7, "a"))["message_id"] == 1
        assert (await telegram.say(8, "b"))["message_id"] == 2
        assert (await telegram.say(7, "c", chat=group))["message_id"] == 1
        assert (await telegram.say(7, "d", chat=group, message_thread_id=1))["message_id"] == 2

        reply = await telegram.result("sendMessage", chat_id=-1001, text="e", message_thread_id=1)
        assert (reply["message_id"], reply["message_thread_id"]) == (3, 1)
        update = (await telegram.result("getUpdates"))[2]
        assert update["message"]["chat"] == group


async def test_said_message_may_carry_anything() -> None:
    """Extra fields go into the user's message as they are."""
    async with started(UNLIMITED) as telegram:
        voice = {"file_id": "f", "file_unique_id": "u", "duration": 3}

        await telegram.post("say", {"user": {"id": 7}, "extra": {"voice": voice}})

        message = (await telegram.result("getUpdates"))[0]["message"]
        assert message["voice"] == voice
        assert "text" not in message


async def test_drafts_are_for_private_chats() -> None:
    """sendMessageDraft answers true in a private chat, shows nothing, and fails in groups."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "a")
        await telegram.say(7, "b", chat={"id": -5, "type": "group", "title": "G"})

        assert await telegram.result("sendMessageDraft", chat_id=7, draft_id=1, text="x") is True
        assert len(await telegram.messages(7)) == 1
        assert "PEER_ID_INVALID" in await telegram.error(
            "sendMessageDraft", chat_id=-5, draft_id=1, text="x"
        )


async def test_group_that_becomes_a_supergroup() -> None:
    """Both chats carry a note, the old one refuses every call and names the new one."""
    async with started(UNLIMITED) as telegram:
        group = {"id": -5, "type": "group", "title": "G"}
        await telegram.say(7, "hi", chat=group)
        answer = await telegram.result("sendMessage", chat_id=-5, text="x")

        moved = await telegram.post("migrate", {"chat_id": -5, "new_chat_id": -1005})

        updates = await telegram.result("getUpdates", offset=moved["update_ids"][0])
        notes = [update["message"] for update in updates]
        assert [note["chat"]["id"] for note in notes] == [-5, -1005]
        assert notes[0]["migrate_to_chat_id"] == -1005
        assert notes[1]["migrate_from_chat_id"] == -5
        assert notes[1]["chat"]["type"] == "supergroup"
        for method, fields in {
            "sendMessage": {"text": "y"},
            "editMessageText": {"text": "y", "message_id": answer["message_id"]},
            "deleteMessage": {"message_id": answer["message_id"]},
        }.items():
            assert await telegram.call(method, chat_id=-5, **fields) == {
                "ok": False,
                "error_code": 400,
                "description": "Bad Request: group chat was upgraded to a supergroup chat",
                "parameters": {"migrate_to_chat_id": -1005},
            }
        assert (await telegram.result("sendMessage", chat_id=-1005, text="y"))["chat"][
            "title"
        ] == "G"


@pytest.mark.parametrize(
    ("chat_id", "new_chat_id"), [(7, -1005), (-6, -1005), (-5, -5), (-1005, -1006)]
)
async def test_what_is_no_group_does_not_move(chat_id: int, new_chat_id: int) -> None:
    """Only a group that the bot knows can move, once, to a chat that is new."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        await telegram.say(7, "hi", chat={"id": -5, "type": "group", "title": "G"})
        await telegram.say(7, "hi", chat={"id": -1005, "type": "supergroup", "title": "S"})

        with pytest.raises(Refused):
            await telegram.post("migrate", {"chat_id": chat_id, "new_chat_id": new_chat_id})
