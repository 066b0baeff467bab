"""Owns ./scripts/demo: both nodes on this machine, and a chat with the bot in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import re
import readline
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts import setup
from scripts.pair import ENGINES, USER, VERSION, Pair
from scripts.screen import Screen
from scripts.steps import Step, StepFailed, Steps, duration, end_on_sigterm
from scripts.telegram_user import (
    PLACEHOLDER,
    BotMessage,
    Said,
    StubGone,
    TelegramUser,
)

NAME = "demo"
OWN_STEPS = 4
QUIET_SECONDS = 0.4  # after which nothing more is expected from the bot
FAILED, INTERRUPTED = 1, 130


def main() -> int:
    end_on_sigterm()
    arguments = parse_arguments()
    out = sys.stderr if arguments.ask else sys.stdout
    steps = Steps(1, setup.STATE / "demo.log", out)
    try:
        pair = pair_for(arguments)
        with pair.hold():
            if arguments.action == "down":
                return remove(steps, pair, images=arguments.images)
            return run(steps, pair, arguments)
    except StepFailed as failure:
        steps.fail(failure)
        return FAILED
    except StubGone as gone:
        steps.say(f"\n{gone}")
        return FAILED
    except KeyboardInterrupt:
        steps.say("\nInterrupted. What was done so far is kept: run it again to go on.")
        return INTERRUPTED


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./scripts/demo",
        description="Run both nodes on this machine and talk to the bot. Without options: a chat "
        "in this terminal, against a stub of Telegram's server and a small model, offline.",
    )
    parser.add_argument(
        "action", nargs="?", choices=["down"], help="remove what the demonstration made"
    )
    parser.add_argument("--ask", metavar="TEXT", help="ask one thing, print the answer, and end")
    parser.add_argument("--engine", choices=ENGINES, default="llamacpp", help="default: llamacpp")
    parser.add_argument(
        "--timeout",
        type=float,
        default=180,
        metavar="SECONDS",
        help="how long an answer may take (default: 180)",
    )
    real = parser.add_argument_group("with the real Telegram")
    real.add_argument("--token-file", type=Path, metavar="FILE", help="a file with a bot's token")
    real.add_argument("--user", type=int, metavar="ID", help="your Telegram user id")
    real.add_argument("--resolver", metavar="ADDRESS", help="name server; default: this machine's")
    second = parser.add_argument_group("for a second pair beside the first")
    second.add_argument("--name", default=NAME, help="of its containers (default: demo)")
    second.add_argument(
        "--subnet",
        default="198.18.0",
        help="its test internet, the first three numbers of a /24 (default: 198.18.0)",
    )
    parser.add_argument("--images", action="store_true", help="with down: remove the images, too")
    arguments = parser.parse_args()
    if arguments.ask is not None and not arguments.ask.strip():
        parser.error("--ask is empty: give a question")
    if arguments.ask and arguments.token_file:
        parser.error("--ask cannot speak for a real user: leave it out and write to the bot")
    if arguments.token_file and not arguments.user and arguments.action != "down":
        parser.error(
            "--token-file needs --user: your Telegram user id, so that nobody else gets in"
        )
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", arguments.name):
        parser.error(
            f'--name is "{arguments.name}": give up to 31 small letters, digits and dashes'
        )
    if not re.fullmatch(r"198\.1[89]\.(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])", arguments.subnet):
        parser.error(f'--subnet is "{arguments.subnet}": give 198.18.N or 198.19.N, N up to 255')
    if arguments.images and arguments.action != "down":
        parser.error("--images belongs to `down`")
    return arguments


def pair_for(arguments: argparse.Namespace) -> Pair:
    token_file = arguments.token_file and arguments.token_file.resolve()
    return Pair(
        name=arguments.name,
        subnet=arguments.subnet,
        state=setup.ROOT / (".demo" if arguments.name == NAME else f".demo-{arguments.name}"),
        engine=arguments.engine,
        users=(arguments.user,) if arguments.user else (USER, USER + 1),
        token_file=token_file,
        resolver=name_server(arguments.resolver) if token_file else "",
        extra_settings=(("ADMINS", str(arguments.user or USER)),),
    )


def name_server(given: str | None) -> str:
    """The name server that the relay node may ask: the given one, else this machine's."""
    if given:
        try:
            return str(ipaddress.IPv4Address(given))
        except ValueError:
            raise StepFailed(f'--resolver is "{given}": give an IPv4 address.') from None
    with contextlib.suppress(OSError):
        text = Path("/etc/resolv.conf").read_text(encoding="utf-8")
        for word in re.findall(r"^nameserver\s+(\S+)", text, re.MULTILINE):
            with contextlib.suppress(ValueError):
                address = ipaddress.IPv4Address(word)
                if not address.is_loopback:
                    return str(address)
    raise StepFailed(
        "This machine's /etc/resolv.conf names no name server that a container could reach: "
        "give one with --resolver ADDRESS."
    )


