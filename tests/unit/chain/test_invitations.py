"""A link lets one person in, once; whoever has no good one gets silence."""

import re
import time

import pytest

from services.relay import inbox
from tests.unit.chain.conftest import Chain
from tests.unit.fakes import until

GUEST, OTHER = 4242, 4343


async def invite(chain: Chain) -> str:
    """An admin asks for a link; returns its code."""
    await chain.say("/invite")
    (answer,) = await chain.wait_for_answers(1)
    await chain.wait_until_settled()
    found = re.fullmatch(
        r"Give this link to one person\. It lets them in, once, within 24 hours:\n\n"
        r"https://t\.me/test_oracle_bot\?start=([A-Za-z0-9_-]{22})",
        answer,
    )
    assert found, answer
    return found[1]


async def seen_by_both(chain: Chain, *users: int) -> None:
    """Wait until an update that came after all others has been answered."""
    await chain.say("the last")
    await until(lambda: len(chain.engine.requests) > 0, "what came later is answered")
    await chain.wait_until_settled()
    for user in users:
        assert await chain.shown(user) == []


async def test_link_lets_one_person_in(chain: Chain) -> None:
    """They are greeted and answered; the admin hears who it was; nobody else comes in by it."""
    code = await invite(chain)

    await chain.say(f"/start {code}", GUEST)
    (greeting,) = await chain.wait_for_answers(1, GUEST)
    await chain.say("hello", GUEST)

    assert greeting.startswith("Hello! Write to me")
    assert (await chain.wait_for_answers(2, GUEST))[-1] == "fine"
    assert (await chain.wait_for_answers(2))[-1] == (
        "User 4242 has come in by your invitation. /deny 4242 shows them out again."
    )
    await chain.say(f"/start {code}", OTHER)
    await chain.say("hello", OTHER)
    await seen_by_both(chain, OTHER)


async def test_link_outlives_both_services(chain: Chain) -> None:
    """It is kept as a digest, and the next relay is told of it."""
    code = await invite(chain)
    for name in ("relay", "gateway"):
        await chain.kill(name)
    await chain.say(f"/start {code}", GUEST)
    await chain.start_gateway()
    await chain.start_relay()

    assert len(await chain.wait_for_answers(1, GUEST)) == 1
    assert code.encode() not in (chain.directory / "store.db").read_bytes()


@pytest.mark.parametrize(
    "text", ["/start", "/start nonsense", "/start {code} more", "{code}", "/begin {code}"]
)
async def test_anything_else_is_silence(chain: Chain, text: str) -> None:
    """Near is not enough; and the link is still good."""
    code = await invite(chain)

    await chain.say(text.format(code=code), OTHER)
    await seen_by_both(chain, OTHER)

    await chain.say(f"/start {code}", GUEST)
    assert len(await chain.wait_for_answers(1, GUEST)) == 1


async def test_forwarded_link_is_silence(chain: Chain) -> None:
    """Whoever forwards it has not followed it."""
    code = await invite(chain)
    user = {"id": OTHER, "first_name": "U"}
    origin = {"type": "hidden_user", "date": 1, "sender_user_name": "A"}
    body = {"user": user, "text": f"/start {code}", "extra": {"forward_origin": origin}}

    await chain.post("/say", body)

    await seen_by_both(chain, OTHER)


async def test_link_grows_old(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a day it lets nobody in, though the relay may not know that yet."""
    code = await invite(chain)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 24 * 3600 + 1)

    await chain.say(f"/start {code}", OTHER)

    await seen_by_both(chain, OTHER)


async def test_guest_who_is_shown_out_stays_out(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link that let them in is used up."""
    monkeypatch.setattr(inbox, "REPORT_SECONDS", 0.0)
    code = await invite(chain)
    await chain.say(f"/start {code}", GUEST)
    await chain.wait_for_answers(1, GUEST)
    await chain.say("/deny 4242")
    await chain.wait_for_answers(3)

    await chain.say(f"/start {code}", GUEST)

    await until(lambda: sum(chain.strangers) == 1, "they are turned away")
    assert len(await chain.answers(GUEST)) == 1


async def test_only_admins_invite(chain: Chain) -> None:
    """For everybody else there is no such command."""
    await chain.say("/invite", 8)

    (answer,) = await chain.wait_for_answers(1, 8)
    assert answer.startswith("I do not know this command.")
