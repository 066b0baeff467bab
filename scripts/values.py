"""What each setting of the two nodes may be: the rules by which a node refuses it at its start.

`init` applies them before anything is carried anywhere. It cannot ask the services themselves,
which need packages; a test holds these rules against theirs, value by value.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping

Rule = Callable[[str], str]
"""What would do instead of a value, as the end of a sentence; nothing where the value will do."""

PORT_HINT = "give a port between 1 and 65535"
PUBLISHED_NETWORKS = (
    "91.108.56.0/22,91.108.4.0/22,91.108.8.0/22,91.108.16.0/22,91.108.12.0/22,149.154.160.0/20,"
    "91.105.192.0/23,91.108.20.0/22,185.76.151.0/24"
)
"""Telegram's own, as services/egress/egress has them."""

TELEGRAM = "api.telegram.org"

MOST_WORKERS = 15
ROUTER_ADDRESS = "10.67.0.1"
"""Of the first box in the tunnel to the others, as compose.gpu.router.yml has it."""


def anything(_: str) -> str:
    return ""


def whole(low: int, high: int) -> Rule:
    def rule(text: str) -> str:
        fits = re.fullmatch("[0-9]{1,9}", text) and low <= int(text) <= high
        return "" if fits else f"give a whole number between {low} and {high}"

    return rule


def matching(pattern: str, remedy: str) -> Rule:
    return lambda text: "" if re.fullmatch(pattern, text) else remedy


def one_of(*choices: str) -> Rule:
    *most, last = choices
    remedy = f"give {', '.join(most)} or {last}"
    return lambda text: "" if text in choices else remedy


def at_most(length: int) -> Rule:
    return lambda text: "" if len(text.strip()) <= length else f"give at most {length} characters"


def port(text: str) -> str:
    fits = re.fullmatch("[1-9][0-9]{0,4}", text) and int(text) <= 65535
    return "" if fits else PORT_HINT


def packet_size(text: str) -> str:
    fits = re.fullmatch("[1-9][0-9]{0,8}", text) and 1280 <= int(text) <= 9000
    remedy = "give a number of bytes between 1280 and 9000; 1420 suits most paths"
    return "" if fits else remedy


def is_destination(text: str) -> bool:
    """Whether a packet can be sent to an IPv4 address: not this host, not any, not multicast."""
    try:
        first = ipaddress.IPv4Address(text).packed[0]
    except ValueError:
        return False
    return first not in (0, 127) and first < 224


def destination(remedy: str) -> Rule:
    return lambda text: "" if is_destination(text) else remedy


def public_key(text: str) -> str:
    fits = re.fullmatch("[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", text)
    return "" if fits else "give a public key, 44 characters as `wg pubkey` prints them"


def workers(text: str) -> str:
    """`ADDRESS=KEY,ADDRESS=KEY`, as the router and its tunnel read it."""
    pairs = [peer.partition("=")[::2] for peer in listed(text)]
    addresses, keys = {address for address, _ in pairs}, {key for _, key in pairs}
    fits = (
        1 <= len(pairs) <= MOST_WORKERS
        and len(addresses) == len(keys) == len(pairs)
        and ROUTER_ADDRESS not in addresses
        and all(is_destination(address) and not public_key(key) for address, key in pairs)
    )
    remedy = "give each worker's own address and public key, such as 10.67.0.2=KEY,10.67.0.3=KEY"
    return "" if fits else remedy


def listening(text: str) -> str:
    address, _, number = text.partition(":")
    fits = is_destination(address) and not port(number)
    return "" if fits else "give this machine's address and a UDP port, such as 192.0.2.10:51821"


def is_network(text: str) -> bool:
    address, slash, length = text.partition("/")
    return bool(slash and is_destination(address) and re.fullmatch("[89]|[12][0-9]|3[0-2]", length))


def listed(text: str) -> list[str]:
    return [word for word in re.split("[, ]+", text) if word]


def networks(text: str) -> str:
    fits = listed(text) and all(is_network(word) for word in listed(text))
    remedy = "give IPv4 networks of /8 to /32, such as 149.154.160.0/20,91.108.4.0/22"
    return "" if fits else remedy


def host(text: str) -> str:
    label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    fits = re.fullmatch(rf"({label}\.)+{label}", text) and len(text) <= 253
    is_number = re.fullmatch("[0-9.]+", text)
    remedy = "give the name of the Bot API server, such as api.telegram.org"
    return "" if fits and not is_number else remedy


def temperature(text: str) -> str:
    fits = re.fullmatch(r"[0-9](\.[0-9]+)?", text) and float(text) <= 2
    return "" if fits else "give a number between 0 and 2"


def shares(number: str, remedy: str) -> Rule:
    """`USER:NUMBER,USER:NUMBER`."""

    def rule(text: str) -> str:
        words = [word.strip() for word in text.split(",") if word.strip()]
        fits = all(re.fullmatch(rf"[1-9][0-9]{{0,15}}:{number}", word) for word in words)
        return "" if fits else remedy

    return rule


NAME_BYTES = 32
"""A name that users choose by travels in the 64 bytes of its button."""


