"""One secret each in key, tag, set-up command, its output and user data: where it belongs, and nowhere else."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import Service, start_service

TAG, COMMAND, OUTPUT, USER_DATA = (f"canary-{what}-5f1c7a" for what in ("tag", "command", "output", "user-data"))

EVERYWHERE_BELOW_STATE: Final = {
    "keys/": {"key"},
    "outputs/": {"command", "output"},
    # What shall be is kept, or a restart would not know what to launch and to run.
    "journal.sqlite": {"tag", "command", "user data"},
}
"""Prefix of a path in the state folder -> the secrets that belong there; in all other files there is none."""


@pytest.fixture(scope="module")
def canaries(_session_lab: LabProcess) -> dict[str, str]:
    """The secrets; of the private key a line out of its middle."""
    lines = Path(_session_lab.info["key"]).read_text().splitlines()
    return {"key": lines[len(lines) // 2], "tag": TAG, "command": COMMAND, "output": OUTPUT, "user data": USER_DATA}


@pytest.fixture(scope="module")
def service(_session_lab: LabProcess) -> Iterator[Service]:
    """A service that logs everything, with a cluster whose set-up has failed: failures quote most."""
    with start_service(_session_lab, log__level="debug") as running:
        file = running.file(
            factories_num=1,
            tags={"note": TAG},
            setup_cmds=[f": {COMMAND}; printf 'canary-%s-5f1c7a\\n' output; exit 7"],
            user_data=f"#!/bin/sh\n# {USER_DATA}\n",
        )
        assert running.ctl("up", file).code == 1
        yield running
        assert running.ctl("down", "c", "--yes").code == 0


def found_in(text: str | bytes, canaries: dict[str, str]) -> set[str]:
    """Which of the secrets are in a text, as they are or in base64."""
    raw = text.encode() if isinstance(text, str) else text
    return {
        what
        for what, secret in canaries.items()
        for form in (secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")[:-1])
        if form in raw
    }


def test_each_secret_is_where_it_belongs(service: Service, canaries: dict[str, str]) -> None:
    """Else the other tests would look for something that never was."""
    kept = service.ctl("logs", "c").stdout
    assert found_in(kept, canaries) >= {"output"}
    [orchestrator] = [one for one in service.lab.instances() if one["tags"].get("Name") == "c_orchestrator"]
    assert orchestrator["tags"]["note"] == TAG
    assert USER_DATA in str(orchestrator), "its host has the user data"
    below = {name: found_in(path.read_bytes(), canaries) for name, path in files(service).items()}
    assert {what for found in below.values() for what in found} == set(canaries)


def files(service: Service) -> dict[str, Path]:
    """Every file of the state folder, by its path in there."""
    return {str(path.relative_to(service.state)): path for path in service.state.rglob("*") if path.is_file()}


def test_the_state_folder_has_each_secret_in_its_own_place_only(service: Service, canaries: dict[str, str]) -> None:
    """The private key in the folder of keys, and not in the journal; and others can read nothing of all that."""
    for name, path in files(service).items():
        belongs = next((what for prefix, what in EVERYWHERE_BELOW_STATE.items() if name.startswith(prefix)), set())
        assert found_in(path.read_bytes(), canaries) <= belongs, name
    assert not service.state.stat().st_mode & 0o077


def test_no_secret_is_in_the_log(service: Service, canaries: dict[str, str]) -> None:
    """At its most talkative, over a whole failed launch."""
    assert len(service.log()) > 20
    for line in service.log():
        assert found_in(str(line), canaries) == set(), line


@pytest.mark.parametrize("tool", ["export", "replay", "check"])
def test_no_secret_is_in_what_the_tools_of_the_journal_print(
    tool: str, service: Service, canaries: dict[str, str]
) -> None:
    """They are for sending to somebody else."""
    shown = subprocess.run(
        [sys.executable, "-m", "flambed.app", "journal", tool, str(service.state / "journal.sqlite")],
        env=service.environ(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert len(shown.stdout) > 20
    assert found_in(shown.stdout + shown.stderr, canaries) == set()


def test_no_secret_is_in_an_answer_that_it_does_not_belong_to(service: Service, canaries: dict[str, str]) -> None:
    """Its owner sees tags among the instances, and the failed command in its status; the key and the user data nobody sees."""
    everybody = ("/v1/clusters", "/v1/health", "/v1/doctor", "/v1/events", "/v1/openapi.json", "/v1/orphans")
    for path in everybody:
        answer = service.text(path)
        assert found_in(answer, canaries) == set(), path
    assert found_in(service.metrics(), canaries) == set()
    for path in ("/v1/clusters/c", "/v1/clusters/c/why", "/v1/clusters/c/ssh", "/v1/instances"):
        assert found_in(service.text(path), canaries) <= {"tag", "command", "output"}, path


@pytest.mark.parametrize("change", [{"factories_num": 0}, {"nonsense": 1}, {"subnet_id": "subnet-9"}])
def test_no_secret_is_in_the_refusal_of_a_file_that_is_wrong_elsewhere(
    service: Service, canaries: dict[str, str], change: dict[str, Any]
) -> None:
    """Neither in the answer nor in the log's line about it."""
    wanted: dict[str, Any] = {
        "factories_num": 1,
        "tags": {"note": TAG},
        "setup_cmds": [COMMAND],
        "user_data": f"#!/bin/sh\n# {USER_DATA}\n",
    }
    file = service.file(**wanted | change)
    refused = service.api("PUT", "/v1/clusters/c", Path(file).read_text(), key=True)
    assert refused.status in {400, 409}, refused
    assert found_in(str(refused.document), canaries) == set()
    assert found_in(str(service.until_logged("control.request_refused")[-1]), canaries) == set()
