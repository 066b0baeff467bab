"""A member leaves a namespace whose holder is gone, and only then."""

import asyncio
from pathlib import Path

import pytest

from services import namespace
from services.namespace import MOST_STATUS_BYTES, HolderGone, Namespace, Tunnel
from services.wire import Batch


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
    watch = asyncio.create_task(Namespace(str(holder), alive).watch())
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


@pytest.mark.parametrize(
    ("said", "tunnel"),
    [
        (b"", None),
        (b"heard_packets=1\nhandshake_at=170\n", Tunnel(170)),
        (
            b"refused_in_packets=1\nrefused_out_packets=2\nhandshake_at=17\n"
            b"heard_packets=9\nrefused_in_packets=40\nrefused_out_packets=0\n",
            Tunnel(17, 41, 2),
        ),
        (b"refused_in_packets=-1\nrefused_out_packets=1e9\n\xff=3\n", None),
        (b"handshake_at=17\n" + b"x" * 9999, Tunnel(17)),
    ],
    ids=["nothing", "handshake", "two containers", "nonsense", "too much"],
)
async def test_member_is_told_of_the_tunnel(
    said: bytes, tunnel: Tunnel | None, tmp_path: Path
) -> None:
    """What the holder says on its sign of life is kept until it says something else."""

    def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    seen = Namespace(str(tmp_path / "holder"), tmp_path / "alive")
    async with await asyncio.start_unix_server(tell, tmp_path / "holder"):
        assert await seen._look()
        assert seen.tunnel == tunnel

    def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    (tmp_path / "holder").unlink(missing_ok=True)
    async with await asyncio.start_unix_server(say_nothing, tmp_path / "holder"):
        assert await seen._look()
        assert seen.tunnel == tunnel


def test_whatever_the_holder_says_goes_over_the_wire() -> None:
    """A relay that could not write its batch would carry nothing any more."""
    for digits in range(1, 25):
        line = b"refused_in_packets=" + b"9" * digits + b"\n"
        tunnel = namespace._read(line * (MOST_STATUS_BYTES // len(line))) or Tunnel()
        Batch(bot_id=1, updates=[], refused=(tunnel.refused_in, tunnel.refused_out))


async def test_holder_that_says_nothing_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder too busy to tell anything has accepted: that is life enough."""
    monkeypatch.setattr(namespace, "PERIOD_SECONDS", 0.1)
    held: list[asyncio.StreamWriter] = []
    async with await asyncio.start_unix_server(
        lambda _, writer: held.append(writer), tmp_path / "holder"
    ):
        seen = Namespace(str(tmp_path / "holder"), tmp_path / "alive")
        assert await seen._look()
        assert seen.tunnel is None
        for writer in held:
            writer.close()
