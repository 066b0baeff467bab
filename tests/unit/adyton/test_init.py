"""`init` makes two bundles out of a few answers, and changes what is asked for and nothing else."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scripts.commands import init
from scripts.commands.__main__ import main
from scripts.keys import make_private_key, public_key_of
from services.gateway.settings import GatewaySettings
from services.relay.marks import MarkedUsers
from services.relay.settings import RelaySettings
from services.settings import read_settings

TOKEN = "123456789:" + "A" * 35
ANSWERS = ["--vps", "198.18.5.7", "--users", "11,22", "--admins", "11", "--weights", "Qwen3-8B"]


class Operator:
    """Somebody who calls `init` without a terminal."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "nodes"
        self.token_file = folder / "token"
        self.token_file.write_text(TOKEN + "\n", encoding="utf-8")

    def init(self, *arguments: str) -> int:
        return main(["init", "--out", str(self.out), *arguments])

    def init_all(self, *arguments: str) -> int:
        return self.init(*ANSWERS, "--token-file", str(self.token_file), *arguments)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.out.iterdir()}

    def bundle(self, node: str) -> dict[str, tarfile.TarInfo]:
        with tarfile.open(self.out / f"{node}.tar") as archive:
            return {entry.name: entry for entry in archive}

    def text(self, node: str, name: str) -> str:
        with tarfile.open(self.out / f"{node}.tar") as archive:
            file = archive.extractfile(f"opt/{node}/{name}")
            assert file
            return file.read().decode()

    def settings(self, node: str) -> dict[str, str]:
        lines = self.text(node, ".env").splitlines()
        return dict(line.split("=", 1) for line in lines if re.match("[A-Z]", line))


def secrets(operator: Operator) -> dict[str, str]:
    """What was made, by its name."""
    made: dict[str, str] = json.loads((operator.out / "answers.json").read_text())["secrets"]
    return made


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def test_bundles_fit_each_other(operator: Operator) -> None:
    """Each end knows the other's public key; what both must know is the same on both."""
    assert operator.init_all() == 0

    relay, model = operator.settings("relay"), operator.settings("model")
    for one, other in (("relay", model), ("model", relay)):
        private = operator.text(one, "secrets/tunnel_private_key")
        assert other["TUNNEL_PEER_KEY"] == public_key_of(private)
    for name in ("tunnel_preshared_key", "link_token"):
        assert operator.text("relay", f"secrets/{name}") == operator.text(
            "model", f"secrets/{name}"
        )
    assert (model["ALLOWED_USERS"], model["ADMINS"]) == ("11,22", "11")
    assert (relay["TUNNEL_PORT"], model["TUNNEL_ENDPOINT"]) == ("51820", "198.18.5.7:51820")
    assert operator.text("relay", "secrets/bot_token") == TOKEN


def test_users_are_not_named_on_the_vps(operator: Operator, tmp_path: Path) -> None:
    """Its bundle holds marks of them, which its relay reads, and which a new link token changes."""
    relay = {"LINK_ADDRESS": "10.66.0.2"}
    marks = []
    for arguments in ((), ("--rotate",)):
        assert (operator.init(*arguments) if arguments else operator.init_all()) == 0
        marks.append(operator.settings("relay")["ALLOWED_USERS"])
        token = operator.text("relay", "secrets/link_token")
        (tmp_path / "bot_token").write_text(TOKEN, encoding="utf-8")
        (tmp_path / "link_token").write_text(token, encoding="utf-8")

        settings = read_settings(RelaySettings, relay | {"ALLOWED_USERS": marks[-1]}, tmp_path)
        users = MarkedUsers(settings.allowed_users, settings.link_token)

        assert [user in users for user in (11, 22, 33)] == [True, True, False]
        assert not {"11", "22"} & set(re.findall(r"[^,=\s]+", operator.text("relay", ".env")))
    assert not set(marks[0].split(",")) & set(marks[1].split(","))


def test_key_is_what_wireguard_makes_of_it() -> None:
    """The test vector of RFC 7748, section 6.1; and a private key is clamped."""
    private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="
    assert public_key_of(private) == "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="

    assert make_private_key() != make_private_key()


