"""What the relay tells of a conversation to whoever looks after the node: times, nothing else."""

from pathlib import Path

import pytest

import services.relay.__main__ as relay
from services.relay.polls import PollSign
from tests.unit.chain.conftest import Chain
from tests.unit.fakes import until


async def test_relay_tells_when_something_came_and_went(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only when the gateway has taken it, and when the answer stands in the chat."""
    file = tmp_path / "polls"

    def told() -> dict[str, int]:
        lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
        return {name: int(number) for name, number in (line.split("=") for line in lines)}

    monkeypatch.setattr(relay, "PollSign", lambda: PollSign(file))
    await chain.replace("relay")
    await until(lambda: told().get("answered_at", 0) > 0, "the relay polls")
    assert (told()["came_at"], told()["went_at"]) == (0, 0)
    chain.engine.scripts.append(["a secret answer"])

    await chain.say("a secret question")
    await chain.wait_for_answers(1)

    await until(lambda: told()["went_at"] > 0, "it is told that the answer went")
    assert told()["went_at"] >= told()["came_at"] > 0
    assert "secret" not in file.read_text(encoding="ascii")
