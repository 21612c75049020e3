"""`doctor`: what it says of the state folder, of permissions, of the queue and of quotas, and that it changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flambed import doctor, permissions, vcpuquotas
from flambed.desired import Role
from flambed.observed.facts import Image, LaunchSpec
from flambed.observed.instance import Instance, Stage
from flambed.observed.world import World
from flambed.settings import Events, Settings
from tests.clusterfiles import cluster
from tests.fakes import QUEUE, Cloud, client_error, state_change
from tests.iam import called
from tests.virtualtime import virtual


class Usage(NamedTuple):
    """What `shutil.disk_usage` returns, bytes."""

    total: int
    used: int
    free: int


async def state_folder(path: Path, *, read_only: str | None = None) -> dict[str, Any]:
    """Return the check of a state folder."""
    found = await doctor.examine(Settings(), [], path, "1f0c6ab1d5b3e977", read_only=read_only)
    [check] = [one for one in found if one["check"] == "state folder"]
    return check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state folder as it should be."""
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def exposed(path: Path) -> None:
    """Let others read the state folder."""
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("total", "free", "ok"),
    [
        (1_000_000_000, 100_000_000, True),
        (1_000_000_000, 99_000_000, None),
        (10_000_000_000, 499_000_000, None),
        (10_000_000_000, 501_000_000, True),
        (0, 0, None),
    ],
)
async def test_little_room_is_a_warning_with_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, ok: bool | None
) -> None:
    """Under 100 MB, or under 5 %, whichever comes first."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, total - free, free))
    check = await state_folder(path)
    assert check["ok"] is ok
    assert f"{free // 1_000_000} MB (" in check["message"]
    assert (check["advice"] or "").startswith("make room there" if ok is None else "")


async def test_a_service_that_is_read_only_has_a_state_folder_that_fails(path: Path) -> None:
    """With why, and that a restart would make it worse."""
    check = await state_folder(path, read_only="the journal cannot be written")
    assert (check["ok"], check["message"]) == (False, "the journal cannot be written")
    assert "do not restart it before" in check["advice"]


async def test_a_folder_that_others_may_read_fails_whatever_room_there_is(
    path: Path, exposed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds private keys: that is told first."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 0))
    check = await state_folder(path)
    assert (check["ok"], f"chmod 700 {path}" in check["advice"]) == (False, True)


# --- a region ----------------------------------------------------------------------------------------------------


async def regions_checks(path: Path, cloud: Cloud, *worlds: World, queue: bool = True) -> dict[str, dict[str, Any]]:
    """The checks of one region, by name without the region's."""
    region = cloud.region(queue=QUEUE if queue else None)
    if queue and cloud.sqs.messages:
        assert region.inbox is not None
        region.inbox._take(cloud.sqs.messages.popleft())
    settings = Settings(events=Events(queues={"us-east-1": QUEUE} if queue else {}))
    found = await doctor.examine(settings, [region], path, "d1", worlds=worlds)
    return {one["check"].removeprefix("us-east-1: "): one for one in found if one["check"].startswith("us-east-1")}


def up(*, adopted: bool = False) -> World:
    """A cluster with one factory, launched here or adopted, and what it is launched from."""
    image = Image(id="ami-1", root_device="/dev/sda1", min_gib=8)
    spec = LaunchSpec(role=Role.FACTORY, count=0, image=image, type="g5.xlarge", ebs_optimized=True)
    factory = Instance(
        id="i-1", role=Role.FACTORY, index=0, type="g5.xlarge", stage=Stage.READY, stage_at=0.0, launched_at=0.0,
        disposable=("vol-1",), adopted=adopted,
    )  # fmt: skip
    return World(
        desired=cluster(), region="us-east-1", wanted=True, specs={Role.FACTORY: spec}, instances={"i-1": factory}
    )


def _cloud() -> Cloud:
    """A cloud in which everything is permitted; made where a loop runs."""
    made = Cloud()
    made.ec2.types = {
        "g5.xlarge": {"VCpuInfo": {"DefaultVCpus": 4}},
        "t3.large": {"VCpuInfo": {"DefaultVCpus": 2}},
    }
    return made


