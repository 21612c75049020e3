"""A second `up`: nothing twice, only what is missing, nothing away unless asked for, and what cannot change is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lab.serviceproc import CREATOR, Service


def ids(status: dict[str, Any]) -> dict[str, str]:
    """Name -> id of what a cluster has."""
    return {i["name"]: i["id"] for i in status["instances"] if i["stage"] != "gone"}


@pytest.mark.seed("S01", "S02", "S18", "S22")
def test_up_again_launches_what_is_missing_and_takes_away_only_what_it_may(service: Service) -> None:
    """The same, more, fewer, fewer with --shrink, with other machines, and again after `down`: one cluster's changes."""
    lab = service.lab
    first = ids(service.up(service.file(factories_num=2, setup_cmds=["echo once >> runs"])))
    begun = len(lab.calls())
    same = ids(service.up(service.file(factories_num=2, setup_cmds=["echo once >> runs"])))
    assert same == first
    assert lab.calls(begun, action="RunInstances") == []
    assert lab.instance(first["c_factory_0"])["host"]["files"]["/home/ubuntu/runs"] == "once\n"

    more = ids(service.up(service.file(factories_num=4, setup_cmds=["echo once >> runs"])))
    assert {name: more[name] for name in first} == first
    assert sorted(more) == ["c_factory_0", "c_factory_1", "c_factory_2", "c_factory_3", "c_orchestrator"]
    [launch] = lab.calls(begun, action="RunInstances")
    assert int(launch["params"]["MaxCount"]) == 2

    fewer = service.file(factories_num=1, setup_cmds=["echo once >> runs"])
    assert ids(service.up(fewer)) == more, "nothing is taken away unasked"
    shrunk = service.ctl("up", fewer, "--shrink", "--json")
    assert shrunk.code == 0, shrunk
    service.until(lambda status: len(ids(status)) == 2)
    left = ids(service.status())
    assert left == {name: more[name] for name in ("c_orchestrator", "c_factory_0")}, "the highest indices go"

    other = service.file(factories_num=1, factories_type="g5.xlarge", volume_size=200)
    refused = service.ctl("up", other)
    assert refused.code == 1, refused
    assert "factories_type" in refused.stderr
    assert "volume_size" in refused.stderr
    assert "key_name" not in refused.stderr
    assert ids(service.status()) == left
    answer = service.api("PUT", "/v1/clusters/c", Path(other).read_text(), key=True)
    assert (answer.status, answer.document["error"]["code"]) == (409, "conflict")

    service.down()
    again = ids(service.up(service.file(factories_num=1, factories_type="g5.xlarge")))
    assert not set(again.values()) & set(more.values()), "a new life has new machines"
    service.down()


@pytest.mark.idle("loss of an instance")
@pytest.mark.seed("S22")
def test_a_factory_that_is_lost_is_replaced_under_its_own_name_by_the_next_up(service: Service) -> None:
    """The cluster is degraded meanwhile and says so; the new host takes the lowest index that is free."""
    file = service.file(factories_num=3)
    was = ids(service.up(file))
    service.lab.fault({"kind": "die", "instance": was["c_factory_1"]})
    status = service.until_phase("degraded")
    assert "1 of 3 factories missing" in status["reason"]
    now = ids(service.up(file))
    assert sorted(now) == sorted(was)
    assert {name for name in was if now[name] != was[name]} == {"c_factory_1"}
    service.down()


def test_names_that_several_creators_have_need_the_creator(service: Service) -> None:
    """NAME alone is a conflict that lists them; CREATOR/NAME is understood; each is a cluster of its own."""
    service.up(service.file("twin", factories_num=1))
    service.up(service.file("twin", factories_num=1, creator="else@example.com"))
    ambiguous = service.ctl("status", "twin")
    assert ambiguous.code == 1
    assert f"{CREATOR}/twin" in ambiguous.stderr
    assert "else@example.com/twin" in ambiguous.stderr
    mine = service.ctl("status", f"{CREATOR}/twin", "--json")
    assert (mine.code, mine.document["creator"]) == (0, CREATOR)
    assert service.ctl("down", "else@example.com/twin", "--yes").code == 0
    listed = service.ctl("list", "--json").document
    assert {(one["creator"], one["phase"]) for one in listed if one["name"] == "twin"} == {
        (CREATOR, "ready"),
        ("else@example.com", "gone"),
    }
    service.down(f"{CREATOR}/twin")


def test_plan_tells_what_up_would_do_and_does_nothing(service: Service) -> None:
    """Before the first `up`, and for a cluster that would grow."""
    begun = len(service.lab.calls())
    plan = service.ctl("plan", service.file("p"), "--json").document
    assert plan["launch"] == {"Orchestrator": 1, "Factory": 2}
    assert service.ctl("status", "p").code == 5
    assert service.lab.calls(begun, action="RunInstances") == []
    status = service.up(service.file("p"))
    plan = service.ctl("up", service.file("p", factories_num=5), "--plan", "--json").document
    assert plan["launch"] == {"Orchestrator": 0, "Factory": 3}
    assert set(plan["keep"]) == set(ids(status).values())
    service.down("p")


def test_up_while_it_is_being_taken_down_is_refused(service: Service) -> None:
    """A cluster that stops cannot be wanted at the same time; it is told what to wait for."""
    file = service.file(factories_num=1)
    service.up(file)
    service.lab.fault({"kind": "latency", "action": "TerminateInstances", "seconds": 3.0})
    assert service.ctl("down", "c", "--yes", "--detach").code == 0
    refused = service.ctl("up", file)
    assert refused.code == 1, refused
    assert "being taken down" in refused.stderr
    service.until_phase("gone")
