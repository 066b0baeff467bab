"""Owns the promises about the outside of the stub: requests, tokens, files, faults, record."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import ssl
import struct
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.stubs.telegram.budgets import Limits
from tests.stubs.telegram.certificates import server_context
from tests.stubs.telegram.client import TOKEN, Refused, Session, control_over, started
from tests.stubs.telegram.stub import Options, running

OTHER = "987654321:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"
UNLIMITED = Options(limits=Limits(budgets=False, repeat_guard=False))


# Requests


async def test_parameters_may_come_in_any_encoding() -> None:
    """Query, form, multipart and JSON mean the same; method names have no case."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        fields = {"chat_id": "7", "text": "ü & 😀"}
        form = aiohttp.FormData(fields)
        multipart = aiohttp.FormData(quote_fields=False)
        for name, value in fields.items():
            multipart.add_field(name, value)
        multipart.add_field("unused", b"x", filename="x.bin")
        address = f"{telegram.bot_address}/SENDmessage"

        answers = []
        async with telegram.http.get(address, params=fields) as response:
            answers.append(await response.json())
        for body in (form, multipart):
            async with telegram.http.post(address, data=body) as response:
                answers.append(await response.json())
        async with telegram.http.post(address, json={"chat_id": 7, "text": "ü & 😀"}) as response:
            answers.append(await response.json())

        assert [answer["result"]["text"] for answer in answers] == ["ü & 😀"] * 4


async def test_method_may_be_a_parameter() -> None:
    """With an empty path after the token the method is read from the parameters."""
    async with started() as telegram:
        async with telegram.http.get(f"{telegram.bot_address}/?method=getMe") as response:
            answer = await response.json()

        assert answer["result"]["id"] == int(TOKEN.partition(":")[0])


@pytest.mark.parametrize(
    ("path", "status", "description"),
    [
        (f"/bot{TOKEN}/makeCoffee", 404, "Not Found: method not found"),
        (f"/bot{TOKEN}", 404, "Not Found"),
        ("/botnonsense/getMe", 404, "Not Found"),
        ("/bot0:short/getMe", 404, "Not Found"),
        ("/elsewhere", 404, "Not Found"),
        (f"/bot{OTHER}/getMe", 401, "Unauthorized"),
        (f"/file/bot{OTHER}/x", 401, "Unauthorized"),
        (f"/file/bot{TOKEN}/x", 404, "Not Found"),
    ],
)
async def test_wrong_paths_and_tokens(path: str, status: int, description: str) -> None:
    """Unknown paths are 404, a well-formed token of another bot is 401, all in JSON."""
    async with started() as telegram:
        await telegram.result("getMe")

        async with telegram.http.get(telegram.base + path) as response:
            answer = await response.json()

        assert TOKEN not in json.dumps(await telegram.entries())
        assert response.status == status
        assert answer == {"ok": False, "error_code": status, "description": description}


async def test_revoked_token_is_refused() -> None:
    """After POST /tokens only the listed tokens work."""
    async with started() as telegram:
        await telegram.result("getMe")
        fresh = f"{TOKEN[:-1]}Z"

        await telegram.post("tokens", {"accept": [fresh]})

        assert await telegram.error("getMe") == "Unauthorized"
        async with telegram.http.get(f"{telegram.base}/bot{fresh}/getMe") as response:
            assert response.status == 200


async def test_malformed_bodies_are_refused() -> None:
    """JSON that is none, or no object, is 400 and nothing else happens."""
    async with started() as telegram:
        headers = {"Content-Type": "application/json"}
        for body in ("{", "[]", '"x"'):
            address = f"{telegram.bot_address}/getMe"
            async with telegram.http.post(address, data=body, headers=headers) as response:
                assert response.status == 400
                assert not (await response.json())["ok"]


async def test_log_out_ends_everything() -> None:
    """After logOut every method fails; close is refused in the first ten minutes."""
    async with started() as telegram:
        assert "retry after" in await telegram.error("close")
        assert await telegram.result("logOut") is True

        assert await telegram.error("getMe") == "Logged out"


