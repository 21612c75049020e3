"""A region without a queue: it is looked at instead, while something is pending, and the looks are spaced."""

from __future__ import annotations

from itertools import pairwise

from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import start_service

BOUND = 15.0
"""Seconds from an order to its end: a few spaced looks, and far less than the slow survey would take."""


def test_without_a_queue_a_cluster_comes_up_and_goes_by_spaced_looks(lab: LabProcess) -> None:
    """It takes longer, nobody reads a queue, and no two looks are within a second of each other."""
    with start_service(lab, events__queues={}) as service:
        before = len(lab.calls())
        service.up(service.file(factories_num=3, setup_cmds=["true"]))
        service.down()
        calls = lab.calls(before)
    assert "ReceiveMessage" not in {call["action"] for call in calls}
    launched = [call["time"] for call in calls if call["action"] == "RunInstances"]
    asked = [
        c for c in calls if c["action"] in ("DescribeInstances", "TerminateInstances") and c["time"] > max(launched)
    ]
    ending = next(n for n, c in enumerate(asked) if c["action"] == "TerminateInstances")
    assert asked.pop(ending - 1)["action"] == "DescribeInstances", "what is about to end is looked at, whenever that is"
    looks = [c["time"] for c in asked if c["action"] == "DescribeInstances"]
    assert looks, "somebody has to have looked"
    assert min((later - look for look, later in pairwise(looks)), default=1.0) > 0.9, looks
    assert len(looks) <= 12, looks


def test_a_queue_that_is_not_there_is_told_and_does_not_stop_a_cluster(lab: LabProcess) -> None:
    """The log names the queue; the cluster is looked at as if there were none, comes up and goes."""
    missing = f"{lab.info['queues']['us-east-1']}-missing"
    with start_service(lab, events__queues={"us-east-1": missing}) as service:
        accepted = service.ctl("up", service.file(factories_num=1), "--detach")
        assert accepted.code == 0, accepted
        line = service.until_logged("region.queue_unreachable")[0]
        assert missing in line["message"] or "queue" in line["message"].lower(), line
        service.until_phase("ready", within=BOUND)
        assert service.ctl("doctor").code == 1
        assert service.ctl("down", "c", "--yes", "--detach").code == 0
        service.until_phase("gone", within=BOUND)
