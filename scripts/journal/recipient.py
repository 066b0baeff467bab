"""Owns who may open sealed logs: a GnuPG public key, looked at before anything is written."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scripts.lifecycle import CannotDo
from scripts.lifecycle.sealing import own_keyring

UNUSABLE = {"e": "has expired", "r": "is revoked", "d": "is disabled", "i": "is invalid"}
REMEDY = "make or renew one, and give its public half: `logs seal --recipient FILE`"


def fingerprint_of(file: Path, memory: Path) -> str:
    """The key in a file, which must be one public key that can be encrypted to now.

    `memory`: as for `sealed`. Raises CannotDo.
    """
    if not file.is_file():
        raise CannotDo(f"there is no public key at {file}: {REMEDY}")
    options = ["--batch", "--no-tty", "--no-autostart", "--with-colons", "--show-keys"]
    try:
        with own_keyring(memory, has_agent=False) as home:
            done = subprocess.run(
                ["gpg", "--homedir", home, *options, str(file)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
    except FileNotFoundError:
        raise CannotDo("gpg was not found: install gnupg (`apt-get install gnupg`)") from None
    records = [line.split(":") for line in done.stdout.splitlines()]
    keys = [record for record in records if record[0] in ("pub", "sec")]
    if any(record[0] in ("sec", "ssb") for record in records):
        raise CannotDo(
            f"{file} holds a private key, which has no business here: delete it from this "
            "machine, and give what `gpg --armor --export` writes"
        )
    if done.returncode != 0 or len(keys) != 1:
        raise CannotDo(f"{file} does not hold one public key: {REMEDY}")
    if why := UNUSABLE.get(keys[0][1]):
        raise CannotDo(f"the public key in {file} {why}: {REMEDY}")
    able = [it for it in records if it[0] in ("pub", "sub") and "e" in it[11]]
    if not any(it[1] not in UNUSABLE for it in able):
        why = UNUSABLE[able[0][1]] if able else "is missing"
        raise CannotDo(f"in {file} the part that encrypts {why}: {REMEDY}")
    return next(record[9] for record in records if record[0] == "fpr")
