"""Metrics: what they count and show, that nothing private is in them, and that the page of alerts speaks of what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from flambed import metrics
from flambed.aws import AwsError
from flambed.catalogue import CATALOGUE
from flambed.desired import Role
from flambed.metrics import OfRegion, Snapshot
from flambed.observed.instance import Instance, Stage
from flambed.observed.world import World
from flambed.plan import Rules
from flambed.status import unprotected
from tests.clusterfiles import cluster
from tests.fakes import Cloud, client_error
from tests.virtualtime import virtual

MONITORING = (Path(__file__).parent.parent / "docs" / "monitoring.md").read_text()

EMPTY = Snapshot(version="1.2.3", started_at=7.0)


def samples(snapshot: Snapshot) -> list[Sample]:
    """What Prometheus reads out of the text."""
    families = text_string_to_metric_families(metrics.render(snapshot).decode())
    return [sample for family in families for sample in family.samples if not sample.name.endswith("_created")]


def values(snapshot: Snapshot, name: str) -> dict[tuple[str, ...], float]:
    """One metric by the values of its labels, which are in the order of their names."""
    return {tuple(one.labels.values()): one.value for one in samples(snapshot) if one.name == name}


def test_every_event_of_the_catalogue_is_a_counter_from_the_first_scrape_on() -> None:
    """Else the first time that something happens would be no increase."""
    found = values(EMPTY, "flambed_events_total")
    assert found == {(name, kind.level): 0.0 for name, kind in CATALOGUE.items()}
    shown = values(Snapshot(version="1", started_at=0.0, events={"orphan.found": 3}), "flambed_events_total")
    assert shown["orphan.found", "warning"] == 3.0


def test_gauges_tell_how_it_is_at_the_moment() -> None:
    """Clusters by phase, instances by stage, the journal, the regions; what there is none of is 0."""
    snapshot = Snapshot(
        version="1.2.3",
        started_at=7.0,
        clusters={"ready": 2},
        instances={"ready": 5, "failed": 1},
        unprotected=1,
        read_only=True,
        regions={
            "us-east-1": OfRegion(surveyed_at=99.0, calls={("RunInstances", "ok"): 2, ("RunInstances", "quota"): 1}),
            "eu-west-1": OfRegion(surveyed_at=None, calls={}),
        },
    )
    assert values(snapshot, "flambed_build_info") == {("1.2.3",): 1.0}
    assert values(snapshot, "flambed_start_timestamp_seconds") == {(): 7.0}
    assert values(snapshot, "flambed_clusters") == {(phase,): 2.0 * (phase == "ready") for phase in metrics.PHASES}
    stages = values(snapshot, "flambed_instances")
    assert {stage: n for stage, n in stages.items() if n} == {("ready",): 5.0, ("failed",): 1.0}
    assert values(snapshot, "flambed_instances_unprotected") == {(): 1.0}
    assert values(snapshot, "flambed_journal_read_only") == {(): 1.0}
    assert values(snapshot, "flambed_survey_timestamp_seconds") == {("us-east-1",): 99.0}
    assert values(snapshot, "flambed_aws_calls_total") == {
        ("RunInstances", "ok", "us-east-1"): 2.0,
        ("RunInstances", "quota", "us-east-1"): 1.0,
    }


@virtual
async def test_a_region_counts_its_calls_by_outcome() -> None:
    """What was done, what was refused and why; a dry run that would have been permitted is well."""
    cloud = Cloud()
    region = cloud.region()
    await region.call(cloud.ec2.describe_images, Owners=["self"])
    for error in (client_error("RequestLimitExceeded", status=503), client_error("UnauthorizedOperation", status=403)):
        cloud.ec2.fail("describe_images", error)
        with pytest.raises(AwsError):
            await region.call(cloud.ec2.describe_images, Owners=["self"])
    with pytest.raises(AwsError, match="DryRun flag is set"):
        await region.call(cloud.ec2.terminate_instances, DryRun=True, InstanceIds=["i-1"])
    assert region.calls == {
        ("DescribeImages", "ok"): 1,
        ("DescribeImages", "throttled"): 1,
        ("DescribeImages", "not_permitted"): 1,
        ("TerminateInstances", "ok"): 1,
    }


@pytest.mark.parametrize(
    ("timeout", "alarm", "timer", "running", "count"),
    [
        (1, None, None, True, 1),
        (1, "digest", None, True, 0),
        (1, None, "renewed", True, 0),
        (1, None, "absent", True, 1),
        (1, None, None, False, 0),
        (-1, None, None, True, 0),
    ],
)
def test_unprotected_is_what_runs_and_nothing_would_end(
    timeout: int, alarm: str | None, timer: str | None, running: bool, count: int
) -> None:
    """Neither alarm nor timer stands; what does not run yet, or never ends by itself, needs none."""
    factory = Instance(
        id="i-1", role=Role.FACTORY, index=0, type="g5.xlarge", stage=Stage.RUNNING, stage_at=0.0, launched_at=0.0,
        running_at=1.0 if running else None, alarm=alarm, timer=timer,
    )  # fmt: skip
    wanted = cluster(orchestrator_timeout=-1, factories_timeout=timeout)
    world = World(desired=wanted, wanted=True, instances={"i-1": factory})
    assert unprotected(world, 10.0, Rules(daemon="d1")) == count
    assert unprotected(World(), 10.0, Rules(daemon="d1")) == 0


# --- docs/monitoring.md ------------------------------------------------------------------------------------------


def alerts() -> list[tuple[list[str], str]]:
    """The events and the expression of each row of the page's tables of alerts."""
    rows = re.findall(r"^\| [^|]+ \| ([^|]*) \| `((?:[^`|]|\\\|)+)` \|$", MONITORING, re.MULTILINE)
    return [(re.findall(r"`([a-z_.]+)`", events), expression.replace("\\|", "|")) for events, expression in rows]


def test_the_page_has_what_an_operator_must_be_woken_for() -> None:
    """The list of the issue that asked for it, event by event."""
    events = {event for named, _ in alerts() for event in named}
    assert events >= {
        "instance.termination_overdue", "orphan.found", "protection.lacking", "launch.rolled_back",
        "journal.read_only", "service.ended_badly",
    }  # fmt: skip
    assert len(alerts()) == len(re.findall(r"^\| [a-z].*` \|$", MONITORING.partition("## Wake")[2], re.MULTILINE))


def test_every_event_and_metric_that_the_page_names_exists() -> None:
    """In the catalogue; in the text, with those labels; and an expression about an event has the row's own one."""
    known = {one.name: set(one.labels) for one in samples(_FULL)}
    for events, expression in alerts():
        assert set(events) <= CATALOGUE.keys(), events
        for name, braced in re.findall(r"\b(flambed_[a-z_]+)(?:\{([^}]*)\})?", expression):
            assert name in known, expression
            assert set(re.findall(r"(\w+)=~?\"", braced)) <= known[name], expression
        for of in re.findall(r'event=~?"([^"]+)"', expression):
            assert set(of.split("|")) == set(events), expression
        for phases in re.findall(r'phase=~?"([^"]+)"', expression):
            assert set(phases.split("|")) <= set(metrics.PHASES)
    assert set(re.findall(r"^\| `(flambed_[a-z_]+)` \|", MONITORING, re.MULTILINE)) == known.keys()


_FULL = Snapshot(
    version="1",
    started_at=0.0,
    regions={"us-east-1": OfRegion(surveyed_at=0.0, calls={("RunInstances", "ok"): 1})},
)
"""With at least one sample of each metric."""
