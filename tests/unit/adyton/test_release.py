"""A release: what it lists of its parts, and that a changed byte of it is found."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts.commands import VERSION, release
from scripts.commands.__main__ import main
from scripts.node.tools import CannotLook, Said
from scripts.release.parts import COMPOSE_FILES, DOCKERFILES, LOCKS, bill_of_materials, of_image
from tests.unit.adyton.recorded import Recorded

ROOT = Path(__file__).resolve().parents[3]


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of the files that tell of parts, all committed."""
    folder = tmp_path / "repository"
    for name in (*DOCKERFILES, *COMPOSE_FILES, *(f"requirements/{lock}.txt" for lock in LOCKS)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    monkeypatch.setattr(release, "ROOT", folder)
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)]
    subprocess.run(command, check=True)
    return file


@pytest.fixture
def out(repository: Path, key: Path, tmp_path: Path) -> Path:
    """A release that was made."""
    folder = tmp_path / "out"
    assert main(["release", "--out", str(folder), "--key", str(key)]) == 0
    return folder


def verify(out: Path, key: Path) -> int:
    return main(["release", "verify", str(out), "--signers", f"{key}.pub"])


def test_parts_are_what_the_files_pin() -> None:
    """Every package of every lock, with its version and digests; each part once."""
    parts = bill_of_materials(ROOT, "name", "1", "commit")

    components = {it["bom-ref"]: it for it in parts["components"]}
    assert len(components) == len(parts["components"])
    locked = set()
    for lock in LOCKS:
        for line in (ROOT / f"requirements/{lock}.txt").read_text("utf-8").splitlines():
            if "==" in line and not line.startswith((" ", "#")):
                name, _, version = line.split()[0].partition("==")
                locked.add(f"pkg:pypi/{name.lower()}@{version}")
    assert len(locked) > 40
    assert {it for it in components if it.startswith("pkg:pypi/")} == locked
    assert all(components[it]["hashes"] for it in locked)
    shared = next(it for it in locked if it.startswith("pkg:pypi/aiohttp@"))
    assert {p["value"] for p in components[shared]["properties"]} >= {
        "requirements/relay.txt",
        "requirements/gateway.txt",
    }
    for name in ("wireguard-go", "nftables", "haproxy", "python3", "libgomp1"):
        assert f"pkg:deb/debian/{name}" in components
    (engine,) = (it for it in components if it.startswith("image:vllm/vllm-openai:v"))
    assert {p["value"] for p in components[engine]["properties"]} == {
        "compose.gpu.yml",
        "compose.gpu.worker.yml",
    }
    assert "image:debian:trixie-slim" in components
    assert not any("$" in it or "-q" in it for it in components)


def test_parts_of_an_image_have_versions(tmp_path: Path) -> None:
    """Asked of the image itself, without a network."""
    tools = Recorded(tmp_path, {"docker run": "nftables 1.1.3-1 amd64\nlibc6 2.41-12 amd64\n"})

    found = list(of_image(tools, "node/x:1"))

    assert [it["purl"] for it in found] == [
        "pkg:deb/debian/nftables@1.1.3-1?arch=amd64",
        "pkg:deb/debian/libc6@2.41-12?arch=amd64",
    ]
    assert "--network=none" in tools.asked[0]
    tools.answers["docker run"] = Said(125, err="no such image\n")
    with pytest.raises(CannotLook, match="no such image"):
        list(of_image(tools, "node/x:1"))


def test_release_is_whole(out: Path, key: Path) -> None:
    """Source, list and digests, signed; made again, the same bytes."""
    assert {it.name for it in out.iterdir()} == {
        f"adyton-{VERSION}.tar.gz",
        f"adyton-{VERSION}.cdx.json",
        "SHA256SUMS",
        "SHA256SUMS.sig",
    }
    assert verify(out, key) == 0
    with tarfile.open(
        fileobj=io.BytesIO((out / f"adyton-{VERSION}.tar.gz").read_bytes())
    ) as source:
        for name in ("compose.gpu.yml", "compose.gpu.router.yml", "compose.gpu.worker.yml"):
            assert f"adyton-{VERSION}/{name}" in source.getnames()
    listing = json.loads((out / f"adyton-{VERSION}.cdx.json").read_text("utf-8"))
    assert (listing["bomFormat"], listing["specVersion"]) == ("CycloneDX", "1.6")
    again = out.with_name("again")
    assert main(["release", "--out", str(again), "--key", str(key)]) == 0
    assert (again / "SHA256SUMS").read_bytes() == (out / "SHA256SUMS").read_bytes()
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out)
    assert done.returncode == 0


@pytest.mark.parametrize("damage", ["changed", "missing", "more", "sums", "signature", "signer"])
def test_damage_is_found(
    out: Path, key: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte, a file less, a file more, other digests, no signature, somebody else's."""
    source = out / f"adyton-{VERSION}.tar.gz"
    match damage:
        case "changed":
            source.write_bytes(source.read_bytes() + b"x")
        case "missing":
            source.unlink()
        case "more":
            (out / "install.sh").touch()
        case "sums":
            with (out / "SHA256SUMS").open("a", encoding="ascii") as sums:
                sums.write(f"{'0' * 64}  other\n")
        case "signature":
            (out / "SHA256SUMS.sig").unlink()
        case _:
            key = tmp_path / "other"
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
            subprocess.run(command, check=True)

    assert verify(out, key) == 2
    assert capsys.readouterr().err.startswith("Refused: ")


def test_signature_for_another_purpose_is_none(out: Path, key: Path) -> None:
    """Who signs reports of nodes has not signed a release by that."""
    (out / "SHA256SUMS.sig").unlink()
    command = ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", "prove", str(out / "SHA256SUMS")]
    subprocess.run(command, check=True, capture_output=True)

    assert verify(out, key) == 2


def test_what_is_not_committed_is_not_released(
    repository: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is anything put beside what stands in a folder already, nor written for a look."""
    arguments = ["release", "--out", str(tmp_path / "out"), "--key", str(key)]
    assert main([*arguments, "--dry-run"]) == 0
    assert "Would write" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()

    (repository / "new").touch()
    assert main(arguments) == 1
    assert "not committed" in capsys.readouterr().err
    (repository / "new").unlink()

    (tmp_path / "out").mkdir()
    (tmp_path / "out/there").touch()
    assert main(arguments) == 1
    assert "give a folder that is empty" in capsys.readouterr().err