def run(steps: Steps, pair: Pair, arguments: argparse.Namespace) -> int:
    """Start everything, talk, stop everything."""
    began = time.monotonic()
    images = [setup.RELAY_NODE, setup.model_node(arguments.engine)]
    images += [] if pair.token_file and arguments.engine != "stub" else [setup.STUBS]
    with setup.only_one():
        steps.total = setup.step_count(images) + OWN_STEPS
        setup.prepare(steps, images)
    try:
        start(steps, pair)
        steps.say(f"Ready after {duration(time.monotonic() - began)}.\n")
        if pair.token_file:
            return watch_real(pair)
        if arguments.ask:
            return ask(pair, arguments.ask, arguments.timeout)
        return chat(pair, arguments.timeout)
    finally:
        stop(steps, pair)


def start(steps: Steps, pair: Pair) -> None:
    with steps.step("keys and settings") as step:
        pair.prepare(step)
    with steps.step("test internet") as step:
        pair.start_internet(step)
    with steps.step("relay node and model node") as step:
        pair.start_nodes(step)
    with steps.step("first contact through the tunnel") as step:
        pair.wait_for_contact(step)


def stop(steps: Steps, pair: Pair) -> None:
    """Remove the containers, keep what the next start needs; not to be interrupted half-way."""
    kept = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
    steps.total = steps.done + 1
    steps.say()
    with steps.step("stopping both nodes") as step:
        pair.down(step, volumes=False)
        step.say("nothing runs any more")
    again = "./scripts/demo" + (f" --name {pair.name}" if pair.name != NAME else "")
    steps.say(f"To come back, with the conversation kept: {again}")
    steps.say(f"To remove everything: {again} down --images")
    signal.signal(signal.SIGINT, kept[0])
    signal.signal(signal.SIGTERM, kept[1])


def remove(steps: Steps, pair: Pair, *, images: bool) -> int:
    """Remove containers, networks, volumes and keys; with `images`, what was built as well."""
    steps.total = 1 + images
    with steps.step("containers, networks, volumes and keys of the demonstration") as step:
        if setup.server_version() is None:
            step.say("no Docker daemon answers, so nothing runs")
            return 0
        pair.down(step, volumes=True)
        step.say("removed")
    if images:
        with steps.step("images") as step:
            remove_images(step)
    return 0


