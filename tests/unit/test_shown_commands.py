"""Every command that the documents show is understood by its program, and run by a test or named.

`init`, `rotate` and `deploy` are run here as they are shown. Of the others RUN_BY names the test
that runs them, and what stands in its file when it does; NOT_RUN those that no test runs, and why:
other programs' commands, and scripts that need what a test does not have.
A command that is in neither fails. Left out are the tables of docs/doctor.md, which are made of
remedies with gaps to fill in; the project's own commands in them are looked at all the same.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import bench, demo
from scripts import test as stages
from scripts.commands import _manual, available, load
from scripts.commands.__main__ import Parser, main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "README.ru.md", "SECURITY.md", "CONTRIBUTING.md", "docs/*.md")

OWN = re.compile(r"(?:/opt/\w+/|\./)?scripts/(adyton|node-admin|demo|test|bench)(?:\s|$)")
BARE = re.compile(rf"(?:{'|'.join(available())}) [a-z-]")
OTHERS = re.compile(
    r"(docker|systemctl|journalctl|gpg|ssh|ssh-keygen|sha256sum|tar|uv|python3?|rm|apt-get|torsocks"
    r"|nft|wg-quick) \S"
)

RUN_BY = {
    r"backup$": ("unit/adyton/test_backup_and_restore.py::test_backup_holds_all_and_shows_nothing",
                 '"backup"'),
    r"backup --dry-run": (
        "unit/adyton/test_backup_and_restore.py::test_dry_run_of_backup_writes_nothing",
        '"--dry-run"'),
    r"backup --out -": ("unit/adyton/test_backup_and_restore.py::test_backup_that_is_piped_on",
                        '"--out", "-"'),
    r"backup --stop": ("unit/adyton/test_backup_and_restore.py::test_final_backup_stops_the_keeper",
                       '"--stop"'),
    r"backup verify": (
        "unit/adyton/test_backup_and_restore.py::test_backup_holds_all_and_shows_nothing",
        '"verify"'),
    r"doctor( --json| --node relay.*)?$": (
        "integration/doctor/test_doctor.py::", '"doctor"'),
    r"harden( --dry-run| --ssh-from \S+)?$": (
        "unit/hardening/test_harden.py::test_no_change_before_a_yes", '"--dry-run"'),
    r"harden confirm": ("hardening/test_hardening.py::test_confirmed_run_stays", "} confirm"),
    r"harden rollback": (
        "unit/hardening/test_harden.py::test_rollback_of_a_second_run_keeps_the_first",
        "rollback.take_back"),
    r"harden --undo": ("hardening/test_hardening.py::", "--undo"),
    r"harden maintenance": (
        "unit/hardening/test_harden.py::test_window_opens_for_a_while_and_leaves_no_trace",
        '"maintenance"'),
    r"help": ("unit/adyton/test_command.py::"
              "test_manual_has_every_section_and_is_what_help_shows", '"help"'),
    r"keys( --dry-run| --renew)?$": ("unit/adyton/test_init.py::", '"--renew"'),
    r"lock( --dry-run)?$": (
        "integration/test_locked_store.py::test_store_opens_by_its_passphrase_alone", '"lock"'),
    r"(ssh -t .* )?(/\S+/scripts/node-admin )?unlock( --passphrase-file \S+)?$": (
        "integration/test_locked_store.py::test_store_opens_by_its_passphrase_alone", '"unlock"'),
    r"unlock --unattended": (
        "integration/test_locked_store.py::test_store_opens_by_its_passphrase_alone",
        '"--unattended"'),
    r"unlock --change": ("unit/adyton/test_unlock.py::test_passphrase_is_changed", '"--change"'),
    r"logs seal": ("unit/adyton/test_logs.py::test_setting_up_twice_and_taking_back", '"--undo"'),
    r"logs once": ("unit/adyton/test_logs.py::test_each_entry_is_sealed_once", '"once"'),
    r"logs ship": ("unit/adyton/test_logs.py::test_shipped_archive_opens", '"ship"'),
    r"logs open": ("unit/adyton/test_logs.py::test_filters", '"--grep'),
    r"model fetch": ("unit/adyton/test_model_commands.py::test_fetch_by_the_command", '"fetch"'),
    r"model list": ("unit/adyton/test_model_commands.py::test_list_shows_what_is_there", '"list"'),
    r"model verify": (
        "unit/adyton/test_model_commands.py::test_verify_finds_what_has_changed", '"--record"'),
    r"model use": (
        "unit/adyton/test_model_commands.py::test_use_restarts_the_engine_when_told", '"--apply"'),
    r"model fits": (
        "unit/adyton/test_model_commands.py::test_fits_takes_the_nodes_settings_and_the_gpu",
        '"fits"'),
    r"prove( --seconds.*| --control.*)?$": ("integration/doctor/test_prove.py::", '"prove"'),
    r"prove verify": ("integration/doctor/test_prove.py::", '"--signers"'),
    r"release( --out.*)?$": ("unit/adyton/test_release.py::test_release_is_whole", '"--key"'),
    r"release verify": ("unit/adyton/test_release.py::test_damage_is_found", '"--signers"'),
    r"restore( FILE| -| \S+ --(dry-run|replace)| \S+\.gpg)$": (
        "unit/adyton/test_backup_and_restore.py::test_restore_onto_an_empty_node", '"restore"'),
    r"restore .*--settings": (
        "unit/adyton/test_backup_and_restore.py::"
        "test_settings_in_place_are_kept_unless_told_otherwise", '"--settings"'),
    r"revoke( --dry-run)?$": ("unit/adyton/test_revoke.py::test_vps_is_cut_off", '"revoke"'),
    r"status( --once| --json| --interval \S+)?$": (
        "unit/adyton/test_status_live.py::test_for_machines", "--json"),
    r"uninstall( --dry-run| --keep-store)?$": (
        "unit/adyton/test_uninstall.py::test_nothing_is_left", '"--keep-store"'),
    r"upgrade( \S+)?( --build| --dry-run)?$": (
        "unit/adyton/test_upgrade.py::test_upgrade_to_a_bundle", '"--build"'),
    r"demo( --ask.*| --engine.*)?$": ("stack/test_demo.py::", "--ask"),
    r"demo down": ("stack/test_demo.py::", "down"),
    r"docker compose .*exec gateway python3 -m services.gateway.usage": (
        "integration/test_backup.py::", "services.gateway.usage"),
    r"docker compose up -d( --force-recreate)?$": (
        "integration/deploy/test_deploy.py::", "force-recreate"),
    r"docker compose logs|docker save|docker load": (
        "integration/deploy/test_deploy.py::test_bundle_images_and_units_arrive", '"load"'),
    r"docker compose stop uplink": ("leaks/test_recovery.py::", "stop"),
    r"gpg --(quick-gen-key|armor)": ("unit/adyton/test_logs.py::", "--quick-gen"),
    r"gpg --decrypt|ssh root@NODE": (
        "unit/adyton/test_backup_and_restore.py::test_backup_for_the_owner_of_a_key", "gpg"),
    r"sha256sum --check": ("unit/adyton/test_release.py::", "sha256sum"),
    r"ssh-keygen -Y verify": ("unit/adyton/test_release.py::", "ssh-keygen"),
    r"ssh -o ProxyCommand": ("integration/deploy/test_deploy.py::", "ProxyCommand"),
    r"systemctl (daemon-reload|enable --now)": (
        "integration/deploy/test_deploy.py::", "daemon-reload"),
    r"tar -xpf": ("unit/adyton/test_init.py::", '"-xpf"'),
    r"python3? -m scripts.document": ("unit/adyton/test_documented.py::"
                                      "test_page_is_what_the_checks_say", "document()"),
    r"python -m tests.leaks.golden": ("leaks/test_inspect.py::", "tests.leaks.golden"),
}  # fmt: skip
"""What runs a command: a test, or its whole file (nothing after `::`), and what stands there."""

NOT_RUN = {
    r"bench( |$)": "a quarter of an hour on a quiet machine; its parts have tests in unit/bench",
    r"demo .*--token-file": "needs a token of the real Telegram",
    r"test( |$)": "it is what runs the tests; that its stages exist is seen below",
    r"apt-get install": "Debian's own; the stages install the same packages",
    r"docker compose (.* )?build( router)?$": "scripts/setup.py builds the same images",
    r"docker compose exec uplink status": "the tests call `status` by docker exec",
    r"docker compose up -d --remove-orphans": "Compose's own; takes away what a hop has left",
    r"docker compose config": "what doctor asks by itself",
    r"docker volume inspect": "Docker's own; it only shows where a volume lies",
    r"docker volume create": "Docker's own; `model fetch` makes the volume in the tests",
    r"ssh root@198": "OpenSSH's own; the tests bring images by `deploy`",
    r"journalctl": "systemd's own; it only shows",
    r"systemctl": "systemd's own; no real systemd keeps a node in the tests",
    r"nft flush": "what nobody is to do; tests/vm shows what comes of it",
    r"rm -r /var/log/journal": "the operator's choice, on a host of their own",
    r"torsocks ssh": "Tor's own; nothing of ours takes part",
    r"uv pip compile": "needs a package index; a change of the locks is read by hand",
}


def shown() -> dict[str, str]:
    """Each command, and the document that shows it first."""
    found: dict[str, str] = {}
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            if path.name != "commands.md":  # made of the commands' own examples: below
                for text in spans(path):
                    for command in commands_in(text):
                        found.setdefault(command, path.name)
    return found


def spans(path: Path) -> Iterator[str]:
    """What stands between backticks, and the lines of code blocks."""
    is_fenced = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            yield line.strip().removeprefix("# ")
        else:
            for span in re.findall(r"`([^`]+)`", line):
                is_remedy = path.name == "doctor.md" and line.startswith("| ")
                if not is_remedy or OWN.match(span) or BARE.match(span):
                    yield span


def commands_in(text: str) -> Iterator[str]:
    """One for each program of a pipe, without comments and redirections."""
    text = re.sub(r"\s+#.*", "", text)
    for part in text.split(" | "):
        command = re.sub(r"\s*>\s*\S+$", "", part).strip().rstrip(".")
        is_command = OWN.match(command) or BARE.match(command) or OTHERS.match(command)
        if is_command and plain(command):  # not the mere name of the program
            yield command


def plain(command: str) -> str:
    """`doctor --json`, however its program is called; other programs as they are."""
    return re.sub(r"^(\./)?scripts/((adyton|node-admin) ?)?", "", command)


def parser_of(name: str) -> Parser:
    parser = Parser(prog=name)
    load(name).add_arguments(parser)
    return parser


ALL = sorted(shown())
OWN_COMMANDS = [it for it in ALL if plain(it).split(" ")[0] in available()]
RUN_HERE = [it for it in OWN_COMMANDS if re.match(r"(init|rotate|deploy)( |$)", plain(it))]


def test_commands_are_found() -> None:
    """The control: they are many, of all kinds, and in both languages."""
    assert len(ALL) > 100
    assert len(OWN_COMMANDS) > 60
    assert len(RUN_HERE) > 20
    assert {"README.md", "README.ru.md", "CONTRIBUTING.md", "operations.md", "doctor.md"} <= set(
        shown().values()
    )


@pytest.mark.parametrize("command", [*OWN_COMMANDS])
def test_own_commands_are_understood(command: str) -> None:
    """By their real parsers; one that is only named has to have what it names."""
    name, *words = shlex.split(plain(command))

    check_understood(parser_of(name), words)


def check_understood(parser: argparse.ArgumentParser, words: list[str]) -> None:
    actions = _manual.actions_of(parser)
    if is_mention(words, actions):
        inner = actions.get(words[0], parser) if words else parser
        known = {text for it in (*parser._actions, *inner._actions) for text in it.option_strings}
        assert {word for word in words if word.startswith("-")} <= known
    else:
        parser.parse_args([word for word in words if word not in ("…", "...")])


def is_mention(words: list[str], actions: dict[str, argparse.ArgumentParser]) -> bool:
    """Such as `logs seal`: names without a value, which the text around it is about."""
    return all(word in actions or word.startswith("--") for word in words)


@pytest.mark.parametrize("name", available())
def test_examples_of_the_manual_are_understood(name: str) -> None:
    """Each line of them, up to what is said of it."""
    parser = parser_of(name)
    lines = "\n".join(_manual.examples(parser)).splitlines()
    calls = [line.strip() for line in lines if re.match(rf"\s*{name}( |$)", line)]

    assert calls
    for call in calls:
        words = shlex.split(re.split(r"\s{2,}|\s+#", call)[0])[1:]
        check_understood(parser, words)


@pytest.mark.parametrize("command", ALL)
def test_every_command_is_run_by_a_test(command: str) -> None:
    """Here, or by the test that is named, which exists and does what it is named for."""
    if command in RUN_HERE:
        return
    entries = [it for pattern, it in RUN_BY.items() if re.match(pattern, plain(command))]
    reasons = [it for pattern, it in NOT_RUN.items() if re.match(pattern, plain(command))]

    assert entries or reasons, f"{shown()[command]} shows it, and no test runs it: {command}"
    texts = ""
    for test, evidence in entries:
        file, _, function = test.partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert evidence in text, f"{test} does not have {evidence}"
        assert f"def {function or 'test_'}" in text, test
        texts += text
    if command in OWN_COMMANDS:
        assert [it for it in re.findall(r"--[a-z][a-z-]*", command) if it not in texts] == []


def test_no_entry_is_left_over() -> None:
    """Each is of some command that the documents or the manual show."""
    known = [plain(it) for it in ALL]

    assert [
        pattern for pattern in (*RUN_BY, *NOT_RUN) if not any(re.match(pattern, it) for it in known)
    ] == []


@pytest.mark.parametrize(
    "command", [it for it in ALL if re.match(r"(\./)?scripts/(test|demo|bench)\b", it)]
)
def test_scripts_are_called_as_they_can_be(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their own parsers; what a stage runs is there."""
    words = shlex.split(re.sub("ID$|НОМЕР$|\\w*TELEGRAM_ID", "1", command))
    monkeypatch.setattr("sys.argv", words)

    match words[0].rpartition("/")[2]:
        case "demo":
            demo.parse_arguments()
        case "bench":
            bench._parse()
        case _:
            chosen, _ = stages.parse_arguments()
            for path in (path for stage in chosen for path in stage.paths):
                assert (ROOT / path.partition("::")[0]).exists()