def test_services_take_what_was_made(operator: Operator, tmp_path: Path) -> None:
    """Their own checks find nothing wrong with settings and secrets."""
    operator.init_all("--relay", "BOT_NAME=Helper", "--model", "ANSWER_TOKENS=512")
    cases: list[tuple[str, Any, dict[str, str]]] = [
        ("relay", RelaySettings, {"LINK_ADDRESS": "10.66.0.2"}),
        ("model", GatewaySettings, {"LISTEN_ADDRESS": "10.66.0.2"}),
    ]
    for node, kind, fixed in cases:
        folder = tmp_path / node
        folder.mkdir()
        for name in operator.bundle(node):
            if "/secrets/" in name:
                secret = Path(name).name
                (folder / secret).write_text(operator.text(node, f"secrets/{secret}"))
        read_settings(kind, operator.settings(node) | fixed, folder)


def test_secrets_belong_to_who_reads_them(operator: Operator) -> None:
    """Root's, but for those of the services' own users; nobody else reads any, nor the answers."""
    operator.init_all()
    for node, owners in (
        ("relay", {"bot_token": 10001, "link_token": 10001}),
        ("model", {"link_token": 10003, "store_key": 10003}),
    ):
        entries = operator.bundle(node)
        secrets = {Path(n).name: e for n, e in entries.items() if "/secrets/" in n}
        assert len(secrets) == 4
        assert {entry.mode for entry in secrets.values()} == {0o400}
        assert {n: e.uid for n, e in secrets.items()} == {n: owners.get(n, 0) for n in secrets}
        assert entries[f"opt/{node}/.env"].mode == 0o600
        assert entries[f"opt/{node}/secrets"].mode == 0o700
    assert operator.out.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in operator.out.iterdir()} == {0o600}


def test_bundle_holds_no_secret_of_the_other_node(operator: Operator) -> None:
    """A lost VPS opens neither the store nor the tunnel's other end."""
    operator.init_all()
    kept = json.loads((operator.out / "answers.json").read_text())["secrets"]
    files = operator.files()

    for secret in ("model_private_key", "store_key"):
        assert kept[secret].encode() not in files["relay.tar"]
    for secret in ("relay_private_key", "bot_token"):
        assert kept[secret].encode() not in files["model.tar"]
    assert TOKEN.encode() not in files["model.tar"]


