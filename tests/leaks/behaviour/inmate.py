"""Runs in a service's place and tries what nobody there may do: the worst that can happen inside.

Prints one JSON object: what worked. Says nothing about what should work; `confinement` judges. The
same file serves every account: the service's own, root (as `docker exec -u 0` would be), and a user
who has no business there. Python's standard library alone.
"""

# It tries system calls, by their own names:
# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH110, PTH123, PTH208

import contextlib
import ctypes
import json
import mmap
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
SCRATCH = "/dev/shm"
FOREIGN_USER = 12345
SO_RCVBUFFORCE = 33
SO_ATTACH_FILTER = 26
IP_MTU = 14
PR_CAPBSET_DROP = 24
CLONE_NEWUSER = 0x10000000
SYS_ADD_KEY = {"x86_64": 248}.get(os.uname().machine, 217)
HARMLESS_DEVICES = ("/dev/another", "/dev/kmsg", "/dev/net/tun")
PLACES = (
    *("/", "/etc", "/usr/local/bin", "/var/tmp", "/run", "/tmp", "/cache"),
    *("/run/egress", "/run/engine", "/run/router", "/weights", "/var/lib/gateway", "/launch"),
    *("/twin/tmp", "/twin/run", "/twin/cache"),
)
FILES = (
    "/etc/resolv.conf", "/run/env", "/run/env.example", "/launch/digests.py", "/launch/vllm.sh",
)  # fmt: skip


def works(attempt: Callable[..., object], *arguments: object) -> bool:
    """Whether an attempt succeeds; it is made in a child, so that nothing of it stays."""
    child = os.fork()
    if child == 0:
        try:
            attempt(*arguments)
        except (OSError, ValueError):
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def call(function: Any, *arguments: object) -> None:
    """A call of the C library that raises OSError."""
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


# Privileges


def powers() -> list[str]:
    """Capabilities, each by something that takes it."""
    return sorted(name for name, attempt in POWERS.items() if works(attempt))


def _scratch_file() -> str:
    path = f"{SCRATCH}/file-{os.getpid()}"
    with open(path, "w"):
        return path


def _change_owner() -> None:
    path = _scratch_file()
    try:
        os.chown(path, FOREIGN_USER, -1)
    finally:
        os.unlink(path)


def _read_closed_file() -> None:
    path = _scratch_file()
    try:
        os.chmod(path, 0)
        os.close(os.open(path, os.O_RDONLY))
    finally:
        os.unlink(path)


def _make_device() -> None:
    path = f"{SCRATCH}/device-{os.getpid()}"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.unlink(path)


def _mount() -> None:
    path = f"{SCRATCH}/mount-{os.getpid()}"
    os.mkdir(path)
    try:
        call(libc.mount, b"none", path.encode(), b"tmpfs", 0, b"size=4k")
        libc.umount(path.encode())
    finally:
        os.rmdir(path)


def _raise_limit() -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (500, 500))
    resource.setrlimit(resource.RLIMIT_NPROC, (501, 501))


POWERS: dict[str, Callable[[], object]] = {
    "CHOWN": _change_owner,
    "DAC_OVERRIDE": _read_closed_file,
    "SETUID": lambda: os.setresuid(FOREIGN_USER, FOREIGN_USER, FOREIGN_USER),
    "SETGID": lambda: os.setgroups([FOREIGN_USER]),
    "SETPCAP": lambda: call(libc.prctl, PR_CAPBSET_DROP, 0, 0, 0, 0),
    "NET_RAW": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "NET_ADMIN": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).setsockopt(
        socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 16
    ),
    "SYS_CHROOT": lambda: os.chroot("/"),
    "MKNOD": _make_device,
    "SYS_ADMIN": _mount,
    "SYS_NICE": lambda: os.nice(-1),
    "SYS_RESOURCE": _raise_limit,
}


def syscalls() -> list[str]:
    """System calls that Docker's filter refuses whatever the capabilities."""
    found = []
    if works(lambda: call(libc.unshare, CLONE_NEWUSER)):
        found.append("unshare")
    if works(lambda: call(libc.syscall, SYS_ADD_KEY, b"user", b"probe", b"x", 1, -2)):
        found.append("add_key")
    return found


