"""The relay's settings."""

import ipaddress
import re
import ssl
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from services.relay.marks import MARK_DIGITS
from services.relay.profile import Profile
from services.settings import LinkToken, LogLevel, Port, Settings


def _parse_users(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    words = [word.strip() for word in value.split(",") if word.strip()]
    kinds = rf"[1-9][0-9]{{0,15}}|[0-9a-f]{{{MARK_DIGITS}}}"
    if not words or not all(re.fullmatch(kinds, word) for word in words):
        raise ValueError(
            "give Telegram user ids, numbers separated by commas, or marks of them as "
            "`init` writes them"
        )
    return frozenset(word if len(word) == MARK_DIGITS else int(word) for word in words)


def _check_token(value: str) -> str:
    if not re.fullmatch(r"[0-9]{3,20}:[A-Za-z0-9_-]{30,}", value):
        raise ValueError("give the token as BotFather shows it, such as 123456:ABC-DEF…")
    return value


def _check_address(value: str) -> str:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        raise ValueError("give the IPv4 address of the other end of the tunnel") from None
    return value


def _check_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.path.strip("/"):
        raise ValueError("give the Bot API server as https://HOST")
    return value.rstrip("/")


def _at_most(length: int) -> AfterValidator:
    def check(value: str) -> str:
        if len(value.strip()) > length:
            raise ValueError(f"give at most {length} characters")
        return value.strip()

    return AfterValidator(check)


def _check_certificates(value: Path) -> Path:
    try:
        ssl.create_default_context(cafile=str(value))
    except OSError:  # SSLError is one
        raise ValueError(
            "give a file of certificates in PEM that user 10001 may read, or leave it out"
        ) from None
    return value


class RelaySettings(Settings):
    """Each field is the environment variable of the same name in capitals."""

    SECRETS: ClassVar[frozenset[str]] = frozenset({"bot_token", "link_token"})

    allowed_users: Annotated[frozenset[int | str], BeforeValidator(_parse_users)] = Field(
        description="put the Telegram user ids that may talk to the bot into .env"
    )
    bot_token: Annotated[str, AfterValidator(_check_token)]
    telegram_api: Annotated[str, AfterValidator(_check_url)] = "https://api.telegram.org"
    telegram_socket: Path = Path("/run/egress/telegram.sock")
    telegram_ca_file: Annotated[Path, AfterValidator(_check_certificates)] | None = None
    link_address: Annotated[str, AfterValidator(_check_address)]
    link_port: Port = 8080
    link_token: LinkToken
    bot_name: Annotated[str, _at_most(64)] = ""
    bot_about: Annotated[str, _at_most(120)] = ""
    bot_description: Annotated[str, _at_most(512)] = ""
    log_level: LogLevel = "INFO"

    @property
    def profile(self) -> Profile:
        """What Telegram shows of the bot."""
        return Profile(self.bot_name, self.bot_about, self.bot_description)

    @property
    def bot_id(self) -> int:
        """The bot's own user id, which its token begins with."""
        return int(self.bot_token.partition(":")[0])
