"""Owns telling what failed at once: a run with virtual machines takes a while."""

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A hook, for the conftest that imports it."""
    if report.failed:
        print(f"\n{report.longreprtext[-6000:]}", flush=True)
