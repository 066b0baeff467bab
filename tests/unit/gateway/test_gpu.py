"""What the engine's container says of its GPUs is believed if it can be true."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.gateway.gpu import MEBIBYTE, Gpu, read_gpus


def test_a_line_a_gpu(tmp_path: Path) -> None:
    """As nvidia-smi prints it; what is no number is no GPU."""
    file = tmp_path / "gpu"
    file.write_text("87, 40960, 49140\n0, 3, 49140\n[N/A], 1, 2\n", encoding="utf-8")

    assert read_gpus(file) == [
        Gpu(87, 40960 * MEBIBYTE, 49140 * MEBIBYTE),
        Gpu(0, 3 * MEBIBYTE, 49140 * MEBIBYTE),
    ]


@pytest.mark.parametrize("what", ["missing", "pipe", "link", "directory", "noise", "old"])
def test_whatever_else_lies_there_is_nothing(what: str, tmp_path: Path) -> None:
    """A hostile engine can neither hold the gateway up nor make it read another file."""
    file, other = tmp_path / "gpu", tmp_path / "other"
    other.write_text("1, 2, 3\n", encoding="utf-8")
    match what:
        case "pipe":
            os.mkfifo(file)
        case "link":
            file.symlink_to(other)
        case "directory":
            file.mkdir()
        case "noise":
            file.write_bytes(os.urandom(1 << 20))
        case "old":
            file.write_text("1, 2, 3\n", encoding="utf-8")
            hour_ago = time.time() - 3600
            os.utime(file, (hour_ago, hour_ago))

    with at_most(5):
        assert not read_gpus(file)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Break off what blocks for longer."""

    def give_up(*_: object) -> None:
        raise AssertionError("it blocks")  # a TimeoutError is an OSError, which is expected there

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
