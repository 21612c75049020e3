"""Launching instances: what from, how, and what EC2 answered; and what else brings an instance to its place."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from flambed.aws import AwsError
from flambed.desired import Cluster, Role
from flambed.errors import Reason, StepError
from flambed.observed.facts import (
    Image,
    InstanceTagged,
    LaunchAnswered,
    LaunchPrepared,
    LaunchSpec,
    StartAccepted,
)
from flambed.observed.survey import seen
from flambed.pacing import Rank
from flambed.paging import pages
from flambed.tags import LAUNCH_TAG

if TYPE_CHECKING:
    from flambed.region import Region

DEFAULT_VERSION: Final = "0.0.0"
"""The version of an image that holds Flambé's heavy dependencies and not Flambé (S29)."""

_DAY: Final = 24 * 60
_SSM: Final = "ssm:"


# --- what to launch from -----------------------------------------------------------------------------------------


async def prepare(region: Region, cluster: Cluster, roles: Sequence[Role]) -> LaunchPrepared:
    """Resolve the images and instance types of these roles, and see that they fit. Each is asked for once a region.

    Raises:
        StepError: BAD_REQUEST, with a message that says what to change, where something does not exist or does not
            fit; what else AWS said as an AwsError.
    """
    images = await _images(region, cluster, roles)
    types = await types_of(region, tuple(dict.fromkeys(cluster.type_of(role) for role in roles)))
    specs = []
    for role in roles:
        image, kind = images[role], types[cluster.type_of(role)]
        if cluster.volume_size < image.min_gib:
            raise _unusable(
                f"volume_size is {cluster.volume_size} GiB, but the image {image.id} of the {role.lower()} needs "
                f"{image.min_gib} GiB: make volume_size at least {image.min_gib}"
            )
        optimized = kind.get("EbsInfo", {}).get("EbsOptimizedSupport") == "supported"
        specs.append(LaunchSpec(role=role, count=0, image=image, type=cluster.type_of(role), ebs_optimized=optimized))
    return LaunchPrepared(at=region.clock.now(), specs=tuple(specs))


def image_name(kind: str, version: str = DEFAULT_VERSION) -> str:
    """Return the name of one of Flambé's own images, by type and version; the type is in lower case (S28)."""
    return f"flambe-{kind.lower()}-ami {version}"


async def _images(region: Region, cluster: Cluster, roles: Sequence[Role]) -> dict[Role, Image]:
    asked = {role: cluster.ami_of(role) for role in roles}
    paths = tuple(dict.fromkeys(ami.removeprefix(_SSM) for ami in asked.values() if ami and ami.startswith(_SSM)))
    parameters = await _parameters(region, paths) if paths else {}
    by_id = {role: parameters.get(ami.removeprefix(_SSM), ami) for role, ami in asked.items() if ami}
    by_name = {role: image_name(role) for role, ami in asked.items() if not ami}
    found: dict[Role, Image] = {}
    if by_id:
        known = await _by_id(region, tuple(dict.fromkeys(by_id.values())))
        found |= {role: known[image] for role, image in by_id.items()}
    if by_name:
        known = await _by_name(region, tuple(dict.fromkeys(by_name.values())))
        found |= {role: known[name] for role, name in by_name.items()}
    return found


async def _parameters(region: Region, paths: tuple[str, ...]) -> Mapping[str, str]:
    async def fetch() -> Mapping[str, str]:
        answer = await region.call(region.clients.ssm.get_parameters, rank=Rank.LAUNCH, Names=list(paths))
        return {parameter["Name"]: parameter["Value"] for parameter in answer.get("Parameters", ())}

    found = await region.parameters.get(paths, fetch)
    for path in paths:
        if not found.get(path, "").startswith("ami-"):
            raise _unusable(
                f"there is no image behind {_SSM}{path} in {region.name}: check the path, or give an image's id (ami-...)"
            )
    return found


async def _by_id(region: Region, ids: tuple[str, ...]) -> Mapping[str, Image]:
    async def fetch() -> Mapping[str, Image]:
        answer = await region.call(region.clients.ec2.describe_images, rank=Rank.LAUNCH, ImageIds=list(ids))
        return {image["ImageId"]: _image(image) for image in answer.get("Images", ())}

    found = await region.images.get(ids, fetch)
    for image in ids:
        if image not in found:
            raise _unusable(f"there is no image {image} in {region.name}, or it is not shared with this account")
    return found


