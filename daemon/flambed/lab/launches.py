"""RunInstances: the client tokens, the capacity, and the instances that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.exceptions import DryRunClientError
from moto.ec2.models import ec2_backends

from flambed.lab import launch_checks as checks
from flambed.lab import reservations, volumes
from flambed.lab.describe import Describe
from flambed.lab.faults import Faults
from flambed.lab.fleet import Fleet, Record
from flambed.lab.refusal import Refusal

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
        least, most = checks.counts(params)
        subnet = checks.subnet(ec2, params)
        key = (region, subnet.availability_zone, checks.client_token(params))
        fingerprint = repr(sorted((k, repr(v)) for k, v in params.items() if k not in {"ClientToken", "DryRun"}))
        if before := self._replay(key, fingerprint):
            return before
        image, plans = checks.resources(ec2, params, subnet)
        user_data = checks.user_data(params.get("UserData"))
        tags = checks.tag_specifications(params.get("TagSpecifications", []))
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
                public=checks.public_address(params, subnet),
                user_data=user_data,
                authorized_keys=keys,
                gpus=[0] * checks.gpu_count(params["InstanceType"]),
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
    if profile := checks.profile(params.get("IamInstanceProfile", {})):
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
