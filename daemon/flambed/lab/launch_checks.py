"""What EC2 refuses of a RunInstances request, and what it reads out of one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.iam.models import iam_backends

from flambed.lab import volumes
from flambed.lab.refusal import Refusal

USER_DATA_LIMIT: Final = 16_384  # bytes, before base64


def counts(params: dict[str, Any]) -> tuple[int, int]:
    """(MinCount, MaxCount), checked; and whether the parameters are there that every launch needs."""
    for name in ("MinCount", "MaxCount", "ImageId"):
        if name not in params:
            raise Refusal("MissingParameter", f"The request must contain the parameter {name}")
    least, most = params["MinCount"], params["MaxCount"]
    if not 1 <= least <= most:
        raise Refusal("InvalidParameterValue", f"Value ({least}, {most}) for MinCount and MaxCount is invalid")
    return least, most


def client_token(params: dict[str, Any]) -> str:
    """The client token: up to 64 ASCII characters; the SDK sends a random one where its user gave none."""
    token = str(params["ClientToken"])
    if len(token) > 64 or not token.isascii():
        raise Refusal("InvalidParameterValue", "ClientToken must be at most 64 ASCII characters")
    return token


def subnet(ec2: Any, params: dict[str, Any]) -> Any:
    """The subnet of the launch, named by the request or by its first network interface."""
    interfaces = params.get("NetworkInterfaces", [])
    if interfaces and ("SubnetId" in params or params.get("SecurityGroupIds")):
        raise Refusal(
            "InvalidParameterCombination",
            "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same request",
        )
    subnet_id = params.get("SubnetId") or next((n["SubnetId"] for n in interfaces if "SubnetId" in n), None)
    if subnet_id is None:
        raise Refusal("VPCIdNotSpecified", "No default VPC for this user: the lab has none, give a subnet")
    for zone in ec2.subnets.values():
        if subnet_id in zone:
            return zone[subnet_id]
    raise Refusal("InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist")


def public_address(params: dict[str, Any], subnet: Any) -> bool:
    """Whether the instances get public addresses: as the request says, else as the subnet does."""
    for interface in params.get("NetworkInterfaces", []):
        if "AssociatePublicIpAddress" in interface:
            return bool(interface["AssociatePublicIpAddress"])
    return bool(subnet.map_public_ip_on_launch)


def gpu_count(instance_type: str) -> int:
    """How many GPUs the type has."""
    return sum(gpu["Count"] for gpu in INSTANCE_TYPES[instance_type].get("GpuInfo", {}).get("Gpus", []))


def resources(ec2: Any, params: dict[str, Any], subnet: Any) -> tuple[Any, Sequence[volumes.VolumePlan]]:
    """The image and the volumes of the launch; refuses names that do not exist and values that do not fit."""
    image_id = params["ImageId"]
    if not image_id.startswith("ami-"):
        raise Refusal("InvalidAMIID.Malformed", f'Invalid id: "{image_id}" (expecting "ami-...")')
    image = ec2.amis.get(image_id)
    if image is None:
        raise Refusal("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    instance_type = params.setdefault("InstanceType", "m1.small")
    if instance_type not in INSTANCE_TYPES:
        raise Refusal("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
    if params.get("EbsOptimized") and INSTANCE_TYPES[instance_type]["EbsInfo"]["EbsOptimizedSupport"] == "unsupported":
        raise Refusal("Unsupported", "EBS-optimized instances are not supported for your requested configuration.")
    if (key_name := params.get("KeyName")) is not None and key_name not in ec2.key_pairs:
        raise Refusal("InvalidKeyPair.NotFound", f"The key pair '{key_name}' does not exist")
    groups = [
        *params.get("SecurityGroupIds", []),
        *(g for n in params.get("NetworkInterfaces", []) for g in n.get("Groups", [])),
    ]
    for group_id in groups:
        group = ec2.get_security_group_from_id(group_id)
        if group is None:
            raise Refusal(
                "InvalidGroup.NotFound", f"The security group '{group_id}' does not exist in VPC '{subnet.vpc_id}'"
            )
        if group.vpc_id != subnet.vpc_id:
            raise Refusal(
                "InvalidParameter", f"Security group {group_id} and subnet {subnet.id} belong to different networks."
            )
    _choice(params.get("InstanceInitiatedShutdownBehavior"), {"stop", "terminate"}, "instanceInitiatedShutdownBehavior")
    _choice(params.get("Placement", {}).get("Tenancy"), {"default", "dedicated", "host"}, "tenancy")
    profile(params.get("IamInstanceProfile", {}))
    return image, volumes.plan(image, params.get("BlockDeviceMappings", []), ec2.snapshots)


def _choice(value: str | None, known: set[str], name: str) -> None:
    if value is not None and value not in known:
        raise Refusal("InvalidParameterValue", f"Invalid value '{value}' for {name}")


def profile(wanted: dict[str, str]) -> Any:
    """The instance profile that a request names, None where it names none."""
    profiles = iam_backends[DEFAULT_ACCOUNT_ID]["aws"].instance_profiles.values()
    for field, attribute in (("Arn", "arn"), ("Name", "name")):
        if field in wanted:
            for profile in profiles:
                if getattr(profile, attribute) == wanted[field]:
                    return profile
            raise Refusal(
                "InvalidParameterValue",
                f"Value ({wanted[field]}) for parameter iamInstanceProfile.{field.lower()} is invalid. "
                f"Invalid IAM Instance Profile {field.lower()}",
            )
    return None


def user_data(encoded: str | None) -> bytes | None:
    """The user data, decoded; at most 16 KiB."""
    if encoded is None:
        return None
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise Refusal("InvalidParameterValue", "Invalid BASE64 encoding of user data.") from None
    if len(data) > USER_DATA_LIMIT:
        raise Refusal("InvalidParameterValue", f"User data is limited to {USER_DATA_LIMIT} bytes")
    return data


def tag_specifications(specifications: Sequence[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Tags by resource type, checked."""
    tags: dict[str, dict[str, str]] = {}
    for specification in specifications:
        kind = specification.get("ResourceType")
        if kind not in {"instance", "volume", "network-interface", "spot-instances-request"}:
            raise Refusal(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        tags.setdefault(kind, {}).update(check_tags(specification.get("Tags", [])))
        if len(tags[kind]) > 50:
            raise Refusal("TagLimitExceeded", f"The maximum number of Tags for a {kind} has been reached: 50")
    return tags


def check_tags(pairs: Sequence[dict[str, str]]) -> dict[str, str]:
    """Tags as a mapping; refuses what breaks EC2's rules for tags."""
    tags: dict[str, str] = {}
    for pair in pairs:
        key, value = pair.get("Key", ""), pair.get("Value", "")
        if not key or len(key) > 128:
            raise Refusal("InvalidParameterValue", f"Tag key must be 1 to 128 characters long: '{key}'")
        if len(value) > 256:
            raise Refusal("InvalidParameterValue", f"Tag value exceeds the maximum length of 256 characters: '{key}'")
        if key.lower().startswith("aws:"):
            raise Refusal(
                "InvalidParameterValue", f"Tag keys starting with 'aws:' are reserved for internal use: '{key}'"
            )
        if key in tags:
            raise Refusal("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
        tags[key] = value
    return tags
