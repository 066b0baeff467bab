"""Owns the operator's command: one module a sub-command, each with ABOUT, `add_arguments`, `run`.

A module is found by its file; one that a machine does not have is a sub-command that it does not
have. What runs on a node (doctor, prove, status) uses Python's standard library alone.
"""

VERSION = "0.1.0"
