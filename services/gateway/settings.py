"""The gateway's settings."""

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from services.gateway.pictures import MOST_PICTURES, PICTURE_TOKENS
from services.settings import LinkToken, LogLevel, Port, Settings, UserIds

MOST_PERSONAS = 20

MOST_MODELS = 10

PICTURES_SHARE = 0.75
"""What pictures may take of a prompt; the rest is for words."""

PERSONA_BYTES = 32
"""A name that users choose by travels in the 64 bytes of its button."""


def _check_address(value: str) -> str:
    try:
        address = ipaddress.IPv4Address(value)
    except ValueError:
        raise ValueError("give the IPv4 address of this end of the tunnel") from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError("give the one address of the tunnel, not all addresses")
    return value


def check_key(value: str) -> str:
    """Pass a store's key on. Raises ValueError."""
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


def _parse_switch(value: Any) -> bool:
    if value not in ("on", "off"):
        raise ValueError("give on or off")
    return bool(value == "on")


def _parse_shares(number: str, sentence: str) -> BeforeValidator:
    """Read `USER:NUMBER,USER:NUMBER`."""

    def parse(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        words = [word.strip() for word in value.split(",") if word.strip()]
        if not all(re.fullmatch(rf"[1-9][0-9]{{0,15}}:{number}", word) for word in words):
            raise ValueError(sentence)
        pairs = [word.split(":") for word in words]
        return {int(user): float(share) for user, share in pairs}

    return BeforeValidator(parse)


Weights = Annotated[
    dict[int, float],
    _parse_shares(
        r"(0\.[0-9]*[1-9][0-9]*|[1-9][0-9]{0,3}(\.[0-9]+)?)",
        "give user ids with a number above 0, such as 123456789:2,987654321:0.5",
    ),
]
Counts = Annotated[
    dict[int, int],
    _parse_shares(
        "[1-9][0-9]{0,4}", "give user ids with a whole number, such as 123456789:50,987654321:5"
    ),
]


def _parse_object(most: int, what: str) -> BeforeValidator:
    """Read a JSON object of names that users choose by, and what stands behind each."""
    sentence = (
        f"give a JSON object of {what}: "
        f"at most {most}, each name at most {PERSONA_BYTES} bytes long"
    )

    def parse(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            offered = json.loads(value or "{}")
            json.dumps(offered, ensure_ascii=False).encode()  # half a surrogate pair goes nowhere
        except ValueError:
            raise ValueError(sentence) from None
        if (
            not isinstance(offered, dict)
            or len(offered) > most
            or not all(isinstance(text, str) and text.strip() for text in offered.values())
            or not all(name.strip() and len(name.encode()) <= PERSONA_BYTES for name in offered)
        ):
            raise ValueError(sentence)
        return offered

    return BeforeValidator(parse)


Personas = Annotated[
    dict[str, str],
    _parse_object(
        MOST_PERSONAS, 'names and instructions, such as {"Teacher": "You are a teacher."}'
    ),
]
Models = Annotated[
    dict[str, str],
    _parse_object(
        MOST_MODELS,
        "names for users and the engine's own names of its models, such as "
        '{"Fast": "Qwen3-8B", "Thorough": "Qwen3-32B"}',
    ),
]


class GatewaySettings(Settings):
    """Each field is the environment variable of the same name in capitals."""

    SECRETS: ClassVar[frozenset[str]] = frozenset({"link_token", "store_key"})
    ABOUT_USERS: ClassVar[frozenset[str]] = frozenset(
        {"allowed_users", "admins", "user_weights", "user_limits"}
    )

    allowed_users: UserIds = Field(
        description="put the Telegram user ids that may talk to the bot into .env"
    )
    admins: UserIds = frozenset()
    listen_address: Annotated[str, AfterValidator(_check_address)]
    link_port: Port = 8080
    link_token: LinkToken
    store_file: Path = Path("/var/lib/gateway/store.db")
    store_key: Annotated[str, AfterValidator(check_key)]
    engine_socket: Path = Path("/run/engine/engine.sock")
    gpu_file: Path = Path("/run/engine/gpu")
    engine_slots: Annotated[int, _between(1, 1024)] = 16
    context_tokens: Annotated[int, _between(256, 10_000_000)] = 8192
    answer_tokens: Annotated[int, _between(16, 1_000_000)] = 1024
    system_prompt: str = "You are a helpful assistant."
    personas: Personas = Field(default_factory=dict)
    models: Models = Field(default_factory=dict)
    temperature: Annotated[float, BeforeValidator(_parse_temperature)] = 0.7
    file_characters: Annotated[int, _between(0, 1_000_000)] = 16_000
    transcriber_socket: Path | None = None
    document_bytes: Annotated[int, _between(0, 20_000_000)] = 10_000_000
    pictures: Annotated[int, _between(0, MOST_PICTURES)] = 0
    user_asks: Annotated[int, _between(1, 10_000)] = 20
    total_asks: Annotated[int, _between(1, 100_000)] = 500
    daily_asks: Annotated[int, _between(0, 1_000_000)] = 0
    daily_tokens: Annotated[int, _between(0, 999_999_999)] = 0
    minute_asks: Annotated[int, _between(0, 10_000)] = 0
    user_weights: Weights = Field(default_factory=dict)
    user_limits: Counts = Field(default_factory=dict)
    summaries: Annotated[bool, BeforeValidator(_parse_switch)] = False
    history_days: Annotated[int, _between(0, 36_500)] = 0
    engine_silence_seconds: Annotated[int, _between(1, 3600)] = 30
    log_level: LogLevel = "INFO"

    @field_validator("answer_tokens")
    @classmethod
    def _leaves_room_for_prompts(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("context_tokens", value * 2) // 2:
            raise ValueError("give at most half of CONTEXT_TOKENS")
        return value

    @field_validator("pictures")
    @classmethod
    def _leave_room_for_words(cls, value: int, info: ValidationInfo) -> int:
        known = info.data.keys() >= {"context_tokens", "answer_tokens"}
        prompt_tokens = info.data["context_tokens"] - info.data["answer_tokens"] if known else 0
        most = int(PICTURES_SHARE * prompt_tokens) // PICTURE_TOKENS
        if known and value > most:
            raise ValueError(
                f"give at most {most} with this CONTEXT_TOKENS: a picture may take {PICTURE_TOKENS}"
            )
        return value

    @field_validator("admins")
    @classmethod
    def _may_talk(cls, value: frozenset[int], info: ValidationInfo) -> frozenset[int]:
        if not value <= info.data.get("allowed_users", value):
            raise ValueError("give users who stand in ALLOWED_USERS as well")
        return value

    def public(self) -> dict[str, Any]:
        """List the settings for the log; of models their names for users alone."""
        return super().public() | {"models": ", ".join(self.models)}

    @property
    def history_seconds(self) -> int | None:
        """How long turns of conversations are kept; None: until the user forgets them."""
        return self.history_days * 86_400 or None

    @property
    def prompt_tokens(self) -> int:
        """How many tokens of the context a prompt may take."""
        return self.context_tokens - self.answer_tokens
