"""What each node gets: its files and secrets, with their owners, in one archive for its root.

The relay's bundle names neither model nor GPU: of the scripts it has those that look after a node,
and of these none that has `model` in its path.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

NODE_SCRIPTS = (
    "scripts/commands", "scripts/node", "scripts/doctor", "scripts/harden", "scripts/lifecycle",
    "scripts/prove", "scripts/status", "scripts/model", "scripts/journal",
)  # fmt: skip
NODE_COMMANDS = (
    "__init__.py", "__main__.py", "_manual.py", "backup.py", "doctor.py", "harden.py", "help.py",
    "keys.py", "logs.py", "model.py", "prove.py", "restore.py", "status.py", "uninstall.py",
    "upgrade.py",
)  # fmt: skip
HOME_COMMANDS = ("lock.py", "revoke.py", "unlock.py")
"""They are of use at home alone."""
WORKER_COMMANDS = (
    "__init__.py", "__main__.py", "_manual.py", "doctor.py", "harden.py", "help.py", "logs.py",
    "prove.py", "status.py", "uninstall.py", "upgrade.py",
)  # fmt: skip
"""Nothing is stored there, and its keys are made elsewhere."""
NODE_TEMPLATES = "scripts/harden/files"
UNITS = (
    "node@.service", "node-reconcile@.service", "node-reconcile@.timer", "node-seal@.service",
    "node-seal@.timer", "node-seal-last@.service",
)  # fmt: skip
HOME_UNITS = ("node-key@.service",)


@dataclass(frozen=True)
class Bundle:
    """One node's part."""

    node: str
    """The Compose project, the instance of the systemd units, and the directory in /opt."""
    compose_file: str
    example: str
    """Its example settings."""
    overlays: tuple[str, ...] = ()
    """Compose files that may be added to it."""
    sources: tuple[str, ...] = ()
    """Folders that its images are built from, where it builds them itself."""
    commands: tuple[str, ...] = ()
    """Those of `node-admin` that it has; none: all."""
    recipes: tuple[str, ...] = ()
    """Further single files that its images are built from."""
    owners: tuple[tuple[str, int], ...] = ()
    """Who may read which secret, besides root."""


RELAY = Bundle(
    "relay",
    "compose.vps.yml",
    ".env.vps.example",
    overlays=("compose.vps.journal.yml",),
    owners=(("bot_token", 10001), ("link_token", 10001)),
)
MODEL = Bundle(
    "model",
    "compose.gpu.yml",
    ".env.gpu.example",
    overlays=(
        *("compose.gpu.hop.yml", "compose.gpu.journal.yml", "compose.gpu.hop.journal.yml"),
        *("compose.gpu.passphrase.yml", "compose.gpu.tpm.yml"),
        *("compose.gpu.router.yml", "compose.gpu.router.journal.yml"),
    ),
    sources=("services", "wireguard", "requirements"),
    owners=(("link_token", 10003), ("store_key", 10003)),
)

WORKER = Bundle(
    "worker",
    "compose.gpu.worker.yml",
    ".env.worker.example",
    overlays=("compose.gpu.worker.journal.yml",),
    sources=("services/engine", "services/router", "wireguard"),
    commands=WORKER_COMMANDS,
    recipes=("services/Dockerfile",),
)
"""A further machine with GPUs."""


def node_scripts(*, with_model: bool, commands: tuple[str, ...] = ()) -> Iterator[tuple[Path, str]]:
    """The scripts that look after a node: each file, and its path on the node.

    `commands` are those modules of sub-commands that it has; none: all of its kind.
    """
    commands = commands or NODE_COMMANDS + (HOME_COMMANDS if with_model else ())
    for folder in NODE_SCRIPTS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix != ".py" and path.parent != ROOT / NODE_TEMPLATES:
                continue
            name = str(path.relative_to(ROOT))
            if folder == "scripts/commands" and path.name not in commands:
                continue
            if with_model or "model" not in name:
                yield path, name
    own = ("scripts/steps.py",) if with_model else ()
    for name in (
        "scripts/__init__.py",
        "scripts/keys.py",
        "scripts/python.sh",
        "scripts/reconcile",
        *own,
    ):
        yield ROOT / name, name
    yield ROOT / "scripts/adyton", "scripts/node-admin"


