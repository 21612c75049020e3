"""How much of AWS a user may have. Pure: the limits, what there is and what is asked for in, yes or an `OverLimitError` out.

The line of a user in the setting `limits` counts, else the line `default`; the two are not mixed. Admins have no limit,
unless the settings name them. Checked whenever somebody asks for a cluster, before anything is written down; what is
there already is never taken away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final

from flambed.access import Caller
from flambed.desired import Cluster, Role
from flambed.errors import OverLimitError, Problem
from flambed.observed.world import World
from flambed.settings import Limit

DEFAULT: Final = "default"
"""The line of everybody whom the settings do not name."""

Machines = Mapping[tuple[str, str], int]
"""(Region, instance type) -> how many."""


def line_of(caller: Caller, limits: Mapping[str, Limit], *, admin: bool) -> str | None:
    """Return whose line of the settings limits a caller; None where nothing does."""
    if caller.name in limits:
        return caller.name
    return DEFAULT if DEFAULT in limits and not admin else None


def machines(world: World) -> Machines:
    """Return what a cluster has; while it is on its way up, what it is to have, where that is more."""
    found: Counter[tuple[str, str]] = Counter()
    if world.desired is not None:
        for role in Role:
            coming = world.desired.count_of(role) if world.wanted and world.phase == "converging" else 0
            alive = sum(one.alive for one in world.of(role))
            found[world.region, world.desired.type_of(role)] += max(alive, coming)
    return found


def asked(wanted: Cluster, region: str, world: World | None, *, shrink: bool) -> Machines:
    """Return what a cluster would have after an `up`, which takes nothing away without `shrink`."""
    found: Counter[tuple[str, str]] = Counter()
    for role in Role:
        alive = sum(one.alive for one in world.of(role)) if world is not None and not shrink else 0
        found[region, wanted.type_of(role)] += max(alive, wanted.count_of(role))
    return found


def total(parts: Iterable[Machines]) -> Machines:
    """Return all of them together."""
    found: Counter[tuple[str, str]] = Counter()
    for part in parts:
        found.update(part)
    return +found  # no kind of which there is none


def check(
    caller: Caller,
    line: str,
    limit: Limit,
    *,
    wanted: Cluster,
    region: str,
    machines: Machines,
    vcpus: Mapping[tuple[str, str], int],
) -> None:
    """Refuse a cluster with which its owner would have more, or other things, than the caller may ask for.

    Args:
        caller: who asks.
        line: whose line of the settings `limit` is; see `line_of`.
        limit: what that line says.
        wanted: the cluster that is asked for.
        region: where it is to live.
        machines: everything that the cluster's owner would have then, over all clusters.
        vcpus: those of one machine of each kind; needed where `limit.vcpus` is set.

    Raises:
        OverLimitError: that is so; it names each limit, its value and what was asked for.
    """
    problems = [
        Problem(f"limits.{line}.{name} is {allowed}, and {told}", field=f"limits.{line}.{name}")
        for name, allowed, told in _exceeded(limit, wanted, region, machines, vcpus)
    ]
    if problems:
        raise OverLimitError(f"{caller} may not have {wanted.name} as asked", problems)


def _exceeded(
    limit: Limit, wanted: Cluster, region: str, machines: Machines, vcpus: Mapping[tuple[str, str], int]
) -> Iterator[tuple[str, str, str]]:
    """Yield each limit that is exceeded: its name, what it allows, and what was asked for."""
    if limit.instances is not None and (number := sum(machines.values())) > limit.instances:
        yield "instances", str(limit.instances), f"with {wanted.name} there would be {number}"
    if limit.vcpus is not None and (number := sum(vcpus[kind] * n for kind, n in machines.items())) > limit.vcpus:
        yield "vcpus", str(limit.vcpus), f"with {wanted.name} there would be {number}"
    if limit.types is not None:
        for kind in dict.fromkeys(wanted.type_of(role) for role in Role):
            if not any(fnmatchcase(kind, pattern) for pattern in limit.types):
                yield "types", _words(limit.types), f"{kind} is asked for"
    if limit.regions is not None and region not in limit.regions:
        yield "regions", _words(limit.regions), f"{region} is asked for"
    if limit.subnets is not None and wanted.subnet_id not in limit.subnets:
        yield "subnets", _words(limit.subnets), f"{wanted.subnet_id} is asked for"


def _words(allowed: Iterable[str]) -> str:
    return ", ".join(allowed) or "nothing"
