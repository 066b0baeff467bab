"""Starts the sub-command that was asked for. Others are imported only to list them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from scripts.commands import VERSION, _manual, available, load

USAGE_ERROR = 64  # EX_USAGE of sysexits.h; 1 and 2 say how a node is
NOBODY_READS = 141  # as a shell calls the end by SIGPIPE: what was to be done may not be done


class Parser(argparse.ArgumentParser):
    """Ends with a status of its own when it is called wrongly."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")

    def format_help(self) -> str:
        """A sub-command's whole manual; of anything else what argparse says."""
        if module := self.get_default("module"):
            return _manual.manual(module, self)
        return super().format_help()


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    names = available()
    asked_for = next((word for word in given if not word.startswith("-")), None)
    parser = Parser(prog=os.environ.get("PROGRAM"), description="Looks after one node.")
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in names if asked_for not in names else [asked_for]:
        module = load(name)
        command = commands.add_parser(name, help=module.ABOUT, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command, module=module)
    parsed = parser.parse_args(given)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `… | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS


if __name__ == "__main__":
    sys.exit(main())
