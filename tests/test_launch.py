"""launch: what from, how, and what EC2 answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flambed.desired import Role
from flambed.errors import Reason, StepError
from flambed.observed.facts import Image, LaunchSpec
from flambed.steps import launch
from tests.clusterfiles import cluster
from tests.fakes import OWNER, Cloud, client_error, ids
from tests.virtualtime import virtual

BOTH = (Role.ORCHESTRATOR, Role.FACTORY)
SSM = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
TYPES = {
    "t3.large": {"EbsInfo": {"EbsOptimizedSupport": "default"}},
    "g5.xlarge": {"EbsInfo": {"EbsOptimizedSupport": "default"}},
    "m1.large": {"EbsInfo": {"EbsOptimizedSupport": "supported"}},
}
TAGS = {"creator": "me", "Name": "c_factory"}


def image(ami: str, name: str, *, owner: str = OWNER, root: str = "/dev/sda1", gib: int = 8) -> dict[str, Any]:
    """Return an image as EC2 describes it."""
    return {
        "ImageId": ami,
        "Name": name,
        "OwnerId": owner,
        "RootDeviceName": root,
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
            {"DeviceName": root, "Ebs": {"VolumeSize": gib}},
        ],
    }


def cloud_with(*images: dict[str, Any]) -> Cloud:
    """Return a cloud with these images."""
    cloud = Cloud()
    cloud.ec2.images = list(images)
    cloud.ec2.types = TYPES
    return cloud


DEFAULTS = (
    image("ami-0", "flambe-orchestrator-ami 0.0.0"),
    image("ami-f", "flambe-factory-ami 0.0.0", root="/dev/xvda", gib=30),
)


def spec(role: Role = Role.FACTORY, count: int = 3, *, optimized: bool = False) -> LaunchSpec:
    """Return a launch."""
    found = Image(id="ami-1", root_device="/dev/sda1", min_gib=8)
    return LaunchSpec(role=role, count=count, image=found, type="g5.xlarge", ebs_optimized=optimized)


# --- what to launch from


@pytest.mark.seed("S28")
@pytest.mark.seed("S29")
@pytest.mark.seed("S12")
@virtual
async def test_without_an_image_both_roles_get_their_default_ones_in_one_call() -> None:
    """Flambé's own images, version 0.0.0, and one look at images and types for both roles."""
    cloud = cloud_with(*DEFAULTS)
    fact = await launch.prepare(cloud.region(), cluster(), BOTH)
    assert [(s.role, s.type, s.image.id, s.image.root_device, s.image.min_gib) for s in fact.specs] == [
        (Role.ORCHESTRATOR, "t3.large", "ami-0", "/dev/sda1", 8),
        (Role.FACTORY, "g5.xlarge", "ami-f", "/dev/xvda", 30),
    ]
    assert [name for name, _ in cloud.ec2.calls] == ["describe_images", "describe_instance_types"]
    names = ["flambe-orchestrator-ami 0.0.0", "flambe-factory-ami 0.0.0"]
    assert cloud.ec2.of("describe_images") == [{"Owners": [OWNER], "Filters": [{"Name": "name", "Values": names}]}]


@pytest.mark.seed("S28")
def test_an_image_is_named_by_its_type_in_lower_case_and_its_version() -> None:
    """As Flambé's own images are."""
    assert launch.image_name("Factory", "0.2.1") == "flambe-factory-ami 0.2.1"


@pytest.mark.seed("S27")
@virtual
async def test_a_strangers_image_of_the_same_name_is_never_used() -> None:
    """Anybody may publish one, and even if AWS answered with it, it would not count."""
    decoy = image("ami-decoy", "flambe-factory-ami 0.0.0", owner="666666666666")
    with pytest.raises(StepError, match=r"there is no default image 'flambe-factory-ami 0.0.0'"):
        await launch.prepare(cloud_with(DEFAULTS[0], decoy).region(), cluster(), BOTH)
    fact = await launch.prepare(cloud_with(*DEFAULTS, decoy).region(), cluster(), BOTH)
    assert [s.image.id for s in fact.specs] == ["ami-0", "ami-f"]


