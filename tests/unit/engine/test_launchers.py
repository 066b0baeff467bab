"""What starts an engine refuses bad settings in one sentence, and passes on the good ones."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.engine.digests import BadWeights, check_digests

ROOT = Path(__file__).resolve().parents[3]
BAD_SETTINGS = [
    ("ENGINE_WEIGHTS", "/nowhere"),
    ("CONTEXT_TOKENS", "many"),
    ("CONTEXT_TOKENS", "255"),
    ("ENGINE_SLOTS", "0"),
    ("ENGINE_SLOTS", "99999999999999999999"),
    ("ENGINE_SOCKET", "/nowhere/engine.sock"),
]
LAUNCHERS = {
    "llamacpp": [sys.executable, "-m", "services.engine.llamacpp"],
    "vllm": ["/bin/sh", str(ROOT / "services/engine/vllm.sh")],
}


@pytest.mark.parametrize(("setting", "value"), BAD_SETTINGS)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_says_which_setting_is_wrong(
    launcher: str, setting: str, value: str, launch: "Launch"
) -> None:
    """A bad value stops the start with one sentence that names it and the remedy, and exit 2."""
    done = launch(launcher, {setting: value})

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f'{setting} is "{value}": ')
    assert ": give " in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("GPU_COUNT", "all"),
        ("GPU_COUNT", "0"),
        ("GPU_COPIES", "0"),
        ("GPU_STAGES", "two"),
        ("QUANTIZATION", "fp8 --port 80"),
        ("QUANTIZATION", "--port"),
        ("KV_CACHE", "*"),
        ("GPU_MEMORY", "1"),
        ("GPU_MEMORY", "0.05"),
        ("BATCH_TOKENS", "255"),
    ],
)
def test_says_which_setting_of_the_gpu_is_wrong(setting: str, value: str, launch: "Launch") -> None:
    """Neither vLLM nor a second flag gets to see it."""
    done = launch("vllm", {setting: value})

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f'{setting} is "{value}": give ')
    assert done.stderr.count("\n") == 1


def test_settings_of_the_gpu_become_flags(launch: "Launch") -> None:
    """Several cards, smaller weights, a smaller cache, its share of the memory, its steps."""
    settings = {
        "GPU_COUNT": "2",
        "QUANTIZATION": "fp8",
        "KV_CACHE": "fp8",
        "GPU_MEMORY": "0.85",
        "BATCH_TOKENS": "4096",
        "ENGINE_FLAGS": "--last",
    }

    flags = launch("vllm", settings).stdout.split("--disable-uvicorn-access-log\n")[1].split()

    assert flags == [
        *("--tensor-parallel-size", "2", "--quantization", "fp8", "--kv-cache-dtype", "fp8"),
        *("--gpu-memory-utilization", "0.85", "--max-num-batched-tokens", "4096", "--last"),
    ]


@pytest.mark.parametrize(
    ("settings", "flags", "slots"),
    [
        (
            {"GPU_COUNT": "4", "GPU_COPIES": "2"},
            "--tensor-parallel-size 2 --data-parallel-size 2",
            8,
        ),
        ({"GPU_COUNT": "2", "GPU_COPIES": "2"}, "--data-parallel-size 2", 8),
        ({"GPU_COUNT": "3", "GPU_STAGES": "3"}, "--pipeline-parallel-size 3", 15),
        (
            {"GPU_COUNT": "8", "GPU_COPIES": "2", "GPU_STAGES": "2"},
            "--tensor-parallel-size 2 --pipeline-parallel-size 2 --data-parallel-size 2",
            8,
        ),
    ],
)
def test_cards_are_divided_among_copies_and_stages(
    settings: dict[str, str], flags: str, slots: int, launch: "Launch"
) -> None:
    """What is left of the cards shares each layer, and each copy has its share of the slots."""
    said = launch("vllm", {"ENGINE_SLOTS": "15", **settings}).stdout.split()

    assert " ".join(said[said.index("--disable-uvicorn-access-log") + 1 :]) == flags
    assert said[said.index("--max-num-seqs") + 1] == str(slots)


@pytest.mark.parametrize("count", ["1", "3", "6"])
def test_cards_that_cannot_be_divided_are_refused(count: str, launch: "Launch") -> None:
    """Else some would lie idle, or vLLM would look for more than there are."""
    done = launch("vllm", {"GPU_COUNT": count, "GPU_COPIES": "2", "GPU_STAGES": "2"})

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f'GPU_COUNT is "{count}": give a multiple of GPU_COPIES (2)')
    assert done.stderr.count("\n") == 1


def record(folder: Path) -> None:
    """Write the digests of a folder's files, as `sha256sum * >SHA256SUMS` does."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
    ]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def spoil(path: Path) -> None:
    path.write_bytes(b"other" + path.read_bytes())


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


