"""GetMetricData -> samples: the CPU of hosts, minute by minute."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from flambed.paging import pages
from flambed.steps import protect

if TYPE_CHECKING:
    from flambed.region import Region

MOST_QUERIES: Final = 500
MOST_SAMPLES: Final = 100_000
"""What one GetMetricData takes, and gives."""


def fitting(samples: int) -> int:
    """Return how many hosts one call can read so many samples of."""
    return max(1, min(MOST_QUERIES, MOST_SAMPLES // samples))


async def read(  # noqa: PLR0917 - what is read, how, and from when to when
    region: Region, ids: Sequence[str], namespace: str, statistic: str, start: float, end: float, period: int = 60
) -> dict[str, list[tuple[float, float]]]:
    """Return the CPU in percent of up to 500 instances, the oldest sample first; those without any are left out.

    Args:
        region: where they are.
        ids: the instances.
        namespace: of the metric.
        statistic: Average, Minimum or Maximum of each period.
        start: UNIX seconds.
        end: UNIX seconds; a sample that begins then is left out.
        period: seconds that one sample stands for.

    Raises:
        AwsError: not all could be read.
    """
    params: dict[str, Any] = {
        "MetricDataQueries": protect.queries(ids, namespace, statistic, period),
        "StartTime": datetime.fromtimestamp(start, UTC),
        "EndTime": datetime.fromtimestamp(end, UTC),
        "ScanBy": "TimestampAscending",
    }
    found: dict[str, list[tuple[float, float]]] = {}
    async for answer in pages(region, region.clients.cloudwatch.get_metric_data, **params):
        for result in answer.get("MetricDataResults", ()):
            times = (at.timestamp() for at in result.get("Timestamps", ()))
            samples = list(zip(times, result.get("Values", ()), strict=True))
            if samples:
                found.setdefault(ids[int(result["Id"].removeprefix("m"))], []).extend(samples)
    return {instance: sorted(samples) for instance, samples in found.items()}
