"""Who may talk to the bot is known without a list that names anybody."""

from services.relay.marks import MARK_DIGITS, MarkedUsers, mark_of

KEY = "k" * 32


def test_ids_and_marks_mean_the_same() -> None:
    """Both can stand in one list; under another key a mark means nobody."""
    users = MarkedUsers([7, mark_of(8, KEY)], KEY)

    assert [user in users for user in (7, 8, 9)] == [True, True, False]
    assert 8 not in MarkedUsers([mark_of(8, KEY)], "l" * 32)


def test_nothing_of_the_ids_is_held() -> None:
    """Neither of those that were given as ids."""
    held = repr(vars(MarkedUsers([123456789], KEY)))

    assert "123456789" not in held
    assert mark_of(123456789, KEY) in held
    assert len(mark_of(123456789, KEY)) == MARK_DIGITS