KEY = "W" * 42 + "8="


def stand_in(word: str) -> str:
    """Something that fits where a document leaves a gap."""
    if word.startswith("PUBLIC_KEY_"):
        return KEY
    other = {"HOST": "198.18.5.7", "ADDRESS": "198.18.5.7", "ФАЙЛ": "FILE", "NEW_TOKEN": "token"}
    return other.get(word, word)


RUN_HERE_ONCE = sorted(
    {
        shlex.join(
            stand_in(word) for word in shlex.split(plain(it).replace("-file FILE", "-file token"))
        )
        for it in RUN_HERE
    }
)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything lies that the shown commands name."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "token").write_text("123456789:" + "A" * 35, encoding="ascii")
    (folder / "FILE").write_text(HOP, encoding="ascii")
    (folder / "own.yml").write_text("services: {}\n", encoding="ascii")
    (folder / "services").symlink_to(ROOT / "services")
    first = ["--vps", "198.18.5.7", "--users", "11", "--weights", "Qwen3-8B"]
    token = ["--token-file", str(folder / "token")]
    workers = ["--workers", "2", "--workers-listen", "192.0.2.10:51821"]
    assert main(["init", "--out", str(folder / "nodes"), *first, *token, *workers]) == 0
    for node, out in (("model", "home"), ("relay", "vps")):
        words = [*first[: 6 if node == "model" else 4], *(token if node == "relay" else [])]
        shared = ["--shared", str(folder / "home/shared.json")] if node == "relay" else []
        assert main(["init", "--node", node, "--out", str(folder / out), *words, *shared]) == 0
    shutil.copy(folder / "home/shared.json", folder / "shared.json")
    return folder


HOP = f"""\
[Interface]
PrivateKey = {KEY}
Address = 198.18.9.2/32
[Peer]
PublicKey = {KEY}
Endpoint = 198.18.8.8:51820
AllowedIPs = 0.0.0.0/0
"""


@pytest.mark.parametrize("command", RUN_HERE_ONCE)
def test_bundles_are_made_as_it_is_shown(
    command: str, nodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For real, in a folder of the test's own; of `deploy` the steps."""
    folder = tmp_path / "here"
    shutil.copytree(nodes, folder, symlinks=True)
    monkeypatch.chdir(folder)
    words = shlex.split(command)
    if words == ["init"]:  # asks on a terminal; here everything was answered before
        words.append("--dry-run")
    if words[0] == "deploy":
        words.append("--dry-run")
    if "--out" not in words:
        words += ["--out", "nodes"]
    if "--vps" in words and "--users" in words:  # the first call, where nothing is yet
        shutil.rmtree(folder / words[words.index("--out") + 1])

    assert main(words) == 0
