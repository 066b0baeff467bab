"""Owns what tests share: the pair of nodes, the stub internet, and Docker seen from Python."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from hypothesis import settings
from python_on_whales import DockerClient

from scripts.pair import Pair
from scripts.steps import Steps
from scripts.telegram_user import TelegramUser

# The same examples each time: what fails is the change. HYPOTHESIS_PROFILE=default draws others.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".test"
USERS = tuple(range(1001, 1101))
ADMIN = USERS[-1]
STRANGER = 6666


def say_aloud(request: pytest.FixtureRequest, line: str) -> None:
    """Print past pytest's capture: what is told while a suite runs, and its closing table."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        print(line, flush=True)


@pytest.fixture(scope="session")
def docker() -> DockerClient:
    """Docker, typed."""
    return DockerClient()


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Both nodes with the real small model; one pair for the whole run, removed after it."""
    pair = Pair(
        name="test",
        subnet="198.18.1",
        state=STATE / "pair",
        users=USERS,
        extra_settings=(
            ("ANSWER_TOKENS", "160"),  # long enough to be seen growing
            ("ADMINS", str(ADMIN)),
        ),
    )
    yield from running(pair)


def running(
    pair: Pair, props: Callable[[Pair], AbstractContextManager[None]] = lambda _: nullcontext()
) -> Iterator[Pair]:
    """Start a pair from nothing, and leave nothing of it behind.

    `props` lays out what the pair's overlays want, when its state directory is there.
    """
    steps = Steps(4, STATE / f"{pair.name}.log", sys.stderr)
    with pair.hold():
        with steps.step("removing what an earlier run left") as step:
            pair.down(step, volumes=True)
        try:
            with steps.step("keys and settings") as step:
                pair.prepare(step)
            with props(pair):
                with steps.step("test internet and both nodes") as step:
                    pair.start_internet(step)
                    pair.start_nodes(step)
                with steps.step("first contact") as step:
                    pair.wait_for_contact(step)
                yield pair
        finally:
            with steps.step("removing the pair") as step:
                pair.down(step, volumes=True)


@pytest.fixture(scope="session")
def unused_users() -> Iterator[int]:
    return iter(USERS[:-1])


@pytest.fixture
def admin(pair: Pair) -> TelegramUser:
    """The user who may see how things stand."""
    return TelegramUser(pair.control_socket, ADMIN)


@pytest.fixture
def user(pair: Pair, unused_users: Iterator[int]) -> TelegramUser:
    """A user whom the bot serves, with an empty chat, no history and a full budget of messages."""
    return TelegramUser(pair.control_socket, next(unused_users))


@pytest.fixture
def stranger(pair: Pair) -> TelegramUser:
    """A user who is on no list."""
    return TelegramUser(pair.control_socket, STRANGER)


# pytest-docker: the stub Bot API server and the resolver alone, for tests of single services.


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return "test-integration"


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(ROOT / "tests" / "stubs" / "internet.yml")


@pytest.fixture(scope="session")
def internet_state() -> Path:
    """Where the stubs of integration tests leave their certificate and control socket."""
    state = STATE / "integration"
    for name in ("telegram", "resolver"):
        folder = state / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # the stubs write as a user of their own; .test is closed to others
    return state


@pytest.fixture(scope="session")
def docker_compose_command(internet_state: Path) -> str:
    settings = internet_state / "internet.env"
    settings.write_text(
        f"SUBNET=198.18.2\nINTERNET=test-integration-internet\nSTATE={internet_state}\n",
        encoding="utf-8",
    )
    return f'docker compose --project-directory "{ROOT}" --env-file "{settings}"'


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    return ["down -v", "up -d --wait --wait-timeout 60 --no-build --pull never"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down -v"]


@pytest.fixture(scope="session")
def internet(docker_services: object, internet_state: Path) -> Path:
    """The running stub internet; returns its state directory."""
    return internet_state