def pack(
    bundle: Bundle, settings: str, secrets: Mapping[str, str], further: Mapping[str, str] = {}
) -> bytes:
    """Write the archive, to be unpacked at / by root; the same content makes the same bytes.

    `further` are files that are the operator's own, by their paths in the node's directory.
    """
    home = f"opt/{bundle.node}"
    owners = dict(bundle.owners)
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        # None for {home} itself: tar would put a directory in the place of a symbolic link.
        _add_directory(archive, f"{home}/secrets", 0o700)
        _add(archive, f"{home}/.env", settings.encode(), 0o600)
        for name, value in sorted(secrets.items()):
            _add(archive, f"{home}/secrets/{name}", value.encode(), 0o400, owners.get(name, 0))
        files = sorted(_files(bundle), key=lambda entry: entry[1])
        names = [*(name for _, name in files), *further]
        folders = {str(above) for name in names for above in Path(name).parents} - {"."}
        for folder in sorted(folders):
            _add_directory(archive, f"{home}/{folder}", 0o755)
        for path, name in files:
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            _add(archive, f"{home}/{name}", path.read_bytes(), mode)
        for name, text in sorted(further.items()):
            _add(archive, f"{home}/{name}", text.encode(), 0o644)
        for unit in UNITS + (HOME_UNITS if bundle is MODEL else ()):
            content = (ROOT / "scripts/systemd" / unit).read_bytes()
            _add(archive, f"etc/systemd/system/{unit}", content, 0o644)
    return written.getvalue()


def fill_in(example: str, values: Mapping[str, str]) -> str:
    """Put values into the example settings, each in its place.

    Raises KeyError for an odd name, ValueError for a value that cannot stand in such a file.
    """
    left = dict(values)
    lines = []
    for line in example.splitlines():
        name = line.removeprefix("#").partition("=")[0]
        if name in left and line.lstrip("#").startswith(f"{name}="):
            line = f"{name}={_quoted(left.pop(name))}"
        lines.append(line)
    if left:
        raise KeyError(*left)
    return "\n".join(lines) + "\n"


def defaults(bundle: Bundle) -> dict[str, str]:
    """What the example settings say of each setting, those that are commented out included."""
    text = (ROOT / bundle.example).read_text(encoding="utf-8")
    return dict(re.findall("^#?([A-Z][A-Z0-9_]*)=(.*)$", text, re.MULTILINE))


def compose_files(bundle: Bundle, settings: Mapping[str, str]) -> list[str]:
    """The node's Compose file, and those that its settings add to it."""
    named = settings.get("COMPOSE_FILE", "").split(":")
    return [bundle.compose_file, *(file for file in named if file in bundle.overlays)]


def images(bundle: Bundle, settings: Mapping[str, str]) -> list[str]:
    """The names of the images that are built for a node, with their tags."""
    files = compose_files(bundle, settings)
    text = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    names = re.findall(r"^ +image: \$\{IMAGES:-node\}/([\w-]+):", text, re.MULTILINE)
    return [f"{settings['IMAGES']}/{name}:{settings['VERSION']}" for name in dict.fromkeys(names)]


def _quoted(value: str) -> str:
    """Write a value so that Compose takes it as it is: it would read `$`, `#` and quotes."""
    if re.fullmatch(r"[\w.,:/+=@-]*", value):
        return value
    if not value.isprintable() or "'" in value:
        raise ValueError
    return f"'{value}'"


def _files(bundle: Bundle) -> Iterator[tuple[Path, str]]:
    for name in (bundle.compose_file, *bundle.overlays, bundle.example, "wireguard/resolv.conf"):
        yield ROOT / name, name
    for name in bundle.recipes:
        yield ROOT / name, name
    yield from node_scripts(with_model=bundle is not RELAY, commands=bundle.commands)
    for folder in bundle.sources:
        for path in (ROOT / folder).rglob("*"):
            name = str(path.relative_to(ROOT))
            if path.is_file() and "__pycache__" not in name and name != "wireguard/resolv.conf":
                yield path, name


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int, owner: int = 0) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.uid, entry.gid = len(content), mode, owner, 0
    archive.addfile(entry, io.BytesIO(content))


def _add_directory(archive: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)
