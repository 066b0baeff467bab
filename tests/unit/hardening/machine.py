"""A made-up machine: files below a folder, and the commands that `harden` calls, remembered."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from scripts.harden.host import Host
from scripts.harden.settings import Settings
from scripts.node.tools import Said, Tools

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKeyOfTheOperator operator"
KNOWN = {
    "kex": "curve25519-sha256\nsntrup761x25519-sha512@openssh.com\ndiffie-hellman-group14-sha1\n",
    "cipher": "aes256-gcm@openssh.com\naes128-cbc\nchacha20-poly1305@openssh.com\n",
    "mac": "hmac-sha1\nhmac-sha2-256-etm@openssh.com\n",
}
SSHD = {
    "port": "22",
    "permitrootlogin": "yes",
    "passwordauthentication": "yes",
    "maxauthtries": "6",
    "authorizedkeysfile": ".ssh/authorized_keys .ssh/authorized_keys2",
    "permitemptypasswords": "no",
}
DROP_IN = "etc/ssh/sshd_config.d/00-harden.conf"

RELAY = Settings("relay", 51820, names="closed", resolver="192.0.2.53")
MODEL = Settings("model", None, held=("linux-image", "nvidia"))


@dataclass
class FakeTools(Tools):
    """Answers as a Debian would, from a few facts."""

    root: Path
    calls: list[tuple[str, ...]] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    """What commands were given to read."""
    tables: dict[str, str] = field(default_factory=dict)
    enabled: dict[str, str] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)
    sshd: dict[str, str] = field(default_factory=lambda: dict(SSHD))
    """sshd's settings where no drop-in has another word."""
    failing: set[str] = field(default_factory=set)
    """Commands, by their beginning, that fail."""
    is_container: bool = False
    includes: bool = True
    """Whether sshd reads its drop-ins."""
    armed_before: list[str] = field(default_factory=list)
    """Files in /etc that `harden` had written when the way back was armed first."""

    @property
    def is_root(self) -> bool:
        return True

    def run(self, *command: str, stdin: str = "", seconds: float = 60, env: object = None) -> Said:
        self.calls.append(command)
        self.given.append(stdin)
        if any(" ".join(command).startswith(words) for words in self.failing):
            return Said(1, err="it does not")
        match command:
            case ("unshare", *_):
                return Said(0, as_listed(stdin))
            case ("nft", "-f", "-"):
                self._load(stdin)
            case ("nft", "--stateless", "list", "table", *name):
                text = self.tables.get(" ".join(name))
                return Said(0, text) if text else Said(1, err="No such file or directory")
            case ("ssh", "-Q", question):
                return Said(0, KNOWN[question])
            case ("systemd-detect-virt", *_):
                return Said(0 if self.is_container else 1)
            case ("sshd", "-T"):
                return Said(0, self._sshd())
            case ("systemctl", *words):
                return self._systemctl(words)
            case ("swapon", place) | ("swapoff", place):
                self._swap(place, command[0] == "swapon")
            case ("mount", *_):
                self._mountinfo("36 28 0:25 / /etc/resolv.conf rw - tmpfs tmpfs rw\n")
            case ("umount", *_):
                self._mountinfo("")
        return Said(0)

    def _load(self, rules: str) -> None:
        first, second, rest = rules.split("\n", 2)
        name = first.removeprefix("table ")
        assert second == f"delete table {name}", "the old table would stay beside the new one"
        self.tables.pop(name, None)
        if rest.strip():
            self.tables[name] = rest

    def _sshd(self) -> str:
        values = dict(self.sshd)
        path = self.root / DROP_IN
        if self.includes and path.exists():
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if not name.startswith("#"):
                    values[name.lower()] = value.replace("prohibit-password", "without-password")
        return "".join(f"{name} {value}\n" for name, value in values.items())

    def _systemctl(self, words: list[str]) -> Said:
        match words:
            case ["is-enabled", unit]:
                said = self.enabled.get(unit, "")
                if "harden" in unit and not (self.root / "etc/systemd/system" / unit).exists():
                    assert said != "enabled", "a link is left that leads nowhere"
                    said = "not-found"
                return Said(0 if said == "enabled" else 1, said)
            case ["is-active", unit]:
                said = "active" if unit in self.active else "inactive"
                return Said(0 if said == "active" else 3, said)
            case ["show", *_, "ssh.socket"]:
                return Said(0, "0.0.0.0:9022 (Stream)\n[::]:9022 (Stream)\n")
            case ["enable", unit]:
                self.enabled[unit] = "enabled"
            case ["disable", *_, unit]:
                self.enabled[unit] = "disabled"
                if "--now" in words:
                    self.active.discard(unit)
            case ["mask", unit]:
                self.enabled[unit] = "masked"
            case ["start" | "restart", unit]:
                self.active.add(unit)
                if unit == "nftables.service":
                    self.tables["inet host"] = as_listed(
                        (self.root / "etc/nftables.conf").read_text()
                    )
                if "rollback" in unit and not self.armed_before:
                    self.armed_before = [*self._written(), "(armed)"]
            case ["stop", unit]:
                self.active.discard(unit)
        return Said(0)

    def _written(self) -> list[str]:
        paths = [path for path in (self.root / "etc").rglob("*harden*") if path.is_file()]
        return [path.name for path in paths if "rollback" not in path.name]

    def _swap(self, place: str, on: bool) -> None:
        path = self.root / "proc/swaps"
        lines = [it for it in path.read_text().splitlines() if not it.startswith(f"{place} ")]
        path.write_text(
            "\n".join([*lines, *([f"{place} partition 1000 10 -2"] if on else [])]) + "\n"
        )

    def _mountinfo(self, text: str) -> None:
        (self.root / "proc/self/mountinfo").write_text(text)


