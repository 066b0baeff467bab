"""Makes everything that two nodes need: keys, settings and secrets, in one bundle for each.

It asks what was not given, and keeps the answers: called again, it changes what is asked for and
nothing else. It needs no root, no Docker and no network. With --node it makes one node's bundle
without its private keys: these are then made on the node itself, and never leave it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import ipaddress
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bundle import MODEL, RELAY, ROOT, WORKER, defaults, fill_in, images, pack
from scripts.hop import COMPOSE_FILE as HOP_COMPOSE_FILE
from scripts.hop import BadProvider, read_provider
from scripts.journal.setup import overlays_of
from scripts.keys import (
    KeysFailed,
    make_preshared_key,
    make_private_key,
    mark_of,
    public_key_of,
)
from scripts.lifecycle.lock import FILE, OVERLAYS, PASSPHRASE, TPM
from scripts.values import is_destination, public_key, refusals
from scripts.workers import COMPOSE_FILE as ROUTER_COMPOSE_FILE
from scripts.workers import (
    OF_FIRST,
    BadWorkers,
    numbers_of,
    own_of_worker,
    secrets_of_worker,
    settings_of_first,
    settings_of_worker,
    with_keys,
    workers_from,
)

ABOUT = "make the bundles of two new nodes, or change their settings"

EXIT_STATUS = {
    0: "the bundles are written, or were right already",
    1: "an answer is missing or would be refused by a node: nothing was written",
}
FILES = {
    "nodes/answers.json": "answers and all secrets, 0600: keep it secret, and keep it",
    "nodes/relay.tar, nodes/model.tar": "the bundles, 0600",
    "shared.json": "with --node: what both nodes must have; secret",
}

COULD_NOT = 1

SECRETS = (
    "relay_private_key", "model_private_key", "tunnel_preshared_key", "link_token", "store_key",
    "bot_token",
)  # fmt: skip

SHARED = ("tunnel_preshared_key", "link_token")
"""What both nodes have; everything else is one node's own."""

KEPT = {"": SECRETS, "relay": (*SHARED, "bot_token"), "model": SHARED}
"""The secrets that answers.json holds, by the one node that it is about; "": by both."""

BOTH = ("LINK_PORT", "TUNNEL_MTU")
"""Settings that are the same on both nodes, and would cut them apart at one end alone."""

LOCAL = {"SECRETS", "ENV_FILE", "COMPOSE_FILE", "TUNNEL_ADDRESS", "TUNNEL_PEER_ADDRESS"}

BUNDLES = {"relay": RELAY, "model": MODEL}

FURTHER = "compose"
"""The folder in a bundle for Compose files of the operator's."""

LASTING = ("store_key", "store_lock", "bot_token", "hop", "logs", "workers")
"""These outlive a rotation: one opens what is stored, others are BotFather's or a provider's; where
logs go, what opens the store and how many workers there are is no secret, and kept with them."""

PRIVACY = """\
Before you tell anybody:
  [ ] The bot belongs to a Telegram account of its own: no real name, no photograph, and a number
      that is not yours, which it shows to nobody. Two-step verification is on.
  [ ] Neither the bot's @name and picture nor its texts (BOT_NAME, BOT_ABOUT, BOT_DESCRIPTION) say
      what it is, or whose.
  [ ] In BotFather: groups only if you want them (/setjoingroups), no inline mode.
  [ ] The VPS was paid for and is reached in a way that does not lead to you, if that matters:
      `init --proxy 127.0.0.1:9050` makes `deploy` go through Tor, or through Mullvad's proxy."""


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
    if not is_destination(text.strip()):
        raise BadAnswer("give the IPv4 address of a name server, such as 9.9.9.9")
    return text.strip()


def check_proxy(text: str) -> str:
    """An address and no name: whoever looks a name up is not hidden."""
    host, _, port = text.strip().rpartition(":")
    if text.strip() in ("", "none"):
        return ""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        address = None
    if not address or not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise BadAnswer("give the SOCKS5 proxy's address and port, such as 127.0.0.1:9050, or none")
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


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
    nodes: tuple[str, ...] = ("relay", "model")
    """Whose bundle the answer goes into."""


