"""Owns the operator's command: one module a sub-command, each with ABOUT, `add_arguments`, `run`.

Beside these a module has EXIT_STATUS and FILES, for its manual.

A module is found by its file; one that a machine does not have is a sub-command that it does not
have. What runs on a node uses Python's standard library alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

VERSION = "0.1.0"


def available() -> list[str]:
    """Names of the sub-commands that are on this machine."""
    found = pkgutil.iter_modules(__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
