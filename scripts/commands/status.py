"""Shows how the node on this machine stands: containers, tunnel, and what goes through.

On a terminal the view is live: `q` or Ctrl-C ends it. Elsewhere, with --once or with --json it is
printed once. Numbers and times alone are shown, of nobody in particular, and nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys

from scripts.node.arguments import add_node_arguments, node_of
from scripts.node.tools import CannotLook
from scripts.status.live import is_possible, show
from scripts.status.look import HastyTools, Looker
from scripts.status.page import page, written

ABOUT = "show how the node that runs here stands, live on a terminal"

EXIT_STATUS = {
    0: "it was looked at, whatever it found",
    1: "Docker does not answer, or something could not be looked at",
}
FILES: dict[str, str] = {}

SECONDS = 2.0
COULD_NOT = 1

EXAMPLES = """\
examples:
  %(prog)s                   a live view; q ends it
  %(prog)s --interval 10     the same, looking every ten seconds
  %(prog)s --once            once, as in a log or a mail
  %(prog)s --json            once, for machines
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    add_node_arguments(parser)
    parser.add_argument("--once", action="store_true", help="print once, also on a terminal")
    parser.add_argument("--json", action="store_true", help="print once, for machines")
    parser.add_argument(
        "--interval",
        type=interval,
        default=SECONDS,
        metavar="SECONDS",
        help=f"how long after a look comes the next one; {SECONDS:g} if not given",
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        looker = Looker(lambda: node_of(arguments, HastyTools()))
    except CannotLook as why:
        arguments.parser.error(str(why))
    if not arguments.once and not arguments.json and is_possible():
        show(looker, arguments.interval)
        return 0
    snapshot = looker.look()
    if arguments.json:
        print(json.dumps(snapshot.as_json(), indent=2))
    else:
        is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        for line in page(snapshot, shutil.get_terminal_size().columns):
            print(written(line, is_coloured=is_coloured))
    return COULD_NOT if snapshot.problems else 0


def interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("give a number of seconds between 1 and 3600")
    return seconds