async def test_commands_are_kept_per_scope_and_language() -> None:
    """setMyCommands stores lists apart; deleteMyCommands forgets one; bad names are refused."""
    async with started() as telegram:
        english = [{"command": "help", "description": "Help"}]
        russian = [{"command": "help", "description": "Помощь"}]
        scope = {"type": "all_private_chats"}

        await telegram.result("setMyCommands", commands=english)
        await telegram.result("setMyCommands", commands=russian, language_code="ru", scope=scope)

        assert await telegram.result("getMyCommands") == english
        assert await telegram.result("getMyCommands", language_code="ru") == []
        found = await telegram.result("getMyCommands", language_code="ru", scope=scope)
        assert found == russian
        await telegram.result("deleteMyCommands")
        assert await telegram.result("getMyCommands") == []
        for commands, reason in (
            ([{"command": "Help", "description": "x"}], "BOT_COMMAND_INVALID"),
            ([{"command": "", "description": "x"}], "command must be non-empty"),
            ([{"command": "a"}], "can't parse BotCommand: Can't find field \"description\""),
            ("{", "can't parse commands JSON object"),
        ):
            error = await telegram.error("setMyCommands", commands=commands)
            assert error == f"Bad Request: {reason}"


async def test_commands_of_a_chat_need_the_chat() -> None:
    """Whoever has not spoken to the bot has none; afterwards each chat has its own."""
    async with started() as telegram:
        commands = [{"command": "help", "description": "Help"}]
        scope, other = ({"type": "chat", "chat_id": user} for user in (7, 8))
        for method in ("setMyCommands", "getMyCommands", "deleteMyCommands"):
            error = await telegram.error(method, commands=commands, scope=scope)
            assert error == "Bad Request: chat not found"

        await telegram.say(7, "hi")
        await telegram.say(8, "hi")
        await telegram.result("setMyCommands", commands=commands, scope=scope)

        assert await telegram.result("getMyCommands", scope=scope) == commands
        assert await telegram.result("getMyCommands", scope=other) == []
        assert await telegram.result("getMyCommands") == []
        await telegram.result("deleteMyCommands", scope=scope)
        assert await telegram.result("getMyCommands", scope=scope) == []


@pytest.mark.parametrize("name", ["Name", "Description", "ShortDescription"])
async def test_profile_texts_are_kept(name: str) -> None:
    """Name and descriptions come back as set, per language, with the default as fallback."""
    async with started() as telegram:
        key = {"Name": "name", "Description": "description"}.get(name, "short_description")

        await telegram.result(f"setMy{name}", **{key: "x"})
        await telegram.result(f"setMy{name}", **{key: "й", "language_code": "ru"})

        assert await telegram.result(f"getMy{name}") == {key: "x"}
        assert await telegram.result(f"getMy{name}", language_code="ru") == {key: "й"}
        assert await telegram.result(f"getMy{name}", language_code="de") == {key: "x"}
        await telegram.error(f"setMy{name}", **{key: "x" * 513})


async def test_chat_can_be_asked_for() -> None:
    """getChat describes a known chat and refuses an unknown one."""
    async with started() as telegram:
        await telegram.say(7, "hi")

        assert (await telegram.result("getChat", chat_id=7))["type"] == "private"
        assert await telegram.error("getChat", chat_id=8) == "Bad Request: chat not found"


# Files


async def test_user_file_is_downloaded() -> None:
    """A file put in by the control API is found by getFile and served at its path."""
    async with started() as telegram:
        content = bytes(range(256)) * 40
        request = {"content_base64": base64.b64encode(content).decode(), "file_name": "a.pdf"}
        stored = await telegram.post("file", request)

        found = await telegram.result("getFile", file_id=stored["file_id"])

        assert (found["file_size"], found["file_path"]) == (len(content), stored["file_path"])
        async with telegram.http.get(
            f"{telegram.base}/file/bot{TOKEN}/{found['file_path']}"
        ) as response:
            assert await response.read() == content
        assert await telegram.error("getFile", file_id="x") == "Bad Request: invalid file_id"
        assert len(await telegram.entries(kind="download")) == 1


