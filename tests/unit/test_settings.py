"""A bad setting stops the start with one sentence that names it and says what to do."""

from pathlib import Path

import pytest

from services.gateway.settings import GatewaySettings
from services.relay.settings import RelaySettings
from services.settings import BadSetting, read_settings

TOKEN = "123456:" + "A" * 35
LINK = "L" * 43
RELAY = {"ALLOWED_USERS": "1, 22", "LINK_ADDRESS": "10.66.0.2"}
GATEWAY = {"ALLOWED_USERS": "1", "LISTEN_ADDRESS": "10.66.0.2"}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    (tmp_path / "bot_token").write_text(TOKEN + "\n")
    (tmp_path / "link_token").write_text(LINK)
    (tmp_path / "store_key").write_text("0" * 64)
    return tmp_path


def test_good_settings_are_read(secrets: Path) -> None:
    """Lists, numbers, files and defaults arrive with their types; other variables do not matter."""
    relay = read_settings(RelaySettings, RELAY | {"PATH": "/bin", "LINK_PORT": ""}, secrets)
    gateway = read_settings(GatewaySettings, GATEWAY | {"CONTEXT_TOKENS": "4096"}, secrets)

    assert relay.allowed_users == {1, 22}
    marked = {"ALLOWED_USERS": f"1, {'0' * 32},{'f' * 32}"}
    assert read_settings(RelaySettings, RELAY | marked, secrets).allowed_users == {
        *(1, "0" * 32, "f" * 32),
    }
    assert (relay.bot_id, relay.link_port) == (123456, 8080)
    assert gateway.prompt_tokens == 4096 - 1024
    assert gateway.history_seconds is None
    assert not gateway.summaries
    assert read_settings(GatewaySettings, GATEWAY | {"SUMMARIES": "on"}, secrets).summaries
    assert not read_settings(GatewaySettings, GATEWAY | {"SUMMARIES": "off"}, secrets).summaries


def test_settings_of_single_users_are_read(secrets: Path) -> None:
    """Shares and limits by user id; the log shows how many, and none of them."""
    changes = {"ADMINS": "1", "USER_WEIGHTS": "1:2.5, 7:0.5", "USER_LIMITS": "1:50"}
    about_users = ("allowed_users", "admins", "user_weights", "user_limits")

    gateway = read_settings(GatewaySettings, GATEWAY | changes | {"HISTORY_DAYS": "2"}, secrets)

    assert gateway.user_weights == {1: 2.5, 7: 0.5}
    assert gateway.user_limits == {1: 50}
    assert gateway.admins == frozenset({1})
    assert gateway.history_seconds == 172_800
    shown = gateway.public()
    assert [shown[name] for name in about_users] == ["1 users", "1 users", "2 users", "1 users"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ALLOWED_USERS": ""}, "ALLOWED_USERS is missing: put the Telegram user ids"),
        ({"ALLOWED_USERS": "bob"}, 'ALLOWED_USERS is "bob": give Telegram user ids'),
        ({"ALLOWED_USERS": "f" * 31}, f'ALLOWED_USERS is "{"f" * 31}": give Telegram user ids'),
        ({"LINK_PORT": "70000"}, 'LINK_PORT is "70000": give a port between 1 and 65535'),
        ({"LINK_PORT": "-1"}, 'LINK_PORT is "-1": give a port'),
        ({"LINK_ADDRESS": "home.example"}, 'LINK_ADDRESS is "home.example": give the IPv4 address'),
        ({"TELEGRAM_API": "ftp://x"}, 'TELEGRAM_API is "ftp://x": give the Bot API server'),
        ({"LOG_LEVEL": "LOUD"}, 'LOG_LEVEL is "LOUD": give DEBUG, INFO'),
        ({"TELEGRAM_CA_FILE": "/none"}, 'TELEGRAM_CA_FILE is "/none": give a file of certificates'),
        ({"TELEGRAM_CA_FILE": "/dev/null"}, 'TELEGRAM_CA_FILE is "/dev/null": give a file of cert'),
    ],
)
def test_bad_relay_setting(secrets: Path, changes: dict[str, str], sentence: str) -> None:
    """Each bad value of the relay has its sentence."""
    with pytest.raises(BadSetting) as error:
        read_settings(RelaySettings, RELAY | changes, secrets)

    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"LISTEN_ADDRESS": "0.0.0.0"}, 'LISTEN_ADDRESS is "0.0.0.0": give the one address'),
        ({"ENGINE_SLOTS": "0"}, 'ENGINE_SLOTS is "0": give a whole number between 1 and 1024'),
        ({"ADMINS": "2"}, 'ADMINS is "2": give users who stand in ALLOWED_USERS'),
        ({"USER_WEIGHTS": "1:0"}, 'USER_WEIGHTS is "1:0": give user ids with a number above 0'),
        ({"USER_WEIGHTS": "1"}, 'USER_WEIGHTS is "1": give user ids with a number above 0'),
        ({"USER_LIMITS": "1:x"}, 'USER_LIMITS is "1:x": give user ids with a whole number'),
        ({"HISTORY_DAYS": "-1"}, 'HISTORY_DAYS is "-1": give a whole number between 0 and 36500'),
        ({"TEMPERATURE": "hot"}, 'TEMPERATURE is "hot": give a number between 0 and 2'),
        ({"PERSONAS": "Teacher"}, 'PERSONAS is "Teacher": give a JSON object of names'),
        ({"PERSONAS": '["Teacher"]'}, "PERSONAS is"),
        ({"PERSONAS": '{"Teacher": ""}'}, "PERSONAS is"),
        ({"PERSONAS": '{"Teacher": 1}'}, "PERSONAS is"),
        ({"PERSONAS": '{" ": "You teach."}'}, "PERSONAS is"),
        ({"PERSONAS": '{"ЯЯЯЯЯЯЯЯЯЯЯЯЯЯЯЯЯ": "You teach."}'}, "PERSONAS is"),
        ({"PERSONAS": str({str(n): "x" for n in range(21)}).replace("'", '"')}, "PERSONAS is"),
        ({"SUMMARIES": "yes"}, 'SUMMARIES is "yes": give on or off'),
        ({"MODELS": "small"}, 'MODELS is "small": give a JSON object of names for users'),
        ({"MODELS": '{"Fast": ""}'}, "MODELS is"),
        ({"MODELS": '{"Fast": ["small"]}'}, "MODELS is"),
        (
            {"MODELS": r'{"Fast": "\ud800"}'},
            r'MODELS is "{"Fast": "\ud800"}": give a JSON object of names',
        ),
        (
            {"MODELS": r'{"\ud800": "small"}'},
            r'MODELS is "{"\ud800": "small"}": give a JSON object of names',
        ),
        ({"MODELS": '{"ЯЯЯЯЯЯЯЯЯЯЯЯЯЯЯЯЯ": "small"}'}, "MODELS is"),
        ({"MODELS": str({str(n): "x" for n in range(11)}).replace("'", '"')}, "MODELS is"),
        (
            {"CONTEXT_TOKENS": "512", "ANSWER_TOKENS": "512"},
            "ANSWER_TOKENS",
        ),
        ({"PICTURES": "21"}, 'PICTURES is "21": give a whole number between 0 and 20'),
        ({"PICTURES": "4"}, 'PICTURES is "4": give at most 3 with this CONTEXT_TOKENS'),
    ],
)
def test_bad_gateway_setting(secrets: Path, changes: dict[str, str], sentence: str) -> None:
    """Each bad value of the gateway has its sentence."""
    with pytest.raises(BadSetting) as error:
        read_settings(GatewaySettings, GATEWAY | changes, secrets)

    assert str(error.value).startswith(sentence)


