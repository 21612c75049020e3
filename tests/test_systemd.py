"""The systemd units are ones that systemd accepts, confine the service, and fit what the program does.

What they do under a real systemd is tried in tests/real/.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambed import app, fleet, settings, systemd
from flambed.cli.client import find_socket
from flambed.control import server
from flambed.systemd import Manager
from tests.parts import real_part

UNIT = Path(__file__).parent.parent / "systemd" / "flambed.service"
SOCKET = UNIT.with_suffix(".socket")

HIGHEST_EXPOSURE = 15
"""Tenths: the network alone counts 0.5, sockets 0.4, and the real users that it has to see 0.2."""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    program = real_part("systemd-analyze", "systemd")
    return subprocess.run([program, "--no-pager", *arguments], capture_output=True, text=True, check=False)


def unit(path: Path = UNIT) -> dict[str, list[str]]:
    """Return what a unit sets, by name, whatever the section; `Name=` alone empties what was set before."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def environment() -> dict[str, str]:
    """Return the environment that the unit gives, with the folders that systemd makes for it."""
    pairs = (word.partition("=") for line in unit()["Environment"] for word in shlex.split(line))
    given = {name: value for name, _, value in pairs}
    return {**given, "STATE_DIRECTORY": "/var/lib/" + unit()["StateDirectory"][0]}


@pytest.mark.seed("C05")
def test_systemd_has_nothing_to_say_about_the_units() -> None:
    """`systemd-analyze verify` accepts them and prints not a word."""
    done = analyze("verify", "--man=no", str(UNIT), str(SOCKET))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_would_say_what_is_wrong_with_a_unit(tmp_path: Path) -> None:
    """The test before this one can fail: a misspelt setting is told."""
    wrong = tmp_path / UNIT.name
    wrong.write_text(UNIT.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in analyze("verify", "--man=no", str(wrong)).stderr


def test_the_service_is_confined_as_far_as_it_can_be() -> None:
    """`systemd-analyze security` finds little that it could do beside its work."""
    done = analyze("security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE}", str(UNIT))
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_open_unit_would_not_pass_as_confined(tmp_path: Path) -> None:
    """The threshold means something: without its confinement the unit is over it."""
    opened = tmp_path / UNIT.name
    kept = [line for line in UNIT.read_text().splitlines() if not line.startswith(("Protect", "System", "Capability"))]
    opened.write_text("\n".join(kept) + "\n")
    done = analyze("security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE}", str(opened))
    assert done.returncode != 0


def test_the_service_needs_no_privileges_and_sees_who_calls() -> None:
    """It is an ordinary user without capabilities; in a user namespace every caller would be nobody."""
    set_ = unit()
    assert set_["User"] == ["flambed"]
    assert set_["CapabilityBoundingSet"] == [""]
    assert set_["NoNewPrivileges"] == ["yes"]
    assert "PrivateUsers" not in set_
    assert "AmbientCapabilities" not in set_


@pytest.mark.seed("C05")
def test_what_the_unit_starts_is_a_command_of_flambed(capsys: pytest.CaptureFixture[str]) -> None:
    """ExecStart finds `flambed` along PATH and gives it arguments that it takes."""
    program, name, *arguments = shlex.split(unit()["ExecStart"][0])
    assert (program, name) == ("/usr/bin/env", "flambed")
    with pytest.raises(SystemExit) as ended:
        app.main([*arguments, "--help"])
    assert ended.value.code == 0
    assert "usage: flambed run" in capsys.readouterr().out


def test_the_socket_is_where_flambectl_looks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd opens it, for everybody, and the service does nothing to its folder: it outlives the service."""
    opened = unit(SOCKET)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert opened["ListenStream"] == [str(find_socket(None, {}))] == [str(settings.SYSTEM_SOCKET)]
    assert (opened["SocketMode"], opened["DirectoryMode"]) == (["0666"], ["0755"])
    assert unit()["Requires"] == [SOCKET.name]
    assert "RuntimeDirectory" not in unit(), "systemd would remove it, and the socket in it, whenever the service stops"


def test_a_stop_has_time_for_all_that_is_awaited() -> None:
    """TimeoutStopSec is longer than those who were let in, their requests, and calls to AWS may take one after the other."""
    [seconds] = unit()["TimeoutStopSec"]
    awaited = server.LEAVE_SECONDS + server.STOP_SECONDS + fleet.DRAIN_SECONDS
    assert float(seconds.removesuffix("s")) > awaited + 10


def test_a_crash_loop_does_not_reach_the_limit_that_would_close_the_socket() -> None:
    """systemd's own limit is 5 starts in 10 s, after which the socket unit fails, too, and clients are refused."""
    [pause] = unit()["RestartSec"]
    assert 10 / float(pause.removesuffix("s")) < 5


def test_how_the_service_ended_is_written_where_the_next_start_reads_it() -> None:
    """ExecStopPost names the file of the state folder that the program looks into."""
    [words] = unit()["ExecStopPost"]
    assert words.endswith(f'\'echo "$$SERVICE_RESULT" > "$$STATE_DIRECTORY/{app.LAST_END}"\'')


def test_the_credential_of_the_unit_is_the_one_that_the_program_takes() -> None:
    """LoadCredential= has no path: where there is no such file the service starts all the same."""
    assert unit()["LoadCredential"] == [systemd.AWS_CREDENTIALS]


def test_the_state_is_in_a_folder_for_the_service_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd makes the state folder, and the service finds it."""
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "none.yaml")
    given = environment()
    assert settings.state_path(settings.load(None, given), given) == Path("/var/lib/flambed")
    assert unit()["StateDirectoryMode"] == ["0700"]


def test_bad_settings_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program ends with the code that the unit does not restart after."""
    monkeypatch.setenv("FLAMBED_SSH_PORT", "none")
    monkeypatch.setenv("FLAMBED_CONFIG", str(tmp_path / "absent.yaml"))
    assert unit()["Restart"] == ["on-failure"]
    assert unit()["RestartPreventExitStatus"] == [str(app.main(["run"]))]


# --- talking to it ---


class Listener:
    """The end of $NOTIFY_SOCKET that is systemd's."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(5)

    def next(self) -> dict[str, str]:
        """Return the next message."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """A systemd that only listens."""
    made = Listener(str(tmp_path / "notify"))
    yield made
    made.socket.close()


def test_systemd_is_told_of_each_stage(listener: Listener) -> None:
    """READY, RELOADING with the monotonic time, STOPPING, each in one datagram; a status is one line."""
    manager = Manager({"NOTIFY_SOCKET": listener.socket.getsockname()})
    manager.ready("all is\nwell")
    assert listener.next() == {"READY": "1", "STATUS": "all is well"}
    before = time.monotonic_ns() // 1000
    manager.reloading()
    told = listener.next()
    assert told["RELOADING"] == "1"
    assert before <= int(told["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    manager.stopping("bye")
    assert listener.next() == {"STOPPING": "1", "STATUS": "bye"}


def test_the_address_may_be_an_abstract_one() -> None:
    """A container's systemd names its socket with an @."""
    name = f"flambed-test-{os.getpid()}"
    listener = Listener(f"\0{name}")
    Manager({"NOTIFY_SOCKET": f"@{name}"}).status("here")
    assert listener.next() == {"STATUS": "here"}
    listener.socket.close()


def test_without_systemd_nothing_is_told_and_nothing_fails(tmp_path: Path) -> None:
    """No variables, or a socket that nobody listens on."""
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}):
        manager = Manager(environ)
        manager.ready("well")
        assert (manager.descriptors, manager.watchdog) == ((), None)