def test_again_changes_nothing(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    """With the same answers, or with none."""
    operator.init_all("--relay", "LOG_LEVEL=DEBUG")
    before = operator.files()
    capsys.readouterr()

    assert operator.init_all() == 0
    assert operator.init() == 0

    assert operator.files() == before
    assert "nothing was changed" in capsys.readouterr().out
    assert operator.settings("relay")["LOG_LEVEL"] == "DEBUG"


def test_one_answer_changes_one_thing(operator: Operator) -> None:
    """Another user: the lists of users, and no key."""
    operator.init_all()
    before = {node: operator.settings(node) for node in ("relay", "model")}
    secrets = operator.text("model", "secrets/store_key")

    operator.init("--users", "11,22,33")

    assert operator.settings("model") == before["model"] | {"ALLOWED_USERS": "11,22,33"}
    users = operator.settings("relay")["ALLOWED_USERS"]
    assert users.startswith(before["relay"]["ALLOWED_USERS"] + ",")
    assert operator.settings("relay") == before["relay"] | {"ALLOWED_USERS": users}
    assert operator.text("model", "secrets/store_key") == secrets


def test_rotation_renews_all_but_the_stores_key(operator: Operator) -> None:
    """Both ends get new keys that fit each other; what is stored can still be opened."""
    operator.init_all()
    names = ("tunnel_private_key", "tunnel_preshared_key", "link_token", "store_key")
    before = {name: operator.text("model", f"secrets/{name}") for name in names}

    assert operator.init("--rotate") == 0

    after = {name: operator.text("model", f"secrets/{name}") for name in names}
    assert {name for name in names if after[name] == before[name]} == {"store_key"}
    public = public_key_of(after["tunnel_private_key"])
    assert operator.settings("relay")["TUNNEL_PEER_KEY"] == public
    assert operator.text("relay", "secrets/bot_token") == TOKEN


def test_rotate_is_a_word_of_its_own(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same as `init --rotate`; where nothing was made, nothing is to be renewed."""
    rotate = ["rotate", "--out", str(operator.out)]
    assert main(rotate) == 1
    assert "nothing to renew" in capsys.readouterr().err
    assert not operator.out.exists()
    operator.init_all()
    before, settings = secrets(operator), operator.settings("model")
    assert main([*rotate, "--dry-run"]) == 0
    assert secrets(operator) == before
    other = operator.out.parent / "other"
    other.write_text(TOKEN.replace("A", "B"))

    assert main([*rotate, "--token-file", str(other)]) == 0

    after = secrets(operator)
    assert {name for name in before if before[name] == after[name]} == {"store_key"}
    assert operator.settings("model") | {"TUNNEL_PEER_KEY": ""} == settings | {
        "TUNNEL_PEER_KEY": ""
    }
    assert operator.text("relay", "secrets/link_token") == after["link_token"]


def test_two_calls_at_once_make_no_two_sets_of_keys(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one is refused while the first is at work, and leaves no lock behind."""
    with init.held(operator.out, dry_run=False):
        assert operator.init_all() == 1
        assert "another call is changing" in capsys.readouterr().err
        assert list(operator.out.iterdir()) == []

    assert operator.init_all() == 0


def test_setting_can_be_given_and_taken_back(operator: Operator) -> None:
    """By its name in the example; empty means as there."""
    operator.init_all("--model", "HISTORY_DAYS=30")
    assert operator.settings("model")["HISTORY_DAYS"] == "30"

    operator.init("--model", "HISTORY_DAYS=")

    assert "HISTORY_DAYS" not in operator.settings("model")


def test_compose_file_of_ones_own_is_kept(operator: Operator, tmp_path: Path) -> None:
    """On top of all others, though the file is gone by the next call; until it is taken back."""
    for name in ("one.yml", "two.yaml"):
        (tmp_path / name).write_text(f"services: {{ gateway: {{ labels: [{name}] }} }}\n")
    operator.init_all("--compose", f"model={tmp_path}/one.yml")
    (tmp_path / "one.yml").unlink()

    assert operator.init("--logs", "journal", "--compose", f"model={tmp_path}/two.yaml") == 0

    files = operator.settings("model")["COMPOSE_FILE"].split(":")
    assert files[0] == "compose.gpu.yml"
    assert "compose.gpu.journal.yml" in files[1:-2]
    assert files[-2:] == ["compose/one.yml", "compose/two.yaml"]
    assert "labels: [one.yml]" in operator.text("model", "compose/one.yml")
    assert "compose/" not in operator.settings("relay")["COMPOSE_FILE"]

    operator.init("--compose", "model=")

    assert "compose/" not in operator.settings("model")["COMPOSE_FILE"]
    assert not [name for name in operator.bundle("model") if "/compose/" in name]


def test_dry_run_writes_nothing(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what it would write."""
    assert operator.init_all("--dry-run") == 0

    assert "Would write" in capsys.readouterr().out
    assert not operator.out.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--vps", "vps.example.org"], "--vps: give the VPS's IPv4 address"),
        (["--vps", "0.0.0.0"], "--vps: give the address at which the VPS is reached"),
        (["--vps", "250.1.1.1"], "--vps: give the address at which the VPS is reached"),
        (["--vps", "198.18.5.7:0"], "--vps: give a port"),
        (["--resolver", "0.0.0.0"], "--resolver: give the IPv4 address of a name server"),
        (["--relay", "BOT_NAME=it's"], "--relay: a value must be one line"),
        (["--relay", "BOT_NAME=a\rALLOWED_USERS=6"], "--relay: a value must be one line"),
        (["--model", "LINK_PORT=9000"], "--model LINK_PORT: give it with --both"),
        (["--both", "LINK_PORT=0"], "--both LINK_PORT=0: give a port between 1 and 65535"),
        (["--both", "TUNNEL_MTU=9"], "--both TUNNEL_MTU=9: give a number of bytes between"),
        (["--both", "BOT_NAME=x"], "--both BOT_NAME: give it with --relay or --model"),
        (["--model", "SUMMARIES=maybe"], "--model SUMMARIES=maybe: give on or off"),
        (["--model", "PICTURES=9"], "--model PICTURES=9: give at most 3 with CONTEXT_TOKENS 8192"),
        (
            ["--model", "CONTEXT_TOKENS=256"],
            "--model ANSWER_TOKENS=1024: give at most half of CONTEXT_TOKENS, which is 256",
        ),
        (["--relay", "TELEGRAM_HOST=bots.example.org"], "--relay TELEGRAM_HOST=bots.example.org: "),
        (["--resolver", "127.0.0.1"], "--resolver: give the IPv4 address of a name server"),
        (["--proxy", "localhost:9050"], "--proxy: give the SOCKS5 proxy's address and port"),
        (["--peer-key", "x"], "--peer-key and --shared are for one node alone"),
        (["--node", "relay", "--peer-key", "x"], "--peer-key: give a public key, 44 characters"),
        (["--node", "relay", "--shared", "no/file"], "--shared no/file: give the shared.json"),
        (["--model", "ENV_FILE=/x"], "--model ENV_FILE: change that in .env on the nodes"),
        (["--users", "me"], "--users: give Telegram user ids"),
        (["--users", ""], "--users: give Telegram user ids"),
        (["--admins", "33"], "--admins 33: not all of them are among --users 11,22"),
        (["--weights", "../x"], "--weights: give the name of the model's folder"),
        (["--resolver", "dns"], "--resolver: give the IPv4 address of a name server"),
        (["--relay", "NO_SUCH=1"], "--relay NO_SUCH: .env.vps.example does not know it"),
        (["--relay", "loud"], "a setting is given as NAME=VALUE"),
        (["--model", "ADMINS=1"], "--model ADMINS: there is a question for that"),
        (["--compose", "own.yml"], "--compose own.yml: give it as NODE=FILE"),
        (["--compose", "model=a:b.yml"], "--compose model=a:b.yml: give a file whose name is like"),
        (["--compose", "relay=no/file.yml"], "--compose relay=no/file.yml: "),
    ],
)
def test_bad_answer_has_its_sentence(
    operator: Operator,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    """And nothing is written."""
    assert operator.init_all(*arguments) == 1

    assert capsys.readouterr().err.startswith(sentence)
    assert not operator.out.exists()


def test_what_is_missing_is_named(
    operator: Operator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody can be asked; the token is never shown."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert operator.init() == 1
    assert "--vps is missing" in capsys.readouterr().err
    assert operator.init(*ANSWERS) == 1
    assert "--token-file is missing" in capsys.readouterr().err
    assert operator.init(*ANSWERS, "--token-file", "../no/token") == 1
    assert "--token-file ../no/token: " in capsys.readouterr().err
    operator.token_file.write_text("not a token")
    assert operator.init_all() == 1
    said = capsys.readouterr()
    assert "give the token as BotFather gave it to you" in said.err
    assert "not a token" not in said.err + said.out


def test_answers_are_asked_for_on_a_terminal(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad one is asked for again; what has a default needs none."""
    said = iter(["nowhere", "198.18.5.7:4000", "11", "", "", "Qwen3-8B", ""])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: next(said))
    monkeypatch.setattr("getpass.getpass", lambda _question: TOKEN)

    assert operator.init() == 0

    assert operator.settings("model")["TUNNEL_ENDPOINT"] == "198.18.5.7:4000"
    assert operator.settings("relay")["RESOLVER"] == "9.9.9.9"
    assert TOKEN not in capsys.readouterr().out


@pytest.mark.parametrize(
    "damaged",
    [
        *("{", "null", "[1]", "{}", '{"secrets": {}, "relay": {}, "model": {}}', None),
        '{"secrets": {}, "relay": {}, "model": {}, "node": ["relay"]}',
    ],
)
def test_lost_answers_make_no_new_keys(
    operator: Operator, capsys: pytest.CaptureFixture[str], damaged: str | None
) -> None:
    """New keys would not open the old store: the archives and the file are left alone."""
    operator.init_all()
    file = operator.out / "answers.json"
    file.unlink() if damaged is None else file.write_text(damaged)
    before = operator.files()

    assert operator.init_all() == 1

    said = capsys.readouterr().err
    assert ("is damaged" if damaged else "is gone") in said
    assert operator.files() == before


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("Helper", "Helper"),
        ('It costs $5 # cheap "x"', "'It costs $5 # cheap \"x\"'"),
        ("два слова", "'два слова'"),
    ],
)
def test_odd_value_is_written_as_compose_reads_it(
    operator: Operator, value: str, written: str
) -> None:
    """In single quotes nothing is interpolated and nothing is a comment."""
    operator.init_all("--relay", f"BOT_ABOUT={value}")

    assert f"\nBOT_ABOUT={written}\n" in operator.text("relay", ".env")


