"""Examining hosts that seem to be due: a fresh look at the machines, their CPU, and a verdict on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from flambed import verdict
from flambed.actions import Case
from flambed.desired import PURPOSE, Cluster
from flambed.observed import cpu, survey
from flambed.observed.facts import InstancesDescribed, Judged, Seen
from flambed.steps import protect
from flambed.verdict import Evidence, Finding, Verdict

if TYPE_CHECKING:
    from flambed.region import Region

_SHORT: Final = 24 * 60
"""Minutes of a timeout up to which the CPU is read by the minute, and beyond it by the hour."""

_WEEK: Final = 168 * 60
"""Minutes that are looked back at most."""

_EXTRA: Final = 20 * protect.MINUTE


async def judge(region: Region, cluster: Cluster, cases: Sequence[Case]) -> tuple[InstancesDescribed, list[Judged]]:
    """Examine hosts; unknown is what cannot be found out.

    Raises:
        AwsError: they could not be looked at, or their CPU could not be read.
    """
    look = await survey.describe(region, [case.instance for case in cases], cluster.identity)
    seen = {instance.id: instance for instance in look.instances}
    now = region.now()
    found: list[Judged] = []
    for period, group in _by_period(cases, seen).items():
        samples = await _read(region, group, period, now)
        found += [_judged(region, case, seen.get(case.instance), cluster, samples, period, now) for case in group]
    return look, found


def _by_period(cases: Sequence[Case], seen: Mapping[str, Seen]) -> dict[int, list[Case]]:
    groups: dict[int, list[Case]] = {}
    for case in cases:
        instance = seen.get(case.instance)
        detailed = instance is None or instance.monitored
        period = 3600 if case.minutes > _SHORT else 60 if detailed else 300
        groups.setdefault(period, []).append(case)
    return groups


async def _read(region: Region, cases: Sequence[Case], period: int, now: float) -> dict[str, list[tuple[float, float]]]:
    """Return the real CPU of all of them, over the longest of their windows."""
    window = min(max(case.minutes for case in cases), _WEEK) * protect.MINUTE + max(_EXTRA, 2.0 * period)
    # Our own fakes are in the same metric, where it is AWS's: the least sample of a minute is the real one. An hour's
    # average is what the alarm goes by, too, and a fake in it stands for a vote.
    statistic = "Average" if region.keeper.own_metric or period == 3600 else "Minimum"
    start = now - window - (now - window) % period
    most = cpu.fitting(int(window // period) + 1)
    found: dict[str, list[tuple[float, float]]] = {}
    for first in range(0, len(cases), most):
        ids = [case.instance for case in cases[first : first + most]]
        found |= await cpu.read(region, ids, protect.AWS_NAMESPACE, statistic, start, now, period)
    return found


def _judged(  # noqa: PLR0917 - what is known of one host
    region: Region,
    case: Case,
    seen: Seen | None,
    cluster: Cluster,
    samples: Mapping[str, list[tuple[float, float]]],
    period: int,
    now: float,
) -> Judged:
    if seen is None or seen.state != "running":
        found = _unknown(f"EC2 says that it is {seen.state}" if seen else "EC2 does not show it")
    elif not _is_ours(seen, cluster):
        found = _unknown("it does not carry the cluster's tags any more: nothing is done to it")
    elif not region.keeper.asked(case.instance):
        found = _unknown("the host itself has not been asked lately whether it is in use")
    else:
        evidence = Evidence(
            minutes=min(case.minutes, _WEEK),
            threshold=case.threshold,
            idle_from=case.idle_from + (case.minutes - min(case.minutes, _WEEK)) * protect.MINUTE,
            votes=case.votes,
            samples=samples.get(case.instance, ()),
            period=period,
            mute_since=case.mute_since,
            skew=region.offset,
        )
        found = verdict.judge(evidence, now)
    return Judged(
        at=region.clock.now(),
        instance=case.instance,
        finding=found.finding,
        why="; ".join(found.reasons),
        last_busy=found.last_busy,
    )


def _is_ours(seen: Seen, cluster: Cluster) -> bool:
    wanted = {"creator": cluster.creator, "Cluster-Name": cluster.name, "Purpose": PURPOSE}
    return wanted.items() <= seen.tags.items()


def _unknown(why: str) -> Verdict:
    return Verdict(finding=Finding.UNKNOWN, reasons=(why,))
