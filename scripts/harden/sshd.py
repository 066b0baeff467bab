"""Owns how one logs in: by key alone, with today's algorithms, and never so that nobody can."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.harden.host import Failed, Host, Refused
from scripts.harden.part import File, Part, template
from scripts.harden.settings import Settings

FILE = "/etc/ssh/sshd_config.d/00-harden.conf"

ROOT_LOGIN = {"key": "prohibit-password", "off": "no"}
MEANS_THE_SAME = {"without-password": "prohibit-password"}
NO_SHELLS = ("nologin", "false", "sync", "shutdown", "halt", "git-shell")
MIGHTY_GROUPS = ("sudo", "wheel", "admin")
KEY_TYPES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-",
    "sk-ecdsa-sha2-",
    "ssh-rsa",
)

ALGORITHMS = {
    "KexAlgorithms": ("kex", (
        "mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com",
        "curve25519-sha256", "curve25519-sha256@libssh.org",
    )),
    "Ciphers": ("cipher", (
        "chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com",
        "aes256-ctr", "aes192-ctr", "aes128-ctr",
    )),
    "MACs": ("mac", (
        "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256-etm@openssh.com",
        "umac-128-etm@openssh.com",
    )),
}  # fmt: skip
"""What an ssh of any age may be asked for, by sshd's word and by that of `ssh -Q`."""


@dataclass(frozen=True)
class Login:
    """A user who can log in with a key."""

    name: str
    is_root: bool
    can_become_root: bool


def is_installed(host: Host) -> bool:
    return host.has_program("sshd")


def ports(host: Host, settings: Settings) -> tuple[int, ...]:
    """Where sshd listens, or will. Raises Refused."""
    if settings.ssh_port is not None:
        return (settings.ssh_port,)
    if listens_by_socket(host):
        listen = host.run("systemctl", "show", "--property=Listen", "--value", "ssh.socket").out
        if found := re.findall(r":([0-9]+) \(Stream\)", listen):
            return tuple(sorted({int(port) for port in found}))
    return ports_of(effective(host))


def ports_of(now: dict[str, list[str]]) -> tuple[int, ...]:
    """By sshd's own settings: a ListenAddress may name another port than Port does."""
    places = [place.rpartition(":")[2] for place in now.get("listenaddress", [])]
    named = [port for port in places if port.isdigit()] or now.get("port", ["22"])
    return tuple(sorted({int(port) for port in named}))


def is_taken(host: Host, port: int) -> bool:
    """Whether somebody listens at a TCP port. sshd, told to listen there too, would end."""
    rows = [
        row.split()
        for file in ("tcp", "tcp6")
        for row in host.read(f"/proc/net/{file}").splitlines()
    ]
    listening = [row[1] for row in rows if len(row) > 3 and row[3] == "0A"]
    return any(int(place.rpartition(":")[2], 16) == port for place in listening)


def effective(host: Host) -> dict[str, list[str]]:
    """sshd's settings as it reads them; each by its name in small letters. Raises Refused."""
    said = host.run("sshd", "-T")
    if said.code != 0:
        raise Refused(f"sshd does not read its own settings ({said.why}): mend them first")
    found: dict[str, list[str]] = {}
    for line in said.out.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), []).append(value)
    return found


def want(host: Host, settings: Settings) -> Part:
    """Raises Refused where nobody could log in any more."""
    now = effective(host)
    refuse_lock_out(list(logins(host, now)), settings)
    port = ""
    if settings.ssh_port is not None and ports_of(now) != (settings.ssh_port,):
        if now.get("port", ["22"]) != ["22"] or ports_of(now) != (22,) or listens_by_socket(host):
            raise Refused(
                f"sshd's port is set elsewhere: set it to {settings.ssh_port} there, or leave "
                "--ssh-port out"
            )
        if is_taken(host, settings.ssh_port):
            raise Refused(
                f"somebody listens at port {settings.ssh_port} already: choose another --ssh-port"
            )
        port = f"Port {settings.ssh_port}"
    elif f"Port {settings.ssh_port}" in host.read(FILE).splitlines():
        port = f"Port {settings.ssh_port}"
    content = template(
        "sshd.conf",
        port=port,
        root_login=ROOT_LOGIN[settings.root_login],
        algorithms="\n".join(algorithms(host)),
    )
    return Part(
        "sshd",
        "Keys only, and nothing but a shell.",
        files=(File(FILE, content, 0o600),),
        reloads=(("systemctl", "try-reload-or-restart", "ssh.service"),),
        check=lambda host: check(host, content),
    )


