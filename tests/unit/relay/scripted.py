"""A Telegram that answers by script, read by the library as the real one is."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from aiogram import Bot
from aiogram.client.session.base import BaseSession
from aiogram.methods import TelegramMethod
from aiogram.methods.base import TelegramType

Answer = tuple[int, dict[str, Any]]


class ScriptedTelegram(BaseSession):
    """Answers each method by its script, else with success; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.marker = "none"
        self.answers: dict[str, Answer] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.held: dict[str, asyncio.Event] = {}
        self.formatting: Answer | None = None
        """What is answered to whatever has entities."""
        self.bot = Bot("123456:" + "A" * 35, session=self)

    def count(self, method: str) -> int:
        return [name for name, _ in self.calls].count(method)

    async def make_request(
        self, bot: Bot, method: TelegramMethod[TelegramType], timeout: int | None = None
    ) -> TelegramType:
        name = method.__api_method__
        self.calls.append((name, method.model_dump(exclude_none=True, warnings=False)))
        if name in self.held:
            await self.held[name].wait()
        success = {
            "sendMessage": {"message_id": 60 + len(self.calls)},
            "getMyCommands": [
                {"command": "asleep", "description": self.marker},
            ],
        }.get(name, True)
        if name == "setMyCommands":
            self.marker = method.commands[0].description  # type: ignore[attr-defined]  # that method
        status, content = self.answers.get(name, (200, {"ok": True, "result": success}))
        if self.formatting and getattr(method, "entities", None):
            status, content = self.formatting
        response = self.check_response(bot, method, status, json.dumps(content))
        return response.result  # type: ignore[return-value]  # as in aiogram's own session

    async def close(self) -> None:
        """Nothing is open."""

    async def stream_content(self, *_: Any, **__: Any) -> AsyncGenerator[bytes, None]:
        """Part of the interface; nothing is downloaded here."""
        yield b""


def refusal(status: int, description: str, **parameters: Any) -> Answer:
    content: dict[str, Any] = {"ok": False, "error_code": status, "description": description}
    return status, content | ({"parameters": parameters} if parameters else {})
