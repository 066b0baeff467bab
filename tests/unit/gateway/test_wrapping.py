"""A wrapped key opens with its passphrase alone, and shows nothing of either."""

import io
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from services.gateway import wrapping
from services.gateway.wrapping import WrappingError, WrongPassphrase, unwrap, wrap
from tests.unit.fakes import KEY

PASSPHRASE = "шесть слов, drawn by lot"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tries passphrases here."""
    monkeypatch.setattr(wrapping, "COST", 1 << 10)


def test_passphrase_opens_what_it_has_wrapped() -> None:
    """And the same key and passphrase make another text each time."""
    one, other = wrap(KEY, PASSPHRASE), wrap(KEY, PASSPHRASE)

    assert unwrap(json.loads(one), PASSPHRASE) == unwrap(json.loads(other), PASSPHRASE) == KEY
    assert json.loads(one)["key"] != json.loads(other)["key"]
    assert KEY not in one
    assert KEY.encode().hex() not in one


@pytest.mark.parametrize("wrong", ["", PASSPHRASE[:-1], f"{PASSPHRASE} "])
def test_other_passphrase_does_not(wrong: str) -> None:
    """Not even a nearly right one, and it is told apart from damage."""
    wrapped = json.loads(wrap(KEY, PASSPHRASE))

    with pytest.raises(WrongPassphrase):
        unwrap(wrapped, wrong)


@pytest.mark.parametrize("name", ["cost", "salt", "nonce", "key", "cipher"])
def test_changed_file_does_not_open(name: str) -> None:
    """Each part is authenticated: a cheaper derivation cannot be put into its place."""
    wrapped = json.loads(wrap(KEY, PASSPHRASE))
    changed = {"cost": 1 << 9, "cipher": "none"}.get(name, "00" + str(wrapped[name])[2:])

    with pytest.raises((WrongPassphrase, WrappingError)):
        unwrap(wrapped | {name: changed}, PASSPHRASE)


@pytest.mark.parametrize(
    "wrapped",
    [None, [], {}, {"format": 2}, {"cost": 1 << 30}, {"cost": "x"}, {"salt": "zz"}, {"key": 7}],
)
def test_damaged_file_is_told(wrapped: Any) -> None:
    """One that would take all memory, too, before it is tried."""
    if wrapped:
        wrapped = json.loads(wrap(KEY, PASSPHRASE)) | wrapped

    with pytest.raises(WrappingError):
        unwrap(wrapped, PASSPHRASE)


def test_derivation_costs_a_thief_dearly(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 MiB of memory for each try, as it is shipped."""
    monkeypatch.undo()

    assert 128 * wrapping.COST * wrapping.BLOCK == 128 << 20


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str, order: Any
) -> tuple[int, str, str]:
    line = io.BytesIO(json.dumps(order).encode() + b"\n")
    monkeypatch.setattr(sys, "argv", ["wrapping", step])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=line))
    code = wrapping.main()
    said = capsys.readouterr()
    return code, said.out.strip(), said.err


def test_steps_take_a_line_and_say_by_their_status_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """0, 2 for damage, 3 for another passphrase; secrets are in no complaint."""
    order = {"key": KEY, "passphrase": PASSPHRASE}
    code, wrapped, _ = call(monkeypatch, capsys, "wrap", order)
    assert code == 0
    order = {"wrapped": json.loads(wrapped), "passphrase": PASSPHRASE}
    assert call(monkeypatch, capsys, "unwrap", order) == (0, KEY, "")

    for wrong, status in (
        (order | {"passphrase": "another one"}, 3),
        (order | {"wrapped": None}, 2),
        ({}, 2),
    ):
        code, out, err = call(monkeypatch, capsys, "unwrap", wrong)
        assert (code, out) == (status, "")
        assert ": " in err
        assert "another one" not in err
