"""What the gateway relies on holds for the real vLLM, built for CPUs."""

from collections.abc import Iterator

import pytest
from python_on_whales import DockerClient

# Every test of that module runs here too, against the engine below.
from tests.integration.test_engines import *  # noqa: F403
from tests.integration.test_engines import Engine, started


@pytest.fixture(scope="module")  # type: ignore[no-redef]  # instead of the engines imported above
def engine(docker: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The real vLLM, started once for all tests of this module."""
    yield from started("vllm-cpu", docker, tmp_path_factory.mktemp("engine"))
