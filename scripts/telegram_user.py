"""Owns playing a Telegram user at the stub Bot API server: saying things, seeing the screen."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACEHOLDER = "…"  # what the bot sends before it has anything to say


class StubGone(Exception):
    """The stub Bot API server does not answer: start the demonstration again."""


@dataclass(frozen=True)
class BotMessage:
    """One message of the bot as it is on the screen now."""

    message_id: int
    text: str
    buttons: tuple[str, ...] = ()
    """What pressing them brings back to the bot, such as `stop:7`."""
    labels: tuple[str, ...] = ()
    """What stands on them."""
    attachment: str = ""
    """The file's name, or `photo`."""

    @property
    def is_growing(self) -> bool:
        """An answer that is still being written carries a stop button."""
        return any(data.startswith("stop:") for data in self.buttons)

    @property
    def is_final(self) -> bool:
        """A new message is empty."""
        return self.text != PLACEHOLDER and not self.is_growing

    @property
    def described(self) -> str:
        """All of it in words: its file and its buttons, too, while there are others than stop."""
        words = [f"[{self.attachment}]"] if self.attachment else []
        words.append(self.text)
        if self.labels and not self.is_growing:
            words.append("buttons: " + " ".join(f"[{label}]" for label in self.labels))
        return "\n".join(words)


@dataclass(frozen=True)
class Said:
    """A message that the user has sent."""

    update_id: int
    message_id: int
    seq: int
    """Place in the stub's record just before it."""


class TelegramUser:
    """One user in a private chat with the bot."""

    def __init__(self, control_socket: Path, user_id: int, language: str = "en") -> None:
        self._socket = control_socket
        self.chat_id = user_id  # of the private chat with the bot
        self.user = {"id": user_id, "first_name": "Guest", "language_code": language}

    def say(self, text: str) -> Said:
        """Send a message to the bot."""
        body: dict[str, Any] = {"text": text}
        if text.startswith("/"):
            command = text.split()[0]
            entity = {"type": "bot_command", "offset": 0, "length": len(command)}
            body["extra"] = {"entities": [entity]}
        return self._say(body)

    def send(self, content: bytes, name: str, caption: str) -> Said:
        """Send a file."""
        packed = base64.b64encode(content).decode()
        stored = self._request("POST", "/file", {"content_base64": packed, "file_name": name})
        return self._say({"extra": {"document": stored["document"], "caption": caption}})

    def _say(self, body: dict[str, Any]) -> Said:
        seq = int(self.state()["last"])
        said = self._request("POST", "/say", {"user": self.user} | body)
        return Said(said["update_id"], said["message_id"], seq)

    def press(self, message_id: int, verb: str = "stop") -> None:
        """Press a button under one of the bot's messages."""
        (message,) = (m for m in self.bot_messages() if m.message_id == message_id)
        data = next(data for data in message.buttons if data.startswith(f"{verb}:"))
        body = {"user": self.user, "chat_id": self.chat_id, "message_id": message_id, "data": data}
        self._request("POST", "/press", body)

    def state(self) -> dict[str, Any]:
        """The stub's state: whether the bot is polling, what is pending."""
        return self._request("GET", "/state")

    def record(self, after: int, wait_seconds: float = 0) -> tuple[list[dict[str, Any]], int]:
        """What has happened since entry `after`, and where to go on; waits for the first news."""
        path = f"/record?after={after}&wait={wait_seconds}"
        told = self._request("GET", path, seconds=wait_seconds + 20)
        entries: list[dict[str, Any]] = told["entries"]
        return entries, int(entries[-1]["seq"] if entries else max(after, told["last"]))

    def bot_messages(self, after_message: int = 0) -> list[BotMessage]:
        """The bot's messages below a given one, top to bottom."""
        try:
            chat = self._request("GET", f"/chat/{self.chat_id}")
        except LookupError:
            return []
        return [
            BotMessage(
                *(shown["message_id"], shown["text"]),
                *(_of_buttons(shown, "callback_data"), _of_buttons(shown, "text")),
                _attachment(shown["extra"]),
            )
            for shown in chat["messages"]
            if shown["from_bot"]
            and shown["message_id"] > after_message
            and shown["message_id"] not in chat["deleted"]
        ]

    def watch(self, said: Said, seconds: float) -> Iterator[list[BotMessage]]:
        """Yield what the bot shows below a message after each change, until all of it is final.

        Raises TimeoutError.
        """
        deadline = time.monotonic() + seconds
        seq = said.seq
        before: list[BotMessage] = []
        while True:
            shown = self.bot_messages(said.message_id)
            if shown != before:
                before = shown
                yield shown
            if shown and all(message.is_final for message in shown):
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            _, seq = self.record(seq, min(left, 5))

    def _request(
        self, method: str, path: str, body: Any = None, seconds: float = 20
    ) -> dict[str, Any]:
        connection = _UnixConnection(self._socket, seconds)
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body),
                headers={"Content-Type": "application/json"},
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StubGone(f"{StubGone.__doc__} ({error})") from None
        finally:
            connection.close()
        if response.status == 404:
            raise LookupError(path)
        if response.status != 200:
            raise ValueError(f"{method} {path.partition('?')[0]}: {answer.get('error', answer)}")
        return dict(answer)


def _of_buttons(shown: dict[str, Any], name: str) -> tuple[str, ...]:
    rows = (shown["reply_markup"] or {}).get("inline_keyboard", [])
    return tuple(str(button.get(name, "")) for row in rows for button in row)


def _attachment(extra: dict[str, Any]) -> str:
    if "document" in extra:
        return f"file {extra['document']['file_name']}"
    return "photo" if "photo" in extra else ""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("stub", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        # A path in a deep directory may exceed the 107 bytes of a socket's address.
        with _directory(self._path.parent) as folder:
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)
