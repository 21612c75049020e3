"""Idle protection over days of the lab, a minute of which lasts twenty milliseconds: what only long waits show."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.idling import idling
from tests.lab.serviceproc import start_service

MINUTE = 0.02  # real seconds
HOUR = 60.0  # minutes
DAY = 24 * HOUR

T_ALONE = 5 * HOUR
"""Minutes of the timeout of the host whose timer is to be alone: its service is killed long before."""

T_LONG = 25 * HOUR
"""Minutes of a timeout that an alarm counts in hours."""

LATE = 70.0
"""Minutes after such a timeout within which the host has to be gone."""


@pytest.mark.timeout(240)
@pytest.mark.idle("dead-man's timer", "window", "host mute and no CPU data")
def test_timer_alone_a_timeout_of_more_than_a_day_and_a_host_that_is_mute_in_every_way() -> None:
    """A day after the service died the timer ends its host; an alarm of hours, and the service for the one nobody hears."""
    settings: dict[str, Any] = {"ssh__deadline": "400h", "events__queues": {}}
    with idling(MINUTE, **settings) as it, start_service(it.lab, survey__interval="2s", **settings) as other:
        lab = it.lab
        alone = it.up("alone", factories_num=1, factories_timeout=T_ALONE / HOUR)["factory_0"]
        it.service.until_logged("instance.timer_seen", instance=alone, state="renewed")
        it.service.kill()
        killed = it.now()
        lab.boto("cloudwatch").delete_alarms(AlarmNames=[alarm["AlarmName"] for alarm in lab.alarms()])

        cluster: dict[str, Any] = {"orchestrator_timeout": -1, "setup_cmds": []}
        lab.fault({"kind": "cpu", "match": {"role": "Factory", "tags": {"Cluster-Name": "mute"}}, "percent": None})
        rows = other.up(other.file("mute", factories_num=1, factories_timeout=1, **cluster))["instances"]
        [mute] = [row["id"] for row in rows if row["role"] == "Factory"]
        it.run(mute, "sudo systemctl stop flambed-idle.timer")
        # An answer that is none comes at once; to wait for one that does not come takes half a minute, a real one.
        lab.fault({"kind": "host", "instance": mute, "fault": {"kind": "fail", "pattern": "."}})
        silent = it.now()
        before = it.now()
        rows = other.up(other.file("long", factories_num=1, factories_timeout=T_LONG / HOUR, **cluster))["instances"]
        after = it.now()
        [long] = [row["id"] for row in rows if row["role"] == "Factory"]
        assert {alarm["Period"] for alarm in lab.alarms() if long in alarm["AlarmName"]} == {3600}

        ended = it.until_ended([alone, mute, long], after + T_LONG + LATE)
        assert DAY - 10 <= ended[alone] - killed <= T_ALONE + DAY + 10
        assert it.ended_by(alone) == "timer"
        assert before + T_LONG <= ended[long] <= after + T_LONG + LATE
        assert it.ended_by(long) == "alarm"
        assert DAY <= ended[mute] - silent <= DAY + 2 * LATE, "examined each hour, until a day is over"
        assert it.ended_by(mute) == "service"
