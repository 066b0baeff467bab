"""The model command: what it shows, and what it changes of the node."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from scripts.bundle import MODEL, RELAY, pack
from scripts.commands import model as command
from scripts.commands.__main__ import Parser, main
from scripts.model import WeightsFailed
from scripts.model.settings import change, read_settings
from scripts.model.store import Model, place_of
from scripts.node.tools import Tools
from services.engine.digests import BadWeights, check_digests
from tests.unit.adyton.hub import Hub, running
from tests.unit.adyton.weights import SMOLLM2, gguf, model_files, write_model

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = (ROOT / ".env.gpu.example").read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two models, one of each kind, copied there by hand."""
    write_model(tmp_path / "weights" / "Small-1")
    write_model(tmp_path / "weights" / "Tiny", {"tiny.gguf": gguf(SMOLLM2, bytes(5000))})
    (tmp_path / "weights" / ".Begun.part").mkdir()
    return tmp_path / "weights"


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """A node's settings."""
    path = tmp_path / ".env"
    path.write_bytes(EXAMPLE.replace(b"\nWEIGHTS=\n", b"\nWEIGHTS=Small-1\n"))
    path.chmod(0o600)
    return path


class Call:
    def __init__(self, place: Path, env: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self.env, self._capsys = place, env, capsys

    def __call__(self, action: str, *arguments: str, status: int = 0) -> str:
        """What the command prints."""
        folder = "--into" if action == "fetch" else "--folder"
        options = [folder, str(self.place)]
        if action != "verify":
            options += ["--env-file", str(self.env)]
        assert main(["model", action, *arguments, *options]) == status
        printed = self._capsys.readouterr()
        return printed.out + printed.err


@pytest.fixture
def call(
    place: Path, env: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Call:
    for name in ("ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(place.parent / "bin"))
    (place.parent / "bin").mkdir()
    return Call(place, env, capsys)


def program(place: Path, name: str, text: str) -> None:
    """Put a program where the command looks for it."""
    file = place.parent / "bin" / name
    file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    file.chmod(0o755)


# list, verify


def test_list_shows_what_is_there(call: Call) -> None:
    """With size, kind, context, and which is in use; half fetched ones, too."""
    rows = [re.split(r"\s{2,}", line) for line in call("list").splitlines()]

    assert rows[0] == ["NAME", "SIZE", "FORMAT", "KIND", "CONTEXT", "VERIFIED"]
    assert rows[1:] == [
        ["Small-1", "246 KiB", "safetensors", "BF16", "8192", "no digests", "in use"],
        ["Tiny", "5.3 KiB", "GGUF", "Q4_1", "8192", "no digests"],
        ["Begun", "half fetched"],
    ]


def test_verify_finds_what_has_changed(call: Call, place: Path) -> None:
    """After digests were recorded; and it notes when it looked last."""
    assert "has no digests" in call("verify", status=1)
    assert "would record" in call("verify", "Small-1", "--record", "--dry-run")
    assert not (place / "Small-1" / "SHA256SUMS").exists()
    call("verify", "--record")
    note = json.loads((place / "Small-1" / "fetched.json").read_text())
    (place / "Small-1" / "fetched.json").write_text(json.dumps(note | {"verified": "old"}))

    said = call("verify", "Small-1", "--dry-run")
    assert Model(place / "Small-1").origin["verified"] == "old"
    call("verify")

    assert "Small-1: all 5 files are what was fetched" in said
    assert Model(place / "Small-1").origin["verified"].endswith("Z")
    assert check_digests(place / "Small-1") == 5


@pytest.mark.parametrize("way", ["changed", "missing", "added", "link"])
def test_verify_and_the_engine_refuse_the_same(call: Call, place: Path, way: str) -> None:
    """One says before what the other would say at its start."""
    call("verify", "Small-1", "--record")
    file = place / "Small-1" / "m-1.safetensors"
    match way:
        case "changed":
            file.write_bytes(file.read_bytes()[:-1] + b"!")
        case "missing":
            file.unlink()
        case "added":
            (place / "Small-1" / "more.py").touch()
        case "link":
            file.rename(place / "elsewhere")
            file.symlink_to(place / "elsewhere")

    said = call("verify", "Small-1", status=1)

    with pytest.raises(BadWeights) as refused:
        check_digests(place / "Small-1")
    sentence = said.removeprefix("Small-1: ").partition(";")[0]
    assert sentence in str(refused.value)


# use


def test_use_changes_one_setting_and_nothing_else(call: Call, env: Path, place: Path) -> None:
    """Every other byte, owner and mode stay; once more changes nothing."""
    write_model(place / "Small-2")
    before = env.read_bytes()

    assert "Would set WEIGHTS=Small-2" in call("use", "Small-2", "--dry-run")
    assert env.read_bytes() == before
    said = call("use", "Small-2")
    inode = env.stat().st_ino
    again = call("use", "Small-2")

    assert env.read_bytes() == before.replace(b"WEIGHTS=Small-1\n", b"WEIGHTS=Small-2\n")
    assert env.stat().st_mode & 0o777 == 0o600
    assert "init --weights Small-2" in said
    assert "docker compose up -d" in said
    assert "has WEIGHTS=Small-2 already" in again
    assert env.stat().st_ino == inode
    assert [path.name for path in env.parent.iterdir() if path.name.startswith(".env")] == [".env"]


def test_use_restarts_the_engine_when_told(call: Call, env: Path, place: Path) -> None:
    """By Compose, in the node's folder; where that fails, it is said."""
    program(place, "docker", f'echo "$PWD $*" >{place.parent}/ran')

    assert "Would run `docker compose up -d`" in call("use", "Small-1", "--apply", "--dry-run")
    assert not (place.parent / "ran").exists()
    call("use", "Small-1", "--apply")
    assert (place.parent / "ran").read_text() == f"{env.parent} compose up -d\n"

    program(place, "docker", "exit 3")
    assert "Docker Compose failed" in call("use", "Small-1", "--apply", status=1)


def test_use_knows_which_engine_serves_what(call: Call, env: Path) -> None:
    """vLLM takes safetensors, llama.cpp GGUF."""
    assert "llama.cpp serves: add :services/engine/llamacpp.yml" in call("use", "Tiny", status=1)
    env.write_bytes(
        env.read_bytes().replace(
            b"=compose.gpu.yml", b"=compose.gpu.yml:services/engine/llamacpp.yml"
        )
    )

    assert "vLLM serves" in call("use", "Small-1", status=1)
    said = call("use", "Tiny")

    assert "GGUF=/weights/Tiny/tiny.gguf" in said
    assert read_settings(env)["GGUF"] == "/weights/Tiny/tiny.gguf"
    assert b"#GGUF=/weights/model.gguf\nGGUF=/weights/Tiny/tiny.gguf\n" in env.read_bytes()


def test_use_of_a_model_in_parts_that_sees(call: Call, env: Path, place: Path) -> None:
    """llama.cpp gets the first part, and the projector; another model's is taken away."""
    names = ["a-Q8-00001-of-00002.gguf", "a-Q8-00002-of-00002.gguf", "mmproj-a.gguf"]
    write_model(place / "Seer", {name: gguf(SMOLLM2) for name in names})
    env.write_text("COMPOSE_FILE=compose.gpu.yml:services/engine/llamacpp.yml\n")

    call("use", "Seer")
    seeing = read_settings(env)
    call("use", "Tiny")

    assert seeing["GGUF"] == "/weights/Seer/a-Q8-00001-of-00002.gguf"
    assert seeing["GGUF_PROJECTOR"] == "/weights/Seer/mmproj-a.gguf"
    assert read_settings(env)["GGUF_PROJECTOR"] == ""


def test_names_that_are_no_models(call: Call) -> None:
    """Nor ways out of the folder."""
    assert "there are: Small-1, Tiny" in call("use", "Large", status=1)
    assert "is no name of a model" in call("use", "../Small-1", status=1)
    assert "is no name of a model" in call("use", ".Begun.part", status=1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"A=1\r\nW=old # why\r\nB=2", b"A=1\r\nW=new\r\nB=2"),
        (b"W=one\nW=two\n", b"W=one\nW=new\n"),
        (b"#W=\n#W=x\nB=2\n", b"#W=\nW=new\n#W=x\nB=2\n"),
        (b"B=2", b"B=2\nW=new\n"),
        (b"", b"W=new\n"),
        (b"export W='old'\nMW=1\n", b"W=new\nMW=1\n"),
        (b"# \xff\xfe W=\nW=\n", b"# \xff\xfe W=\nW=new\n"),
    ],
)
def test_one_line_changes(before: bytes, after: bytes) -> None:
    """In its place, whatever stands around it."""
    assert change(before, {"W": "new"}) == after


def test_settings_are_read_as_compose_does(tmp_path: Path) -> None:
    """Quotes and comments are no part of a value; a folder without a file has none."""
    path = tmp_path / ".env"
    path.write_text("A=1 # one\n#B=2\nC='a # b'\nexport D=4\nE=\nF= # nothing\n")

    assert read_settings(path) == {"A": "1", "C": "a # b", "D": "4", "E": "", "F": ""}
    assert read_settings(tmp_path / "none") == {}


# fits


def test_fits_takes_the_nodes_settings_and_the_gpu(call: Call, env: Path, place: Path) -> None:
    """What is given counts more; without a GPU it has to be given."""
    assert "give --gpu-memory" in call("fits", "Small-1", status=1)
    said = call("fits", "Small-1", "--gpu-memory", "24", "--context", "1024", "--slots", "2")
    assert "It fits: 2 conversations of 1024 tokens at once." in said
    program(place, "nvidia-smi", "echo 49140; echo 24564")
    env.write_text("CONTEXT_TOKENS=4096\nENGINE_SLOTS=3\nGPU_MEMORY=0.5\n")

    said = call("fits", "Small-1")

    assert "It fits: 3 conversations of 4096 tokens at once." in said
    assert "of 12.0 GiB" in said
    assert "does not fit" in call("fits", "Small-1", "--gpu-memory", "2", status=1)
    assert call("fits", "Small-1", "--gpu-memory", "24", "--gpus", "2") != said


def test_fits_of_a_gguf_is_about_main_memory(call: Call, env: Path) -> None:
    """ENGINE_MEMORY, and all slots at once."""
    assert "4 slots of 2048 tokens: 180 MiB" in call("fits", "Tiny")
    env.write_text("ENGINE_MEMORY=100m\n")
    assert "ENGINE_MEMORY=" in call("fits", "Tiny", status=1)


@pytest.mark.parametrize(
    "line", ["GPU_MEMORY=2", "CONTEXT_TOKENS=many", "BATCH_TOKENS=-1", "GPU_COUNT=all"]
)
def test_settings_that_cannot_be(call: Call, env: Path, line: str) -> None:
    """Named, instead of a wrong estimate."""
    env.write_text(line + "\n")

    assert f'{line.partition("=")[0]} is "' in call(
        "fits", "Small-1", "--gpu-memory", "24", status=1
    )


# The whole


def test_fetch_by_the_command(call: Call, place: Path) -> None:
    """Fetched, estimated, and what comes next."""
    (place / "Small-1").rename(place.parent / "away")
    with running(Hub(model_files())) as hub:
        said = call("fetch", "maker/Small-1", "--hub", hub.url)

    assert "Small-1 is whole: 6 files" in said
    assert "model fits Small-1 --gpu-memory" in said
    assert "model fetch ./Small-1" in said
    assert "Small-1  " in call("list")


def test_fetch_of_what_a_pattern_fits(call: Call, place: Path) -> None:
    """Where a repository has several, one is taken."""
    with running(Hub({"a-Q4_K_M.gguf": gguf({}), "a-Q8_0.gguf": gguf({}, b"1")})) as hub:
        call("fetch", "maker/Small-1", "--hub", hub.url, "--name", "Other", "--file", "*Q4*")

    assert [it.name for it in place.rglob("a-*")] == ["a-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["what is this?"], "is not understood: give a repository"),
        (["a/b", "--hub", "http://hub.example"], "--hub http://hub.example is not understood"),
        (["a/b", "--name", "../x"], "cannot be a model's name"),
        (["https://h.example/x.bin"], "does not end in the name of a GGUF file"),
        (["a/b", "--sha256", "12"], "is no SHA-256 digest"),
        (["a/b", "--token-file", "/nowhere"], "does not hold a token"),
        (["a/b", "--proxy", "tor"], "proxy's address is not understood"),
    ],
)
def test_wrong_calls_are_one_sentence(call: Call, arguments: list[str], says: str) -> None:
    """Which says what to give."""
    said = call("fetch", *arguments, status=1)

    assert says in said
    assert said.count("\n") == 1


