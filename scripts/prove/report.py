"""Owns the report: its form, its verdict, which follows from what stands in it, and its text.

A report claims no more than was seen. One without failures names no address and no host.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

FORM = 1
SECTIONS = (
    *("report", "program", "node", "project", "machine", "began", "ended", "seconds", "compose"),
    *("images", "rulesets", "findings", "canaries", "captures", "controls", "not_looked_at"),
    "verdict",
)
ISOLATION = ("namespaces", "rulesets", "hardening", "destinations")
"""Checks of the doctor whose failures are failures of the isolation."""

NOTHING_SEEN, LEAK, INCONCLUSIVE = "nothing got out", "leak", "inconclusive"
OUTCOMES = {True: "passed", False: "FAILED", None: "not asked for"}
STATUS = {NOTHING_SEEN: 0, INCONCLUSIVE: 1, LEAK: 2}


class Damaged(Exception):
    """A report is not whole; the message says what is wrong with it."""


def verdict_of(report: dict[str, Any]) -> dict[str, Any]:
    """The verdict and its reasons, from everything else in the report."""
    leaks = list(leaks_in(report))
    doubts = list(doubts_about(report))
    if leaks:
        return {"name": LEAK, "reasons": leaks + doubts}
    if doubts:
        return {"name": INCONCLUSIVE, "reasons": doubts}
    return {"name": NOTHING_SEEN, "reasons": []}


def leaks_in(report: dict[str, Any]) -> Iterator[str]:
    for canary in report["canaries"]:
        if canary["seen"] and not canary["is_control"]:
            yield (
                f"{canary['seen']} packets of the canary {canary['probe']} from "
                f"{canary['service']} were seen outside"
            )
    for capture in report["captures"]:
        for what, count in capture["forbidden"].items():
            yield f"{count} forbidden packets on {capture['role']}: {what}"
    for finding in report["findings"]:
        if finding["check"] in ISOLATION and finding["level"] == "failure":
            yield finding["text"]


def doubts_about(report: dict[str, Any]) -> Iterator[str]:
    for control in report["controls"]:
        if control["passed"] is False:
            yield f"the control failed: {control['about']}"
    for capture in report["captures"]:
        if capture["dropped"]:
            yield f"the capture on {capture['role']} missed {capture['dropped']} packets"
    if not any(capture["role"].startswith("outside") for capture in report["captures"]):
        yield "no outside interface was captured"
    if not any(not canary["is_control"] for canary in report["canaries"]):
        yield "no canary was sent"
    for finding in report["findings"]:
        if finding["check"] in ISOLATION and finding["level"] == "could not look":
            yield finding["text"]


def check_whole(report: Any) -> None:
    """Raises Damaged unless every section is there and the verdict follows from the rest."""
    if not isinstance(report, dict) or report.get("report") != FORM:
        raise Damaged(f"this is no report of form {FORM}")
    missing = [name for name in SECTIONS if name not in report]
    if missing:
        raise Damaged(f"the report lacks {', '.join(missing)}")
    try:
        follows = verdict_of(report) == report["verdict"]
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"a part of the report cannot be read ({type(error).__name__})") from None
    if not follows:
        raise Damaged("the verdict does not follow from what the report says")


def as_bytes(report: dict[str, Any]) -> bytes:
    return (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode()


def as_text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"Report on the {report['node']} node `{report['project']}`",
        f"from {report['began']} to {report['ended']}: {report['seconds']} s of capture",
        "",
        f"VERDICT: {report['verdict']['name']}",
        *(f"  - {reason}" for reason in report["verdict"]["reasons"]),
        "",
        "Controls",
        *(f"  {OUTCOMES[it['passed']]}: {it['about']}" for it in report["controls"]),
        "",
        "Captures",
    ]
    for capture in report["captures"]:
        lines.append(
            f"  {capture['role']}: {capture['frames']} packets, {capture['dropped']} missed, "
            f"{capture['canaries']} canaries, {sum(capture['forbidden'].values())} forbidden"
        )
        kinds = sorted(capture["kinds"].items(), key=lambda it: -it[1])
        lines += [f"    {count:>7}  {kind}" for kind, count in kinds[:12]]
        if len(kinds) > 12:
            lines.append(f"    {sum(count for _, count in kinds[12:]):>7}  of other kinds")
    lines += ["", "Canaries (tried, let out of the namespace's sockets, seen outside)"]
    lines += [
        f"  {it['service']:>10}  {it['probe']:<14} {it['tried']:>3} {it['taken']:>3} "
        f"{it['seen']:>3}  {' '.join(it['errors'])}"
        for it in report["canaries"]
    ]
    lines += ["", "Isolation, as the doctor looks at it"]
    lines += [
        f"  {it['level']}: {it['text']}" for it in report["findings"] if it["check"] in ISOLATION
    ]
    others = [it for it in report["findings"] if it["check"] not in ISOLATION]
    lines += [f"  {it['level']}: {it['text']}" for it in others if it["level"] != "ok"]
    lines += ["", "Digests"]
    lines += [f"  {name}: {digest}" for name, digest in report["compose"].items()]
    lines += [f"  image of {name}: {it['id']}" for name, it in report["images"].items()]
    for name, it in report["rulesets"].items():
        golden = "the golden one" if it["golden"] == it["standing"] else f"golden: {it['golden']}"
        lines.append(f"  ruleset of {name}: {it['standing']} ({golden})")
    lines += [f"  program {report['program']['version']}: {report['program']['digest']}"]
    lines += [f"  {name}: {value}" for name, value in report["machine"].items()]
    lines += ["", "Not looked at", *(f"  - {it}" for it in report["not_looked_at"])]
    return "\n".join(lines)
