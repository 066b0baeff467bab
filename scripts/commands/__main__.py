"""Starts the sub-command that was asked for. Others are imported only to list them."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

import scripts.commands
from scripts.commands import VERSION

USAGE_ERROR = 64  # EX_USAGE of sysexits.h; 1 and 2 say how a node is
NOBODY_READS = 141  # as a shell calls the end by SIGPIPE: what was to be done may not be done


class Parser(argparse.ArgumentParser):
    """Ends with a status of its own when it is called wrongly."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")


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
        command.set_defaults(run=module.run, parser=command)
    parsed = parser.parse_args(given)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `… | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS


def available() -> list[str]:
    """Names of the sub-commands that are on this machine."""
    found = pkgutil.iter_modules(scripts.commands.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"scripts.commands.{name}")


if __name__ == "__main__":
    sys.exit(main())
