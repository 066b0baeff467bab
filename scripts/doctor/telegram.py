"""Checks that Telegram answers and that updates do not wait: for the node that asks for them."""

from __future__ import annotations

import json
from collections.abc import Iterator

from scripts.doctor.finding import (
    Check,
    Finding,
    could_not_look,
    failure,
    not_applicable,
    ok,
    warning,
)
from scripts.doctor.states import moment
from scripts.node.node import Container, Node

SIGN = "/tmp/polls"
"""Written by the relay, on its tmpfs: when Telegram answered last, how many updates wait."""
SILENT_SECONDS = 120  # a long poll takes up to 50 s, a failed one is repeated within seconds
LAG_SECONDS = 60
RECENT = "10m"

SILENT = failure(
    "telegram-silent",
    "Telegram has not answered for {age} s.",
    "Check this machine's internet connection, RESOLVER and TELEGRAM_NETWORKS; "
    "`docker logs {egress}` tells what fails on the way.",
)
NEVER = failure(
    "telegram-never",
    "Telegram has not answered since the relay was started.",
    "Check this machine's internet connection, RESOLVER, TELEGRAM_NETWORKS and the bot token; "
    "`docker logs {name}` tells what fails.",
)
TROUBLED = warning(
    "telegram-troubled",
    "Telegram could not be reached {count} times within the last 10 minutes; it answers now.",
    "Look again in a while; if it goes on, check RESOLVER and this machine's connection.",
)
RIVAL = failure(
    "another-poller",
    "Another program asks Telegram for this bot's updates.",
    "Stop the other one; if you do not know it, give the bot a new token (BotFather, /revoke) and "
    "put it into bot_token.",
)
WAITING = warning(
    "updates-wait",
    "{count} updates wait with Telegram, for {age} s now: the other node does not take them.",
    "Start the other node, or look there; Telegram keeps updates for 24 hours.",
)


def look(node: Node) -> Iterator[Finding]:
    relay = node.running.get(node.kind.mark)
    if relay is None:
        yield not_applicable(f"{node.kind.mark} does not run.")
        return
    sign = sign_of(node, relay)
    now = node.tools.now()
    actions = recent_actions(node, relay)
    if "another poller" in actions:
        yield RIVAL.found()
    if sign is None:
        yield could_not_look("This relay leaves no sign of its polls: its image is an older one.")
        return
    answered = sign.get("answered_at", 0)
    egress = node.containers["egress"].name if "egress" in node.containers else "egress"
    started = moment(str(relay.raw["State"]["StartedAt"]))
    if not answered and now - started <= SILENT_SECONDS:
        yield could_not_look("The relay was only just started; look again in two minutes.")
    elif not answered:
        yield NEVER.found(name=relay.name)
    elif now - answered > SILENT_SECONDS:
        yield SILENT.found(age=round(now - answered), egress=egress)
    elif "telegram unreachable" in actions:
        yield TROUBLED.found(count=actions.count("telegram unreachable"))
    else:
        yield ok(f"Telegram answered {max(0, round(now - answered))} s ago.")
    waiting, since = sign.get("waiting", 0), sign.get("waiting_since", 0)
    if waiting and now - since > LAG_SECONDS:
        yield WAITING.found(count=waiting, age=round(now - since))
    elif answered:
        yield ok("No update waits.")


def sign_of(node: Node, relay: Container) -> dict[str, int] | None:
    # By its own `cat`, whose end is awaited for a while only: the relay chooses what the file is.
    said = node.execute(relay, "cat", SIGN)
    if said.code != 0:
        return None
    pairs = [line.split("=", 1) for line in said.out.splitlines() if "=" in line]
    return {name: int(value) for name, value in pairs if value.isdigit()}


def recent_actions(node: Node, relay: Container) -> list[str]:
    """What the relay has logged lately: the names of events."""
    said = node.tools.run("docker", "logs", "--since", RECENT, relay.id)
    found = []
    for line in (said.out + said.err).splitlines():
        try:
            found.append(str(json.loads(line).get("action")))
        except (ValueError, AttributeError):
            continue
    return found


CHECK = Check(
    "telegram",
    "On the relay node: when Telegram answered last, whether another program asks for the same "
    "bot's updates, and whether updates wait. Read from the relay's own sign and from its log.",
    (SILENT, NEVER, TROUBLED, RIVAL, WAITING),
    look,
)
