"""Writes docs/doctor.md from the checks themselves: `python -P -m scripts.document`."""

from __future__ import annotations

import sys

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
    return "\n".join(parts)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(document())
