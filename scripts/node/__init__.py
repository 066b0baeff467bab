"""Looks at the node that runs on this machine: its containers, namespaces, rulesets, settings.

Only looks: what it finds is judged by `doctor` and `prove`. Python's standard library alone.
"""
