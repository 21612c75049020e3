"""Every command of flambectl against one ready cluster, and what the control API says of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import CREATOR, Service, start_service
from tests.parts import real_part

STATUS = {"name", "creator", "region", "phase", "reason", "instances"}
INSTANCE = {
    "id", "role", "index", "name", "type", "stage", "public_host", "private_host", "protected", "terminates_at", "reason",
}  # fmt: skip
"""The keys that the interface promises; there may be more."""


@pytest.fixture(scope="module")
def service(_session_lab: LabProcess) -> Iterator[Service]:
    """A service with a ready cluster, which none of these tests ends."""
    with start_service(_session_lab, log__level="debug") as service:
        service.up(
            service.file(
                factories_timeout=1,
                tags={"project": "x"},
                setup_cmds=["echo preparing $(hostname)", "echo done >> prepared"],
            )
        )
        yield service
        service.down()


def test_status_as_json_is_what_the_interface_promises(service: Service) -> None:
    """Keys, types, who is protected by what, and when a host ends."""
    both = {"alarm": True, "timer": True}
    service.until(
        lambda status: all(row["protection"] == both for row in status["instances"] if row["index"] is not None)
    )
    status = service.ctl("status", "c", "--json").document
    assert status.keys() >= STATUS
    assert (status["name"], status["creator"], status["region"]) == ("c", CREATOR, "us-east-1")
    assert (status["phase"], status["reason"]) == ("ready", None)
    orchestrator, *factories = status["instances"]
    assert (orchestrator["role"], orchestrator["index"]) == ("Orchestrator", None)
    assert orchestrator["protected"] is True, "its timeout is -1"
    assert orchestrator["terminates_at"] is None
    assert orchestrator["protection"] == {"alarm": False, "timer": False}
    for index, factory in enumerate(factories):
        assert factory.keys() >= INSTANCE
        assert (factory["role"], factory["index"], factory["name"]) == ("Factory", index, f"c_factory_{index}")
        assert (factory["protected"], factory["protection"]) == (True, {"alarm": True, "timer": True})
        ends = datetime.fromisoformat(factory["terminates_at"])
        assert 3000 < (ends - datetime.now(ends.tzinfo)).total_seconds() < 3700
        assert factory["private_host"].startswith("127.")
    assert service.api("GET", "/v1/clusters/c").document == status
    [listed] = service.ctl("list", "--json").document
    assert listed == {name: value for name, value in status.items() if name != "instances"}


@pytest.mark.seed("S10", "S25")
def test_ssh_gets_a_person_in_with_the_real_client(service: Service) -> None:
    """The orchestrator by default, a host by its name, id or address; the remote command's exit code is flambectl's."""
    real_part("ssh", "openssh-client")
    status = service.status()
    factory = status["instances"][1]
    said = service.ctl("ssh", "c", "--", "echo", "hi")
    assert (said.code, said.stdout) == (0, "hi\n"), said
    hosts = {service.ctl("ssh", "c", factory[key], "--", "hostname").stdout for key in ("name", "id", "private_host")}
    assert hosts == {f"ip-{factory['private_host'].replace('.', '-')}\n"}
    assert service.ctl("ssh", "c", "--", "exit 7").code == 7
    assert service.ctl("ssh", "c", "--", "whoami").stdout == "ubuntu\n"
    assert service.ctl("ssh", "c", "c_factory_9", "--", "true").code == 5


def test_each_host_is_told_who_belongs_to_the_cluster(service: Service) -> None:
    """~/.flambed/cluster.json has the orchestrator and every factory, with the addresses by which they reach each other."""
    status = service.status()
    for instance in status["instances"]:
        told = json.loads(service.lab.instance(instance["id"])["host"]["files"]["/home/ubuntu/.flambed/cluster.json"])
        members = [told["orchestrator"], *told["factories"]]
        assert [(m["id"], m["role"], m["address"]) for m in members] == [
            (i["id"], i["role"], i["private_host"]) for i in status["instances"]
        ]


def test_logs_show_what_each_command_printed_on_each_host(service: Service) -> None:
    """All hosts, or one; an unknown host is exit code 5."""
    records = service.ctl("logs", "c", "--json").document
    assert len(records) == 3 * 2
    assert {record["code"] for record in records} == {0}
    shown = service.ctl("logs", "c", "c_factory_1").stdout
    assert "preparing ip-127-" in shown
    assert "c_factory_0" not in shown
    assert service.ctl("logs", "c", "c_factory_9").code == 5


def test_why_says_for_each_host_until_when_it_lives(service: Service) -> None:
    """In words, and with the signals that speak for and against it."""
    shown = service.ctl("why", "c").stdout
    assert "c_orchestrator runs until somebody ends it" in shown
    assert "if it stays idle (60 minutes of it)" in shown
    [host] = service.ctl("why", "c", "c_factory_0", "--json").document["hosts"]
    assert {signal["signal"] for signal in host["signals"]} >= {"timeout", "cpu", "alarm"}
    assert [step["stage"] for step in host["story"]][-1] == "ready"


def test_a_hold_keeps_idle_hosts_and_its_release_lets_them_end(service: Service) -> None:
    """It is bounded, needs a reason, is told to whoever asks why, and every fake point of it is a vote."""
    assert service.ctl("hold", "c", "--for", "73h", "--why", "too long").code == 2
    assert service.ctl("hold", "c", "--for", "4h").code == 2
    held = service.ctl("hold", "c", "--for", "4h", "--why", "the thesis is due", "--json")
    assert held.code == 0, held
    assert held.document["hold"]["why"] == "the thesis is due"
    assert service.status()["instances"][1]["terminates_at"] is None, "a vote lives"
    assert "somebody holds the cluster" in service.ctl("why", "c", "c_factory_0").stdout
    assert "the thesis is due" in service.ctl("status", "c").stdout
    assert service.ctl("release", "c").code == 0
    assert service.status()["hold"] is None
    assert service.status()["instances"][1]["terminates_at"] is not None


def test_events_tell_the_past_and_follow_what_happens(service: Service) -> None:
    """The same documents as the log's lines; an interrupted follower ends with 130."""
    past = [json.loads(line) for line in service.ctl("events", "c", "--json").stdout.splitlines()]
    logged = {line["fact"]: line for line in service.log() if line["fact"] is not None}
    assert {event["fact"] for event in past if event["fact"] is not None} == set(logged)
    assert all(logged[event["fact"]] == event for event in past if event["fact"] is not None)
    stages = [event["event"] for event in past if event["event"].startswith("instance.ready")]
    assert len(stages) == 3
    with service.running_ctl("events", "c", "--follow", "--json") as follower:
        assert follower.stdout is not None
        for _ in past:
            follower.stdout.readline()
        service.ctl("hold", "c", "--for", "1h", "--why", "to be seen")
        assert json.loads(follower.stdout.readline())["event"] == "cluster.hold_placed"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130
        follower.stdout.read()
    service.ctl("release", "c")


