"""Owns which tests may run side by side: those of one file or folder share what they start."""

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]  # it has none
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

PARTS = 3  # of tests/integration/doctor/test_prove.py, the first three


class ByPlace(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives one worker all tests of a file; of a folder, where files share what they start."""

    def _split_scope(self, nodeid: str) -> str:
        return "/".join(nodeid.partition("::")[0].split("/")[:PARTS])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    return ByPlace(config, log) if config.getvalue("dist") == "loadfile" else None
