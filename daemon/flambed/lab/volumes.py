"""Volumes at launch: what a BlockDeviceMapping means, and EBS's limits (EC2 User Guide, "EBS volume types")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from flambed.lab.refusal import Refusal


@dataclass(frozen=True)
class _Limits:
    size: tuple[int, int]  # GiB
    iops: tuple[int, int] | None = None
    iops_per_gib: int = 0
    iops_required: bool = False
    throughput: tuple[int, int] | None = None  # MiB/s


_TYPES: Final = {
    "standard": _Limits((1, 1024)),
    "gp2": _Limits((1, 16_384)),
    "gp3": _Limits((1, 65_536), iops=(3_000, 80_000), iops_per_gib=500, throughput=(125, 2_000)),
    "io1": _Limits((4, 16_384), iops=(100, 64_000), iops_per_gib=50, iops_required=True),
    "io2": _Limits((4, 65_536), iops=(100, 256_000), iops_per_gib=1_000, iops_required=True),
    "st1": _Limits((125, 16_384)),
    "sc1": _Limits((125, 16_384)),
}


@dataclass(frozen=True)
class VolumePlan:
    """A volume that a launch creates and attaches."""

    device: str
    size: int  # GiB
    type: str
    iops: int | None
    throughput: int | None
    encrypted: bool
    kms_key: str | None
    delete_on_termination: bool
    snapshot: str | None


def plan(image: Any, mappings: Sequence[dict[str, Any]], snapshots: dict[str, Any]) -> list[VolumePlan]:
    """The volumes of an instance: the image's root device, changed by the mapping that names it, and the others.

    A mapping of another name than the image's root device adds a second disk, as on AWS.
    Raises Refusal where EC2 would.
    """
    root = image.block_device_mappings[0]
    wanted = {mapping.get("DeviceName", ""): mapping for mapping in mappings}
    if len(wanted) < len(mappings):
        raise Refusal(
            "InvalidBlockDeviceMapping", "The device name is used more than once in the block device mapping."
        )
    inherited = {**root["Ebs"], **wanted.pop(image.root_device_name, {}).get("Ebs", {})}
    volumes = [_volume(image.root_device_name, inherited, root["Ebs"]["VolumeSize"])]
    for device, mapping in wanted.items():
        if mapping.get("VirtualName") or mapping.get("NoDevice") is not None:
            continue
        ebs = mapping.get("Ebs")
        if not ebs:
            raise Refusal("MissingParameter", "The request must contain the parameter ebs")
        volumes.append(_volume(device, ebs, _snapshot_size(ebs.get("SnapshotId"), snapshots)))
    return volumes


def _snapshot_size(snapshot: str | None, snapshots: dict[str, Any]) -> int:
    if not snapshot:
        return 0
    if snapshot not in snapshots:
        raise Refusal("InvalidSnapshot.NotFound", f"The snapshot '{snapshot}' does not exist.")
    return int(snapshots[snapshot].volume.size)


def _volume(device: str, ebs: dict[str, Any], least: int) -> VolumePlan:
    kind = ebs.get("VolumeType") or "gp2"
    limits = _TYPES.get(kind)
    if limits is None:
        raise Refusal("InvalidParameterValue", f"Invalid value '{kind}' for volumeType")
    size = ebs.get("VolumeSize") or least
    if not size:
        raise Refusal("MissingParameter", "The request must contain the parameter size or snapshotId")
    if size < least:
        raise Refusal(
            "InvalidBlockDeviceMapping",
            f"Volume of size {size}GB is smaller than snapshot '{ebs.get('SnapshotId')}', expect size >= {least}GB",
        )
    low, high = limits.size
    if not low <= size <= high:
        raise Refusal("InvalidParameterValue", f"Volume of {size}GiB is out of range for {kind}: {low}GiB to {high}GiB")
    if ebs.get("KmsKeyId") and not ebs.get("Encrypted"):
        raise Refusal(
            "InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set."
        )
    return VolumePlan(
        device=device,
        size=size,
        type=kind,
        iops=_iops(kind, limits, size, ebs.get("Iops")),
        throughput=_throughput(kind, limits, ebs.get("Throughput")),
        encrypted=bool(ebs.get("Encrypted")),
        kms_key=ebs.get("KmsKeyId"),
        delete_on_termination=bool(ebs.get("DeleteOnTermination", False)),
        snapshot=ebs.get("SnapshotId"),
    )


def _iops(kind: str, limits: _Limits, size: int, iops: int | None) -> int | None:
    if iops is None:
        if limits.iops_required:
            raise Refusal("MissingParameter", f"The parameter iops must be specified for {kind} volumes.")
        return limits.iops[0] if limits.iops else None
    if limits.iops is None:
        raise Refusal("InvalidParameterCombination", f"The parameter iops is not supported for {kind} volumes.")
    low, high = limits.iops
    if not low <= iops <= high:
        raise Refusal("InvalidParameterValue", f"Volume iops of {iops} is out of range for {kind}: {low} to {high}")
    if iops > max(low, size * limits.iops_per_gib):
        raise Refusal(
            "InvalidParameterValue",
            f"Iops to volume size ratio of {iops / size:.1f} is too high; maximum is {limits.iops_per_gib}",
        )
    return iops


def _throughput(kind: str, limits: _Limits, throughput: int | None) -> int | None:
    if limits.throughput is None:
        if throughput is not None:
            raise Refusal(
                "InvalidParameterCombination", f"The parameter throughput is not supported for {kind} volumes."
            )
        return None
    low, high = limits.throughput
    if throughput is not None and not low <= throughput <= high:
        raise Refusal(
            "InvalidParameterValue", f"Throughput of {throughput} is out of range for {kind}: {low} to {high}"
        )
    return throughput or low
