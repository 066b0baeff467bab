"""Owns that no memory is written to a disk in clear: no swap, or swap seen to be encrypted."""

from __future__ import annotations

from scripts.harden.host import Host, Refused
from scripts.harden.part import File, Part
from scripts.harden.settings import Settings
from scripts.harden.states import State, read_swap

FSTAB = "/etc/fstab"
OURS = "# harden: "


def want(host: Host, settings: Settings) -> Part:
    """Raises Refused where swap shall stay but is not seen to be encrypted, or cannot go."""
    active = read_swap(host, "all").split()
    if settings.swap == "encrypted":
        if plain := [place for place in active if not is_encrypted(host, place)]:
            raise Refused(
                f"{', '.join(plain)} cannot be seen to be encrypted: put swap on dm-crypt, or "
                "leave --swap at `off`"
            )
        return Part("swap", "It is encrypted, and stays.")
    refuse_full(host)
    why = "What is in memory stays there."
    text = host.read(FSTAB)
    without = "".join(
        f"{OURS}{line}" if is_swap(line) else line for line in text.splitlines(keepends=True)
    )
    return Part(
        "swap",
        why,
        files=(File(FSTAB, without, None),) if text else (),
        states=(State("swap", "all", ""),),
    )


def is_swap(line: str) -> bool:
    words = line.split()
    return len(words) >= 3 and not words[0].startswith("#") and words[2] == "swap"


def is_encrypted(host: Host, place: str) -> bool:
    """A device of dm-crypt; or compressed memory, which is on no disk."""
    name = place.rpartition("/")[2]
    if name.startswith("zram"):
        return host.read(f"/sys/block/{name}/backing_dev").strip() in ("", "none")
    return host.read(f"/sys/block/{name}/dm/uuid").startswith("CRYPT-")


def refuse_full(host: Host) -> None:
    used = sum(int(line.split()[3]) for line in host.read("/proc/swaps").splitlines()[1:])
    lines = host.read("/proc/meminfo").splitlines()
    free = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), used)
    if used > free:
        raise Refused(
            f"{used // 1024} MB are swapped out and {free // 1024} MB of memory are free: end "
            "something first, or give --swap encrypted"
        )
