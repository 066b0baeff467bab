"""Owns the disks of the virtual machines: a Debian system with Docker, images and a node's files.

Three layers, each kept until what goes into it changes: the packages, the host's set-up with the
images, and, made for each run, the node's own files. The first two are directories; a disk is an
ext4 file system filled from one, which needs no loop device and no boot.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts import setup
from scripts.steps import Step

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("VM_CACHE", "/var/tmp/node-vm"))

PACKAGES = (
    *("linux-image-cloud-amd64", "initramfs-tools", "zstd", "kmod", "udev", "systemd-sysv", "dbus"),
    *("docker.io", "docker-cli", "docker-compose", "ca-certificates"),
    *("iproute2", "iptables", "nftables", "procps", "qemu-guest-agent", "curl"),
)
"""Docker Engine as Debian has it. WireGuard comes with the kernel, its tools with the image."""

SUITE = "trixie"
DISK_SIZE = "3G"  # sparse: as much of it is used as the files take


@dataclass(frozen=True)
class System:
    """What a machine boots from."""

    kernel: Path
    initrd: Path
    disk: Path


@dataclass(frozen=True)
class Host:
    """A machine to be: its name, its place in the network, and what its Docker has."""

    name: str
    address: str
    gateway: str
    resolver: str
    live_restore: bool
    """Whether containers outlive Docker's daemon."""
    images: tuple[str, ...]


@contextmanager
def cache() -> Iterator[None]:
    """Hold the cache: two runs would write into each other's systems."""
    CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_system(step: Step, host: Host, files: Path, target: Path) -> System:
    """A disk for `host` at `target`, with everything in `files` copied onto it."""
    tree = _make_host(step, host)
    step.note = f"writing the disk of {host.name}"
    _insert(files, tree)
    try:
        target.unlink(missing_ok=True)
        step.run(
            ["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(target), DISK_SIZE],
            doing=f"making the disk of {host.name}",
        )
    finally:
        _remove_again(files, tree)
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    (initrd,) = (tree / "boot").glob("initrd.img-*")
    return System(kernel, initrd, target)


def _make_host(step: Step, host: Host) -> Path:
    """The packages, set up as `host-setup` says, with the images in its Docker."""
    ids = [setup.image_id(image) or f"{image} is missing" for image in host.images]
    scripts = [(HERE / name).read_text(encoding="utf-8") for name in ("host-setup", "load-images")]
    tree = _layer(f"host-{host.name}", [*_packages(), *scripts, repr(host), *ids])
    if tree.exists():
        return tree
    base = _make_base(step)
    part = _clear(tree)
    step.note = f"setting up {host.name}"
    step.run(["cp", "-a", str(base), str(part)], doing="copying the system")
    shutil.copy(HERE / "host-setup", part / "root")
    shutil.copy(HERE / "load-images", part / "root")
    own = ["/root/host-setup", host.address, host.gateway, host.resolver]
    own.append("true" if host.live_restore else "false")
    step.run([*_inside(part), *own], doing=f"setting up {host.name}")
    step.note = f"loading the images of {host.name}"
    step.run(
        ["bash", "-c", 'set -o pipefail; archive=$1; shift; "$@" <"$archive"', "load"]
        + [str(_save(step, host)), *_inside(part), "/root/load-images"],
        doing=f"loading the images of {host.name}",
        timeout=300,
    )
    for name in ("host-setup", "load-images"):
        (part / "root" / name).unlink()
    _archive(host).unlink()
    part.rename(tree)
    return tree


def _make_base(step: Step) -> Path:
    tree = _layer("base", _packages())
    if tree.exists():
        return tree
    part = _clear(tree)
    bootstrap(step, PACKAGES, part)
    part.rename(tree)
    return tree


def bootstrap(step: Step, packages: Sequence[str], part: Path) -> None:
    """Put Debian with these packages into a new directory."""
    main, security = setup.known_archive(), setup.known_archive("-security")
    step.note = "mmdebstrap"
    step.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
        + [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
        + [SUITE, str(part), f"deb {main.uri} {SUITE} main", f"deb {main.uri} {SUITE}-updates main"]
        + [f"deb {security.uri} {SUITE}-security main"],
        doing="making the system of the virtual machines",
        remedy="Check that the Debian archive is reachable, then run this again.",
        timeout=900,
    )


def _save(step: Step, host: Host) -> Path:
    archive = _archive(host)
    step.run(
        ["docker", "save", "--output", str(archive), *host.images],
        doing=f"saving the images of {host.name}",
        remedy="Build them: ./scripts/test vm does.",
    )
    return archive


def _archive(host: Host) -> Path:
    return CACHE / f"images-{host.name}.tar"


def _inside(root: Path) -> list[str]:
    spaces = ["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    return ["unshare", *spaces, str(HERE / "inside"), str(root)]


def _packages() -> list[str]:
    return [SUITE, *PACKAGES]


def _layer(name: str, inputs: Sequence[str]) -> Path:
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    return CACHE / f"{name}-{digest}"


def _clear(tree: Path) -> Path:
    """Where to make a layer before it gets its name; older ones of its kind are removed."""
    kind = tree.name.rpartition("-")[0]
    for old in CACHE.glob(f"{kind}-*"):
        if old.is_dir():
            shutil.rmtree(old)
    return tree.with_name(f"{kind}-part")


def _insert(files: Path, tree: Path) -> None:
    subprocess.run(["cp", "-a", f"{files}/.", str(tree)], check=True)


def _remove_again(files: Path, tree: Path) -> None:
    """Take the node's files out of the layer, secrets included."""
    for path in sorted(files.rglob("*"), reverse=True):
        inside = tree / path.relative_to(files)
        if path.is_dir() and not path.is_symlink():
            if inside.is_dir() and not any(inside.iterdir()):
                inside.rmdir()
        else:
            inside.unlink(missing_ok=True)