QUESTIONS = (
    Question("vps", "The VPS's address, and the UDP port if it is not 51820", check_endpoint),
    Question(
        "users", "Who may talk to the bot: Telegram user ids, separated by commas", check_users
    ),
    Question(
        "admins",
        "Which of them may let others in (none: leave it empty)",
        check_admins,
        "",
        ("model",),
    ),
    Question(
        "resolver",
        "The name server for Telegram's address",
        check_resolver,
        "9.9.9.9",
        ("relay",),
    ),
    Question("weights", "The folder that will hold the model", check_weights, None, ("model",)),
    Question(
        "proxy",
        "The SOCKS5 proxy that `deploy` reaches the hosts through, such as Tor's 127.0.0.1:9050 "
        "(none: leave it empty)",
        check_proxy,
        "",
    ),
)

EXAMPLES = """\
examples:
  init --vps 198.51.100.7 --users 123456789 --weights Qwen3-8B --token-file token
  init --users 123456789,987654321        another user, and nothing else
  init --model HISTORY_DAYS=30            another setting; --model HISTORY_DAYS= takes it back
  init --rotate                           new keys for the tunnel, and a new link token
  init --store-key passphrase             the store opens after each start by `unlock` alone
  init --node model --out home …          one node alone, whose private keys are made on it
  init --workers 2 --workers-listen 192.0.2.10:51821    two further boxes with GPUs
  init --compose model=services/engine/llamacpp.yml     a model node without a GPU
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for question in QUESTIONS:
        parser.add_argument(f"--{question.name}", metavar="ANSWER", help=question.says)
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds the bot's token")
    parser.add_argument(
        "--hop",
        metavar="FILE",
        help="a WireGuard provider's file, for a second hop at home; `none`: without it again",
    )
    parser.add_argument(
        "--logs",
        choices=("journal", "files"),
        help="where the containers' logs go: to the host's journal, which `logs seal` seals, or to "
        "files of Docker's, as at first",
    )
    parser.add_argument(
        "--store-key",
        choices=(FILE, PASSPHRASE, TPM),
        help="what opens the store at home when the machine starts: a file beside it, as at first; "
        "a passphrase (`node-admin unlock`); or the machine's TPM",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        help="further boxes with GPUs, which answer for the model node (docs/scaling.md); 0: none",
    )
    parser.add_argument(
        "--workers-listen",
        metavar="ADDRESS:PORT",
        help="where they call it: its address in the network that it shares with them, a UDP port",
    )
    for node in ("relay", "model", "worker", "both"):
        of = f"the {node} node, out of its example" if node != "both" else " and ".join(BOTH)
        of = "all workers, which else have the model node's" if node == "worker" else of
        parser.add_argument(
            f"--{node}",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"another setting of {of}; empty: as there",
        )
    parser.add_argument(
        "--compose",
        action="append",
        default=[],
        metavar="NODE=FILE",
        help="a Compose file on top of the node's own, kept from then on; may be repeated; "
        "NODE= alone takes back what was given for that node",
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "nodes", help="`nodes` beside the scripts if not given"
    )
    parser.add_argument(
        "--rotate",
        action="store_true",
        help="new keys for the tunnel and a new link token; the store's key stays",
    )
    alone = parser.add_argument_group("one node alone", "Its private keys are made on it.")
    alone.add_argument("--node", choices=sorted(BUNDLES), help="whose bundle is made")
    alone.add_argument(
        "--peer-key", metavar="KEY", help="the other node's public key, as its `keys` shows it"
    )
    alone.add_argument(
        "--shared",
        type=Path,
        metavar="FILE",
        help="what both nodes must have (shared.json), as it was made for the other one",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")


def run(arguments: argparse.Namespace) -> int:
    try:
        with held(arguments.out, dry_run=arguments.dry_run):
            return make(arguments)
    except BadAnswer as why:
        print(f"{why}.", file=sys.stderr)
        return COULD_NOT


@contextlib.contextmanager
def held(out: Path, *, dry_run: bool) -> Iterator[None]:
    """Keep a second call from making other keys meanwhile. Raises BadAnswer."""
    if dry_run:
        yield
        return
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BadAnswer(f"--out {out}: {error.strerror}: give another folder") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise BadAnswer(f"another call is changing {out}: wait for its end") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            out.rmdir()  # where nothing was written
        os.close(folder)


def make(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    try:
        kept = read_kept(out)
        node = node_alone(arguments, kept)
        answers = answers_of(arguments, node, kept)
        more: dict[str, dict[str, str]] = {
            part: kept.get(part, {}) | read_settings(getattr(arguments, part))
            for part in ("relay", "model", "worker", "both")
        }
        keys = secrets_of(arguments, node, kept)
        keys = keys | hop_from(arguments.hop)
        keys = keys | ({"logs": arguments.logs} if arguments.logs else {})
        keys = lock_from(arguments.store_key, keys, is_first=not kept)
        keys = with_keys(keys | workers_asked(arguments, node, keys))
        compose = compose_from(arguments.compose, node, kept.get("compose", {}))
        peer_key = check_peer_key(arguments.peer_key or str(kept.get("peer_key", "")))
        alone = {"node": node, "peer_key": peer_key} if node else {}
        files = {
            "answers.json": as_json(
                {**answers, **more, **alone, "compose": compose, "secrets": keys}
            ),
            **{
                f"{name}.tar": archive(name, answers, more, keys, peer_key, compose.get(name, {}))
                for name in ([node] if node else BUNDLES)
            },
            **{
                f"worker{number}.tar": worker_archive(number, answers, more, keys)
                for number in numbers_of(keys.get("workers", ""))
            },
        }
        if node:
            files["shared.json"] = as_json({name: keys[name] for name in SHARED})
    except (BadAnswer, KeysFailed) as why:
        print(f"{why}.", file=sys.stderr)
        return COULD_NOT
    written = write(out, files, dry_run=arguments.dry_run)
    if not arguments.dry_run:
        for gone in (it for it in out.glob("worker*.tar") if it.name not in files):
            gone.unlink()
    print(summary(out, written, dry_run=arguments.dry_run))
    if written and not arguments.dry_run:
        occasion = Occasion(
            is_first=not kept,
            is_rotation=arguments.rotate,
            has_new_token=keys.get("bot_token") != kept.get("secrets", {}).get("bot_token"),
            takes_shared=bool(arguments.shared),
            lock=keys.get("store_lock", FILE),
            has_new_lock=keys.get("store_lock") != kept.get("secrets", {}).get("store_lock"),
            has_copy="store_key" in keys,
        )
        given = {name: value for name, value in more["relay"].items() if value}
        settings = {**defaults(RELAY), **given}
        print(next_steps(out, written, occasion, node, peer_key, images(RELAY, settings)))
    return 0


def as_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


def node_alone(arguments: argparse.Namespace, kept: Mapping[str, Any]) -> str:
    """The one node that this folder is about; nothing where it is about both. Raises BadAnswer."""
    node = str(kept.get("node", "") if kept else arguments.node or "")
    if arguments.node and arguments.node != node:
        whose = f"the {node} node" if node else "both nodes"
        raise BadAnswer(f"{arguments.out} is about {whose}: give another folder with --out")
    if not node and (arguments.peer_key or arguments.shared):
        raise BadAnswer("--peer-key and --shared are for one node alone: give --node as well")
    return node


def answers_of(arguments: argparse.Namespace, node: str, kept: Mapping[str, Any]) -> dict[str, str]:
    """Every answer that the bundles need, checked. Raises BadAnswer."""
    answers = {
        question.name: answer_to(question, getattr(arguments, question.name), kept)
        for question in QUESTIONS
        if not node or node in question.nodes
    }
    if not set(answers.get("admins", "").split(",")) <= {*answers["users"].split(","), ""}:
        raise BadAnswer(
            f"--admins {answers['admins']}: not all of them are among --users "
            f"{answers['users']}: add them there, or give other --admins"
        )
    return answers


def secrets_of(arguments: argparse.Namespace, node: str, kept: Mapping[str, Any]) -> dict[str, str]:
    """The secrets that were kept, that are given, and that are made now. Raises BadAnswer."""
    before: dict[str, str] = kept.get("secrets", {})
    keys = before
    if not keys or arguments.rotate:
        made = make_secrets()
        lasting = {name: before[name] for name in LASTING if name in before}
        if before:  # what lasts and is not here is on its node alone
            made = {name: it for name, it in made.items() if name not in LASTING}
        keys = {name: made[name] for name in KEPT[node] if name in made} | lasting
    if arguments.shared:
        keys = keys | read_shared(arguments.shared)
    if "bot_token" not in KEPT[node]:
        return keys
    return {**keys, "bot_token": token_from(arguments.token_file, keys.get("bot_token", ""))}


def read_shared(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        shared = {name: found[name] for name in SHARED}
        if not all(isinstance(value, str) and value for value in shared.values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise BadAnswer(
            f"--shared {file}: give the shared.json that `init --node` wrote for the other node"
        ) from None
    return shared


def check_peer_key(key: str) -> str:
    if key and (remedy := public_key(key)):
        raise BadAnswer(f"--peer-key: {remedy}")
    return key


def read_kept(out: Path) -> dict[str, Any]:
    """What an earlier call was told and made. Raises BadAnswer where that cannot be read."""
    path = out / "answers.json"
    try:
        kept: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(out.glob("*.tar")):
            raise BadAnswer(
                f"{path} is gone, but there are archives: new keys would not open the old store. "
                "Bring it back, or choose another folder with --out"
            ) from None
        return {}
    except (OSError, ValueError):
        kept = None
    node = str(kept.get("node", "")) if isinstance(kept, dict) else "damaged"
    wanted = {"secrets": KEPT.get(node, ()), "relay": (), "model": ()}
    files = kept.get("compose", {}) if isinstance(kept, dict) else {}
    is_whole = isinstance(files, dict) and all(isinstance(it, dict) for it in files.values())
    if isinstance(kept, dict) and "store_lock" in (kept.get("secrets") or {}):
        wanted["secrets"] = tuple(name for name in wanted["secrets"] if name != "store_key")
    if not (is_whole and node in KEPT) or not all(
        isinstance(kept.get(part), dict)
        and all(isinstance(value, str) for value in kept[part].values())
        and kept[part].keys() >= set(names)
        for part, names in wanted.items()
    ):
        raise BadAnswer(
            f"{path} is damaged. It holds the only copy of the store's key but for model.tar: "
            "bring it back from there or from a copy of your own"
        )
    return dict(kept)


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


def lock_from(lock: str | None, keys: dict[str, str], *, is_first: bool) -> dict[str, str]:
    """The secrets, with what is to open the store; a key that is made on the node is not here."""
    if lock is None or (lock == FILE and "store_lock" not in keys):
        return keys
    left = {name: it for name, it in keys.items() if not (is_first and name == "store_key")}
    return {**left, "store_lock": lock}


def workers_asked(
    arguments: argparse.Namespace, node: str, keys: Mapping[str, str]
) -> dict[str, str]:
    """How many workers there are and where they call, to be kept. Raises BadAnswer."""
    if arguments.workers is None and arguments.workers_listen is None:
        return {}
    if node:
        raise BadAnswer(
            "--workers is for both nodes together: for one alone make the keys by hand, as "
            "docs/scaling.md says"
        )
    try:
        kept = keys.get("workers", "")
        return {"workers": workers_from(arguments.workers, arguments.workers_listen, kept)}
    except BadWorkers as why:
        raise BadAnswer(str(why)) from None


def compose_from(
    words: Sequence[str], node: str, kept: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Each node's further Compose files by name, as kept and as given now. Raises BadAnswer."""
    found = {name: dict(files) for name, files in kept.items()}
    for word in words:
        name, _, file = word.partition("=")
        if name not in ([node] if node else BUNDLES):
            raise BadAnswer(f"--compose {word}: give it as NODE=FILE, such as model=own.yml")
        if not file:
            found.pop(name, None)
            continue
        path = Path(file)
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.ya?ml", path.name):
            raise BadAnswer(f"--compose {word}: give a file whose name is like own.yml")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as why:
            raise BadAnswer(f"--compose {word}: {why}") from None
        found.setdefault(name, {})[path.name] = text
    return found


