"""The main job from end to end: the service and flambectl as processes, against the lab's AWS and hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.lab.labproc import LabProcess, start_lab
from tests.lab.serviceproc import Service, start_service

READS = ("Describe", "Get", "List", "Receive")
"""How calls begin that change nothing."""

SETUP = 1.0
"""Seconds that the set-up of a host takes by itself."""


@pytest.fixture(scope="module")
def slow_lab() -> Iterator[LabProcess]:
    """A lab whose instances take up to three seconds to run, with AWS's quotas."""
    with start_lab("--boot", "3", "--quotas", "on") as lab:
        yield lab


@pytest.fixture
def slow(slow_lab: LabProcess) -> Iterator[Service]:
    """A service against that lab; its first queue reader has connected."""
    with start_service(slow_lab) as service:
        yield service


def seconds(time: str) -> float:
    """UNIX seconds of a time in RFC 3339."""
    return datetime.fromisoformat(time).timestamp()


def opened(lab: LabProcess, status: dict[str, Any]) -> float:
    """When the last of a cluster's hosts opened its SSH port, UNIX seconds."""
    ids = {instance["id"] for instance in status["instances"]}
    return max(float(i["ssh_since"]) for i in lab.instances(hosts=False) if i["id"] in ids)


def lateness(lab: LabProcess, status: dict[str, Any]) -> float:
    """How many seconds after the slowest host could have been ready the cluster was."""
    return seconds(status["changed_at"]) - opened(lab, status) - SETUP


def changing(calls: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The calls that change something in AWS; that a message was read is no change."""
    return [
        (call["service"], call["action"])
        for call in calls
        if not call["action"].startswith(READS) and call["service"] != "sqs"
    ]


@pytest.mark.seed("S18", "C01", "C02", "C03")
def test_seventeen_hosts_are_ready_as_soon_as_the_slowest_can_be_and_then_nothing_is_done(slow: Service) -> None:
    """One RunInstances a role, no Describe loop, no decision once ready, and nothing left after `down`."""
    lab = slow.lab
    before = len(lab.calls())
    status = slow.up(slow.file(factories_num=16, setup_cmds=[f"sleep {SETUP:g}"]))

    late = lateness(lab, status)
    assert late < 1.5, f"ready {late:.2f} s after the slowest host could have been"
    names = ["c_orchestrator", *(f"c_factory_{index}" for index in range(16))]
    assert [instance["name"] for instance in status["instances"]] == names

    calls = lab.calls(before)
    launches = [call for call in calls if call["action"] == "RunInstances"]
    assert sorted(int(call["params"]["MaxCount"]) for call in launches) == [1, 16]
    assert abs(launches[0]["time"] - launches[1]["time"]) < 0.5, "the roles are launched concurrently"
    launched = calls.index(launches[0])
    looks = [call["action"] for call in calls[launched:] if call["action"].startswith("Describe")]
    assert len(looks) <= 3, f"from launch to ready: {looks}"
    assert max(Counter(looks).values(), default=0) <= 1, f"asked again and again: {looks}"

    calls_then = len(lab.calls())
    facts_then = [line["fact"] for line in slow.log() if line["fact"] is not None]
    for words in (["status", "c"], ["why", "c"], ["list"], ["logs", "c"], ["plan", slow.file(factories_num=16)]):
        assert slow.ctl(*words).code == 0, words
    assert changing(lab.calls(calls_then)) == []
    assert [line["fact"] for line in slow.log() if line["fact"] is not None] == facts_then, "it decided something"

    slow.down()
    ids = {instance["id"] for instance in status["instances"]}
    assert {i["state"] for i in lab.instances(hosts=False) if i["id"] in ids} == {"terminated"}
    assert lab.boto("ec2").describe_volumes()["Volumes"] == []
    assert lab.alarms() == []


@pytest.mark.seed("S35", "S33")
def test_with_timeouts_every_host_is_armed_before_it_is_set_up_and_ready_little_later(slow: Service) -> None:
    """Its alarm or its own timer is seen to stand; alarms come at three a second, and fake points keep them from firing."""
    lab = slow.lab
    before = len(lab.calls())
    file = slow.file(factories_num=16, factories_timeout=1, orchestrator_timeout=1, setup_cmds=[f"sleep {SETUP:g}"])
    status = slow.up(file)

    late = lateness(lab, status)
    assert late < 1.5 + 6.0, f"ready {late:.2f} s after the slowest host could have been"
    ids = {instance["id"]: instance for instance in status["instances"]}
    assert all(instance["protected"] for instance in ids.values())
    slow.until(lambda status: all(instance["protection"]["alarm"] for instance in status["instances"]))
    calls = lab.calls(before)
    refused = [call["error"] for call in calls if call["error"]]
    # On a machine that stutters calls bunch on their way; a pacer that does not keep the quotas is refused at every turn.
    assert len(refused) <= len(ids) // 4, f"the quotas are kept, not run into: {refused}"

    alarms = {alarm["AlarmName"]: alarm for alarm in lab.alarms()}
    assert set(alarms) == {f"Flambe_Instance_Terminate_CPU_Utilization_{instance}" for instance in ids}
    described = lab.boto("cloudwatch").describe_alarms()["MetricAlarms"]
    shape = Counter(
        (a["Threshold"], a["Period"], a["EvaluationPeriods"], a["Statistic"], *a["AlarmActions"]) for a in described
    )
    ends = "arn:aws:automate:us-east-1:ec2:terminate"
    assert shape == {(0.5, 60, 60, "Average", ends): 16, (4.0, 60, 60, "Average", ends): 1}

    started = {line["instance"]: line for line in reversed(slow.log("setup.command_started"))}
    stood = {
        line["instance"]: line
        for line in sorted(
            slow.log("protection.alarm_armed", "instance.timer_seen"),
            key=lambda line: line["fact"],
            reverse=True,
        )
    }
    assert started.keys() == stood.keys() == ids.keys()
    assert all(stood[host]["fact"] < started[host]["fact"] for host in ids), "set up before somebody would end it"
    points = [call for call in calls if call["action"] == "PutMetricData"]
    assert points, "no fake points were written"

    slow.down()
    lab.until(lambda: lab.alarms() == [])


@pytest.mark.seed("S30")
def test_down_returns_when_ec2_has_confirmed_and_keeps_no_key(service: Service) -> None:
    """`status` still answers `gone`, the private keys are deleted, other clusters go on, and `down` again is done."""
    service.up(service.file("stays", factories_num=1))
    status = service.up(service.file("goes", factories_num=1))
    kept = [path for path in service.state.rglob("*") if path.is_file() and status["id"] in str(path)]
    assert any("PRIVATE KEY" in path.read_text(errors="replace") for path in kept), kept
    assert {path.stat().st_mode & 0o077 for path in kept} == {0}

    gone = service.down("goes")
    states = {i["id"]: i["state"] for i in service.lab.instances(hosts=False)}
    assert {states[instance["id"]] for instance in status["instances"]} == {"terminated"}
    assert {instance["stage"] for instance in gone["instances"]} == {"gone"}
    assert service.ctl("status", "goes").stdout.startswith("goes in us-east-1 is gone")
    kept = [path for path in service.state.rglob("*") if path.is_file() and status["id"] in str(path)]
    assert not any("PRIVATE KEY" in path.read_text(errors="replace") for path in kept), kept
    assert service.down("goes")["phase"] == "gone"

    assert service.status("stays")["phase"] == "ready"
    everything = service.ctl("down", "--all", "--yes")
    assert everything.code == 0, everything
    assert service.status("stays")["phase"] == "gone"
    assert service.ctl("down", "nobody", "--yes").code == 5
