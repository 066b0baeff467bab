"""Reads a WireGuard provider's file (as wg-quick takes it) for compose.gpu.hop.yml.

Only what is needed of it is taken; what it says of names, routes and commands does not apply here.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re

from scripts.keys import public_key_of

COMPOSE_FILE = "compose.gpu.hop.yml"

HEADER_BYTES = 60
"""What WireGuard adds to a packet over IPv4: IPv4 20, UDP 8, its own 32."""
USUAL_MTU = 1420
LEAST_MTU = 1280 + HEADER_BYTES
"""So that the tunnel inside has the 1280 bytes that it needs at least."""


class BadProvider(Exception):
    """The file cannot be used; the message says what would do, and nothing of what it holds."""


def read_provider(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Settings of the model node, and its further secrets. Raises BadProvider, KeysFailed."""
    interface, peer = sections_of(text)
    private_key = key_of(interface, "privatekey", "PrivateKey")
    peer_key = key_of(peer, "publickey", "PublicKey")
    preshared_key = key_of(peer, "presharedkey", "PresharedKey") if "presharedkey" in peer else ""
    if public_key_of(private_key) == peer_key:
        raise BadProvider("PublicKey is that of the file's own PrivateKey: it must be the server's")
    mtu = interface.get("mtu", str(USUAL_MTU))
    if not re.fullmatch("[0-9]{4}", mtu) or not LEAST_MTU <= int(mtu) <= 9000:
        raise BadProvider(f"MTU must be a number of bytes between {LEAST_MTU} and 9000")
    settings = {
        "HOP_ENDPOINT": endpoint_of(peer.get("endpoint", "")),
        "HOP_PEER_KEY": peer_key,
        "HOP_ADDRESS": address_of(interface.get("address", "")),
        "HOP_MTU": mtu,
        "TUNNEL_MTU": str(min(int(mtu), USUAL_MTU + HEADER_BYTES) - HEADER_BYTES),
    }
    return settings, {"hop_private_key": private_key, "hop_preshared_key": preshared_key}


def sections_of(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The values of [Interface] and of the one [Peer], by names in small letters."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in text.splitlines():
        words = line.partition("#")[0].strip()
        if header := re.fullmatch(r"\[(\w+)\]", words):
            found.append((header[1].lower(), {}))
        elif "=" in words and found:
            name, _, value = words.partition("=")
            section = found[-1][1]
            name = name.strip().lower()
            # Address and AllowedIPs may come more than once.
            section[name] = ",".join(filter(None, (section.get(name, ""), value.strip())))
    if sorted(name for name, _ in found) != ["interface", "peer"]:
        raise BadProvider("it must have one [Interface] and one [Peer], as wg-quick takes them")
    sections = dict(found)
    return sections["interface"], sections["peer"]


def key_of(section: dict[str, str], name: str, says: str) -> str:
    key = section.get(name, "")
    try:
        if len(base64.b64decode(key, validate=True)) == 32:
            return key
    except binascii.Error:
        pass
    raise BadProvider(f"{says} must be a WireGuard key, 44 characters that end in =")


def endpoint_of(text: str) -> str:
    """By address: nothing at home may ask for a name."""
    host, _, port = text.partition(":")
    if not is_destination(host) or not re.fullmatch("[1-9][0-9]{0,4}", port) or int(port) > 65535:
        raise BadProvider(
            "Endpoint must be an IPv4 address and a port, such as 203.0.113.7:51820: "
            "put the address in the place of a name"
        )
    return text


def address_of(text: str) -> str:
    """The first IPv4 address: nothing else goes that way."""
    for word in text.split(","):
        host = word.strip().partition("/")[0]
        if is_destination(host):
            return host
    raise BadProvider("Address must hold an IPv4 address, such as 10.64.12.3/32")


def is_destination(text: str) -> bool:
    """Whether packets can be sent to it, as the containers judge it."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return 1 <= int(str(address).partition(".")[0]) <= 223 and not address.is_loopback
