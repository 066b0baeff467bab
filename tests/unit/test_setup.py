"""Set-up decides right on machines of every kind, without touching this one."""

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import setup
from scripts.setup import Images, Source, archive_source, numbers
from scripts.steps import StepFailed, Steps, duration, last_lines

MIRROR = "http://mirror.example"
DEB822 = f"""\
Types: deb
URIs: {MIRROR}/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/some.gpg

Types: deb
URIs: {MIRROR}/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = f"""\
# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] {MIRROR}/debian bookworm main contrib
deb-src {MIRROR}/debian bookworm main
deb {MIRROR}/debian bookworm-backports main
"""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.mark.parametrize(
    ("text", "suite", "expected", "why"),
    [
        (
            DEB822,
            "bookworm",
            Source("http://mirror.example/debian", "/usr/share/keyrings/some.gpg"),
            "deb822",
        ),
        (
            DEB822,
            "bookworm-security",
            Source("http://mirror.example/debian-security", KEYRING),
            "no Signed-By: Debian's own keys",
        ),
        (ONE_LINE, "bookworm", Source("http://mirror.example/debian", "/k.gpg"), "one line"),
        (ONE_LINE, "trixie", None, "not listed"),
        ("deb http://x.example/debian bookworm contrib", "bookworm", None, "no main"),
        ("Types: deb-src\nURIs: http://x.example\nSuites: bookworm\n", "bookworm", None, "sources"),
        ("", "bookworm", None, "no sources at all"),
    ],
)
def test_archive_is_read_from_the_machines_own_sources(
    text: str, suite: str, expected: Source | None, why: str
) -> None:
    """The project names no archive of its own."""
    assert archive_source(suite, [text]) == expected, why


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.26.1-4", (2, 26, 1)), ("v2.24.4", (2, 24, 4)), ("26.1.5+dfsg1", (26, 1, 5)), ("", ())],
)
def test_versions_are_compared_as_numbers(version: str, expected: tuple[int, ...]) -> None:
    """2.9 is older than 2.24."""
    assert numbers(version) == expected
    assert numbers("2.9.1") < setup.MINIMUM_COMPOSE <= numbers("2.24.4")


def test_digest_follows_every_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content, name and mode of a file count; what Python leaves behind does not."""
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    source = tmp_path / "services" / "a.sh"
    source.parent.mkdir()
    source.write_text("one")
    images = Images("some images", (), None, ("services",))
    digests = [setup.digest_of(images)]

    source.write_text("two")
    digests.append(setup.digest_of(images))
    source.chmod(0o755)
    digests.append(setup.digest_of(images))
    source.rename(source.with_name("b.sh"))
    digests.append(setup.digest_of(images))
    (source.parent / "__pycache__").mkdir()
    (source.parent / "__pycache__" / "a.pyc").write_text("left behind")

    assert len(set(digests)) == 4
    assert setup.digest_of(images) == digests[-1]


def test_images_are_current_only_if_they_are_the_ones_that_were_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that somebody removed or replaced are built again."""
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "STATE", tmp_path / "state")
    present: dict[str, str] = {"node/a:1": "sha256:1"}
    monkeypatch.setattr(setup, "image_id", present.get)
    images = Images("some images", (), None, ())
    assert not setup.are_current(images)

    setup.write_record(
        images, {"inputs": setup.digest_of(images), "images": {"node/a:1": "sha256:1"}}
    )

    assert setup.are_current(images)
    present["node/a:1"] = "sha256:2"
    assert not setup.are_current(images)
    present.clear()
    assert not setup.are_current(images)


def test_compose_sees_nothing_of_the_callers_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the shell would win over every env file."""
    monkeypatch.setenv("VERSION", "9.9.9")
    monkeypatch.setenv("TUNNEL_PORT", "1")
    monkeypatch.setenv("DOCKER_HOST", "unix:///somewhere")

    environment = setup.compose_environment({"SUBNET": "198.18.7"})

    assert not {"VERSION", "TUNNEL_PORT"} & set(environment)
    assert environment["DOCKER_HOST"] == "unix:///somewhere"
    assert environment["SUBNET"] == "198.18.7"


def test_failed_step_names_the_log_and_shows_its_end(tmp_path: Path) -> None:
    """Whoever sees a failure sees its reason, and where the whole of it stands."""
    out = io.StringIO()
    steps = Steps(1, tmp_path / "step.log", out)

    def fail() -> None:
        with steps.step("something") as step:
            step.run(
                [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"],
                doing="trying it",
                remedy="Do better.",
            )

    with pytest.raises(StepFailed, match=r"trying it: .* exit code 3. Do better.") as failure:
        fail()
    steps.fail(failure.value)

    assert "[1/1] something: failed" in out.getvalue()
    assert "the reason" in out.getvalue()
    assert str(tmp_path / "step.log") in out.getvalue()


def test_commands_of_a_step_end_with_it(tmp_path: Path) -> None:
    """A time-out leaves no process behind, and a failure ends what runs beside it."""
    steps = Steps(1, tmp_path / "step.log", io.StringIO())
    endless = [sys.executable, "-c", "import time; time.sleep(600)"]
    began = time.monotonic()

    with steps.step("something") as step:
        assert step.attempt(endless, timeout=0.2) is None
        codes = step.attempt_together([[sys.executable, "-c", "raise SystemExit(4)"], endless])

    assert codes == [4, None]
    assert time.monotonic() - began < 30


def test_second_setup_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two set-ups at once would fight over apt and over the images' tags."""
    monkeypatch.setattr(setup, "STATE", tmp_path)
    second = (
        "import sys; from pathlib import Path; from scripts import setup\n"
        "setup.STATE = Path(sys.argv[1])\n"
        "with setup.only_one(): print('in', flush=True)\n"
    )

    with setup.only_one():
        waiting = subprocess.Popen(
            [sys.executable, "-c", second, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )
        assert waiting.stdout is not None
        said = waiting.stdout.readline()
        still_waits = waiting.poll() is None
    rest, _ = waiting.communicate(timeout=30)

    assert "waiting for it" in said
    assert still_waits
    assert rest == "in\n"


def test_bundle_of_certificates_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wrong BUILD_CA is told before a long build trips over it."""
    monkeypatch.setenv("BUILD_CA", str(tmp_path / "missing.crt"))
    steps = Steps(1, tmp_path / "step.log", io.StringIO())

    with steps.step("something") as step, pytest.raises(StepFailed, match="BUILD_CA"):
        setup.certificate_bundle(step)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.44, "0.4 s"), (12.3, "12 s"), (59.9, "1 min 00 s"), (185, "3 min 05 s")],
)
def test_durations_are_for_people(seconds: float, expected: str) -> None:
    """Nobody wants to read 185.0 seconds."""
    assert duration(seconds) == expected


def test_progress_bars_count_as_their_last_state(tmp_path: Path) -> None:
    """The end of a log is readable even where a program redrew its lines."""
    log = tmp_path / "log"
    log.write_bytes(b"one\n10%\r20%\r30%\n\n" + "zwölf".encode() + b"\n")

    assert last_lines(log, 2) == ["30%", "zwölf"]
    assert last_lines(tmp_path / "missing", 2) == []


def test_state_directories_are_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold keys and logs."""
    monkeypatch.setattr(setup, "STATE", tmp_path / "state")

    with setup.only_one():
        mode = (tmp_path / "state").stat().st_mode & 0o777

    assert mode == 0o700
