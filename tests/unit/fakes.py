"""Fakes for unit tests: an engine that says what it is told to, and waiting for conditions."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.gateway.engine import (
    CannotResume,
    CannotSee,
    Finished,
    NoSuchModel,
    Piece,
    Thought,
)
from services.gateway.store import Store
from services.wire import Update

KEY = "0" * 63 + "1"
USER = 7

Script = list[str | Exception | asyncio.Event | Finished | Thought]


@dataclass
class FakeEngine:
    """Answers each request by the next script: pieces, errors to raise, events to wait for."""

    scripts: deque[Script] = field(default_factory=deque)
    requests: list[list[dict[str, Any]]] = field(default_factory=list)
    summary_scripts: deque[Script] = field(default_factory=deque)
    summary_requests: list[list[dict[str, Any]]] = field(default_factory=list)
    """Those for summaries, which are in no other list."""
    summary_limits: list[int] = field(default_factory=list)
    summary_priorities: list[int] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    chats: list[str] = field(default_factory=list)
    """What requests said of their conversation, those for summaries included."""
    absent: set[str] = field(default_factory=set)
    """Names of models that it does not have."""
    aborted: int = 0
    waiting: int = 0
    """How many requests wait for an event now."""
    ready: bool = True
    tokens_per_word: int | None = None
    """What a word costs in a prompt; None: this engine does not count."""
    resumes: bool = True
    """Whether it goes on with an answer that was cut."""
    sees: bool = True
    """Whether it takes pictures."""

    async def is_ready(self) -> bool:
        return self.ready

    async def count_prompt(self, messages: list[dict[str, Any]], model: str = "") -> int | None:
        if model in self.absent:
            raise NoSuchModel
        if self.tokens_per_word is None:
            return None
        words = sum(len(message["content"].split()) for message in messages)
        return words * self.tokens_per_word

    async def stream(
        self,
        messages: list[dict[str, Any]],
        answer_tokens: int,
        temperature: float,
        priority: int = 0,
        *,
        resume: bool = False,
        model: str = "",
        thinks: bool = True,
        chat: str = "",
    ) -> AsyncGenerator[Piece | Thought | Finished]:
        if model in self.absent:
            raise NoSuchModel
        if resume and not self.resumes:
            raise CannotResume
        if not self.sees and any(isinstance(message["content"], list) for message in messages):
            raise CannotSee
        assert resume == (messages[-1]["role"] == "assistant")
        self.chats.append(chat)
        if thinks:
            scripts = self.scripts
            self.requests.append(messages)
            self.limits.append(answer_tokens)
            self.temperatures.append(temperature)
            self.priorities.append(priority)
            self.models.append(model)
        else:
            scripts = self.summary_scripts
            self.summary_requests.append(messages)
            self.summary_limits.append(answer_tokens)
            self.summary_priorities.append(priority)
        script: Script = scripts.popleft() if scripts else ["fine"]
        tokens = 0
        try:
            for step in script:
                match step:
                    case str():
                        tokens += 1
                        yield Piece(step)
                    case Thought():
                        tokens += 1
                        yield step
                    case asyncio.Event():
                        self.waiting += 1
                        try:
                            await step.wait()
                        finally:
                            self.waiting -= 1
                    case Finished():
                        yield step
                        return
                    case Exception():
                        raise step
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted += 1
            raise
        yield Finished("stop", 10, tokens)


@asynccontextmanager
async def open_store(directory: Path) -> AsyncGenerator[Store]:
    store = Store(directory / "store.db", KEY)
    try:
        yield store
    finally:
        store.close()


def put_menu(store: Store, message_id: int = 50, user_id: int = USER, chat_id: int = USER) -> None:
    """Let a user's menu stand in a message."""
    store._db.execute(
        "INSERT INTO menus VALUES(?, ?, 0, ?, ?, '')",
        (chat_id, message_id, user_id, int(time.time())),
    )


async def until(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """Wait until the condition holds and return its value; fail by naming it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (value := condition()):
        if loop.time() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.005)
    return value


def press(update_id: int, data: str, **changes: Any) -> dict[str, Any]:
    """Write the update that the relay makes of a user's press, by default of no known message."""
    fields = {"kind": "press", "message_id": 50, "press_id": str(update_id), "press_data": data}
    return message(update_id, None, **(fields | changes))


def message(update_id: int, text: str | None, **changes: Any) -> dict[str, Any]:
    """Write the update that the relay makes of a user's message."""
    fields: dict[str, Any] = {
        "update_id": update_id,
        "kind": "message",
        "chat_id": USER,
        "chat_kind": "private",
        "user_id": USER,
        "language": "en",
        "message_id": update_id + 1000,
        "sent_at": 1_700_000_000,
        "text": text,
    }
    return Update(**(fields | changes)).model_dump()
