"""Makes everything that two nodes need: keys, settings and secrets, in one bundle for each.

It asks what was not given, and keeps the answers: called again, it changes what is asked for and
nothing else. It needs no root, no Docker and no network.
"""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bundle import MODEL, RELAY, ROOT, Bundle, fill_in, pack
from scripts.hop import COMPOSE_FILE as HOP_COMPOSE_FILE
from scripts.hop import BadProvider, read_provider
from scripts.keys import (
    KeysFailed,
    make_preshared_key,
    make_private_key,
    mark_of,
    public_key_of,
)

ABOUT = "make the bundles of two new nodes, or change their settings"

COULD_NOT = 1

SECRETS = (
    "relay_private_key", "model_private_key", "tunnel_preshared_key", "link_token", "store_key",
    "bot_token",
)  # fmt: skip

TOGETHER = {"LINK_PORT", "TUNNEL_ADDRESS", "TUNNEL_PEER_ADDRESS", "TUNNEL_MTU"}
"""Settings that would cut the nodes apart if they were changed at one end alone."""

LOCAL = {"SECRETS", "ENV_FILE", "COMPOSE_FILE"}

LASTING = ("store_key", "bot_token", "hop")
"""These outlive a rotation: one opens what is stored, others are BotFather's or a provider's."""

PRIVACY = """\
Before you tell anybody:
  [ ] The bot belongs to a Telegram account of its own: no real name, no photograph, and a number
      that is not yours.
  [ ] Neither the bot's name nor its texts (BOT_NAME, BOT_ABOUT, BOT_DESCRIPTION) say what it is.
  [ ] In BotFather: groups only if you want them (/setjoingroups), no inline mode.
  [ ] The VPS was paid for and is reached in a way that does not lead to you, if that matters."""


class BadAnswer(Exception):
    """An answer cannot be used; the message says what would do."""


def check_endpoint(text: str) -> str:
    host, colon, port = text.strip().partition(":")
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        raise BadAnswer("give the VPS's IPv4 address, such as 198.51.100.7") from None
    if not 1 <= int(host.partition(".")[0]) <= 223 or address.is_loopback:
        raise BadAnswer("give the address at which the VPS is reached")
    if colon and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        raise BadAnswer("give a port between 1 and 65535, such as 198.51.100.7:51820")
    return f"{address}:{int(port or 51820)}"


def check_users(text: str) -> str:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(re.fullmatch("[1-9][0-9]{0,15}", word) for word in words):
        raise BadAnswer("give Telegram user ids, such as 123456789,987654321")
    return ",".join(dict.fromkeys(words))


def check_admins(text: str) -> str:
    return check_users(text) if text.strip() else ""


def check_resolver(text: str) -> str:
    try:
        address = ipaddress.IPv4Address(text.strip())
    except ValueError:
        address = ipaddress.IPv4Address(0)
    if address.is_multicast or address.is_unspecified:
        raise BadAnswer("give the IPv4 address of a name server, such as 9.9.9.9")
    return str(address)


