"""Brings a model to the place where an engine finds it: from a hub, an address or a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.model import WeightsFailed, size
from scripts.model.download import Downloads, Wanted, ensure_room
from scripts.model.header import read_gguf, read_tensors
from scripts.model.progress import Progress
from scripts.model.socks import Proxy, parse_proxy
from scripts.model.sources import HUB, NAME, Found, at_address, in_folder, on_hub
from scripts.model.store import Model, Staging, now
from scripts.model.web import Web, is_this_machine
from scripts.node.disk import sync

REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
PROXY_VARIABLES = ("ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy")
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Order:
    """What shall be fetched, and how."""

    source: str
    revision: str = "main"
    hub: str = HUB
    files: tuple[str, ...] = ()
    """Patterns; none: chosen by what there is."""
    name: str = ""
    sha256: str = ""
    token: str = ""
    proxy: Proxy | None = None
    restart: bool = False
    dry_run: bool = False

    @property
    def is_folder(self) -> bool:
        return self.source.startswith(("/", "./", "../", "~")) or Path(self.source).is_dir()

    @property
    def is_address(self) -> bool:
        return "://" in self.source

    @property
    def asked(self) -> dict[str, object]:
        """What two calls must agree in, to be about the same model."""
        if self.is_address:
            return {"source": self.source}
        return {
            "source": self.source,
            "hub": self.hub,
            "asked": self.revision,
            "files": list(self.files),
        }


def proxy_of(given: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy to go through: the given one, else the environment's. Raises WeightsFailed."""
    if "@" in given:
        raise WeightsFailed(
            "--proxy holds a password, which everybody on this machine could read: set ALL_PROXY "
            "in the environment instead"
        )
    text = given or next((environment[it] for it in PROXY_VARIABLES if environment.get(it)), "")
    return parse_proxy(text) if text else None


def fetch(
    order: Order,
    place: Path,
    progress: Progress,
    sleep: Callable[[float], object] = time.sleep,
) -> Model | None:
    """Fetch a model and make it visible; None at a dry run. Raises WeightsFailed."""
    name = name_of(order)
    if (place / name).exists():
        return already_there(order, Model(place / name), progress)
    if order.dry_run:
        found = find(order, order.revision, downloads_of(order, progress, sleep))
        tell(found, place / name, progress)
        return None
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsFailed(f"{place} cannot be made ({error.strerror}): choose another") from None
    staging = Staging(place, name)
    with staging.held():
        if order.restart:
            staging.discard()
        begun = staging.begun
        check_same(order, begun)
        downloads = downloads_of(order, progress, sleep)
        found = find(order, str(begun.get("revision") or order.revision), downloads)
        tell(found, place / name, progress)
        names = [it.name for it in found.files]
        is_proxied = bool(begun.get("proxied")) or order.proxy is not None
        staging.begin({**order.asked, "revision": found.revision, "proxied": is_proxied}, names)
        check_room(found, staging.folder)
        if order.is_folder:
            digests, origin = carry(Path(order.source).expanduser(), found, staging, progress)
        else:
            digests = bring(found, staging, downloads, progress)
            origin = {**order.asked, "revision": found.revision, "fetched": now()}
        check_complete(staging.folder, digests)
        model = staging.publish(digests, {**origin, "verified": now()})
    progress.say(f"{model.name} is whole: {len(digests)} files, {size(model.bytes)}.")
    return model


def name_of(order: Order) -> str:
    """What the model is called here. Raises WeightsFailed."""
    if order.is_address:
        name = at_address(order.source, "").name
    elif order.is_folder:
        name = Path(order.source).expanduser().resolve().name
    elif REPOSITORY.fullmatch(order.source):
        name = order.source.rpartition("/")[2]
    else:
        raise WeightsFailed(
            f"{order.source} is not understood: give a repository such as Qwen/Qwen3-8B, the "
            "https:// address of a GGUF file, or a folder"
        )
    if not NAME.fullmatch(order.name or name):
        raise WeightsFailed(
            f"{order.name or name} cannot be a model's name: give up to 100 letters, digits and "
            "._- with --name"
        )
    return order.name or name


def already_there(order: Order, model: Model, progress: Progress) -> Model:
    """A model that was fetched before. Raises WeightsFailed if it is another one."""
    if order.is_folder:
        carried = Model(Path(order.source).expanduser()).digests
        is_same = carried is not None and carried == model.digests
    else:
        is_same = order.asked.items() <= model.origin.items()
        if is_same and order.sha256 and order.sha256 not in (model.digests or {}).values():
            raise WeightsFailed(
                f"{model.folder} was fetched from there, and does not have the digest of --sha256: "
                "find out which is right, and remove it before you fetch it anew"
            )
    if not is_same:
        raise WeightsFailed(
            f"there is another model {model.name} in {model.folder.parent}, or one with unknown "
            f"origin: choose another name with --name, or remove {model.folder}"
        )
    progress.say(f"{model.name} is there already; `model verify {model.name}` reads it anew.")
    return model