def choices(most: int, what: str) -> Rule:
    """A JSON object of names that users choose by, and what stands behind each."""
    remedy = (
        f"give a JSON object of {what}: at most {most}, each name at most {NAME_BYTES} bytes long"
    )

    def rule(text: str) -> str:
        try:
            offered = json.loads(text)
            json.dumps(offered, ensure_ascii=False).encode()
        except ValueError:
            return remedy
        fits = (
            isinstance(offered, dict)
            and len(offered) <= most
            and all(isinstance(it, str) and it.strip() for it in offered.values())
            and all(name.strip() and len(name.encode()) <= NAME_BYTES for name in offered)
        )
        return "" if fits else remedy

    return rule


LOG_LEVEL = one_of("DEBUG", "INFO", "WARNING", "ERROR")
TAG = matching(r"\w[\w.-]{0,127}", "give an image's tag, such as 0.1.0")
IMAGES = {
    "IMAGES": matching("[a-z0-9][a-z0-9._/:-]*", "give what image names begin with, such as node"),
    "VERSION": TAG,
    "BASE": anything,
    "BUILD_CA": anything,
}
TUNNEL = {
    "TUNNEL_PEER_KEY": public_key,
    "TUNNEL_ADDRESS": destination("give this node's IPv4 address inside the tunnel"),
    "TUNNEL_PEER_ADDRESS": destination("give the other node's IPv4 address inside the tunnel"),
    "TUNNEL_MTU": packet_size,
    "LINK_PORT": port,
}
MARKED_OR_NUMBERED = "([1-9][0-9]{0,15}|[0-9a-f]{32})"
USER_IDS = "give Telegram user ids, numbers separated by commas"

RELAY: Mapping[str, Rule] = {
    **TUNNEL,
    **IMAGES,
    "ALLOWED_USERS": matching(
        rf"[\s,]*{MARKED_OR_NUMBERED}(\s*,[\s,]*{MARKED_OR_NUMBERED})*[\s,]*", USER_IDS
    ),
    "RESOLVER": destination("give the IPv4 address of a name server, such as 9.9.9.9"),
    "TUNNEL_PORT": port,
    "TELEGRAM_ADDRESSES": lambda text: (
        "" if 1 <= len(listed(text)) <= 4 and all(map(is_destination, listed(text)))
        else "give one to four IPv4 addresses of the Bot API server, within TELEGRAM_NETWORKS"
    ),
    "TELEGRAM_NETWORKS": networks,
    "TELEGRAM_HOST": host,
    "TELEGRAM_PORT": port,
    "TELEGRAM_CA_FILE": anything,
    "BOT_NAME": at_most(64),
    "BOT_ABOUT": at_most(120),
    "BOT_DESCRIPTION": at_most(512),
    "LOG_LEVEL": LOG_LEVEL,
}  # fmt: skip


