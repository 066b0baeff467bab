"""What the tunnel's containers tell the members of their namespace, and when."""

import subprocess
from pathlib import Path

import pytest

WIREGUARD = Path(__file__).parents[2] / "wireguard"

COUNTERS = """\
printf 'table inet node {\\n counter refused_in {\\n packets 7 bytes 99\\n }\\n}\\n'
"""

REPORTS = {"sidecar": ("keep_status", "status"), "uplink": ("keep_refusals", "uplink-refusals")}


def run(tmp_path: Path, script: str, nft: str, commands: str) -> str:
    """Run commands among a script's functions, with this `nft`, and files in `tmp_path`."""
    (tmp_path / "nft").write_text(f"#!/bin/sh\n{nft}\n", encoding="utf-8")
    (tmp_path / "nft").chmod(0o755)
    text = (WIREGUARD / script).read_text(encoding="utf-8")
    functions = text.replace("/usr/local/lib/node", str(WIREGUARD)).removesuffix('main "$@"\n')
    assert functions != text
    functions += f"""
replace() {{ cat >"{tmp_path}/${{1##*/}}"; }}
{commands}
"""
    done = subprocess.run(
        ["bash", "-c", functions],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", REPORTS)
def test_refusals_that_cannot_be_read_take_the_place_of_none(tmp_path: Path, script: str) -> None:
    """Counters that seem to be zero for a while would say that nothing was refused."""
    report, name = REPORTS[script]

    assert run(tmp_path, script, COUNTERS, report) == ""
    assert (tmp_path / name).read_text(encoding="utf-8") == "refused_in_packets=7\n"
    assert run(tmp_path, script, "exit 1", f"{report} || event failed") == "action=failed\n"
    assert (tmp_path / name).read_text(encoding="utf-8") == "refused_in_packets=7\n"


@pytest.mark.parametrize("script", REPORTS)
def test_clock_that_is_set_back_holds_nothing_up(tmp_path: Path, script: str) -> None:
    """Bash counts its seconds by the clock."""
    report, name = REPORTS[script]
    again = f"keep_time; {report}; rm {tmp_path}/{name}; SECONDS=-9999"

    run(tmp_path, script, COUNTERS, f"{again}; keep_time; {report}")
    assert not (tmp_path / name).exists(), "five seconds are not over"
    run(tmp_path, script, COUNTERS, f"{again}; keep_time; SECONDS=$((SECONDS + 5)); {report}")

    assert (tmp_path / name).exists()


def test_hop_says_once_that_there_is_no_uplink(tmp_path: Path) -> None:
    """And again when it was lost in between: a line a second would push all others out."""
    commands = """
check_settings() { :; }
load_rules_of_hop() { :; }
close_tunnel() { :; }
configure_hop() { :; }
hand_over_hop() { :; }
hop_is_there() { return 1; }
carrier=kernel tries=0
find_uplink() { [[ $tries == [36] ]]; }
open_tunnel() { tries=$((tries + 1)); }
pause() {
  tries=$((tries + 1))
  ((tries < 10)) || exit 0
}
main
"""
    said = run(tmp_path, "hop", "", commands).splitlines()

    events = [line.partition("action=")[2].split()[0] for line in said]
    lost = ["hop-handed-over", "hop-lost", "hop-failed"]
    assert events == ["rules-loaded", "hop-failed", *lost, *lost]


KEYS = ["A" * 43 + "=", "A" * 42 + "E="]
PEERS = f"10.67.0.2={KEYS[0]}, 10.67.0.3={KEYS[1]}"
SEVERAL = f"TUNNEL_END=listen TUNNEL_ADDRESS=10.67.0.1 TUNNEL_PEERS='{PEERS}' LINK_PORT=8000"


def test_rules_and_routes_for_several_peers(tmp_path: Path) -> None:
    """A listening end that has several reaches each of them, and nobody else."""
    commands = f"""
{SEVERAL}
load_rules() {{ printf '%s\n' "$@"; }}
ip() {{ printf 'ip %s\n' "$*"; }}
keep_time() {{ add_routes; exit 0; }}
main
"""
    said = run(tmp_path, "sidecar", "", commands).splitlines()

    assert said[0].endswith("/rules/sidecar-listen.nft")
    assert said[1:4] == ["address=10.67.0.1", "peer={ 10.67.0.2,10.67.0.3 }", "link_port=8000"]
    assert [line for line in said if line.startswith("ip ")] == [
        "ip route add 10.67.0.2/32 dev wg0 src 10.67.0.1",
        "ip route add 10.67.0.3/32 dev wg0 src 10.67.0.1",
    ]


def test_each_of_several_peers_has_its_own_address(tmp_path: Path) -> None:
    """WireGuard believes nobody who comes from another's; one that was seen before is called."""
    endpoints = tmp_path / "endpoints"
    endpoints.write_text(f"198.18.0.7:4711 {KEYS[1]}\n")
    source = (WIREGUARD / "tunnel.sh").read_text(encoding="utf-8")
    assert "/proc/1/root/run/peer-endpoint" in source
    commands = f"""
{SEVERAL} TUNNEL_PORT=51820
wg() {{ printf '%s ' "$@"; }}
read_peers
configure_tunnel
"""
    text = (WIREGUARD / "uplink").read_text(encoding="utf-8")
    functions = text.replace("source /usr/local/lib/node/tunnel.sh", source.replace(
        "/proc/1/root/run/peer-endpoint", str(endpoints))).replace(
        "/usr/local/lib/node", str(WIREGUARD)).removesuffix('main "$@"\n')  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", functions + commands], capture_output=True, text=True, check=True, timeout=20
    )

    own, first, second = done.stdout.split(" peer ")
    secret = "preshared-key /run/secrets/tunnel_preshared_key"
    assert own.endswith("private-key /run/secrets/tunnel_private_key listen-port 51820")
    assert first == f"{KEYS[0]} {secret} allowed-ips 10.67.0.2/32"
    assert second.strip() == (
        f"{KEYS[1]} {secret} allowed-ips 10.67.0.3/32 "
        "endpoint 198.18.0.7:4711 persistent-keepalive 25"
    )


@pytest.mark.parametrize("several", [False, True])
def test_where_peers_were_seen_is_kept(tmp_path: Path, several: bool) -> None:
    """Of one its endpoint alone, of several with their keys; who was never seen is left out."""
    kept = tmp_path / "kept"
    commands = f"""
last() {{ cat "{kept}"; last_endpoint_of {KEYS[1]}; }}
TUNNEL_PEERS={PEERS.replace(" ", "") if several else ""}
wg() {{ [[ $1 != show ]] || printf '%s\t%s\n' {KEYS[0]} "(none)" {KEYS[1]} 198.18.0.7:4711; }}
keep_endpoint wg0
last
"""
    source = (WIREGUARD / "tunnel.sh").read_text(encoding="utf-8")
    functions = source.replace("/proc/1/root/run/peer-endpoint", str(kept))
    done = subprocess.run(
        ["bash", "-euc", functions + commands],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )

    line = f"198.18.0.7:4711 {KEYS[1]}" if several else "198.18.0.7:4711"
    assert done.stdout == f"{line}\n198.18.0.7:4711"


def test_only_a_listening_end_has_several_peers(tmp_path: Path) -> None:
    """The end that dials calls one endpoint."""
    commands = f"{SEVERAL} TUNNEL_END=dial\nread_peers 2>&1\necho $bad_settings"

    said = run(tmp_path, "sidecar", "", commands).splitlines()

    assert said[0].startswith("TUNNEL_PEERS is ")
    assert said[-1] == "1"
