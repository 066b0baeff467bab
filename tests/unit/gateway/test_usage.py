"""The operator's report: numbers by user and day, as a table or as JSON."""

import json
from pathlib import Path

import pytest

from services.gateway.settings import GatewaySettings
from services.gateway.store import Piece, Store, StoreError, Usage
from services.gateway.usage import COLUMNS, report
from tests.unit.fakes import KEY

CANARY = "quetzalcoatlus"


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    """Settings as the gateway's container has them."""
    return GatewaySettings.model_validate(
        {
            "allowed_users": "7",
            "listen_address": "10.66.0.2",
            "link_token": "L" * 43,
            "store_key": KEY,
            "store_file": tmp_path / "store.db",
        }
    )


async def use(store: Store, user: int, cost: Usage) -> None:
    reply = await store.run(store.add_reply, (user, 0), 1)
    pieces = [Piece(1, CANARY, 0)]
    ask = await store.run(store.add_ask, reply.id, user, (user, 0), "en", pieces)
    await store.run(store.finish_ask, ask, CANARY, CANARY, cost)


async def test_report_sums_up_by_user_and_day(
    settings: GatewaySettings, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the gateway runs, and without a word of what was said."""
    store = Store(settings.store_file, KEY)
    await use(store, 7, Usage(10, 4, 1500))
    await use(store, 7, Usage(1, 1, 500))
    await use(store, 8, Usage(5, 5, 0))

    report(settings, 30, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    report(settings, 30, as_json=False)
    table = capsys.readouterr().out
    store.close()

    assert [(row["user"], row["asks"], row["prompt_tokens"]) for row in rows] == [
        (7, 2, 11),
        (8, 1, 5),
    ]
    assert rows[0]["engine_seconds"] == 2.0
    assert table.splitlines()[0].split() == list(COLUMNS)
    assert CANARY not in table


def test_report_without_a_store_says_what_to_do(settings: GatewaySettings) -> None:
    """It makes no store of its own."""
    with pytest.raises(StoreError, match="start the gateway first"):
        report(settings, 30, as_json=False)

    assert not settings.store_file.exists()
