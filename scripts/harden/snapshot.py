"""Owns what was there before: files, modes, absences and states, kept so that they can be restored.

Two are kept: `original`, of before the first run, and `pending`, of before a run that nobody has
confirmed yet.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.harden.host import Failed, Host, Refused
from scripts.harden.settings import HOME
from scripts.harden.states import put, read

ORIGINAL, PENDING = "original", "pending"


@dataclass(frozen=True)
class Entry:
    """One path as it was."""

    path: str
    kind: str
    """`file`, `link` or `absent`."""
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    changed: int = 0
    """When, in nanoseconds since 1970."""
    target: str = ""
    """Of a link."""
    kept: str = ""
    """The name of the copy."""


class Snapshot:
    """A folder with a manifest and the files that it speaks of."""

    def __init__(self, host: Host, name: str) -> None:
        self._host = host
        self.folder = host.path(f"{HOME}/{name}")
        self._manifest: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError):
            try:
                text = (self.folder / "manifest.json").read_text(encoding="utf-8")
                self._manifest = json.loads(text)
            except ValueError:
                raise Refused(
                    f"{self.folder}/manifest.json is damaged: what was there before lies in that "
                    "folder, and has to be restored by hand"
                ) from None

    @property
    def exists(self) -> bool:
        return bool(self._manifest)

    @property
    def files(self) -> list[Entry]:
        return [Entry(**entry) for entry in self._manifest.get("files", [])]

    @property
    def states(self) -> list[tuple[str, str, str]]:
        """Kind, name, value."""
        return [(kind, name, value) for kind, name, value in self._manifest.get("states", [])]

    @property
    def reloads(self) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(command) for command in self._manifest.get("reloads", []))

    def note(self, name: str) -> Any:
        """Something that is remembered beside, None if it is not."""
        return self._manifest.get(name)

    def remember(self, **notes: Any) -> None:
        self._manifest |= notes
        self._save()

    def take(
        self,
        paths: Iterable[str],
        states: Iterable[tuple[str, str, str]],
        reloads: Iterable[tuple[str, ...]],
        **notes: Any,
    ) -> None:
        """Keep these paths as they are now, and these states."""
        self.delete()
        self._make_folder()
        wanted = list(dict.fromkeys(paths))
        reloads = list(reloads)
        folders = {
            str(above)
            for path in wanted
            for above in Path(path).parents
            if not self._host.path(str(above)).is_dir()
        }
        entries = [self._keep(path, f"{number:03d}") for number, path in enumerate(wanted)]
        self._manifest = {
            "id": secrets.token_hex(8),
            "files": [asdict(entry) for entry in entries],
            "folders": sorted(folders),
            "states": [list(state) for state in states],
            "reloads": [list(command) for command in dict.fromkeys(reloads)],
            "alive": self._alive(reloads),
            **notes,
        }
        self._save()

    def _alive(self, reloads: Iterable[tuple[str, ...]]) -> list[str]:
        """Units that run now, of those that are told to read something again."""
        units = dict.fromkeys(command[-1] for command in reloads if command[0] == "systemctl")
        return [unit for unit in units if read(self._host, "unit", unit) == "active"]

    def _make_folder(self) -> None:
        """For root alone: what is kept may have been for nobody else's eyes."""
        for folder in (self._host.path(HOME), self.folder, self.folder / "kept"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _keep(self, path: str, name: str) -> Entry:
        place = self._host.path(path)
        try:
            status = place.lstat()
        except OSError:
            return Entry(path, "absent")
        owner: dict[str, Any] = {"uid": status.st_uid, "gid": status.st_gid}
        if stat.S_ISLNK(status.st_mode):
            return Entry(path, "link", target=str(place.readlink()), **owner)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{path} is neither a file nor a link: look at it, then try again")
        write(self.folder / "kept" / name, place.read_bytes(), 0o600)
        mode = stat.S_IMODE(status.st_mode)
        return Entry(path, "file", mode, changed=status.st_mtime_ns, kept=name, **owner)

    def text_of(self, entry: Entry) -> str:
        """What the file was, as text; nothing for one that was not there."""
        if entry.kind != "file":
            return ""
        return (self.folder / "kept" / entry.kept).read_text(encoding="utf-8", errors="replace")

    def is_as_it_was(self, entry: Entry) -> bool:
        place = self._host.path(entry.path)
        if entry.kind == "absent":
            return not place.is_symlink() and not place.exists()
        if entry.kind == "link":
            return place.is_symlink() and str(place.readlink()) == entry.target
        try:
            return (
                place.is_file()
                and not place.is_symlink()
                and stat.S_IMODE(place.stat().st_mode) == entry.mode
                and place.read_bytes() == (self.folder / "kept" / entry.kept).read_bytes()
            )
        except OSError:  # one copy that is lost keeps nothing else from going back
            return False

    @property
    def changed(self) -> list[str]:
        """Paths that are not as they were."""
        return [entry.path for entry in self.files if not self.is_as_it_was(entry)]

    def is_restored(self) -> bool:
        """Whether all files and states are as they were."""
        return not self.changed and all(
            read(self._host, kind, name) == value for kind, name, value in self.states
        )

    def restore(self) -> list[str]:
        """Everything as it was: states, files, then what has to read them again.

        Goes on where something fails, and returns what did.
        """
        problems = []
        alive = dict.fromkeys([*self._manifest.get("alive", []), *self._alive(self.reloads)])
        for kind, name, value in reversed(self.states):
            try:
                if read(self._host, kind, name) != value:
                    put(self._host, kind, name, value)
            except Failed as why:
                problems.append(str(why))
        other = [entry for entry in self.files if not self.is_as_it_was(entry)]
        for entry in other:
            try:
                self.restore_file(entry)
            except OSError as error:
                problems.append(f"{entry.path} is not as it was ({error.strerror})")
        for folder in sorted(self._manifest.get("folders", []), key=len, reverse=True):
            with contextlib.suppress(OSError):
                self._host.path(folder).rmdir()
        for command in (("systemctl", "daemon-reload"), *self.reloads):
            said = self._host.run(*command)
            if said.code != 0:
                problems.append(f"`{' '.join(command)}` failed ({said.why})")
        for unit in alive:
            if read(self._host, "unit", unit) != "active":
                # What has ended of what is taken back now hears no reload.
                self._host.run("systemctl", "reset-failed", unit)
                said = self._host.run("systemctl", "start", unit)
                if said.code != 0:
                    problems.append(f"{unit} does not start again ({said.why})")
        return problems

    def restore_file(self, entry: Entry) -> None:
        """Raises OSError."""
        place = self._host.path(entry.path)
        if entry.kind == "absent":
            place.unlink(missing_ok=True)
        elif entry.kind == "link":
            place.unlink(missing_ok=True)
            place.symlink_to(entry.target)
            os.chown(place, entry.uid, entry.gid, follow_symlinks=False)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            content = (self.folder / "kept" / entry.kept).read_bytes()
            write(place, content, entry.mode or 0, (entry.uid, entry.gid))
            os.utime(place, ns=(entry.changed, entry.changed))

    def adopt(self, newer: Snapshot, **notes: Any) -> None:
        """Take over what a later run changed and this one does not know yet."""
        self._make_folder()
        entries, known = self.files, {entry.path for entry in self.files}
        for entry in newer.files:
            if entry.path in known:
                continue
            values = asdict(entry)
            if entry.kept:
                values["kept"] = f"{len(entries):03d}"
                content = (newer.folder / "kept" / entry.kept).read_bytes()
                write(self.folder / "kept" / values["kept"], content, 0o600)
            entries.append(Entry(**values))
        named = {(kind, name) for kind, name, _ in self.states}
        states = self.states + [it for it in newer.states if (it[0], it[1]) not in named]
        folders = {*self._manifest.get("folders", []), *newer._manifest.get("folders", [])}
        self._manifest = {
            **self._manifest,
            "files": [asdict(entry) for entry in entries],
            "states": [list(state) for state in states],
            "folders": sorted(folders),
            "reloads": [list(it) for it in dict.fromkeys((*self.reloads, *newer.reloads))],
            **notes,
        }
        self._save()

    def delete(self) -> None:
        # First what says that there is something: half of it must not be restored.
        (self.folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._manifest = {}

    def _save(self) -> None:
        text = json.dumps(self._manifest, indent=1) + "\n"
        write(self.folder / "manifest.json", text.encode(), 0o600)


def write(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """In one step, and onto the disk: a crash leaves the old file or the new one."""
    part = path.with_name(f".{path.name}.harden")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            if owner is not None:
                os.fchown(out.fileno(), *owner)
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
