"""The life of an instance in the lab: states, events, addresses, hosts, and what is refused on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncssh
import pytest

from tests.lab.labproc import LabProcess, refused, start_lab


@pytest.fixture(scope="module")
def slow() -> Iterator[LabProcess]:
    """A lab whose instances boot for about half a second and whose hosts take a little longer."""
    with start_lab("--boot", "0.6", "--ssh-delay", "0.4", "--shutdown", "0.3", "--quotas", "off") as lab:
        yield lab


def _events(lab: LabProcess, instance_id: str, last: str, region: str = "us-east-1") -> list[dict[str, Any]]:
    """All events of an instance up to the one that says `last`."""
    sqs, url = lab.boto("sqs", region), lab.info["queues"][region]
    found: list[dict[str, Any]] = []
    while last not in [event["detail"]["state"] for event in found]:
        messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5).get("Messages", [])
        assert messages, f"no event {last} of {instance_id} came within 5 s, only {found}"
        for message in messages:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            event = json.loads(message["Body"])
            if event["detail"]["instance-id"] == instance_id:
                found.append(event)
    return found


def _describe(lab: LabProcess, instance_id: str) -> dict[str, Any]:
    answer = lab.boto("ec2").describe_instances(InstanceIds=[instance_id])
    instance: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
    return instance


async def _run(lab: LabProcess, instance_id: str, command: str) -> asyncssh.SSHCompletedProcess:
    address, port = lab.instance(instance_id)["address"], lab.info["ssh_port"]
    async with asyncssh.connect(
        address, port, username="ubuntu", client_keys=[lab.info["key"]], known_hosts=None, config=None, agent_path=None
    ) as connection:
        return await connection.run(command)


def test_every_change_of_state_is_an_event_on_the_queue(slow: LabProcess) -> None:
    """pending, running, shutting-down, terminated: each with EventBridge's whole envelope."""
    [instance_id] = slow.launch()
    slow.until_state([instance_id], "running")
    slow.boto("ec2").terminate_instances(InstanceIds=[instance_id])
    events = _events(slow, instance_id, "terminated")
    assert [e["detail"]["state"] for e in events] == ["pending", "running", "shutting-down", "terminated"]
    first = events[0]
    assert set(first) == {
        "version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail",
    }  # fmt: skip
    assert (first["version"], first["source"], first["region"]) == ("0", "aws.ec2", "us-east-1")
    assert first["detail-type"] == "EC2 Instance State-change Notification"
    assert first["resources"] == [f"arn:aws:ec2:us-east-1:{first['account']}:instance/{instance_id}"]


def test_each_region_has_a_queue_of_its_own(lab: LabProcess) -> None:
    """What happens in eu-west-1 is told there."""
    [instance_id] = lab.launch(region="eu-west-1")
    assert _events(lab, instance_id, "running", "eu-west-1")[0]["region"] == "eu-west-1"
    assert lab.instance(instance_id)["address"].startswith("127.20.")


def test_delays_are_drawn_and_kept(slow: LabProcess) -> None:
    """Boot and SSH delays lie between seven tenths and the whole of what was asked, and differ."""
    ids = slow.launch(MaxCount=5)
    slow.until(lambda: all(slow.instance(i)["ssh_since"] for i in ids))
    found = [slow.instance(i) for i in ids]
    assert all(0.42 <= i["boot_delay"] <= 0.6 and 0.28 <= i["ssh_delay"] <= 0.4 for i in found)
    assert len({i["boot_delay"] for i in found}) == 5
    assert all(i["ssh_since"] - i["running_since"] >= i["ssh_delay"] for i in found)
    slow.boto("ec2").terminate_instances(InstanceIds=ids)


def test_a_pending_instance_has_a_private_address_only(slow: LabProcess) -> None:
    """The public one comes with running and goes with the end."""
    [instance_id] = slow.launch()
    pending = _describe(slow, instance_id)
    slow.until_state([instance_id], "running")
    running = _describe(slow, instance_id)
    slow.boto("ec2").terminate_instances(InstanceIds=[instance_id])
    slow.until_state([instance_id], "terminated")
    terminated = _describe(slow, instance_id)
    assert "PublicIpAddress" not in pending
    assert pending["PublicDnsName"] == ""
    assert running["PublicIpAddress"] == running["PublicDnsName"] == pending["PrivateIpAddress"]
    assert not {"PrivateIpAddress", "PublicIpAddress", "VpcId", "SubnetId"} & set(terminated)


