"""Without its store's key the gateway waits, healthy and silent, and goes on when it comes."""

import asyncio
from pathlib import Path

import pytest

from services import namespace
from services.gateway import __main__ as gateway
from services.gateway.lock import is_locked, until_unlocked
from services.namespace import HolderGone, Namespace
from services.settings import BadSetting


async def test_gateway_waits_while_the_secret_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps its sign of life up to date, since a restart would mend nothing."""
    monkeypatch.setattr(namespace, "PERIOD_SECONDS", 0.01)
    holder, alive, secret = tmp_path / "holder", tmp_path / "alive", tmp_path / "store_key"
    secret.touch()
    caplog.set_level("INFO")
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), holder)
    waiting = asyncio.create_task(until_unlocked(secret, Namespace(str(holder), alive), 0.01))

    async with asyncio.timeout(5):
        for _ in range(3):  # signs of life, one after the other
            while not alive.exists():
                await asyncio.sleep(0.005)
            alive.unlink()
    assert not waiting.done()
    with secret.open("r+") as file:  # in place: a container has this very file mounted
        file.write("0" * 64)

    await asyncio.wait_for(waiting, 5)
    server.close()
    await server.wait_closed()
    assert [record.message for record in caplog.records] == ["locked", "unlocked"]


async def test_key_that_is_there_is_not_waited_for(tmp_path: Path) -> None:
    """Nor one that is missing: the settings say what to do then."""
    for name, content in (("there", "0" * 64), ("wrong", "x"), ("missing", None)):
        if content:
            (tmp_path / name).write_text(content)
        assert not is_locked(tmp_path / name)
        await until_unlocked(tmp_path / name, Namespace("nobody", tmp_path / "alive"))
    assert not (tmp_path / "alive").exists()


async def test_gateway_that_waits_leaves_a_namespace_without_a_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does at work: else it would wake up where no tunnel is."""
    monkeypatch.setattr(namespace, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(namespace, "PATIENCE_SECONDS", 0.05)
    (tmp_path / "store_key").touch()

    with pytest.RaisesGroup(HolderGone):
        await until_unlocked(
            tmp_path / "store_key", Namespace(str(tmp_path / "nobody"), tmp_path / "alive"), 0.01
        )


def test_gateway_waits_before_it_reads_its_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key is one of them."""
    order: list[object] = []

    async def wait(secret: Path, _: Namespace) -> None:
        order.append(secret)

    def read(_: object) -> None:
        order.append("settings")
        raise BadSetting("enough")

    monkeypatch.setattr(gateway, "start_logging", lambda _: None)
    monkeypatch.setattr(gateway, "until_unlocked", wait)
    monkeypatch.setattr(gateway, "read_settings", read)

    assert gateway.main() == 2
    assert order == [Path("/run/secrets/store_key"), "settings"]
