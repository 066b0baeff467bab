"""Compose files and example settings stay in step: nothing undocumented, nothing left over."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

NODES = {
    "relay node": (".env.vps.example", ["compose.vps.yml"]),
    "model node": (
        ".env.gpu.example",
        [
            *("compose.gpu.yml", "compose.gpu.hop.yml", "compose.gpu.router.yml"),
            *("services/engine/llamacpp.yml", "services/engine/vllm-cpu.yml"),
        ],
    ),
    "worker": (".env.worker.example", ["compose.gpu.worker.yml"]),
}


DOCKERS_OWN = {"COMPOSE_FILE"}
"""Read by `docker compose` itself."""


def variables_of(*files: str) -> set[str]:
    """Names that Compose replaces: `${NAME}`, `${NAME:-default}`, `${NAME:?sentence}`."""
    text = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    uncommented = re.sub(r"(^|\s)#.*", "", text)
    return set(re.findall(r"(?<!\$)\$\{?([A-Z][A-Z0-9_]*)", uncommented))


def settings_of(example: str) -> dict[str, str]:
    """Names and values in an example file, commented-out ones included."""
    text = (ROOT / example).read_text(encoding="utf-8")
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("node", NODES)
def test_every_variable_stands_in_the_example_file(node: str) -> None:
    """An operator finds every setting in one place."""
    example, files = NODES[node]

    undocumented = variables_of(*files) - set(settings_of(example))

    assert not undocumented, f"{example} does not explain {sorted(undocumented)}"


@pytest.mark.parametrize("node", NODES)
def test_every_documented_setting_is_used(node: str) -> None:
    """Nothing in the example file is without effect."""
    example, files = NODES[node]

    unused = set(settings_of(example)) - variables_of(*files) - DOCKERS_OWN

    assert not unused, f"{example} explains {sorted(unused)}, which no Compose file uses"


@pytest.mark.parametrize("node", NODES)
def test_every_setting_has_a_comment_above_it(node: str) -> None:
    """A setting without an explanation is not documented."""
    example = NODES[node][0]
    blocks = (ROOT / example).read_text(encoding="utf-8").strip().split("\n\n")

    bare = [
        block.splitlines()[0]
        for block in blocks
        if re.search(r"^#?[A-Z][A-Z0-9_]*=", block, re.MULTILINE)
        and not re.match(r"# [A-Z]", block)
    ]

    assert not bare


@pytest.mark.parametrize("node", NODES)
def test_example_shows_the_real_defaults(node: str) -> None:
    """What stands commented out in the example file is what happens without it."""
    example, files = NODES[node]
    text = (ROOT / files[0]).read_text(encoding="utf-8")
    defaults = dict(re.findall(r"\$\{([A-Z][A-Z0-9_]*):-([^}]*)\}", text))
    shown = settings_of(example)

    wrong = {
        name: (shown[name], default)
        for name, default in defaults.items()
        if name in shown and shown[name] != default
    }

    assert not wrong


def block(file: str, begin: str) -> str:
    """The lines of a Compose file from one up to the next of its depth."""
    depth = len(begin) - len(begin.lstrip())
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.search(
        rf"^{begin}\n((?: {{{depth + 1},}}.*\n|\n(?= {{{depth + 1},}}))+)", text, re.MULTILINE
    )
    assert found, f"{file} has no {begin}"
    return found[1]


@pytest.mark.parametrize("part", ["  engine:", "x-hardening: &hardening"])
def test_worker_has_the_engine_of_the_model_node(part: str) -> None:
    """They stand in for each other: the same image, command, limits and settings."""
    assert block("compose.gpu.worker.yml", part) == block("compose.gpu.yml", part)