@pytest.mark.seed("S12")
@pytest.mark.seed("S29")
@virtual
async def test_a_missing_default_image_is_an_error_that_suggests_the_other_two() -> None:
    """An image's id, or a current public one."""
    with pytest.raises(StepError) as caught:
        await launch.prepare(cloud_with().region(), cluster(), BOTH)
    assert caught.value.reason is Reason.BAD_REQUEST
    assert "give orchestrator_ami an image's id (ami-...) or a current public one (ssm:/aws/service/...)" in str(
        caught.value
    )


@pytest.mark.seed("S12")
@virtual
async def test_images_may_be_ids_or_current_public_ones() -> None:
    """Both are described by one call, and none is asked for twice, also not by several clusters at once."""
    cloud = cloud_with(image("ami-a", "x"), image("ami-b", "y"))
    cloud.ssm.parameters[SSM] = "ami-b"
    region = cloud.region()
    wanted = cluster(orchestrator_ami="ami-a", factory_ami=f"ssm:{SSM}")
    facts = await asyncio.gather(*(launch.prepare(region, wanted, BOTH) for _ in range(5)))
    assert {tuple(s.image.id for s in fact.specs) for fact in facts} == {("ami-a", "ami-b")}
    assert cloud.ec2.of("describe_images") == [{"ImageIds": ["ami-a", "ami-b"]}]
    assert cloud.ssm.of("get_parameters") == [{"Names": [SSM]}]
    assert cloud.ec2.of("describe_instance_types") == [{"InstanceTypes": ["t3.large", "g5.xlarge"]}]


@virtual
async def test_a_public_image_that_does_not_exist_is_told_by_its_path() -> None:
    """A typing mistake in the path is found before anything is launched."""
    with pytest.raises(StepError, match="there is no image behind ssm:/aws/service/nothing in us-east-1"):
        await launch.prepare(cloud_with().region(), cluster(factory_ami="ssm:/aws/service/nothing"), (Role.FACTORY,))


@virtual
async def test_an_image_that_does_not_exist_is_told_by_its_id() -> None:
    """As AWS says it, whose answer is not remembered."""
    cloud = cloud_with(image("ami-a", "x"))
    cloud.ec2.fail("describe_images", client_error("InvalidAMIID.NotFound", "The image id '[ami-a]' does not exist"))
    region, wanted = cloud.region(), cluster(factory_ami="ami-a")
    with pytest.raises(StepError, match="ami-a") as caught:
        await launch.prepare(region, wanted, (Role.FACTORY,))
    assert caught.value.reason is Reason.BAD_REQUEST
    assert (await launch.prepare(region, wanted, (Role.FACTORY,))).specs[0].image.id == "ami-a"


@virtual
async def test_a_volume_smaller_than_the_image_is_told_before_the_launch() -> None:
    """EC2 would refuse it, after the orchestrator was launched."""
    cloud = cloud_with(image("ami-a", "x", gib=75))
    with pytest.raises(
        StepError, match="volume_size is 50 GiB, but the image ami-a of the factory needs 75 GiB"
    ) as caught:
        await launch.prepare(cloud.region(), cluster(factory_ami="ami-a", volume_size=50), (Role.FACTORY,))
    assert caught.value.reason is Reason.BAD_REQUEST


@virtual
async def test_an_image_without_a_root_volume_is_refused() -> None:
    """An instance-store image has nothing that volume_type and volume_size could be about."""
    bare = {"ImageId": "ami-a", "Name": "x", "OwnerId": OWNER, "RootDeviceType": "instance-store"}
    with pytest.raises(StepError, match="no root volume on EBS"):
        await launch.prepare(cloud_with(bare).region(), cluster(factory_ami="ami-a"), (Role.FACTORY,))


@virtual
async def test_an_unknown_instance_type_is_told_with_the_nearest_known_one() -> None:
    """A typing mistake is corrected in one look."""
    with pytest.raises(
        StepError, match=r"no instance type 'g5.xlrage' in us-east-1; the nearest is g5.xlarge"
    ) as caught:
        await launch.prepare(cloud_with(*DEFAULTS).region(), cluster(factories_type="g5.xlrage"), BOTH)
    assert caught.value.reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(("kind", "optimized"), [("m1.large", True), ("g5.xlarge", False)])
