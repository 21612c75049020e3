"""The day the journal is lost: clusters, owners and launches are found again from tags, and nothing is launched twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.daemonproc import Document
from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import CREATOR, Service, start_service

FOUND = "its record was lost"
SEARCHING = "still being looked at for clusters whose record was lost"


@pytest.fixture
def service(lab: LabProcess) -> Iterator[Service]:
    """A service of a test's own that looks often."""
    with start_service(lab, survey__interval="1s", log__level="debug") as service:
        yield service


def lose_journal(service: Service) -> None:
    """Remove the journal, and only that."""
    files = list(service.state.glob("journal.sqlite*"))
    assert files
    for file in files:
        file.unlink()


def hosts(status: Document) -> dict[str, str]:
    """The living instances of a status document, name by id."""
    return {i["id"]: i["name"] for i in status["instances"] if i["stage"] != "gone"}


def launches(service: Service) -> int:
    """How many instances were asked for so far."""
    return sum(int(call["params"]["MaxCount"]) for call in service.lab.calls(action="RunInstances"))


def alive(service: Service) -> set[str]:
    """The ids of the instances that bill."""
    return {i["id"] for i in service.lab.instances(hosts=False) if i["state"] not in {"shutting-down", "terminated"}}


def found(service: Service, name: str = "c") -> Document:
    """The status of a cluster that was found, waited for."""
    service.until_logged("cluster.found", name=name)
    return service.until(lambda status: status["phase"] == "degraded", name)


def runs(service: Service, instance: str) -> str:
    """What set-up has written on a host."""
    return str(service.lab.instance(instance)["host"]["files"]["/home/ubuntu/runs"])


def test_a_cluster_whose_journal_was_lost_is_listed_and_can_be_taken_down(service: Service) -> None:
    """Nothing is done to it before; its alarms stand until its instances are gone, and go with them."""
    before = service.up(service.file(factories_num=2, factories_timeout=1, setup_cmds=["echo x >> runs"]))
    alarms = service.lab.alarms()
    assert len(alarms) == 2
    service.stop()
    lose_journal(service)
    since = len(service.lab.calls())
    service.start()
    status = found(service)
    assert FOUND in status["reason"]
    assert (status["id"], status["owner"], status["creator"]) == (before["id"], before["owner"], CREATOR)
    assert hosts(status) == hosts(before)
    [row] = service.ctl("list", "--json").document
    assert (row["name"], row["phase"]) == ("c", "degraded")
    service.until_logged("region.survey_done", count=3)
    changes = [
        c["action"]
        for c in service.lab.calls(since)
        if not c["action"].startswith(("Describe", "Receive", "Get", "List"))
    ]
    assert {action for action in changes if "Queue" not in action and "Message" not in action} == set()
    assert [a["AlarmName"] for a in service.lab.alarms()] == [a["AlarmName"] for a in alarms]

    service.down()
    assert not alive(service) & hosts(before).keys()
    service.lab.until(lambda: not service.lab.alarms())


def test_up_takes_it_on_again_with_the_instances_that_it_has(service: Service) -> None:
    """The same cluster, the same hosts; no launch, and no set-up command runs twice."""
    file = service.file(factories_num=2, factories_timeout=1, setup_cmds=["echo x >> runs"])
    before = service.up(file)
    asked = launches(service)
    service.kill()
    lose_journal(service)
    service.start()
    found(service)
    after = service.up(file)
    assert (after["id"], after["owner"]) == (before["id"], before["owner"])
    assert hosts(after) == hosts(before)
    assert {i["adopted"] for i in after["instances"]} == {False}
    assert launches(service) == asked
    assert {runs(service, instance) for instance in hosts(after)} == {"x\n"}
    told = sorted(line["source"] for line in service.log("host.key_learned"))
    assert told == ["console"] * 3 + ["replaced"] * 3, "each made its key, and showed it on its console"
    service.down()
    service.lab.until(lambda: not service.lab.alarms())


def test_a_state_folder_that_was_lost_is_succeeded(lab: LabProcess, service: Service) -> None:
    """Its id names it as a predecessor; host keys are read from the console, and tags say whose the hosts are now."""
    file = service.file(factories_num=1, setup_cmds=["echo x >> runs"])
    before = service.up(file)
    [opened] = service.log("journal.opened")
    service.stop()
    shutil.rmtree(service.state)
    with start_service(lab, survey__interval="1s", predecessors=[opened["daemon_id"]]) as successor:
        status = found(successor)
        assert hosts(status) == hosts(before)
        after = successor.up(file)
        assert (after["id"], hosts(after)) == (before["id"], hosts(before))
        assert {line["source"] for line in successor.log("host.key_learned")} == {"console"}
        assert {runs(successor, instance) for instance in hosts(after)} == {"x\n"}
        [mine] = successor.log("journal.opened")
        tags = {i["id"]: i["tags"]["flambed:daemon"] for i in lab.instances(hosts=False) if i["id"] in hosts(after)}
        assert set(tags.values()) == {mine["daemon_id"]}
        successor.down()
    service.start()


def test_up_right_after_the_start_finds_it_by_itself(lab: LabProcess, tmp_path: Path) -> None:
    """Whoever is faster than the survey gets the same cluster, as its owner, without being an admin's adoption."""
    with start_service(lab) as service:
        file = service.file(factories_num=1)
        before = service.up(file)
        asked = launches(service)
        service.stop()
        lose_journal(service)
        service.start()
        for words, code in (("list",), 0), (("status", "c"), 5):
            shown = service.ctl(*words)
            assert (shown.code, SEARCHING in shown.stdout + shown.stderr) == (code, True), shown
        assert SEARCHING in service.api("GET", "/v1/health").document["searching"]
        plan = service.ctl("plan", file, "--json").document
        assert (set(plan["launch"].values()), plan["adopt"]) == ({0}, [])
        after = service.up(file)
        assert (after["id"], hosts(after)) == (before["id"], hosts(before))
        assert launches(service) == asked
        service.down()
    assert not list(tmp_path.iterdir())


def test_an_old_copy_of_the_journal_brings_nothing_twice(service: Service) -> None:
    """Instances and clusters that are newer than the copy are found; what it knows goes on."""
    first = service.file("first", factories_num=1)
    service.up(first)
    service.stop()
    copy = service.folder / "copy"
    copy.mkdir()
    for file in service.state.glob("journal.sqlite*"):
        shutil.copy(file, copy)
    service.start()
    grown = service.up(service.file("first", factories_num=3))
    second = service.up(service.file("second", factories_num=1))
    asked = launches(service)
    service.kill()
    lose_journal(service)
    for file in copy.iterdir():
        shutil.copy(file, service.state)
    service.start()
    assert found(service, "second")["id"] == second["id"]
    status = service.until(lambda status: len(hosts(status)) == 4, "first")
    assert hosts(status).keys() == hosts(grown).keys()
    again = service.up(service.file("first", factories_num=3))
    assert hosts(again).keys() == hosts(grown).keys()
    assert launches(service) == asked
    assert service.ctl("down", "--all", "--yes").code == 0
    assert not alive(service) & (hosts(grown).keys() | hosts(second).keys())
