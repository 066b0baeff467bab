"""Owns entering a network namespace for the time of one call."""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
"""From linux/sched.h; Python 3.11's os has no setns."""


def do_in_namespace(file: int, act: Callable[[], T]) -> T:
    """Call something in the network namespace that an open file stands for; returns its result.

    In a thread of its own, since a thread is what enters. Sockets that are opened there stay
    there, whoever uses them.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(file, CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            results.append(act())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
