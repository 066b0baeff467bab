"""Checks of behaviour: each tries something that a node must refuse or allow, and reports findings.

`rules` tries packets against rulesets, in the namespaces of `namespaces`; `confinement` says what
each service may do, and `cells` puts somebody in its place; `player` and `inmate` are what runs
inside. All of it works on any world that it is given: an unchanged one, where no finding may come,
or a mutant, where one must. Nothing here needs pytest.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was tried and went otherwise than it must."""

    check: str
    """What was tried, by whom: `packet socket: TCP to the endpoint`."""
    seen: str
    """What happened instead."""

    def __str__(self) -> str:
        return f"{self.check}: {self.seen}"
