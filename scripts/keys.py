"""Makes the keys of a tunnel, without WireGuard's own tools.

A private key is 32 random bytes, clamped (https://www.wireguard.com/protocol/, RFC 7748); its
public key is worked out by OpenSSL, which every system has.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import subprocess

PRIVATE_KEY_PREFIX = bytes.fromhex("302e020100300506032b656e04220420")
"""What stands before the 32 bytes of an X25519 key in PKCS #8 (RFC 8410)."""


class KeysFailed(Exception):
    """OpenSSL is missing or does not know X25519."""


def make_private_key() -> str:
    """A private key, as `wg genkey` prints it."""
    key = bytearray(secrets.token_bytes(32))
    key[0] &= 248
    key[31] = (key[31] & 127) | 64
    return base64.b64encode(key).decode()


def make_preshared_key() -> str:
    """A preshared key, as `wg genpsk` prints it."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def public_key_of(private_key: str) -> str:
    """The public key that belongs to a private one, as `wg pubkey` prints it.

    Raises KeysFailed.
    """
    try:
        done = subprocess.run(
            ["openssl", "pkey", "-inform", "DER", "-pubout", "-outform", "DER"],
            input=PRIVATE_KEY_PREFIX + base64.b64decode(private_key),
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise KeysFailed("OpenSSL is needed to make keys: install it (`openssl`)") from error
    return base64.b64encode(done.stdout[-32:]).decode()


def mark_of(user_id: str, link_token: str) -> str:
    """What stands for a Telegram user on the VPS; see services/relay/marks.py."""
    digest = hmac.new(link_token.encode(), user_id.encode(), hashlib.sha256)
    return digest.hexdigest()[:32]
