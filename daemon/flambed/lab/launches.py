"""RunInstances: the checks, the client tokens, the capacity, and the instances that come of it."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.exceptions import DryRunClientError
from moto.ec2.models import ec2_backends
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.iam.models import iam_backends

from flambed.lab import reservations, volumes
from flambed.lab.describe import Describe
from flambed.lab.faults import Faults
from flambed.lab.fleet import Fleet, Record
from flambed.lab.refusal import Refusal

USER_DATA_LIMIT: Final = 16_384  # bytes, before base64
TOKEN_LIFE: Final = 24 * 3600.0  # seconds after the last instance ended; undocumented, see aws-facts


@dataclass
class _Token:
    fingerprint: str
    reservation: Any
    records: list[Record]


class Launches:
    """What RunInstances does. Runs under the lab's lock."""

    def __init__(self, *, fleet: Fleet, faults: Faults, describe: Describe, launched: Callable[[Record], None]) -> None:
        self._fleet = fleet
        self._faults = faults
        self._describe = describe
        self._launched = launched
        self._tokens: dict[tuple[str, str, str], _Token] = {}  # by region, zone, token

    def run_instances(self, request: Any) -> str:
        """Answer RunInstances with its reservation, new or, for a token used before, as it is now."""
        token = self._launch(request)
        instances = [self._describe.instance(record) for record in token.records]
        return reservations.xml("RunInstances", reservations.reservation(token.reservation, instances))

    def _launch(self, request: Any) -> _Token:
        params, region = request.params, request.region
        ec2 = ec2_backends[DEFAULT_ACCOUNT_ID][region]
        least, most = _counts(params)
        subnet = _subnet(ec2, params)
        key = (region, subnet.availability_zone, _token(params))
        fingerprint = repr(sorted((k, repr(v)) for k, v in params.items() if k not in {"ClientToken", "DryRun"}))
        if before := self._replay(key, fingerprint):
            return before
        image, plans = _check(ec2, params, subnet)
        user_data = _user_data(params.get("UserData"))
        tags = tag_specifications(params.get("TagSpecifications", []))
        if params.get("DryRun"):
            raise DryRunClientError
        number = self._capacity(region, params["InstanceType"], subnet, least, most)
        reservation = _create(ec2, params, subnet, number, region)
        for instance in reservation.instances:
            _furnish(ec2, instance, plans, params)
        _tag(ec2, reservation.instances, tags)
        keys = [ec2.key_pairs[params["KeyName"]].public_key] if "KeyName" in params else []
        records = []
        for instance in reservation.instances:
            boot, ssh = self._fleet.draw(region, f"{image.name}/{params['InstanceType']}")
            record = Record(
                region=region,
                instance=instance,
                reservation=reservation,
                address=instance.nics[0].private_ip_address,
                public=_public(params, subnet),
                user_data=user_data,
                authorized_keys=keys,
                gpus=[0] * _gpus(params["InstanceType"]),
                boot=boot,
                ssh=ssh,
                tags=dict(tags.get("instance", {})),
            )
            records.append(record)
        self._tokens[key] = token = _Token(fingerprint, reservation, records)
        for record in records:
            self._fleet.add(record)
            self._launched(record)
        self._faults.launched(region, params["InstanceType"], subnet.id, number)
        return token

    def _replay(self, key: tuple[str, str, str], fingerprint: str) -> _Token | None:
        """What this token launched before; None for a new token."""
        token = self._tokens.get(key)
        if token is None:
            return None
        ends = [record.ended for record in token.records if record.ended is not None]
        used_up = len(ends) == len(token.records)
        if used_up and time.monotonic() - max(ends) > TOKEN_LIFE:
            del self._tokens[key]
            return None
        if token.fingerprint != fingerprint:
            raise Refusal(
                "IdempotentParameterMismatch",
                "The request uses the same client token as a previous, but non-identical request.",
            )
        if used_up:
            raise Refusal(
                "IdempotentInstanceTerminated",
                "The client token was used by a previous request whose instances have been terminated.",
            )
        return token

    def _capacity(self, region: str, instance_type: str, subnet: Any, least: int, most: int) -> int:
        """How many can be launched, between `least` and `most`."""
        free = subnet.cidr.num_addresses - 5 - len(subnet._subnet_ips)  # noqa: SLF001  # AWS keeps five for itself
        if free < least:
            raise Refusal(
                "InsufficientFreeAddressesInSubnet",
                f"There are not enough free addresses in subnet '{subnet.id}' to satisfy the requested number of instances.",
            )
        number = self._faults.room(region, instance_type, subnet.id, min(most, free))
        if number < least:
            raise Refusal(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested "
                f"({subnet.availability_zone}).",
                500,
            )
        return number


