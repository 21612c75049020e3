"""Idle protection over the real wire, case by case, several clusters at a time in one lab."""

from __future__ import annotations

import signal
from os import kill
from typing import Any

import pytest

from tests.lab.idling import BEFORE, WITHIN, Idling, idling
from tests.lab.serviceproc import CREATOR

MINUTE = 0.3  # real seconds
T = 12
"""Minutes of the timeout."""


PROBE = 5.0
"""Minutes for which a vote has points ahead when it ends."""


def launched_by_others(it: Idling, name: str) -> dict[str, str]:
    """Launch an orchestrator and a factory as Flambé does, without detailed monitoring; return them by name."""
    found = {}
    for role, own in (("Orchestrator", "orchestrator"), ("Factory", "factory_0")):
        tags = {"creator": CREATOR, "Purpose": "flambe", "Cluster-Name": name, "Role": role, "Name": f"{name}_{own}"}
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        kinds = [{"ResourceType": kind, "Tags": listed} for kind in ("instance", "volume")]
        type_ = "t3.large" if role == "Orchestrator" else "g4dn.xlarge"
        [found[own]] = it.lab.launch(role=role, InstanceType=type_, TagSpecifications=kinds)
    console = it.lab.boto("ec2").get_console_output
    it.lab.until(lambda: all("END SSH HOST KEY" in console(InstanceId=i).get("Output", "") for i in found.values()))
    return found


def armed_before_set_up(it: Idling, instance: str) -> bool:
    """Whether an enforcer was seen to stand before the first command began on a host."""
    events = [line["event"] for line in it.service.log() if line["instance"] == instance]
    armed = min(events.index(event) for event in ("protection.alarm_armed", "instance.timer_seen") if event in events)
    return armed < events.index("setup.command_started")


def terminates_at(it: Idling, instance: str, name: str = "c") -> Any:
    """When a host is said to end."""
    return next(row["terminates_at"] for row in it.service.status(name)["instances"] if row["id"] == instance)


@pytest.mark.idle("AWS/ refused", "alarm changed or deleted by others", "daemon restarted")
def test_where_points_are_refused_a_service_that_hangs_ends_nobody_and_a_deleted_alarm_is_back() -> None:
    """SIGSTOP after idle minutes: silence is use. When it goes on, the idle host ends, and the busy GPU is asked first."""
    with idling(MINUTE, namespace="refuse") as it:
        lab = it.lab
        names = it.up(factories_num=2, factories_type="g4dn.xlarge", factories_timeout=T / 60)
        idle, gpu = names["factory_0"], names["factory_1"]
        it.use("gpu", gpu)
        it.service.until_logged("instance.vote_began", vote="gpu")
        says = terminates_at(it, idle)
        lab.boto("cloudwatch").delete_alarms(AlarmNames=[f"Flambe_Instance_Terminate_CPU_Utilization_{idle}"])
        lab.boto("cloudwatch").disable_alarm_actions(AlarmNames=[f"Flambe_Instance_Terminate_CPU_Utilization_{gpu}"])
        lab.until(lambda: sum(alarm["ActionsEnabled"] for alarm in lab.alarms()) == 2, within=5.0)
        assert terminates_at(it, idle) == says, "its clock goes on"

        pid = it.service.pid
        kill(pid, signal.SIGSTOP)
        try:
            it.rest(3 * T)
            assert not it.ended()
        finally:
            kill(pid, signal.SIGCONT)
        awake = it.now()
        ended = it.until_ended([idle], awake + WITHIN)
        assert ended[idle] <= awake + WITHIN
        it.rest(T)
        assert gpu not in it.ended()


@pytest.mark.timeout(180)
@pytest.mark.idle(
    "arming", "set-up running", "orchestrator before factories", "orchestrator gone first", "factories gone",
    "loss of an instance", "basic monitoring", "AWS/ accepted",
)  # fmt: skip
def test_a_long_set_up_timeouts_of_0_the_order_of_roles_basic_monitoring_and_an_alarm_that_is_alone() -> None:
    """Everybody who is idle ends in time, those that may not end before something else do not, and nobody comes back."""
    short: dict[str, Any] = {"factories_num": 1, "factories_timeout": T / 60}
    with idling(MINUTE) as it:
        lab = it.lab
        zero = it.up("zero", factories_num=2, factories_timeout=0)
        zero_ready = it.now()
        active = it.use("cpu", zero["factory_0"])

        first = it.up("first", **short)
        lab.fault({"kind": "die", "instance": first["orchestrator"]})
        assert "the orchestrator missing" in it.service.until_phase("degraded", name="first")["reason"]
        order = it.up("order", **short, orchestrator_timeout=T / 60)
        order_from = it.now()

        refusal = {"kind": "error", "code": "UnauthorizedOperation", "status": 403, "count": None}
        lab.fault({**refusal, "action": "MonitorInstances"})
        adopted = launched_by_others(it, "basic")
        assert it.up("basic", **short).items() >= adopted.items()
        basic_from = it.now()
        [alarm] = [a for a in lab.alarms() if adopted["factory_0"] in a["AlarmName"]]
        assert (alarm["Period"], alarm["EvaluationPeriods"]) == (300, 3)
        it.rest(max(0.0, active + 4 - it.now()))
        quiet = it.use("nothing", zero["factory_0"])

        set_up = it.up("setup", **short, setup_cmds=[f"sleep {2 * T * MINUTE}"])
        set_up_from = it.now()
        assert armed_before_set_up(it, set_up["factory_0"])

        ended = it.until_ended([first["factory_0"], order["factory_0"]], order_from + T + WITHIN)
        assert order["orchestrator"] not in it.ended() or it.ended()[order["orchestrator"]] > ended[order["factory_0"]]
        gone = ended[order["factory_0"]]
        ended |= it.until_ended([order["orchestrator"]], gone + T + WITHIN + PROBE)
        assert gone + T - BEFORE <= ended[order["orchestrator"]] <= gone + T + WITHIN + PROBE
        assert it.service.until_phase("gone", name="order")["reason"] == "idle_ended"
        ended |= it.until_ended([zero["factory_0"], zero["factory_1"], adopted["factory_0"]], zero_ready + 35 + WITHIN)
        assert quiet + 5 - BEFORE <= ended[zero["factory_0"]] <= quiet + 5 + WITHIN
        assert zero_ready + 30 <= ended[zero["factory_1"]] <= zero_ready + 35 + WITHIN
        assert basic_from + T <= ended[adopted["factory_0"]] <= basic_from + T + 2 * WITHIN

        # The service dies: the alarm is alone with a host whose timer is stopped, and which was set up for longer than T.
        host = set_up["factory_0"]
        assert lab.instance(host)["state"] == "running"
        it.run(host, "sudo systemctl stop flambed-idle.timer")
        it.service.kill()
        ended |= it.until_ended([host], set_up_from + T + WITHIN)
        assert set_up_from + T - WITHIN <= ended[host] <= set_up_from + T + WITHIN
        assert it.ended_by(host) == "alarm"
        names = [i for i in lab.instances(hosts=False) if i["last_tags"]["Role"] == "Factory"]
        assert len(names) == 6, "nobody was launched again"