def test_pictures_leave_room_for_words(secrets: Path) -> None:
    """The more of the context, the more of them."""
    few = read_settings(GatewaySettings, GATEWAY | {"PICTURES": "3"}, secrets)
    changes = {"PICTURES": "20", "CONTEXT_TOKENS": "40000"}
    many = read_settings(GatewaySettings, GATEWAY | changes, secrets)

    assert (few.pictures, many.pictures) == (3, 20)
    assert read_settings(GatewaySettings, GATEWAY, secrets).pictures == 0


def test_personas_are_read_from_json(secrets: Path) -> None:
    """As in .env.gpu.example; empty means none."""
    changes = {"PERSONAS": '{"Teacher": "You teach: patiently.", "Зануда": "x"}'}
    settings = read_settings(GatewaySettings, GATEWAY | changes, secrets)

    assert settings.personas == {"Teacher": "You teach: patiently.", "Зануда": "x"}
    assert read_settings(GatewaySettings, GATEWAY, secrets).personas == {}


def test_models_are_read_in_their_order(secrets: Path) -> None:
    """The log shows what users see of them, and nothing of what the engine calls them."""
    changes = {"MODELS": '{"Умная": "secret-70b", "Fast": "secret-8b"}'}
    settings = read_settings(GatewaySettings, GATEWAY | changes, secrets)

    assert list(settings.models.items()) == [("Умная", "secret-70b"), ("Fast", "secret-8b")]
    assert settings.public()["models"] == "Умная, Fast"
    assert "secret" not in str(settings.public())
    assert read_settings(GatewaySettings, GATEWAY, secrets).models == {}


@pytest.mark.parametrize(
    ("name", "content"),
    [("bot_token", "not-a-token-at-all"), ("link_token", "short"), ("bot_token", None)],
)
def test_bad_secret_is_named_but_not_shown(secrets: Path, name: str, content: str | None) -> None:
    """A secret that is wrong or absent is named; its content is not repeated."""
    if content is None:
        (secrets / name).unlink()
    else:
        (secrets / name).write_text(content)

    with pytest.raises(BadSetting, match=name) as error:
        read_settings(RelaySettings, RELAY, secrets)

    assert content is None or content not in str(error.value)


def test_public_settings_hold_no_secret(secrets: Path) -> None:
    """What is logged at the start shows no token and no user."""
    shown = str(read_settings(RelaySettings, RELAY, secrets).public())

    assert TOKEN not in shown
    assert LINK not in shown
    assert "22" not in shown
    assert "10.66.0.2" in shown
