"""The service's state as Prometheus metrics: what is counted while it runs, and what is so at the moment. Pure.

Events are counted where the log is written, so that each counter is an event of the catalogue. There are no names of
clusters, users or hosts in here: whoever can open the socket may read it. docs/monitoring.md tells what to alert on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flambed.catalogue import CATALOGUE
from flambed.observed.instance import Stage

PHASES: Final = ("converging", "ready", "degraded", "failed", "stopping", "gone")
"""What a cluster as a whole can be in; see `plan.phase`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfRegion:
    """What is told of one region."""

    surveyed_at: float | None  # UNIX seconds; None before the first survey
    calls: Mapping[tuple[str, str], int]  # (call, outcome) -> how many; "ok", else the reason of the failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that is told."""

    version: str
    started_at: float  # UNIX seconds
    events: Mapping[str, int] = field(default_factory=dict)  # how often each was logged
    clusters: Mapping[str, int] = field(default_factory=dict)  # by phase
    instances: Mapping[str, int] = field(default_factory=dict)  # by stage
    unprotected: int = 0
    read_only: bool = False
    regions: Mapping[str, OfRegion] = field(default_factory=dict)


def render(snapshot: Snapshot) -> bytes:
    """Return the metrics in Prometheus' text format. Every event, phase and stage is there, at 0 where it never was."""
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        shown = self._snapshot
        yield _gauge("flambed_build_info", "1, with the version of flambed.", {(shown.version,): 1}, "version")
        yield _gauge("flambed_start_timestamp_seconds", "When the service started.", {(): shown.started_at})
        yield _counter(
            "flambed_events",
            "How often an event of the log's catalogue came since the start (docs/events.md), whatever level is written.",
            {(name, kind.level): shown.events.get(name, 0) for name, kind in CATALOGUE.items()},
            "event",
            "level",
        )
        yield _gauge(
            "flambed_clusters", "Clusters by phase.", {(one,): shown.clusters.get(one, 0) for one in PHASES}, "phase"
        )
        stages = [stage.value for stage in Stage if stage is not Stage.GONE]
        yield _gauge(
            "flambed_instances",
            "Instances by stage.",
            {(stage,): shown.instances.get(stage, 0) for stage in stages},
            "stage",
        )
        yield _gauge(
            "flambed_instances_unprotected",
            "Running instances that neither an alarm nor a timer would end, and that should end when they are idle.",
            {(): shown.unprotected},
        )
        yield _gauge("flambed_journal_read_only", "1 while the journal cannot be written.", {(): shown.read_only})
        yield _gauge(
            "flambed_survey_timestamp_seconds",
            "When everything in a region was last looked at.",
            {(name,): one.surveyed_at for name, one in shown.regions.items() if one.surveyed_at is not None},
            "region",
        )
        yield _counter(
            "flambed_aws_calls",
            "Calls of AWS by outcome: ok, or the reason of the failure (throttled, transient, not_permitted, ...).",
            {(name, *call): number for name, one in shown.regions.items() for call, number in one.calls.items()},
            "region",
            "call",
            "outcome",
        )


def _gauge(name: str, doc: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, doc, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _counter(name: str, doc: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    family = CounterMetricFamily(name, doc, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family
