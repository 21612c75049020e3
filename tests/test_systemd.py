"""The systemd unit is one that systemd accepts, confines the service, and fits what the program does."""

from __future__ import annotations

import shlex
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from flambed import app, settings
from flambed.cli.client import find_socket
from tests.parts import real_part

UNIT = Path(__file__).parent.parent / "systemd" / "flambed.service"

HIGHEST_EXPOSURE = 20
"""Tenths: systemd calls 2.0 and less the least exposed; 1.5 is what remains for a service that uses the network."""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze."""
    program = real_part("systemd-analyze", "systemd")
    return subprocess.run([program, "--no-pager", *arguments], capture_output=True, text=True, check=False)


def unit() -> dict[str, list[str]]:
    """Return what the unit sets, by name, whatever the section; `Name=` alone empties what was set before."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def environment() -> dict[str, str]:
    """Return the environment that the unit gives, with the folders that systemd makes for it."""
    pairs = (word.partition("=") for line in unit()["Environment"] for word in shlex.split(line))
    given = {name: value.replace("%t", "/run") for name, _, value in pairs}
    return {**given, "STATE_DIRECTORY": "/var/lib/" + unit()["StateDirectory"][0]}


@pytest.mark.seed("C05")
def test_systemd_has_nothing_to_say_about_the_unit() -> None:
    """`systemd-analyze verify` accepts it and prints not a word."""
    done = analyze("verify", "--man=no", str(UNIT))
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


def test_the_socket_is_where_flambectl_looks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an ordinary user the service would open it elsewhere, so the unit says where."""
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "none.yaml")
    given = environment()
    socket = settings.socket_path(settings.load(None, given), given, uid=999)
    assert socket == settings.SYSTEM_SOCKET
    assert socket.parent.name == unit()["RuntimeDirectory"][0]
    assert unit()["RuntimeDirectoryMode"] == ["0755"], "everybody may come as far as the socket"
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert find_socket(None, {}) == socket


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
