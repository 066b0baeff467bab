"""How long the gateway has been away decides whether waiting chats are told."""

from services.relay.presence import Presence
from tests.unit.relay.test_tenure import Clock


def test_gateway_is_away_from_the_start() -> None:
    """A relay that has never seen the gateway knows neither it nor its guests."""
    clock = Clock()
    presence = Presence(clock)

    clock.now += 30

    assert presence.away_seconds == 30
    assert presence.guests is None


def test_stream_ends_the_absence_and_names_the_guests() -> None:
    """With the stream the gateway is there, and whoever waited for it goes on."""
    clock = Clock()
    presence = Presence(clock)
    returned = presence.returned
    clock.now += 30

    presence.come([8])

    assert returned.is_set()
    assert not presence.returned.is_set()
    assert presence.away_seconds == 0
    assert presence.guests == frozenset({8})
    presence.go()
    clock.now += 5
    presence.go()  # a stream that could not begin does not begin the absence anew
    clock.now += 5
    assert presence.away_seconds == 10
    assert presence.guests == frozenset({8})


def test_gateway_that_takes_nothing_is_away_though_its_stream_is_there() -> None:
    """A gateway whose disk is full holds the stream and takes no update: chats wait as well."""
    clock = Clock()
    presence = Presence(clock)
    presence.come([])

    presence.note_refused()
    clock.now += 20
    presence.note_refused()

    assert presence.away_seconds == 20
    presence.note_taken()
    assert presence.away_seconds == 0


def test_gateway_that_takes_updates_is_there_though_its_stream_is_not() -> None:
    """A relay whose stream another has taken still hands over; the absence begins after that."""
    clock = Clock()
    presence = Presence(clock)
    clock.now += 100
    presence.note_taken()
    clock.now += 3
    presence.note_refused()

    assert presence.away_seconds == 3


def test_refusal_ends_when_nothing_waits_any_more() -> None:
    """What was refused may have been dealt with without the gateway: a press is, for one."""
    clock = Clock()
    presence = Presence(clock)
    presence.come([])
    presence.note_refused()
    clock.now += 20

    presence.note_idle()

    assert presence.away_seconds == 0
    presence.go()
    presence.note_idle()
    clock.now += 5
    assert presence.away_seconds == 5