AMISS: list[tuple[Callable[[Path], object], str]] = [
    (spoil, "{name} differs from what was fetched"),
    (lambda path: path.unlink(), "{name} is missing"),
    (link, "{name} is not an ordinary file"),
    (lambda path: (path.parent / "more.bin").touch(), "more.bin is not named in SHA256SUMS"),
    (
        lambda path: (path.parent / "SHA256SUMS").write_text(f"abc  {path.name}\n"),
        "SHA256SUMS is damaged",
    ),
    (lambda path: (path.parent / "SHA256SUMS").write_text(""), "SHA256SUMS is damaged"),
]


@pytest.mark.parametrize(("change", "says"), AMISS)
def test_weights_that_are_not_those_recorded(
    change: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    """Missing, other, too many, not a file, or without digests that can be read."""
    file = recorded_model("vllm", tmp_path)
    assert check_digests(file.parent) == 2

    change(file)

    with pytest.raises(BadWeights, match=says.format(name=file.name)):
        check_digests(file.parent)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_refuses_weights_that_are_not_those_recorded(
    launcher: str, tmp_path: Path, launch: "Launch"
) -> None:
    """At every start: one sentence with the file and the remedy, and no engine."""
    file = recorded_model(launcher, tmp_path)
    spoil(file)

    weights = file if launcher == "llamacpp" else file.parent
    done = launch(launcher, {"ENGINE_WEIGHTS": str(weights)})

    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file.name} differs from what was fetched" in done.stderr
    assert "`model fetch`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_weights_as_recorded_are_served(tmp_path: Path, launch: "Launch") -> None:
    """What lies beside them for the operator is no part of them."""
    folder = recorded_model("vllm", tmp_path).parent
    (folder / "fetched.json").write_text("{}", encoding="utf-8")

    assert launch("vllm", {"ENGINE_WEIGHTS": str(folder)}).stdout.startswith("serve\n")


def recorded_model(launcher: str, folder: Path) -> Path:
    """One of the files of a model with digests."""
    model = folder / "recorded"
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    file = model / ("w.gguf" if launcher == "llamacpp" else "w.safetensors")
    file.write_bytes(bytes(100_000))
    record(model)
    return file


def test_projector_that_is_not_there_is_named(launch: "Launch") -> None:
    """llama.cpp would go on without it, and see nothing."""
    done = launch("llamacpp", {"ENGINE_PROJECTOR": "/nowhere/mmproj.gguf"})

    assert done.returncode == 2
    assert done.stderr.startswith('ENGINE_PROJECTOR is "/nowhere/mmproj.gguf": give the path')
    assert done.stderr.count("\n") == 1


def test_starts_vllm_with_its_settings(launch: "Launch", tmp_path: Path) -> None:
    """The launcher replaces itself by `vllm serve`, with the flags as words and no stale socket."""
    (tmp_path / "engine.sock").touch()

    done = launch("vllm", {"CONTEXT_TOKENS": "4096", "ENGINE_FLAGS": "--a 1  --b=*"})

    weights, path = tmp_path / "weights", tmp_path / "engine.sock"
    assert done.stdout.splitlines() == [
        *("serve", str(weights), "--served-model-name", "weights", "--uds", str(path)),
        *("--max-model-len", "4096", "--max-num-seqs", "3", "--scheduling-policy", "priority"),
        *("--disable-uvicorn-access-log", "--a", "1", "--b=*"),
    ]
    assert not path.exists()


def test_vllm_is_accompanied_by_what_its_gpus_do(launch: "Launch", tmp_path: Path) -> None:
    """While it runs, the gateway finds beside the socket what nvidia-smi says."""
    program(tmp_path / "bin" / "nvidia-smi", "echo 87, 40960, 49140")
    program(tmp_path / "bin" / "vllm", f"until [ -s {tmp_path}/gpu ]; do sleep 0.05; done; echo $1")

    assert launch("vllm", {}).stdout == "serve\n"
    assert (tmp_path / "gpu").read_text(encoding="utf-8") == "87, 40960, 49140\n"


def program(file: Path, text: str) -> None:
    """Write a shell script that can be run."""
    file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    file.chmod(0o755)


Launch = Callable[[str, dict[str, str]], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Runs a launcher on the host, with good settings but for those given; `vllm` only echoes."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").touch()
    (tmp_path / "weights.gguf").touch()
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "vllm", 'printf "%s\\n" "$@"')

    def run(launcher: str, settings: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        weights = tmp_path / ("weights" if launcher == "vllm" else "weights.gguf")
        good = {
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "ENGINE_WEIGHTS": str(weights),
            "ENGINE_SOCKET": str(tmp_path / "engine.sock"),
            "ENGINE_SLOTS": "3",
        }
        return subprocess.run(
            LAUNCHERS[launcher],
            env=good | settings,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    return run
