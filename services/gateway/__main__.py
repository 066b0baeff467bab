"""Starts the gateway: reads the settings, builds every object in order, and runs until stopped."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial
from pathlib import Path

import uvicorn
import uvloop

from services.gateway.access import Access
from services.gateway.answering import Answering
from services.gateway.app import build_app
from services.gateway.documents import Documents
from services.gateway.engine import open_engine
from services.gateway.figures import Figures
from services.gateway.gpu import read_gpus
from services.gateway.history import History
from services.gateway.inbox import Inbox, paste_delay
from services.gateway.limits import Limits
from services.gateway.lock import until_unlocked
from services.gateway.manner import House
from services.gateway.outbox import Outbox
from services.gateway.protocol import Protocol
from services.gateway.queue import Queue
from services.gateway.settings import GatewaySettings
from services.gateway.store import Store, StoreError
from services.gateway.summaries import Summaries
from services.gateway.transcriber import open_transcriber
from services.gateway.watch import Watch
from services.log import describe_error, start_logging
from services.namespace import Namespace
from services.settings import SECRETS_DIRECTORY, BadSetting, read_settings

log = logging.getLogger("services.gateway")

KEEP_UPDATES_SECONDS = 7 * 24 * 3600
"""Telegram keeps unconfirmed updates for a day; a week leaves room for clocks."""

KEEP_FAILED_SECONDS = 24 * 3600
"""So long a failed ask can be tried again."""

HOUSEKEEPING_SECONDS = 60

HEARD = Path("/tmp/wire")
"""On a tmpfs of this container."""


def main() -> int:
    """Run the gateway. Returns the process's exit status."""
    try:
        start_logging("INFO")  # until the settings, which need the key, say otherwise
        asyncio.run(until_unlocked(SECRETS_DIRECTORY / "store_key", Namespace()))
        settings = read_settings(GatewaySettings)
        start_logging(settings.log_level)
        log.info("starting", extra={"settings": settings.public()})
        uvloop.run(_run(settings))
    except (BadSetting, StoreError) as error:
        print(error, file=sys.stderr)
        return 2
    except BaseExceptionGroup as errors:
        log.critical("stopped", extra={"errors": [describe_error(e) for e in errors.exceptions]})
        return 1
    return 0


async def _run(settings: GatewaySettings) -> None:
    os.umask(0o077)
    async with AsyncExitStack() as stack:
        store = Store(settings.store_file, settings.store_key)
        stack.callback(store.close)
        await store.run(store.requeue_asks)
        outbox = Outbox(
            store,
            await store.run(store.undelivered_replies),
            await store.run(store.guests),
            await store.run(store.invitations),
            tuple(sorted(settings.admins)),
            await store.run(store.name_admins, settings.admins),
        )
        queue = Queue(settings.user_weights)
        engine = await stack.enter_async_context(
            open_engine(settings.engine_socket, settings.engine_slots)
        )
        transcriber = await stack.enter_async_context(open_transcriber(settings.transcriber_socket))
        house = House(
            settings.answer_tokens,
            settings.temperature,
            settings.system_prompt,
            settings.personas,
            settings.models,
        )
        summaries = Summaries(
            *(store, queue, engine, settings.prompt_tokens, settings.engine_slots, house),
            settings.pictures,
        )
        if not settings.summaries:
            await store.run(store.forget_summaries)  # what was made before it was switched off
        answering = Answering(
            store,
            queue,
            outbox,
            History(
                *(store, engine, settings.prompt_tokens, settings.pictures),
                has_summaries=settings.summaries,
            ),
            engine,
            settings.engine_slots,
            house,
            settings.engine_silence_seconds,
            settings.file_characters,
            summaries.note if settings.summaries else lambda _ask, _manner: None,
        )
        queue.pause(await store.run(store.is_paused))
        for ask in await store.run(store.asks):
            queue.put(ask, paste_delay(ask))  # what an earlier run left unanswered
        access = Access(store, settings.allowed_users, settings.admins)
        limits = Limits(
            settings.user_asks,
            settings.total_asks,
            settings.prompt_tokens,
            settings.user_limits,
            settings.daily_asks,
            settings.daily_tokens,
            settings.minute_asks,
        )
        namespace = Namespace()
        watch = Watch(
            store,
            queue,
            outbox,
            engine,
            settings.store_file.parent,
            sorted(settings.admins),
            tunnel=lambda: namespace.tunnel,
            gpus=partial(read_gpus, settings.gpu_file),
        )
        inbox = Inbox(
            store,
            queue,
            outbox,
            access,
            limits,
            settings.history_days,
            list(house.personas),
            watch.describe,
            Documents(settings.document_bytes, transcriber, sees=settings.pictures > 0),
            watch.note_batch,
            list(house.models),
            settings.summaries,
        )
        figures = Figures(queue, outbox, watch, settings.store_file, settings.engine_slots)
        app = build_app(inbox, outbox, settings.link_token, HEARD)
        server = _Server(
            uvicorn.Config(
                app,
                host=settings.listen_address,
                port=settings.link_port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
                proxy_headers=False,  # nothing stands between the relay and this
                limit_concurrency=256,
                http=Protocol,
            )
        )
        _catch_signals(server)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(namespace.watch()),
                group.create_task(answering.run()),
                group.create_task(summaries.run()),
                group.create_task(watch.run()),
                group.create_task(figures.run()),
                group.create_task(_keep_house(store, settings.history_seconds)),
            ]
            await server.serve()  # returns on SIGTERM and SIGINT
            for task in tasks:
                task.cancel()


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn raises them once more when it has stopped."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


def _catch_signals(server: uvicorn.Server) -> None:
    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)


async def _keep_house(store: Store, history_seconds: int | None) -> None:
    """Drop what has outlived its use, and what the journal still holds of deleted texts."""
    while True:
        try:
            await store.run(
                store.forget_old, KEEP_UPDATES_SECONDS, KEEP_FAILED_SECONDS, history_seconds
            )
            await store.run(store.truncate_journal)
        except StoreError as error:
            log.critical("store failed", extra={"remedy": str(error)})
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
