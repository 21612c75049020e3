"""One secret each in key, tag, set-up command, its output and user data: where it belongs, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import canaries as search
from tests.lab.canaries import TAG, USER_DATA, Canaries, found_in
from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import Service


@pytest.fixture(scope="module")
def canaries(_session_lab: LabProcess) -> Canaries:
    """The secrets."""
    return search.canaries_of(_session_lab)


@pytest.fixture(scope="module")
def service(_session_lab: LabProcess) -> Iterator[Service]:
    """A service that they were entrusted to."""
    with search.entrusted(_session_lab) as running:
        yield running


def test_each_secret_is_where_it_belongs(service: Service, canaries: Canaries) -> None:
    """Else the other tests would look for something that never was."""
    kept = service.ctl("logs", "c").stdout
    assert found_in(kept, canaries) >= {"output"}
    [orchestrator] = [one for one in service.lab.instances() if one["tags"].get("Name") == "c_orchestrator"]
    assert orchestrator["tags"]["note"] == TAG
    assert USER_DATA in str(orchestrator), "its host has the user data"
    below = {name: found_in(path.read_bytes(), canaries) for name, path in search.files(service).items()}
    assert {what for found in below.values() for what in found} == set(canaries)


def test_the_state_folder_has_each_secret_in_its_own_place_only(service: Service, canaries: Canaries) -> None:
    """The private key in the folder of keys, and not in the journal; and others can read nothing of all that."""
    search.check_state_folder(service, canaries)
    assert not service.state.stat().st_mode & 0o077


def test_no_secret_is_in_the_log(service: Service, canaries: Canaries) -> None:
    """At its most talkative, over a whole failed launch."""
    search.check_log(service, canaries)


@pytest.mark.parametrize("tool", ["export", "replay", "check"])
def test_no_secret_is_in_what_the_tools_of_the_journal_print(tool: str, service: Service, canaries: Canaries) -> None:
    """They are for sending to somebody else."""
    search.check_tool(tool, service, canaries)


def test_no_secret_is_in_an_answer_that_it_does_not_belong_to(service: Service, canaries: Canaries) -> None:
    """Its owner sees tags among the instances, and the failed command in its status; the key and the user data nobody sees."""
    search.check_everybodys_answers(service, canaries)
    search.check_the_owners_answers(service, canaries)


@pytest.mark.parametrize("change", [{"factories_num": 0}, {"nonsense": 1}, {"subnet_id": "subnet-9"}])
def test_no_secret_is_in_the_refusal_of_a_file_that_is_wrong_elsewhere(
    service: Service, canaries: Canaries, change: dict[str, Any]
) -> None:
    """Neither in the answer nor in the log's line about it."""
    search.check_refusal(change, service, canaries)
