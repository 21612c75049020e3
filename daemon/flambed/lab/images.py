"""The machine images of the lab, with other ids in each region as on AWS, and the SSM parameters that name them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ssm.models import Parameter, ssm_backends

from flambed.lab.seams import replace

FLAMBE: Final = "808129580301"
CANONICAL: Final = "099720109477"
AMAZON: Final = "137112412989"
STRANGER: Final = "666666666666"


@dataclass(frozen=True)
class Image:
    """A public image, the same in each region but for its id."""

    name: str
    owner: str
    root_device: str = "/dev/sda1"
    size: int = 8  # GiB of its snapshot
    ssm: str | None = None
    alias: str | None = None

    def id(self, region: str) -> str:
        """Its id in `region`."""
        return "ami-" + hashlib.sha256(f"{self.owner} {self.name} {region}".encode()).hexdigest()[:17]


IMAGES: Final = {
    "orchestrator": Image("flambe-orchestrator-ami 0.0.0", FLAMBE, size=30),
    "factory": Image("flambe-factory-ami 0.0.0", FLAMBE, size=50),
    "orchestrator-1": Image("flambe-orchestrator-ami 1.0.0", FLAMBE, size=30),
    "factory-1": Image("flambe-factory-ami 1.0.0", FLAMBE, size=50),
    "decoy-orchestrator": Image("flambe-orchestrator-ami 0.0.0", STRANGER, size=30),
    "decoy-factory": Image("flambe-factory-ami 0.0.0", STRANGER, size=50),
    "ubuntu": Image(
        "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20260115",
        CANONICAL,
        ssm="/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    ),
    "gpu": Image(
        "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) 20260110",
        AMAZON,
        size=75,
        alias="amazon",
        ssm="/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
    ),
    "amazon-linux": Image(
        "al2023-ami-2023.9.20260105.0-kernel-6.1-x86_64",
        AMAZON,
        root_device="/dev/xvda",
        alias="amazon",
        ssm="/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
    ),
}


def register(region: str) -> dict[str, str]:
    """Make the images and their parameters exist in `region`; the ids by the lab's own short names."""
    ec2 = ec2_backends[DEFAULT_ACCOUNT_ID][region]
    ssm = ssm_backends[DEFAULT_ACCOUNT_ID][region]
    created = datetime(2026, 1, 20, tzinfo=UTC)
    for image in IMAGES.values():
        image_id = image.id(region)
        ec2.amis[image_id] = ami = Ami(
            ec2,
            image_id,
            name=image.name,
            description=image.name,
            owner_id=image.owner,
            owner_alias=image.alias,
            public=True,
            virtualization_type="hvm",
            architecture="x86_64",
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name=image.root_device,
            image_location=f"{image.owner}/{image.name}",
            region_name=f"{region}a",
            creation_date=created,
        )
        ami.ebs_snapshot.volume.size = image.size
        if image.ssm:
            parameter = Parameter(  # type: ignore[abstract]  # as moto itself does
                DEFAULT_ACCOUNT_ID, image.ssm, image_id, "String", None, None, None,
                created, 1, "aws:ec2:image",
            )  # fmt: skip
            ssm._parameters[image.ssm] = [parameter]  # noqa: SLF001  # PutParameter refuses AWS's own names
    return {name: image.id(region) for name, image in IMAGES.items()}


def install() -> None:
    """Mend moto: every image had one disk of 15 GiB that outlives its instance."""
    replace(Ami, "block_device_mappings", property(_block_device_mappings))


def _block_device_mappings(image: Any) -> list[dict[str, Any]]:
    ebs = {
        "SnapshotId": image.ebs_snapshot.id,
        "VolumeSize": image.ebs_snapshot.volume.size,
        "DeleteOnTermination": True,
        "VolumeType": "gp2",
        "Encrypted": False,
    }
    return [{"DeviceName": image.root_device_name, "Ebs": ebs}]
