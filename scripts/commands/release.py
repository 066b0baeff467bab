"""Makes a release out of the last commit: its source, a list of its parts, signed digests.

`release verify` checks one. Whoever makes it needs Git and an SSH key; nothing is published.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.commands import VERSION
from scripts.node.arguments import ROOT
from scripts.node.tools import CannotLook, Tools
from scripts.prove.signature import BadSignature
from scripts.release.parts import bill_of_materials, of_image
from scripts.release.sums import Damaged, check, sign_sums, write_sums

ABOUT = "make the files of a release, signed, or check them"

EXIT_STATUS = {
    0: "the release is written; with `verify`: it is whole and signed",
    1: "it could not be made, or not be checked",
    2: (
        "with `verify`: a file was changed, is missing or is one too many, or the "
        "signature is not right"
    ),
}
FILES = {
    "SHA256SUMS, SHA256SUMS.sig": "digests of all other files, and their signature",
}

NAME = "adyton"
COULD_NOT, BAD = 1, 2

EXAMPLES = """\
examples:
  %(prog)s --out release --key ~/.ssh/id_ed25519
  %(prog)s --out release --key ~/.ssh/id_ed25519 --image node/relay:0.1.0
  %(prog)s verify release --signers maintainer.pub
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="must be empty, or not be there")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the SSH key that signs")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        help="an image on this machine whose Debian packages are listed with their versions",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be written")
    actions = parser.add_subparsers(dest="action", metavar="verify")
    checking = actions.add_parser("verify", help="check a release's files and their signature")
    checking.add_argument("folder", type=Path)
    checking.add_argument("--signers", type=Path, required=True, metavar="FILE",
                          help="a list of allowed signers, or one public key")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    tools = Tools()
    if arguments.action == "verify":
        return verify(tools, arguments.folder, arguments.signers)
    if not arguments.out or not arguments.key:
        arguments.parser.error("give --out and --key, or `verify`")
    try:
        print(make(tools, arguments))
    except (CannotLook, OSError) as why:
        print(f"No release: {why}.", file=sys.stderr)
        return COULD_NOT
    return 0


def make(tools: Tools, arguments: argparse.Namespace) -> str:
    """Write everything; returns what was done. Raises CannotLook, OSError."""
    out: Path = arguments.out
    commit = committed(tools)
    if out.exists() and any(out.iterdir()):
        raise CannotLook(f"{out} holds something already: give a folder that is empty")
    images: list[dict[str, Any]] = [it for name in arguments.image for it in of_image(tools, name)]
    parts = bill_of_materials(ROOT, NAME, VERSION, commit, images)
    source, listing = f"{NAME}-{VERSION}.tar.gz", f"{NAME}-{VERSION}.cdx.json"
    words = f"{source}, {listing} ({len(parts['components'])} parts), SHA256SUMS and SHA256SUMS.sig"
    if arguments.dry_run:
        return f"Would write {words} into {out}, of commit {commit[:12]}."
    out.mkdir(parents=True, exist_ok=True)
    print("... packing the source", file=sys.stderr, flush=True)
    (out / source).write_bytes(archive(commit))
    (out / listing).write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    write_sums(out)
    sign_sums(tools, out, arguments.key)
    return f"Wrote {words} into {out}, of commit {commit[:12]}."


def committed(tools: Tools) -> str:
    """The commit that the files here are. Raises CannotLook."""
    head = tools.run("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if head.code != 0:
        raise CannotLook(f"this is no Git repository that can be read ({head.why})")
    changed = tools.run("git", "-C", str(ROOT), "status", "--porcelain")
    if changed.code != 0 or changed.out.strip():
        raise CannotLook("there are changes that are not committed: commit them, or put them away")
    return head.out.strip()


def archive(commit: str) -> bytes:
    """The source of a commit, compressed; the same commit makes the same bytes."""
    command = ["git", "-C", str(ROOT), "archive", f"--prefix={NAME}-{VERSION}/", commit]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise CannotLook(f"git archive failed ({done.stderr.decode(errors='replace').strip()})")
    return gzip.compress(done.stdout, mtime=0)


def verify(tools: Tools, folder: Path, signers: Path) -> int:
    try:
        who, files = check(tools, folder, signers)
    except (BadSignature, Damaged) as why:
        print(f"Refused: {why}.", file=sys.stderr)
        return BAD
    except CannotLook as why:
        print(f"Not checked: {why}.", file=sys.stderr)
        return COULD_NOT
    print(f"Signed by {who}; as they were signed: {', '.join(files)}.")
    return 0
