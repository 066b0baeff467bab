"""Does something inside another network namespace, in a child process. Takes root."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.node.tools import CannotLook

CLONE_NEWNET = 0x40000000


def inside(namespace: Path, work: Callable[[], Any]) -> Any:
    """Do `work` inside a network namespace; what it returns goes through JSON.

    Raises CannotLook. The child keeps this process's own file system and privileges.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read_end)
            enter(namespace)
            os.write(write_end, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)  # nothing of the parent's is flushed or run a second time
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answers:
        answer = answers.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise CannotLook(f"{namespace} cannot be entered")
    return json.loads(answer)


def enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(descriptor)
