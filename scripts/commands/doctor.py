"""Looks at the node that runs on this machine and says what is amiss and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Iterable
from typing import IO

from scripts.doctor.examination import checks_of, examine, status_of
from scripts.doctor.finding import Finding, Level
from scripts.node.arguments import add_node_arguments, node_of
from scripts.node.node import Node
from scripts.node.tools import CannotLook, Tools

ABOUT = "look at the node that runs here, and say what is amiss and what to do"

EXIT_STATUS = {
    0: "all is in order",
    1: "there are warnings, or something could not be looked at",
    2: "there are failures",
}
FILES = {
    ".env, Compose files": "what the containers are compared with",
    "/run": "counters of refused packets, from one look to the next",
}

COLOURS = {
    Level.OK: "32",
    Level.WARNING: "33",
    Level.FAILURE: "31;1",
    Level.NOT_APPLICABLE: "2",
    Level.COULD_NOT_LOOK: "35",
}
WIDTH = 96

EXAMPLES = """\
examples:
  %(prog)s            the node that runs here, by the files' own names
  %(prog)s --node relay -p relay -f compose.vps.yml --env-file .env
  %(prog)s --json     for machines
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES % {"prog": parser.prog}
    add_node_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for machines")


def run(arguments: argparse.Namespace) -> int:
    try:
        node = node_of(arguments, Tools())
    except CannotLook as why:
        arguments.parser.error(str(why))
    findings = []
    for finding in examine(node, checks_of(node.kind)):
        findings.append(finding)
        if not arguments.json:
            show(finding, is_first_of_check(findings), sys.stdout)
    if arguments.json:
        print(json.dumps(as_json(node, findings), indent=2))
    else:
        print(f"\n{summary(findings)}")
    return status_of(findings)


def is_first_of_check(findings: list[Finding]) -> bool:
    return len(findings) == 1 or findings[-2].check != findings[-1].check


def show(finding: Finding, is_first: bool, out: IO[str]) -> None:
    """One finding in lines of a readable width, in colour on a terminal."""
    if is_first:
        print(f"{bold(finding.check, out)}", file=out)
    label = f"{finding.level.value:>14}"
    if is_coloured(out):
        label = f"\x1b[{COLOURS[finding.level]}m{label}\x1b[0m"
    first, *more = textwrap.wrap(finding.text, WIDTH - 16, break_long_words=False) or [""]
    print(f"{label}  {first}", file=out)
    remedy = textwrap.wrap(
        finding.remedy,
        WIDTH - 16,
        initial_indent="-> ",
        subsequent_indent="   ",
        break_long_words=False,
    )
    for line in [*more, *remedy]:
        print(f"{'':16}{line}", file=out)
    out.flush()


def bold(text: str, out: IO[str]) -> str:
    return f"\x1b[1m{text}\x1b[0m" if is_coloured(out) else text


def is_coloured(out: IO[str]) -> bool:
    return out.isatty() and not os.environ.get("NO_COLOR")


def summary(findings: Iterable[Finding]) -> str:
    levels = [finding.level for finding in findings]
    counted = [
        (levels.count(Level.FAILURE), "failure", "failures"),
        (levels.count(Level.WARNING), "warning", "warnings"),
        (levels.count(Level.COULD_NOT_LOOK), "thing", "things"),
    ]
    words = [f"{count} {one if count == 1 else many}" for count, one, many in counted if count]
    if levels.count(Level.COULD_NOT_LOOK):
        words[-1] += " that could not be looked at"
    return f"{', '.join(words)}." if words else "All is in order."


def as_json(node: Node, findings: list[Finding]) -> dict[str, object]:
    return {
        "node": node.kind.name,
        "status": status_of(findings),
        "findings": [
            {
                "check": it.check,
                "level": it.level.value,
                "problem": it.problem,
                "text": it.text,
                "remedy": it.remedy,
            }
            for it in findings
        ],
    }
