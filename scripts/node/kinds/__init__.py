"""The kinds of node, one a file. A machine that lacks a file knows nothing of that kind."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a node of this kind is made of."""

    name: str
    file: str
    """Its Compose file."""
    mark: str
    """The service that only this kind has; its image has Python, unless `python` says whose."""
    dials: bool
    """Whether it calls the other node (and so publishes nothing) or is called."""
    checks: tuple[str, ...]
    """Modules of checks that only this kind has."""
    python: str = ""
    """The service whose image has Python, where that of the mark has not."""
    called: str = ""
    """The setting that says at which UDP port of this machine somebody may call, if it is set."""
    calls_near: bool = False
    """Whether it calls the other node within a network of this machine's own."""
    speaks: bool = True
    """Whether the mark's image speaks the wire with the other node."""
    keeper: str = ""
    """The service that keeps a store; none where nothing is stored."""
    store: str = ""
    """The volume that the store is in, as the Compose file calls it."""
    held: tuple[str, ...] = ()
    """Packages that are never upgraded unattended: how their names begin."""
    panels: tuple[str, ...] = ()
    """Modules of what `status` shows of this kind alone."""


def kinds() -> dict[str, Kind]:
    """The kinds that this machine knows, by name."""
    found = [
        importlib.import_module(f"{__name__}.{module.name}").KIND
        for module in pkgutil.iter_modules(__path__)
    ]
    return {kind.name: kind for kind in found}
