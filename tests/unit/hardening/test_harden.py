"""`harden` changes what it says, only once, and back again; and locks nobody out."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.commands import harden as command
from scripts.commands.__main__ import Parser
from scripts.harden import docker, maintenance, names, rollback, swap
from scripts.harden.change import carry_out
from scripts.harden.firewall import ruleset
from scripts.harden.host import Failed, Refused
from scripts.harden.part import FILES, template
from scripts.harden.plan import changes, describe, parts
from scripts.harden.settings import ANY, HOME, Settings, merge
from scripts.harden.snapshot import ORIGINAL, PENDING, Snapshot
from scripts.node.kinds import kinds
from tests.unit.hardening.machine import DROP_IN, KEY, MODEL, RELAY, Machine

PROCESS = 500


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def say_nothing(line: str) -> None:
    pass


def apply(machine: Machine, settings: Settings) -> None:
    """Do it, unconfirmed."""
    original = Snapshot(machine.host, ORIGINAL)
    found = changes(machine.host, parts(machine.host, settings), original)
    carry_out(machine.host, found, settings, 60, say_nothing)


def log_in(machine: Machine, *, began: float) -> None:
    """A connection, and in it the shell that calls `harden` behind sudo."""
    machine.add_process(10, 1, "sshd", 5)
    machine.add_process(20, 10, "sshd-session", began)
    machine.add_process(30, 20, "bash", began + 1, "198.18.0.9 40000 198.18.0.10 22")
    machine.add_process(40, 30, "sudo", began + 2)
    machine.add_process(PROCESS, 40, "python3", began + 3)


def apply_and_confirm(machine: Machine, settings: Settings) -> None:
    apply(machine, settings)
    log_in(machine, began=2000)
    rollback.confirm(machine.host, PROCESS)


def arguments(*words: str) -> object:
    parser = Parser()
    command.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("settings", [RELAY, MODEL])
def test_second_run_has_nothing_to_change(machine: Machine, settings: Settings) -> None:
    """Whatever the first one has set, the second one finds."""
    apply_and_confirm(machine, settings)

    found = changes(machine.host, parts(machine.host, settings), Snapshot(machine.host, ORIGINAL))

    assert [
        list(describe(machine.host, it, Snapshot(machine.host, ORIGINAL))) for it in found
    ] == []


@pytest.mark.parametrize("settings", [RELAY, MODEL])
@pytest.mark.parametrize("way", ["undo", "rollback"])
def test_everything_goes_back_exactly(machine: Machine, settings: Settings, way: str) -> None:
    """Files, links, modes, times, absences and states; and nothing of its own is left."""
    census, states = machine.census(), machine.states()
    if way == "undo":
        apply_and_confirm(machine, settings)
        assert machine.census() != census
        assert command.undo(machine.host, arguments("--undo", "--yes")) == 0  # type: ignore[arg-type]  # a namespace
    else:
        apply(machine, settings)
        assert machine.states() != states
        assert rollback.take_back(machine.host) == []

    assert machine.census() == census
    assert machine.states() == states


def test_rollback_of_a_second_run_keeps_the_first(machine: Machine) -> None:
    """What was confirmed stays; what comes back at last is what was there at first."""
    before = machine.census()
    apply_and_confirm(machine, RELAY)
    census, states = machine.census(), machine.states()

    apply(machine, dataclasses.replace(RELAY, ssh_from=("198.18.0.0/24",), root_login="off"))
    assert "198.18.0.0/24" in machine.text("etc/nftables.conf")
    rollback.take_back(machine.host)

    assert (machine.census(), machine.states()) == (census, states)
    command.undo(machine.host, arguments("--undo", "--yes"))  # type: ignore[arg-type]  # a namespace
    assert machine.census() == before


def test_undo_goes_back_beyond_every_run(machine: Machine) -> None:
    """To what was there before the first one, however many were confirmed."""
    census, states = machine.census(), machine.states()
    apply_and_confirm(machine, RELAY)
    apply_and_confirm(machine, dataclasses.replace(RELAY, ssh_from=("198.18.0.0/24",)))

    command.undo(machine.host, arguments("--undo", "--yes"))  # type: ignore[arg-type]  # a namespace

    assert (machine.census(), machine.states()) == (census, states)


def test_what_nobody_wants_any_more_is_as_at_first(machine: Machine) -> None:
    """Names that are opened again are asked for as before."""
    apply_and_confirm(machine, RELAY)
    assert machine.text("etc/resolv.conf").count("127.0.0.1\n") == 1
    assert names.RESOLVED not in machine.tools.active

    apply_and_confirm(machine, dataclasses.replace(RELAY, names="open"))

    assert (machine.root / "etc/resolv.conf").is_symlink()
    assert machine.text("etc/dhcpcd.conf") == "hostname\n"
    assert not (machine.root / f"etc/systemd/system/{maintenance.TIMER}").exists()
    assert machine.tools.enabled["apt-daily.timer"] == "enabled"
    assert names.RESOLVED in machine.tools.active


def test_way_back_is_armed_before_anything_is_changed(machine: Machine) -> None:
    """By a timer that lies on the disk, so that a reboot does not stop it."""
    apply(machine, RELAY)

    assert machine.tools.armed_before == ["(armed)"]
    timer = machine.text(f"etc/systemd/system/{rollback.TIMER}")
    assert "OnActiveSec=60s" in timer
    assert machine.tools.enabled[rollback.TIMER] == "enabled"
    assert rollback.TIMER in machine.tools.active


def test_nothing_begins_without_a_way_back(machine: Machine) -> None:
    """If the timer does not run, everything stays as it is."""
    census = machine.census()
    machine.tools.failing = {"systemctl restart node-harden-rollback"}

    with pytest.raises(Failed, match="all is as before"):
        apply(machine, RELAY)

    assert machine.census() == census


@pytest.mark.parametrize(
    "failing",
    ["sshd -t", "dockerd --validate", "fail2ban-client -t", "systemctl try-restart docker",
     "systemctl start nftables", "nft -f -"],
)  # fmt: skip
def test_failure_on_the_way_takes_everything_back(machine: Machine, failing: str) -> None:
    """Nothing half done stays, and no sshd is given a file that it would not take."""
    machine.tools.tables["inet host"] = "table inet host {\n}\n"
    machine.tools.failing = {failing}
    census = machine.census()

    with pytest.raises(Failed, match="it does not"):
        apply(machine, RELAY)

    assert machine.census() == census
    if failing == "sshd -t":
        reloads = [
            it for it in machine.tools.calls if it[1:] == ("try-reload-or-restart", "ssh.service")
        ]
        assert machine.tools.calls.index(("sshd", "-t")) < machine.tools.calls.index(reloads[0])


def test_way_back_is_kept_until_it_is_gone(machine: Machine) -> None:
    """What cannot be restored now is restored by the next try, by hand or at the next boot."""
    census, states = machine.census(), machine.states()
    apply(machine, RELAY)
    machine.tools.failing = {"systemctl stop nftables"}
    assert "it does not" in rollback.take_back(machine.host)[0]
    assert rollback.TIMER in machine.tools.active
    machine.tools.failing = set()

    assert rollback.take_back(machine.host) == []

    assert (machine.census(), machine.states()) == (census, states)


def test_sshd_that_does_not_read_the_file_is_noticed(machine: Machine) -> None:
    """Its effective settings count, not what stands in a file."""
    machine.tools.includes = False

    with pytest.raises(Failed, match="Include"):
        apply(machine, RELAY)

    assert not (machine.root / DROP_IN).exists()


@pytest.mark.parametrize("settings", [RELAY, MODEL])
def test_rules_of_others_are_never_flushed(machine: Machine, settings: Settings) -> None:
    """Neither by a file that is loaded at boot, nor by a command, on the way there or back."""
    apply_and_confirm(machine, settings)
    written = machine.text("etc/nftables.conf")
    command.undo(machine.host, arguments("--undo", "--yes"))  # type: ignore[arg-type]  # a namespace

    assert "flush" not in "".join(
        line for line in written.splitlines() if not line.lstrip().startswith("#")
    )
    assert not any("flush" in given for given in machine.tools.given if "harden" not in given)
    assert not any("flush" in word for call in machine.tools.calls for word in call)


def test_stop_of_the_rules_service_takes_no_rules(machine: Machine) -> None:
    """When undoing stops it, the drop-in that keeps its ExecStop away is still there."""
    apply_and_confirm(machine, RELAY)
    stay = machine.root / "etc/systemd/system/nftables.service.d/stay.conf"
    seen: list[bool] = []
    run = machine.tools.run

    def watch(*words: str, **rest: object) -> object:
        if words[:3] == ("systemctl", "stop", "nftables.service"):
            seen.append(stay.exists())
        return run(*words, **rest)  # type: ignore[arg-type]  # as it came

    machine.tools.run = watch  # type: ignore[method-assign,assignment]  # looks on
    command.undo(machine.host, arguments("--undo", "--yes"))  # type: ignore[arg-type]  # a namespace

    assert seen == [True]
    assert not stay.exists()


@pytest.mark.parametrize("unit", ["ssh.service", "docker.service"])
def test_service_that_ended_of_the_change_runs_again(machine: Machine, unit: str) -> None:
    """sshd that could not listen at its new port, Docker that did not take its settings: a reload
    reaches neither of them, and without them nobody gets in, or nothing runs."""
    machine.tools.active |= {"ssh.service", "docker.service"}
    states = machine.states()
    apply(machine, RELAY)
    machine.tools.active.discard(unit)

    assert rollback.take_back(machine.host) == []

    assert machine.states() == states


def test_copy_that_is_lost_keeps_nothing_else_from_going_back(machine: Machine) -> None:
    """The way in comes back, and what does not is named."""
    apply(machine, RELAY)
    assert (machine.root / DROP_IN).exists()
    pending = Snapshot(machine.host, PENDING)
    entry = next(it for it in pending.files if it.path == "/etc/hosts")
    (pending.folder / "kept" / entry.kept).unlink()

    problems = rollback.take_back(machine.host)

    assert [words for words in problems if "/etc/hosts is not as it was" in words]
    assert not (machine.root / DROP_IN).exists()
    assert "inet host" not in machine.tools.tables
    assert Snapshot(machine.host, PENDING).exists


@pytest.mark.parametrize("way", ["undo", "rollback"])
def test_own_rules_that_come_back_are_said_not_to_be_loaded(
    machine: Machine, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host without rules is not claimed to be as before."""
    machine.tools.active.add("nftables.service")
    if way == "undo":
        apply_and_confirm(machine, RELAY)
        command.undo(machine.host, arguments("--undo", "--yes"))  # type: ignore[arg-type]  # a namespace
    else:
        apply(machine, RELAY)
        machine.write("proc/sys/kernel/random/boot_id", "second-boot\n")
        command.take_back(machine.host)

    assert "nft list ruleset" in " ".join(capsys.readouterr().out.split())


