"""scripts/reconcile brings back what Docker has given up on, and leaves alone what is well."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.lab import PEER, ROOT, require, wait_until

PROJECT = "test-reconcile"
FILE = f"""
services:
  holder:
    image: {PEER}
    network_mode: none
    init: true
    command: [sleep, infinity]
    stop_grace_period: 0s
  member:
    image: {PEER}
    network_mode: service:holder
    depends_on: [holder]
    init: true
    restart: always
    command: [sleep, infinity]
    stop_grace_period: 0s
    healthcheck:
      test: [CMD-SHELL, "test ! -e /slow || sleep 60; test ! -e /ill"]
      interval: 1s
      timeout: 2s
      retries: 1
      start_period: 0s
"""


@dataclass(frozen=True)
class Project:
    arguments: tuple[str, ...]

    def compose(self, *command: str) -> None:
        run("docker", "compose", "-p", PROJECT, *self.arguments, *command)

    @property
    def command(self) -> list[str]:
        return [str(ROOT / "scripts/reconcile"), PROJECT, *self.arguments]

    def reconcile(self) -> list[str]:
        """Run the script once; what it said."""
        return run(*self.command).splitlines()

    def state(self, service: str) -> dict[str, object]:
        (state,) = json.loads(run("docker", "inspect", f"{PROJECT}-{service}-1"))
        return dict(state["State"])

    def namespace(self, service: str) -> str:
        return str(Path(f"/proc/{self.state(service)['Pid']}/ns/net").readlink())

    def is_well(self) -> bool:
        states = [self.state("holder"), self.state("member")]
        if not all(state["Running"] for state in states):
            return False
        return self.namespace("holder") == self.namespace("member")


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    require(PEER)
    file = tmp_path / "compose.yml"
    file.write_text(FILE)
    project = Project(("-f", str(file)))
    project.compose("down", "--timeout", "0")
    project.compose("up", "--detach", "--no-build", "--pull", "never")
    yield project
    project.compose("down", "--timeout", "0")


def test_what_is_well_is_left_alone(project: Project) -> None:
    """Nothing is said, nothing is started or restarted."""
    before = [project.state(service)["Pid"] for service in ("holder", "member")]

    assert project.reconcile() == []

    assert [project.state(service)["Pid"] for service in ("holder", "member")] == before


@pytest.mark.parametrize("services", [["member"], ["holder"], ["holder", "member"]])
def test_what_has_ended_is_started(project: Project, services: list[str]) -> None:
    """A container that Docker does not restart any more is back, and in the right namespace."""
    run("docker", "stop", *(f"{PROJECT}-{service}-1" for service in services))

    said = project.reconcile()

    assert f"{PROJECT}: {services[0]} has ended: starting it" in said
    assert project.is_well()
    assert project.reconcile() == []


def test_orphan_is_brought_home(project: Project) -> None:
    """A member of a holder that was restarted runs on in a namespace that nobody tends."""
    run("docker", "restart", "--time", "0", f"{PROJECT}-holder-1")
    assert not project.is_well()

    said = project.reconcile()

    assert said == [f"{PROJECT}: member was left behind in another namespace: restarting it"]
    assert project.is_well()


def test_member_of_a_holder_that_is_gone_is_made_anew(project: Project) -> None:
    """A holder that was removed and made again has another id: then Compose does it."""
    run("docker", "rm", "--force", f"{PROJECT}-holder-1")
    project.compose("up", "--detach", "--no-deps", "--pull", "never", "holder")
    assert not project.is_well()

    said = project.reconcile()

    assert said == [
        f"{PROJECT}: member belongs to a container that is no more: Compose makes it anew"
    ]
    assert project.is_well()


def test_unhealthy_container_is_restarted(project: Project) -> None:
    """Docker itself only marks it."""
    before = project.state("member")["Pid"]
    run("docker", "exec", f"{PROJECT}-member-1", "touch", "/ill")
    wait_until(lambda: health(project)["Status"] == "unhealthy", "the member is unhealthy", 20)

    said = project.reconcile()

    assert said == [f"{PROJECT}: member is unhealthy: restarting it"]
    assert project.state("member")["Pid"] != before


def test_slow_health_check_alone_restarts_nothing(project: Project) -> None:
    """Where checks run into their time-out the machine is busy; only a dozen in a row mean more."""
    before = project.state("member")["Pid"]
    run("docker", "exec", f"{PROJECT}-member-1", "touch", "/slow")
    wait_until(lambda: health(project)["Status"] == "unhealthy", "the member is unhealthy", 20)

    assert project.reconcile() == []
    assert project.state("member")["Pid"] == before

    wait_until(lambda: int(str(health(project)["FailingStreak"])) >= 12, "it hangs", 90)
    assert project.reconcile() == [f"{PROJECT}: member is unhealthy: restarting it"]
    assert project.state("member")["Pid"] != before


def health(project: Project) -> dict[str, object]:
    health = project.state("member")["Health"]
    assert isinstance(health, dict)
    return health


def test_project_that_was_taken_down_stays_down(project: Project) -> None:
    """An operator's `down` is not undone."""
    project.compose("down", "--timeout", "0")

    assert project.reconcile() == []

    assert (
        run("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}") == ""
    )


