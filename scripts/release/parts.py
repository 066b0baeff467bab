"""Lists what a release is made of (CycloneDX 1.6), out of what its files pin.

Python packages are known to the byte, by the locks. Of Debian's packages the Dockerfiles give names
alone: which versions an image has is known where the image is (`of_image`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scripts.bundle import MODEL, RELAY, WORKER
from scripts.node.tools import CannotLook, Tools

LOCKS = ("relay", "gateway", "engine-llamacpp", "engine-vllm-cpu")
"""Of what goes into images; what tests and stubs need is no part of a release."""
DOCKERFILES = ("wireguard/Dockerfile", "services/Dockerfile", "services/engine/Dockerfile")
COMPOSE_FILES = tuple(
    file for it in (RELAY, MODEL, WORKER) for file in (it.compose_file, *it.overlays)
)

LATEST = "the archive's at the time of building"


def bill_of_materials(
    root: Path, name: str, version: str, commit: str, images: Iterable[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The list, the same for the same files. Raises OSError."""
    components = [
        *merged(it for lock in LOCKS for it in of_lock(root, lock)),
        *merged(it for file in DOCKERFILES for it in of_dockerfile(root, file)),
        *merged(it for file in (*DOCKERFILES, *COMPOSE_FILES) for it in of_images(root, file)),
        *merged(images),
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'{name} {version} {commit}')}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": name,
                "name": name,
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "properties": [{"name": "commit", "value": commit}],
            }
        },
        "components": components,
    }


def merged(components: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for what several files name, with all of these; in order of names."""
    found: dict[str, dict[str, Any]] = {}
    for it in components:
        known = found.setdefault(it["bom-ref"], it)
        if known is not it:
            known["properties"] += [p for p in it["properties"] if p not in known["properties"]]
    return [found[reference] for reference in sorted(found)]


def of_lock(root: Path, lock: str) -> Iterator[dict[str, Any]]:
    """Python packages, with the digests of all files that may be installed for them."""
    file = f"requirements/{lock}.txt"
    text = (root / file).read_text(encoding="utf-8").replace("\\\n", " ")
    for name, version, rest in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)(.*)$", text):
        digests = sorted(set(re.findall("--hash=sha256:([0-9a-f]{64})", rest)))
        reference = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
        yield {
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "version": version,
            "purl": reference,
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in digests],
            "properties": [{"name": "from", "value": file}],
        }


def of_dockerfile(root: Path, file: str) -> Iterator[dict[str, Any]]:
    """Debian packages that an image's recipe asks for by name."""
    text = (root / file).read_text(encoding="utf-8").replace("\\\n", " ")
    for words in re.findall(r"apt-get install ((?:[^&\n]|&(?!&))+)", text):
        for name in words.split():
            if re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name):
                yield {
                    "type": "library",
                    "bom-ref": f"pkg:deb/debian/{name}",
                    "name": name,
                    "purl": f"pkg:deb/debian/{name}",
                    "properties": [
                        {"name": "from", "value": file},
                        {"name": "version", "value": LATEST},
                    ],
                }


def of_images(root: Path, file: str) -> Iterator[dict[str, Any]]:
    """Images of others: those that ours begin with, and those that run as they are."""
    text = (root / file).read_text(encoding="utf-8")
    named = re.findall(r"(?m)^ARG BASE\w*=(\S+)$", text)
    named += [
        re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", image)
        for image in re.findall(r"(?m)^\s+image: (\S+)$", text)
        if not image.startswith("${IMAGES")
    ]
    for image in named:
        name, _, tag = image.rpartition(":")
        yield {
            "type": "container",
            "bom-ref": f"image:{image}",
            "name": name,
            "version": tag,
            "properties": [{"name": "from", "value": file}],
        }


def of_image(tools: Tools, image: str) -> Iterator[dict[str, Any]]:
    """Debian packages in an image that is on this machine, with their versions.

    Raises CannotLook.
    """
    said = tools.run(
        *("docker", "run", "--rm", "--network=none", "--pull=never", "--entrypoint=dpkg-query"),
        *(image, "--show", "--showformat=${Package} ${Version} ${Architecture}\\n"),
    )
    if said.code != 0:
        raise CannotLook(f"{image} does not tell its packages ({said.why})")
    for line in said.out.splitlines():
        name, version, architecture = line.split()
        reference = f"pkg:deb/debian/{name}@{version}?arch={architecture}"
        yield {
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "version": version,
            "purl": reference,
            "properties": [{"name": "in", "value": image}],
        }
