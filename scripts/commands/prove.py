"""Takes a proof of the running node: probes inside, a capture outside, a report that can be signed.

The node goes on meanwhile. `prove verify` checks a report and its signature.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import sys
import time
from pathlib import Path

from scripts.node.arguments import add_node_arguments, node_of
from scripts.node.tools import CannotLook, Tools
from scripts.prove.proof import Plan, prove
from scripts.prove.report import STATUS, Damaged, as_bytes, as_text, check_whole
from scripts.prove.signature import BadSignature, sign, verify

ABOUT = "probe the node from inside, capture outside, and write a signed report"

EXIT_STATUS = {
    0: "nothing got out; with `verify`: the report is whole and signed",
    1: "inconclusive, or no proof could be taken",
    2: "something got out, or the isolation is not as it should be; with `verify`: refused",
}
FILES = {
    "REPORT.sig": "the signature, beside the report that --out names",
}

TARGET = "198.19.255.254"
"""Of the networks for benchmarks (RFC 2544), which nobody on the internet has."""
SECONDS = 40.0  # a tunnel that is at rest says something every 25 s
COULD_NOT, BAD = 1, 2

EXAMPLES = """\
examples:
  %(prog)s --seconds 60 --key ~/.ssh/id_ed25519 --out proof.json
  %(prog)s --control     with a probe from the host itself, which has to be seen
  %(prog)s verify proof.json --signers ~/.ssh/id_ed25519.pub
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES % {"prog": parser.prog}
    add_node_arguments(parser)
    proof = parser.add_argument_group("the proof")
    proof.add_argument(
        "--seconds", type=positive, default=SECONDS, help=f"{SECONDS:.0f} if not given"
    )
    proof.add_argument(
        *("--interface", "-i"),
        action="append",
        default=[],
        metavar="IF",
        help="the outside interface; the one with the default route if not given",
    )
    proof.add_argument("--target", type=address, default=TARGET, help="where canaries are sent to")
    proof.add_argument(
        "--control",
        action="store_true",
        help="also send a canary from the host, which must be seen; it leaves the machine",
    )
    proof.add_argument("--key", type=Path, metavar="FILE", help="sign with this SSH key")
    proof.add_argument("--out", type=Path, metavar="FILE", help="where the report is written to")
    proof.add_argument("--json", action="store_true", help="show the report as it is written")
    actions = parser.add_subparsers(dest="action", metavar="verify")
    check = actions.add_parser("verify", help="check a report and its signature")
    check.add_argument("report", type=Path)
    check.add_argument("--signers", type=Path, required=True, metavar="FILE",
                       help="a list of allowed signers, or one public key")  # fmt: skip
    check.add_argument("--signature", type=Path, metavar="FILE", help="REPORT.sig if not given")


def run(arguments: argparse.Namespace) -> int:
    tools = Tools()
    if arguments.action == "verify":
        return check(tools, arguments.report, arguments.signature, arguments.signers)
    try:
        node = node_of(arguments, tools)
        plan = Plan(
            arguments.seconds, tuple(arguments.interface), arguments.target, arguments.control
        )
        report = prove(node, plan, say)
        out = arguments.out or Path(time.strftime(f"prove-{node.kind.name}-%Y%m%d-%H%M%S.json"))
        write(out, as_bytes(report))
        print(
            json.dumps(report, indent=1, ensure_ascii=False) if arguments.json else as_text(report)
        )
        print(f"\nWritten to {out}.", file=sys.stderr)
        if arguments.key:
            print(f"Signed: {sign(tools, arguments.key, out)}.", file=sys.stderr)
        else:
            print("Not signed: give --key for that.", file=sys.stderr)
    except CannotLook as why:
        print(f"No proof: {why}.", file=sys.stderr)
        return COULD_NOT
    return STATUS[report["verdict"]["name"]]


def write(file: Path, content: bytes) -> None:
    """For the operator alone: a report tells how the node is built."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)


def check(tools: Tools, file: Path, signature: Path | None, signers: Path) -> int:
    """Say whether a report is signed by somebody on the list, and whole."""
    try:
        content = file.read_bytes()
        who = verify(tools, content, signature or Path(f"{file}.sig"), signers)
        report = json.loads(content)
        check_whole(report)
    except (BadSignature, Damaged, ValueError, OSError) as why:
        print(f"Refused: {why}.", file=sys.stderr)
        return BAD
    except CannotLook as why:
        print(f"Not checked: {why}.", file=sys.stderr)
        return COULD_NOT
    print(as_text(report))
    print(f"\nSigned by {who}; the report is whole, and its verdict follows from it.")
    return 0


def say(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


def positive(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("give a number of seconds between 1 and 86400")
    return seconds


def address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise argparse.ArgumentTypeError("give an IPv4 address") from None