DENIED = client_error("UnauthorizedOperation", "You are not authorized to perform this operation.", 403)


@virtual
async def test_with_a_cluster_up_every_permission_that_can_be_tried_is(path: Path) -> None:
    """Changes are tried as dry runs on what this service launched, a launch as it is really made."""
    cloud = _cloud()
    checks = await regions_checks(path, cloud, up())
    assert (checks["permissions"]["ok"], checks["permissions"]["advice"]) == (True, None)
    [launch] = cloud.ec2.of("run_instances")
    assert (launch["DryRun"], launch["MaxCount"]) == (True, 1)
    assert {"Key": "Purpose", "Value": "flambe"} in launch["TagSpecifications"][0]["Tags"]
    assert [params["InstanceIds"] for params in cloud.ec2.of("terminate_instances")] == [["i-1"]]
    assert [params["VolumeId"] for params in cloud.ec2.of("delete_volume")] == ["vol-1"]
    asked = {name for name, _ in cloud.ec2.calls}
    assert all(params.get("DryRun") for name, params in cloud.ec2.calls if not name.startswith("describe_instance_ty"))
    assert asked >= {"create_tags", "delete_tags", "start_instances", "monitor_instances", "get_console_output"}
    failed = {fields["code"] for event, fields in cloud.heard.events if event == "aws.call_failed"}
    assert "DryRunOperation" not in failed, "what would have been permitted is no failure"


@virtual
async def test_each_refusal_is_told_with_the_action_to_allow(path: Path) -> None:
    """By its name in a policy, whichever service refuses it."""
    cloud = _cloud()
    cloud.ec2.fail("terminate_instances", DENIED)
    cloud.cloudwatch.fail("get_metric_data", client_error("AccessDenied", "not you", 403))
    cloud.ssm.fail("get_parameters", client_error("AccessDeniedException", "not you"))
    checks = await regions_checks(path, cloud, up())
    for action in ("ec2:TerminateInstances", "cloudwatch:GetMetricData", "ssm:GetParameters"):
        assert checks[action]["ok"] is False
        assert checks[action]["advice"].startswith(f"allow {action} to the service's role")
    assert checks["permissions"]["ok"] is False


@virtual
@pytest.mark.parametrize("adopted", [None, True], ids=["nothing is up", "what is up was adopted"])
async def test_a_refusal_about_what_does_not_exist_proves_nothing(path: Path, adopted: bool | None) -> None:
    """The shipped policy allows changes of tagged machines only, so without one nobody can tell: that is said."""
    cloud = _cloud()
    for method in ("terminate_instances", "delete_volume"):
        cloud.ec2.fail(method, DENIED)
    checks = await regions_checks(path, cloud, *([up(adopted=True)] if adopted else []))
    assert checks["permissions"]["ok"] is None
    assert "ec2:TerminateInstances, ec2:DeleteVolume" in checks["permissions"]["message"]
    assert "while a cluster is up" in checks["permissions"]["advice"]
    assert not [name for name in checks if name.startswith("ec2:")]
    assert ("ec2:RunInstances" in checks["permissions"]["message"]) is not adopted


@virtual
async def test_what_aws_could_not_answer_is_neither_permitted_nor_refused(path: Path) -> None:
    """An outage is told as one."""
    cloud = _cloud()
    cloud.ec2.fail("describe_volumes", client_error("Unavailable", "try later", 503))
    checks = await regions_checks(path, cloud, up())
    assert checks["ec2:DescribeVolumes"]["ok"] is None
    assert "try later" in checks["ec2:DescribeVolumes"]["message"]


