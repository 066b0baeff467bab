"""What starts an engine refuses bad settings in one sentence, and passes on the good ones."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