def test_volume_of_the_engine_is_found_and_made(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Docker keeps it; without Docker there is a sentence."""
    with pytest.raises(WeightsFailed, match="no Docker here"):
        place_of(Tools())
    made = place.parent / "made"
    program(
        place,
        "docker",
        f'[ "$2" = create ] && >{made} && exit\n'
        f"[ -e {made} ] && echo {place} || {{ echo no such volume >&2; exit 1; }}",
    )
    with pytest.raises(WeightsFailed, match="no such volume"):
        place_of(Tools())

    assert place_of(Tools(), may_make=True) == place


def test_only_the_model_nodes_bundle_has_it(tmp_path: Path) -> None:
    """Where it runs with nothing but Python; the other one lacks even the name."""
    for bundle in (MODEL, RELAY):
        with tarfile.open(fileobj=io.BytesIO(pack(bundle, "", {}))) as archive:
            for entry in archive:
                entry.uid, entry.gid = os.geteuid(), os.getegid()
                archive.extract(entry, tmp_path, filter="fully_trusted")

    def run(node: str) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path.insert(0, '/{tmp_path}/opt/{node}');"
        code += "from scripts.commands.__main__ import main; main(['model', 'fits', '--help'])"
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
        )

    there, elsewhere = run("model"), run("relay")
    assert there.returncode == 0, there.stderr
    assert "= 128 KiB a token" in there.stdout
    assert elsewhere.returncode == 64
    assert not list((tmp_path / "opt/relay").rglob("*model*"))


def documented() -> list[str]:
    """Every call of the command in the documentation and in its own examples."""
    files = ("docs/operations.md", "README.md", "README.ru.md", "scripts/commands/model.py")
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in files)
    calls = re.findall(
        r"(?:`|^ +)(?:(?:\./)?scripts/(?:adyton|node-admin) )?model "
        r"((?:fetch|list|verify|use|fits)\b[^`\n]*)",
        text,
        re.MULTILINE,
    )
    return sorted({call.partition("#")[0].strip(' "') for call in calls})


@pytest.mark.parametrize("call", documented())
def test_documented_calls_are_understood(call: str) -> None:
    """No option is shown that does not exist."""
    parser = Parser()
    command.add_arguments(parser)
    words = shlex.split(call)

    needs_more = len(words) == 1 and words[0] in ("fetch", "use", "fits")

    assert parser.parse_args(words + ["NAME"] * needs_more).action == words[0]


def test_documentation_shows_every_action() -> None:
    """At least once each: the search above finds them."""
    assert len(documented()) > 12
    assert {call.split()[0] for call in documented()} == {
        *("fetch", "list", "verify", "use", "fits")
    }


@pytest.mark.parametrize("action", ["fetch", "list", "verify", "use", "fits"])
def test_every_action_has_help_with_an_example(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it would be typed."""
    with pytest.raises(SystemExit):
        main(["model", action, "--help"])

    assert f"\n  model {action}" in capsys.readouterr().out
