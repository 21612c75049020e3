"""What an account needs before a cluster can be launched: network, group, key pair, role, queue and rule."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.events.models import events_backends
from moto.iam.models import iam_backends
from moto.sqs.models import sqs_backends

from flambed.lab import images

REGIONS: Final = {"us-east-1": "127.10", "eu-west-1": "127.20"}
"""The regions of the lab and the first half of their addresses: 127.x.0.0/16 each."""

KEY_NAME: Final = "flambed-lab"
INSTANCE_PROFILE: Final = "flambed-lab-host"


@dataclass(frozen=True)
class Region:
    """What was set up in one region."""

    queue: str  # its URL
    subnet_id: str
    subnets: dict[str, str]  # availability zone -> subnet id; subnet_id is the first
    security_group: str
    images: dict[str, str]


def make_key(folder: Path) -> tuple[Path, str]:
    """Write a new private key (OpenSSH, 0600) into `folder`; its path and the public half."""
    key = ed25519.Ed25519PrivateKey.generate()
    path = folder / "key"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return path, f"{public.decode()} {KEY_NAME}"


def build(region: str, *, public_key: str, endpoint: str) -> Region:
    """Set up one region inside moto."""
    ec2 = ec2_backends[DEFAULT_ACCOUNT_ID][region]
    network = REGIONS[region]
    vpc = ec2.create_vpc(f"{network}.0.0/16")
    subnets = {}
    for index, letter in enumerate("ab"):
        subnet = ec2.create_subnet(vpc.id, f"{network}.{index * 64}.0/18", availability_zone=f"{region}{letter}")
        subnet.map_public_ip_on_launch = True
        subnets[subnet.availability_zone] = subnet.id
    group = ec2.create_security_group("flambed-lab", "SSH for the lab's hosts", vpc_id=vpc.id)
    ec2.authorize_security_group_ingress(group.id, "tcp", "22", "22", [{"CidrIp": "127.0.0.0/8"}], vpc_id=vpc.id)
    ec2.import_key_pair(KEY_NAME, public_key.encode(), {})
    return Region(
        queue=_queue(region, endpoint),
        subnet_id=next(iter(subnets.values())),
        subnets=subnets,
        security_group=group.id,
        images=images.register(region),
    )


def _queue(region: str, endpoint: str) -> str:
    """The queue, its policy and the rule that sends it what happens to instances."""
    events = events_backends[DEFAULT_ACCOUNT_ID][region]
    pattern = json.dumps({"source": ["aws.ec2"]})
    rule = events.put_rule("flambed-instances", event_pattern=pattern, state="ENABLED")
    name = f"flambed-events-{region}"
    queue = sqs_backends[DEFAULT_ACCOUNT_ID][region].create_queue(name, region=region)
    queue.policy = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "events.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": queue.queue_arn,
                    "Condition": {"ArnEquals": {"aws:SourceArn": rule.arn}},
                }
            ],
        }
    )
    events.put_targets(rule.name, "default", [{"Id": "queue", "Arn": queue.queue_arn}])
    return f"{endpoint}/{DEFAULT_ACCOUNT_ID}/{name}"


def build_role() -> None:
    """The role that hosts may have; IAM is not regional."""
    iam = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
    iam.create_role(INSTANCE_PROFILE, json.dumps(trust), "/", None, "The lab's hosts", [], None)
    iam.create_instance_profile(INSTANCE_PROFILE, "/", [INSTANCE_PROFILE])


def summary(regions: dict[str, Region]) -> dict[str, Any]:
    """The part of the lab's JSON line that describes the world; the first region is the default one."""
    name, first = next(iter(regions.items()))
    return {
        "region": name,
        "queues": {region: world.queue for region, world in regions.items()},
        "subnet_id": first.subnet_id,
        "security_group": first.security_group,
        "key_name": KEY_NAME,
        "instance_profile": INSTANCE_PROFILE,
        "images": first.images,
        "regions": {region: asdict(world) for region, world in regions.items()},
    }
