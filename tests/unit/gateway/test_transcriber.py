"""Recordings go to an OpenAI-compatible server on a Unix socket; each answer has a meaning."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from services.gateway.reading import Unreadable
from services.gateway.transcriber import Transcriber, TranscriberUnavailable, open_transcriber

LISTED = {"data": [{"id": "listens"}]}


@asynccontextmanager
async def serving(
    at: Path, answer: web.Response, models: Any = LISTED, status: int = 200
) -> AsyncGenerator[list[dict[str, Any]]]:
    """Play the server; gives what it is sent."""
    sent: list[dict[str, Any]] = []

    async def transcribe(request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        fields = {name: form[name] for name in form if name != "file"}
        sent.append(fields | {"name": file.filename, "content": file.file.read()})
        return answer

    async def list_models(_: web.Request) -> web.Response:
        return web.json_response(models, status=status)

    app = web.Application()
    app.router.add_post("/v1/audio/transcriptions", transcribe)
    app.router.add_get("/v1/models", list_models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(at)).start()
    try:
        yield sent
    finally:
        await runner.cleanup()


async def heard(socket: Path) -> str:
    async with open_transcriber(socket) as transcriber:
        assert isinstance(transcriber, Transcriber)
        return await transcriber.write_down(b"sound", "voice.ogg")


async def test_words_are_written_down(tmp_path: Path) -> None:
    """By the model that the server lists."""
    async with serving(tmp_path / "s", web.json_response({"text": " What flies? "})) as sent:
        assert await heard(tmp_path / "s") == "What flies?"

    assert sent == [
        {
            "model": "listens",
            "response_format": "json",
            "name": "voice.ogg",
            "content": b"sound",
        }
    ]


async def test_server_that_lists_nothing_is_asked_for_the_usual_model(tmp_path: Path) -> None:
    """Some have one model and no list."""
    answer = web.json_response({"text": "words"})
    async with serving(tmp_path / "s", answer, {"error": "what?"}, 404) as sent:
        assert await heard(tmp_path / "s") == "words"

    assert sent[0]["model"] == "whisper-1"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (web.Response(status=400, text="no sound"), "recording unreadable"),
        (web.Response(status=500), "recording unreadable"),
        (web.Response(text="{"), "recording unreadable"),
        (web.Response(text='{"text": 5}'), "recording unreadable"),
        (web.json_response({"text": "  "}), "recording without words"),
    ],
    ids=str,
)
async def test_recording_that_is_not_understood(
    tmp_path: Path, answer: web.Response, why: str
) -> None:
    """Its user is told, and it is not tried for ever."""
    async with serving(tmp_path / "s", answer):
        with pytest.raises(Unreadable) as error:
            await heard(tmp_path / "s")

    assert str(error.value) == why


async def test_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """Not started yet, or still loading its model."""
    with pytest.raises(TranscriberUnavailable):
        await heard(tmp_path / "s")
    async with serving(tmp_path / "s", web.Response(status=503)):
        with pytest.raises(TranscriberUnavailable):
            await heard(tmp_path / "s")
    async with serving(tmp_path / "t", web.Response(), {}, 503):
        with pytest.raises(TranscriberUnavailable):
            await heard(tmp_path / "t")


async def test_none_is_opened_without_a_socket() -> None:
    """Then no recording is taken."""
    async with open_transcriber(None) as transcriber:
        assert transcriber is None
