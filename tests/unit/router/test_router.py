"""What is put between the gateway and several engines: its settings, and how long it stays."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
KEYS = ["A" * 43 + "=", "A" * 42 + "E=", "B" * 42 + "A="]
ONE = f"10.67.0.2={KEYS[0]}"
TWO = f"{ONE},10.67.0.3={KEYS[1]}"
GOOD = {"ENGINE_SLOTS": "16", "ENGINE_PORT": "8000", "LISTEN_ADDRESS": "10.67.0.2"}


def run(
    tmp_path: Path, settings: dict[str, str], commands: str
) -> "subprocess.CompletedProcess[str]":
    """Run commands among the script's functions, without its waiting."""
    text = (ROOT / "services/router/router").read_text(encoding="utf-8")
    folder = tmp_path / "node"
    folder.mkdir()
    for file in ("wireguard/settings.sh", *(f"services/router/{it}.cfg" for it in ("engines",))):
        (folder / Path(file).name).write_bytes((ROOT / file).read_bytes())
    functions = text.replace("/usr/local/lib/node", str(folder)).removesuffix('main "$@"\n')
    functions = functions.replace("/tmp/engines.cfg", str(tmp_path / "engines.cfg"))
    assert functions != text
    return subprocess.run(
        ["bash", "-c", f"{functions}\npause() {{ :; }}\n{commands}"],
        env={"PATH": "/usr/bin:/bin"} | GOOD | settings,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_every_engine_stands_in_the_settings(tmp_path: Path) -> None:
    """This machine's by its socket, the workers by their addresses, in their order."""
    done = run(tmp_path, {"TUNNEL_PEERS": TWO}, "check_router; write_engines")

    servers = re.findall(r"^    server (\d+) (\S+) id (\d+)$", done.stdout, re.MULTILINE)
    assert servers == [
        ("1", "unix@/run/engine/engine.sock", "1"),
        ("2", "10.67.0.2:8000", "2"),
        ("3", "10.67.0.3:8000", "3"),
    ]
    for number, _, _ in servers:
        assert (
            f"srv_is_up(engines/{number}) }} {{ srv_conn(engines/{number}) lt 16 }}" in done.stdout
        )
        assert f"_id(engines) {number} }} {{ srv_conn(engines/{number}) ge 16 }}" in done.stdout


@pytest.mark.parametrize(
    ("part", "settings", "named"),
    [
        ("router", {}, "TUNNEL_PEERS"),
        ("router", {"TUNNEL_PEERS": "10.67.0.2"}, "TUNNEL_PEERS"),
        ("router", {"TUNNEL_PEERS": f"{ONE},{ONE}"}, "TUNNEL_PEERS"),
        ("router", {"TUNNEL_PEERS": f"127.0.0.1={KEYS[0]}"}, "TUNNEL_PEERS"),
        ("router", {"TUNNEL_PEERS": "10.67.0.2=wg"}, "TUNNEL_PEERS"),
        ("router", {"TUNNEL_PEERS": TWO, "ENGINE_SLOTS": "many"}, "ENGINE_SLOTS"),
        ("door", {"LISTEN_ADDRESS": "0.0.0.0"}, "LISTEN_ADDRESS"),
        ("door", {"ENGINE_PORT": "0"}, "ENGINE_PORT"),
    ],
)
def test_bad_settings_stop_the_start(
    tmp_path: Path, part: str, settings: dict[str, str], named: str
) -> None:
    """With one sentence each, before anything listens."""
    done = run(tmp_path, settings, f"haproxy() {{ echo started; }}\nmain {part}")

    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.startswith(f'{named} is "{settings.get(named, "")}": give ')
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("part", "files"), [("router", 2), ("door", 1)])
def test_it_goes_with_its_holder(tmp_path: Path, part: str, files: int) -> None:
    """Gone for three looks in a row, it is gone; less is a holder that was busy."""
    commands = f"""
haproxy() {{ printf '%s\\n' "$@" | grep -c '\\.cfg$' >{tmp_path}/files; exec sleep 15; }}
looks=0
socat() {{
  looks=$((looks + 1))
  echo look >>{tmp_path}/looks
  [[ " 3 4 6 7 8 " != *" $looks "* ]]
}}
pause() {{ read -r -t 0.02 <> <(:) || true; }}
main {part}
"""
    done = run(tmp_path, {"TUNNEL_PEERS": TWO}, commands)

    assert (done.returncode, done.stdout) == (1, "action=holder-gone\n"), done.stderr
    assert (tmp_path / "looks").read_text().count("look") == 8
    assert int((tmp_path / "files").read_text()) == files


def test_it_ends_with_its_forwarder(tmp_path: Path) -> None:
    """A HAProxy that has died is brought back by the restart of the container."""
    commands = (
        "haproxy() { return 1; }\nsocat() { :; }\npause() { read -r -t 0.02 <> <(:) || true; }\n"
    )

    done = run(tmp_path, {}, f"{commands}main door")

    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_nothing_is_asked_twice_and_nothing_but_answers_is_let_through() -> None:
    """The gateway asks again by itself, and knows what it has had of an answer."""
    for name in ("router", "door"):
        text = (ROOT / f"services/router/{name}.cfg").read_text(encoding="utf-8")
        assert re.search(r"^    retries 0$", text, re.MULTILINE)
        assert "redispatch" not in text
    paths = set(re.findall(r"/(?:v1/\S+|health)", re.sub(r"#.*|unix@\S+", "", text)))
    asked = (ROOT / "services/gateway/engine.py").read_text(encoding="utf-8")
    assert paths == set(re.findall(r'"http://engine(/[^"]+)"', asked))
