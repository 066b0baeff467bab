"""Makes the first message of WireGuard's handshake, dated as wanted (its paper, 5.4.2)."""

import base64
import hashlib
import hmac
import struct
import time

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

TAI64_EPOCH = 0x4000_0000_0000_000A
ANSWER_BYTES = 92


def initiation(private_key: str, peer_key: str, *, seconds_ahead: float = 0) -> bytes:
    """By the owner of the private key to the owner of the other; the clock may be wrong."""
    static = X25519PrivateKey.from_private_bytes(base64.b64decode(private_key))
    peer = base64.b64decode(peer_key)
    ephemeral = X25519PrivateKey.generate()
    chain = digest(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    seen = digest(digest(chain + b"WireGuard v1 zx2c4 Jason@zx2c4.com") + peer)

    message = b"\x01\0\0\0" + bytes(4) + raw(ephemeral)
    chain, _ = derive(chain, raw(ephemeral))
    seen = digest(seen + raw(ephemeral))
    for secret, text in ((ephemeral, raw(static)), (static, tai64n(time.time() + seconds_ahead))):
        shared = secret.exchange(X25519PublicKey.from_public_bytes(peer))
        chain, key = derive(chain, shared)
        sealed = ChaCha20Poly1305(key).encrypt(bytes(12), text, seen)
        seen = digest(seen + sealed)
        message += sealed
    mac_key = digest(b"mac1----" + peer)
    return message + hashlib.blake2s(message, digest_size=16, key=mac_key).digest() + bytes(16)


def digest(data: bytes) -> bytes:
    return hashlib.blake2s(data).digest()


def derive(chain: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The first two outputs of HKDF."""
    secret = hmac.new(chain, data, hashlib.blake2s).digest()
    first = hmac.new(secret, b"\x01", hashlib.blake2s).digest()
    return first, hmac.new(secret, first + b"\x02", hashlib.blake2s).digest()


def raw(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def tai64n(unix_seconds: float) -> bytes:
    whole = int(unix_seconds)
    return struct.pack("!QI", TAI64_EPOCH + whole, int((unix_seconds - whole) * 1e9))
