"""RunInstances of the lab against literal cases out of AWS's documentation."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.labproc import LabProcess, refused


def _ids(answer: dict[str, Any]) -> list[str]:
    return [instance["InstanceId"] for instance in answer["Instances"]]


def _volume(lab: LabProcess, **ebs: Any) -> dict[str, Any]:
    return lab.request(BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": ebs}])


def test_a_repeated_token_answers_with_the_same_instances_in_their_state_of_now(lab: LabProcess) -> None:
    """Same token and parameters: no second launch."""
    ec2 = lab.boto("ec2")
    first = ec2.run_instances(**lab.request(MaxCount=3, ClientToken="again"))
    lab.until_state(_ids(first), "running")
    second = ec2.run_instances(**lab.request(MaxCount=3, ClientToken="again"))
    assert _ids(second) == _ids(first)
    assert second["ReservationId"] == first["ReservationId"]
    assert {i["State"]["Name"] for i in first["Instances"]} == {"pending"}
    assert {i["State"]["Name"] for i in second["Instances"]} == {"running"}


def test_a_token_with_other_parameters_is_a_mismatch(lab: LabProcess) -> None:
    """Same token, another count: IdempotentParameterMismatch."""
    lab.launch(ClientToken="mismatch")
    with refused("IdempotentParameterMismatch"):
        lab.launch(ClientToken="mismatch", MaxCount=2)


def test_a_token_whose_instances_are_all_terminated_is_used_up(lab: LabProcess) -> None:
    """IdempotentInstanceTerminated, and one survivor is enough for the old answer."""
    ids = lab.launch(ClientToken="used up", MaxCount=2)
    lab.boto("ec2").terminate_instances(InstanceIds=ids[:1])
    lab.until_state(ids[:1], "terminated")
    assert lab.launch(ClientToken="used up", MaxCount=2) == ids
    lab.boto("ec2").terminate_instances(InstanceIds=ids)
    lab.until_state(ids, "terminated")
    with refused("IdempotentInstanceTerminated"):
        lab.launch(ClientToken="used up", MaxCount=2)


def test_a_token_is_zonal(lab: LabProcess) -> None:
    """In a subnet of another zone the same token launches anew."""
    subnets = lab.info["regions"]["us-east-1"]["subnets"]
    [first] = lab.launch(ClientToken="zonal", SubnetId=subnets["us-east-1a"])
    [second] = lab.launch(ClientToken="zonal", SubnetId=subnets["us-east-1b"])
    assert first != second


def test_max_count_is_launched_where_there_is_room(lab: LabProcess) -> None:
    """Between MinCount and MaxCount EC2 launches as many as it can: without a shortage all."""
    assert len(lab.launch(MinCount=1, MaxCount=7)) == 7


def test_a_shortage_launches_what_fits_and_then_nothing(lab: LabProcess) -> None:
    """Three more fit: 2 to 5 gives three, and the next launch has no capacity."""
    lab.fault({"kind": "capacity", "type": "t3.large", "count": 3})
    assert len(lab.launch(MinCount=2, MaxCount=5)) == 3
    with refused("InsufficientInstanceCapacity", 500):
        lab.launch()
    assert len(lab.launch(InstanceType="t3.small")) == 1


def test_less_room_than_min_count_launches_nothing(lab: LabProcess) -> None:
    """One fits, two are asked for: none is launched."""
    before = len(lab.instances(hosts=False))
    lab.fault({"kind": "capacity", "count": 1})
    with refused("InsufficientInstanceCapacity", 500):
        lab.launch(MinCount=2, MaxCount=2)
    assert len(lab.instances(hosts=False)) == before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "ubuntu"}, "InvalidAMIID.Malformed"),
        ({"InstanceType": "t99.huge"}, "InvalidParameterValue"),
        ({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidSubnetID.NotFound"),
        ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
        ({"KeyName": "nobodys"}, "InvalidKeyPair.NotFound"),
        ({"IamInstanceProfile": {"Name": "nobodys"}}, "InvalidParameterValue"),
        ({"UserData": "x" * 16_385}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterValue"),
        ({"EbsOptimized": True, "InstanceType": "t2.micro"}, "Unsupported"),
        ({"InstanceInitiatedShutdownBehavior": "sleep"}, "InvalidParameterValue"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused(lab: LabProcess, changes: dict[str, Any], code: str) -> None:
    """Each wrong parameter has AWS's own code, and nothing is launched."""
    before = len(lab.instances(hosts=False))
    with refused(code):
        lab.launch(**changes)
    assert len(lab.instances(hosts=False)) == before


