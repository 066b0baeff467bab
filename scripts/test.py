"""Owns ./scripts/test: makes the machine ready, runs the stages by name, and counts."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, replace
from pathlib import Path

from scripts import setup
from scripts.check import checks
from scripts.steps import Step, StepFailed, Steps, duration, end_on_sigterm

ROOT = setup.ROOT
VENV = ROOT / ".venv"
STATE = ROOT / ".test"
REQUIREMENTS = ROOT / "requirements" / "test.txt"


@dataclass(frozen=True)
class Stage:
    """One stage: what it needs and which tests it runs."""

    name: str
    about: str
    needs_docker: bool = False
    images: tuple[setup.Images, ...] = ()
    paths: tuple[str, ...] = ()
    mark: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    """Variables of the environment, unless the caller has set them."""
    options: tuple[str, ...] = ()
    """Further arguments for pytest."""
    packages: tuple[str, ...] = ()
    """Debian packages that its tests call on this machine."""


SIDE_BY_SIDE = ("--numprocesses=6", "--dist=worksteal")
"""Unit tests wait more than they compute."""

TWO_AT_ONCE = ("--numprocesses=2", "--dist=loadfile")
"""Tests with containers wait for half of their time; those of a file share what they start."""

ALONE = ("tests/integration/test_tunnel_flood.py", "tests/integration/test_workers.py")
"""Integration tests whose figures another test beside them would spoil."""

FUZZED = (
    "tests/unit/relay/test_rendering_properties.py::test_made_up_outputs",
    "tests/unit/chain/test_fuzz.py",
)
"""Unit tests whose number of examples is what the stage `fuzz` is for."""

EVERYTHING = (setup.RELAY_NODE, setup.model_node("llamacpp"), setup.STUBS, setup.BYSTANDERS)
STUB_ENGINE = (setup.RELAY_NODE, setup.model_node("llamacpp"), setup.STUBS)
MACHINES = ("qemu-system-x86", "mmdebstrap", "e2fsprogs", "iproute2", "util-linux")
"""What makes and runs virtual machines."""

STAGES = (
    Stage("check", "style, types, import rules, shell, Compose files", needs_docker=True),
    Stage(
        "unit",
        "tests without containers",
        paths=("tests/unit",),
        options=(*SIDE_BY_SIDE, *(f"--deselect={test}" for test in FUZZED)),
        packages=("gnupg", "nftables"),  # encrypts backups; reads rulesets of the host
    ),
    Stage(
        "screens",
        "what users see, drawn into .test/screens for eyes to judge, light and dark",
        paths=("tests/screens",),
        options=SIDE_BY_SIDE,
        packages=("fonts-dejavu-core", "fonts-dejavu-extra"),
    ),
    Stage(
        "stack",
        "both nodes with the real small model",
        needs_docker=True,
        images=EVERYTHING,
        paths=("tests/stack",),
        packages=("openssh-client",),  # signs what `prove` saw
    ),
    Stage(
        "fuzz",
        "100,000 made-up answers shown, 20,000 made-up updates carried",
        paths=FUZZED,
        settings=(("FUZZ_OUTPUTS", "100000"), ("FUZZ_UPDATES", "20000")),
        options=SIDE_BY_SIDE,
    ),
    Stage(
        "faults",
        "200 faults in six minutes under load, the same each time; FAULTS_SEED=N for others",
        needs_docker=True,
        images=STUB_ENGINE,
        paths=("tests/faults",),
        settings=(("FAULTS_SEED", "851412"),),  # what fails is the change, not the day's luck
        options=("-o", "faulthandler_timeout=1200"),
    ),
    Stage(
        "mutants",
        "each rule and each key that protects is removed in turn, and must be missed",
        needs_docker=True,
        images=(*EVERYTHING, setup.WORKER),
        paths=("tests/leaks/test_rules.py", "tests/leaks/test_confinement.py"),
        options=("-o", "faulthandler_timeout=900", *TWO_AT_ONCE),
    ),
    Stage(
        "integration",
        "services against stub containers",
        needs_docker=True,
        images=EVERYTHING,
        paths=("tests/integration",),
        options=(*(f"--ignore={path}" for path in ALONE), *TWO_AT_ONCE),
        # gnupg seals backups; `deploy` logs in to sshd.
        packages=("gnupg", "openssh-client", "openssh-server"),
    ),
    Stage(
        "alone",
        "what is measured while nothing else runs: a flood at the tunnel's port, two boxes",
        needs_docker=True,
        images=(*EVERYTHING, setup.WORKER),
        paths=ALONE,
    ),
    Stage(
        "leaks",
        "what leaves either node, captured, while hostile workloads try every way out",
        needs_docker=True,
        images=(*EVERYTHING, setup.WORKER),
        paths=("tests/leaks",),
        options=(
            "--ignore=tests/leaks/test_rules.py",
            "--ignore=tests/leaks/test_confinement.py",
            *("-o", "faulthandler_timeout=900"),
        ),
    ),
    Stage(
        "vm",
        "both nodes as whole virtual machines: boots, reboots, Docker's death; VM_ROUNDS=N of each",
        needs_docker=True,
        images=STUB_ENGINE,
        paths=("tests/vm",),
        options=("-o", "faulthandler_timeout=0", "-s", "-v"),
        packages=MACHINES,
    ),
)
BY_NAME = (
    Stage(
        "hardening",
        "`harden` on a whole virtual machine: back, confirmed, rebooted, attacked, undone",
        paths=("tests/hardening",),
        options=("-o", "faulthandler_timeout=0", "-s", "-v"),
        packages=(*MACHINES, "openssh-client"),
    ),
    Stage(
        "hosts",
        "from two bare virtual machines to a conversation: init, harden, deploy, reboots",
        needs_docker=True,
        images=STUB_ENGINE,
        paths=("tests/hosts",),
        options=("-o", "faulthandler_timeout=0", "-s", "-v"),
        packages=(*MACHINES, "openssh-client"),
    ),
    Stage(
        "vllm",
        "the real vLLM, CPU build; torch's build for CPUs must be to be had (WHEELS, see .env)",
        needs_docker=True,
        images=(setup.model_node("vllm-cpu"),),
        paths=("tests/vllm",),
    ),
    Stage(
        "soak",
        "other faults each time, for an hour or for FAULTS_SECONDS; twenty rounds of recoveries",
        needs_docker=True,
        images=EVERYTHING,
        paths=("tests/faults", "tests/leaks/test_recovery.py", "tests/vm"),
        settings=(("FAULTS_SECONDS", "3600"), ("LEAKS_ROUNDS", "20"), ("VM_ROUNDS", "20")),
        options=("-o", "faulthandler_timeout=0", "-s"),
        packages=MACHINES,
    ),
)
"""Stages that run only when they are asked for."""

WHOLE_RUN_MINUTES = 50
"""After so long the run of all stages begins no more tests with virtual machines: emulated cores
are as slow as the machine, and whoever waits for the result should have it within an hour."""

QUICK = (
    STAGES[0],
    replace(
        STAGES[1],
        mark="not long",
        settings=(("FUZZ_OUTPUTS", "600"), ("FUZZ_UPDATES", "1000")),
        options=SIDE_BY_SIDE,
    ),
    Stage(
        "quick",
        "the integration and stack tests marked `quick`",
        needs_docker=True,
        images=EVERYTHING,
        paths=("tests/integration", "tests/stack"),
        mark="quick",
    ),
)


@dataclass
class Count:
    """Results of one stage or of all."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: Count) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def main() -> int:
    end_on_sigterm()
    stages, extra = parse_arguments()
    total = Count()
    lines: list[str] = []
    began = time.monotonic()
    steps = Steps(1, STATE / "setup.log")
    if stages is STAGES:
        os.environ.setdefault("RUN_UNTIL", str(int(time.time() + 60 * WHOLE_RUN_MINUTES)))
    try:
        make_ready(steps, stages)
        for stage in stages:
            print(f"\n== {stage.name}: {stage.about}", flush=True)
            stage_began = time.monotonic()
            count = run_checks() if stage.name == "check" else run_pytest(stage, extra)
            total.add(count)
            line = f"{stage.name}: {count} ({duration(time.monotonic() - stage_began)})"
            lines.append(line)
            print(f"== {line}", flush=True)
    except StepFailed as failure:
        steps.fail(failure)
        total.failed += 1
    except KeyboardInterrupt:
        print("\nInterrupted. The next run removes what this one left.")
        total.failed += 1
    print(f"\nAll stages took {duration(time.monotonic() - began)}:")
    for line in lines:
        print(f"  {line}")
    print(total)
    return 1 if total.failed else 0