async def test_document_is_uploaded_and_replaced() -> None:
    """sendDocument takes an upload; editMessageMedia makes a text message into a document."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        placeholder = await telegram.result("sendMessage", chat_id=7, text="...")

        async def upload(method: str, content: bytes, **fields: str) -> dict[str, Any]:
            form = aiohttp.FormData(quote_fields=False)
            for name, value in fields.items():
                form.add_field(name, value)
            form.add_field("document", content, filename="é.txt", content_type="text/plain")
            async with telegram.http.post(
                f"{telegram.bot_address}/{method}", data=form
            ) as response:
                answer: dict[str, Any] = await response.json()
            assert answer["ok"], answer
            return dict(answer["result"])

        sent = await upload("sendDocument", b"one\r\n--x\r\n", chat_id="7", caption="c")
        edited = await upload(
            "editMessageMedia",
            b"two",
            chat_id="7",
            message_id=str(placeholder["message_id"]),
            media=json.dumps({"type": "document", "media": "attach://document"}),
        )

        assert (sent["document"]["file_size"], sent["caption"]) == (10, "c")
        assert sent["document"]["file_name"] == "é.txt"
        assert edited["message_id"] == placeholder["message_id"]
        assert edited["document"]["file_size"] == 3
        assert "text" not in edited
        again = await telegram.result(
            "sendDocument", chat_id=7, document=sent["document"]["file_id"]
        )
        assert again["document"]["file_name"] == "é.txt"
        place = {"chat_id": 7, "message_id": sent["message_id"]}
        assert await telegram.error("editMessageText", **place, text="x") == (
            "Bad Request: there is no text in the message to edit"
        )
        assert (await telegram.result("editMessageCaption", **place, caption="d"))["caption"] == "d"
        assert await telegram.error("sendDocument", chat_id=7) == (
            "Bad Request: there is no document in the request"
        )
        entry = (await telegram.entries(kind="call", method="senddocument"))[0]
        assert entry["params"]["document"] == {"file_name": "é.txt", "size": 10}


async def test_photo_is_looked_at() -> None:
    """sendPhoto and editMessageMedia take a PNG; what is none, or too narrow, is refused."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        placeholder = await telegram.result("sendMessage", chat_id=7, text="...")

        async def upload(method: str, content: bytes, **fields: str) -> dict[str, Any]:
            form = aiohttp.FormData({**fields, "chat_id": "7"})
            form.add_field("photo", io.BytesIO(content), filename="a.png", content_type="image/png")
            async with telegram.http.post(
                f"{telegram.bot_address}/{method}", data=form
            ) as response:
                return dict(await response.json())

        def png(width: int, height: int) -> bytes:
            return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)

        place = {
            "message_id": str(placeholder["message_id"]),
            "media": json.dumps({"type": "photo", "media": "attach://photo", "caption": "c"}),
        }
        sent = await upload("sendPhoto", png(1280, 800), caption="c")
        edited = await upload("editMessageMedia", png(640, 400), **place)

        *_, size = sent["result"]["photo"]
        assert (size["width"], size["height"], sent["result"]["caption"]) == (1280, 800, "c")
        assert edited["result"]["message_id"] == placeholder["message_id"]
        assert edited["result"]["photo"][-1]["width"] == 640
        for content, why in (
            (b"GIF89a", "IMAGE_PROCESS_FAILED"),
            (png(1280, 60), "PHOTO_INVALID_DIMENSIONS"),
            (png(9000, 1001), "PHOTO_INVALID_DIMENSIONS"),
            (png(9, 9) + bytes(10 << 20), "file is too big"),
        ):
            refused = await upload("editMessageMedia", content, **place)
            assert refused["description"] == f"Bad Request: {why}"


# Faults


