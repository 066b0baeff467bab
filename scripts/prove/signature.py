"""Owns the signing of reports and its checking, both by ssh-keygen: keys that operators have."""

from __future__ import annotations

import tempfile
from pathlib import Path

from scripts.node.tools import NOT_FOUND, CannotLook, Tools

NAMESPACE = "prove"
"""A signature for this purpose is none for another."""


class BadSignature(Exception):
    """A signature does not fit; the message says why."""


def sign(tools: Tools, key: Path, report: Path, namespace: str = NAMESPACE) -> Path:
    """Sign a report, or another file; the signature stands beside it. Raises CannotLook."""
    signature = Path(f"{report}.sig")
    signature.unlink(missing_ok=True)
    said = tools.run("ssh-keygen", "-Y", "sign", "-f", str(key), "-n", namespace, str(report))
    if said.code == NOT_FOUND:
        raise CannotLook("ssh-keygen was not found: install openssh-client")
    if said.code != 0 or not signature.exists():
        raise CannotLook(f"it could not be signed ({said.why})")
    return signature


def verify(
    tools: Tools, content: bytes, signature: Path, signers: Path, namespace: str = NAMESPACE
) -> str:
    """Who has signed. `signers` is a list of allowed signers (ssh-keygen(1)) or one public key.

    Raises BadSignature, or CannotLook.
    """
    try:
        text = content.decode()
        listed = as_signers(signers.read_text(encoding="utf-8"), namespace)
    except (OSError, UnicodeDecodeError) as error:
        raise BadSignature(f"a file cannot be read ({error})") from None
    if not signature.exists():
        raise BadSignature(f"{signature} is missing: it is not signed")
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(listed)
        file.flush()
        found = tools.run(
            *("ssh-keygen", "-Y", "find-principals", "-s", str(signature), "-f", file.name)
        )
        if found.code == NOT_FOUND:
            raise CannotLook("ssh-keygen was not found: install openssh-client")
        if found.code != 0:
            raise BadSignature(f"it is signed by nobody on the list ({found.why})")
        who = found.out.splitlines()[0].strip()
        command = ("ssh-keygen", "-Y", "verify", "-f", file.name, "-I", who, "-n", namespace)
        said = tools.run(*command, "-s", str(signature), stdin=text)
    if said.code != 0:
        raise BadSignature(f"the signature does not fit ({said.why})")
    return who


def as_signers(text: str, namespace: str = NAMESPACE) -> str:
    """A public key alone is a list of one."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "".join(
        f'operator namespaces="{namespace}" {line}\n'
        if line.split()[0].startswith(("ssh-", "ecdsa-", "sk-"))
        else f"{line}\n"
        for line in lines
    )
