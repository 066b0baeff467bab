"""Reads an encrypted SQLite file and its journal page by page, free pages and all, with the key.

The format is that of SQLite3 Multiple Ciphers' `chacha20` with a raw key
(https://utelle.github.io/SQLite3MultipleCiphers/docs/ciphers/cipher_chacha20/): each page ends in a
nonce of 16 bytes and a tag of 16; its first 64 bytes of key stream are its one-time key.
"""

import struct
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

PAGE = 4096
RESERVED = 32
FRAME_HEADER = 24
JOURNAL_HEADER = 32


def read_pages(file: Path, key: str) -> list[bytes]:
    """Decrypt every page of the database file, and every one in every frame of its journal."""
    raw = file.read_bytes()
    pages = [
        _decrypt(raw[start : start + PAGE], start // PAGE + 1, bytes.fromhex(key))
        for start in range(0, len(raw), PAGE)
    ]
    journal = file.with_name(file.name + "-wal")
    frames = journal.read_bytes()[JOURNAL_HEADER:] if journal.exists() else b""
    for start in range(0, len(frames) - FRAME_HEADER - PAGE + 1, FRAME_HEADER + PAGE):
        (number,) = struct.unpack(">I", frames[start : start + 4])
        page = frames[start + FRAME_HEADER : start + FRAME_HEADER + PAGE]
        pages.append(_decrypt(page, number, bytes.fromhex(key)))
    return pages


def _decrypt(page: bytes, number: int, key: bytes) -> bytes:
    body, nonce = page[:-RESERVED], page[-RESERVED : -RESERVED + 16]
    (counter,) = struct.unpack("<I", nonce[12:])
    counter ^= number
    one_time = _stream(key, counter, nonce[:12], bytes(64))
    start = 24 if number == 1 else 0  # the first page begins with the salt and the page's size
    return body[:start] + _stream(one_time[32:], (counter + 1) % 2**32, nonce[:12], body[start:])


def _stream(key: bytes, counter: int, nonce: bytes, data: bytes) -> bytes:
    cipher = Cipher(ChaCha20(key, struct.pack("<I", counter) + nonce), mode=None)
    return cipher.encryptor().update(data)
