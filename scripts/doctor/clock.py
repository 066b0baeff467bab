"""Checks that the clock is right enough for TLS and WireGuard, and kept so."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from scripts.doctor.finding import Check, Finding, failure, ok, warning
from scripts.node.node import Node

UNSYNCHRONISED = 0x0040  # STA_UNSYNC of adjtimex(2): set unless something keeps the clock
EARLIEST, LATEST = 2025, 2045

WRONG = failure(
    "clock-wrong",
    "The clock says {date}: certificates are refused, and the other node takes the tunnel's "
    "handshakes for old ones.",
    "Set it (`date -s`, `timedatectl set-time`), and let an NTP client keep it.",
)
LOOSE = warning(
    "clock-unsynchronised",
    "Nothing keeps the clock right.",
    "Let an NTP client keep it: `apt-get install systemd-timesyncd` or `chrony`.",
)


def look(node: Node) -> Iterator[Finding]:
    now = datetime.datetime.fromtimestamp(node.tools.now(), datetime.UTC)
    if not EARLIEST <= now.year <= LATEST:
        yield WRONG.found(date=now.date())
    if node.tools.clock_status() & UNSYNCHRONISED:
        yield LOOSE.found()
    else:
        yield ok(f"The clock is kept by a time service; it is {now:%Y-%m-%d %H:%M:%S} UTC.")


CHECK = Check(
    "clock",
    "Whether the clock is sane and something keeps it so (the kernel knows, whatever keeps it). It "
    "is not compared with anybody else's.",
    (WRONG, LOOSE),
    look,
)
