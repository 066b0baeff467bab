"""Makes mutants of a ruleset: each rule removed, each match dropped, each chain and table opened.

Reads the rulesets line by line, as they are written: one statement a line. A line that it does not
understand is an error, so that a new kind of rule gets its mutants, too.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tests.leaks.behaviour.rules import ELSEWHERE, RESOLVER, Ruleset

MATCHES = re.compile(
    r'[io]ifname "[^"]+"'
    r"|ip [sd]addr \. udp [sd]port (?:!= )?@\w+"
    r"|ip [sd]addr (?!\.)\S+"
    r"|(?:tcp|udp|th) [sd]port \S+"
    r"|udp length (?:!= )?\S+"
    r"|@th,\d+,\d+ (?:!= )?(?:\{[^}]*\}|\S+)"
    r"|meta l4proto \{[^}]*\}"
    r"|ct direction \w+"
    r"|ct state \w+"
    r"|icmp (?:type|code) \S+"
    r"|ip version 4"
    r"|ip protocol \w+"
    r"|ip frag-off & 0x1fff != 0"
    r"|ether type (?:!= )?\w+"
    r"|update @\w+ \{[^}]*\}"
    r"|limit rate (?:over )?\S+ burst \S+ packets"
)
VERDICT = re.compile(r'(counter name "\w+" ?)?(notrack ?)?(accept|drop|goto \w+)?')
LIMIT = re.compile(r"limit rate (?:over )?(\d+)/second burst (\d+) packets")
COUNTER = re.compile(r'counter name "\w+"')
VALUES = re.compile(r"(@th,64,32 != |meta l4proto )\{ ([^}]*) \}")
ONE_MORE = {"@th,64,32 != ": "0x02000000", "meta l4proto ": "253"}
"""What is added to several values: the answer to a handshake, a protocol that nobody knows."""

HEAD = re.compile(
    r"type filter hook (\w+) (devices = \S+ )?priority (?:filter|raw); policy (drop|accept);"
)
SET_PROPERTIES = re.compile(r"(type|flags|timeout|size|auto-merge|elements)\b")


class UnknownStatement(Exception):
    """A ruleset holds a line that no mutant is made of: teach mutants/nft.py to read it."""


@dataclass(frozen=True)
class RulesMutant:
    """A ruleset with one thing removed or weakened."""

    name: str
    rules: str


Changed = Callable[[str, str], RulesMutant]
"""Makes a mutant of a name and of what stands in the place of one line."""


def mutants_of(rules: str) -> Iterator[RulesMutant]:
    """All mutants of one file, in the order of its lines."""
    lines = rules.splitlines()
    opened: list[tuple[str, int]] = []  # tables, chains, sets: kind with name, first line
    for number, line in enumerate(lines):
        statement = re.sub(r"\s+#.*", "", line).strip()
        if (
            not statement
            or statement.startswith("#")
            or re.fullmatch(r"counter \w+ \{\}", statement)
        ):
            continue  # a counter is declared for its rule, whose removal is a mutant
        where = opened[-1][0] if opened else ""

        def changed(name: str, new: str, number: int = number) -> RulesMutant:
            kept = [*lines[:number], *([new] if new else []), *lines[number + 1 :]]
            return RulesMutant(name, "\n".join(kept) + "\n")

        if statement == "flush ruleset":
            yield changed("flush ruleset removed", "")
        elif statement.endswith("{"):
            opened.append((f"{where}/{statement[:-1].strip()}".lstrip("/"), number))
        elif statement == "}":
            name, first = opened.pop()
            if " set " not in f" {name.rpartition('/')[2]} ":
                kept = lines[:first] + lines[number + 1 :]
                yield RulesMutant(f"{name}: removed", "\n".join(kept) + "\n")
        elif "/set " in where:
            has_intervals = "flags interval" in "\n".join(lines[opened[-1][1] : number])
            yield from set_mutants(where, statement, changed, has_intervals=has_intervals)
        elif head := HEAD.fullmatch(statement):
            if head[3] == "drop":
                yield changed(f"{where}: policy accept", statement.replace("drop", "accept"))
            yield changed(f"{where}: hooked nowhere", "")
            if head[2]:
                elsewhere = statement.replace(head[2], 'devices = { "lo" } ')
                yield changed(f"{where}: hooked to another device", elsewhere)
        else:
            yield from rule_mutants(where, statement, changed)


def rule_mutants(where: str, statement: str, changed: Changed) -> Iterator[RulesMutant]:
    matches = MATCHES.findall(statement)
    rest = " ".join(MATCHES.sub("", statement).split())
    if not VERDICT.fullmatch(rest):
        raise UnknownStatement(statement)
    yield changed(f"{where}: {statement}: removed", "")
    for match in matches:
        if not rest and match.startswith("update"):
            continue  # all that the rule does: the same as removed
        without = " ".join(statement.replace(match, "", 1).split())
        yield changed(f"{where}: {statement}: without `{match}`", without)
    if values := VALUES.search(statement):
        listed = values[2].split(", ")
        for value in listed:
            others = ", ".join(other for other in listed if other != value)
            without = statement.replace(values[0], f"{values[1]}{{ {others} }}")
            yield changed(f"{where}: {statement}: without the value {value}", without)
        more = f"{values[1]}{{ {', '.join([*listed, ONE_MORE[values[1]]])} }}"
        yield changed(f"{where}: {statement}: one value more", statement.replace(values[0], more))
    counter = COUNTER.search(statement)
    if counter and statement != counter[0]:
        without = " ".join(statement.replace(counter[0], "", 1).split())
        yield changed(f"{where}: {statement}: does not count", without)
    if limit := LIMIT.search(statement):
        if not any(match.startswith("limit") for match in matches):
            yield changed(f"{where}: {statement}: no limit", statement.replace(limit[0], ""))
        faster = limit[0].replace(f"{limit[1]}/", f"{limit[1]}00/")
        yield changed(
            f"{where}: {statement}: a hundred times the rate", statement.replace(limit[0], faster)
        )
        longer = limit[0].replace(f"burst {limit[2]}", f"burst {limit[2]}0")
        yield changed(
            f"{where}: {statement}: ten times the burst", statement.replace(limit[0], longer)
        )


def set_mutants(
    where: str, statement: str, changed: Changed, *, has_intervals: bool
) -> Iterator[RulesMutant]:
    kind = SET_PROPERTIES.match(statement)
    if not kind:
        raise UnknownStatement(statement)
    if kind[1] == "elements":
        yield changed(f"{where}: no elements", "")
        if has_intervals:
            yield changed(f"{where}: any address", "elements = { 0.0.0.0/0 }")
        else:
            both = f"{RESOLVER.address}, {ELSEWHERE.address}"
            yield changed(f"{where}: another address as well", f"elements = {{ {both} }}")
            yield changed(f"{where}: another address", f"elements = {{ {ELSEWHERE.address} }}")
    elif kind[1] == "size":
        yield changed(f"{where}: no size", "")
        yield changed(f"{where}: four times the size", "size 65536")
    elif kind[1] == "timeout":
        yield changed(f"{where}: members stay for an hour", "timeout 1h")
    elif kind[1] == "auto-merge":
        yield changed(f"{where}: no auto-merge", "")


OTHER_VALUES = {
    "address": "10.66.0.77",
    "peer": "10.66.0.99",
    "link_port": "8081",
    "endpoint": ELSEWHERE.address,
    "port": "80",
    "networks": f"{{ {ELSEWHERE.address}/32 }}",
    "resolvers": f"{{ {ELSEWHERE.address} }}",
    "outside": '{ "lo" }',
}
"""What the settings could have said instead."""


def other_values(ruleset: Ruleset) -> Iterator[tuple[str, Ruleset]]:
    """The same rules with one variable that says something else."""
    for name, said in ruleset.variables.items():
        for value in (OTHER_VALUES[name], *(other_peers(said) if name == "peer" else ())):
            variables = ruleset.variables | {name: value}
            yield f"${name} is {value}", replace(ruleset, variables=variables)


def other_peers(peers: str) -> Iterator[str]:
    """Of several peers: without each of them, with one more, and all that are near them."""
    listed = peers.strip("{ }").split(", ")
    if len(listed) == 1:
        return
    for peer in listed:
        yield f"{{ {', '.join(other for other in listed if other != peer)} }}"
    network = listed[0].rpartition(".")[0]
    yield f"{{ {', '.join([*listed, f'{network}.99'])} }}"
    yield f"{network}.0/24"
