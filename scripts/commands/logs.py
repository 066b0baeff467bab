"""Seals this host's logs for whoever has a private key, ships them, and opens them elsewhere.

Logs of the containers, the firewall and logins go to the journal in memory; a timer writes what is
new there encrypted into one new file. `open` needs no node, only gpg and the private key. It ends
with 0 if the logs are whole, 2 if something is missing or damaged, 1 if it could not look.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path

from scripts.commands.uninstall import project_of
from scripts.journal import chain, opening, setup
from scripts.journal.seal import DAYS, MEBIBYTES, seal
from scripts.lifecycle import CannotDo, running
from scripts.lifecycle.output import new_file
from scripts.node.arguments import add_node_arguments, node_of
from scripts.node.tools import CannotLook, Tools

ABOUT = "seal this host's logs to a public key, ship them, or open them elsewhere"

EXIT_STATUS = {
    0: "it is done; with `open`: all is there",
    1: "it could not be done, or not be looked at",
    2: "with `open`: something is missing, damaged or exchanged",
}
FILES = {
    "/var/log/node-sealed": "the sealed files",
    ".env": "COMPOSE_FILE, to which `seal` adds",
}

EXAMPLES = """\
examples:
  %(prog)s seal --recipient key.asc --dry-run   what would be set up
  %(prog)s seal --recipient key.asc             sets it up, and seals what the journal has
  %(prog)s seal --undo                          takes it back; sealed files stay
  %(prog)s ship --since 2026-05-01 --out a.tar  what was sealed since, to carry away
  %(prog)s open a.tar --unit ssh --grep Failed  where the private key is"""

COULD_NOT, INCOMPLETE = 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES % {"prog": parser.prog}
    add_node_arguments(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    sealing = actions.add_parser("seal", help="set sealing up on this node, or take it back")
    what = sealing.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipient", type=Path, metavar="FILE", help="a GnuPG public key")
    what.add_argument("--undo", action="store_true")
    sealing.add_argument("--days", type=whole, default=DAYS, help="keep sealed files so long")
    sealing.add_argument("--mebibytes", type=whole, default=MEBIBYTES, help="and so much of them")
    sealing.add_argument("--dry-run", action="store_true", help="say what would be done")
    once = actions.add_parser("once", help="seal what is new, as the timer does")
    once.add_argument("--last", action="store_true", help="the machine is about to stop")
    once.add_argument("--dry-run", action="store_true", help="say where it would be written")
    ship = actions.add_parser("ship", help="put sealed files into one archive, to carry away")
    ship.add_argument("--since", type=moment, default=0.0, metavar="TIME")
    ship.add_argument("--out", type=Path, metavar="FILE", help="a new file, or - for the output")
    ship.add_argument("--dry-run", action="store_true", help="say what would be in it")
    show = actions.add_parser("open", help="show sealed logs, and whether all of them are there")
    show.add_argument("places", type=Path, nargs="+", metavar="PLACE",
                      help="a folder, sealed files, or an archive of `ship`")  # fmt: skip
    show.add_argument("--unit", default="", help="of systemd, or a syslog identifier")
    show.add_argument("--service", default="", help="one of the node's containers")
    show.add_argument("--since", type=moment, default=0.0, metavar="TIME",
                      help="such as 2026-05-01 or 2026-05-01T12:30, in UTC")  # fmt: skip
    show.add_argument("--until", type=moment, default=float("inf"), metavar="TIME")
    show.add_argument("--level", choices=opening.LEVELS, default="debug", help="and what is worse")
    show.add_argument("--grep", type=pattern, metavar="EXPRESSION", help="in the message")
    show.add_argument("--json", action="store_true", help="for machines, all fields")


def whole(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError("give a whole number above 0")
    return int(text)


def moment(text: str) -> float:
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("give a time such as 2026-05-01T12:30") from None
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()


def pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"no regular expression: {error}") from None


def run(arguments: argparse.Namespace) -> int:
    tools = Tools()
    try:
        match arguments.action:
            case "open":
                return show(arguments)
            case "ship":
                return ship(arguments)
            case "once":
                return once(arguments, tools)
            case _:
                return set_up(arguments, tools)
    except (CannotDo, CannotLook) as why:
        print(f"Not done: {why}.", file=sys.stderr)
        return COULD_NOT
    except PermissionError as error:
        print(f"Not done: {error.filename} is root's: call this as root.", file=sys.stderr)
        return COULD_NOT


def set_up(arguments: argparse.Namespace, tools: Tools) -> int:
    """Do the steps that are left, or those back. Raises CannotDo, CannotLook."""
    node = node_of(arguments, tools)
    place = setup.Place(node.root, project_of(node), tools, setup.SYSTEM)
    env = node.root / ".env"
    settings = env.read_text(encoding="utf-8") if env.is_file() else ""
    if arguments.undo:
        wanted = setup.without_journal(settings)
        steps = setup.take_back(place)
    else:
        wanted = setup.with_journal(settings, node.root)
        limits = {"days": arguments.days, "mebibytes": arguments.mebibytes}
        steps = setup.set_up(place, arguments.recipient, limits)
    todo = list(steps)
    if wanted != settings:
        todo.append(
            setup.Step(
                "write COMPOSE_FILE into .env, and make the containers anew",
                lambda: restart(arguments, place, env, wanted),
            )
        )
    with running.alone(node.root):
        for step in todo:
            print(f"{'Would' if arguments.dry_run else 'Now:'} {step.says}.")
            if not arguments.dry_run:
                step.do()
    if not todo:
        print("Nothing to change.")
    if arguments.undo or arguments.dry_run:
        return 0
    limits = setup.limits_of(node.root)
    made = seal(
        chain.FOLDER,
        place.root / setup.KEY,
        tools.memory,
        days=limits["days"],
        mebibytes=limits["mebibytes"],
    )
    print(f"Sealed into {chain.FOLDER}: {', '.join(made) or 'nothing new'}.")
    if left := setup.remains(setup.SYSTEM):
        print(f"Older logs are on this disk in plain text: {', '.join(left)}. Delete them.")
    return 0


def restart(arguments: argparse.Namespace, place: setup.Place, env: Path, settings: str) -> None:
    """Other Compose files, and containers as they say. Raises CannotDo; then .env is as before."""
    before = env.read_bytes()
    setup.put(env, settings.encode())
    try:
        changed = node_of(arguments, place.tools)
        label = f"label=com.docker.compose.project={place.project}"
        if changed.ask("docker", "ps", "-aq", "--filter", label).strip():
            with running.unmended(changed):
                running.start(changed)
    except (CannotDo, CannotLook):
        setup.put(env, before)
        raise


def once(arguments: argparse.Namespace, tools: Tools) -> int:
    """Raises CannotDo, CannotLook."""
    node = node_of(arguments, tools)
    limits = setup.limits_of(node.root)
    key = node.root / setup.KEY
    if arguments.dry_run:
        print(f"Would seal what is new into {chain.FOLDER}.")
        return 0
    seal(
        chain.FOLDER,
        key,
        tools.memory,
        days=limits["days"],
        mebibytes=limits["mebibytes"],
        closes=arguments.last,
    )
    return 0


def ship(arguments: argparse.Namespace) -> int:
    """Put sealed files and the head into one archive. Raises CannotDo."""
    if not chain.FOLDER.is_dir():
        raise CannotDo(f"there is no {chain.FOLDER}: `logs seal` sets sealing up")
    with chain.held(chain.FOLDER):
        chain.settle(chain.FOLDER)
        chosen = [
            path
            for path in chain.segments_in(chain.FOLDER).values()
            if path.stat().st_mtime >= arguments.since
        ]
        if not chosen:
            raise CannotDo("nothing was sealed in that time: leave out --since")
        size = sum(path.stat().st_size for path in chosen)
        what = f"{chosen[0].name} to {chosen[-1].name}, {size / 1e6:.1f} MB"
        if arguments.dry_run:
            print(f"Would ship {what}.")
            return 0
        out = arguments.out or Path(f"logs-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar")
        with new_file(out) as file, tarfile.open(fileobj=file, mode="w|") as archive:
            for path in (*chosen, chain.FOLDER / chain.HEAD):
                archive.add(path, arcname=path.name)
    running.say(f"written to {out}: {what}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print entries; then on the other output whether all are there. Raises CannotDo."""
    chosen = opening.Filter(
        arguments.unit,
        arguments.service,
        arguments.since,
        arguments.until,
        opening.LEVELS.index(arguments.level),
        arguments.grep,
    )
    found = opening.Chain()
    with opening.gathered(arguments.places) as (segments, head):
        for entry in opening.opened(segments, head, found):
            if chosen.takes(entry):
                print(json.dumps(entry) if arguments.json else opening.line_of(entry))
        sys.stdout.flush()
        first, last = min(segments), max(segments)
        digest = chain.digest_of(segments[last])
    for remark in found.remarks:
        print(f"Note: {remark}.", file=sys.stderr)
    for fault in found.faults:
        print(f"Not whole: {fault}.", file=sys.stderr)
    print(
        f"{chain.name_of(first)} to {chain.name_of(last)}, {found.entries} entries; "
        f"SHA-256 of the last {digest}.",
        file=sys.stderr,
    )
    return INCOMPLETE if found.faults else 0