async def _by_name(region: Region, names: tuple[str, ...]) -> Mapping[str, Image]:
    async def fetch() -> Mapping[str, Image]:
        answer = await region.call(
            region.clients.ec2.describe_images,
            rank=Rank.LAUNCH,
            Owners=list(region.image_owners),
            Filters=[{"Name": "name", "Values": list(names)}],
        )
        # Anybody may publish an image by this name: only the pinned owners' count (S27).
        own = [image for image in answer.get("Images", ()) if image.get("OwnerId") in region.image_owners]
        own.sort(key=lambda image: str(image.get("CreationDate", "")))
        return {image["Name"]: _image(image) for image in own}

    found = await region.images.get(names, fetch)
    for name in names:
        if name not in found:
            field = "orchestrator_ami" if name == image_name(Role.ORCHESTRATOR) else "factory_ami"
            raise _unusable(
                f"there is no default image {name!r} of {', '.join(region.image_owners)} in {region.name}: give {field} an "
                "image's id (ami-...) or a current public one (ssm:/aws/service/...)"
            )
    return found


def _image(description: Mapping[str, Any]) -> Image:
    root = description.get("RootDeviceName") or ""
    for mapping in description.get("BlockDeviceMappings", ()):
        if root and mapping.get("DeviceName") == root and "Ebs" in mapping:
            return Image(id=description["ImageId"], root_device=root, min_gib=int(mapping["Ebs"].get("VolumeSize", 1)))
    raise _unusable(f"the image {description['ImageId']} has no root volume on EBS: use one that has (hvm:ebs-ssd)")


async def types_of(region: Region, types: tuple[str, ...]) -> Mapping[str, Mapping[str, Any]]:
    """Return instance types as EC2 describes them; each tuple is asked for once a region.

    Raises:
        StepError: BAD_REQUEST, with the nearest one, where there is none such; what else AWS said as an AwsError.
    """

    async def fetch() -> Mapping[str, Mapping[str, Any]]:
        answer = await region.call(
            region.clients.ec2.describe_instance_types, rank=Rank.LAUNCH, InstanceTypes=list(types)
        )
        return {kind["InstanceType"]: kind for kind in answer.get("InstanceTypes", ())}

    try:
        found = await region.types.get(types, fetch)
    except AwsError as error:
        if error.code != "InvalidInstanceType":
            raise
        found = {}
    if all(kind in found for kind in types):
        return found
    offered = await _offerings(region)
    wrong = [kind for kind in types if kind not in found and kind not in offered]
    raise _unusable(" and ".join(_no_type(kind, offered, region.name) for kind in wrong or types))


async def vcpus(region: Region, kind: str) -> int:
    """Return the vCPUs of a machine of this type.

    Raises:
        StepError: BAD_REQUEST where there is none such; what else AWS said as an AwsError.
    """
    return int((await types_of(region, (kind,)))[kind]["VCpuInfo"]["DefaultVCpus"])


async def _offerings(region: Region) -> tuple[str, ...]:
    async def fetch() -> tuple[str, ...]:
        found: list[str] = []
        params: dict[str, Any] = {"LocationType": "region", "MaxResults": 1000}
        async for answer in pages(region, region.clients.ec2.describe_instance_type_offerings, **params):
            found += [offering["InstanceType"] for offering in answer.get("InstanceTypeOfferings", ())]
        return tuple(sorted(found))

    return await region.offerings.get(region.name, fetch)


def _no_type(kind: str, offered: Sequence[str], region: str) -> str:
    near = difflib.get_close_matches(kind, offered, n=1)
    return f"there is no instance type {kind!r} in {region}" + (f"; the nearest is {near[0]}" if near else "")


def _unusable(message: str) -> StepError:
    return StepError(Reason.BAD_REQUEST, "Unusable", message)


# --- launching ---------------------------------------------------------------------------------------------------


def creation_name(cluster: Cluster, role: Role) -> str:
    """Return the `Name` that instances of a role are launched with, before each has its own (S22)."""
    return f"{cluster.name}_{role.lower()}"


