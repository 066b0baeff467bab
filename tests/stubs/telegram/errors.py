"""Owns the errors that the Bot API answers with, worded as Telegram words them."""

from __future__ import annotations

_PREFIXES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    500: "Internal Server Error",
}


class BotApiError(Exception):
    """An answer with "ok": false."""

    def __init__(
        self,
        code: int,
        description: str,
        retry_after: int | None = None,
        migrate_to: int | None = None,
    ) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.retry_after = retry_after
        self.migrate_to = migrate_to

    @classmethod
    def worded(cls, code: int, message: str) -> BotApiError:
        """Build the description as the server does: prefix, colon, first letter in lower case.

        Messages that begin like CONSTANTS keep their case.
        """
        prefix = _PREFIXES[code]
        if message.startswith(prefix):
            return cls(code, message)
        is_constant = len(message) >= 2 and (message[1] == "_" or "A" <= message[1] <= "Z")
        return cls(
            code, f"{prefix}: {message if is_constant else message[0].lower() + message[1:]}"
        )


def bad_request(message: str) -> BotApiError:
    """A 400."""
    return BotApiError.worded(400, message)


def too_many_requests(seconds: int) -> BotApiError:
    """A 429 that carries how long to wait."""
    return BotApiError(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)


def chat_moved(chat_id: int) -> BotApiError:
    """A 400 that carries the supergroup's id."""
    description = "Bad Request: group chat was upgraded to a supergroup chat"
    return BotApiError(400, description, migrate_to=chat_id)


class ControlError(Exception):
    """A test asked the control API for something impossible; the text says what."""