def check_same(order: Order, begun: Mapping[str, Any]) -> None:
    """Raise WeightsFailed where going on would mix two models, or leave the proxy's way."""
    if not begun:
        return
    if not order.asked.items() <= begun.items():
        raise WeightsFailed(
            f"a model of the name {name_of(order)} is half fetched from {begun.get('source')}: go "
            "on with that, choose another name with --name, or throw it away with --restart"
        )
    if begun.get("proxied") and order.proxy is None and not order.is_folder:
        raise WeightsFailed(
            "this was begun through a proxy, and would now go directly: give --proxy again, or "
            "begin anew with --restart"
        )


def downloads_of(order: Order, progress: Progress, sleep: Callable[[float], object]) -> Downloads:
    if not order.is_folder:
        way = f"through {order.proxy}" if order.proxy else "directly, without a proxy"
        progress.say(f"Fetching {order.source} {way}.")
    return Downloads(Web(order.proxy, order.token, order.hub), progress, sleep)


def check_hub(hub: str) -> str:
    """The address of a hub without the slash at its end. Raises WeightsFailed."""
    parts = urlsplit(hub)
    local = parts.scheme == "http" and is_this_machine(parts.hostname or "")
    if not (parts.scheme == "https" or local) or not parts.hostname or parts.path.strip("/"):
        raise WeightsFailed(f"--hub {hub} is not understood: give one such as {HUB}")
    return f"{parts.scheme}://{parts.netloc}"


def find(order: Order, revision: str, downloads: Downloads) -> Found:
    if order.is_address:
        return at_address(order.source, order.sha256)
    if order.is_folder:
        return in_folder(Path(order.source).expanduser(), order.files)
    return on_hub(downloads.ask, order.hub, order.source, revision, order.files)


def tell(found: Found, target: Path, progress: Progress) -> None:
    """Say what is taken and what is not."""
    for path, why in found.left_out:
        progress.say(f"  left out: {path} ({why})")
    known = sum(it.size or 0 for it in found.files)
    amount = f", {size(known)}" if known else ""
    revision = f" at {found.revision[:12]}" if found.revision else ""
    progress.say(f"{len(found.files)} files{amount}{revision}, into {target}.")


def check_room(found: Found, folder: Path) -> None:
    """Before the first byte: whether all of it fits. Raises WeightsFailed."""
    here = sum(
        path.stat().st_size
        for it in found.files
        for path in (folder / it.name, folder / f"{it.name}.part")
        if path.exists()
    )
    ensure_room(folder, sum(it.size or 0 for it in found.files) - here)


def bring(
    found: Found, staging: Staging, downloads: Downloads, progress: Progress
) -> dict[str, str]:
    """Fetch all files, small ones first: what is wrong with a model shows early."""
    for it in found.files:
        progress.expect(it.name, it.size or 0)
    digests = {}
    for it in sorted(found.files, key=lambda it: it.size or 0):
        digests[it.name] = downloads.fetch(it, staging.folder)
        check_kind(staging.folder / it.name)
    progress.end()
    return digests


def carry(
    source: Path, found: Found, staging: Staging, progress: Progress
) -> tuple[dict[str, str], dict[str, object]]:
    """Copy a folder's files, and check them against the digests that came with it, if any did."""
    recorded = Model(source).digests
    digests = {}
    for it in found.files:
        progress.expect(it.name, it.size or 0)
    for it in found.files:
        digests[it.name] = copy(it, staging.folder / it.name, progress)
        if recorded is not None and recorded.get(it.name) != digests[it.name]:
            (staging.folder / it.name).unlink()
            raise WeightsFailed(
                f"{it.name} is not what {source / 'SHA256SUMS'} says: it was damaged or changed on "
                "its way; carry it here again"
            )
        check_kind(staging.folder / it.name)
    progress.end()
    origin: dict[str, object] = {"source": str(source), "fetched": now()}
    return digests, {**origin, **Model(source).origin}


def copy(wanted: Wanted, target: Path, progress: Progress) -> str:
    """Copy a file onto this disk for good; returns SHA-256. Raises WeightsFailed."""
    digest, done = hashlib.sha256(), 0
    try:
        descriptor = os.open(wanted.url, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as source, target.open("wb") as file:
            while piece := source.read(1 << 22):
                digest.update(piece)
                file.write(piece)
                done += len(piece)
                progress.at(wanted.name, done)
            file.flush()
            os.fsync(file.fileno())
        sync(target.parent)
    except OSError as error:
        raise WeightsFailed(
            f"{wanted.url} cannot be copied ({error.strerror}): mend that and run it again"
        ) from None
    return digest.hexdigest()


def check_kind(path: Path) -> None:
    """Raise WeightsFailed for weights that are not what their name says; those are removed."""
    try:
        if path.suffix == ".safetensors":
            read_tensors(path)
        elif path.suffix == ".gguf":
            read_gguf(path)
    except WeightsFailed:
        path.unlink()
        raise


def check_complete(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise WeightsFailed where a model's index names files that the source does not have."""
    if INDEX not in digests:
        return
    try:
        named = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsFailed(f"{INDEX} is damaged: take another source") from None
    if missing := sorted(str(it) for it in named - digests.keys()):
        raise WeightsFailed(
            f"{INDEX} names {missing[0]}, which the source does not have: take another source or "
            "--revision"
        )