def elevates() -> bool:
    """Whether a program with the set-user-id bit runs as its owner, who is root."""
    with subprocess.Popen(
        ["/usr/bin/su"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as program:
        assert program.stdin is not None
        effective = ""
        with contextlib.suppress(OSError, IndexError):
            for _ in range(200):
                with open(f"/proc/{program.pid}/status") as status:
                    lines = dict(line.split(":", 1) for line in status if ":" in line)
                if lines["Name"].strip() == "su":
                    effective = lines["Uid"].split()[1]
                    break
                time.sleep(0.005)
        program.stdin.close()
        program.kill()
    return effective == "0" and os.geteuid() != 0


# Files


def writable() -> list[str]:
    return [place for place in PLACES if works(_write, place)]


def _write(place: str) -> None:
    path = f"{place}/probe-{os.getpid()}"
    with open(path, "xb") as file:
        file.write(b"x")
    os.unlink(path)


def executable(places: list[str]) -> list[str]:
    """Where a program that somebody brought along runs."""
    return [place for place in places if works(_execute, place)]


def _execute(place: str) -> None:
    path = f"{place}/program-{os.getpid()}"
    try:
        shutil.copyfile("/usr/bin/true", path)
        os.chmod(path, 0o755)
        subprocess.run([path], check=False)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def room_kib(places: list[str], at_most_kib: int) -> dict[str, int]:
    """How much can be written to each place, up to a bound."""
    return {place: _room_kib(place, at_most_kib) for place in places if os.path.ismount(place)}


def _room_kib(place: str, at_most_kib: int) -> int:
    path = f"{place}/filler"
    written = 0
    try:
        with open(path, "xb", buffering=0) as file:
            while written < at_most_kib * 1024:
                written += file.write(bytes(4096))
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return written // 1024


def _open(file: str, how: int) -> None:
    os.close(os.open(file, how))


def listable() -> list[str]:
    return [place for place in PLACES if works(os.listdir, place)]


def changeable() -> list[str]:
    """Mounted files that could be written to; they are opened and left as they are."""
    return [file for file in FILES if os.path.exists(file) and works(_open, file, os.O_WRONLY)]


def readable() -> list[str]:
    return [file for file in FILES if works(_open, file, os.O_RDONLY)]


def secrets() -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/run/secrets"):
            with contextlib.suppress(OSError), open(f"/run/secrets/{name}") as file:
                if file.read():
                    found.append(name)
    return sorted(found)


def name_servers() -> list[str]:
    with open("/etc/resolv.conf") as file:
        return [line.split()[1] for line in file if line.startswith("nameserver")]


def devices() -> list[str]:
    """Devices beyond the usual ones that can be opened; only those whose opening does nothing."""
    found = []
    for path in HARMLESS_DEVICES:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            found.append(path)
    return found


# Limits


def eats(mebibytes: int) -> bool:
    """Whether so much memory can be had; a child asks for it and offers itself to the killer."""

    def eat() -> None:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        memory = mmap.mmap(-1, mebibytes << 20)
        for at in range(0, len(memory), 4096):
            memory[at] = 1

    return works(eat)


def swap_bytes() -> int | None:
    """How much of the memory may be swapped out, as the kernel accounts; None: no accounting."""
    folder = "/sys/fs/cgroup/memory"
    with contextlib.suppress(OSError, ValueError):
        with open(f"{folder}/memory.limit_in_bytes") as limit:
            memory = int(limit.read())
        with open(f"{folder}/memory.memsw.limit_in_bytes") as limit:
            return int(limit.read()) - memory
    with contextlib.suppress(OSError), open("/sys/fs/cgroup/memory.swap.max") as limit:
        text = limit.read().strip()
        return 1 << 62 if text == "max" else int(text)
    return None


def has_swap() -> bool:
    with open("/proc/swaps") as file:
        return len(file.readlines()) > 1


def tasks(at_most: int) -> int:
    """How many tasks can exist at once, up to a bound."""
    threading.stack_size(1 << 15)
    enough = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(at_most):
            thread = threading.Thread(target=enough.wait)
            thread.start()
            started.append(thread)
    except RuntimeError:
        pass
    finally:
        enough.set()
        for thread in started:
            thread.join()
        threading.stack_size(0)
    return len(started) + 1


def leaves_core(places: list[str]) -> bool:
    """Whether a process that crashes can leave its memory behind."""
    with open("/proc/sys/kernel/core_pattern") as file:
        pattern = file.read()
    if works(lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))):
        return True
    if pattern.startswith("|"):  # the limit is of no account there: the host's configuration is
        return False
    place = places[0] if places else "/"
    child = os.fork()
    if child == 0:
        os.chdir(place)
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    left = [name for name in os.listdir(place) if name.startswith("core")] if places else []
    for name in left:
        os.unlink(f"{place}/{name}")
    return os.WCOREDUMP(status) or bool(left)


