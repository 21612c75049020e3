"""Idle protection over the real wire, on a sped-up clock: who is ended, by whom, and when; and who never is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from flambed.clock import Clock
from tests.lab.labproc import start_lab
from tests.lab.serviceproc import Service, start_service

MINUTE = 0.4  # real seconds
T = 12  # minutes of the timeout: a fifth of an hour
WITHIN = 12
"""Minutes after its timeout within which an idle host has to be gone: the alarm's evaluation, and a late point."""


@contextmanager
def opened(namespace: str = "accept") -> Iterator[Service]:
    """A service and a lab in which a minute is over in no time."""
    speed = ("--minute", str(MINUTE), "--boot", "0.3", "--ssh-delay", "0.1", "--shutdown", "0.1", "--quotas", "off")
    with (
        start_lab(*speed, "--aws-namespace", namespace) as lab,
        start_service(lab, ssh__deadline="4h", survey__interval="2s", log__level="debug") as service,
    ):
        yield service


def up(service: Service, **changes: Any) -> dict[str, str]:
    """Bring up a cluster whose factories end when they are idle; return its instances by name."""
    plain: dict[str, Any] = {
        "factories_num": 1,
        "factories_timeout": T / 60,
        "orchestrator_timeout": -1,
        "setup_cmds": [],
    }
    status = service.up(service.file(**(plain | changes)))
    return {row["name"]: row["id"] for row in status["instances"]}


def minutes(seconds: float) -> float:
    """Return real seconds as minutes of the lab."""
    return seconds / MINUTE


def gone(service: Service, instance: str) -> float:
    """Wait until an instance has ended, and return how many minutes that took from now."""
    began = time.monotonic()
    service.lab.until_state([instance], "terminated", within=MINUTE * 60 * 4)
    return minutes(time.monotonic() - began)


def lived(service: Service, instance: str) -> float:
    """Return the minutes from a host's being ready to its end."""
    [ready] = [line for line in service.log("instance.ready") if line["instance"] == instance]
    ended: float = service.lab.instance(instance)["ending_since"]
    return minutes(ended - datetime.fromisoformat(ready["timestamp"]).timestamp())


def rest(count: float) -> None:
    """Let minutes of the lab pass."""
    time.sleep(count * MINUTE)


@pytest.mark.idle("votes", "factories gone", "loss of an instance")
@pytest.mark.parametrize(
    "namespace",
    [
        pytest.param("accept", marks=pytest.mark.idle("AWS/ accepted")),
        pytest.param("refuse", marks=pytest.mark.idle("AWS/ refused", "own fakes", "change of mode")),
    ],
)
def test_idle_hosts_end_and_those_in_use_do_not(namespace: str) -> None:
    """A busy CPU, a busy GPU with the CPU at nothing, a person who types: they stay. A forgotten tmux does not."""
    with opened(namespace) as service:
        lab = service.lab
        names = up(service, factories_num=5, factories_type="g4dn.xlarge")
        idle, tmux, cpu, gpu, typing = (names[f"c_factory_{number}"] for number in range(5))
        lab.fault({"kind": "cpu", "instance": cpu, "percent": 60.0})
        lab.fault({"kind": "gpu", "instance": gpu, "percent": 97})
        lab.fault({"kind": "tty", "instance": typing, "typing": True})
        lab.fault({"kind": "tty", "instance": tmux, "typing": False})
        gone(service, idle)
        assert T - 2 <= lived(service, idle) <= T + WITHIN
        assert gone(service, tmux) <= 30 + WITHIN, "opening it was the last input"
        rest(T)
        states = {name: lab.instance(instance)["state"] for name, instance in names.items()}
        assert [states[f"c_factory_{n}"] for n in (2, 3, 4)] == ["running"] * 3
        assert states["c_orchestrator"] == "running"
        assert lab.calls(action="TerminateInstances") == [], "their alarms did it"
        assert {line["vote"] for line in service.log("instance.vote_began")} == {"gpu", "terminal"}
        [why] = service.ctl("why", "c", gpu, "--json").document["hosts"]
        signals = {signal["signal"]: signal["value"] for signal in why["signals"]}
        assert signals["gpu"] == "97 %"
        assert "its GPU is in use" in why["summary"]
        assert why["terminates_at"] is None
        lab.fault({"kind": "gpu", "instance": gpu, "percent": 0})
        assert gone(service, gpu) <= 5 + T + WITHIN
        status = service.until(lambda status: status["reason"] == "idle_ended")
        assert status["phase"] == "ready"