def check_weights(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", text):
        raise BadAnswer("give the name of the model's folder, such as Qwen3-8B")
    return text


def check_token(text: str) -> str:
    if not re.fullmatch(r"[0-9]{3,20}:[\w-]{30,}", text.strip()):
        raise BadAnswer("give the token as BotFather gave it to you, such as 123456789:AAE…")
    return text.strip()


@dataclass(frozen=True)
class Question:
    """What is asked, and what an answer is checked by."""

    name: str
    says: str
    check: Callable[[str], str]
    default: str | None = None
    """Taken for no answer; None: there must be one."""


QUESTIONS = (
    Question("vps", "The VPS's address, and the UDP port if it is not 51820", check_endpoint),
    Question(
        "users", "Who may talk to the bot: Telegram user ids, separated by commas", check_users
    ),
    Question("admins", "Which of them may let others in (none: leave it empty)", check_admins, ""),
    Question("resolver", "The name server for Telegram's address", check_resolver, "9.9.9.9"),
    Question("weights", "The folder that will hold the model", check_weights),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for question in QUESTIONS:
        parser.add_argument(f"--{question.name}", metavar="ANSWER", help=question.says)
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds the bot's token")
    parser.add_argument(
        "--hop",
        metavar="FILE",
        help="a WireGuard provider's file, for a second hop at home; `none`: without it again",
    )
    for node in ("relay", "model"):
        parser.add_argument(
            f"--{node}",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"another setting of the {node} node, out of its example; empty: as there",
        )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "nodes", help="`nodes` beside the scripts if not given"
    )
    parser.add_argument(
        "--rotate",
        action="store_true",
        help="new keys for the tunnel and a new link token; the store's key stays",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")


def run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    try:
        kept = read_kept(out)
        answers = {
            question.name: answer_to(question, getattr(arguments, question.name), kept)
            for question in QUESTIONS
        }
        if not set(answers["admins"].split(",")) <= {*answers["users"].split(","), ""}:
            raise BadAnswer(
                f"--admins {answers['admins']}: not all of them are among --users "
                f"{answers['users']}: add them there, or give other --admins"
            )
        more: dict[str, dict[str, str]] = {
            node: kept.get(node, {}) | read_settings(getattr(arguments, node))
            for node in ("relay", "model")
        }
        keys = kept.get("secrets", {})
        if not keys or arguments.rotate:
            keys = make_secrets() | {name: keys[name] for name in LASTING if name in keys}
        keys = {**keys, "bot_token": token_from(arguments.token_file, keys.get("bot_token", ""))}
        keys |= hop_from(arguments.hop)
        files = {
            "answers.json": json.dumps({**answers, **more, "secrets": keys}, indent=1).encode(),
            "relay.tar": pack(RELAY, *relay_part(answers, more["relay"], keys)),
            "model.tar": pack(MODEL, *model_part(answers, more["model"], keys)),
        }
    except (BadAnswer, KeysFailed) as why:
        print(f"{why}.", file=sys.stderr)
        return COULD_NOT
    written = write(out, files, dry_run=arguments.dry_run)
    print(summary(out, written, dry_run=arguments.dry_run))
    return 0


def read_kept(out: Path) -> dict[str, Any]:
    """What an earlier call was told and made. Raises BadAnswer where that cannot be read."""
    path = out / "answers.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(out.glob("*.tar")):
            raise BadAnswer(
                f"{path} is gone, but there are archives: new keys would not open the old store. "
                "Bring it back, or choose another folder with --out"
            ) from None
        return {}
    except (OSError, ValueError):
        kept = None
    wanted = {"secrets": SECRETS, "relay": (), "model": ()}
    if not isinstance(kept, dict) or not all(
        isinstance(kept.get(part), dict)
        and all(isinstance(value, str) for value in kept[part].values())
        and kept[part].keys() >= set(names)
        for part, names in wanted.items()
    ):
        raise BadAnswer(
            f"{path} is damaged. It holds the only copy of the store's key but for model.tar: "
            "bring it back from there or from a copy of your own"
        )
    return kept


def answer_to(question: Question, given: str | None, kept: Mapping[str, Any]) -> str:
    """The answer that was given, or kept, or is given now. Raises BadAnswer."""
    if given is not None:
        try:
            return question.check(given)
        except BadAnswer as why:
            raise BadAnswer(f"--{question.name}: {why}") from None
    if question.name in kept:
        return str(kept[question.name])
    if not sys.stdin.isatty():
        if question.default is not None:
            return question.default
        raise BadAnswer(
            f"--{question.name} is missing: {question.says[0].lower()}{question.says[1:]}"
        )
    while True:
        hint = f" [{question.default}]" if question.default else ""
        try:
            return question.check(input(f"{question.says}{hint}: ") or question.default or "")
        except BadAnswer as why:
            print(f"  {why}.")


def read_settings(words: Sequence[str]) -> dict[str, str]:
    """Take NAME=VALUE apart. Raises BadAnswer."""
    found = [re.fullmatch("([A-Z][A-Z0-9_]*)=([^\n]*)", word) for word in words]
    if None in found:
        raise BadAnswer("a setting is given as NAME=VALUE, such as LOG_LEVEL=DEBUG")
    return {match[1]: match[2] for match in found if match}


def token_from(file: Path | None, kept: str) -> str:
    """The bot's token: from its file, or kept, or typed without being shown. Raises BadAnswer."""
    if file:
        try:
            return check_token(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, BadAnswer) as why:
            raise BadAnswer(f"--token-file {file}: {why}") from None
    if kept:
        return kept
    if not sys.stdin.isatty():
        raise BadAnswer("--token-file is missing: a file with the token that BotFather gave you")
    while True:
        try:
            return check_token(getpass.getpass("The bot's token (it is not shown): "))
        except BadAnswer as why:
            print(f"  {why}.")


def hop_from(file: str | None) -> dict[str, str]:
    """The provider's file that was given, to be kept; nothing if none was. Raises BadAnswer."""
    if file is None:
        return {}
    if file == "none":
        return {"hop": ""}
    try:
        text = Path(file).read_text(encoding="utf-8")
        read_provider(text)
    except (OSError, UnicodeDecodeError, BadProvider) as why:
        raise BadAnswer(f"--hop {file}: {why}") from None
    return {"hop": text}


def make_secrets() -> dict[str, str]:
    return {
        "relay_private_key": make_private_key(),
        "model_private_key": make_private_key(),
        "tunnel_preshared_key": make_preshared_key(),
        "link_token": secrets.token_hex(32),
        "store_key": secrets.token_hex(32),
    }


def relay_part(
    answers: Mapping[str, str], more: Mapping[str, str], keys: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    users = answers["users"].split(",")
    settings = {
        "ALLOWED_USERS": ",".join(mark_of(user, keys["link_token"]) for user in users),
        "TUNNEL_PEER_KEY": public_key_of(keys["model_private_key"]),
        "TUNNEL_PORT": answers["vps"].partition(":")[2],
        "RESOLVER": answers["resolver"],
    }
    own = {"bot_token": keys["bot_token"], "tunnel_private_key": keys["relay_private_key"]}
    return fill_example(RELAY, settings, more), own | shared(keys)


def model_part(
    answers: Mapping[str, str], more: Mapping[str, str], keys: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    settings = {
        "ALLOWED_USERS": answers["users"],
        "ADMINS": answers["admins"],
        "TUNNEL_ENDPOINT": answers["vps"],
        "TUNNEL_PEER_KEY": public_key_of(keys["relay_private_key"]),
        "WEIGHTS": answers["weights"],
    }
    own = {"store_key": keys["store_key"], "tunnel_private_key": keys["model_private_key"]}
    if keys.get("hop"):
        hop_settings, hop_secrets = read_provider(keys["hop"])
        settings |= hop_settings | {"COMPOSE_FILE": f"{MODEL.compose_file}:{HOP_COMPOSE_FILE}"}
        own |= hop_secrets
    return fill_example(MODEL, settings, more), own | shared(keys)


def shared(keys: Mapping[str, str]) -> dict[str, str]:
    return {name: keys[name] for name in ("tunnel_preshared_key", "link_token")}


def fill_example(bundle: Bundle, settings: Mapping[str, str], more: Mapping[str, str]) -> str:
    """A node's settings. Raises BadAnswer for one that it does not have, or that is asked for."""
    if asked := settings.keys() & more.keys():
        raise BadAnswer(f"--{bundle.node} {min(asked)}: there is a question for that")
    if where := more.keys() & (TOGETHER | LOCAL):
        raise BadAnswer(
            f"--{bundle.node} {min(where)}: change that in .env on the nodes, where it must fit"
        )
    example = (ROOT / bundle.example).read_text(encoding="utf-8")
    try:
        return fill_in(example, {**settings, **{n: value for n, value in more.items() if value}})
    except ValueError:
        raise BadAnswer(
            f"--{bundle.node}: a value must be one line, and without single quotes"
        ) from None
    except KeyError as error:
        raise BadAnswer(
            f"--{bundle.node} {error.args[0]}: {bundle.example} does not know it"
        ) from None


def write(out: Path, files: Mapping[str, bytes], *, dry_run: bool) -> list[str]:
    """Write what differs, for this user's eyes only; returns the names of what does."""
    changed = [
        name
        for name, content in files.items()
        if not (out / name).exists() or (out / name).read_bytes() != content
    ]
    if dry_run or not changed:
        return changed
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in changed:
        part = out / f".{name}.part"
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(files[name])
            os.fsync(file.fileno())
        part.replace(out / name)
    return changed


def summary(out: Path, written: list[str], *, dry_run: bool) -> str:
    """What was done, and what is left to do."""
    if not written:
        return f"{out} is as you asked: nothing was changed."
    verb = "Would write" if dry_run else "Wrote"
    lines = [f"{verb} {', '.join(str(out / name) for name in written)}."]
    if dry_run:
        return lines[0]
    return "\n".join(
        [
            *lines,
            "",
            "Each archive holds the secrets of one node: carry it there, unpack it, delete it.",
            "As root, on the VPS:",
            "  tar -xpf relay.tar -C / && cd /opt/relay && docker compose up -d",
            "and at home:",
            "  tar -xpf model.tar -C / && cd /opt/model && docker compose up -d",
            "The VPS is too small to build its images: build them here with",
            f"  docker compose --env-file {RELAY.example} -f {RELAY.compose_file} build",
            "and carry them over: docker save node/wireguard node/egress node/relay, docker load.",
            f"{out / 'answers.json'} holds all of it: keep it where nobody else can read it.",
            "",
            PRIVACY,
        ]
    )