def _counts(params: dict[str, Any]) -> tuple[int, int]:
    for name in ("MinCount", "MaxCount", "ImageId"):
        if name not in params:
            raise Refusal("MissingParameter", f"The request must contain the parameter {name}")
    least, most = params["MinCount"], params["MaxCount"]
    if not 1 <= least <= most:
        raise Refusal("InvalidParameterValue", f"Value ({least}, {most}) for MinCount and MaxCount is invalid")
    return least, most


def _token(params: dict[str, Any]) -> str:
    token = str(params["ClientToken"])
    if len(token) > 64 or not token.isascii():
        raise Refusal("InvalidParameterValue", "ClientToken must be at most 64 ASCII characters")
    return token


def _subnet(ec2: Any, params: dict[str, Any]) -> Any:
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


def _public(params: dict[str, Any], subnet: Any) -> bool:
    """Whether the instances get public addresses: as the request says, else as the subnet does."""
    for interface in params.get("NetworkInterfaces", []):
        if "AssociatePublicIpAddress" in interface:
            return bool(interface["AssociatePublicIpAddress"])
    return bool(subnet.map_public_ip_on_launch)


def _gpus(instance_type: str) -> int:
    return sum(gpu["Count"] for gpu in INSTANCE_TYPES[instance_type].get("GpuInfo", {}).get("Gpus", []))


def _check(ec2: Any, params: dict[str, Any], subnet: Any) -> tuple[Any, Sequence[volumes.VolumePlan]]:
    """Refuse what EC2 refuses; else (image, volumes)."""
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
    _profile(params.get("IamInstanceProfile", {}))
    return image, volumes.plan(image, params.get("BlockDeviceMappings", []), ec2.snapshots)


def _choice(value: str | None, known: set[str], name: str) -> None:
    if value is not None and value not in known:
        raise Refusal("InvalidParameterValue", f"Invalid value '{value}' for {name}")


def _profile(wanted: dict[str, str]) -> Any:
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


def _user_data(encoded: str | None) -> bytes | None:
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


def _create(ec2: Any, params: dict[str, Any], subnet: Any, number: int, region: str) -> Any:
    """Have moto make a reservation of `number` instances without disks, tags or public addresses."""
    interfaces = [
        {k: v for k, v in n.items() if k != "AssociatePublicIpAddress"} for n in params.get("NetworkInterfaces", [])
    ]
    reservation = ec2.run_instances(
        params["ImageId"],
        number,
        params.get("UserData"),
        params.get("SecurityGroups", []),
        instance_type=params["InstanceType"],
        is_instance_type_default=True,  # checked already; moto would look through thousands of offerings
        region_name=region,
        subnet_id=None if interfaces else subnet.id,
        nics=interfaces,
        private_ip=params.get("PrivateIpAddress"),
        associate_public_ip=False,
        security_group_ids=params.get("SecurityGroupIds", []),
        key_name=params.get("KeyName"),
        ebs_optimized=params.get("EbsOptimized", False),
        disable_api_stop=params.get("DisableApiStop", False),
        disable_api_termination=params.get("DisableApiTermination", False),
        instance_initiated_shutdown_behavior=params.get("InstanceInitiatedShutdownBehavior"),
        instance_market_options=params.get("InstanceMarketOptions"),
        hibernation_options=params.get("HibernationOptions", {}),
        monitoring_state="enabled" if params.get("Monitoring", {}).get("Enabled") else "disabled",
        metadata_options=params.get("MetadataOptions", {}),
        client_token=params["ClientToken"],
        block_device_mappings=[],
    )
    reservation.requester_id = None
    return reservation


def _furnish(ec2: Any, instance: Any, plans: Sequence[volumes.VolumePlan], params: dict[str, Any]) -> None:
    """Give an instance its volumes, tenancy and profile."""
    for interface in instance.nics.values():
        interface.delete_on_termination = True
    instance.placement.tenancy = params.get("Placement", {}).get("Tenancy", "default")
    if profile := _profile(params.get("IamInstanceProfile", {})):
        ec2.associate_iam_instance_profile(instance.id, iam_instance_profile_arn=profile.arn)
    for plan in plans:
        volume = ec2.create_volume(
            size=plan.size,
            zone_name=instance.placement.zone,
            snapshot_id=plan.snapshot,
            encrypted=plan.encrypted,
            kms_key_id=plan.kms_key,
            volume_type=plan.type,
            iops=plan.iops,
            throughput=plan.throughput,
        )
        ec2.attach_volume(volume.id, instance.id, plan.device, plan.delete_on_termination)


def _tag(ec2: Any, instances: Sequence[Any], tags: dict[str, dict[str, str]]) -> None:
    resources = {
        "instance": [instance.id for instance in instances],
        "volume": [device.volume_id for i in instances for device in i.block_device_mapping.values()],
        "network-interface": [nic.id for i in instances for nic in i.nics.values()],
    }
    for kind, ids in resources.items():
        if tags.get(kind):
            ec2.create_tags(ids, tags[kind])
