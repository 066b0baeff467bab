"""A member leaves a namespace whose holder is gone, and only then."""

import asyncio
from pathlib import Path

import pytest

from services import namespace
from services.namespace import HolderGone, watch_namespace


async def test_member_stays_while_the_holder_answers_and_leaves_when_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch goes on while the socket answers, survives a short absence, then raises."""
    monkeypatch.setattr(namespace, "PERIOD_SECONDS", 0.02)
    monkeypatch.setattr(namespace, "PATIENCE_SECONDS", 0.3)
    holder, alive = tmp_path / "holder", tmp_path / "alive"
    seen = 0

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        writer.close()

    server = await asyncio.start_unix_server(accept, holder)
    watch = asyncio.create_task(watch_namespace(str(holder), alive))
    while seen < 5:
        await asyncio.sleep(0.01)
    server.close()
    await server.wait_closed()
    holder.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(accept, holder)
    while seen < 10:
        await asyncio.sleep(0.01)
    assert not watch.done()
    assert alive.exists()
    server.close()
    await server.wait_closed()
    holder.unlink(missing_ok=True)

    with pytest.raises(HolderGone):
        await asyncio.wait_for(watch, 5)
