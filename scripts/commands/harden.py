"""Hardens the host of the node: firewall, ssh, bans, upgrades, Docker, kernel, names.

It shows what it would change, asks, and does it; unless `harden confirm` is called over another SSH
connection in time, everything goes back by itself. `--undo` restores what was there before the
first run.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.harden import firewall, maintenance, names, rollback, settings, sshd
from scripts.harden.change import carry_out
from scripts.harden.host import Failed, Host, Refused
from scripts.harden.plan import Change, changes, describe, file_difference, parts, state_difference
from scripts.harden.session import is_on_console, session_of
from scripts.harden.settings import ANY, HOME, Settings, kept_settings, merge
from scripts.harden.snapshot import ORIGINAL, PENDING, Snapshot
from scripts.harden.states import State, read
from scripts.node.arguments import ROOT
from scripts.node.kinds import Kind, kinds
from scripts.node.tools import Tools

ABOUT = "harden the host that the node runs on, or take that back"

EXIT_STATUS = {
    0: "it is done and kept, or there was nothing to do",
    1: "it could not be done: nothing was changed",
    2: "it was taken back, since nobody confirmed it or a part of it failed",
}
FILES = {
    "/var/lib/node-harden": "what was there before the first run, and what it was told",
    "/etc/nftables.conf, /etc/ssh/sshd_config.d/00-harden.conf": (
        "the firewall, and sshd's settings; --dry-run shows these and all others"
    ),
}

COULD_NOT, TAKEN_BACK = 1, 2
SECONDS, MINUTES = 180, 30

EXAMPLES = """\
examples:
  harden --dry-run                            what would be changed, as diffs
  harden --ssh-from 198.51.100.0/24           do it; ssh may be called from there alone
  harden confirm                              keep it: over a second SSH connection
  harden maintenance open --minutes 20        let names be asked for, for a while
  harden --undo                               as before the first run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("--dry-run", action="store_true", help="show it, and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask whether to go on")
    parser.add_argument("--undo", action="store_true", help="restore what was there at first")
    parser.add_argument(
        *("--seconds", "-s"),
        type=window_seconds,
        default=SECONDS,
        help=f"how long it waits to be confirmed; {SECONDS} if not given",
    )
    chosen = parser.add_argument_group(
        "what to set", "What is not given stays as an earlier run was told."
    )
    chosen.add_argument(
        "--node", choices=sorted(kinds()), help="which kind; found where it is clear"
    )
    chosen.add_argument(
        "--ssh-port", type=settings.port, metavar="PORT", help="as it is by default"
    )
    chosen.add_argument(
        "--ssh-from",
        type=settings.network,
        action="append",
        metavar="NETWORK",
        help=f"who may call sshd, may be repeated; `{ANY}` is the default",
    )
    chosen.add_argument("--root-login", choices=("key", "off"), help="key if not given")
    chosen.add_argument("--swap", choices=("off", "encrypted"), help="off if not given")
    chosen.add_argument(
        "--names",
        choices=("open", "closed"),
        help="closed: nothing is resolved but in a maintenance window; the default where the "
        "tunnel is called",
    )
    chosen.add_argument(
        "--resolver", type=settings.address, metavar="ADDRESS", help="who is asked in such a window"
    )
    chosen.add_argument(
        "--pin",
        type=settings.pin,
        action="append",
        metavar="NAME=ADDRESS",
        help="a name that need not be asked for, may be repeated",
    )
    chosen.add_argument(
        "--time-server",
        type=settings.address,
        action="append",
        metavar="ADDRESS",
        help="may be repeated; systemd-timesyncd's own by default",
    )
    chosen.add_argument(
        "--inside",
        type=settings.interface,
        action="append",
        metavar="IF",
        help="an interface besides Docker's that does not lead outside, may be repeated",
    )
    actions = parser.add_subparsers(dest="action", metavar="confirm, rollback, maintenance")
    actions.add_parser("confirm", help="keep what was done, over a connection that came after it")
    actions.add_parser("rollback", help="take back at once what waits to be confirmed")
    window = actions.add_parser("maintenance", help="let names be asked for, for a while")
    window.add_argument("what", choices=("open", "close", "run"),
                        help="run: open, upgrade, set the clock, close")  # fmt: skip
    window.add_argument("--minutes", type=window_minutes, default=MINUTES,
                        help=f"{MINUTES} if not given")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    host = Host(Tools())
    if not host.tools.is_root:
        print("Nothing done: only root can harden a host. Run this as root.", file=sys.stderr)
        return COULD_NOT
    try:
        match arguments.action:
            case "confirm":
                return confirm(host)
            case "rollback":
                return take_back(host)
            case "maintenance":
                return keep_house(host, arguments)
        return undo(host, arguments) if arguments.undo else harden(host, arguments)
    except Refused as why:
        print(f"Nothing done: {why}.", file=sys.stderr)
        return COULD_NOT
    except Failed as why:
        print(f"Failed: {why}.", file=sys.stderr)
        return COULD_NOT