def parse_arguments() -> tuple[tuple[Stage, ...], list[str]]:
    names = [stage.name for stage in (*STAGES, *BY_NAME)]
    parser = argparse.ArgumentParser(
        prog="./scripts/test",
        description="Set up what the tests need, then run them. Without a stage: all but "
        "those that run by name, cheapest first. `quick` is for while you work.",
        epilog="Arguments after -- go to pytest: ./scripts/test unit -- -k ledger -x",
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join([*names, "quick"]))
    arguments = sys.argv[1:]
    extra: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, extra = arguments[:cut], arguments[cut + 1 :]
    wanted = parser.parse_args(arguments).stages
    unknown = [name for name in wanted if name not in [*names, "quick"]]
    if unknown:
        parser.error(f"there is no stage `{unknown[0]}`: choose from {', '.join(names)}, quick")
    if "quick" in wanted:
        return QUICK, extra
    if not wanted:
        return STAGES, extra
    return tuple(stage for stage in (*STAGES, *BY_NAME) if stage.name in wanted), extra


def make_ready(steps: Steps, stages: tuple[Stage, ...]) -> None:
    """Everything that the chosen stages need, and nothing else."""
    images = list(dict.fromkeys(image for stage in stages for image in stage.images))
    needs_docker = any(stage.needs_docker for stage in stages)
    packages = sorted({package for stage in stages for package in stage.packages})
    others = any(stage.name == "check" for stage in stages) + bool(packages)
    steps.total = 1 + others + 3 * needs_docker
    with setup.only_one():
        with steps.step("Python packages for the tests") as step:
            make_venv(step)
        if any(stage.name == "check" for stage in stages):
            with steps.step("shellcheck and shfmt") as step:
                get_shell_tools(step)
        if packages:
            with steps.step("Debian packages for the tests") as step:
                setup.apt_install(step, packages, f"installing {' and '.join(packages)}")
                step.say("there")
        if images:
            steps.total = steps.done + setup.step_count(images)
            setup.prepare(steps, images)
        elif needs_docker:
            setup.ready_docker(steps)


