"""Starts one of the product's services as its image does, with secrets from a directory.

    python -m tests.bench.product gateway|relay SECRETS [LAGS]

The service's own `main` runs, with its own settings from the environment; in its image the secrets
are in /run/secrets, which is not ours here. With LAGS, a file, it says there at its end how late
its event loop was, in seconds: every wait of 10 ms since the start, or since the last SIGUSR1.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from services.settings import read_settings

RUN = {"gateway": "_run", "relay": "run"}
PERIOD_SECONDS = 0.01


def main() -> int:
    """Run the service. Returns its exit status."""
    name, secrets, *lags = sys.argv[1:]
    service = importlib.import_module(f"services.{name}.__main__")
    vars(service)["read_settings"] = partial(read_settings, secrets=Path(secrets))
    if lags:
        vars(service)[RUN[name]] = _watched(vars(service)[RUN[name]], Path(lags[0]))
    return int(service.main())


def _watched(run: Callable[..., Awaitable[None]], file: Path) -> Callable[..., Awaitable[None]]:
    async def watched(*arguments: object) -> None:
        lags: list[float] = []
        watch = asyncio.create_task(_watch(lags))
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lags.clear)
        try:
            await run(*arguments)
        finally:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            file.write_text(json.dumps(lags))

    return watched


async def _watch(lags: list[float]) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + PERIOD_SECONDS
        await asyncio.sleep(PERIOD_SECONDS)
        lags.append(max(0.0, clock() - due))


if __name__ == "__main__":
    sys.exit(main())