@pytest.mark.idle("the alarm did not act")
def test_the_service_alone_ends_an_idle_host() -> None:
    """Its alarm cannot be put and its timer needs a day: ten minutes after it was due the service ends it."""
    with opened() as service:
        lab = service.lab
        lab.fault({"kind": "error", "action": "PutMetricAlarm", "code": "AccessDenied", "status": 403, "count": None})
        names = up(service)
        row = next(row for row in service.status()["instances"] if row["role"] == "Factory")
        assert (row["protected"], row["protection"]) == (True, {"alarm": False, "timer": True})
        took = gone(service, names["c_factory_0"])
        assert T <= took <= T + 10 + WITHIN
        [call] = lab.calls(action="TerminateInstances")
        assert names["c_factory_0"] in str(call["params"])
        [judged] = [line for line in service.log("instance.judged") if line["finding"] == "due"]
        assert judged["why"] == f"idle for {T} minutes"
        status = service.until(lambda status: status["reason"] == "idle_ended")
        assert status["phase"] == "ready"


@pytest.mark.idle("CloudWatch unreachable")
def test_the_service_ends_nobody_whose_cpu_it_cannot_read() -> None:
    """No data is not idleness, and a busy host that only the readings know of is none of its business."""
    with opened() as service:
        lab = service.lab
        lab.fault({"kind": "error", "action": "PutMetricAlarm", "code": "AccessDenied", "status": 403, "count": None})
        names = up(service)
        lab.fault({"kind": "error", "action": "GetMetricData", "code": "InternalFailure", "status": 500, "count": None})
        rest(3 * T)
        assert lab.instance(names["c_factory_0"])["state"] == "running"
        assert lab.calls(action="TerminateInstances") == []


@pytest.mark.idle("the alarm did not act", "alarm already in ALARM")
def test_a_protected_host_is_reported_and_never_unprotected() -> None:
    """`why` says what is in the way; the service asks again, and touches no attribute. A hold takes its alarm to OK again."""
    with opened() as service:
        lab = service.lab
        names = up(service)
        factory = names["c_factory_0"]
        lab.boto("ec2").modify_instance_attribute(InstanceId=factory, DisableApiTermination={"Value": True})
        begun = len(lab.calls())
        service.until_logged("instance.judged", finding="due", within=60)
        service.until(
            lambda status: any(
                "protect" in (row["reason"] or "").lower() or "disableApiTermination" in (row["reason"] or "")
                for row in status["instances"]
            ),
            within=60,
        )
        assert lab.instance(factory)["state"] == "running"
        assert lab.calls(begun, action="ModifyInstanceAttribute") == []

        def state() -> str:
            return next(str(alarm["StateValue"]) for alarm in lab.alarms() if factory in alarm["AlarmName"])

        assert state() == "ALARM"
        assert service.ctl("hold", "c", "--for", "1h", "--why", "a demonstration").code == 0
        lab.until(lambda: state() == "OK", within=60)
        by_hand = {"SetAlarmState", "EnableAlarmActions", "DisableAlarmActions"}
        assert not by_hand & {call["action"] for call in lab.calls(begun)}
        lab.boto("ec2").modify_instance_attribute(InstanceId=factory, DisableApiTermination={"Value": False})