def make_venv(step: Step, venv: Path = VENV, requirements: Path = REQUIREMENTS) -> None:
    """A virtual environment with exactly the locked packages; made anew when the lock changes."""
    mark = venv / "made-from"
    digest = hashlib.sha256(f"{sys.version} {ROOT}".encode() + requirements.read_bytes())
    if mark.exists() and mark.read_text(encoding="utf-8") == digest.hexdigest():
        step.say("up to date")
        return
    if venv.exists():
        shutil.rmtree(venv)
    python = sys.executable
    if step.attempt([python, "-c", "import ensurepip, venv"]) != 0:
        setup.apt_install(step, ["python3-venv"], "installing Python's venv")
    step.run([python, "-m", "venv", str(venv)], doing="making a virtual environment")
    step.run(
        [str(venv / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
        + ["--require-hashes", "--no-deps", "-r", str(requirements)],
        doing=f"installing the packages of requirements/{requirements.name}",
        remedy="Check that a package index is reachable (pip's own settings apply).",
    )
    mark.write_text(digest.hexdigest(), encoding="utf-8")
    step.say("installed")


def get_shell_tools(step: Step) -> None:
    missing = [name for name in ("shellcheck", "shfmt") if shutil.which(name) is None]
    if missing and setup.is_known_debian() and os.geteuid() == 0:
        setup.apt_install(step, missing, f"installing {' and '.join(missing)}")
        missing = []
    step.say(f"{' and '.join(missing)} missing" if missing else "there")


def run_checks() -> Count:
    count = Count()
    for name, check in checks(VENV):
        began = time.monotonic()
        wrong = check()
        count.add(Count(failed=1) if wrong else Count(passed=1))
        verdict = "FAILED" if wrong else "passed"
        print(f"{name}: {verdict} ({duration(time.monotonic() - began)})", flush=True)
        for line in wrong.splitlines():
            print(f"    {line}", flush=True)
    return count


def run_pytest(stage: Stage, extra: list[str]) -> Count:
    """Run one stage's tests; the counts come from pytest's own report."""
    report = STATE / f"{stage.name}.xml"
    report.unlink(missing_ok=True)
    command = [str(VENV / "bin/python"), "-m", "pytest", f"--junitxml={report}"]
    command += ["-m", stage.mark] if stage.mark else []
    environment = {**dict(stage.settings), **os.environ}
    process = subprocess.Popen(
        [*command, *stage.options, *stage.paths, *extra], cwd=ROOT, env=environment
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(2)  # pytest tidies up and ends; a second Ctrl-C ends it at once
        process.wait()
        raise
    nothing_chosen = code == 5 and (extra or stage.mark)
    count = read_report(report)
    if code != 0 and not count.failed and not nothing_chosen:
        print(f"pytest ended with exit code {code} without naming a failed test")
        count.failed += 1
    return count


def read_report(report: Path) -> Count:
    """Counts of a JUnit report; errors (in fixtures, in collecting) are failures."""
    count = Count()
    if not report.exists():
        return count
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        failed = int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
        skipped = int(suite.get("skipped", "0"))
        passed = int(suite.get("tests", "0")) - failed - skipped
        count.add(Count(max(passed, 0), failed, skipped))
    return count


if __name__ == "__main__":
    sys.exit(main())
