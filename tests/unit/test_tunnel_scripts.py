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
