"""Reads a service's settings from environment variables and secret files, or says what is wrong.

A service describes its settings as a class: the field `allowed_users` is the variable
`ALLOWED_USERS`, or, where the field is listed in the class's `SECRETS`, the file `allowed_users`
in the directory of secrets.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

SECRETS_DIRECTORY = Path("/run/secrets")


class Settings(BaseModel):
    """Settings of one service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    SECRETS: ClassVar[frozenset[str]] = frozenset()
    """The fields that are files, so that no value of theirs shows in the environment."""

    ABOUT_USERS: ClassVar[frozenset[str]] = frozenset({"allowed_users"})
    """The fields that name users: the log says how many."""

    def public(self) -> dict[str, Any]:
        """List the settings for the log, without secrets, and of users their number alone."""
        return {
            name: f"{len(value)} users" if name in self.ABOUT_USERS else str(value)
            for name, value in self.model_dump().items()
            if name not in self.SECRETS
        }


class BadSetting(Exception):
    """A setting is missing or wrong: correct it in .env (or in the secrets) and start again."""


S = TypeVar("S", bound=Settings)


def read_settings(
    kind: type[S],
    environment: Mapping[str, str] = os.environ,
    secrets: Path = SECRETS_DIRECTORY,
) -> S:
    """Read and check all settings.

    Raises BadSetting with one sentence that names the first wrong setting and the remedy.
    """
    values: dict[str, str] = {}
    for name in kind.model_fields:
        if name in kind.SECRETS:
            values[name] = _read_secret(secrets / name)
        elif environment.get(name.upper(), "") != "":
            values[name] = environment[name.upper()]
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadSetting(_sentence(kind, first)) from None


def _read_secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise BadSetting(
            f"the secret {path} cannot be read ({error.strerror}): "
            "create it, owned by the service's user, with mode 0400"
        ) from None


def _sentence(kind: type[Settings], error: Any) -> str:
    field = str(error["loc"][0])
    name = f"the secret {field}" if field in kind.SECRETS else field.upper()
    if error["type"] == "missing":
        return f"{name} is missing: {kind.model_fields[field].description or 'set it in .env'}"
    remedy = error["msg"].removeprefix("Value error, ")
    remedy = remedy[0].lower() + remedy[1:]
    shown = "is wrong" if field in kind.SECRETS else f'is "{error["input"]}"'
    return f"{name} {shown}: {remedy}"


def _parse_user_ids(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    words = [word.strip() for word in value.split(",") if word.strip()]
    if not words or not all(re.fullmatch(r"[1-9][0-9]{0,15}", word) for word in words):
        raise ValueError("give Telegram user ids, numbers separated by commas")
    return frozenset(int(word) for word in words)


UserIds = Annotated[frozenset[int], BeforeValidator(_parse_user_ids)]


def _parse_port(value: Any) -> Any:
    if not re.fullmatch(r"[0-9]{1,5}", str(value)) or not 1 <= int(value) <= 65535:
        raise ValueError("give a port between 1 and 65535")
    return int(value)


Port = Annotated[int, BeforeValidator(_parse_port)]


def _parse_level(value: Any) -> Any:
    if value not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("give DEBUG, INFO, WARNING or ERROR")
    return value


LogLevel = Annotated[str, BeforeValidator(_parse_level)]


def _parse_link_token(value: Any) -> Any:
    if not re.fullmatch(r"[A-Za-z0-9_-]{32,128}", str(value)):
        raise ValueError("give 32 to 128 letters and digits, the same on both nodes")
    return value


LinkToken = Annotated[str, BeforeValidator(_parse_link_token)]
