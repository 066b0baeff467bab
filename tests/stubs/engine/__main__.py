"""Runs the stub engine: python -m tests.stubs.engine --socket PATH."""

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path

from aiohttp import web

from tests.stubs.engine.script import Script, parse_script
from tests.stubs.engine.server import build_app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--name", default="stub", help="what GET /v1/models calls the model")
    parser.add_argument(
        "--also", action="append", default=[], help="a further name that it serves (repeatable)"
    )
    parser.add_argument("--context-tokens", type=int, default=8192)
    parser.add_argument(
        "--script", type=_script, default=Script(), help="JSON, in force from the start"
    )
    parser.add_argument(
        "--slots", type=int, default=1024, help="answers at once; others wait, as they came"
    )
    asyncio.run(serve(**vars(parser.parse_args())))


def _script(written: str) -> Script:
    return parse_script(json.loads(written))


async def serve(
    socket: Path, name: str, also: list[str], context_tokens: int, script: Script, slots: int
) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    os.umask(0o117)  # the gateway runs as another user of the socket's group
    socket.unlink(missing_ok=True)
    runner = web.AppRunner(
        build_app(name, context_tokens, script, also, slots),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=0.5,
    )
    await runner.setup()
    await web.UnixSite(runner, socket).start()
    await stopped.wait()
    await runner.cleanup()
    socket.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
