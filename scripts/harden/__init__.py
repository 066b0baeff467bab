"""Hardens the host of a node: what shall be there, what is, the way to it, and the way back.

Each of its parts (firewall, sshd, ...) only says what it wants; `change` does it and `snapshot`
takes it back. Python's standard library alone, and nothing is fetched.
"""
