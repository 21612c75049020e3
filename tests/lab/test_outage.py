"""AWS is away for a while: the service waits without haste, and goes on as soon as AWS answers again."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.lab.daemonproc import Document
from tests.lab.labproc import LabProcess, start_lab
from tests.lab.serviceproc import Service, start_service

MODES: Final = ("reset", "503", "silence")

MINUTE: Final = 2.0
"""Real seconds that a minute of the sped-up clock lasts, for AWS and for the service."""

SLACK: Final = 1.0
"""Real seconds that a busy machine may take longer for what is due."""

TRIES: Final = 40
"""How often one thing may be tried in ten minutes: pauses double up to half a minute, which makes 24, and a few before."""

SETUP: Final = ["echo a >> runs", "echo b >> runs"]


def test_ten_minutes_without_aws_are_waited_out_and_everything_goes_on_within_one() -> None:
    """Refused, unavailable or silent, all three at the same time to save some; on the sped-up clock."""
    with ThreadPoolExecutor(len(MODES)) as pool:
        list(pool.map(ten_minutes_away, MODES))


def ten_minutes_away(mode: str) -> None:
    """One cluster is being launched, one is ready, one is on its way out; nothing is lost or doubled."""
    arguments = ("--boot", "0.3", "--ssh-delay", "0", "--shutdown", "0.1", "--quotas", "off")
    with start_lab(*arguments, "--minute", str(MINUTE)) as lab, start_service(lab) as service:
        service.up(timed(service, "stays"))
        service.up(timed(service, "goes"))
        begin_launch(service, "comes")
        pid, used = service.pid, cpu_seconds(service.pid)
        outage = begin_outage(lab, 10 * MINUTE, mode)
        assert service.api("DELETE", "/v1/clusters/goes").status == 202
        until_over(lab, outage)

        assert (service.runs, service.pid) == (True, pid)
        share = (cpu_seconds(pid) - used) / (10 * MINUTE)
        assert share < 0.25, f"busy: it used {share:.0%} of a CPU where there was nothing to do"
        struck = [call for call in lab.calls() if outage["id"] in call["struck"]]
        tries = Counter((call["action"], call["params"].get("ClientToken")) for call in struck)
        assert max(tries.values()) <= TRIES, tries

        failed = {action for action, _ in tries}
        assert failed >= {"RunInstances", "DescribeInstances", "PutMetricData", "ReceiveMessage"}
        late = {action: lateness(lab, action, outage) for action in failed}
        assert max(late.values()) <= MINUTE + SLACK, f"seconds after the end: {late}"
        assert_all_is_well(service)


def test_a_short_outage_on_the_real_clock_delays_by_no_more_than_the_last_pause(service: Service) -> None:
    """What failed is tried again after 1, 2 and 4 seconds; who asks meanwhile is told that AWS cannot be reached."""
    lab = service.lab
    service.up(timed(service, "stays"))
    service.up(timed(service, "goes"))
    begin_launch(service, "comes")
    outage = begin_outage(lab, 5.0, "reset")
    assert service.api("DELETE", "/v1/clusters/goes").status == 202
    asked = service.ctl("up", timed(service, "late"))
    assert (asked.code, "Could not connect" in asked.stderr) == (1, True), asked
    for name, call in (("comes", "RunInstances"), ("goes", "DescribeInstances")):
        # What is to end is looked at first: that look is what fails.
        told = service.until(lambda status: bool(status["reason"]), name, within=4.0)
        assert f"{call}: Could not connect" in told["reason"]
    until_over(lab, outage)
    for action in ("RunInstances", "TerminateInstances"):
        assert lateness(lab, action, outage) < 4.0 + SLACK
    assert_all_is_well(service)


# --- what both do ------------------------------------------------------------------------------------------------


def timed(service: Service, name: str) -> str:
    """The file of a cluster of two, whose hosts have alarms."""
    return service.file(name, factories_num=1, factories_timeout=1, orchestrator_timeout=1, setup_cmds=SETUP)


def begin_launch(service: Service, name: str) -> None:
    """Ask for a cluster, and return while AWS is launching both roles, which nobody has been told yet."""
    seen = len(service.lab.calls())
    service.lab.fault({"kind": "latency", "action": "RunInstances", "seconds": 0.5})
    assert service.ctl("up", timed(service, name), "--detach").code == 0
    service.lab.until(lambda: len(service.lab.calls(seen, action="RunInstances")) == 2)
    service.lab.clear_faults()


def begin_outage(lab: LabProcess, seconds: float, mode: str) -> Document:
    """Let AWS be away; the fault, with the time at which it is over."""
    outage: Document = lab.fault({"kind": "outage", "seconds": seconds, "mode": mode})[-1]
    return outage


def until_over(lab: LabProcess, outage: Document) -> None:
    """Return when AWS answers again."""
    lab.until(lambda: not lab.http("GET", "/lab/faults"), within=outage["until"] - time.time() + SLACK)


def lateness(lab: LabProcess, action: str, outage: Document) -> float:
    """How many seconds after the end of an outage a call went through for the first time, waited for."""

    def went_through() -> list[float]:
        calls = lab.calls(action=action, error=None)
        return [call["time"] for call in calls if call["time"] >= outage["until"]]

    return min(lab.until(went_through)) - float(outage["until"])


def cpu_seconds(pid: int) -> float:
    """The seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_all_is_well(service: Service) -> None:
    """Two clusters are ready, each host was launched once and ran each command once; the third left nothing."""
    service.until_phase("ready", name="comes")
    service.until_phase("gone", name="goes")
    statuses = [service.until_phase("ready", name="stays"), service.status("comes")]
    mine = {instance["id"] for status in statuses for instance in status["instances"]}
    running = [i for i in service.lab.instances() if i["state"] not in {"shutting-down", "terminated"}]
    assert len(running) == len(mine) == 4
    assert {i["id"] for i in running} == mine
    assert [i["host"]["files"]["/home/ubuntu/runs"] for i in running] == ["a\nb\n"] * 4
    service.lab.until(lambda: {alarm["AlarmName"].rpartition("_")[2] for alarm in service.lab.alarms()} == mine)
    assert service.ctl("down", "--all", "--yes").code == 0