def run_instances_params(
    cluster: Cluster, spec: LaunchSpec, token: str, tags: Mapping[str, str], user_data: bytes
) -> dict[str, Any]:
    """Return a launch as RunInstances takes it (S07, S08, S13, S24). Pure: the same arguments give the same call.

    Args:
        cluster: what the file says.
        spec: role, number, image and type.
        token: the client token, up to 64 ASCII characters.
        tags: of every instance, volume and network interface (S23).
        user_data: before base64, which the SDK adds.
    """
    minutes = cluster.timeout_minutes(spec.role)
    volume: dict[str, Any] = {
        "VolumeType": cluster.volume_type,
        "VolumeSize": cluster.volume_size,
        "DeleteOnTermination": True,
        "Encrypted": cluster.volume_encrypted,
    }
    if cluster.iops is not None:
        volume["Iops"] = cluster.iops
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    proof = [{"Key": LAUNCH_TAG, "Value": token}]
    params: dict[str, Any] = {
        "ClientToken": token,
        "MinCount": 1,
        "MaxCount": spec.count,
        "ImageId": spec.image.id,
        "InstanceType": spec.type,
        "KeyName": cluster.key_name,
        "SecurityGroupIds": [cluster.security_group],
        "SubnetId": cluster.subnet_id,
        "Placement": {"Tenancy": "dedicated" if cluster.dedicated else "default"},
        # Another name than the image's own would add a second disk.
        "BlockDeviceMappings": [{"DeviceName": spec.image.root_device, "Ebs": volume}],
        # A point a minute is what an alarm of up to a day counts; a longer one counts hours.
        "Monitoring": {"Enabled": minutes is not None and minutes <= _DAY},
        # A host that switches itself off because it is idle is to be paid for no longer.
        "InstanceInitiatedShutdownBehavior": "stop" if minutes is None else "terminate",
        # Two hops, so that containers on a host reach the metadata service, too.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "HttpEndpoint": "enabled"},
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": listed + proof},
            {"ResourceType": "volume", "Tags": listed + proof},
            {"ResourceType": "network-interface", "Tags": listed},
        ],
        "UserData": user_data,
    }
    if spec.ebs_optimized:
        params["EbsOptimized"] = True
    if cluster.iam_instance_profile is not None:
        key = "Arn" if cluster.iam_instance_profile.startswith("arn:") else "Name"
        params["IamInstanceProfile"] = {key: cluster.iam_instance_profile}
    return params


async def launch(  # noqa: PLR0917 - the parts of one call, in the order of `run_instances_params`
    region: Region, cluster: Cluster, spec: LaunchSpec, token: str, tags: Mapping[str, str], user_data: bytes
) -> LaunchAnswered:
    """Call RunInstances, once. The same token and arguments again: the same instances.

    Raises:
        AwsError: nothing was launched; but where the reason is TRANSIENT EC2 may have done it all the same, and only the
            same call again can tell.
    """
    answer = await region.call(
        region.clients.ec2.run_instances,
        rank=Rank.LAUNCH,
        whose=cluster.identity,
        units=spec.count,
        **run_instances_params(cluster, spec, token, tags, user_data),
    )
    launched = tuple(seen(description) for description in answer["Instances"])
    return LaunchAnswered(at=region.clock.now(), token=token, instances=launched)


# --- what else an instance needs ---------------------------------------------------------------------------------


async def tag(  # noqa: PLR0917 - the parts of the action, in its order
    region: Region, cluster: Cluster, instance: str, volumes: Sequence[str], tags: Mapping[str, str], digest: str
) -> InstanceTagged:
    """Put tags on an instance and its volumes; other tags that they carry stay (S23).

    Raises:
        AwsError: NOT_FOUND_YET while the instance is too fresh, or what else was in the way.
    """
    await region.call(
        region.clients.ec2.create_tags,
        rank=Rank.LAUNCH,
        whose=cluster.identity,
        Resources=[instance, *volumes],
        Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
    )
    return InstanceTagged(at=region.clock.now(), instance=instance, digest=digest)


async def start(region: Region, cluster: Cluster, instances: Sequence[str]) -> StartAccepted:
    """Start stopped instances.

    Raises:
        AwsError: none was started; TRANSIENT while one is still stopping.
    """
    await region.call(
        region.clients.ec2.start_instances, rank=Rank.LAUNCH, whose=cluster.identity, InstanceIds=list(instances)
    )
    return StartAccepted(at=region.clock.now(), instances=tuple(instances))


async def console(region: Region, cluster: Cluster, instance: str) -> str:
    """Return what an instance has printed on its console, "" before there is something. The SDK has decoded it.

    Raises:
        AwsError: it could not be read.
    """
    answer = await region.call(
        region.clients.ec2.get_console_output, rank=Rank.LAUNCH, whose=cluster.identity, InstanceId=instance
    )
    return str(answer.get("Output") or "")