async def test_status_fault_answers_as_telegram_does() -> None:
    """A 502 comes as HTML, a 500 as JSON; the call is not carried out; one count is one call."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        await telegram.post("fault", {"kind": "status", "method": "sendMessage"})
        await telegram.post("fault", {"kind": "status", "method": "sendMessage", "status": 500})

        address = f"{telegram.bot_address}/sendMessage"
        async with telegram.http.post(address, json={"chat_id": 7, "text": "x"}) as response:
            assert response.status == 502
            assert "502 Bad Gateway" in await response.text()
            assert response.content_type == "text/html"
        assert await telegram.error("sendMessage", chat_id=7, text="x") == "Internal Server Error"
        assert await telegram.result("sendMessage", chat_id=7, text="x")

        assert len(await telegram.messages(7)) == 2
        calls = await telegram.entries(kind="call", method="sendmessage")
        assert [call["fault"] for call in calls] == ["status", "status", None]
        assert calls[0]["outcome"]["answered"]["error_code"] == 502


async def test_lost_answer_is_carried_out() -> None:
    """lose_answer: the message appears, but the caller gets no answer."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        await telegram.post("fault", {"kind": "lose_answer", "method": "sendMessage"})

        with pytest.raises(aiohttp.ClientError):
            await telegram.call("sendMessage", chat_id=7, text="x")

        assert [message["text"] for message in await telegram.messages(7)] == ["hi", "x"]
        (call,) = await telegram.entries(kind="call", method="sendmessage")
        assert call["outcome"]["ok"]
        assert call["outcome"]["answered"] is None


async def test_reset_happens_before_the_act() -> None:
    """reset: the connection breaks and nothing was carried out."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        await telegram.post("fault", {"kind": "reset", "method": "*", "count": 2})

        for _ in range(2):
            with pytest.raises(aiohttp.ClientError):
                await telegram.call("sendMessage", chat_id=7, text="x")

        assert len(await telegram.messages(7)) == 1
        assert await telegram.result("sendMessage", chat_id=7, text="x")


@pytest.mark.parametrize(("when", "shown"), [("before", 1), ("after", 2)])
async def test_hang_holds_the_call_before_or_after_the_act(when: str, shown: int) -> None:
    """A hang holds the answer until it is cleared; the act is done before or after, as asked."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        fault = {"kind": "hang", "method": "sendMessage", "when": when, "count": None}
        await telegram.post("fault", fault)

        call = asyncio.create_task(telegram.result("sendMessage", chat_id=7, text="x"))
        deadline = time.monotonic() + 5
        while len(await telegram.messages(7)) < shown and time.monotonic() < deadline:
            pass
        done, _ = await asyncio.wait([call], timeout=0.1)
        assert not done
        assert len(await telegram.messages(7)) == shown
        await telegram.clear_faults()

        assert (await call)["text"] == "x"


async def test_delay_ends_by_itself() -> None:
    """A delay holds the call for its seconds and then lets it pass."""
    async with started(UNLIMITED) as telegram:
        await telegram.post("fault", {"kind": "delay", "method": "getMe", "seconds": 0.2})
        began = time.monotonic()

        await telegram.result("getMe")

        assert 0.2 <= time.monotonic() - began < 2


async def test_ordered_retry_after() -> None:
    """retry_after: the next call is 429 with these seconds, budget or not."""
    async with started(UNLIMITED) as telegram:
        await telegram.post("fault", {"kind": "retry_after", "seconds": 7})

        answer = await telegram.call("getMe")

        assert (answer["error_code"], answer["parameters"]) == (429, {"retry_after": 7})


