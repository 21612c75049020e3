"""GPU types that Flambé's users still name and that moto's list, made from AWS's of today, no longer has."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

from moto.ec2.models.instance_types import (
    INSTANCE_TYPE_OFFERINGS,
    INSTANCE_TYPES,
    InstanceType,
    InstanceTypeBackend,
)

from flambed.lab.seams import seam
from flambed.lab.world import REGIONS


@dataclass(frozen=True)
class _Gpu:
    vcpus: int
    memory: int  # GiB
    gpus: int
    gpu: str
    gpu_memory: int  # GiB each


_RETIRED: Final = {
    "g3s.xlarge": _Gpu(4, 30, 1, "M60", 8),
    "g3.4xlarge": _Gpu(16, 122, 1, "M60", 8),
    "g3.8xlarge": _Gpu(32, 244, 2, "M60", 8),
    "g3.16xlarge": _Gpu(64, 488, 4, "M60", 8),
    "p2.xlarge": _Gpu(4, 61, 1, "K80", 12),
    "p2.8xlarge": _Gpu(32, 488, 8, "K80", 12),
    "p3.2xlarge": _Gpu(8, 61, 1, "V100", 16),
    "p3.8xlarge": _Gpu(32, 244, 4, "V100", 16),
    "p3.16xlarge": _Gpu(64, 488, 8, "V100", 16),
}


def install() -> None:
    """Add them to what EC2 knows and offers in the lab's regions."""
    known = {entry.name for entry in seam(InstanceTypeBackend, "instance_types")}
    for name, spec in _RETIRED.items():
        INSTANCE_TYPES[name] = _describe(name, spec)
        if name not in known:
            InstanceTypeBackend.instance_types.append(InstanceType(name))
        for region in REGIONS:
            for place, locations in (
                ("region", [region]),
                ("availability-zone", [f"{region}a", f"{region}b"]),
            ):
                INSTANCE_TYPE_OFFERINGS[place][region] += [
                    {"InstanceType": name, "Location": location, "LocationType": place} for location in locations
                ]


def _describe(name: str, spec: _Gpu) -> dict[str, Any]:
    entry: dict[str, Any] = copy.deepcopy(INSTANCE_TYPES["g4dn.xlarge"])
    entry["InstanceType"] = name
    entry["VCpuInfo"] |= {"DefaultVCpus": spec.vcpus, "DefaultCores": spec.vcpus // 2, "DefaultThreadsPerCore": 2}
    entry["MemoryInfo"] = {"SizeInMiB": spec.memory * 1024}
    entry["GpuInfo"] = {
        "Gpus": [
            {
                "Name": spec.gpu,
                "Manufacturer": "NVIDIA",
                "Count": spec.gpus,
                "MemoryInfo": {"SizeInMiB": spec.gpu_memory * 1024},
            }
        ],
        "TotalGpuMemoryInMiB": spec.gpus * spec.gpu_memory * 1024,
    }
    entry["InstanceStorageSupported"] = False
    entry.pop("InstanceStorageInfo", None)
    return entry
