"""Owns the settings of Docker's daemon that a node wants, merged into those that are there."""

from __future__ import annotations

import json
from typing import Any

from scripts.harden.host import Host, Refused
from scripts.harden.part import File, Part

FILE = "/etc/docker/daemon.json"
UNIT = "docker.service"

WANTED: dict[str, Any] = {
    "live-restore": True,  # containers outlive the daemon
    "userland-proxy": False,  # no process of root's at published ports
    "ipv6": False,
}
LIMITED_DRIVERS = ("json-file", "local")
LIMITS = {"max-size": "10m", "max-file": "3"}

HEARD = """
systemctl --quiet is-active docker.service || exit 0
wanted=false
grep -Eqs '"live-restore": *true' /etc/docker/daemon.json && wanted=true
for _ in $(seq 100); do
  [ "$(docker info --format '{{.LiveRestoreEnabled}}' 2>/dev/null)" != $wanted ] || exit 0
  sleep 0.2
done
"""
"""Waits until the daemon has heard what it was told: it hears of a reload, but does not answer."""
RELOADS = (
    ("systemctl", "try-reload-or-restart", UNIT),
    ("sh", "-c", HEARD),
    ("systemctl", "try-restart", UNIT),
)
"""Reloaded first, so that the daemon knows that its containers stay when it is restarted."""


def want(host: Host) -> Part:
    """Raises Refused where the file cannot be amended."""
    return Part(
        "docker",
        "Containers outlive the daemon, logs are bounded, ports need no process of their own.",
        files=(File(FILE, merged(host.read(FILE)), None),),
        reloads=RELOADS if host.has_unit(UNIT) else (),
        check=check,
    )


def merged(text: str) -> str:
    """What is set otherwise there stays; so do the limits of a log driver of the operator's."""
    try:
        settings = json.loads(text) if text.strip() else {}
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise Refused(f"{FILE} is not JSON that Docker could read: mend it first")
    wanted = {**settings, **WANTED}
    if wanted.setdefault("log-driver", "json-file") in LIMITED_DRIVERS:
        wanted["log-opts"] = {**LIMITS, **settings.get("log-opts", {})}
    if wanted == settings:
        return text
    return json.dumps(wanted, indent=2) + "\n"


def check(host: Host) -> None:
    if host.has_program("dockerd"):
        host.do("dockerd", "--validate", f"--config-file={FILE}")