async def test_fault_hits_only_what_it_names() -> None:
    """A fault with a chat hits that chat's calls; `skip` lets the first ones pass."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        await telegram.say(8, "hi")
        await telegram.post(
            "fault",
            {"kind": "status", "method": "sendmessage", "chat_id": 8, "skip": 1, "count": None},
        )

        async def works(chat_id: int) -> bool:
            address = f"{telegram.bot_address}/sendMessage"
            request = {"chat_id": chat_id, "text": "x"}
            async with telegram.http.post(address, json=request) as response:
                return response.status == 200

        assert [await works(c) for c in (7, 8, 8, 7, 8)] == [True, True, False, True, False]
        await telegram.clear_faults()
        assert await works(8)


async def test_lost_updates_come_again() -> None:
    """When the answer to getUpdates is lost, its updates are still unconfirmed."""
    async with started(UNLIMITED) as telegram:
        said = await telegram.say(7, "hi")
        await telegram.post("fault", {"kind": "lose_answer", "method": "getUpdates"})

        with pytest.raises(aiohttp.ClientError):
            await telegram.call("getUpdates")

        updates = await telegram.result("getUpdates")
        assert [update["update_id"] for update in updates] == [said["update_id"]]


async def test_downloads_can_fail_too() -> None:
    """The method "file" stands for downloads."""
    async with started(UNLIMITED) as telegram:
        stored = await telegram.post("file", {"content_base64": "eA==", "file_name": "a"})
        # Twice: the client tries a broken GET once more by itself.
        await telegram.post("fault", {"kind": "reset", "method": "file", "count": 2})
        address = f"{telegram.base}/file/bot{TOKEN}/{stored['file_path']}"

        with pytest.raises(aiohttp.ClientError):
            await telegram.http.get(address)
        async with telegram.http.get(address) as response:
            assert await response.read() == b"x"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "earthquake"}, "fault kind"),
        ({"kind": "hang", "when": "never"}, "when is"),
        ({"kind": "hang", "seconds": "long"}, "bad request"),
    ],
)
async def test_wrong_faults_are_refused(fault: dict[str, Any], reason: str) -> None:
    """A fault that makes no sense is refused with a sentence and changes nothing."""
    async with started() as telegram:
        with pytest.raises(Refused, match=reason):
            await telegram.post("fault", fault)

        assert (await telegram.get("state"))["faults"] == []


# The record and the control API


async def test_record_holds_every_call() -> None:
    """Each call is recorded with number, time, parameters decoded, outcome and duration."""
    async with started(UNLIMITED) as telegram:
        await telegram.say(7, "hi")
        before = time.time()
        await telegram.call("sendMessage", chat_id=7, text="x", reply_markup={"force_reply": True})
        await telegram.call("sendMessage", chat_id=8, text="y")

        good, bad = await telegram.entries(kind="call", method="sendmessage")

        assert bad["seq"] > good["seq"]
        assert before <= good["started"] <= good["time"] <= time.time()
        assert 0 <= good["duration"] < 1
        assert good["params"] == {
            "chat_id": "7",
            "text": "x",
            "reply_markup": {"force_reply": True},
        }
        assert good["outcome"]["result"]["text"] == "x"
        assert bad["outcome"]["description"] == "Bad Request: chat not found"
        assert TOKEN not in json.dumps(await telegram.entries())


async def test_record_waits_for_what_is_wanted() -> None:
    """A long poll of the record ends with the first entry that fits, not with others."""
    async with started(UNLIMITED) as telegram:
        waiting = asyncio.create_task(
            telegram.wait_for(lambda entry: entry["text"] == "b", 5, kind="say")
        )
        await telegram.result("getMe")
        await telegram.say(7, "a")
        await telegram.say(7, "b")

        assert (await waiting)["text"] == "b"
        with pytest.raises(TimeoutError):
            await telegram.wait_for(lambda _: True, 0.1, kind="press")


async def test_record_is_read_page_by_page() -> None:
    """`after` and `limit` page through the record without gaps or repeats."""
    async with started(UNLIMITED) as telegram:
        for n in range(5):
            await telegram.say(7, str(n))
        texts: list[str] = []
        after = 0
        while page := (await telegram.get("record", after=after, limit=2, kind="say"))["entries"]:
            texts += [entry["text"] for entry in page]
            after = page[-1]["seq"]

        assert texts == ["0", "1", "2", "3", "4"]


async def test_record_may_be_bounded() -> None:
    """With a limit the oldest entries go, and numbers go on."""
    async with started(Options(record_limit=10)) as telegram:
        for n in range(50):
            await telegram.say(7, str(n))

        entries = await telegram.entries()

        assert 10 <= len(entries) <= 20
        assert entries[-1]["seq"] == 100
        assert [entry["seq"] for entry in entries] == list(range(101 - len(entries), 101))


async def test_reset_forgets_everything_but_the_numbers() -> None:
    """After a reset chats, queue, faults and limits are as at the start; numbers go on."""
    async with started(UNLIMITED) as telegram:
        number = (await telegram.say(7, "hi"))["update_id"]
        await telegram.post("fault", {"kind": "reset", "count": None})
        await telegram.post("limits", {"private_rate": 9})

        last = (await telegram.post("reset"))["last"]

        state = await telegram.get("state")
        assert (state["chats"], state["faults"], state["pending_update_count"]) == ([], [], 0)
        assert state["limits"]["private_rate"] == 1.0
        assert await telegram.entries() == []
        assert (await telegram.say(7, "hi"))["update_id"] == number + 1
        assert (await telegram.entries())[0]["seq"] > last


async def test_state_tells_who_polls() -> None:
    """GET /state names queue, poller, offset, commands and webhook."""
    async with started(UNLIMITED) as telegram:
        said = await telegram.say(7, "hi")
        await telegram.result("setMyCommands", commands=[{"command": "a", "description": "b"}])
        await telegram.result("getUpdates", offset=said["update_id"])

        state = await telegram.get("state")

        assert state["pending_update_ids"] == [said["update_id"]]
        assert state["offset"] == said["update_id"]
        assert state["active_poller"] is False
        assert state["commands"][0]["commands"] == [{"command": "a", "description": "b"}]
        assert state["webhook"] == ""


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("say", {"text": "x"}, "user needs"),
        ("say", {"user": {"id": 7}, "chat": {"id": -7, "type": "private"}}, "chat id -7"),
        ("edit", {"user": {"id": 7}, "message_id": 9, "text": "x"}, "shows no message"),
        ("press", {"user": {"id": 7}, "chat_id": 7, "message_id": 1, "data": "x"}, "unknown"),
        ("update", {"message": {}, "poll": {}}, "one field"),
        ("batch", {"kind": "say"}, "array"),
        ("batch", [{"kind": "dance"}], "kind is"),
        ("file", {"content_base64": "?", "file_name": "x"}, "base64"),
        ("block", {"chat_id": 7}, "unknown"),
        ("tokens", {"accept": ["x"]}, "malformed"),
        ("fault", [], "object"),
    ],
)
async def test_control_mistakes_are_named(path: str, body: Any, reason: str) -> None:
    """A request that makes no sense gets 400 with a sentence, and the stub goes on."""
    async with started() as telegram:
        async with telegram.http.post(
            f"http://127.0.0.1:{telegram.stub.control_port}/{path}", json=body
        ) as response:
            answer = await response.json()

        assert response.status == 400
        assert reason in answer["error"]
        assert await telegram.get("state")


async def test_control_socket_and_tls(tmp_path: Path) -> None:
    """Over TLS with the test authority alone the name is right; the socket is for everybody.

    The authority outlives a restart, and a stale socket is replaced.
    """
    context = server_context(tmp_path, "api.telegram.org")
    authority = (tmp_path / "ca.pem").read_bytes()
    options = Options(tls=context, control_socket=tmp_path / "control.sock", control_port=None)
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))

    for _ in range(2):
        async with (
            running(options) as stub,
            aiohttp.ClientSession() as session,
            control_over(tmp_path / "control.sock") as control,
        ):
            address = f"https://127.0.0.1:{stub.port}/bot{TOKEN}/getMe"
            async with session.get(
                address, ssl=trust, server_hostname="api.telegram.org"
            ) as response:
                assert response.status == 200
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(address, ssl=trust)
            assert (await control.say(7, "hi"))["message_id"] == 1
            assert (tmp_path / "control.sock").stat().st_mode & 0o777 == 0o666

    server_context(tmp_path, "api.telegram.org")
    assert (tmp_path / "ca.pem").read_bytes() == authority
    assert (tmp_path / "ca.pem").stat().st_mode & 0o777 == 0o644


async def test_many_chats_at_once() -> None:
    """A thousand chats talk, are answered and edited without a call going wrong."""
    async with started(UNLIMITED) as telegram:
        batch = [{"kind": "say", "user": {"id": n}, "text": "hi"} for n in range(1, 1001)]
        await telegram.post("batch", batch)

        await answer_all(telegram)

        state = await telegram.get("state")
        assert (len(state["chats"]), state["pending_update_count"]) == (1000, 0)
        assert [m["text"] for m in await telegram.messages(1000)] == ["hi", "done"]


async def answer_all(telegram: Session) -> None:
    """Play a bot that answers every update with a placeholder and one edit."""

    async def answer(chat_id: int) -> None:
        message = await telegram.result("sendMessage", chat_id=chat_id, text="...")
        await telegram.result(
            "editMessageText", chat_id=chat_id, message_id=message["message_id"], text="done"
        )

    offset = 0
    while updates := await telegram.result("getUpdates", offset=offset):
        await asyncio.gather(*(answer(update["message"]["chat"]["id"]) for update in updates))
        offset = updates[-1]["update_id"] + 1
