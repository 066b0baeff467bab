"""Owns the images that are built here for a node: which they are, how they are built and packed."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scripts.bundle import ROOT, Bundle, compose_files, defaults, images
from scripts.steps import Step, StepFailed, Steps, finish

PIECE = 1 << 20
COMPRESSORS = {"zstd": ("zstd", "-q", "-6", "-T0", "-c"), "gzip": ("gzip", "-c")}
"""Best first; `docker load` is given what comes out of the same program's `-dc`."""

MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}
"""What `uname -m` says, in Docker's words."""


@dataclass(frozen=True)
class Image:
    """One image that is here."""

    name: str
    id: str
    architecture: str
    size: int
    """Bytes."""


def settings_of(bundle: Bundle, archive: bytes) -> dict[str, str]:
    """The settings in a bundle, those that are as in the example included."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        file = files.extractfile(f"opt/{bundle.node}/.env")
        assert file
        lines = file.read().decode().splitlines()
    given = dict(line.split("=", 1) for line in lines if line[:1].isalpha() and "=" in line)
    return {**defaults(bundle), **{name: value.strip("'") for name, value in given.items()}}


def build(step: Step, bundle: Bundle, archive: bytes) -> list[Image]:
    """Build a node's images here, as its bundle names them. Raises StepFailed."""
    settings = settings_of(bundle, archive)
    # Of this environment only what Docker itself needs: a variable would count for more than .env.
    names = {*settings, "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES"} - {"BUILD_CA"}
    environment = {name: it for name, it in os.environ.items() if name not in names}
    chosen = {name: it for name, it in settings.items() if name not in ("BUILD_CA", "COMPOSE_FILE")}
    files = [str(ROOT / file) for file in compose_files(bundle, settings)]
    step.run(
        ["docker", "compose", "--env-file", str(ROOT / bundle.example)]
        + [*(word for file in files for word in ("-f", file)), "build"],
        doing=f"building the images of the {bundle.node} node",
        remedy="Mend what it says, and run this again; what was built is kept.",
        env=environment | chosen,
        cwd=ROOT,
    )
    found = [look(name) for name in images(bundle, settings)]
    step.say(f"{len(found)} images, {megabytes(sum(image.size for image in found))}")
    return found


def look(name: str) -> Image:
    """Raises StepFailed where there is no such image here."""
    form = "{{.Id}} {{.Architecture}} {{.Size}}"
    done = subprocess.run(
        ["docker", "image", "inspect", "--format", form, name],
        capture_output=True,
        text=True,
        check=False,
    )
    words = done.stdout.split()
    if done.returncode != 0 or len(words) != 3:
        raise StepFailed(f"There is no image {name} here: build it, then run this again.")
    return Image(name, words[0], words[1], int(words[2]))


def compressor(there: Iterable[str] = COMPRESSORS) -> str:
    """The best program that is here and there; nothing where there is none."""
    usable = [name for name in COMPRESSORS if name in there and shutil.which(name)]
    return usable[0] if usable else ""


def pack(step: Step, wanted: Sequence[Image], by: str, sink: IO[bytes]) -> None:
    """Write images as one archive, compressed, and show how far it is. Raises StepFailed."""
    whole = sum(image.size for image in wanted)
    with contextlib.ExitStack() as stack:
        save = subprocess.Popen(
            ["docker", "save", *(image.name for image in wanted)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert save.stdout
        assert save.stderr
        for pipe in (save.stdout, save.stderr):
            stack.callback(pipe.close)
        stack.callback(finish, save)
        packer = None
        into = sink
        if by:
            packer = subprocess.Popen(COMPRESSORS[by], stdin=subprocess.PIPE, stdout=sink)
            assert packer.stdin
            into = packer.stdin
            stack.callback(close, into)
            stack.callback(finish, packer)
        try:
            for done in copied(save.stdout, into):
                step.note = f"{megabytes(done)} of about {megabytes(whole)}"
            if packer:
                into.close()
        except BrokenPipeError:
            return  # whoever takes it says why it has had enough
        if save.wait() != 0:
            words = save.stderr.read().decode("utf-8", "replace").strip()
            raise StepFailed(f"`docker save` failed ({words}): mend that, and run this again.")
        if packer and packer.wait() != 0:
            raise StepFailed(f"{by} failed: see how much room there is, and run this again.")


def close(pipe: IO[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


def copied(source: IO[bytes], sink: IO[bytes]) -> Iterator[int]:
    """Copy to the end; yields how many bytes went."""
    done = 0
    while piece := source.read(PIECE):
        sink.write(piece)
        done += len(piece)
        yield done


def save_beside(steps: Steps, bundle: Bundle, archive: bytes, out: Path) -> None:
    """Build a node's images and put them into a file beside its bundle. Raises StepFailed."""
    with steps.step(f"images of the {bundle.node} node, built here") as step:
        built = build(step, bundle, archive)
    by = compressor()
    ending = {"zstd": ".zst", "gzip": ".gz", "": ""}[by]
    file = out / f"{bundle.node}-images.tar{ending}"
    with steps.step(f"images into {file}") as step:
        part = file.with_name(f".{file.name}.part")
        try:
            with part.open("wb") as sink:
                pack(step, built, by, sink)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
        load = f"{by} -dc {file.name} | docker load" if by else f"docker load <{file.name}"
        step.say(f"{megabytes(file.stat().st_size)}; on the host `{load}`")


def unpacking(by: str) -> str:
    """What takes such an archive in, on the host."""
    return f"{by} -dc | docker load" if by else "docker load"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