def test_processes_that_docker_has_lost_are_ended(project: Project) -> None:
    """They began before the end that Docker speaks of; what began after it is being started."""
    container = f"{PROJECT}-member-1"
    (identity,) = run("docker", "inspect", "--format", "{{.Id}}", container).split()
    homes = [path for path in Path("/sys/fs/cgroup").rglob(f"*{identity}*") if path.is_dir()]
    with subprocess.Popen(["sleep", "600"]) as older:
        time.sleep(0.2)  # older by more than the kernel's clock is coarse
        run("docker", "stop", "--time", "0", container)
        wait_until(lambda: not project.state("member")["Running"], "it has ended", 10)
        with subprocess.Popen(["sleep", "600"]) as younger:
            try:
                for process in (older, younger):
                    put_into(homes, process.pid)
                said = project.reconcile()

                assert older.wait(10) == -9, said
                assert younger.poll() is None, "control: a process is not ended for its place alone"
            finally:
                older.kill()
                younger.kill()
    assert f"process {older.pid} of it goes on" in said[0]
    assert f"{PROJECT}: member has ended: starting it" in said
    wait_until(project.is_well, "it runs again", 20)


def test_container_that_was_just_restarted_is_awaited(project: Project) -> None:
    """It may be one of an endless row: it is looked at until it stays, or ends with strays."""
    container = f"{PROJECT}-member-1"
    (identity,) = run("docker", "inspect", "--format", "{{.Id}}", container).split()
    homes = [path for path in Path("/sys/fs/cgroup").rglob(f"*{identity}*") if path.is_dir()]
    with subprocess.Popen(["sleep", "600"]) as stray:
        try:
            first = project.state("member")["StartedAt"]
            os.kill(int(str(project.state("member")["Pid"])), signal.SIGKILL)
            wait_until(lambda: has_restarted(project, first), "Docker has restarted it", 10)
            with subprocess.Popen(
                project.command, stdout=subprocess.PIPE, text=True, start_new_session=True
            ) as look:
                wait_until(lambda: sleeps(look), "the look awaits what comes of it", 10)
                look.send_signal(signal.SIGSTOP)  # or it might look between the next two
                run("docker", "stop", "--time", "0", container)
                put_into(homes, stray.pid)
                look.send_signal(signal.SIGCONT)
                said, _ = look.communicate(timeout=20)
            assert stray.wait(10) == -9, said
        finally:
            stray.kill()
    assert f"process {stray.pid} of it goes on" in said
    wait_until(project.is_well, "it runs again", 20)


def sleeps(look: subprocess.Popen[str]) -> bool:
    """Whether a process of this session is waiting for time to pass."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            is_asleep = (process / "comm").read_text() == "sleep\n"
            if is_asleep and os.getsid(int(process.name)) == look.pid:
                return True
    return False


def has_restarted(project: Project, first: object) -> bool:
    state = project.state("member")
    return state["Running"] is True and state["StartedAt"] != first


def put_into(cgroups: list[Path], process: int) -> None:
    """Make the cgroups of a container that has ended anew, with a process in them."""
    assert cgroups, "control: a running container has cgroups"
    for cgroup in cgroups:
        cgroup.mkdir(exist_ok=True)
        if (cgroup / "cpuset.cpus").exists():  # of version 1, takes nobody before it is filled
            for name in ("cpuset.cpus", "cpuset.mems"):
                (cgroup / name).write_text((cgroup.parent / name).read_text())
        (cgroup / "cgroup.procs").write_text(str(process))