def remove_images(step: Step) -> None:
    """Remove the images that set-up built; the official base image stays, being no work of ours."""
    listed = setup.answer_of(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"])
    own = [
        name
        for name in (listed or "").split()
        if re.fullmatch(rf"(node|node-test)/[\w-]+:{re.escape(VERSION)}|node-base:\w+", name)
    ]
    if own:
        step.run(["docker", "image", "rm", *own], doing="removing the images")
    step.say(f"{len(own)} removed")


# Talking


def ask(pair: Pair, text: str, seconds: float) -> int:
    """Ask one thing; print the answer and where the time went."""
    # A user of its own: the conversation in the terminal goes on undisturbed.
    user = TelegramUser(pair.control_socket, pair.users[-1])
    shown: list[BotMessage] = []
    try:
        said = user.say(text)
        for now in user.watch(said, seconds):
            shown = now
    except TimeoutError:
        gateway = pair.container(pair.model_node, "gateway")
        so_far = " ".join(message.text for message in shown) or "nothing"
        raise StepFailed(
            f"No final answer within {seconds:.0f} s; the bot has shown: {so_far}\n"
            f"Give it longer with --timeout, or see why: docker logs {gateway}"
        ) from None
    print("\n".join(message.text for message in shown), flush=True)
    print()
    entries, _ = user.record(said.seq)
    for line in hop_lines(said, entries, answered_event(pair, entries)):
        print(line)
    sys.stdout.flush()
    start_anew(user)
    return 0


def start_anew(user: TelegramUser, seconds: float = 10) -> None:
    """Have the conversation forgotten, so that the same question gets the same answer next time."""
    said = user.say("/new")
    seq, deadline = said.seq, time.monotonic() + seconds
    while time.monotonic() < deadline:
        entries, seq = user.record(seq, 1)
        if any(e["kind"] == "confirmed" and e["update_id"] == said.update_id for e in entries):
            return


def hop_lines(
    said: Said, entries: list[dict[str, Any]], answered: dict[str, Any] | None
) -> Iterable[str]:
    """Where the time of one answer went, from the stub's record and the gateway's log."""
    times = hop_times(said, entries)
    sent = times.pop("sent")
    before = sent
    yield "Time since the question was sent:"
    for hop, at in times.items():
        yield f"  {(at - sent) * 1000:7.0f} ms  {hop} (+{(at - before) * 1000:.0f})"
        before = at
    if answered:
        tokens, engine_ms = answered["tokens"] or 0, answered["engine_ms"]
        speed = f", {tokens * 1000 / engine_ms:.0f} tokens/s" if tokens and engine_ms else ""
        yield "Inside the model node:"
        yield f"  {answered['queue_ms']:7.0f} ms  in the queue"
        yield f"  {answered['first_token_ms']:7.0f} ms  until the engine's first token"
        yield f"  {engine_ms:7.0f} ms  until its last ({tokens} tokens{speed})"


def hop_times(said: Said, entries: list[dict[str, Any]]) -> dict[str, float]:
    """Wall-clock time of each hop of one question, in the order of the path."""
    times: dict[str, float] = {}
    for entry in entries:
        kind = entry["kind"]
        if entry.get("update_id") == said.update_id:
            hop = {
                "say": "sent",
                "delivered": "update handed to the relay",
                "confirmed": "update confirmed: the gateway has it on disk",
            }.get(kind)
            if hop:
                times.setdefault(hop, entry["time"])
        if kind != "call" or not entry["outcome"]["ok"]:
            continue
        if entry["method"] == "sendmessage":
            times.setdefault("placeholder in the chat", entry["time"])
        if entry["method"] == "editmessagetext" and entry["params"]["text"] != PLACEHOLDER:
            times.setdefault("first words in the chat", entry["time"])
            times["final answer in the chat"] = entry["time"]
    return dict(sorted(times.items(), key=lambda hop: hop[1]))


def answered_event(pair: Pair, entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The gateway's log line about this answer; None for what it answers without the engine."""
    since = min(entry["time"] for entry in entries)
    log = subprocess.run(
        ["docker", "logs", "--since", f"{since:.3f}", pair.container(pair.model_node, "gateway")],
        capture_output=True,
        text=True,
        check=False,
    )
    found = None
    for line in log.stdout.splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if event.get("action") == "answered":
                found = event
    return found


def chat(pair: Pair, seconds: float) -> int:
    """A chat in the terminal: what is typed is what a Telegram user sends."""
    user = TelegramUser(pair.control_socket, pair.users[0])
    screen = Screen(sys.stdout)
    if sys.stdin.isatty():
        readline.parse_and_bind("set enable-bracketed-paste on")
        print(
            "You are a Telegram user now; the bot answers below. /help shows its commands.\n"
            "While it writes, type /stop and Enter to stop it. /quit, Ctrl-D or Ctrl-C ends.\n"
            "Files and buttons are named here only: a Telegram client opens and presses them.\n"
        )
    with contextlib.suppress(KeyboardInterrupt):
        while (line := next_line()) is not None:
            if line.strip() == "/quit":
                break
            if line.strip() and not converse(user, screen, line, seconds):
                break
    return 0


def converse(user: TelegramUser, screen: Screen, line: str, seconds: float) -> bool:
    """Send a line and show the bot's messages as they grow; False when the user wants to quit.

    Lines typed meanwhile are sent at once, so that /stop works. Such a line may get no answer of
    its own: a stopped answer is the answer to /stop.
    """
    first = user.say(line)
    seq = first.seq
    unseen = {first.update_id}  # what the gateway does not have yet
    shown: list[BotMessage] = []
    changed = time.monotonic()
    while True:
        before, shown = shown, user.bot_messages(first.message_id)
        screen.show([(message.described, message.is_final) for message in shown])
        now = time.monotonic()
        changed = changed if shown == before else now
        if shown and not unseen and all(message.is_final for message in shown):
            if now - changed > QUIET_SECONDS:
                screen.finish()
                return True
        elif now - changed > seconds:
            screen.finish()
            print(f"(nothing new within {seconds:.0f} s; --timeout gives it longer)")
            return True
        entries, seq = user.record(seq, 0.1 if sys.stdin.isatty() else 1)
        unseen -= {entry["update_id"] for entry in entries if entry["kind"] == "confirmed"}
        if sys.stdin.isatty() and select.select([sys.stdin], [], [], 0)[0]:
            typed = sys.stdin.readline()
            if not typed or typed.strip() == "/quit":
                return False
            if typed.strip():
                unseen.add(user.say(typed.strip()).update_id)


def next_line() -> str | None:
    """The next line that the user types; None at the end of input."""
    try:
        return input("you> ") if sys.stdin.isatty() else input()
    except EOFError:
        return None


def watch_real(pair: Pair) -> int:
    """Tell what happens while people talk to the bot in Telegram; ends with Ctrl-C."""
    print("Write to your bot in Telegram. Ctrl-C stops. What it answers is told here, not shown:")
    log = subprocess.Popen(
        ["docker", "logs", "-f", "--since", "0s", pair.container(pair.model_node, "gateway")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert log.stdout is not None
    try:
        for line in log.stdout:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("action") == "answered":
                    print(
                        f"answered: {event['tokens']} tokens, the first after "
                        f"{event['first_token_ms']} ms, the last after {event['engine_ms']} ms",
                        flush=True,
                    )
    except KeyboardInterrupt:
        return 0
    finally:
        log.kill()
        log.wait()
    raise StepFailed("The gateway has stopped by itself: run this again to see why.")


if __name__ == "__main__":
    sys.exit(main())
