"""What the gateway relies on holds for the real vLLM, built for CPUs."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from python_on_whales import DockerClient

# Every test of that module runs here too, against the engine below.
from tests.integration.test_engines import *  # noqa: F403
from tests.integration.test_engines import Engine, ask, started, stream, wait_for


@pytest.fixture(scope="module")  # type: ignore[no-redef]  # instead of the engines imported above
def engine(docker: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The real vLLM, started once for all tests of this module."""
    yield from started("vllm-cpu", docker, tmp_path_factory.mktemp("engine"))


@pytest.mark.parametrize(("priority", "overtakes"), [(0, True), (100, False)])
def test_lower_priority_overtakes_those_that_wait(
    engine: Engine, priority: int, overtakes: bool
) -> None:
    """Whoever was served less goes first; with the same number it is the order of arrival."""
    crowd = 8
    first_words: list[str] = []

    def read(name: str, number: int) -> None:
        for position, _ in enumerate(stream(engine, ask(priority=number, max_tokens=40))):
            if position == 1:
                first_words.append(name)

    with ThreadPoolExecutor(crowd + 1) as pool:
        readers = [pool.submit(read, "crowd", 100) for _ in range(crowd)]
        wait_for(lambda: engine.running() == crowd, 20, "all of them are there")
        readers.append(pool.submit(read, "late", priority))
    for reader in readers:
        reader.result()

    ahead = first_words.index("late")
    print(f"\n{ahead} of {crowd} were served before the one of priority {priority}")
    assert len(first_words) == crowd + 1
    assert (ahead <= crowd // 2) == overtakes
