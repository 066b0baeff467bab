"""Shows the manual of a sub-command: how it is called, how it ends, what it reads and writes.

`--help` after a sub-command shows the same page. Without a name all sub-commands are listed.
"""

from __future__ import annotations

import argparse
import sys

from scripts import commands
from scripts.commands import _manual

ABOUT = "show the manual of a sub-command"

EXIT_STATUS = {0: "it was shown"}
FILES: dict[str, str] = {}

EXAMPLES = """\
examples:
  help             all sub-commands, with a line on each
  help backup      the manual of one
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", metavar="COMMAND", help="all are listed if not given")


def run(arguments: argparse.Namespace) -> int:
    program = arguments.parser.prog.rpartition(" ")[0]
    names = commands.available()
    if arguments.name is None:
        width = max(map(len, names))
        for name in names:
            print(f"{name:{width}}  {commands.load(name).ABOUT}")
        print(f"\n`{program} help COMMAND` tells more of each.")
        return 0
    if arguments.name not in names:
        arguments.parser.error(
            f"there is no {arguments.name}: `{program} help` lists what there is"
        )
    sys.stdout.write(manual_of(arguments.name, program))
    return 0


def manual_of(name: str, program: str) -> str:
    """The page of a sub-command that is on this machine."""
    module = commands.load(name)
    parser = argparse.ArgumentParser(prog=f"{program} {name}")
    module.add_arguments(parser)
    return _manual.manual(module, parser)
