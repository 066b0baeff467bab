"""Writes pages of docs/ from the code: `python -m scripts.document` docs/doctor.md, from the checks
themselves, and `python -m scripts.document commands` docs/commands.md, from the commands' parsers.
"""

from __future__ import annotations

import sys

from scripts.bundle import HOME_COMMANDS, NODE_COMMANDS
from scripts.commands import available
from scripts.commands.help import manual_of
from scripts.doctor.examination import COMMON, checks_of
from scripts.doctor.finding import Check
from scripts.node.kinds import kinds

INTRODUCTION = """\
# The doctor

`scripts/adyton doctor` looks at the node that runs on this machine, in the order below, and says \
of each thing whether it is in order, and if it is not, what to do. It changes nothing, sends \
nothing beyond this machine, and keeps nothing but the counters of refused packets, under /run.

    scripts/adyton doctor                      # the node that runs here, by the files' own names
    scripts/adyton doctor --node relay -p relay -f compose.vps.yml --env-file .env
    scripts/adyton doctor --json               # for machines

Give `-p`, `-f`, `--env-file` and `--project-directory` as you give them to Docker Compose: \
what the files say is what the containers are compared with. Run it as root: without, it looks as \
far as it can, and says what it could not look at.

| exit status | meaning |
|---|---|
| 0 | all is in order |
| 1 | there are warnings, or something could not be looked at |
| 2 | there are failures |
| 64 | it was called wrongly |

Everything that it can find amiss is listed here, with the name that `--json` gives, and with the \
remedy. Words in braces stand for what it has found.

This page is made from the checks themselves \
(`python3 -m scripts.document >docs/doctor.md`); a test keeps it so.
"""


PROOF = """\
## Taking a proof

`scripts/adyton prove`, as root, takes a proof of the node while it runs: it looks as the doctor \
does, sends hostile probes from inside each namespace (as root, with Docker's usual \
capabilities: UDP, TCP, raw and packet sockets, questions for names), and meanwhile captures at \
the outside interface and at the bridges of the node's own containers.

    scripts/adyton prove --seconds 60 --key ~/.ssh/id_ed25519 --out proof.json
    scripts/adyton prove verify proof.json --signers ~/.ssh/id_ed25519.pub

Each probe carries a mark of its own; none may be seen. (Where the protection is gone, they do \
leave the machine, towards `--target`, an address of nobody's if not given.) That the capture \
works is shown by the node's own tunnel, whose packets must be seen, as those of the tunnel to \
workers at its bridge where there are any, and with `--control` by a \
mark that is sent from the host on purpose: that one does leave the machine. The report names \
digests of images, rulesets and Compose files, and what was not looked at. Where it is signed, \
`verify` finds a changed byte, a part that is missing, and a verdict that does not follow from \
what the report says. Make it for others with care: where it reports a failure, it may tell \
addresses.

| exit status | verdict |
|---|---|
| 0 | nothing got out: no probe was seen, all controls were |
| 1 | inconclusive, or no proof could be taken |
| 2 | leak: a probe or a forbidden packet was seen, or the isolation is not as it should be |
| 64 | it was called wrongly |

What a proof does not prove stands in [known-leaks.md](known-leaks.md).
"""


COMMANDS = """\
# Commands

The manual of each sub-command, as `scripts/adyton help COMMAND` shows it on your own machine and \
`scripts/node-admin help COMMAND` on a node. What they are used for stands, task by task, in \
[operations.md](operations.md).

This page is made from the commands themselves \
(`python3 -m scripts.document commands >docs/commands.md`); a test keeps it so.
"""

ELSEWHERE = {"backup": "`backup verify`", "logs": "`logs open`", "model": "`model fetch --into`",
             "prove": "`prove verify`"}  # fmt: skip
"""What of a node's commands is of use on another machine, too."""


def commands() -> str:
    parts = [COMMANDS]
    for name in available():
        on_node = f"{name}.py" in NODE_COMMANDS + HOME_COMMANDS
        page = manual_of(name, "node-admin" if on_node else "adyton")
        parts.append(f"## {name}\n\n{place_of(name)}\n\n```text\n{page}```\n")
    return "\n".join(parts)


def place_of(name: str) -> str:
    """Where a sub-command is called."""
    if name == "help":
        return "Everywhere."
    if f"{name}.py" in HOME_COMMANDS:
        return "On the node at home: `scripts/node-admin`."
    if f"{name}.py" not in NODE_COMMANDS:
        return "On your own machine: `scripts/adyton`."
    also = f"; {ELSEWHERE[name]} elsewhere, too: `scripts/adyton`" if name in ELSEWHERE else ""
    return f"On a node: `scripts/node-admin`{also}."


def document() -> str:
    checks: list[Check] = list(COMMON)
    for kind in kinds().values():
        checks += [check for check in checks_of(kind) if check not in checks]
    parts = [INTRODUCTION]
    for check in checks:
        parts.append(f"## {check.name[0].upper()}{check.name[1:]}\n\n{check.about}\n")
        rows = ["| name | severity | what it says | what to do |", "|---|---|---|---|"]
        rows += [
            f"| `{it.name}` | {it.level} | {cell(it.says)} | {cell(it.remedy)} |"
            for it in check.problems
        ]
        parts.append("\n".join(rows) + "\n")
    return "\n".join([*parts, PROOF])


def cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(commands() if sys.argv[1:] == ["commands"] else document())
