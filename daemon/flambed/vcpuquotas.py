"""How many vCPUs AWS lets an account run, by kind of instance (On-Demand; the quotas are one region's).

Which family counts against which quota: EC2's user guide, On-Demand instance quotas.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flambed.region import Region


@dataclass(frozen=True, slots=True)
class Quota:
    """One of AWS's quotas."""

    code: str
    name: str  # as the console has it


_STANDARD: Final = Quota("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances")

_OTHERS: Final[Mapping[str, Quota]] = {
    **dict.fromkeys(("g", "gr", "vt"), Quota("L-DB2E81BA", "Running On-Demand G and VT instances")),
    "p": Quota("L-417A185B", "Running On-Demand P instances"),
    "f": Quota("L-74FC7D96", "Running On-Demand F instances"),
    "x": Quota("L-7295265B", "Running On-Demand X instances"),
    "inf": Quota("L-1945791B", "Running On-Demand Inf instances"),
    "trn": Quota("L-2C3B7624", "Running On-Demand Trn instances"),
    "dl": Quota("L-6E869C2A", "Running On-Demand DL instances"),
}
_STANDARD_FAMILIES: Final = frozenset({*"acdhimrtz", "im", "is"})

_FAMILY: Final = re.compile(r"[a-z]+")


def quota_of(kind: str) -> Quota | None:
    """Return the quota that an instance type counts against; None for a kind of machine that is not known here."""
    found = _FAMILY.match(kind)
    family = found.group() if found is not None else ""
    return _STANDARD if family in _STANDARD_FAMILIES else _OTHERS.get(family)


def by_quota(machines: Mapping[str, int], vcpus: Mapping[str, int]) -> Mapping[Quota, int]:
    """Return the vCPUs that count against each quota.

    Args:
        machines: instance type -> how many.
        vcpus: instance type -> those of one machine.
    """
    found: Counter[Quota] = Counter()
    for kind, number in machines.items():
        if (quota := quota_of(kind)) is not None:
            found[quota] += number * vcpus[kind]
    return found


async def value(region: Region, quota: Quota) -> int:
    """Return how many vCPUs the account may run.

    Raises:
        AwsError: AWS did not tell.
    """
    answer = await region.call(region.clients.servicequotas.get_service_quota, ServiceCode="ec2", QuotaCode=quota.code)
    return int(answer["Quota"]["Value"])
