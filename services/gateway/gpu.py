"""Reads how busy the GPUs are, from what the engine's launcher writes beside the engine's socket.

Whatever runs in the engine's container could write anything there: only a small regular file of
numbers is believed.
"""

import os
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 4096

MOST_AGE_SECONDS = 60.0

MEBIBYTE = 1 << 20

LINE = re.compile(rb" *([0-9]{1,3}), *([0-9]{1,9}), *([0-9]{1,9}) *")


@dataclass(frozen=True)
class Gpu:
    """One GPU as it was at most a minute ago."""

    load_percent: int
    used_bytes: int
    total_bytes: int


def read_gpus(file: Path) -> Sequence[Gpu]:
    """Read a line a GPU: load in percent, memory used, all of its memory (MiB).

    As nvidia-smi prints them with `--format=csv,noheader,nounits`; other lines are left out.
    """
    try:
        # Neither a pipe that never ends nor a link to a file of ours.
        opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        state = os.fstat(opened)
        if not stat.S_ISREG(state.st_mode) or time.time() - state.st_mtime > MOST_AGE_SECONDS:
            return ()
        lines = os.read(opened, MOST_BYTES).splitlines()
    except OSError:
        return ()
    finally:
        os.close(opened)
    matches = [LINE.fullmatch(line) for line in lines]
    return [
        Gpu(int(match[1]), int(match[2]) * MEBIBYTE, int(match[3]) * MEBIBYTE)
        for match in matches
        if match
    ]