@pytest.mark.parametrize("node", ["relay", "model"])
def test_bundle_has_every_file_that_compose_mounts(operator: Operator, node: str) -> None:
    """Docker would make a directory of what is missing."""
    operator.init_all()
    files = [n for n in operator.bundle(node) if Path(n).name.startswith("compose.")]

    text = "".join(operator.text(node, Path(file).name) for file in files)
    sources = re.findall(r'source: "?\.?/?([\w./-]+[\w])"?, target', text)
    sources += re.findall(r'"\./([\w./-]+):/', text)

    names = {name.removeprefix(f"opt/{node}/") for name in operator.bundle(node)}
    assert sources, "control"
    assert {source for source in sources if not source.startswith("/")} <= names


def test_unpacking_leaves_what_was_there(operator: Operator, tmp_path: Path) -> None:
    """/opt/relay may be a symbolic link; what stands above is not touched."""
    operator.init_all()
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "opt").mkdir(parents=True)
    (root / "opt").chmod(0o711)
    elsewhere.mkdir()
    (root / "opt/relay").symlink_to(elsewhere)
    command = ["tar", "-xpf", str(operator.out / "relay.tar"), "-C", str(root), "--no-same-owner"]

    subprocess.run(command, check=True, umask=0o077)

    assert (root / "opt").stat().st_mode & 0o777 == 0o711
    assert (elsewhere / "compose.vps.yml").exists()
    assert (elsewhere / "scripts/node").stat().st_mode & 0o777 == 0o755