def as_listed(rules: str) -> str:
    """As nft lists what it has loaded: without comments and without what prepared it."""
    lines = [line.rstrip() for line in rules.splitlines() if not line.lstrip().startswith("#")]
    body = "\n".join(line for line in lines if line)
    return re.sub(r"\A(?:(?:delete )?table inet host\n)+", "", body) + "\n"


class Machine:
    """A Debian as it comes, with an operator who has a key and may become root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tools = FakeTools(root)
        self.host = Host(self.tools, root)
        for folder in ("etc/systemd/system", "var/lib"):
            (root / folder).mkdir(parents=True)
        for name in ("nft", "sshd", "fail2ban-client", "unattended-upgrade", "dockerd"):
            self.write(f"usr/sbin/{name}", "")
        self.write("usr/lib/systemd/systemd-timesyncd", "")
        for unit in ("docker", "systemd-resolved"):
            self.write(f"usr/lib/systemd/system/{unit}.service", "")
        user = max(1000, os.geteuid())
        daemon = "daemon:x:1:1::/:/usr/sbin/nologin"
        ops = f"ops:x:{user}:{user}::/home/ops:/bin/bash"
        self.write("etc/passwd", f"root:x:0:0::/root:/bin/bash\n{daemon}\n{ops}\n")
        self.write("etc/group", "sudo:x:27:ops\n")
        self.write("home/ops/.ssh/authorized_keys", f"{KEY}\n", 0o600)
        self.write("etc/hostname", "node\n")
        self.write("etc/hosts", "127.0.0.1 localhost\n")
        self.write("run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\n")
        (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
        self.write("etc/nftables.conf", "#!/usr/sbin/nft -f\nflush ruleset\n", 0o755)
        self.write("etc/fstab", "/dev/vda1 / ext4 noatime 0 1\n/dev/vda2 none swap sw 0 0\n", 0o664)
        self.write("etc/dhcpcd.conf", "hostname\n")
        self.write("etc/docker/daemon.json", '{"data-root": "/srv/docker"}\n', 0o600)
        self.write("etc/ssh/sshd_config.d/50-cloud.conf", "PasswordAuthentication yes\n", 0o600)
        for name, value in (
            ("kernel/sysrq", "438"),
            ("kernel/core_pattern", "|/usr/share/apport/apport %p"),
            ("net/ipv4/conf/all/rp_filter", "2"),
            ("kernel/random/boot_id", "first-boot"),
        ):
            self.write(f"proc/sys/{name}", f"{value}\n")
        self.write(
            "proc/swaps", "Filename Type Size Used Priority\n/dev/vda2 partition 1000 10 -2\n"
        )
        self.write("proc/meminfo", "MemTotal: 500000 kB\nMemAvailable: 300000 kB\n")
        self.write("proc/uptime", "1000.00 900.00\n")
        self.write("proc/self/mountinfo", "")
        self.tools.enabled |= {"nftables.service": "disabled", "fail2ban.service": "enabled",
                               "apt-daily.timer": "enabled", "apt-daily-upgrade.timer": "enabled",
                               "systemd-timesyncd.service": "enabled",
                               "systemd-resolved.service": "enabled"}  # fmt: skip
        self.tools.active |= {"fail2ban.service", "apt-daily.timer"}
        self.tools.active |= {"systemd-timesyncd.service", "systemd-resolved.service"}

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)

    def text(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")

    def add_process(
        self, number: int, parent: int, name: str, began: float, connection: str = ""
    ) -> None:
        """`began` in seconds since the kernel started."""
        fields = " ".join(["0"] * 17)
        ticks = int(began * os.sysconf("SC_CLK_TCK"))
        self.write(f"proc/{number}/stat", f"{number} ({name}) S {parent} {fields} {ticks} 0 0\n")
        environment = f"HOME=/root\0SSH_CONNECTION={connection}\0" if connection else "HOME=/root\0"
        self.write(f"proc/{number}/environ", environment)

    def census(self) -> dict[str, object]:
        """Everything below /etc and /var: kind, mode, time and content."""
        found: dict[str, object] = {}
        for top in ("etc", "var"):
            for path in sorted((self.root / top).rglob("*")):
                status = path.lstat()
                if path.is_symlink():
                    what: object = ("link", str(path.readlink()))
                elif path.is_dir():
                    what = ("folder", stat.S_IMODE(status.st_mode))
                else:
                    mode = stat.S_IMODE(status.st_mode)
                    what = ("file", mode, status.st_mtime_ns, path.read_bytes())
                found[str(path.relative_to(self.root))] = what
        return found

    def states(self) -> dict[str, object]:
        """What is no file: rules, units, the kernel's settings."""
        return {
            "rules": dict(self.tools.tables),
            "enabled": {k: v for k, v in self.tools.enabled.items() if "harden" not in k},
            "active": set(self.tools.active),
            "kernel": {str(p): p.read_text() for p in (self.root / "proc/sys").rglob("*")
                       if p.is_file()},
            "swaps": self.text("proc/swaps"),
        }  # fmt: skip
