"""`init --workers` makes a bundle for each further box, and tells the model node of them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from scripts.keys import public_key_of
from scripts.values import MOST_WORKERS
from tests.unit.adyton.test_init import Operator, secrets

LISTEN = "192.0.2.10:51821"


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def of_worker(operator: Operator, number: int) -> dict[str, str]:
    """All files of a worker's bundle, by their paths in its folder."""
    with tarfile.open(operator.out / f"worker{number}.tar") as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive if entry.isfile()}
        return {
            name.removeprefix("opt/worker/"): file.read().decode()
            for name, file in files.items()
            if file
        }


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line[:1].isupper())


def test_ends_of_the_tunnel_fit_each_other(operator: Operator) -> None:
    """Each worker's key and address stand on the first box, and its key and port on theirs."""
    assert operator.init_all("--workers", "2", "--workers-listen", LISTEN) == 0

    model, keys = operator.settings("model"), secrets(operator)
    assert model["COMPOSE_FILE"] == "compose.gpu.yml:compose.gpu.router.yml"
    assert (model["WORKERS_LISTEN"], model["TOTAL_SLOTS"]) == (LISTEN, "48")
    told = dict(pair.split("=", 1) for pair in model["WORKERS"].split(","))
    first = public_key_of(operator.text("model", "secrets/workers_private_key"))
    preshared = operator.text("model", "secrets/workers_preshared_key")
    for number in (1, 2):
        files = of_worker(operator, number)
        own = settings(files[".env"])
        assert told[own["TUNNEL_ADDRESS"]] == public_key_of(files["secrets/tunnel_private_key"])
        assert (own["TUNNEL_ENDPOINT"], own["TUNNEL_PEER_KEY"]) == (LISTEN, first)
        assert own["WEIGHTS"] == model["WEIGHTS"]
        assert files["secrets/tunnel_preshared_key"] == preshared != keys["tunnel_preshared_key"]


def test_worker_has_what_it_needs_and_no_more(operator: Operator) -> None:
    """Neither users nor the store, the link or the bot; all that its Compose file names."""
    operator.init_all("--workers", "1", "--workers-listen", LISTEN)

    files = of_worker(operator, 1)
    secret = {name for name in files if name.startswith("secrets/")}
    assert secret == {"secrets/tunnel_private_key", "secrets/tunnel_preshared_key"}
    kept = secrets(operator)
    for name in ("bot_token", "store_key", "link_token", "model_private_key", "relay_private_key"):
        assert kept[name] not in "".join(files.values())
    assert not {name for name in files if "gateway" in name or "relay/" in name}
    for name in (
        *("compose.gpu.worker.yml", "services/Dockerfile", "services/router/router"),
        *("services/engine/vllm.sh", "services/engine/digests.py", "wireguard/Dockerfile"),
        *("wireguard/resolv.conf", ".env.worker.example", "scripts/reconcile"),
    ):
        assert name in files
    assert "/etc/systemd/system/node@.service".lstrip("/") in files


def test_settings_of_engines_are_those_of_the_first_box(operator: Operator) -> None:
    """Unless workers are told otherwise; what is refused here would be refused there."""
    operator.init_all("--workers", "1", "--workers-listen", LISTEN)

    assert operator.init("--model", "CONTEXT_TOKENS=16384", "--model", "ENGINE_SLOTS=8",
                         "--worker", "GPU_COUNT=2") == 0  # fmt: skip

    own = settings(of_worker(operator, 1)[".env"])
    assert (own["CONTEXT_TOKENS"], own["ENGINE_SLOTS"], own["GPU_COUNT"]) == ("16384", "8", "2")
    model = operator.settings("model")
    assert model["TOTAL_SLOTS"] == "16"
    assert "GPU_COUNT" not in model
    assert operator.init("--worker", "GPU_COPIES=3") != 0
    assert operator.init("--worker", "SYSTEM_PROMPT=x") != 0
    assert operator.init("--model", "TOTAL_SLOTS=12") == 0
    assert operator.settings("model")["TOTAL_SLOTS"] == "12"


def test_nothing_changes_for_those_that_stay(operator: Operator) -> None:
    """Another worker leaves the others' bundles; one less takes its key and the shared one away."""
    operator.init_all("--workers", "1", "--workers-listen", LISTEN)
    before = (operator.out / "worker1.tar").read_bytes()

    operator.init("--workers", "2")
    assert (operator.out / "worker1.tar").read_bytes() == before
    key = secrets(operator)["worker2_private_key"]

    operator.init("--workers", "1")
    assert not (operator.out / "worker2.tar").exists()
    assert key not in (operator.out / "answers.json").read_text()
    assert (operator.out / "worker1.tar").read_bytes() != before, "the preshared key was shared"

    operator.init("--workers", "0")
    assert [path.name for path in operator.out.glob("worker*")] == []
    assert "COMPOSE_FILE" not in operator.settings("model") or (
        operator.settings("model")["COMPOSE_FILE"] == "compose.gpu.yml"
    )
    assert not any("worker" in name and value for name, value in secrets(operator).items())


def test_rotation_makes_all_keys_anew(operator: Operator) -> None:
    """Those of the tunnel to the workers as well; how many there are stays."""
    operator.init_all("--workers", "2", "--workers-listen", LISTEN)
    before = secrets(operator)

    assert operator.init("--rotate") == 0

    after = secrets(operator)
    names = {name for name in before if name.startswith("worker") and name != "workers"}
    assert len(names) == 4
    assert not [name for name in names if before[name] == after[name]]
    assert after["workers"] == before["workers"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workers", "2"], "--workers-listen: give"),
        (["--workers", "2", "--workers-listen", "home:1"], "--workers-listen: give"),
        (["--workers", str(MOST_WORKERS + 1), "--workers-listen", LISTEN], "--workers: give"),
        (["--workers", "many", "--workers-listen", LISTEN], "--workers: give"),
    ],
)
def test_bad_answers(
    operator: Operator, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, and nothing is written."""
    assert operator.init_all(*arguments) != 0

    assert capsys.readouterr().err.startswith(says)
    assert not operator.out.exists()


def test_last_words_name_the_box(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    """Each archive's way is its own, by hand and by `deploy`."""
    operator.init_all()
    capsys.readouterr()

    operator.init("--workers", "1", "--workers-listen", LISTEN)

    said = capsys.readouterr().out
    assert "on worker 1:\n  tar -xpf worker1.tar -C / && cd /opt/worker && docker compose" in said
    assert "`deploy model HOST` and `deploy worker1 HOST` do so over SSH." in said
    kept = json.loads((operator.out / "answers.json").read_text())
    assert kept["secrets"]["workers"] == f"1 {LISTEN}"