def leaves_zombies() -> bool:
    """Whether an orphan that has ended stays, and takes a place among the processes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        orphan = os.fork()
        if orphan:
            os.write(writing, str(orphan).encode())
        os._exit(0)
    os.waitpid(child, 0)
    orphan = int(os.read(reading, 16))
    for _ in range(200):
        if not os.path.exists(f"/proc/{orphan}"):
            return False
        time.sleep(0.01)
    return True


# Others


def interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def sends_ipv6(known: list[str]) -> list[str]:
    """Interfaces by which an IPv6 packet can be sent to whoever listens there.

    Nothing is sent where there is an interface that should not be: it may lead outside.
    """
    found: list[str] = []
    if not set(interfaces()) <= set(known):
        return found
    for index, name in socket.if_nameindex():
        target = ("::1", 9, 0, 0) if name == "lo" else ("ff02::1", 9, 0, index)
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto(b"probe", target)
            found.append(name)
    return found


def reaches(neighbours: dict[str, str]) -> list[str]:
    """Which of the neighbours, by their networks' names, answer a call."""
    found = []
    for network, address in neighbours.items():
        with contextlib.suppress(OSError):
            socket.create_connection((address, 8080), 0.5).close()
            found.append(network)
    return found


def binds(address: str) -> bool:
    def bind() -> None:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, 8080))

    return works(bind)


def sees_holder() -> bool:
    """Whether the holder's sign of life, which belongs to its network namespace, is seen."""

    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0namespace")

    return works(connect)


def others() -> list[str]:
    """Processes that are neither this one nor its own."""
    found = set()
    own = {os.getpid(), os.getppid()}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in own:
            with contextlib.suppress(OSError):
                with open(f"/proc/{entry}/cmdline") as file:
                    words = file.read().split("\0")
                if "python3" not in words[0] and "docker-init" not in words[0] and words[0]:
                    found.add(" ".join(words[:3]).strip()[:60])
    return sorted(found)


def first_process() -> str:
    with open("/proc/1/cmdline") as file:
        return file.read().replace("\0", " ").strip()[:60]


def sees_shared_memory(name: str) -> bool:
    return os.path.exists(f"/dev/shm/{name}")


def commands_docker() -> bool:
    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("/var/run/docker.sock")

    return works(connect)


def seconds_unheard(address: str, at_most: float) -> float:
    """How long until a connection is given up whose other side is heard no more.

    The socket's own filter drops all that comes, so it is as if the network were cut.
    """
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(drop_all))
    with socket.create_connection((address, 8080), 5) as connection:
        connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        connection.settimeout(at_most)
        began = time.monotonic()
        connection.sendall(b"x")
        with contextlib.suppress(OSError):
            connection.recv(1)
        return time.monotonic() - began


def learns_path_size(address: str) -> dict[str, int]:
    """A router complains, to one who sends UDP, that the path is narrow: what is thought of it.

    The size of the path before and after. Needs a raw socket to say what the router would.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address, 9))
        before = sender.getsockopt(socket.IPPROTO_IP, IP_MTU)
        own, own_port = sender.getsockname()
        ends = socket.inet_aton(own) + socket.inet_aton(address)
        quoted = struct.pack("!BBHHHBBH", 0x45, 0, 1400, 7, 0x4000, 64, 17, 0) + ends
        quoted += struct.pack("!HHHH", own_port, 9, 1380, 0)
        complaint = struct.pack("!BBHHH", 3, 4, 0, 0, 1280) + quoted
        total = sum(struct.unpack(f"!{len(complaint) // 2}H", complaint))
        total = (total >> 16) + (total & 0xFFFF)
        total = ~(total + (total >> 16)) & 0xFFFF
        complaint = complaint[:2] + struct.pack("!H", total) + complaint[4:]
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as router:
            router.sendto(complaint, (own, 0))
        after = before
        deadline = time.monotonic() + 0.5
        while after == before and time.monotonic() < deadline:
            after = sender.getsockopt(socket.IPPROTO_IP, IP_MTU)
            time.sleep(0.01)
    return {"before": before, "after": after}


def refuses_udp(address: str) -> bool:
    """Whether somebody says of a port that it is closed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.settimeout(0.5)
        caller.connect((address, 51820))
        try:
            for _ in range(3):
                caller.send(b"probe")
                with contextlib.suppress(TimeoutError):
                    caller.recv(1)
        except ConnectionRefusedError:
            return True
    return False


