"""Owns the start of the stub from the command line: options, certificates, signals."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from dataclasses import fields
from pathlib import Path

from tests.stubs.telegram.budgets import Limits
from tests.stubs.telegram.certificates import server_context
from tests.stubs.telegram.stub import WELL_FORMED_TOKEN, Options, running


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    arguments = _parser().parse_args()
    for token in arguments.token:
        if not WELL_FORMED_TOKEN.fullmatch(token):
            sys.exit("--token is malformed: give NUMBER:LETTERS with 35 or more letters")
    directory: Path = arguments.state
    try:
        tls = None if arguments.no_tls else server_context(directory, arguments.server_name)
    except OSError as error:
        sys.exit(f"writing certificates: {error}: make {directory} writable for this user")
    options = Options(
        host=arguments.host,
        port=arguments.port,
        tls=tls,
        control_socket=directory / "control.sock",
        control_host=arguments.host,
        control_port=arguments.control_port,
        tokens=tuple(arguments.token),
        username=arguments.username,
        record_limit=arguments.record_limit,
        next_update_id=arguments.next_update_id,
        limits=Limits(**{field.name: getattr(arguments, field.name) for field in fields(Limits)}),
    )
    asyncio.run(_serve(options))


async def _serve(options: Options) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running(options) as stub:
        print(f"listening on port {stub.port}, control on {options.control_socket}", flush=True)
        await stopped.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stubs.telegram",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="0.0.0.0", help="address to listen on")
    add("--port", type=int, default=443, help="port of the Bot API")
    add("--no-tls", action="store_true", help="speak plain HTTP")
    add("--server-name", default="api.telegram.org", help="name in the certificate")
    add("--state", type=Path, default=Path("/run/state"), help="certificates, control.sock")
    add("--control-port", type=int, default=None, help="control API on this TCP port, too")
    add("--token", action="append", default=[], help="accept only this token (repeatable)")
    add("--username", default=Options.username, help="the bot's username")
    add("--record-limit", type=int, default=None, help="keep only the newest entries")
    add("--next-update-id", type=int, default=None, help="first update id; random if absent")
    for field in fields(Limits):
        name = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            add(name, action=argparse.BooleanOptionalAction, default=field.default, help="limit")
        else:
            add(name, type=float, default=field.default, help="limit")
    return parser


if __name__ == "__main__":
    main()
