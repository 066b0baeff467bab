"""Files of integration tests run side by side; the tests of one file share containers."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One group for each file, or for each directory below this one: see `--dist=loadgroup`."""
    for item in items:
        if item.path.is_relative_to(HERE):
            group = item.path.relative_to(HERE).parts[0]
            item.add_marker(pytest.mark.xdist_group(group))