def make_secrets() -> dict[str, str]:
    return {
        "relay_private_key": make_private_key(),
        "model_private_key": make_private_key(),
        "tunnel_preshared_key": make_preshared_key(),
        "link_token": secrets.token_hex(32),
        "store_key": secrets.token_hex(32),
    }


def archive(
    node: str,
    answers: Mapping[str, str],
    more: Mapping[str, Mapping[str, str]],
    keys: Mapping[str, str],
    peer_key: str,
    compose: Mapping[str, str],
) -> bytes:
    """One node's bundle; without the private keys that are not in `keys`. Raises BadAnswer.

    `compose` are further Compose files by name, on top of all others.
    """
    settings, names = (relay_part if node == "relay" else model_part)(answers, keys, peer_key)
    if node == "model" and keys.get("workers"):
        settings |= settings_of_first(keys, more["model"], defaults(MODEL)["ENGINE_SLOTS"])
        before = settings.get("COMPOSE_FILE", MODEL.compose_file)
        settings["COMPOSE_FILE"] = f"{before}:{ROUTER_COMPOSE_FILE}"
        names = (*names, *OF_FIRST)
    settings |= with_journal(settings, keys, BUNDLES[node].compose_file)
    further = {f"{FURTHER}/{name}": text for name, text in compose.items()}
    if further:
        before = settings.get("COMPOSE_FILE", BUNDLES[node].compose_file)
        settings["COMPOSE_FILE"] = ":".join([before, *further])
    own = {"tunnel_private_key": f"{node}_private_key"} | {name: name for name in names}
    found = {name: keys[key] for name, key in own.items() if key in keys}
    shared = {name: keys[name] for name in SHARED}
    hop = read_provider(keys["hop"])[1] if node == "model" and keys.get("hop") else {}
    return pack(BUNDLES[node], fill_example(node, settings, more), found | shared | hop, further)