# Reports


def own_report(given: dict[str, Any]) -> dict[str, Any]:
    """As the service's own account."""
    places = writable()
    return {
        "user": [os.getuid(), os.getgid()],
        "powers": powers(),
        "syscalls": syscalls(),
        "elevates": elevates(),
        "writable": places,
        "executable": executable(places),
        "room_kib": room_kib(places, given["room_kib"]),
        "listable": listable(),
        "changeable": changeable(),
        "readable": readable(),
        "secrets": secrets(),
        "name_servers": name_servers(),
        "devices": devices(),
        "eats": bool(given["memory_mib"]) and eats(given["memory_mib"] + 16),
        "swap": swap_bytes(),
        "has_swap": has_swap(),
        "tasks": tasks(given["tasks"] + 16),
        "leaves_core": leaves_core([place for place in ("/tmp", "/run") if place in places]),
        "leaves_zombies": given["reaps"] and leaves_zombies(),
        "interfaces": interfaces(),
        "sends_ipv6": sends_ipv6(given["interfaces"]),
        "reaches": reaches(given["neighbours"]),
        "binds": binds("10.66.0.2"),
        "sees_holder": sees_holder(),
        "others": others(),
        "first_process": first_process(),
        "sees_shared_memory": sees_shared_memory(given["canary"]),
        "commands_docker": commands_docker(),
    }


def guest_report(given: dict[str, Any]) -> dict[str, Any]:
    """As root without the service's account, or as a user who has no business there."""
    return {
        "powers": powers(),
        "elevates": elevates(),
        "writable": writable(),
        "listable": [place for place in listable() if place not in ("/", "/etc", "/usr/local/bin")],
        "changeable": changeable(),
        "secrets": secrets(),
        "commands_docker": commands_docker(),
    }


def mounts_report(given: dict[str, Any]) -> dict[str, Any]:
    """What the mounts themselves refuse, tried by a root who has every usual capability."""
    places = [place for place in writable() if os.path.ismount(place)]
    return {
        "writable": places,
        "executable": executable(places),
        "devices": [place for place in places if works(_open_device, place)],
        "elevating": [place for place in places if _elevates_from(place)],
        "room_kib": room_kib(places, given["room_kib"]),
    }


def _open_device(place: str) -> None:
    path = f"{place}/device-{os.getpid()}"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    try:
        os.close(os.open(path, os.O_RDWR))
    finally:
        os.unlink(path)


def _elevates_from(place: str) -> bool:
    path = f"{place}/program-{os.getpid()}"
    try:
        shutil.copyfile("/usr/bin/id", path)
        os.chmod(path, 0o4755)
        done = subprocess.run(
            [path, "-u"], user=FOREIGN_USER, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() == "0"
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def flood_report(given: dict[str, Any]) -> dict[str, Any]:
    """Say far more than a log may keep."""
    for _ in range(given["log_kib"]):
        print("x" * 1023)
    return {}


def network_report(given: dict[str, Any]) -> dict[str, Any]:
    return {"sends_ipv6": sends_ipv6(given["interfaces"])}


def silence_report(given: dict[str, Any]) -> dict[str, Any]:
    return {"seconds": seconds_unheard(given["neighbours"]["telegram"], 40)}


def path_report(given: dict[str, Any]) -> dict[str, Any]:
    return learns_path_size(given["called"])


def refusal_report(given: dict[str, Any]) -> dict[str, Any]:
    """As a neighbour of the one that is asked."""
    return {"refuses": refuses_udp(given["asked"])}


Report = Callable[[dict[str, Any]], dict[str, Any]]
REPORTS: dict[str, Report] = {
    "network": network_report,
    "own": own_report,
    "guest": guest_report,
    "mounts": mounts_report,
    "flood": flood_report,
    "silence": silence_report,
    "path": path_report,
    "refusal": refusal_report,
    "nothing": lambda _: {},
}


def main() -> None:
    given = json.loads(sys.argv[1])
    print(json.dumps({"started": time.time(), "pid": os.getpid()}), flush=True)
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(1))
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN if given.get("stubborn") else lambda *_: os._exit(0)
    )
    report = REPORTS[given["report"]](given)
    print(json.dumps({"report": report}), flush=True)
    while given["stays"]:
        signal.pause()


if __name__ == "__main__":
    main()
