"""The gateway's settings."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from services.settings import LinkToken, LogLevel, Port, Settings, UserIds


def _check_address(value: str) -> str:
    try:
        address = ipaddress.IPv4Address(value)
    except ValueError:
        raise ValueError("give the IPv4 address of this end of the tunnel") from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError("give the one address of the tunnel, not all addresses")
    return value


def _check_key(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("give 64 hexadecimal digits (openssl rand -hex 32)")
    return value


def _between(low: int, high: int) -> BeforeValidator:
    def parse(value: Any) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", str(value)) or not low <= int(value) <= high:
            raise ValueError(f"give a whole number between {low} and {high}")
        return int(value)

    return BeforeValidator(parse)


def _parse_temperature(value: Any) -> float:
    if not re.fullmatch(r"[0-9](\.[0-9]+)?", str(value)) or not 0 <= float(value) <= 2:
        raise ValueError("give a number between 0 and 2")
    return float(value)


class GatewaySettings(Settings):
    """Each field is the environment variable of the same name in capitals."""

    SECRETS: ClassVar[frozenset[str]] = frozenset({"link_token", "store_key"})

    allowed_users: UserIds = Field(
        description="put the Telegram user ids that may talk to the bot into .env"
    )
    listen_address: Annotated[str, AfterValidator(_check_address)]
    link_port: Port = 8080
    link_token: LinkToken
    store_file: Path = Path("/var/lib/gateway/store.db")
    store_key: Annotated[str, AfterValidator(_check_key)]
    engine_socket: Path = Path("/run/engine/engine.sock")
    engine_slots: Annotated[int, _between(1, 1024)] = 16
    context_tokens: Annotated[int, _between(256, 10_000_000)] = 8192
    answer_tokens: Annotated[int, _between(16, 1_000_000)] = 1024
    system_prompt: str = "You are a helpful assistant."
    temperature: Annotated[float, BeforeValidator(_parse_temperature)] = 0.7
    user_asks: Annotated[int, _between(1, 10_000)] = 20
    total_asks: Annotated[int, _between(1, 100_000)] = 500
    log_level: LogLevel = "INFO"

    @field_validator("answer_tokens")
    @classmethod
    def _leaves_room_for_prompts(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("context_tokens", value * 2) // 2:
            raise ValueError("give at most half of CONTEXT_TOKENS")
        return value

    @property
    def prompt_tokens(self) -> int:
        """How many tokens of the context a prompt may take."""
        return self.context_tokens - self.answer_tokens
