"""Owns the disk of a machine as it is rented: a Debian server with sshd, Docker and fail2ban.

Its packages are a layer that is kept; what is written onto it is made for each run.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from scripts.steps import Step
from tests.vm.disk import CACHE, SUITE, System, bootstrap

HERE = Path(__file__).resolve().parent
INSIDE = HERE.parent / "vm" / "inside"

PACKAGES = (
    *("linux-image-cloud-amd64", "initramfs-tools", "zstd", "kmod", "udev", "systemd-sysv", "dbus"),
    *("docker.io", "docker-cli", "docker-compose", "ca-certificates", "busybox-static"),
    *("iproute2", "iptables", "nftables", "procps", "qemu-guest-agent"),
    *("openssh-server", "openssh-client", "fail2ban", "python3-systemd", "python3", "gnupg"),
    *("unattended-upgrades", "systemd-timesyncd"),
)
DISK_SIZE = "4G"  # sparse: as much of it is used as the files take


def make_system(step: Step, files: Path, words: tuple[str, ...], target: Path) -> System:
    """A disk at `target`: the packages, `files`, and what `host-setup` makes of it with `words`."""
    tree = target.with_suffix(".tree")
    shutil.rmtree(tree, ignore_errors=True)
    base = make_base(step)
    step.note = "setting up the machine"
    step.run(["cp", "-a", str(base), str(tree)], doing="copying the system")
    subprocess.run(["cp", "-a", f"{files}/.", str(tree)], check=True)
    shutil.copy(HERE / "host-setup", tree / "root")
    spaces = ["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    step.run(
        ["unshare", *spaces, str(INSIDE), str(tree), "/root/host-setup", *words],
        doing="setting up the machine",
    )
    (tree / "root/host-setup").unlink()
    step.note = "writing the disk"
    target.unlink(missing_ok=True)
    step.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(target), DISK_SIZE],
        doing="making the disk",
    )
    kernel, initrd = target.with_suffix(".kernel"), target.with_suffix(".initrd")
    for pattern, place in (("vmlinuz-*", kernel), ("initrd.img-*", initrd)):
        (found,) = (tree / "boot").glob(pattern)
        shutil.copy(found, place)
    shutil.rmtree(tree)
    return System(kernel, initrd, target)


def make_base(step: Step) -> Path:
    digest = hashlib.sha256("\0".join([SUITE, *PACKAGES]).encode()).hexdigest()[:16]
    tree = CACHE / f"hardening-{digest}"
    if tree.exists():
        return tree
    for old in CACHE.glob("hardening-*"):
        shutil.rmtree(old)
    part = CACHE / "hardening-part"
    bootstrap(step, PACKAGES, part)
    part.rename(tree)
    return tree
