"""The lab as a process: its line, its clock, its neighbours, its end."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from flambed.lab.clock import ANCHOR, Clock
from flambed.lab.seams import SeamMissing, seam
from tests.lab.labproc import LabProcess, start_lab


def test_the_json_line_tells_all_that_a_client_needs(lab: LabProcess) -> None:
    """Every field that interface.md names, and the key is nobody else's to read."""
    assert {
        "endpoint",
        "region",
        "queues",
        "subnet_id",
        "security_group",
        "key_name",
        "key",
        "ssh_port",
        "images",
    } <= set(lab.info)
    assert set(lab.info["regions"]) == set(lab.info["queues"]) == {"us-east-1", "eu-west-1"}
    assert {"orchestrator", "factory", "ubuntu"} <= set(lab.info["images"])
    assert stat.S_IMODE(Path(lab.info["key"]).stat().st_mode) == 0o600


def test_two_labs_run_side_by_side() -> None:
    """Same addresses, other ports: neither sees the other's instances."""
    with start_lab() as one, start_lab() as two:
        ids = one.launch()
        assert two.instances() == []
        assert one.instance(ids[0])["address"] == two.instance(two.launch()[0])["address"]
        one.until(lambda: one.instance(ids[0])["ssh_since"])
        two.until(lambda: two.instances()[0]["ssh_since"])
        assert one.info["ssh_port"] != two.info["ssh_port"]


def test_a_seed_makes_the_same_ids_and_delays() -> None:
    """Two labs of one seed launch the same instances, another seed others."""
    with ExitStack() as stack:
        labs = [stack.enter_context(start_lab("--seed", seed, "--boot", "10")) for seed in ("7", "7", "8")]
        for lab in labs:
            lab.launch(MaxCount=3)
        found = [[(i["id"], i["boot_delay"]) for i in lab.instances()] for lab in labs]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "eof"])
def test_it_ends_promptly_and_leaves_nothing(how: str) -> None:
    """Exit code 0 within two seconds, the key's folder gone, even with instances and a long poll open."""
    command = [sys.executable, "-m", "flambed.lab", "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        lab = LabProcess(json.loads(process.stdout.readline()), process.pid)
        lab.launch(MaxCount=3)
        poll = f"import boto3; boto3.client('sqs').receive_message(QueueUrl={lab.info['queues']['us-east-1']!r}, WaitTimeSeconds=20)"
        with subprocess.Popen([sys.executable, "-c", poll], env=lab.env(), stderr=subprocess.DEVNULL) as client:
            lab.until(lambda: lab.calls(action="ReceiveMessage"))
            began = time.monotonic()
            if how == "eof":
                process.stdin.close()
            else:
                os.kill(process.pid, {"SIGTERM": 15, "SIGINT": 2}[how])
            assert process.wait(5) == 0
            assert time.monotonic() - began < 2
            client.kill()
    assert not Path(lab.info["key"]).parent.exists()


def test_wrong_usage_is_told_and_nothing_starts() -> None:
    """Exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "flambed.lab", "--boot", "-1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "-1 is no number of seconds" in done.stderr
    assert done.stdout == ""


def test_a_port_that_is_taken_is_told(lab: LabProcess) -> None:
    """The second lab on a port ends with an error instead of half a start."""
    port = lab.endpoint.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "flambed.lab", "--port", port], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_lab_imports_nothing_of_flambed_outside_itself() -> None:
    """It would be no independent witness otherwise."""
    code = (
        "import sys, flambed.lab.server\n"
        "print([m for m in sys.modules if m.startswith('flambed.') and not m.startswith('flambed.lab')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_clock_agrees_with_the_wall_at_sixty_seconds_a_minute() -> None:
    """No speed-up: the real time."""
    assert abs(Clock().now() - time.time()) < 0.1
    assert Clock().real(90) == 90


def test_a_faster_clock_counts_from_its_anchor() -> None:
    """A lab minute of half a second: 120 times as fast since 2026."""
    clock = Clock(minute=0.5)
    assert abs(clock.now() - (ANCHOR + (time.time() - ANCHOR) * 120)) < 12
    assert clock.real(60) == 0.5
    with pytest.raises(ValueError, match="more than 0"):
        Clock(minute=0)


def test_a_seam_that_moto_moved_is_named() -> None:
    """The lab refuses to start on another moto."""
    with pytest.raises(SeamMissing, match=r"Clock\.later"):
        seam(Clock, "later")
    with pytest.raises(SeamMissing, match=r"without \['hours'\]"):
        seam(Clock, "real", "hours")
    assert seam(Clock, "real", "lab_seconds") is Clock.real