def test_both_nodes_get_what_must_fit(operator: Operator) -> None:
    """The link's port and the packet size are one setting, and can be taken back."""
    operator.init_all("--both", "LINK_PORT=9000", "--both", "TUNNEL_MTU=1380")
    for node in ("relay", "model"):
        settings = operator.settings(node)
        assert (settings["LINK_PORT"], settings["TUNNEL_MTU"]) == ("9000", "1380")

    operator.init("--both", "LINK_PORT=")

    assert "LINK_PORT" not in operator.settings("relay")
    assert operator.settings("model")["TUNNEL_MTU"] == "1380"


def test_closing_words_are_about_what_was_done(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first time all of it; later what is left to do for this change alone."""

    def said(*arguments: str) -> str:
        assert operator.init(*arguments) == 0
        return capsys.readouterr().out

    operator.init_all()
    first = capsys.readouterr().out
    assert "docker save node/wireguard:0.1.0 node/egress:0.1.0 node/relay:0.1.0 |" in first
    assert "answers.json holds" in first
    assert "no photograph" in first

    setting = said("--model", "HISTORY_DAYS=30")
    assert "tar -xpf model.tar -C / && cd /opt/model && docker compose up -d\n" in setting
    for other in ("relay.tar", "docker save", "photograph", "--force-recreate"):
        assert other not in setting

    token = operator.token_file
    token.write_text("987654321:" + "B" * 35)
    renewed = said("--token-file", str(token))
    assert "cd /opt/relay && docker compose up -d --force-recreate" in renewed
    assert "model.tar" not in renewed

    rotated = said("--rotate")
    assert rotated.index("model.tar -C") < rotated.index("relay.tar -C")
    assert rotated.count("--force-recreate") == 2
    assert "First at home" in rotated
    assert "photograph" not in rotated

    assert "nothing is to be carried" in said("--proxy", "127.0.0.1:9050")


class Alone(Operator):
    """Who makes the bundle of one node, in a folder of its own."""

    def __init__(self, folder: Path, node: str) -> None:
        super().__init__(folder)
        self.out = folder / node
        self.node = node

    def init_node(self, *arguments: str) -> int:
        answers = ["--vps", "198.18.5.7", "--users", "11,22"]
        if self.node == "model":
            answers += ["--weights", "Qwen3-8B"]
        else:
            answers += ["--token-file", str(self.token_file)]
        return self.init("--node", self.node, *answers, *arguments)

    def unpack(self, root: Path) -> Path:
        """As root on the node; the files are this user's here."""
        root.mkdir(exist_ok=True)
        command = ["tar", "-xpf", str(self.out / f"{self.node}.tar"), "-C", str(root)]
        subprocess.run([*command, "--no-same-owner"], check=True)
        return root / "opt" / self.node


def keys(home: Path, *arguments: str) -> str:
    """Call `node-admin keys` in an unpacked bundle."""
    # Whose the store's key is, only root can say.
    source = home / "scripts/commands/keys.py"
    source.write_text(source.read_text().replace("10003", str(os.getuid())))
    done = subprocess.run(
        [str(home / "scripts/node-admin"), "keys", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_private_keys_are_made_on_their_own_nodes(tmp_path: Path) -> None:
    """Each node makes its own; public ones are exchanged, and one file of what both must have."""
    relay, model = Alone(tmp_path, "relay"), Alone(tmp_path, "model")

    assert model.init_node() == 0
    assert not {"store_key", "tunnel_private_key"} & {Path(n).name for n in model.bundle("model")}
    home = model.unpack(tmp_path / "home")
    of_model = keys(home)
    shared = str(model.out / "shared.json")
    assert relay.init_node("--shared", shared, "--peer-key", of_model) == 0
    vps = relay.unpack(tmp_path / "vps")
    of_relay = keys(vps)
    assert model.init("--peer-key", of_relay) == 0
    private = (home / "secrets/tunnel_private_key").read_text()
    store = (home / "secrets/store_key").read_text()
    model.unpack(tmp_path / "home")

    assert keys(home) == of_model, "a new bundle leaves the keys of a node alone"
    assert (home / "secrets/tunnel_private_key").read_text() == private
    assert re.fullmatch("[0-9a-f]{64}", store)
    assert (home / "secrets/store_key").stat().st_mode & 0o777 == 0o400
    assert not (vps / "secrets/store_key").exists()
    assert (
        model.settings("model")["TUNNEL_PEER_KEY"]
        == of_relay
        == public_key_of((vps / "secrets/tunnel_private_key").read_text())
    )
    assert relay.settings("relay")["TUNNEL_PEER_KEY"] == of_model == public_key_of(private)
    for name in ("tunnel_preshared_key", "link_token"):
        assert (vps / "secrets" / name).read_text() == (home / "secrets" / name).read_text()
    for folder in (relay.out, model.out):
        kept = b"".join(path.read_bytes() for path in folder.iterdir())
        assert private.encode() not in kept
        assert store.encode() not in kept


def test_keys_on_a_node_are_renewed_when_asked(tmp_path: Path) -> None:
    """The tunnel's; the store's opens what is stored. A dry run makes nothing."""
    model = Alone(tmp_path, "model")
    model.init_node()
    home = model.unpack(tmp_path / "home")
    assert keys(home, "--dry-run") == ""
    assert not (home / "secrets/store_key").exists()
    before, store = keys(home), (home / "secrets/store_key").read_text()

    assert keys(home, "--renew") not in ("", before)

    assert (home / "secrets/store_key").read_text() == store


def test_folder_is_about_one_node_or_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys of both nodes do not turn up where one was meant, and the other way round."""
    both, relay = Operator(tmp_path), Alone(tmp_path, "relay")
    both.init_all()
    relay.init_node()
    capsys.readouterr()

    assert both.init("--node", "relay") == 1
    assert "is about both nodes: give another folder" in capsys.readouterr().err
    assert relay.init("--node", "model") == 1
    assert "is about the relay node" in capsys.readouterr().err
    assert relay.init("--relay", "LOG_LEVEL=DEBUG") == 0, "--node need not be said again"
    assert not (relay.out / "model.tar").exists()


def test_one_node_says_what_goes_to_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of what both must have is called secret, and a missing public key is named."""
    model = Alone(tmp_path, "model")

    model.init_node()

    said = capsys.readouterr().out
    assert "shared.json holds what both nodes must have" in said
    assert "It is secret" in said
    assert "--peer-key" in said
    assert "scripts/node-admin keys && docker compose up -d" in said
    assert (model.out / "shared.json").stat().st_mode & 0o777 == 0o600
