"""Owns the users: what they ask, when they wait, change their minds and stop, from a seed.

Every question has a number of its own, and its answer follows from its text (tests/stubs/engine/
essay.py), so that each answer can be told from every other one.
"""

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tests.faults.screen import PLACEHOLDER, Screen, Shown
from tests.stubs.engine.essay import essay
from tests.stubs.telegram.client import Control, Refused

CHATS = 64
"""In each at least one ask is in flight nearly always: above 50 in all at any time."""

PRESS_AGAIN_SECONDS = 10.0

STRANGERS = (6661, 6662, 6663)

FINAL_WORDS = ("(stopped)", "could not finish this answer", "waiting for an answer", "Too many")
"""How a reply ends an ask without its whole answer."""


@dataclass
class Ask:
    """A question that waits for its answer; `text` is its latest wording."""

    message_id: int
    text: str

    def is_answered(self, shown: list[Shown]) -> bool:
        tail = _tail(self.text)
        for message in shown:
            if message.grows or message.retry or message.text == PLACEHOLDER:
                continue
            if message.message_id < self.message_id:
                continue
            if " ".join(message.text.split()).endswith(tail):
                return True
            if message.reply_to == self.message_id and any(w in message.text for w in FINAL_WORDS):
                return True
            if message.text.endswith("(stopped)") and not message.reply_to:
                return True  # the last of several parts
        return False


@cache
def _tail(question: str) -> str:
    return " ".join(essay(question, 40).split()[-2:])


@dataclass
class Counts:
    """What the users have done."""

    asks: int = 0
    edits: int = 0
    stops: int = 0
    commands: int = 0
    retries: int = 0


class Load:
    """All users at once."""

    def __init__(self, control: Control, screen: Screen, seed: int) -> None:
        self.control = control
        self.screen = screen
        self._seed = seed
        self.waiting: dict[int, list[Ask]] = {}
        self.ended = asyncio.Event()
        self.counts = Counts()
        self.chats = range(1001, 1001 + CHATS)

    @property
    def in_flight(self) -> int:
        """Asks that Telegram has taken and that are not answered yet."""
        return sum(len(asks) for asks in self.waiting.values())

    async def run(self) -> None:
        """Ask until ended; return when everything is answered."""
        users: list[Coroutine[Any, Any, None]] = [
            _User(chat_id, self, random.Random(f"{self._seed}/{chat_id}")).run()
            for chat_id in self.chats
        ]
        strangers = [self._annoy(n, random.Random(f"{self._seed}/{n}")) for n in STRANGERS]
        await asyncio.gather(*users, *strangers)

    def end(self) -> None:
        """No new asks from here on."""
        self.ended.set()

    def unanswered(self) -> list[str]:
        return [f"{chat}: {ask.text}" for chat, asks in self.waiting.items() for ask in asks]

    async def _annoy(self, user_id: int, rng: random.Random) -> None:
        while not self.ended.is_set():
            said = await self.control.say(user_id, rng.choice(["hello?", "/start", "10 words"]))
            if rng.random() < 0.3:
                user = {"id": user_id}
                body = {"user": user, "message_id": said["message_id"], "text": "no, hello!"}
                await self.control.post("edit", body)
            if rng.random() < 0.3:
                await self.control.press(user_id, said["message_id"], "stop:1", force=True)
            await self.pause(rng.uniform(2, 8))

    async def pause(self, seconds: float) -> None:
        """Think for a moment, unless all is over."""
        try:
            await asyncio.wait_for(self.ended.wait(), seconds)
        except TimeoutError:
            return


@dataclass
class _User:
    chat_id: int
    load: Load
    rng: random.Random
    number: int = 0
    asks: list[Ask] = field(default_factory=list)
    retried: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        load = self.load
        load.waiting[self.chat_id] = self.asks
        await load.pause(self.rng.uniform(0, 3))
        while not load.ended.is_set():
            match self.rng.choices(
                ["one", "several", "long", "edit", "stop", "press", "help"],
                [60, 12, 6, 10, 5, 5, 4],
            )[0]:
                case "one":
                    await self.ask(self.rng.randint(8, 90))
                case "several":
                    for _ in range(self.rng.randint(2, 3)):
                        await self.ask(self.rng.randint(5, 40))
                case "long":
                    await self.ask(self.rng.randint(420, 650))
                    if self.rng.random() < 0.3:
                        await self.ask(self.rng.randint(8, 90))
                case "edit":
                    await self.ask(self.rng.randint(20, 90))
                    await load.pause(self.rng.choice([0, 0.3, 1, 3, 6]))
                    await self.reword()
                case "stop":
                    await self.ask(self.rng.randint(60, 200))
                    await load.pause(self.rng.uniform(0, 10))
                    await self.say("/stop")
                    load.counts.stops += 1
                case "press":
                    await self.ask(self.rng.randint(60, 200))
                    await load.pause(self.rng.uniform(2, 12))
                    await self.press()
                case "help":
                    await self.say("/help")
                    load.counts.commands += 1
                    await self.ask(self.rng.randint(8, 40))
            await self.wait()
        await self.wait()

    async def say(self, text: str) -> int:
        said = await self.load.control.say(self.chat_id, text)
        return int(said["message_id"])

    async def ask(self, words: int) -> None:
        self.number += 1
        text = f"ask {self.chat_id}-{self.number}, {words} words please"
        self.asks.append(Ask(await self.say(text), text))
        self.load.counts.asks += 1

    async def reword(self) -> None:
        """Edit the last ask, whatever has become of it."""
        if not self.asks:
            return
        self.number += 1
        ask = self.asks[-1]
        text = f"ask {self.chat_id}-{self.number}, reworded, {self.rng.randint(8, 60)} words please"
        body = {"user": {"id": self.chat_id}, "message_id": ask.message_id, "text": text}
        await self.load.control.post("edit", body)
        ask.text = text
        self.load.counts.edits += 1

    async def press(self) -> None:
        """Press the stop button that is on the screen, if there is one."""
        shown = list(self.load.screen.chat(self.chat_id).shown.values())
        for message in reversed(shown):
            if message.grows:
                try:
                    await self.load.control.press(self.chat_id, message.message_id, message.button)
                    self.load.counts.stops += 1
                except Refused:
                    pass  # it is final by now
                return

    async def _retry(self, shown: list[Shown]) -> None:
        """Press the button under an answer that failed."""
        now = asyncio.get_running_loop().time()
        for message in shown:
            # A press is not durable: while the gateway sleeps it is answered "press again later".
            if message.retry and now - self.retried.get(message.retry, -99.0) > PRESS_AGAIN_SECONDS:
                self.retried[message.retry] = now
                with contextlib.suppress(Refused):
                    await self.load.control.press(self.chat_id, message.message_id, message.retry)
                    self.load.counts.retries += 1

    async def wait(self) -> None:
        """Wait until everything that was asked is answered."""
        chat = self.load.screen.chat(self.chat_id)
        while True:
            chat.changed.clear()
            shown = list(chat.shown.values())
            self.asks[:] = [ask for ask in self.asks if not ask.is_answered(shown)]
            await self._retry(shown)
            if not self.asks:
                chat.shown = {n: message for n, message in chat.shown.items() if message.grows}
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(chat.changed.wait(), PRESS_AGAIN_SECONDS)