def test_a_terminated_instance_stays_visible_without_its_tags() -> None:
    """It is described for as long as asked, then unknown."""
    with start_lab("--shutdown", "0", "--visible", "1", "--quotas", "off") as lab:
        [instance_id] = lab.launch()
        lab.boto("ec2").terminate_instances(InstanceIds=[instance_id])
        lab.until_state([instance_id], "terminated")
        terminated = _describe(lab, instance_id)
        assert terminated["Tags"] == []
        assert terminated["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
        lab.until(lambda: not lab.instances())
        with refused("InvalidInstanceID.NotFound"):
            _describe(lab, instance_id)


def test_a_terminated_instance_can_be_tagged_no_more(lab: LabProcess) -> None:
    """It is described still; of several resources none is tagged, then."""
    ec2 = lab.boto("ec2")
    ended, runs = lab.launch(MaxCount=2)
    ec2.terminate_instances(InstanceIds=[ended])
    lab.until_state([ended], "terminated")
    assert _describe(lab, ended)["Tags"] == []
    with refused("InvalidInstanceID.NotFound"):
        ec2.create_tags(Resources=[runs, ended], Tags=[{"Key": "k", "Value": "v"}])
    assert "k" not in lab.instance(runs)["tags"]


def test_terminating_tells_both_states_and_may_be_repeated(slow: LabProcess) -> None:
    """running to shutting-down at first, shutting-down to itself the second time."""
    [instance_id] = slow.launch()
    slow.until_state([instance_id], "running")
    for before in ("running", "shutting-down"):
        [change] = slow.boto("ec2").terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"]
        assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == (before, "shutting-down")


def test_an_instance_can_be_terminated_before_it_runs(slow: LabProcess) -> None:
    """A pending one goes straight down and never comes up."""
    [instance_id] = slow.launch()
    slow.boto("ec2").terminate_instances(InstanceIds=[instance_id])
    events = _events(slow, instance_id, "terminated")
    assert [e["detail"]["state"] for e in events] == ["pending", "shutting-down", "terminated"]


def test_one_unknown_id_fails_the_whole_termination(lab: LabProcess) -> None:
    """Nothing is terminated then."""
    [instance_id] = lab.launch()
    with refused("InvalidInstanceID.NotFound"):
        lab.boto("ec2").terminate_instances(InstanceIds=[instance_id, "i-0123456789abcdef0"])
    with refused("InvalidInstanceID.Malformed"):
        lab.boto("ec2").terminate_instances(InstanceIds=[instance_id, "i-nonsense"])
    assert lab.instance(instance_id)["state"] in {"pending", "running"}


def test_a_protected_instance_spares_its_zone_and_fails_the_call(lab: LabProcess) -> None:
    """OperationNotPermitted; an instance of another zone ends all the same."""
    subnets = lab.info["regions"]["us-east-1"]["subnets"]
    [protected] = lab.launch(DisableApiTermination=True)
    [neighbour] = lab.launch()
    [elsewhere] = lab.launch(SubnetId=subnets["us-east-1b"])
    with refused("OperationNotPermitted"):
        lab.boto("ec2").terminate_instances(InstanceIds=[neighbour, protected, elsewhere])
    lab.until_state([elsewhere], "terminated")
    assert {lab.instance(i)["state"] for i in (protected, neighbour)} <= {"pending", "running"}


async def test_a_host_answers_over_ssh_with_the_launched_key(lab: LabProcess) -> None:
    """The key pair's private half opens the host on its private address."""
    [instance_id] = lab.launch(UserData="#cloud-config\nwrite_files: [{path: /etc/greeting, content: hello}]\n")
    lab.until(lambda: lab.instance(instance_id)["ssh_since"])
    done = await _run(lab, instance_id, "cat /etc/greeting; exit 3")
    assert (done.stdout, done.exit_status) == ("hello", 3)


async def test_a_stopped_host_keeps_its_files(lab: LabProcess) -> None:
    """stop, start and reboot: the states, and a file that is still there."""
    ec2 = lab.boto("ec2")
    [instance_id] = lab.launch()
    lab.until(lambda: lab.instance(instance_id)["ssh_since"])
    await _run(lab, instance_id, "echo kept > note")
    [stopping] = ec2.stop_instances(InstanceIds=[instance_id])["StoppingInstances"]
    assert stopping["CurrentState"]["Name"] == "stopping"
    with refused("IncorrectInstanceState"):
        ec2.reboot_instances(InstanceIds=[instance_id])
    lab.until_state([instance_id], "stopped")
    assert ec2.start_instances(InstanceIds=[instance_id])["StartingInstances"][0]["CurrentState"]["Name"] == "pending"
    lab.until(lambda: lab.instance(instance_id)["ssh_since"])
    ec2.reboot_instances(InstanceIds=[instance_id])
    lab.until(lambda: lab.instance(instance_id)["ssh_since"])
    assert (await _run(lab, instance_id, "cat note")).stdout == "kept\n"


@pytest.mark.parametrize(("behaviour", "end"), [("terminate", "terminated"), ("stop", "stopped")])
async def test_a_host_that_shuts_itself_down_does_as_the_launch_said(lab: LabProcess, behaviour: str, end: str) -> None:
    """InstanceInitiatedShutdownBehavior makes `poweroff` a termination or a stop."""
    [instance_id] = lab.launch(InstanceInitiatedShutdownBehavior=behaviour)
    lab.until(lambda: lab.instance(instance_id)["ssh_since"])
    await _run(lab, instance_id, "sudo poweroff")
    lab.until_state([instance_id], end)
    assert lab.instance(instance_id)["reason"] == "Client.InstanceInitiatedShutdown"


def test_the_shutdown_behaviour_can_be_changed(lab: LabProcess) -> None:
    """moto does not know this attribute of ModifyInstanceAttribute."""
    ec2 = lab.boto("ec2")
    [instance_id] = lab.launch()
    ec2.modify_instance_attribute(InstanceId=instance_id, InstanceInitiatedShutdownBehavior={"Value": "terminate"})
    answer = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="instanceInitiatedShutdownBehavior")
    assert answer["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"


def test_the_console_shows_the_host_key_after_the_boot(slow: LabProcess) -> None:
    """Nothing at first, then cloud-init's blocks."""
    ec2 = slow.boto("ec2")
    [instance_id] = slow.launch()
    assert "Output" not in ec2.get_console_output(InstanceId=instance_id)
    slow.until(lambda: slow.instance(instance_id)["ssh_since"])
    assert "BEGIN SSH HOST KEY FINGERPRINTS" in ec2.get_console_output(InstanceId=instance_id)["Output"]


def test_detailed_monitoring_can_be_switched(lab: LabProcess) -> None:
    """MonitorInstances and UnmonitorInstances, which moto does not have."""
    ec2 = lab.boto("ec2")
    [instance_id] = lab.launch()
    [answer] = ec2.monitor_instances(InstanceIds=[instance_id])["InstanceMonitorings"]
    assert answer["Monitoring"]["State"] == "pending"
    assert _describe(lab, instance_id)["Monitoring"]["State"] == "enabled"
    ec2.unmonitor_instances(InstanceIds=[instance_id])
    assert _describe(lab, instance_id)["Monitoring"]["State"] == "disabled"


def test_gpu_hosts_have_their_gpus(lab: LabProcess) -> None:
    """The type says how many, a fault how busy."""
    [instance_id] = lab.launch(InstanceType="p3.8xlarge")
    lab.until(lambda: lab.instance(instance_id)["ssh_since"])
    lab.fault({"kind": "gpu", "instance": instance_id, "percent": 97})
    assert lab.instance(instance_id)["gpus"] == [97, 97, 97, 97]


def _alarm(lab: LabProcess, instance_id: str) -> None:
    lab.boto("cloudwatch").put_metric_alarm(
        AlarmName=f"idle-{instance_id}",
        Namespace="AWS/EC2",
        MetricName="CPUUtilization",
        Dimensions=[{"Name": "InstanceId", "Value": instance_id}],
        Statistic="Average",
        Period=60,
        EvaluationPeriods=3,
        Threshold=0.5,
        ComparisonOperator="LessThanThreshold",
        AlarmActions=["arn:aws:automate:us-east-1:ec2:terminate"],
    )


def test_an_idle_instance_is_ended_by_its_alarm_and_a_busy_one_is_not() -> None:
    """CloudWatch's minutes last 0.2 s here; the alarm's action terminates as a person would."""
    with start_lab("--minute", "0.2", "--quotas", "off", "--shutdown", "0") as lab:
        idle, busy, protected = lab.launch(MaxCount=3, Monitoring={"Enabled": True})
        lab.boto("ec2").modify_instance_attribute(InstanceId=protected, DisableApiTermination={"Value": True})
        lab.fault({"kind": "cpu", "instance": busy, "percent": 80.0})
        for instance_id in (idle, busy, protected):
            _alarm(lab, instance_id)
        lab.until_state([idle], "terminated")
        alarms = lab.until(lambda: _states(lab) if _states(lab)[protected] == "ALARM" else None)
        assert alarms[busy] == "OK"
        assert {lab.instance(i)["state"] for i in (busy, protected)} == {"running"}


def _states(lab: LabProcess) -> dict[str, str]:
    """The alarms' states by instance."""
    alarms = lab.boto("cloudwatch").describe_alarms()["MetricAlarms"]
    return {alarm["AlarmName"].removeprefix("idle-"): alarm["StateValue"] for alarm in alarms}