def test_what_is_meant_for_another_process_is_not_taken() -> None:
    """LISTEN_PID and WATCHDOG_PID say for whom; no child finds any of it in its environment."""
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1", "HOME": "/"}
    manager = Manager(environ)
    assert (manager.descriptors, manager.watchdog) == ((), None)
    assert environ == {"HOME": "/"}


def test_what_is_meant_for_us_is_taken() -> None:
    """Descriptors count from 3 and are not inherited by children; the watchdog's interval is in seconds."""
    code = (
        "import os; from flambed.systemd import Manager; "
        "os.environ['LISTEN_PID'] = os.environ['WATCHDOG_PID'] = str(os.getpid()); m = Manager(os.environ); "
        "print(m.descriptors, m.watchdog, os.get_inheritable(3), 'LISTEN_FDS' in os.environ)"
    )
    script = f'exec 3</dev/null; exec {shlex.quote(sys.executable)} -c "$0"'
    given = os.environ | {"LISTEN_FDS": "1", "WATCHDOG_USEC": "3000000"}
    done = subprocess.run(["sh", "-c", script, code], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(3,) 3.0 False False"


async def test_the_watchdog_is_fed_by_the_loop_twice_in_each_interval(listener: Listener) -> None:
    """Once at once, and again after half of it."""
    manager = Manager({"NOTIFY_SOCKET": listener.socket.getsockname()})
    loop = asyncio.get_running_loop()
    began = loop.time()
    feeding = asyncio.create_task(manager.feed(0.2))
    for _ in range(3):
        assert await asyncio.to_thread(listener.next) == {"WATCHDOG": "1"}
    assert loop.time() - began >= 0.19
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)


def test_a_credentials_file_is_used_unless_another_one_is_named(tmp_path: Path) -> None:
    """Only where there is one; the environment comes over it."""
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    systemd.use_credentials(environ)
    assert "AWS_SHARED_CREDENTIALS_FILE" not in environ
    file = tmp_path / systemd.AWS_CREDENTIALS
    file.write_text("[default]\n")
    systemd.use_credentials(environ)
    assert environ["AWS_SHARED_CREDENTIALS_FILE"] == str(file)
    named = environ | {"AWS_SHARED_CREDENTIALS_FILE": "/elsewhere"}
    systemd.use_credentials(named)
    assert named["AWS_SHARED_CREDENTIALS_FILE"] == "/elsewhere"


@pytest.mark.parametrize(("written", "told"), [("watchdog\n", "watchdog"), ("success\n", None), ("\n", None)])
def test_an_end_that_nobody_asked_for_is_told_once(tmp_path: Path, written: str, told: str | None) -> None:
    """As ExecStopPost wrote it; the next start is not told again."""
    file = tmp_path / "last-end"
    file.write_text(written)
    assert systemd.earlier_end(file) == told
    assert systemd.earlier_end(file) is None