def listens_by_socket(host: Host) -> bool:
    return host.run("systemctl", "is-active", "ssh.socket").out.strip() == "active"


def algorithms(host: Host) -> Iterator[str]:
    """Those that this ssh knows; a word that it does not know would keep sshd from starting."""
    for word, (question, wanted) in ALGORITHMS.items():
        known = host.run("ssh", "-Q", question).out.split()
        chosen = [name for name in wanted if name in known]
        if chosen:
            yield f"{word} {','.join(chosen)}"


def check(host: Host, content: str) -> None:
    """sshd takes the file, and no other file contradicts it. Raises Failed."""
    host.do("sshd", "-t")
    try:
        now = effective(host)
    except Refused as why:
        raise Failed(str(why)) from None
    for line in content.splitlines():
        if line.startswith("Port ") and ports_of(now) != (int(line.split()[1]),):
            raise Failed("a ListenAddress of sshd's names its own port: take the port out of it")
        name, _, value = line.partition(" ")
        if name.startswith("#") or name.lower() not in now:
            continue
        actual = [MEANS_THE_SAME.get(word, word) for word in now[name.lower()]]
        if [word.lower() for word in actual] != [value.lower()]:
            raise Failed(
                f"sshd takes {name} {', '.join(actual)} from elsewhere: let /etc/ssh/sshd_config "
                "begin with `Include /etc/ssh/sshd_config.d/*.conf`"
            )


def refuse_lock_out(found: list[Login], settings: Settings) -> None:
    if settings.root_login == "off":
        if not any(login.can_become_root for login in found if not login.is_root):
            raise Refused(
                "without root's login nobody with an SSH key could become root: give a user of "
                f"the group {MIGHTY_GROUPS[0]} a key (`ssh-copy-id USER@…`), or leave "
                "--root-login at `key`"
            )
    elif not found:
        raise Refused(
            "no user has an SSH key here, so passwords stay: bring yours (`ssh-copy-id USER@…`), "
            "then try again"
        )


def logins(host: Host, now: dict[str, list[str]]) -> Iterator[Login]:
    """Users with a shell and with a key that sshd would take."""
    mighty = mighty_users(host)
    for line in host.read("/etc/passwd").splitlines():
        name, _, number, _, _, home, shell = [*line.split(":"), *[""] * 7][:7]
        if not number.isdigit() or shell.rpartition("/")[2] in NO_SHELLS:
            continue
        patterns = now.get("authorizedkeysfile", [".ssh/authorized_keys"])[0].split()
        if any(has_key(host, place(pattern, name, home), int(number)) for pattern in patterns):
            yield Login(name, number == "0", number == "0" or name in mighty)


def mighty_users(host: Host) -> set[str]:
    groups = [line.split(":") for line in host.read("/etc/group").splitlines()]
    return {
        user
        for group in groups
        if len(group) == 4 and group[0] in MIGHTY_GROUPS
        for user in group[3].split(",")
    }


def place(pattern: str, name: str, home: str) -> str:
    path = pattern.replace("%h", home).replace("%u", name).replace("%%", "%")
    return path if path.startswith("/") else f"{home}/{path}"


def has_key(host: Host, path: str, owner: int) -> bool:
    """Whether a key stands in the file, and nobody else may write it: sshd would not take it."""
    try:
        status = host.path(path).stat()
        text = host.read(path)
    except (OSError, Refused):
        return False
    if status.st_mode & 0o022 or status.st_uid not in (0, owner):
        return False
    return any(is_key(line) for line in text.splitlines())


def is_key(line: str) -> bool:
    if line.lstrip().startswith("#"):
        return False
    words = line.split()
    pairs = itertools.pairwise(words)
    return any(kind.startswith(KEY_TYPES) and key.startswith("AAAA") for kind, key in pairs)
