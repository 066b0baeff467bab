"""Renews the keys of the tunnel and the link token, in the bundles that `init` made before.

The store's key, the bot's token and a second hop's keys stay, and so does every answer. No message
is lost while the bundles get to their nodes: what is new waits at Telegram. It is `init --rotate`,
which takes other answers at the same time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.bundle import ROOT
from scripts.commands import init

ABOUT = "renew the keys and tokens of two nodes, without losing a message"

EXIT_STATUS = {
    0: "the bundles are written",
    1: "there was nothing to renew, or something is wrong: nothing was written",
}
FILES = {
    "nodes/answers.json": "the secrets, 0600",
    "nodes/relay.tar, nodes/model.tar": "the bundles, 0600: bring both to their nodes",
}

COULD_NOT = 1

EXAMPLES = """\
examples:
  rotate                       new keys in both bundles; then `deploy model` and `deploy relay`
  rotate --token-file token    with another token of BotFather's, too
  rotate --out home            of the one node that this folder is about
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--token-file", metavar="FILE", help="holds another token of the bot's")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "nodes", help="where `init` wrote the bundles"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")


def run(arguments: argparse.Namespace) -> int:
    if not (arguments.out / "answers.json").exists():
        print(f"There is nothing to renew in {arguments.out}: `init` makes the first keys.",
              file=sys.stderr)  # fmt: skip
        return COULD_NOT
    parser = argparse.ArgumentParser()
    init.add_arguments(parser)
    words = ["--rotate", "--out", str(arguments.out)]
    words += ["--token-file", arguments.token_file] if arguments.token_file else []
    words += ["--dry-run"] if arguments.dry_run else []
    return init.run(parser.parse_args(words))