@virtual
async def test_ebs_optimized_is_asked_for_only_where_it_is_a_choice(kind: str, optimized: bool) -> None:
    """Other types are so by themselves, or cannot be."""
    fact = await launch.prepare(cloud_with(*DEFAULTS).region(), cluster(factories_type=kind), (Role.FACTORY,))
    assert fact.specs[0].ebs_optimized is optimized


# --- how


@pytest.mark.seed("S05", "S23", "S24")
def test_a_launch_is_one_call_with_everything_in_it() -> None:
    """The whole call, literally: tags and volumes at launch, so that a half-done launch can be found."""
    listed = [{"Key": "creator", "Value": "me"}, {"Key": "Name", "Value": "c_factory"}]
    proven = [*listed, {"Key": "flambed:launch", "Value": "id-1-0"}]
    assert launch.run_instances_params(cluster(), spec(), "id-1-0", TAGS, b"#cloud-config\n") == {
        "ClientToken": "id-1-0",
        "MinCount": 1,
        "MaxCount": 3,
        "ImageId": "ami-1",
        "InstanceType": "g5.xlarge",
        "KeyName": "k",
        "SecurityGroupIds": ["sg-1"],
        "SubnetId": "subnet-1",
        "Placement": {"Tenancy": "default"},
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/sda1",
                "Ebs": {"VolumeType": "gp2", "VolumeSize": 100, "DeleteOnTermination": True, "Encrypted": True},
            }
        ],
        "Monitoring": {"Enabled": True},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "HttpEndpoint": "enabled"},
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": proven},
            {"ResourceType": "volume", "Tags": proven},
            {"ResourceType": "network-interface", "Tags": listed},
        ],
        "UserData": b"#cloud-config\n",
    }


def ebs(**changes: Any) -> dict[str, Any]:
    """Return the volume of a launch."""
    params = launch.run_instances_params(cluster(**changes), spec(), "t", TAGS, b"")
    volume: dict[str, Any] = params["BlockDeviceMappings"][0]["Ebs"]
    return volume


@pytest.mark.seed("S07")
@pytest.mark.seed("S08")
@pytest.mark.parametrize(("kind", "iops"), [("gp2", None), ("gp3", None), ("io1", 5000), ("io2", 5000)])
def test_a_provisioned_volume_has_five_thousand_iops(kind: str, iops: int | None) -> None:
    """As in Flambé; the other types have their own."""
    volume = ebs(volume_type=kind, volume_size=200)
    assert (volume["VolumeType"], volume["VolumeSize"], volume.get("Iops")) == (kind, 200, iops)


def test_volumes_are_encrypted_unless_the_file_says_otherwise() -> None:
    """The file's own word counts."""
    assert ebs()["Encrypted"] is True
    assert ebs(volume_encrypted=False)["Encrypted"] is False


@pytest.mark.seed("S13")
def test_dedicated_hosts_have_dedicated_tenancy() -> None:
    """Hardware of their own."""
    params = launch.run_instances_params(cluster(dedicated=True), spec(), "t", TAGS, b"")
    assert params["Placement"] == {"Tenancy": "dedicated"}


@pytest.mark.idle("window", "dead-man's timer", "-1")
@pytest.mark.parametrize(
    ("hours", "monitored", "behaviour"),
    [(-1, False, "stop"), (0, True, "terminate"), (24, True, "terminate"), (25, False, "terminate")],
)
def test_the_timeout_decides_on_monitoring_and_on_what_a_poweroff_means(
    hours: int, monitored: bool, behaviour: str
) -> None:
    """A point a minute is paid for where an alarm counts minutes, and only an idle timeout makes poweroff the end."""
    params = launch.run_instances_params(cluster(factories_timeout=hours), spec(), "t", TAGS, b"")
    assert params["Monitoring"] == {"Enabled": monitored}
    assert params["InstanceInitiatedShutdownBehavior"] == behaviour


@pytest.mark.parametrize(
    ("profile", "given"),
    [("nodes", {"Name": "nodes"}), ("arn:aws:iam::123456789012:instance-profile/nodes",) * 2],
)
def test_an_instance_profile_is_given_by_name_or_arn(profile: str, given: dict[str, str] | str) -> None:
    """As the file has it."""
    params = launch.run_instances_params(cluster(iam_instance_profile=profile), spec(), "t", TAGS, b"")
    assert params["IamInstanceProfile"] == (given if isinstance(given, dict) else {"Arn": given})


