"""Wraps the store's key with a passphrase: `python3 -m services.gateway.wrapping wrap|unwrap`.

What is needed comes as one line of JSON by stdin, and what is asked for goes to stdout: neither
passphrase nor key is in an argument, in a log or on a disk. The passphrase goes through scrypt
(RFC 7914), the key is encrypted with AES-256-GCM, which also tells a wrong passphrase.
"""

import argparse
import hashlib
import json
import secrets
import sys
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.gateway.settings import check_key

FORMAT = 1
COST = 1 << 17
"""128 MiB and a good part of a second for each passphrase that somebody tries."""
BLOCK, PARALLEL = 8, 1
MOST_BYTES = 256 << 20
"""Of memory: a file that asks for more was not written here."""
SALT_BYTES, NONCE_BYTES = 16, 12

MOST_LINE_BYTES = 65_536

DAMAGED = 2
WRONG_PASSPHRASE = 3


class WrappingError(Exception):
    """The wrapped key is damaged: bring it back from a copy, or restore a backup."""


class WrongPassphrase(Exception):
    """The passphrase does not fit: try again."""


def main() -> int:
    """Do one step. Returns the process's exit status: 3 for a wrong passphrase."""
    parser = argparse.ArgumentParser(prog="wrapping", description=__doc__)
    parser.add_argument("step", choices=["wrap", "unwrap"])
    step = parser.parse_args().step
    try:
        print(answer(step, sys.stdin.buffer.readline(MOST_LINE_BYTES)))
    except WrongPassphrase as error:
        print(error.__doc__, file=sys.stderr)
        return WRONG_PASSPHRASE
    except WrappingError as error:
        print(error.__doc__, file=sys.stderr)
        return DAMAGED
    return 0


def answer(step: str, line: bytes) -> str:
    """Do what a line asks for: `passphrase`, and `key` to wrap or `wrapped` to unwrap.

    Raises WrappingError, WrongPassphrase.
    """
    try:
        order = json.loads(line)
        passphrase, what = str(order["passphrase"]), order["key" if step == "wrap" else "wrapped"]
    except (ValueError, TypeError, KeyError):
        raise WrappingError from None
    return wrap(what, passphrase) if step == "wrap" else unwrap(what, passphrase)


def wrap(key: str, passphrase: str) -> str:
    """The key (64 hexadecimal digits) as JSON that only the passphrase opens."""
    check_key(key)
    header = {
        "format": FORMAT,
        "derivation": "scrypt",
        "cost": COST,
        "block": BLOCK,
        "parallel": PARALLEL,
        "salt": secrets.token_hex(SALT_BYTES),
        "cipher": "AES-256-GCM",
        "nonce": secrets.token_hex(NONCE_BYTES),
    }
    cipher = AESGCM(_derive(header, passphrase))
    nonce = bytes.fromhex(str(header["nonce"]))
    return json.dumps({**header, "key": cipher.encrypt(nonce, key.encode(), _bytes(header)).hex()})


def unwrap(wrapped: Any, passphrase: str) -> str:
    """The key that `wrap` was given. Raises WrappingError, WrongPassphrase."""
    try:
        header = {name: value for name, value in wrapped.items() if name != "key"}
        if header["format"] != FORMAT:
            raise ValueError
        cipher = AESGCM(_derive(header, passphrase))
        nonce, content = bytes.fromhex(header["nonce"]), bytes.fromhex(wrapped["key"])
        return check_key(cipher.decrypt(nonce, content, _bytes(header)).decode("ascii"))
    except InvalidTag:
        raise WrongPassphrase from None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise WrappingError from None


def _derive(header: dict[str, Any], passphrase: str) -> bytes:
    return hashlib.scrypt(
        passphrase.encode(),
        salt=bytes.fromhex(header["salt"]),
        n=header["cost"],
        r=header["block"],
        p=header["parallel"],
        maxmem=MOST_BYTES,
        dklen=32,
    )


def _bytes(header: dict[str, Any]) -> bytes:
    """What is authenticated along with the key."""
    return json.dumps(header, sort_keys=True).encode()


if __name__ == "__main__":
    sys.exit(main())