def harden(host: Host, arguments: argparse.Namespace) -> int:
    wanted = settings_of(host, arguments)
    with rollback.alone(host):
        refuse_pending(host)
        refuse_own_connection(host, wanted)
        original = Snapshot(host, ORIGINAL)
        found = changes(host, parts(host, wanted), original)
        if not found:
            print("Nothing to change.")
            if host.path(HOME).is_dir() and not arguments.dry_run:
                remember(host, wanted)
            return 0
        show(host, found, original)
        if arguments.dry_run:
            print("\nNothing has been changed: this was a dry run.")
            return 0
        if not agreed(arguments, "Change all this?"):
            return COULD_NOT
        with contextlib.suppress(ValueError):  # a connection that ends must not end it half-way
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        identity = carry_out(host, found, wanted, arguments.seconds, say)
        if session_of(host, os.getpid()) is None and is_on_console(host):
            rollback.confirm(host, os.getpid(), on_console=True)
            say("Done, and kept: whoever sits at the console is not locked out.")
            return 0
    return wait(host, identity, arguments.seconds)


def wait(host: Host, identity: str, seconds: int) -> int:
    """Until it is confirmed, or taken back by the timer; this process is needed for neither."""
    say(f"\nDone, and taken back in {seconds} s unless it is confirmed. Leave this connection "
        "open, log in over a second one, and run there:\n"
        f"    {ROOT}/scripts/{os.environ.get('PROGRAM', 'node-admin')} harden confirm")  # fmt: skip
    while (kept := rollback.was_confirmed(host, identity)) is None:
        time.sleep(0.5)
    if kept:
        say("Confirmed: it stays.")
        return 0
    say("Not confirmed: everything is as before. Find out what kept you from logging in, then "
        "try again.")  # fmt: skip
    return TAKEN_BACK


def confirm(host: Host) -> int:
    with rollback.alone(host):
        rollback.confirm(host, os.getpid())
    print("Confirmed: it stays. `harden --undo` takes it back.")
    return 0


def take_back(host: Host) -> int:
    with rollback.alone(host):
        if not Snapshot(host, PENDING).exists:
            rollback.disarm(host)
            print("Nothing waits to be taken back.")
            return 0
        problems = rollback.take_back(host)
        left = Snapshot(host, PENDING).exists
    if left:
        raise Failed(f"not all is as before: {'; '.join(problems)}; mend that, and run this again")
    for problem in problems:
        say(f"But {problem}: look at that.")
    print("Taken back: everything is as before.")
    return 0


def undo(host: Host, arguments: argparse.Namespace) -> int:
    with rollback.alone(host):
        refuse_pending(host)
        original = Snapshot(host, ORIGINAL)
        if not original.exists:
            print("Nothing to undo: no run has been confirmed on this host.")
            return 0
        for line in undone(host, original):
            print(line)
        if arguments.dry_run:
            print("\nNothing has been changed: this was a dry run.")
            return 0
        if not agreed(arguments, "Restore all this?"):
            return COULD_NOT
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        maintenance.close_window(host)
        restored = original.changed
        problems = original.restore()
        if not original.is_restored():
            raise Failed(
                f"not all is as it was at first: {'; '.join(problems)}; mend that, and run this "
                "again"
            )
        problems += firewall.not_loaded(host, restored)
        original.delete()
        host.path(settings.KEPT).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            host.path(HOME).rmdir()
    say("Restored: this host is as it was before the first run.")
    for problem in problems:
        say(f"But {problem}: look at that.")
    return 0


def undone(host: Host, original: Snapshot) -> Iterator[str]:
    for entry in original.files:
        if not original.is_as_it_was(entry):
            yield from file_difference(host, entry.path, original.text_of(entry), entry.mode)
    for kind, name, before in original.states:
        if (now := read(host, kind, name)) != before:
            yield from state_difference(State(kind, name, before), now)