@pytest.mark.idle("votes")
def test_a_hold_writes_every_point_that_it_should_half_an_hour_ahead() -> None:
    """Ten hosts, thirty minutes: no minute is left out, and one call a minute serves all of them."""
    with opened() as service:
        lab = service.lab
        names = up(service, factories_num=10)
        assert service.ctl("hold", "c", "--for", "12h", "--why", "a demonstration").code == 0
        begun = len(lab.calls())
        rest(30)
        calls = lab.calls(begun, action="PutMetricData")
        assert 28 <= len(calls) <= 33
        found = lab.boto("cloudwatch").get_metric_statistics(
            Namespace="AWS/EC2",
            MetricName="CPUUtilization",
            Dimensions=[{"Name": "InstanceId", "Value": names["c_factory_7"]}],
            StartTime=Clock(MINUTE).now() - 25 * 60,
            EndTime=Clock(MINUTE).now() + 31 * 60,
            Period=60,
            Statistics=["Maximum"],
        )["Datapoints"]
        full = sorted(point["Timestamp"].timestamp() for point in found if point["Maximum"] == 100.0)
        assert len(full) >= 25 + 28
        assert {later - earlier for earlier, later in pairwise(full)} == {60.0}
        assert all(lab.instance(instance)["state"] == "running" for instance in names.values())
        assert service.ctl("release", "c").code == 0


@pytest.mark.idle("timeout changed on a live cluster", "-1")
def test_a_timeout_that_becomes_never_reaches_alarm_and_timer() -> None:
    """The alarm is deleted, the timer says that it is off, and the host stays."""
    with opened() as service:
        lab = service.lab
        names = up(service)
        service.until_logged("instance.timer_seen", state="renewed")
        service.up(service.file(factories_num=1, factories_timeout=-1, orchestrator_timeout=-1, setup_cmds=[]))
        service.until_logged("instance.timer_seen", state="off", within=MINUTE * 10)
        rest(2 * T)
        assert lab.instance(names["c_factory_0"])["state"] == "running"
        assert lab.boto("cloudwatch").describe_alarms()["MetricAlarms"] == []


@pytest.mark.idle("set-up running")
def test_an_alarm_that_fires_during_set_up_is_told_of_and_its_host_is_replaced() -> None:
    """CloudWatch takes no points, so that no vote holds it off; EC2's own reason is no more than "User initiated"."""
    with opened() as service:
        lab = service.lab
        lab.fault({"kind": "error", "action": "PutMetricData", "code": "InternalFailure", "status": 500, "count": None})
        file = service.file(factories_num=1, factories_timeout=5 / 60, orchestrator_timeout=-1, setup_cmds=["sleep 6"])
        service.ctl("up", "--detach", file)
        first = service.until(lambda status: any(row["stage"] == "setting_up" for row in status["instances"]))
        [factory] = [row["id"] for row in first["instances"] if row["role"] == "Factory"]
        assert gone(service, factory) <= 5 + WITHIN
        lab.clear_faults()
        service.until_phase("ready", within=60)
        [told] = service.log("instance.alarm_fired_in_use")
        assert (told["instance"], told["level"]) == (factory, "error")
        assert "Threshold" in told["why"]


@pytest.mark.idle("clock skew")
def test_a_service_whose_clock_is_wrong_ends_nobody_by_itself() -> None:
    """Points are stamped by AWS's clock, two minutes ahead of ours; a host that idled in vain for its alarm stays."""
    skew = 120.0
    with opened() as service:
        lab = service.lab
        lab.fault({"kind": "skew", "seconds": skew})
        lab.fault({"kind": "error", "action": "PutMetricAlarm", "code": "AccessDenied", "status": 403, "count": None})
        names = up(service, factories_timeout=0.1)
        [judged] = service.until_logged("instance.judged", within=60)
        assert (judged["finding"], judged["why"]) == ("unknown", f"this machine's clock is {skew:.0f} s off AWS's")
        rest(6)
        assert lab.instance(names["c_factory_0"])["state"] == "running"
        assert lab.calls(action="TerminateInstances") == []