def relay_together(settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Settings of the relay node that do not go with each other."""
    fixed = listed(settings.get("TELEGRAM_ADDRESSES", ""))
    where = settings.get("TELEGRAM_NETWORKS", "")
    if settings.get("TELEGRAM_HOST", TELEGRAM).lower() == TELEGRAM:
        where = where or PUBLISHED_NETWORKS
    elif not fixed and not where:
        yield "TELEGRAM_HOST", "give its TELEGRAM_ADDRESSES or TELEGRAM_NETWORKS as well"
    inside = [ipaddress.IPv4Network(it, strict=False) for it in listed(where)]
    if inside and not all(
        any(ipaddress.IPv4Address(address) in network for network in inside) for address in fixed
    ):
        yield "TELEGRAM_ADDRESSES", "give addresses within TELEGRAM_NETWORKS"


MODEL: Mapping[str, Rule] = {
    **TUNNEL,
    **IMAGES,
    "ALLOWED_USERS": matching(
        r"[\s,]*[1-9][0-9]{0,15}(\s*,[\s,]*[1-9][0-9]{0,15})*[\s,]*", USER_IDS
    ),
    "ADMINS": matching(r"[\s,]*[1-9][0-9]{0,15}(\s*,[\s,]*[1-9][0-9]{0,15})*[\s,]*", USER_IDS),
    "TUNNEL_ENDPOINT": anything,
    "HOP_ENDPOINT": anything,
    "HOP_PEER_KEY": public_key,
    "HOP_ADDRESS": destination("give this node's IPv4 address within the hop"),
    "HOP_MTU": packet_size,
    "WEIGHTS": matching(
        r"[A-Za-z0-9][\w.-]{0,99}", "give the name of the model's folder, such as Qwen3-8B"
    ),
    "GGUF": anything,
    "GGUF_PROJECTOR": anything,
    "ENGINE_MEMORY": matching("(?i)[1-9][0-9]*[bkmg]?b?", "give an amount of memory, such as 2g"),
    "SYSTEM_PROMPT": anything,
    "PERSONAS": choices(20, 'names and instructions, such as {"Teacher": "You are a teacher."}'),
    "MODELS": choices(
        10, 'names for users and the engine\'s own names, such as {"Fast": "Qwen3-8B"}'
    ),
    "TEMPERATURE": temperature,
    "CONTEXT_TOKENS": whole(256, 10_000_000),
    "ANSWER_TOKENS": whole(16, 1_000_000),
    "ENGINE_SLOTS": whole(1, 1024),
    "FILE_CHARACTERS": whole(0, 1_000_000),
    "DOCUMENT_BYTES": whole(0, 20_000_000),
    "PICTURES": whole(0, 20),
    "TRANSCRIBER_SOCKET": anything,
    "USER_ASKS": whole(1, 10_000),
    "TOTAL_ASKS": whole(1, 100_000),
    "USER_LIMITS": shares(
        "[1-9][0-9]{0,4}", "give user ids with a whole number, such as 123456789:50,987654321:5"
    ),
    "USER_WEIGHTS": shares(
        r"(0\.[0-9]*[1-9][0-9]*|[1-9][0-9]{0,3}(\.[0-9]+)?)",
        "give user ids with a number above 0, such as 123456789:2,987654321:0.5",
    ),
    "DAILY_ASKS": whole(0, 1_000_000),
    "DAILY_TOKENS": whole(0, 999_999_999),
    "MINUTE_ASKS": whole(0, 10_000),
    "SUMMARIES": one_of("on", "off"),
    "HISTORY_DAYS": whole(0, 36_500),
    "ENGINE_SILENCE_SECONDS": whole(1, 3600),
    "ENGINE_FLAGS": anything,
    "GPU_COUNT": whole(1, 64),
    "GPU_COPIES": whole(1, 64),
    "GPU_STAGES": whole(1, 64),
    "WORKERS": workers,
    "WORKERS_LISTEN": listening,
    "TOTAL_SLOTS": whole(1, 1024),
    "QUANTIZATION": matching("[A-Za-z0-9_.-]+", "give a method of vLLM's, such as fp8"),
    "KV_CACHE": matching("[A-Za-z0-9_.-]+", "give auto or fp8"),
    "BATCH_TOKENS": whole(256, 1_048_576),
    "GPU_MEMORY": matching(
        r"0\.([1-9][0-9]?|[1-9])", "give a share of the GPU's memory between 0.1 and 0.99"
    ),
    "VLLM_VERSION": TAG,
    "LOG_LEVEL": LOG_LEVEL,
    "BASE_PY311": anything,
    "PIP_EXTRA_INDEX_URL": anything,
    "WHEELS": anything,
}

OF_ENGINES = (
    "WEIGHTS", "CONTEXT_TOKENS", "ENGINE_SLOTS", "ENGINE_FLAGS", "GPU_COUNT", "GPU_COPIES",
    "GPU_STAGES", "GPU_MEMORY", "BATCH_TOKENS", "QUANTIZATION", "KV_CACHE", "VLLM_VERSION",
)  # fmt: skip
"""Settings that workers have as the first model node has them, unless they are told otherwise."""

WORKER: Mapping[str, Rule] = {
    **IMAGES,
    **{name: MODEL[name] for name in OF_ENGINES},
    **{name: TUNNEL[name] for name in ("TUNNEL_PEER_KEY", "TUNNEL_ADDRESS", "TUNNEL_MTU")},
    "TUNNEL_ENDPOINT": anything,
}

PICTURE_TOKENS = 1433
PICTURES_SHARE = 0.75
"""What pictures may take of a prompt, as in services/gateway/settings.py."""


def model_together(settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Settings of the model node that do not go with each other."""
    context, answer = int(settings["CONTEXT_TOKENS"]), int(settings["ANSWER_TOKENS"])
    if answer > context // 2:
        yield "ANSWER_TOKENS", f"give at most half of CONTEXT_TOKENS, which is {context}"
        return
    most = int(PICTURES_SHARE * (context - answer)) // PICTURE_TOKENS
    if int(settings["PICTURES"]) > most:
        yield (
            "PICTURES",
            (
                f"give at most {most} with CONTEXT_TOKENS {context}: "
                f"a picture may take {PICTURE_TOKENS}"
            ),
        )
    yield from worker_together(settings)


def worker_together(settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Settings of a worker that do not go with each other."""
    copies, stages = int(settings["GPU_COPIES"]), int(settings["GPU_STAGES"])
    if int(settings["GPU_COUNT"]) % (copies * stages):
        yield (
            "GPU_COUNT",
            f"give a multiple of GPU_COPIES ({copies}) times GPU_STAGES ({stages})",
        )


RULES = {
    "relay": (RELAY, relay_together),
    "model": (MODEL, model_together),
    "worker": (WORKER, worker_together),
}
"""By node: the rule of each setting, and of those that belong together."""


def refusals(
    node: str, given: Mapping[str, str], defaults: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Each setting that a node would refuse, and what would do. An empty one means its default."""
    rules, together = RULES[node]
    settings = {**defaults, **{name: value for name, value in given.items() if value}}
    alone = [
        (name, rules.get(name, anything)(value))
        for name, value in settings.items()
        if name in given
    ]
    wrong = [(name, remedy) for name, remedy in alone if remedy]
    yield from wrong or together(settings)