def test_ebs_optimized_is_sent_only_where_it_is_supported() -> None:
    """Elsewhere the parameter would be refused."""
    assert "EbsOptimized" not in launch.run_instances_params(cluster(), spec(), "t", TAGS, b"")
    assert launch.run_instances_params(cluster(), spec(optimized=True), "t", TAGS, b"")["EbsOptimized"] is True


@pytest.mark.seed("S22")
@pytest.mark.parametrize(("role", "name"), [(Role.ORCHESTRATOR, "c_orchestrator"), (Role.FACTORY, "c_factory")])
def test_instances_are_created_under_the_name_of_their_role(role: Role, name: str) -> None:
    """The creation name, before each host has its own."""
    assert launch.creation_name(cluster(), role) == name


# --- doing it


@pytest.mark.seed("S24")
@virtual
async def test_a_launch_answers_with_the_instances_that_were_made() -> None:
    """One RunInstances, and its answer as a fact."""
    cloud = cloud_with()
    fact = await launch.launch(cloud.region(), cluster(), spec(), "id-1-0", TAGS, b"x")
    assert fact.token == "id-1-0"
    proven = {**TAGS, "flambed:launch": "id-1-0"}
    assert [(i.id, i.state, i.tags) for i in fact.instances] == [(i, "pending", proven) for i in ids([1, 2, 3])]
    assert len(cloud.ec2.of("run_instances")) == 1


@virtual
async def test_a_refused_launch_is_not_tried_again_by_itself() -> None:
    """What to do about it is decided elsewhere: here it is told."""
    cloud = cloud_with()
    cloud.ec2.fail("run_instances", client_error("InsufficientInstanceCapacity", "no capacity", 500))
    with pytest.raises(StepError, match="no capacity") as caught:
        await launch.launch(cloud.region(), cluster(), spec(), "t", TAGS, b"")
    assert caught.value.reason is Reason.NO_CAPACITY
    assert len(cloud.ec2.of("run_instances")) == 1


@pytest.mark.seed("S23")
@virtual
async def test_tags_go_on_the_instance_and_its_volumes_and_none_is_removed() -> None:
    """CreateTags adds and overwrites; there is no other call."""
    cloud = cloud_with()
    tags = {"Name": "c_factory_0", "project": "p"}
    fact = await launch.tag(cloud.region(), cluster(), "i-1", ("vol-1", "vol-2"), tags, "digest")
    assert (fact.instance, fact.digest) == ("i-1", "digest")
    listed = [{"Key": "Name", "Value": "c_factory_0"}, {"Key": "project", "Value": "p"}]
    assert cloud.ec2.calls == [("create_tags", {"Resources": ["i-1", "vol-1", "vol-2"], "Tags": listed})]


@virtual
async def test_an_instance_too_fresh_to_be_tagged_is_not_found_yet() -> None:
    """It is tried again, and not taken for gone."""
    cloud = cloud_with()
    cloud.ec2.fail("create_tags", client_error("InvalidInstanceID.NotFound"))
    with pytest.raises(StepError) as caught:
        await launch.tag(cloud.region(), cluster(), "i-1", (), {"a": "b"}, "d")
    assert caught.value.reason is Reason.NOT_FOUND_YET


@virtual
async def test_stopped_instances_are_started_in_one_call() -> None:
    """Those of a cluster together."""
    cloud = cloud_with()
    fact = await launch.start(cloud.region(), cluster(), ("i-1", "i-2"))
    assert fact.instances == ("i-1", "i-2")
    assert cloud.ec2.calls == [("start_instances", {"InstanceIds": ["i-1", "i-2"]})]


@virtual
async def test_the_console_is_text_and_empty_before_there_is_any() -> None:
    """EC2 shows it some minutes after the first boot."""
    cloud = cloud_with()
    assert await launch.console(cloud.region(), cluster(), "i-1") == ""
    cloud.ec2.console = "login:"
    assert await launch.console(cloud.region(), cluster(), "i-1") == "login:"