def test_a_group_of_another_network_is_refused(lab: LabProcess) -> None:
    """Group and subnet must belong to one VPC."""
    ec2 = lab.boto("ec2")
    vpc = ec2.create_vpc(CidrBlock="127.99.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="elsewhere", Description="elsewhere", VpcId=vpc)["GroupId"]
    with refused("InvalidParameter"):
        lab.launch(SecurityGroupIds=[group])


def test_user_data_of_16_kib_is_accepted(lab: LabProcess) -> None:
    """The limit itself is allowed, and it counts bytes before base64."""
    assert lab.launch(UserData="x" * 16_384)


def test_a_dry_run_checks_and_launches_nothing(lab: LabProcess) -> None:
    """DryRunOperation is the answer of a request that would have succeeded."""
    with refused("DryRunOperation", 412):
        lab.launch(DryRun=True)
    with refused("InvalidKeyPair.NotFound"):
        lab.launch(DryRun=True, KeyName="nobodys")


@pytest.mark.parametrize(
    ("ebs", "code"),
    [
        ({"VolumeType": "io1", "VolumeSize": 99, "Iops": 5000}, "InvalidParameterValue"),
        ({"VolumeType": "io1", "VolumeSize": 100}, "MissingParameter"),
        ({"VolumeType": "gp2", "VolumeSize": 16_385}, "InvalidParameterValue"),
        ({"VolumeType": "gp2", "VolumeSize": 100, "Iops": 5000}, "InvalidParameterCombination"),
        ({"VolumeType": "gp2", "VolumeSize": 100, "Throughput": 125}, "InvalidParameterCombination"),
        ({"VolumeType": "gp3", "VolumeSize": 100, "Iops": 2_999}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "VolumeSize": 100, "Throughput": 124}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "VolumeSize": 65_537}, "InvalidParameterValue"),
        ({"VolumeType": "gp4", "VolumeSize": 100}, "InvalidParameterValue"),
        ({"VolumeType": "gp2", "VolumeSize": 7}, "InvalidBlockDeviceMapping"),
    ],
)
def test_volumes_outside_their_limits_are_refused(lab: LabProcess, ebs: dict[str, Any], code: str) -> None:
    """Sizes, IOPS and their ratio, and never smaller than the image's snapshot of 8 GiB."""
    with refused(code):
        lab.boto("ec2").run_instances(**_volume(lab, **ebs))


@pytest.mark.parametrize(
    ("ebs", "iops", "throughput"),
    [
        ({"VolumeType": "io1", "VolumeSize": 100, "Iops": 5000, "Encrypted": True}, 5000, None),
        ({"VolumeType": "io2", "VolumeSize": 10, "Iops": 5000, "Encrypted": False}, 5000, None),
        ({"VolumeType": "gp3", "VolumeSize": 50, "Iops": 4000, "Throughput": 250, "Encrypted": False}, 4000, 250),
        ({"VolumeType": "gp3", "VolumeSize": 50, "Encrypted": False}, 3000, 125),
    ],
)
def test_a_volume_is_described_as_it_was_asked_for(
    lab: LabProcess, ebs: dict[str, Any], iops: int, throughput: int | None
) -> None:
    """Type, size, IOPS, throughput, encryption and tags of the root volume."""
    answer = lab.boto("ec2").run_instances(**_volume(lab, DeleteOnTermination=True, **ebs))
    [device] = answer["Instances"][0]["BlockDeviceMappings"]
    [volume] = lab.boto("ec2").describe_volumes(VolumeIds=[device["Ebs"]["VolumeId"]])["Volumes"]
    assert device["Ebs"]["DeleteOnTermination"] is True
    assert (volume["VolumeType"], volume["Size"]) == (ebs["VolumeType"], ebs["VolumeSize"])
    assert (volume["Iops"], volume.get("Throughput"), volume["Encrypted"]) == (iops, throughput, ebs["Encrypted"])
    assert volume["Tags"] == [{"Key": "Role", "Value": "Factory"}]


def test_a_wrong_root_device_name_adds_a_second_disk(lab: LabProcess) -> None:
    """Amazon Linux has /dev/xvda: a mapping for /dev/sda1 is another disk."""
    request = _volume(lab, VolumeSize=100, VolumeType="gp2") | {"ImageId": lab.info["images"]["amazon-linux"]}
    [instance] = lab.boto("ec2").run_instances(**request)["Instances"]
    assert [d["DeviceName"] for d in instance["BlockDeviceMappings"]] == ["/dev/xvda", "/dev/sda1"]


def test_volumes_end_with_their_instance_unless_told_otherwise(lab: LabProcess) -> None:
    """DeleteOnTermination decides what remains."""
    mappings = [{"DeviceName": name, "Ebs": {"VolumeSize": 10, "DeleteOnTermination": ends}} for name, ends in
                (("/dev/sda1", True), ("/dev/sdf", False))]  # fmt: skip
    ec2 = lab.boto("ec2")
    [instance] = ec2.run_instances(**lab.request(BlockDeviceMappings=mappings))["Instances"]
    root, data = (device["Ebs"]["VolumeId"] for device in instance["BlockDeviceMappings"])
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    lab.until_state([instance["InstanceId"]], "terminated")
    with refused("InvalidVolume.NotFound"):
        ec2.describe_volumes(VolumeIds=[root])
    assert ec2.describe_volumes(VolumeIds=[data])["Volumes"][0]["State"] == "available"