def test_service_that_did_not_run_is_not_started(machine: Machine) -> None:
    """What was stopped before stays so."""
    apply(machine, RELAY)

    rollback.take_back(machine.host)

    assert "docker.service" not in machine.tools.active


def test_units_find_their_way_in_any_folder(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the timer that takes everything back would start nothing."""
    monkeypatch.setattr(rollback, "ROOT", Path("/srv/my 100% node"))
    monkeypatch.setattr("sys.executable", "/srv/my python/python3")

    apply(machine, RELAY)

    text = machine.text(f"etc/systemd/system/{rollback.SERVICE}")
    assert '\nEnvironment="PYTHONPATH=/srv/my 100%% node"\n' in text
    assert '\nExecStart="/srv/my python/python3" -P -m ' in text


# Who may confirm


def test_newer_connection_confirms(machine: Machine) -> None:
    """It shows that one still gets in."""
    apply(machine, RELAY)
    log_in(machine, began=1001)

    rollback.confirm(machine.host, PROCESS)

    assert not Snapshot(machine.host, PENDING).exists
    assert not (machine.root / f"etc/systemd/system/{rollback.TIMER}").exists()
    assert rollback.TIMER not in machine.tools.active


def test_older_connection_does_not(machine: Machine) -> None:
    """Whether it is the one that applied, or another login over it that came later."""
    apply(machine, RELAY)
    log_in(machine, began=999)
    machine.add_process(30, 20, "bash", 1500, "198.18.0.9 40000 198.18.0.10 22")

    with pytest.raises(Refused, match="older than the change"):
        rollback.confirm(machine.host, PROCESS)

    assert Snapshot(machine.host, PENDING).exists


def test_inherited_name_of_a_connection_shows_nothing(machine: Machine) -> None:
    """A tmux that was started over the old connection after the change is newer, and is not in."""
    apply(machine, RELAY)
    connection = "198.18.0.9 40000 198.18.0.10 22"
    machine.add_process(30, 1, "tmux: server", 1500, connection)
    machine.add_process(PROCESS, 30, "python3", 1501, connection)

    with pytest.raises(Refused, match="outside of them"):
        rollback.confirm(machine.host, PROCESS)

    assert Snapshot(machine.host, PENDING).exists


def test_after_a_reboot_every_connection_is_newer(machine: Machine) -> None:
    """Its clock has begun anew."""
    apply(machine, RELAY)
    machine.write("proc/sys/kernel/random/boot_id", "second-boot\n")
    log_in(machine, began=20)

    rollback.confirm(machine.host, PROCESS)

    assert Snapshot(machine.host, ORIGINAL).exists


def test_nobody_confirms_without_a_connection_or_console(machine: Machine) -> None:
    """A job of cron's or a container's shell shows nothing; the console does."""
    apply(machine, RELAY)
    machine.add_process(PROCESS, 1, "python3", 1500)

    with pytest.raises(Refused, match="neither"):
        rollback.confirm(machine.host, PROCESS)
    rollback.confirm(machine.host, PROCESS, on_console=True)

    assert not Snapshot(machine.host, PENDING).exists


def test_nothing_is_confirmed_twice_or_too_soon(machine: Machine) -> None:
    """Neither before all is done, nor when it has gone back."""
    log_in(machine, began=2000)
    with pytest.raises(Refused, match="nothing waits"):
        rollback.confirm(machine.host, PROCESS)
    apply(machine, RELAY)
    Snapshot(machine.host, PENDING).remember(applied=None)

    with pytest.raises(Refused, match="still being done"):
        rollback.confirm(machine.host, PROCESS)


# The command


def call(machine: Machine, *words: str) -> int:
    return command.harden(machine.host, arguments("--node", "relay", *words))  # type: ignore[arg-type]  # a namespace


def test_command_waits_for_its_confirmation(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And remembers what it was told."""

    def confirm(seconds: float) -> None:
        log_in(machine, began=2000)
        rollback.confirm(machine.host, PROCESS)

    monkeypatch.setattr("time.sleep", confirm)
    assert call(machine, "--yes", "--resolver", "192.0.2.53", "--ssh-port", "2222") == 0
    assert "harden confirm" in capsys.readouterr().out
    assert "tcp dport { 2222 } accept" in machine.text("etc/nftables.conf")

    assert call(machine) == 0
    assert capsys.readouterr().out == "Nothing to change.\n"


def test_command_says_that_all_went_back(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a status of its own."""
    census = machine.census()
    monkeypatch.setattr("time.sleep", lambda seconds: rollback.take_back(machine.host))

    assert call(machine, "--yes", "--resolver", "192.0.2.53") == command.TAKEN_BACK

    assert machine.census() == census


@pytest.mark.parametrize("words", [("--dry-run",), ()])
def test_no_change_before_a_yes(
    machine: Machine,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A dry run ends after the differences; so does an answer that is no yes."""
    monkeypatch.setattr("builtins.input", lambda question: "")
    census, states = machine.census(), machine.states()

    call(machine, "--resolver", "192.0.2.53", *words)

    said = capsys.readouterr().out
    assert "+PasswordAuthentication no" in said
    assert "-/dev/vda2 none swap sw 0 0" in said
    assert "sysctl kernel.sysrq: 438 -> 0" in said
    assert "unit nftables.service: inactive -> active" in said
    assert "Nothing has been changed" in said
    assert (machine.census(), machine.states()) == (census, states)


def test_waiting_run_keeps_others_away(machine: Machine) -> None:
    """Another run would not know what to go back to."""
    apply(machine, RELAY)

    with pytest.raises(Refused, match="harden confirm"):
        call(machine, "--yes")
    with pytest.raises(Refused, match="harden rollback"):
        command.undo(machine.host, arguments("--undo", "--yes"))  # type: ignore[arg-type]  # a namespace


def test_port_of_the_tunnel_is_the_nodes_own(tmp_path: Path) -> None:
    """As its settings have it."""
    known = kinds()
    assert command.tunnel_port(known["relay"], tmp_path) == 51820
    (tmp_path / ".env").write_text("RESOLVER=9.9.9.9\nTUNNEL_PORT='4500'\n")
    assert command.tunnel_port(known["relay"], tmp_path) == 4500
    (tmp_path / ".env").write_text("TUNNEL_PORT=http\n")
    with pytest.raises(Refused, match="no port"):
        command.tunnel_port(known["relay"], tmp_path)


def test_workers_may_call_the_first_box_and_nobody_a_worker(tmp_path: Path) -> None:
    """By the port of the address that the settings name, where they name one."""
    known = kinds()
    (tmp_path / ".env").write_text("WORKERS_LISTEN=\nTUNNEL_PORT=4500\n")
    assert command.tunnel_port(known["model"], tmp_path) is None
    (tmp_path / ".env").write_text("WORKERS_LISTEN=192.0.2.10:51821\nTUNNEL_PORT=4500\n")
    assert command.tunnel_port(known["model"], tmp_path) == 51821
    assert command.tunnel_port(known["worker"], tmp_path) is None
    (tmp_path / ".env").write_text("WORKERS_LISTEN=192.0.2.10\n")
    with pytest.raises(Refused, match="WORKERS_LISTEN in "):
        command.tunnel_port(known["model"], tmp_path)


def test_what_is_not_given_stays_as_it_was_told() -> None:
    """And `any` takes a restriction back."""
    kept = json.loads(json.dumps(dataclasses.asdict(RELAY))) | {"ssh_from": ["198.18.0.0/24"]}

    assert merge(kept, {"root_login": "off", "ssh_from": None}, {"tunnel_port": 4500}) == (
        dataclasses.replace(RELAY, root_login="off", ssh_from=("198.18.0.0/24",), tunnel_port=4500)
    )
    assert merge(kept, {"ssh_from": []}, {}) == RELAY
    assert arguments("--ssh-from", "any").ssh_from[0] == ANY  # type: ignore[attr-defined]  # a namespace


@pytest.mark.parametrize(
    "words",
    [
        ["--ssh-port", "0"], ["--ssh-port", "70000"], ["--ssh-from", "198.18.0.1/24"],
        ["--resolver", "dns.example.org"], ["--pin", "example.org"], ["--pin", "a b=192.0.2.1"],
        ["--inside", "x; drop"], ["--seconds", "5"], ["maintenance", "open", "--minutes", "0"],
    ],
)  # fmt: skip
def test_wrong_values_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before they come near a file."""
    with pytest.raises(SystemExit):
        arguments(*words)

    assert "give " in capsys.readouterr().err


# Refusals


def no_key(machine: Machine) -> None:
    machine.write("home/ops/.ssh/authorized_keys", f"# {KEY}\n", 0o600)


def key_that_others_may_write(machine: Machine) -> None:
    machine.write("home/ops/.ssh/authorized_keys", KEY, 0o666)


def key_of_nobody_with_a_shell(machine: Machine) -> None:
    text = machine.text("etc/passwd").replace("/home/ops:/bin/bash", "/home/ops:/usr/sbin/nologin")
    machine.write("etc/passwd", text)


def no_fail2ban(machine: Machine) -> None:
    (machine.root / "usr/sbin/fail2ban-client").unlink()


def ufw(machine: Machine) -> None:
    machine.write("etc/ufw/ufw.conf", "ENABLED=yes\n")


def firewalld(machine: Machine) -> None:
    machine.tools.active.add("firewalld.service")


def broken_daemon_json(machine: Machine) -> None:
    machine.write("etc/docker/daemon.json", "{")


def no_room(machine: Machine) -> None:
    machine.write("proc/meminfo", "MemAvailable: 5 kB\n")


def old_kernel(machine: Machine) -> None:
    machine.tools.failing = {"unshare"}


def open_window(machine: Machine) -> None:
    machine.write("proc/self/mountinfo", "36 28 0:25 / /etc/resolv.conf rw - tmpfs tmpfs rw\n")


def listener(machine: Machine) -> None:
    machine.write(
        "proc/net/tcp6", f"  sl  local_address\n   0: {'0' * 32}:08AE {'0' * 32}:0000 0A\n"
    )


def address_with_a_port(machine: Machine) -> None:
    machine.tools.sshd["listenaddress"] = "[::]:8022"


def nothing(machine: Machine) -> None:
    pass


def only_root_has_a_key(machine: Machine) -> None:
    machine.write("etc/group", "sudo:x:27:\n")


@pytest.mark.parametrize(
    ("fault", "changed", "words"),
    [
        (no_key, {}, "ssh-copy-id"),
        (key_that_others_may_write, {}, "ssh-copy-id"),
        (key_of_nobody_with_a_shell, {}, "ssh-copy-id"),
        (only_root_has_a_key, {"root_login": "off"}, "nobody with an SSH key could become root"),
        (no_fail2ban, {}, "apt-get install fail2ban"),
        (ufw, {}, "ufw disable"),
        (firewalld, {}, "firewalld"),
        (broken_daemon_json, {}, "mend it first"),
        (no_room, {}, "end something first"),
        (nothing, {"swap": "encrypted"}, "/dev/vda2 cannot be seen to be encrypted"),
        (old_kernel, {}, "upgrade the host"),
        (open_window, {}, "maintenance close"),
        (nothing, {"resolver": ""}, "--resolver"),
        (listener, {"ssh_port": 2222}, "choose another --ssh-port"),
        (address_with_a_port, {"ssh_port": 2222}, "port is set elsewhere"),
    ],
)
def test_refusals(
    machine: Machine, fault: Callable[[Machine], None], changed: dict[str, str], words: str
) -> None:
    """Each says what to do, and nothing has been touched."""
    fault(machine)
    census = machine.census()

    with pytest.raises(Refused, match=words):
        parts(machine.host, dataclasses.replace(RELAY, **changed))  # type: ignore[arg-type]  # texts

    assert machine.census() == census


@pytest.mark.parametrize(("source", "refused"), [("198.18.1.0/24", True), ("198.18.0.0/24", False)])
def test_own_way_in_stays_open(
    machine: Machine, source: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever calls is among those who may call then."""
    log_in(machine, began=900)
    monkeypatch.setattr("os.getpid", lambda: PROCESS)

    words = ("--dry-run", "--resolver", "192.0.2.53", "--ssh-from", source)
    if refused:
        with pytest.raises(Refused, match=r"you come from 198\.18\.0\.9"):
            call(machine, *words)
    else:
        assert call(machine, *words) == 0


def test_port_that_one_came_in_by_stays_open(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another server than sshd listens there."""
    log_in(machine, began=900)
    monkeypatch.setattr("os.getpid", lambda: PROCESS)
    machine.add_process(30, 20, "bash", 901, "198.18.0.9 40000 198.18.0.10 2022")

    with pytest.raises(Refused, match="you come in by port 2022"):
        call(machine, "--dry-run", "--resolver", "192.0.2.53")


@pytest.mark.parametrize("by_socket", [False, True])
def test_ports_are_those_that_ssh_listens_at(machine: Machine, by_socket: bool) -> None:
    """By a ListenAddress with a port of its own, or by systemd's socket."""
    machine.tools.sshd["listenaddress"] = "0.0.0.0:8022"
    if by_socket:
        machine.tools.active.add("ssh.socket")

    found = {part.name: part for part in parts(machine.host, MODEL)}

    port = 9022 if by_socket else 8022
    assert f"tcp dport {{ {port} }} accept" in found["firewall"].files[0].content
    assert f"port = {port}\n" in found["bans"].files[0].content


def test_port_in_an_address_of_sshd_is_noticed(machine: Machine) -> None:
    """It would listen there alone, where the firewall lets nobody in any more."""
    machine.tools.sshd["listenaddress"] = "0.0.0.0:22"

    with pytest.raises(Failed, match=r"names its own port.*all is as before"):
        apply(machine, dataclasses.replace(RELAY, ssh_port=2222))


def test_host_without_ssh_server_needs_no_key(machine: Machine) -> None:
    """And opens no port for one."""
    (machine.root / "usr/sbin/sshd").unlink()
    no_key(machine)

    found = parts(machine.host, MODEL)

    assert {"sshd", "bans"}.isdisjoint(part.name for part in found)
    assert (
        "tcp dport" not in next(part for part in found if part.name == "firewall").files[0].content
    )


# What the files say


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", {"log-driver": "json-file", "log-opts": docker.LIMITS}),
        ('{"dns": ["192.0.2.1"]}',
         {"dns": ["192.0.2.1"], "log-driver": "json-file", "log-opts": docker.LIMITS}),
        ('{"log-driver": "journald", "log-opts": {"tag": "x"}}',
         {"log-driver": "journald", "log-opts": {"tag": "x"}}),
        ('{"log-driver": "local", "log-opts": {"max-size": "1m"}}',
         {"log-driver": "local", "log-opts": {"max-size": "1m", "max-file": "3"}}),
        ('{"live-restore": false, "userland-proxy": true, "ipv6": true, "log-driver": "none"}',
         {"log-driver": "none"}),
    ],
)  # fmt: skip
def test_daemon_json_is_amended(before: str, after: dict[str, object]) -> None:
    """What the operator has set otherwise stays; done twice is done once."""
    once = docker.merged(before)

    assert json.loads(once) == {**after, **docker.WANTED}
    assert docker.merged(once) == once


def test_docker_is_restarted_when_it_has_heard_that_containers_stay(machine: Machine) -> None:
    """A restart that comes before the reload would end them."""
    apply(machine, RELAY)

    calls = [" ".join(call) for call in machine.tools.calls]
    heard = next(i for i, call in enumerate(calls) if "LiveRestoreEnabled" in call)
    assert "try-reload-or-restart docker" in calls[heard - 1]
    assert "try-restart docker" in calls[heard + 1]


def test_amended_files_keep_their_mode(machine: Machine) -> None:
    """They are the operator's."""
    apply(machine, RELAY)

    assert (machine.root / "etc/docker/daemon.json").stat().st_mode & 0o777 == 0o600
    assert (machine.root / "etc/fstab").stat().st_mode & 0o777 == 0o664
    assert machine.text("etc/fstab").splitlines()[1] == f"{swap.OURS}/dev/vda2 none swap sw 0 0"


def test_encrypted_swap_may_stay(machine: Machine) -> None:
    """dm-crypt and compressed memory can be seen."""
    machine.write(
        "proc/swaps", "Filename\n/dev/dm-0 partition 9 0 -2\n/dev/zram0 partition 9 0 -2\n"
    )
    machine.write("sys/block/dm-0/dm/uuid", "CRYPT-PLAIN-swap\n")

    part = swap.want(machine.host, dataclasses.replace(RELAY, swap="encrypted"))

    assert (part.files, part.states) == ((), ())
    machine.write("sys/block/zram0/backing_dev", "/dev/vda3\n")
    with pytest.raises(Refused, match="/dev/zram0"):
        swap.want(machine.host, dataclasses.replace(RELAY, swap="encrypted"))


@pytest.mark.parametrize("other", ["container", "chronyd"])
def test_clock_that_another_one_keeps_is_left_to_it(machine: Machine, other: str) -> None:
    """Where timesyncd cannot run, or need not, every run would try to start it again."""
    (machine.root / "usr/lib/systemd/systemd-timesyncd").unlink()
    if other == "chronyd":
        machine.write("usr/sbin/chronyd", "")
    else:
        machine.write("usr/lib/systemd/systemd-timesyncd", "")
        machine.tools.is_container = True

    (clock,) = (part for part in parts(machine.host, RELAY) if part.name == "clock")

    assert (clock.files, clock.states) == ((), ())


def test_only_known_algorithms_are_named(machine: Machine) -> None:
    """sshd would not start with one that it does not know, nor are old ones among them."""
    apply(machine, RELAY)

    lines = dict(line.split(" ", 1) for line in machine.text(DROP_IN).splitlines()
                 if not line.startswith("#"))  # fmt: skip
    assert lines["KexAlgorithms"] == "sntrup761x25519-sha512@openssh.com,curve25519-sha256"
    assert lines["Ciphers"] == "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com"
    assert lines["MACs"] == "hmac-sha2-256-etm@openssh.com"
    assert "Port" not in lines
    assert lines["PermitRootLogin"] == "prohibit-password"


def test_hosts_get_this_hosts_name_and_pins_once(machine: Machine) -> None:
    """And lose a pin that is taken back, while the rest of the file stays."""
    pinned = dataclasses.replace(RELAY, pins=("deb.example=192.0.2.80",))
    machine.write("etc/hosts", names.hosts(machine.host, pinned))

    assert machine.text("etc/hosts").splitlines() == [
        "127.0.0.1 localhost", names.BEGIN, "127.0.1.1 node", "192.0.2.80 deb.example", names.END,
    ]  # fmt: skip
    assert names.hosts(machine.host, pinned) == machine.text("etc/hosts")
    assert "deb.example" not in names.hosts(machine.host, RELAY)


def test_driver_and_kernel_are_upgraded_by_hand_where_they_belong_together() -> None:
    """On the machines that have a driver of their own, and on no other."""
    for name in ("model", "worker"):
        assert "nvidia" in kinds()[name].held
        assert "linux-image" in kinds()[name].held
    assert kinds()["relay"].held == ()


def test_rules_let_in_what_they_are_told() -> None:
    """The tunnel on one node alone; ssh from whom it may come, by its version of IP."""
    relay = ruleset(dataclasses.replace(RELAY, ssh_from=("198.18.0.0/24", "2001:db8::/32")), [22])
    model = ruleset(MODEL, [22])

    assert "ct original proto-dst 51820 accept" in relay
    assert "proto-dst" not in model
    assert "    ip saddr { 198.18.0.0/24 } tcp dport { 22 } accept" in relay
    assert "    ip6 saddr { 2001:db8::/32 } tcp dport { 22 } accept" in relay
    assert "    tcp dport { 22 } accept" not in relay
    assert "    tcp dport { 22 } accept" in model
    assert "icmpv6 type mld-listener-query accept" in relay
    assert relay.count("policy drop") == model.count("policy drop") == 2


@pytest.mark.skipif(shutil.which("nft") is None, reason="there is no nft here")
@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace takes root")
@pytest.mark.parametrize(
    "settings",
    [
        RELAY,
        MODEL,
        dataclasses.replace(RELAY, ssh_from=("198.18.0.0/24", "2001:db8::/32"), inside=("virbr0",)),
    ],
)
@pytest.mark.parametrize("ports", [[], [22, 2222]])
def test_kernel_takes_the_rules(settings: Settings, ports: list[int]) -> None:
    """Each variant, in a namespace of its own."""
    done = subprocess.run(
        ["unshare", "--net", "nft", "-c", "-f", "-"],
        input=ruleset(settings, ports), capture_output=True, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def test_variables_of_a_file_are_all_given() -> None:
    """One that is forgotten stops the run, and does not reach the host."""
    for path in FILES.iterdir():
        if "{{" in path.read_text(encoding="utf-8"):
            with pytest.raises(KeyError):
                template(path.name)


# The maintenance window


def test_window_opens_for_a_while_and_leaves_no_trace(machine: Machine) -> None:
    """The file that says that nobody is asked stays as it is underneath."""
    apply_and_confirm(machine, RELAY)
    census = machine.census()

    maintenance.open_window(machine.host, RELAY, 20)

    assert "nameserver 192.0.2.53" in machine.text("run/node-harden/resolv.conf")
    assert ("mount", "--bind", maintenance.WINDOW, maintenance.RESOLV) in machine.tools.calls
    timers = [call for call in machine.tools.calls if call[0] == "systemd-run"]
    assert "--on-active=20min" in timers[0]
    assert timers[0][-3:] == ("harden", "maintenance", "close")
    assert maintenance.close_window(machine.host)
    assert not maintenance.close_window(machine.host)
    assert machine.census() == census
    assert not (machine.root / "run/node-harden").exists()


def test_window_closes_when_its_work_fails(machine: Machine) -> None:
    """And says what failed."""
    machine.tools.failing = {"apt-get"}

    with pytest.raises(Failed, match="lists of packages failed"):
        list(maintenance.upgrade(machine.host, RELAY))

    assert ("unattended-upgrade",) in machine.tools.calls
    assert not maintenance.is_open(machine.host)


def test_open_names_need_no_window(machine: Machine) -> None:
    """Nothing is mounted over anything."""
    with pytest.raises(Refused, match="nothing to open"):
        maintenance.open_window(machine.host, MODEL, 5)

    assert machine.tools.calls == []


def test_what_is_kept_is_for_root_alone(machine: Machine) -> None:
    """Old files may hold what was for nobody else's eyes."""
    apply_and_confirm(machine, RELAY)

    home = machine.host.path(HOME)
    assert home.stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in home.rglob("*") if p.is_file())