def worker_archive(
    number: int,
    answers: Mapping[str, str],
    more: Mapping[str, Mapping[str, str]],
    keys: Mapping[str, str],
) -> bytes:
    """A worker's bundle. Raises BadAnswer."""
    settings = {**settings_of_worker(keys, number), "WEIGHTS": answers["weights"]}
    settings |= with_journal(settings, keys, WORKER.compose_file)
    own = {"worker": own_of_worker(more["model"], more["worker"]), "both": {}}
    return pack(WORKER, fill_example("worker", settings, own), secrets_of_worker(keys, number))


def with_journal(
    settings: Mapping[str, str], keys: Mapping[str, str], compose_file: str
) -> dict[str, str]:
    """The Compose files, with those that give containers' output to the journal, if asked for."""
    if keys.get("logs") != "journal":
        return {}
    files = settings.get("COMPOSE_FILE", compose_file).split(":")
    return {"COMPOSE_FILE": ":".join([*files, *overlays_of(files, ROOT)])}


def relay_part(
    answers: Mapping[str, str], keys: Mapping[str, str], peer_key: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The relay node's settings, and the secrets that it has for itself."""
    users = answers["users"].split(",")
    settings = {
        "ALLOWED_USERS": ",".join(mark_of(user, keys["link_token"]) for user in users),
        "TUNNEL_PEER_KEY": peer_key_of(keys, "model", peer_key),
        "TUNNEL_PORT": answers["vps"].partition(":")[2],
        "RESOLVER": answers["resolver"],
    }
    return settings, ("bot_token",)


def model_part(
    answers: Mapping[str, str], keys: Mapping[str, str], peer_key: str
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The model node's settings, and the secrets that it has for itself."""
    settings = {
        "ALLOWED_USERS": answers["users"],
        "ADMINS": answers["admins"],
        "TUNNEL_ENDPOINT": answers["vps"],
        "TUNNEL_PEER_KEY": peer_key_of(keys, "relay", peer_key),
        "WEIGHTS": answers["weights"],
    }
    if keys.get("hop"):
        settings |= read_provider(keys["hop"])[0]
        settings["COMPOSE_FILE"] = f"{MODEL.compose_file}:{HOP_COMPOSE_FILE}"
    if overlay := OVERLAYS.get(keys.get("store_lock", FILE)):
        files = settings.get("COMPOSE_FILE", MODEL.compose_file)
        settings["COMPOSE_FILE"] = f"{files}:{MODEL.compose_file.removesuffix('.yml')}{overlay}"
        return settings, ()
    return settings, ("store_key",)


UNKNOWN_KEY = "not-known-yet"
"""What stands for the other node's public key; the tunnel refuses it, and says what to give."""


def peer_key_of(keys: Mapping[str, str], other: str, peer_key: str) -> str:
    private = keys.get(f"{other}_private_key")
    return public_key_of(private) if private else peer_key or UNKNOWN_KEY


def fill_example(
    node: str, settings: Mapping[str, str], more: Mapping[str, Mapping[str, str]]
) -> str:
    """A node's settings. Raises BadAnswer for one that it does not have, or would refuse."""
    bundle, own = {**BUNDLES, "worker": WORKER}[node], more[node]
    if asked := settings.keys() & own.keys():
        raise BadAnswer(f"--{node} {min(asked)}: there is a question for that")
    if (where := own.keys() & {*BOTH}) and node in BUNDLES:
        raise BadAnswer(f"--{node} {min(where)}: give it with --both, for it must fit")
    if odd := more["both"].keys() - {*BOTH}:
        raise BadAnswer(f"--both {min(odd)}: give it with --relay or --model, or with both")
    if where := own.keys() & LOCAL:
        raise BadAnswer(
            f"--{node} {min(where)}: change that in .env on the nodes, where it must fit"
        )
    given = {name: value for name, value in {**own, **more["both"]}.items() if value}
    example = (ROOT / bundle.example).read_text(encoding="utf-8")
    try:
        filled = fill_in(example, {**settings, **given})
    except ValueError:
        raise BadAnswer(f"--{node}: a value must be one line, and without single quotes") from None
    except KeyError as error:
        raise BadAnswer(f"--{node} {error.args[0]}: {bundle.example} does not know it") from None
    for name, remedy in refusals(node, given, defaults(bundle)):
        part = "both" if name in more["both"] else node
        value = given.get(name, defaults(bundle)[name])
        raise BadAnswer(f"--{part} {name}={value}: {remedy}")
    return filled


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
    """What was done."""
    if not written:
        return f"{out} is as you asked: nothing was changed."
    verb = "Would write" if dry_run else "Wrote"
    return f"{verb} {', '.join(str(out / name) for name in written)}."


@dataclass(frozen=True)
class Occasion:
    """Why the bundles were written: what is left to do depends on it."""

    is_first: bool
    is_rotation: bool
    has_new_token: bool
    takes_shared: bool
    lock: str = FILE
    """What opens the store."""
    has_new_lock: bool = False
    has_copy: bool = False
    """Whether the store's key is kept here."""

    @property
    def changes_secrets(self) -> bool:
        """Compose does not see that a secret's content has changed."""
        return self.is_rotation or self.has_new_token or self.takes_shared


def next_steps(
    out: Path,
    written: list[str],
    occasion: Occasion,
    node: str,
    peer_key: str,
    relay_images: Sequence[str],
) -> str:
    """What is left to do, and no more than that."""
    archives = [name.removesuffix(".tar") for name in written if name.endswith(".tar")]
    lines: list[str] = []
    if archives:
        lines += ["", *carrying(archives, occasion, makes_keys=bool(node))]
    if occasion.is_rotation and not node:
        lines += ["First at home, then on the VPS: until both have it, messages wait at Telegram."]
    if occasion.is_first and "relay" in archives:
        lines += [
            "The VPS is too small to build its images: `deploy relay HOST --images` builds them",
            "here and sends them, or by hand:",
            f"  docker compose --env-file {RELAY.example} -f {RELAY.compose_file} build",
            f"  docker save {' '.join(relay_images)} | ssh root@VPS docker load",
        ]
    if "model" in archives and occasion.has_new_lock:
        lines += ["", *of_the_lock(out, occasion)]
    if node and archives:
        lines += ["", *of_one_node(out, node, occasion, peer_key)]
    if occasion.is_first:
        lines += [f"{out / 'answers.json'} holds what was made here: keep it where nobody else"]
        lines += ["can read it.", "", PRIVACY]
    return "\n".join(lines) if lines else "No bundle has changed: nothing is to be carried."


def carrying(nodes: Sequence[str], occasion: Occasion, *, makes_keys: bool) -> list[str]:
    """How bundles get to their nodes, by hand and by `deploy`; at a rotation home comes first."""
    lines = ["An archive holds the secrets of one node: carry it there, unpack it, delete it."]
    anew = " --force-recreate" if occasion.changes_secrets and not occasion.is_first else ""
    renew = " --renew" if occasion.is_rotation else ""
    keys = f"scripts/node-admin keys{renew} && " if makes_keys else ""
    before = "scripts/node-admin unlock --unattended && " if occasion.lock != FILE else ""
    after = " && scripts/node-admin unlock" if occasion.lock == PASSPHRASE else ""
    for node in sorted(nodes, reverse=not occasion.is_rotation):
        home = "worker" if is_worker(node) else node
        where = {"relay": "on the VPS", "worker": f"on {node.replace('worker', 'worker ')}"}
        lines += [
            f"As root, {where.get(home, 'at home')}:",
            f"  tar -xpf {node}.tar -C / && cd /opt/{home} && {keys}"
            f"{before if node == 'model' else ''}docker compose up -d{anew}"
            f"{after if node == 'model' else ''}",
        ]
    *others, last = (f"`deploy {node} HOST`" for node in sorted(nodes))
    calls = f"{', '.join(others)} and {last} do" if others else f"{last} does"
    return [*lines, f"{calls} so over SSH."]


def is_worker(node: str) -> bool:
    return node not in BUNDLES


def of_the_lock(out: Path, occasion: Occasion) -> list[str]:
    """What a change of what opens the store leaves to do."""
    if occasion.lock == FILE:
        lines = ["The store's key is to be a file again, secrets/store_key of the node at home."]
        if not occasion.has_copy:
            lines += [
                "It is not here: while the store is open, and before the bundle is started there,",
                "  install -m 0400 -o 10003 /run/node-key/store_key /opt/model/secrets/store_key",
            ]
        return lines
    lines = ["The store's key will be on no disk at home but wrapped: `scripts/node-admin unlock`"]
    lines += ["opens the store there after each start of the machine."]
    if occasion.lock == TPM:
        lines = ["The store's key will be on no disk at home but sealed by the machine's TPM."]
        lines += ["Make a backup at once: without it a broken board loses the conversations."]
    if occasion.has_copy:
        lines += [
            f"{out / 'answers.json'} still has a copy of it (`store_key`), and so have older",
            "archives and backups: once the node has opened its store, delete that line there.",
        ]
    return lines


def of_one_node(out: Path, node: str, occasion: Occasion, peer_key: str) -> list[str]:
    """What the other node must have of this one, and this one of it."""
    other = "model" if node == "relay" else "relay"
    lines = ["`keys` makes the private keys there and shows the public one: it is the --peer-key"]
    lines += [f"of the {other} node."]
    if not peer_key:
        lines += [f"Until this `init` gets that node's own --peer-key, the {node} node starts no"]
        lines += ["tunnel."]
    if not occasion.takes_shared:
        lines += [f"{out / 'shared.json'} holds what both nodes must have, the preshared key and"]
        lines += [
            "the link token. It is secret: take it to where the other bundle is made by a way"
        ]
        lines += [
            f"that you trust, give it to `init --node {other} --shared FILE` there, delete it."
        ]
    return lines
