"""Owns what the leak suite shares: one running pair, one unprotected twin, one report."""

import os
import shutil
from collections.abc import Iterator

import pytest
from python_on_whales import DockerClient

from tests.conftest import STATE, say_aloud
from tests.integration.lab import Lab
from tests.integration.tunnels import Keys
from tests.leaks.behaviour.namespaces import Namespace, open_namespaces
from tests.leaks.guard import Guard, standing_guard
from tests.leaks.mutants.report import Report as MutantReport
from tests.leaks.report import Report
from tests.leaks.world import (
    CONTROL_SUBNET,
    NEIGHBOUR,
    SUBNET,
    Control,
    World,
    running_control,
    running_world,
)

NETWORKS = ("198.18.6.0/24", "198.18.70.0-198.18.74.255")
SCANNERS = (f"{SUBNET}.{NEIGHBOUR}", f"{CONTROL_SUBNET}.{NEIGHBOUR}")


def pytest_sessionstart(session: pytest.Session) -> None:
    if not is_worker(session.config):
        shutil.rmtree(STATE / "mutants", ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of mutants, and the same in .test/mutants.json."""
    parts = sorted((STATE / "mutants").glob("*.json"))
    if parts and not is_worker(terminalreporter.config):
        report = MutantReport.of(parts)
        report.write(STATE / "mutants.json")
        terminalreporter.write_line("\n" + report.table())


def is_worker(config: pytest.Config) -> bool:
    """Whether this process runs tests for another one, which tells the results."""
    return hasattr(config, "workerinput")


@pytest.fixture(scope="session")
def mutants() -> Iterator[MutantReport]:
    """What becomes of mutants in this process; several may share the work, by file."""
    report = MutantReport()
    yield report
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    report.write(STATE / "mutants" / f"{worker}.json")


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """The closing table: printed past pytest's capture, and written as JSON."""
    report = Report()
    yield report
    report.write(STATE / "leaks.json")
    say_aloud(request, "\n" + report.table())


@pytest.fixture(scope="session")
def guard(report: Report) -> Iterator[Guard]:
    """Nothing of the tests leaves their networks, or the run fails."""
    with standing_guard(NETWORKS, SCANNERS) as guard:
        yield guard
        report.escaped_packets = guard.escaped()
        escapes = guard.escapes()
    assert report.escaped_packets == 0, escapes


@pytest.fixture(scope="session")
def control(docker: DockerClient, guard: Guard) -> Iterator[Control]:
    with running_control(docker, guard) as control:
        yield control


@pytest.fixture(scope="session")
def world(docker: DockerClient, guard: Guard, control: Control, report: Report) -> Iterator[World]:
    with running_world(docker, guard) as world:
        yield world
        world.wire.settle()
        report.lost_frames = world.wire.lost() + control.wire.lost()
    assert report.lost_frames == 0, "the captures lost frames: they prove nothing"


@pytest.fixture(scope="module")
def namespaces(
    docker: DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Namespace]]:
    """The product's containers, one for each ruleset, in which rules are tried."""
    with (
        Lab(docker, "mutants-rules", "198.18.79") as lab,
        open_namespaces(lab, Keys(tmp_path_factory.mktemp("keys"))) as namespaces,
    ):
        yield namespaces
