"""A user who asks the same wrong thing without pause does not fill the log, and every try is told and counted."""

from __future__ import annotations

import re

from flambed.log.repeats import AT_ONCE
from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import start_service

TRIES = 40


def test_a_flood_of_refusals_is_its_beginning_and_a_count_that_outlives_the_service(lab: LabProcess) -> None:
    """The count is written before the service ends, though its minute is not over; the metrics have every one."""
    with start_service(lab) as service:
        assert {service.api("GET", "/v1/clusters/nobody").status for _ in range(TRIES)} == {404}
        [counted] = re.findall(r'flambed_events_total\{event="control.request_refused",.*\} (.*)', service.metrics())
        service.stop()
        lines = service.log("control.request_refused")
        assert float(counted) == TRIES
        assert [line.get("repeated") for line in lines] == [None] * AT_ONCE + [TRIES - AT_ONCE]
        assert lines[-1]["message"] == lines[0]["message"]
        assert service.log()[-1]["event"] == "service.stopped"