async def test_every_call_of_the_program_is_tried_or_told_by_what_it_leads_to() -> None:
    """A new call of the service needs an attempt here, or a line among those that other checks tell."""
    region = _cloud().region()
    tried = {
        *permissions._looks(region, "123456789012"),
        *permissions._changes(region, permissions.sample([up()], "d1")),
    }
    elsewhere = {
        "cloudwatch:PutMetricAlarm",  # the check `alarms`
        "cloudwatch:PutMetricData",  # the check `points in AWS/EC2`, and protection.points_failed
        "servicequotas:GetServiceQuota",  # the checks `quota`
        "sqs:DeleteMessage", "sqs:ListQueueTags", "sqs:ReceiveMessage", "sqs:TagQueue", "sqs:UntagQueue",  # `events`
        "sts:GetCallerIdentity",  # `credentials`
    }  # fmt: skip
    assert tried | elsewhere == called()
    assert not tried & elsewhere


@virtual
async def test_a_queue_that_is_read_and_stays_silent_is_a_hint_at_its_rule(path: Path) -> None:
    """Whether a rule sends to it only an event can prove; the advice has the command that shows the rule."""
    cloud = _cloud()
    silent = (await regions_checks(path, cloud))["events"]
    assert silent["ok"] is None
    assert "aws events list-rule-names-by-target --region us-east-1" in silent["advice"]
    cloud.sqs.send(state_change("i-1", "running"))
    heard = (await regions_checks(path, cloud))["events"]
    assert (heard["ok"], heard["message"]) == (True, "the queue is being read, and an instance was heard of 0 s ago")


@virtual
@pytest.mark.parametrize(("most", "ok"), [(16.0, True), (15.0, False)])
async def test_the_quota_is_held_against_what_the_clusters_want(path: Path, most: float, ok: bool) -> None:
    """Four factories of 4 vCPUs count against one quota, the orchestrator's 2 against another."""
    cloud = _cloud()
    cloud.servicequotas.values = {"L-DB2E81BA": most, "L-1216C47A": 5.0}
    checks = await regions_checks(path, cloud, up())
    assert checks["quota L-DB2E81BA"]["ok"] is ok
    assert f"may have {most:.0f} vCPUs, its clusters want 16" in checks["quota L-DB2E81BA"]["message"]
    assert ("--desired-value 16 --region us-east-1" in (checks["quota L-DB2E81BA"]["advice"] or "")) is not ok
    assert checks["quota L-1216C47A"]["ok"] is True


@virtual
async def test_a_quota_that_may_not_be_read_is_told_as_such(path: Path) -> None:
    """It is no failure: the service works without."""
    cloud = _cloud()
    cloud.servicequotas.fail("get_service_quota", client_error("AccessDeniedException", "not you"))
    checks = await regions_checks(path, cloud, up())
    [told] = [one for name, one in checks.items() if name.startswith("quota ") and "not you" in one["message"]]
    assert told["ok"] is None
    assert told["advice"].startswith("allow servicequotas:GetServiceQuota")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("t3.large", "L-1216C47A"),
        ("im4gn.large", "L-1216C47A"),
        ("m7i-flex.large", "L-1216C47A"),
        ("g4dn.xlarge", "L-DB2E81BA"),
        ("gr6.4xlarge", "L-DB2E81BA"),
        ("p4d.24xlarge", "L-417A185B"),
        ("trn1.2xlarge", "L-2C3B7624"),
        ("inf2.xlarge", "L-1945791B"),
        ("mac2.metal", None),
    ],
)
def test_a_type_counts_against_the_quota_of_its_family(kind: str, code: str | None) -> None:
    """By the letters that its name begins with; a dedicated host's family counts against none of these."""
    quota = vcpuquotas.quota_of(kind)
    assert (quota.code if quota is not None else None) == code


async def test_a_key_folder_that_others_may_look_into_fails(path: Path) -> None:
    """It holds private keys, even while none is readable."""
    (path / "keys").mkdir(mode=0o755)
    (path / "keys").chmod(0o755)
    [check] = [one for one in await doctor.examine(Settings(), [], path, "d1") if one["check"] == "key files"]
    assert (check["ok"], check["advice"]) == (False, f"chmod 700 {path / 'keys'}")