def keep_house(host: Host, arguments: argparse.Namespace) -> int:
    if arguments.what == "close":
        was_open = maintenance.close_window(host)
        print("Closed." if was_open else "No window is open.")
        return 0
    kept = kept_settings(host)
    if not kept:
        raise Refused("this host is not hardened: there is nothing to open")
    told = merge(kept, {}, {})
    if arguments.what == "open":
        maintenance.open_window(host, told, arguments.minutes)
        print(f"Names can be asked for, for {arguments.minutes} min.")
        return 0
    for step in maintenance.upgrade(host, told):
        say(step)
    return 0


def settings_of(host: Host, arguments: argparse.Namespace) -> Settings:
    """What is given, what was kept, and what follows from the node. Raises Refused."""
    kept = kept_settings(host)
    kind = kind_of(arguments.node or kept.get("node"))
    sources = arguments.ssh_from
    given = {
        "ssh_port": arguments.ssh_port,
        "ssh_from": sources if sources is None or ANY not in sources else [],
        "root_login": arguments.root_login,
        "swap": arguments.swap,
        "names": arguments.names,
        "resolver": arguments.resolver,
        "pins": arguments.pin,
        "time_servers": arguments.time_server,
        "inside": arguments.inside,
    }
    defaults = {"names": "open" if kind.dials else "closed", "resolver": names.first_resolver(host)}
    fixed = {
        "node": kind.name,
        "tunnel_port": tunnel_port(kind),
        "held": kind.held,
    }
    return merge(defaults | kept, given, fixed)


def kind_of(name: str | None) -> Kind:
    known = kinds()
    if name in known:
        return known[name]
    here = [kind for kind in known.values() if (ROOT / kind.file).exists()]
    if len(here) != 1:
        raise Refused("which node this host is for is not clear: give --node")
    return here[0]


def tunnel_port(kind: Kind, folder: Path = ROOT) -> int | None:
    """As the node's own settings have it, alone or after an address. Raises Refused."""
    with contextlib.suppress(OSError):
        for line in (folder / ".env").read_text(encoding="utf-8").splitlines():
            name, equals, value = line.partition("=")
            value = value.strip().strip("'\"")
            if equals and value and name.strip() == kind.called:
                try:
                    return settings.port(value.rpartition(":")[2])
                except argparse.ArgumentTypeError:
                    raise Refused(f"{kind.called} in {folder}/.env is no port: mend it") from None
    return None if kind.dials else 51820


def refuse_pending(host: Host) -> None:
    if Snapshot(host, PENDING).exists:
        raise Refused(
            "an earlier run waits to be confirmed: `harden confirm` over a second connection, or "
            "`harden rollback`, first"
        )


def refuse_own_connection(host: Host, wanted: Settings) -> None:
    """Whoever calls now has to be among those who may call then."""
    session = session_of(host, os.getpid())
    if session is None:
        return
    open_ports = sshd.ports(host, wanted) if sshd.is_installed(host) else ()
    if wanted.ssh_port is None and session.port not in open_ports:
        raise Refused(
            f"you come in by port {session.port}, where OpenSSH's sshd does not listen by its own "
            "word, so it would be closed: log in over sshd's port, or call this at the console"
        )
    if not wanted.ssh_from:
        return
    address = ipaddress.ip_address(session.address.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if not any(address in ipaddress.ip_network(source) for source in wanted.ssh_from):
        raise Refused(
            f"you come from {address}, which is in none of {', '.join(wanted.ssh_from)}: add it "
            "with --ssh-from"
        )


def remember(host: Host, wanted: Settings) -> None:
    """What changes no file here may still matter to a later run."""
    text = settings.as_text(wanted)
    if host.read(settings.KEPT) != text:
        host.path(settings.KEPT).write_text(text, encoding="utf-8")
        host.path(settings.KEPT).chmod(0o600)


def show(host: Host, found: Sequence[Change], original: Snapshot) -> None:
    for change in found:
        print()
        for line in describe(host, change, original):
            print(line)


def agreed(arguments: argparse.Namespace, question: str) -> bool:
    if arguments.yes:
        return True
    try:
        answer = input(f"\n{question} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("Nothing has been changed.")
    return False


def say(line: str) -> None:
    """A terminal that is gone must not keep anything from being done."""
    with contextlib.suppress(OSError):
        for part in line.split("\n"):
            wrapped = [part] if part.startswith(" ") else textwrap.wrap(part, 96) or [""]
            print("\n".join(wrapped), flush=True)


def window_seconds(text: str) -> int:
    return bounded(text, 10, 3600)


def window_minutes(text: str) -> int:
    return bounded(text, 1, 1440)


def bounded(text: str, least: int, most: int) -> int:
    if not text.isdigit() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"give a whole number between {least} and {most}")
    return int(text)
