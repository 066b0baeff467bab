"""Owns how an archive is encrypted: by GnuPG, to a passphrase or to the owner of a public key.

A passphrase reaches gpg by a pipe; neither it nor what is encrypted is in an argument or on a disk.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from scripts.lifecycle import CannotDo
from scripts.node.tools import printable

FEWEST_CHARACTERS = 12

DERIVATIONS = "65011712"
"""The most that OpenPGP can say: whoever tries passphrases needs long for each."""

ENCRYPTED_TO_KEY = 1
ENCRYPTED_TO_PASSPHRASE = 3
"""Tags of the packets that such a file begins with (RFC 4880, section 4.3)."""


@dataclass(frozen=True)
class Passphrase:
    """Whoever knows it opens the archive."""

    text: str = field(repr=False)


@dataclass(frozen=True)
class Recipient:
    """Whoever has the private key opens the archive; the node that makes it cannot."""

    file: Path
    """The public key, as `gpg --export` writes it, armoured or not."""


def new_passphrase(file: Path | None) -> Passphrase:
    """A passphrase for a new archive: from its file, or typed twice. Raises CannotDo."""
    if file:
        passphrase = passphrase_from(file)
    else:
        if not sys.stdin.isatty():
            raise CannotDo("nothing says who may open it: give --passphrase-file or --recipient")
        passphrase = Passphrase(getpass.getpass("A passphrase for the backup (it is not shown): "))
        if getpass.getpass("The same again: ") != passphrase.text:
            raise CannotDo("the two are not the same: begin again")
    if len(passphrase.text) < FEWEST_CHARACTERS:
        raise CannotDo(
            f"the passphrase is too short: give {FEWEST_CHARACTERS} characters or more, such as "
            "six words that were drawn by lot"
        )
    return passphrase


def passphrase_from(file: Path) -> Passphrase:
    """The first line of a file. Raises CannotDo."""
    try:
        with file.open(encoding="utf-8") as opened:
            return Passphrase(opened.readline().rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise CannotDo(f"--passphrase-file {file}: {error}") from None


def passphrase_for(archive: Path, file: Path | None) -> Passphrase | None:
    """What opens an archive; None where it takes a private key. Raises CannotDo."""
    with opened_file(archive) as opened:
        tag = packet_tag(opened.read(1))
    if tag == ENCRYPTED_TO_KEY:
        return None
    if tag != ENCRYPTED_TO_PASSPHRASE:
        raise CannotDo(f"{archive} is no encrypted backup: give the file that `backup` wrote")
    if file:
        return passphrase_from(file)
    if not sys.stdin.isatty():
        raise CannotDo("the passphrase is missing: give --passphrase-file")
    return Passphrase(getpass.getpass("The passphrase of the backup (it is not shown): "))


def packet_tag(first: bytes) -> int:
    """What an OpenPGP file begins with; 0 if it is none."""
    if not first or not first[0] & 0x80:
        return 0
    return first[0] & 0x3F if first[0] & 0x40 else (first[0] & 0x3C) >> 2


def opened_file(path: Path) -> IO[bytes]:
    """Open a file. Raises CannotDo."""
    try:
        return path.open("rb")
    except OSError as error:
        raise CannotDo(
            f"{path} cannot be read ({error.strerror}): give the backup's file"
        ) from None


@contextlib.contextmanager
def sealed(
    out: IO[bytes],
    how: Passphrase | Recipient,
    memory: Path,
    doing: str = "encrypting the backup",
) -> Iterator[IO[bytes]]:
    """What is written into the yielded pipe goes encrypted to `out`. Raises CannotDo.

    `memory`: a folder that is on no disk, for gpg's own files.
    """
    with own_keyring(memory, has_agent=False) as home:
        common = [
            "--homedir",
            home,
            "--no-autostart",
            "--batch",
            "--no-tty",
            "--quiet",
            "--compress-algo",
            "none",
        ]
        common += ["--compress-algo", "none", "--cipher-algo", "AES256", "--digest-algo", "SHA512"]
        match how:
            case Passphrase():
                slow = [
                    "--s2k-mode",
                    "3",
                    "--s2k-count",
                    DERIVATIONS,
                    "--s2k-digest-algo",
                    "SHA512",
                ]
                process = start([*common, *slow, "--symmetric"], how, subprocess.PIPE, out)
            case Recipient(file):
                to = ["--always-trust", "--recipient-file", str(file), "--encrypt"]
                process = start([*common, *to], None, subprocess.PIPE, out)
        assert process.stdin
        try:
            with contextlib.suppress(BrokenPipeError):  # its own words say why
                yield process.stdin
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        except BaseException:
            kill(process)
            raise
        end(process, doing)


@contextlib.contextmanager
def unsealed(source: IO[bytes], passphrase: Passphrase | None, memory: Path) -> Iterator[IO[bytes]]:
    """What `source` holds, decrypted: with a passphrase, or with this user's own keys.

    It is to be trusted only when the context has ended without CannotDo: damage shows at the end.
    """
    with own_keyring(memory) as home:
        options = ["--batch", "--no-tty"] if passphrase else []
        keyring = ["--homedir", home] if passphrase else []
        process = start([*keyring, *options, "--quiet", "--decrypt"], passphrase, source)
        assert process.stdout
        try:
            yield process.stdout
            while process.stdout.read(1 << 20):
                pass
        except CannotDo:
            # What came made no sense. Where it ended early, gpg knows the reason.
            if not process.stdout.read(1):
                end(process, "decrypting the backup")
            kill(process)
            raise
        except BaseException:
            kill(process)
            raise
        end(process, "decrypting the backup")


@contextlib.contextmanager
def own_keyring(memory: Path, *, has_agent: bool = True) -> Iterator[str]:
    """A folder for gpg where nothing of anybody's keys and settings is.

    `has_agent`: gpg may start one (not with `--no-autostart`), which is then ended.
    """
    folder = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="gpg-", dir=folder, ignore_cleanup_errors=True) as home:
        # Else the agent, which has no keys to guard here, measures for a second how fast it is.
        (Path(home) / "gpg-agent.conf").write_text(f"s2k-count {DERIVATIONS}\n", encoding="utf-8")
        try:
            yield home
        finally:
            if has_agent:
                with contextlib.suppress(OSError):
                    subprocess.run(
                        ["gpgconf", "--homedir", home, "--kill", "gpg-agent"],
                        capture_output=True,
                        check=False,
                    )


def start(
    options: Sequence[str],
    passphrase: Passphrase | None,
    stdin: int | IO[bytes],
    stdout: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start gpg, with the passphrase in a pipe of its own. Raises CannotDo."""
    read, write = os.pipe()
    # Before there is a gpg: where there is none, nobody would take it.
    with os.fdopen(write, "wb") as pipe:
        pipe.write(f"{passphrase.text}\n".encode() if passphrase else b"")
    try:
        secret = ["--pinentry-mode", "loopback", "--passphrase-fd", str(read)] if passphrase else []
        return subprocess.Popen(
            ["gpg", *secret, *options],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=[read] if passphrase else [],
        )
    except FileNotFoundError:
        raise CannotDo("gpg was not found: install gnupg (`apt-get install gnupg`)") from None
    finally:
        os.close(read)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End gpg in the middle of its work."""
    process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    process.wait()


def end(process: subprocess.Popen[bytes], doing: str) -> None:
    """Wait for gpg. Raises CannotDo with its last words if it failed."""
    assert process.stderr
    words = process.stderr.read().decode("utf-8", "replace").splitlines()
    process.stderr.close()
    if process.stdout:
        process.stdout.close()
    if process.wait() == 0:
        return
    said = next((word for word in reversed(words) if word.strip()), f"status {process.returncode}")
    said = printable(said.removeprefix("gpg: "))
    if "Bad session key" in said or "bad key" in said.lower():
        raise CannotDo(f"{doing}: the passphrase is wrong: try again")
    if "No secret key" in said:
        raise CannotDo(
            f"{doing}: the private key is not here: decrypt it where it is, and pipe that in "
            "(`gpg --decrypt FILE | … restore -`)"
        )
    raise CannotDo(f"{doing}: gpg said `{said}`: take another copy of the file, or another key")