def test_watch_goes_on_until_it_is_interrupted(service: Service) -> None:
    """Interrupting the client never interrupts the cluster; the exit code is 130."""
    with service.running_ctl("watch", "c") as watcher:
        assert watcher.stdout is not None
        assert "c in us-east-1 is ready" in watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(10) == 130
        watcher.stdout.read()
    assert service.status()["phase"] == "ready"


def test_doctor_finds_everything_in_order(service: Service) -> None:
    """Credentials, queue and key files: each check has a name and says what it saw."""
    ended = service.ctl("doctor", "--json")
    assert ended.code == 0, ended
    assert all(check["ok"] is not False for check in ended.document), ended.document
    assert len(ended.document) >= 3


def test_the_metrics_show_the_cluster_and_the_calls_that_made_it(service: Service) -> None:
    """Read like Prometheus reads them; and nobody's name is in them."""
    text = service.metrics()
    found = {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    assert found["flambed_clusters", "ready"] == 1
    assert found["flambed_instances", "ready"] == 3
    assert found["flambed_instances_unprotected",] == 0
    assert found["flambed_events_total", "instance.ready", "info"] == 3
    launches = len(service.lab.calls(action="RunInstances"))
    assert 0 < found["flambed_aws_calls_total", "RunInstances", "ok", "us-east-1"] <= launches
    assert CREATOR not in text


@pytest.mark.seed("S20", "S21")
def test_instances_are_listed_by_creator_and_found_by_host(service: Service) -> None:
    """With role, cluster and tags as a mapping; nothing found is an empty list.

    The lab's public addresses equal the private ones: that the public one is looked at is shown in tests/test_survey.py.
    """
    listed = service.api("GET", f"/v1/instances?creator={CREATOR}").document
    status = service.status()
    assert {i["id"] for i in listed} == {i["id"] for i in status["instances"]}
    for instance in listed:
        assert instance["tags"]["project"] == "x"
        assert instance["tags"]["Cluster-Name"] == "c"
        assert instance["tags"]["Role"] in ("Orchestrator", "Factory")
    host = status["instances"][1]["public_host"]
    [found] = service.api("GET", f"/v1/instances?host={host}").document
    assert found["id"] == status["instances"][1]["id"]
    assert service.api("GET", "/v1/instances?host=127.10.9.9") == (200, [])
    assert service.api("GET", "/v1/instances?creator=nobody") == (200, [])


@pytest.mark.seed("C06")
def test_the_socket_speaks_plain_http_and_describes_itself(service: Service) -> None:
    """Health, a description of every path, and a 404 for what there is not."""
    health = service.api("GET", "/v1/health").document
    assert health["ok"] is True
    described = service.api("GET", "/v1/openapi.json").document
    assert "/v1/clusters/{ref}" in described["paths"]
    assert service.api("GET", "/v1/clusters/nobody").status == 404
    assert service.socket.stat().st_mode & 0o777 == 0o666, "peer credentials decide"


def test_without_a_service_the_client_says_what_to_do(service: Service) -> None:
    """Exit code 3, whichever command it was; `version` still tells its own."""
    missing = str(Path(service.folder) / "nobody.sock")
    for words in (["list"], ["status", "c"], ["up", service.file()], ["down", "c", "--yes"]):
        ended = service.ctl(*words, FLAMBED_SOCKET=missing)
        assert ended.code == 3, (words, ended)
        assert "flambed run" in ended.stderr
    assert service.ctl("version", FLAMBED_SOCKET=missing).code == 0
    assert service.ctl("version", "--json").document["flambed"] is not None


def test_a_host_that_is_not_there_and_a_cluster_that_nobody_knows_are_5(service: Service) -> None:
    """So that scripts can tell it from a failure."""
    for words in (["status", "d"], ["why", "d"], ["logs", "d"], ["retry", "d"], ["release", "d"], ["events", "d"]):
        assert service.ctl(*words).code == 5, words
    assert service.ctl("why", "c", "i-0123456789abcdef0").code == 5
