"""The rulesets: what must pass does, nothing else does, and each rule is missed when it is gone.

Rules are changed in one place at a time and put to work in the namespaces of started containers;
the text of a file counts as no finding. What becomes of each mutant stands in a table at the end.
"""

import pytest
from python_on_whales import DockerClient

from tests.integration.lab import attempt
from tests.leaks.behaviour.namespaces import Namespace
from tests.leaks.behaviour.rules import (
    RULESETS,
    WIDE_OPEN,
    PlayerFailed,
    examine,
    examine_standing,
    unprotected,
)
from tests.leaks.mutants import nft
from tests.leaks.mutants.report import Report

NAMES = [ruleset.name for ruleset in RULESETS]


@pytest.mark.parametrize("name", NAMES)
def test_rules_that_the_product_has_loaded_hold(
    namespaces: dict[str, Namespace], name: str
) -> None:
    """In the namespace of a started container: what must pass passes, and nothing else does."""
    space = namespaces[name]
    trials = [t for t in space.ruleset.trials(space.ports) if not t.before_rules]

    findings = examine_standing(space.ruleset, space.player, trials, space.ports)

    assert findings == []


@pytest.mark.parametrize("name", NAMES)
def test_rules_hold_over_what_stood_before(namespaces: dict[str, Namespace], name: str) -> None:
    """Neither earlier rules nor conversations that were open before live on."""
    space = namespaces[name]

    findings = examine(space.ruleset, space.player, space.ports, space.ruleset.rules, patient=True)

    assert findings == []


@pytest.mark.parametrize("name", NAMES)
def test_files_of_rules_are_what_the_product_loads(
    namespaces: dict[str, Namespace], name: str
) -> None:
    """The kernel has the same after a start as after loading the file, so mutants are of it."""
    space = namespaces[name]

    space.player.load(space.ruleset.rules, space.ruleset.variables)

    assert space.player.listing() == space.loaded


@pytest.mark.parametrize("name", NAMES)
def test_without_rules_everything_that_is_tried_passes(
    namespaces: dict[str, Namespace], name: str
) -> None:
    """The control: no trial is refused by anything but the rules."""
    space = namespaces[name]

    assert unprotected(space.ruleset, space.player, space.ports) == []


@pytest.mark.parametrize("family", ["inet", "netdev"])
@pytest.mark.parametrize("name", ["telegram", "resolvers"])
def test_health_sees_a_wider_set(
    docker: DockerClient, namespaces: dict[str, Namespace], name: str, family: str
) -> None:
    """Whoever adds an address to those that the egress may call has changed its rules."""
    space = namespaces["egress"]
    egress = docker.container.inspect("mutants-rules-egress")
    space.player.load(space.ruleset.rules, space.ruleset.variables)
    assert attempt(egress, "health") == (True, ""), "control"
    member = f"element {family} node {name} {{ 198.18.75.22 }}"

    space.player.run("nft", f"add {member}")

    assert attempt(egress, "health") == (False, "")
    space.player.run("nft", f"delete {member}")
    assert attempt(egress, "health") == (True, "")


# Mutants


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_is_missed(namespaces: dict[str, Namespace], mutants: Report, name: str) -> None:
    """Remove or weaken one statement: something passes that must not, or does not that must."""
    space = namespaces[name]
    made = list(nft.mutants_of(space.ruleset.rules))
    assert len(made) > 20, "the ruleset was not understood"

    for mutant in made:
        assert listing(space, mutant.rules) != space.loaded, f"{mutant.name} changes nothing at all"
        patient = "members stay" in mutant.name
        findings = examine(space.ruleset, space.player, space.ports, mutant.rules, patient=patient)
        mutants.note(name, mutant.name, findings)
    for about, ruleset in nft.other_values(space.ruleset):
        findings = examine(ruleset, space.player, space.ports, ruleset.rules)
        mutants.note(name, about, findings)

    assert listing(space, space.ruleset.rules) == space.loaded, "the rules are back"
    assert examine(space.ruleset, space.player, space.ports, space.ruleset.rules) == []
    row = mutants.rows[name]
    assert (row.survivors, row.wrongly_excused) == ([], [])


def listing(space: Namespace, rules: str) -> str:
    """Load rules over what stood before; how the kernel shows them, or why they do not load."""
    space.player.load(WIDE_OPEN, {})
    try:
        space.player.load(rules, space.ruleset.variables)
    except PlayerFailed as error:
        return str(error)
    return space.player.listing()


def test_rule_that_is_not_understood_is_an_error() -> None:
    """A rule of a new kind stops the suite until there are mutants of it."""
    rules = RULESETS[0].rules.replace("ct direction original", "meta mark 1")

    with pytest.raises(nft.UnknownStatement):
        list(nft.mutants_of(rules))