def test_launch_parameters_are_kept(lab: LabProcess) -> None:
    """Tenancy, metadata options, monitoring, profile, shutdown behaviour and token can be read back."""
    ec2 = lab.boto("ec2")
    [instance_id] = lab.launch(
        Placement={"Tenancy": "dedicated"},
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        Monitoring={"Enabled": True},
        IamInstanceProfile={"Name": lab.info["instance_profile"]},
        InstanceInitiatedShutdownBehavior="terminate",
        ClientToken="kept",
        UserData="#cloud-config",
    )
    found = ec2.describe_instances(Filters=[{"Name": "client-token", "Values": ["kept"]}])
    instance = found["Reservations"][0]["Instances"][0]
    behaviour = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="instanceInitiatedShutdownBehavior")
    assert instance["InstanceId"] == instance_id
    assert instance["Placement"]["Tenancy"] == "dedicated"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 2
    assert instance["Monitoring"]["State"] == "enabled"
    assert instance["IamInstanceProfile"]["Arn"].endswith(f"/{lab.info['instance_profile']}")
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([{"Key": f"k{n}", "Value": ""} for n in range(51)], "TagLimitExceeded"),
        ([{"Key": "k" * 129, "Value": ""}], "InvalidParameterValue"),
        ([{"Key": "k", "Value": "v" * 257}], "InvalidParameterValue"),
        ([{"Key": "aws:mine", "Value": ""}], "InvalidParameterValue"),
        ([{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}], "InvalidParameterValue"),
    ],
)
def test_tags_outside_their_limits_are_refused(lab: LabProcess, tags: list[dict[str, str]], code: str) -> None:
    """50 tags, keys of 128, values of 256 characters, aws: reserved: at launch and later."""
    with refused(code):
        lab.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])
    ids = lab.launch(TagSpecifications=[])
    with refused(code):
        lab.boto("ec2").create_tags(Resources=ids, Tags=tags)


def test_tagging_is_all_or_nothing(lab: LabProcess) -> None:
    """One unknown instance among the resources fails the call and tags none."""
    [instance_id] = lab.launch()
    with refused("InvalidInstanceID.NotFound"):
        lab.boto("ec2").create_tags(
            Resources=[instance_id, "i-0123456789abcdef0"], Tags=[{"Key": "late", "Value": "1"}]
        )
    assert lab.instance(instance_id)["tags"] == {"Role": "Factory"}


def test_images_are_those_of_the_asked_owner(lab: LabProcess) -> None:
    """A stranger's image of the same name is another owner's; sizes and root devices can be read."""
    ec2 = lab.boto("ec2")
    name = [{"Name": "name", "Values": ["flambe-factory-ami 0.0.0"]}]
    [ours] = ec2.describe_images(Owners=["808129580301"], Filters=name)["Images"]
    everyones = ec2.describe_images(Filters=name)["Images"]
    [amazon] = ec2.describe_images(ImageIds=[lab.info["images"]["amazon-linux"]])["Images"]
    assert ours["ImageId"] == lab.info["images"]["factory"]
    assert ours["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 50
    assert {image["OwnerId"] for image in everyones} == {"808129580301", "666666666666"}
    assert amazon["RootDeviceName"] == "/dev/xvda"
    assert {i["OwnerId"] for i in ec2.describe_images(Owners=["amazon"])["Images"]} == {"137112412989"}


def test_public_parameters_name_the_current_images(lab: LabProcess) -> None:
    """SSM's public parameters resolve to the images of the region that was asked."""
    name = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
    for region, world in lab.info["regions"].items():
        parameter = lab.boto("ssm", region).get_parameter(Name=name)["Parameter"]
        assert parameter["Value"] == world["images"]["ubuntu"]


@pytest.mark.parametrize(
    ("name", "cpus", "gpus", "ebs_optimized"),
    [("t2.micro", 1, 0, "unsupported"), ("g3.4xlarge", 16, 1, "default"), ("p3.8xlarge", 32, 4, "default"),
     ("g4dn.xlarge", 4, 1, "default"), ("m5.large", 2, 0, "default")],
)  # fmt: skip
def test_instance_types_tell_cpus_gpus_and_ebs_optimisation(
    lab: LabProcess, name: str, cpus: int, gpus: int, ebs_optimized: str
) -> None:
    """The older GPU types are known as well."""
    [found] = lab.boto("ec2").describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
    assert found["VCpuInfo"]["DefaultVCpus"] == cpus
    assert sum(gpu["Count"] for gpu in found.get("GpuInfo", {}).get("Gpus", [])) == gpus
    assert found["EbsInfo"]["EbsOptimizedSupport"] == ebs_optimized
