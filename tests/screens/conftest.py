"""The whole path from a user to the engine and back, within one process."""

from tests.unit.chain.conftest import chain

__all__ = ["chain"]
