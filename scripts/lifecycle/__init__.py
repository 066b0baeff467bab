"""Owns what `backup`, `restore`, `upgrade` and `uninstall` share. Python's standard library alone.

What is only on one kind of node is found by its kind: a node without a store has no keeper.
"""

from __future__ import annotations


class CannotDo(Exception):
    """A step could not be done; the message is for the operator and ends with what to do."""
