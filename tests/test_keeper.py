"""keeper: alarms and points are as they are wanted, whatever CloudWatch does."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from flambed.actions import Protection
from flambed.aws import Answer
from flambed.errors import Reason
from flambed.keeper import Keeper
from flambed.observed.facts import (
    AlarmArmed,
    AlarmFired,
    AlarmLacking,
    AlarmRemoved,
    BecameBusy,
    BecameIdle,
    PointsSeeded,
)
from flambed.region import Region
from flambed.steps import protect
from flambed.steps.protect import alarm_name
from tests.fakes import ME, Cloud, client_error, ids
from tests.virtualtime import START, virtual

HOST = ids([1])[0]
MINUTE = 60.0
NO_SURVEY = 1e9


def wanted(host: str = HOST, **changes: Any) -> Protection:
    """Return the protection of a factory with a timeout of an hour."""
    plain = Protection(instance=host, minutes=60, threshold=0.5, vote_until=None, seed=False, policy="60min<0.5%")
    return replace(plain, **changes)


def table(hosts: Iterable[str] = (HOST,), **changes: Any) -> dict[str, Protection]:
    """Return the same protection for several hosts."""
    return {host: wanted(host, **changes) for host in hosts}


@asynccontextmanager
async def opened(cloud: Cloud, **settings: Any) -> AsyncIterator[tuple[Region, Keeper]]:
    """Open a region whose cluster has had no hosts yet, so that nothing is compared at first."""
    async with cloud.region(**{"survey_interval": NO_SURVEY, **settings}) as region:
        region.subscribe(ME, cloud.heard.take)
        region.keeper.want(ME, {}, cloud.heard.take)
        yield region, region.keeper


# --- the alarm as a value


@pytest.mark.idle("window", "AWS/ accepted")
@pytest.mark.seed("S33")
@pytest.mark.seed("S35")
def test_an_alarm_is_put_with_every_setting_named() -> None:
    """The whole configuration, literally, with the defaults of the call itself: 60 minutes below 0.1 %."""
    assert protect.alarm("i-1", region="us-east-1") == {
        "AlarmName": "Flambe_Instance_Terminate_CPU_Utilization_i-1",
        "AlarmDescription": "flambed: terminates i-1 after 60 minutes below 0.1 % of CPU",
        "ActionsEnabled": True,
        "OKActions": [],
        "AlarmActions": ["arn:aws:automate:us-east-1:ec2:terminate"],
        "InsufficientDataActions": [],
        "Namespace": "AWS/EC2",
        "MetricName": "CPUUtilization",
        "Dimensions": [{"Name": "InstanceId", "Value": "i-1"}],
        "Statistic": "Average",
        "Unit": "Percent",
        "Period": 60,
        "EvaluationPeriods": 60,
        "Threshold": 0.1,
        "ComparisonOperator": "LessThanThreshold",
        "TreatMissingData": "missing",
    }


@pytest.mark.idle("AWS/ refused")
def test_an_alarm_on_our_own_metric_never_fires_because_of_silence() -> None:
    """With the service dead, only a host's own timer ends it there."""
    config = protect.alarm("i-1", region="us-east-1", own_metric=True)
    assert (config["Namespace"], config["TreatMissingData"]) == ("Flambed/EC2", "notBreaching")


@pytest.mark.seed("S35")
@pytest.mark.parametrize(
    ("region", "arn"),
    [
        ("eu-west-1", "arn:aws:automate:eu-west-1:ec2:terminate"),
        ("cn-north-1", "arn:aws-cn:automate:cn-north-1:ec2:terminate"),
        ("us-gov-west-1", "arn:aws-us-gov:automate:us-gov-west-1:ec2:terminate"),
    ],
)
def test_the_terminate_action_is_of_the_regions_partition(region: str, arn: str) -> None:
    """An ARN of another partition would be refused."""
    assert protect.terminate_action(region) == arn


@pytest.mark.idle("window", "basic monitoring")
@pytest.mark.seed("S36")
@pytest.mark.parametrize(
    ("minutes", "detailed", "window"),
    [
        (5, True, (60, 5)),
        (60, True, (60, 60)),
        (1440, True, (60, 1440)),
        (1441, True, (3600, 25)),
        (168 * 60, True, (3600, 168)),
        (500 * 60, True, (3600, 168)),
        (60, False, (300, 12)),
        (5, False, (300, 2)),
        (61, False, (300, 13)),
    ],
)
def test_a_window_keeps_to_what_cloudwatch_evaluates(minutes: int, detailed: bool, window: tuple[int, int]) -> None:
    """A day of minutes, a week of hours, never shorter than the timeout that it can hold."""
    assert protect.window(minutes, detailed=detailed) == window
    period, periods = window
    assert period * periods <= (86_400 if period < 3600 else 604_800)


@pytest.mark.seed("S37")
@pytest.mark.parametrize(("value", "points"), [(100.0, 10), (55.5, 3), (100.0, 1)])
def test_fake_points_are_one_a_minute_for_the_past_minutes(value: float, points: int) -> None:
    """Value and number are honoured, and this minute is the last."""
    made = protect.fake_points("i-1", value, points, now=START + 30)
    assert [p["Timestamp"].timestamp() for p in made] == [START - MINUTE * back for back in reversed(range(points))]
    assert {(p["Value"], p["Unit"], p["MetricName"]) for p in made} == {(value, "Percent", "CPUUtilization")}


@pytest.mark.seed("S37")
def test_ten_fake_points_of_a_hundred_are_the_default() -> None:
    """As in the source document."""
    made = protect.fake_points("i-1", now=START)
    assert [(p["Value"], p["Dimensions"][0]["Value"]) for p in made] == [(100.0, "i-1")] * 10


@pytest.mark.idle("votes")
@pytest.mark.parametrize(
    ("until", "written", "first", "last"),
    [
        (math.inf, None, -9, 5),
        (math.inf, START + 3 * MINUTE, 4, 5),
        (math.inf, START - 60 * MINUTE, -9, 5),
        (START + 2 * MINUTE, None, -9, 2),
    ],
)
def test_a_vote_has_points_from_nine_minutes_before_to_five_ahead(
    until: float, written: float | None, first: int, last: int
) -> None:
    """No minute is written twice, and none after the vote's end."""
    minutes = protect.vote_minutes(START + 20, until, written)
    assert minutes == [START + MINUTE * number for number in range(first, last + 1)]


@pytest.mark.idle("alarm changed or deleted by others")
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, ()),
        ({"AlarmDescription": "mine"}, ()),
        ({"DatapointsToAlarm": 60}, ()),
        ({"Threshold": 50.0}, ("Threshold",)),
        ({"ActionsEnabled": False, "AlarmActions": []}, ("ActionsEnabled", "AlarmActions")),
        ({"DatapointsToAlarm": 1}, ("DatapointsToAlarm",)),
    ],
)
def test_a_changed_alarm_is_told_by_what_was_changed(changes: dict[str, Any], named: tuple[str, ...]) -> None:
    """The whole configuration counts, and nothing that people may write into it."""
    config = protect.alarm("i-1", region="us-east-1")
    assert protect.differences(config, {**config, "StateValue": "OK", **changes}) == named


def test_the_gaps_of_our_own_metric_begin_where_it_began() -> None:
    """What was never written is no gap."""
    own = [(START, 1.0), (START + 3 * MINUTE, 1.0)]
    assert protect.gaps(own, START + 5 * MINUTE + 1) == [START + MINUTE * n for n in (1, 2, 4)]
    assert protect.gaps([], START) == []


# --- arming


@pytest.mark.seed("S35")
@virtual
async def test_a_wanted_alarm_is_put_at_once_and_only_once() -> None:
    """Arming begins with the table that asks for it, and wanting the same again does nothing."""
    cloud = Cloud()
    async with opened(cloud) as (region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(0.1)
        config = protect.alarm(HOST, 60, 0.5, region=region.name)
        digest = protect.digest_of(config)
        assert cloud.cloudwatch.of("put_metric_alarm") == [config]
        assert [(fact.instance, fact.digest) for fact in cloud.heard.of(AlarmArmed)] == [(HOST, digest)]
        keeper.want(ME, table(), cloud.heard.take)
        keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(600)
    assert len(cloud.cloudwatch.of("put_metric_alarm")) == 1


@virtual
async def test_an_alarm_carries_the_tags_of_its_cluster_from_its_creation_on() -> None:
    """They are no part of what is compared: one that was made without them is right all the same."""
    cloud, tags = Cloud(), {"flambed:cluster": "c1", "flambed:daemon": "d1"}
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    async with opened(cloud) as (region, keeper):
        config = protect.alarm(HOST, 60, 0.5, region=region.name)
        await cloud.cloudwatch.put_metric_alarm(**config)
        region.keeper.forget(ME)
        keeper.want(ME, table(), cloud.heard.take, tags)
        await asyncio.sleep(0.1)
        assert len(cloud.cloudwatch.of("put_metric_alarm")) == 1, "it is as it should be"
        keeper.want(ME, table((HOST, ids([2])[0])), cloud.heard.take, tags)
        await asyncio.sleep(0.1)
    assert list(cloud.cloudwatch.tags.values()) == [[], listed]


@virtual
async def test_an_alarm_is_put_without_tags_where_tagging_is_not_permitted() -> None:
    """That takes a permission of its own; the protection matters more."""
    cloud = Cloud()
    async with opened(cloud) as (_, keeper):
        cloud.cloudwatch.fail("put_metric_alarm", client_error("AccessDenied", "cloudwatch:TagResource", 403))
        keeper.want(ME, table(), cloud.heard.take, {"flambed:daemon": "d1"})
        await asyncio.sleep(0.1)
    assert ["Tags" in params for params in cloud.cloudwatch.of("put_metric_alarm")] == [True, False]
    assert cloud.heard.kinds() == ["AlarmArmed"]


@pytest.mark.idle("arming")
@virtual
async def test_a_fresh_id_that_cloudwatch_does_not_know_is_tried_again_quietly() -> None:
    """Its refusal passes within minutes, and nobody is told of it."""
    cloud = Cloud()
    refusals = [client_error("ValidationError", f"{HOST} is not a valid instance")] * 4
    cloud.cloudwatch.fail("put_metric_alarm", *refusals)
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(60)
    assert cloud.heard.kinds() == ["AlarmArmed"]
    assert cloud.heard.facts[0].at == pytest.approx(START + 15, abs=1)  # after pauses of 1, 2, 4 and 8 seconds


@virtual
async def test_a_refusal_that_lasts_five_minutes_is_told_once_and_still_tried() -> None:
    """The cluster knows that the host is not protected, and it is when CloudWatch comes to its senses."""
    cloud = Cloud()
    cloud.cloudwatch.fail("put_metric_alarm", *[client_error("ValidationError")] * 25)
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(1200)
    assert [(type(fact), round(fact.at - START) // 60) for fact in cloud.heard.facts] == [
        (AlarmLacking, 5),
        (AlarmArmed, 10),
    ]


@pytest.mark.parametrize(("code", "reason"), [("AccessDenied", Reason.NOT_PERMITTED), ("LimitExceeded", Reason.QUOTA)])
@virtual
async def test_a_refusal_that_does_not_pass_is_told_at_once(code: str, reason: Reason) -> None:
    """A missing permission needs a person."""
    cloud = Cloud()
    cloud.cloudwatch.fail("put_metric_alarm", client_error(code))
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(10)
    (lacking,) = cloud.heard.of(AlarmLacking)
    assert (lacking.instance, lacking.reason, lacking.code) == (HOST, reason, code)
    assert len(cloud.heard.of(AlarmArmed)) == 1


@pytest.mark.idle("arming")
@virtual
async def test_a_thousand_alarms_go_at_three_a_second_and_small_clusters_need_not_wait() -> None:
    """CloudWatch's quota is kept to, and clusters take turns."""
    cloud = Cloud()
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(ids(range(1, 1001)), vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(1)
        keeper.want(("you", "d"), table(ids(range(2001, 2004)), vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(4)
        assert {alarm_name(host) for host in ids(range(2001, 2004))} <= cloud.cloudwatch.alarms.keys()
        await asyncio.sleep(340)
    assert len(cloud.heard.of(AlarmArmed)) == 1003
    assert len(cloud.cloudwatch.of("describe_alarms")) == 1  # one look at what the second cluster has already


@pytest.mark.idle("timeout changed on a live cluster")
@pytest.mark.seed("S34")
@virtual
async def test_another_timeout_replaces_the_alarm_without_deleting_it() -> None:
    """There is no moment in which the instance is unprotected."""
    cloud = Cloud()
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(1)
        keeper.want(ME, table(minutes=120, policy="120min"), cloud.heard.take)
        await asyncio.sleep(1)
    assert [params["EvaluationPeriods"] for params in cloud.cloudwatch.of("put_metric_alarm")] == [60, 120]
    assert cloud.cloudwatch.of("delete_alarms") == []


@pytest.mark.seed("S34")
@pytest.mark.parametrize("gone", [False, True])
@virtual
async def test_an_alarm_is_deleted_when_there_is_to_be_none(gone: bool) -> None:
    """Because the timeout became -1, or because the instance is gone; a hundred in a call."""
    cloud = Cloud()
    hosts = ids(range(1, 151))
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(hosts), cloud.heard.take)
        await asyncio.sleep(60)
        assert len(cloud.cloudwatch.alarms) == 150
        keeper.want(ME, table(hosts, minutes=None, gone=gone), cloud.heard.take)
        await asyncio.sleep(1)
        keeper.want(ME, {}, cloud.heard.take)
        await asyncio.sleep(600)
    assert cloud.cloudwatch.alarms == {}
    assert [fact.instance for fact in cloud.heard.of(AlarmRemoved)] == hosts
    assert [len(params["AlarmNames"]) for params in cloud.cloudwatch.of("delete_alarms")] == [100, 50]


@virtual
async def test_an_alarm_that_ended_its_instance_is_told_of_before_it_is_deleted() -> None:
    """EC2 says of both that somebody terminated them: only the alarm's state tells which of them it was."""
    cloud = Cloud()
    hosts = ids([1, 2])
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(hosts), cloud.heard.take)
        await asyncio.sleep(10)
        cloud.cloudwatch.alarms[alarm_name(hosts[1])] |= {"StateValue": "ALARM", "StateReason": "Threshold Crossed"}
        keeper.want(ME, table(hosts, minutes=None, gone=True), cloud.heard.take)
        await asyncio.sleep(10)
    assert [(fact.instance, fact.why) for fact in cloud.heard.of(AlarmFired)] == [(hosts[1], "Threshold Crossed")]
    assert [fact.instance for fact in cloud.heard.of(AlarmRemoved)] == hosts
    assert cloud.cloudwatch.alarms == {}


@virtual
async def test_alarms_are_deleted_also_where_some_never_were() -> None:
    """CloudWatch may refuse a whole call because of one name without an alarm."""
    cloud = Cloud()
    cloud.cloudwatch.strict_delete = True
    hosts = ids([1, 2, 3])
    cloud.cloudwatch.alarms[alarm_name(hosts[1])] = {"AlarmName": alarm_name(hosts[1])}
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(hosts, minutes=None), cloud.heard.take)
        await asyncio.sleep(1)
    assert cloud.cloudwatch.alarms == {}
    assert [fact.instance for fact in cloud.heard.of(AlarmRemoved)] == hosts


@pytest.mark.idle("alarm changed or deleted by others")
@pytest.mark.seed("C04")
@virtual
async def test_alarms_that_others_changed_or_deleted_are_put_again_at_the_next_survey() -> None:
    """The whole configuration is compared; the cluster hears that the host was not protected, and that it is again."""
    cloud = Cloud()
    changed, deleted, untouched = ids([1, 2, 3])
    async with opened(cloud, survey_interval=300) as (_region, keeper):
        keeper.want(ME, table([changed, deleted, untouched]), cloud.heard.take)
        await asyncio.sleep(10)
        cloud.heard.facts.clear()
        cloud.cloudwatch.alarms[alarm_name(changed)]["ActionsEnabled"] = False
        del cloud.cloudwatch.alarms[alarm_name(deleted)]
        await asyncio.sleep(300)
        assert {(f.instance, f.code) for f in cloud.heard.of(AlarmLacking)} == {
            (changed, "AlarmChanged"),
            (deleted, "AlarmDeleted"),
        }
        assert {f.instance for f in cloud.heard.of(AlarmArmed)} == {changed, deleted}
        await asyncio.sleep(600)
    assert cloud.cloudwatch.alarms[alarm_name(changed)]["ActionsEnabled"] is True
    assert len(cloud.cloudwatch.of("put_metric_alarm")) == 5
    assert cloud.cloudwatch.of("put_metric_data") == []  # nobody's clock was started anew


@pytest.mark.idle("daemon restarted")
@pytest.mark.parametrize("vote_until", [None, math.inf])
@virtual
async def test_after_a_restart_alarms_that_are_right_are_not_put_again(vote_until: float | None) -> None:
    """Comparing a thousand takes ten calls, putting them five minutes: also those of hosts in use."""
    cloud = Cloud()
    hosts = ids(range(1, 301))
    for host in hosts[:299]:
        config = protect.alarm(host, 60, 0.5, region="us-east-1")
        cloud.cloudwatch.alarms[alarm_name(host)] = {**config, "StateValue": "OK"}
    async with cloud.region(survey_interval=NO_SURVEY) as region:
        region.keeper.want(ME, table(hosts, vote_until=vote_until), cloud.heard.take)
        await asyncio.sleep(5)
    assert [len(params["AlarmNames"]) for params in cloud.cloudwatch.of("describe_alarms")] == [100, 100, 100]
    assert [params["AlarmName"] for params in cloud.cloudwatch.of("put_metric_alarm")] == [alarm_name(hosts[299])]
    assert sorted(fact.instance for fact in cloud.heard.of(AlarmArmed)) == hosts
    assert cloud.heard.of(AlarmLacking) == []


@virtual
async def test_what_a_cluster_wants_no_more_is_left_as_it_is() -> None:
    """A service that stops takes no protection away."""
    cloud = Cloud()
    async with opened(cloud, survey_interval=300) as (region, keeper):
        keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(1)
        region.unsubscribe(ME)
        calls = len(cloud.cloudwatch.calls)
        await asyncio.sleep(1000)
    assert alarm_name(HOST) in cloud.cloudwatch.alarms
    assert len(cloud.cloudwatch.calls) == calls


# --- votes


@pytest.mark.idle("votes", "AWS/ accepted")
@pytest.mark.seed("C04")
@virtual
async def test_a_vote_writes_ten_past_minutes_five_ahead_and_then_one_a_minute() -> None:
    """So a restart of a few minutes loses nothing, and the alarm is held off from the first moment."""
    cloud = Cloud()
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(1)
        first = cloud.cloudwatch.of("put_metric_data")
        assert [len(params["MetricData"]) for params in first] == [15]
        assert sorted(cloud.cloudwatch.written(HOST)) == [START + MINUTE * n for n in range(-9, 6)]
        await asyncio.sleep(180)
        assert [len(params["MetricData"]) for params in cloud.cloudwatch.of("put_metric_data")] == [15, 1, 1, 1]
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(600)
    points = cloud.cloudwatch.written(HOST)
    assert sorted(points) == [START + MINUTE * n for n in range(-9, 9)]
    assert set(points.values()) == {100.0}


@pytest.mark.idle("votes")
@virtual
async def test_the_votes_of_a_thousand_hosts_of_all_clusters_are_one_call_a_minute() -> None:
    """A call takes a thousand points."""
    cloud = Cloud()
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(ids(range(1, 601)), vote_until=math.inf), cloud.heard.take)
        keeper.want(("you", "d"), table(ids(range(601, 1001)), vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(1)
        assert [len(params["MetricData"]) for params in cloud.cloudwatch.of("put_metric_data")] == [1000] * 15
        await asyncio.sleep(60)
        assert [len(params["MetricData"]) for params in cloud.cloudwatch.of("put_metric_data")[15:]] == [1000]


@pytest.mark.idle("-1")
@virtual
async def test_a_host_without_an_alarm_or_a_vote_gets_no_points() -> None:
    """Points cost, and nobody would read them."""
    cloud = Cloud()
    async with opened(cloud) as (_region, keeper):
        hosts = ids([1, 2])
        never = wanted(hosts[0], minutes=None, vote_until=math.inf)
        keeper.want(ME, {hosts[0]: never, hosts[1]: wanted(hosts[1], vote_until=START - 1)}, cloud.heard.take)
        await asyncio.sleep(300)
    assert cloud.cloudwatch.of("put_metric_data") == []


@pytest.mark.idle("CloudWatch unreachable")
@virtual
async def test_points_that_could_not_be_written_are_written_later() -> None:
    """The failure is told once, with growing pauses, and no minute of the last ten is left out."""
    cloud = Cloud()
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(1)
        cloud.cloudwatch.fail("put_metric_data", *[client_error("InternalServiceFault", status=500)] * 7)
        await asyncio.sleep(300)
    assert sorted(cloud.cloudwatch.written(HOST)) == [START + MINUTE * n for n in range(-9, 11)]
    assert cloud.heard.names().count("protection.points_failed") == 1


# --- seeding


@pytest.mark.idle("adopted, idle for hours")
@pytest.mark.seed("S37")
@virtual
async def test_an_adopted_host_is_armed_only_when_its_fake_points_can_be_read_back() -> None:
    """Else the alarm would look at hours of idleness, and end the host at once."""
    cloud = Cloud()
    cloud.cloudwatch.visible = False
    cloud.cloudwatch.alarms[alarm_name(HOST)] = {"AlarmName": alarm_name(HOST), "EvaluationPeriods": 300}
    async with cloud.region(survey_interval=NO_SURVEY) as region:
        region.keeper.want(ME, table(seed=True), cloud.heard.take)
        await asyncio.sleep(150)
        assert cloud.cloudwatch.of("put_metric_alarm") == []
        assert sorted(cloud.cloudwatch.written(HOST)) == [START + MINUTE * n for n in range(-9, 3)]
        cloud.cloudwatch.visible = True
        await asyncio.sleep(30)
    assert cloud.heard.kinds() == ["PointsSeeded", "AlarmArmed"]
    assert cloud.heard.of(PointsSeeded)[0].policy == "60min<0.5%"
    assert cloud.cloudwatch.of("delete_alarms") == []
    assert cloud.ec2.of("monitor_instances") == [{"InstanceIds": [HOST]}]


@virtual
async def test_an_adopted_host_with_the_right_alarm_is_seeded_all_the_same() -> None:
    """The cluster waits for that, and hears of the alarm only when its clock has begun."""
    cloud = Cloud()
    cloud.cloudwatch.alarms[alarm_name(HOST)] = protect.alarm(HOST, 60, 0.5, region="us-east-1")
    async with cloud.region(survey_interval=NO_SURVEY) as region:
        region.keeper.want(ME, table(seed=True), cloud.heard.take)
        await asyncio.sleep(10)
    assert cloud.heard.kinds() == ["PointsSeeded", "AlarmArmed"]


@pytest.mark.idle("clock skew")
@pytest.mark.parametrize("refused", [False, True])
@virtual
async def test_points_that_were_written_by_a_wrong_clock_hold_up_none_of_the_right_ones(refused: bool) -> None:
    """Until AWS first answers nobody knows that this machine's clock is three hours ahead."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = refused
    async with opened(cloud) as (region, keeper):
        region._offset = 3 * 3600.0
        keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(70)
        region._offset = 0.0
        await asyncio.sleep(130)
        now = protect.minute_of(region.now())
    namespace = protect.OWN_NAMESPACE if refused else protect.AWS_NAMESPACE
    assert now in cloud.cloudwatch.written(HOST, namespace)


@virtual
async def test_one_host_that_ec2_does_not_know_holds_up_none_of_the_others() -> None:
    """The call for all of them fails because of it, so each is seeded by itself."""
    cloud = Cloud()
    unknown = "i-0000000000000dead"
    monitor = cloud.ec2.monitor_instances

    async def monitor_instances(**params: Any) -> Answer:
        answer = await monitor(**params)
        if unknown in params["InstanceIds"]:
            raise client_error("InvalidInstanceID.NotFound", f"The instance IDs '{unknown}' do not exist")
        return answer

    cloud.ec2.monitor_instances = monitor_instances  # type: ignore[method-assign]
    async with cloud.region(survey_interval=NO_SURVEY) as region:
        region.keeper.want(ME, table((HOST, unknown), seed=True), cloud.heard.take)
        await asyncio.sleep(30)
    assert [fact.instance for fact in cloud.heard.of(AlarmArmed)] == [HOST]


@pytest.mark.idle("daemon restarted")
@virtual
async def test_a_policy_is_seeded_once() -> None:
    """Neither another vote nor a restart starts an idle host's clock anew."""
    cloud = Cloud()
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(seed=True), cloud.heard.take)
        await asyncio.sleep(10)
        points = len(cloud.cloudwatch.of("put_metric_data"))
        assert points == 1
        keeper.want(ME, table(seed=True, threshold=0.6), cloud.heard.take)
        await asyncio.sleep(10)
        keeper.want(ME, table(seed=False, threshold=0.6), cloud.heard.take)
        await asyncio.sleep(600)
    assert len(cloud.cloudwatch.of("put_metric_data")) == points
    assert len(cloud.heard.of(PointsSeeded)) == 1


@pytest.mark.idle("timeout changed on a live cluster")
@virtual
async def test_a_changed_timeout_on_a_live_host_is_seeded_before_the_new_alarm() -> None:
    """The clock starts anew; the old alarm stands until then."""
    cloud = Cloud()
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(1)
        keeper.want(ME, table(minutes=5, seed=True, policy="5min"), cloud.heard.take)
        await asyncio.sleep(10)
    order = [name for name, _ in cloud.cloudwatch.calls if name != "describe_alarms"]
    assert order == ["put_metric_alarm", "put_metric_data", "get_metric_data", "put_metric_alarm"]
    assert [fact.policy for fact in cloud.heard.of(PointsSeeded)] == ["5min"]


@virtual
async def test_points_that_never_become_visible_are_told() -> None:
    """The host is not protected by the new alarm, and somebody should know."""
    cloud = Cloud()
    cloud.cloudwatch.visible = False
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(seed=True), cloud.heard.take)
        await asyncio.sleep(900)
    assert cloud.heard.kinds() == ["AlarmLacking"]
    (lacking,) = cloud.heard.of(AlarmLacking)
    assert (lacking.code, lacking.reason) == ("PointsNotVisible", Reason.TIMED_OUT)


@pytest.mark.idle("basic monitoring")
@virtual
async def test_without_the_permission_to_monitor_alarms_count_fives_of_minutes() -> None:
    """Basic monitoring has a point every five minutes."""
    cloud = Cloud()
    cloud.ec2.fail("monitor_instances", client_error("UnauthorizedOperation"))
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(seed=True), cloud.heard.take)
        await asyncio.sleep(10)
    (alarm,) = cloud.cloudwatch.of("put_metric_alarm")
    assert (alarm["Period"], alarm["EvaluationPeriods"]) == (300, 12)


# --- where CloudWatch refuses points under AWS/


@pytest.mark.idle("AWS/ refused", "change of mode")
@virtual
async def test_the_first_refusal_moves_everything_to_our_own_metric() -> None:
    """New points first, and then the alarm, under the same name; the refusal is told once and remembered."""
    cloud, memory = Cloud(), dict[str, str]()
    cloud.cloudwatch.refuses_aws = True
    async with opened(cloud, memory=memory) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(1)
        assert cloud.cloudwatch.alarms[alarm_name(HOST)]["Namespace"] == "AWS/EC2"
        keeper.want(ME, table(vote_until=START + 3600), cloud.heard.take)
        await asyncio.sleep(30)
    alarm = cloud.cloudwatch.alarms[alarm_name(HOST)]
    assert (alarm["Namespace"], alarm["TreatMissingData"]) == ("Flambed/EC2", "notBreaching")
    order = [(name, params.get("Namespace")) for name, params in cloud.cloudwatch.calls]
    assert order[:2] == [("put_metric_alarm", "AWS/EC2"), ("put_metric_data", "AWS/EC2")]
    assert order[-1] == ("put_metric_alarm", "Flambed/EC2")
    assert order.index(("put_metric_data", "Flambed/EC2")) < order.index(("get_metric_data", None))
    assert order.count(("put_metric_alarm", "Flambed/EC2")) == 1
    assert cloud.heard.names().count("protection.namespace_refused") == 1
    assert cloud.heard.of(PointsSeeded) == []  # the policy is the same, and so is its clock
    assert cloud.heard.of(AlarmLacking) == []
    assert memory == {"namespace AWS/EC2 123456789012 us-east-1": "refused"}


@pytest.mark.idle("AWS/ refused")
@virtual
async def test_a_refusal_is_remembered_after_a_restart() -> None:
    """The first alarm is right at once, and no point is tried in vain."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = True
    async with opened(cloud, memory={"namespace AWS/EC2 123456789012 us-east-1": "refused"}) as (_region, keeper):
        keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(120)
    assert {params["Namespace"] for params in cloud.cloudwatch.of("put_metric_alarm")} == {"Flambed/EC2"}
    assert {params["Namespace"] for params in cloud.cloudwatch.of("put_metric_data")} == {"Flambed/EC2"}


@pytest.mark.idle("AWS/ refused")
@virtual
async def test_our_own_metric_has_the_real_cpu_or_the_vote_each_minute() -> None:
    """One merged point; where nothing is known of a minute there is none, which counts as use."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = True
    idle, voted, unknown = ids([1, 2, 3])
    for minute in range(-3, 20):
        cloud.cloudwatch.cpu(idle, START + minute * MINUTE, 0.25)
        cloud.cloudwatch.cpu(voted, START + minute * MINUTE, 0.25)
    async with opened(cloud, memory={"namespace AWS/EC2 123456789012 us-east-1": "refused"}) as (_region, keeper):
        keeper.want(ME, {**table([idle, unknown]), voted: wanted(voted, vote_until=math.inf)}, cloud.heard.take)
        await asyncio.sleep(601)
    own = {host: cloud.cloudwatch.written(host, "Flambed/EC2") for host in (idle, voted, unknown)}
    minutes = [START + MINUTE * n for n in range(-9, 11)]
    assert own[idle] == dict.fromkeys(minutes[9:], 0.25)
    assert own[voted] == dict.fromkeys(minutes, 100.0)
    assert own[unknown] == {}


@pytest.mark.idle("AWS/ refused")
@pytest.mark.parametrize("burst", range(4, 8))
@virtual
async def test_one_busy_minute_is_seen_in_our_own_metric_whichever_it_is(burst: int) -> None:
    """The CPU is read every other minute, and comes two minutes late."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = True
    async with opened(cloud, memory={"namespace AWS/EC2 123456789012 us-east-1": "refused"}) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        for minute in range(16):
            cloud.cloudwatch.cpu(HOST, START + (minute - 2) * MINUTE, 70.0 if minute - 2 == burst else 0.25)
            await asyncio.sleep(MINUTE)
    own = cloud.cloudwatch.written(HOST, "Flambed/EC2")
    busy = [(at - START) / MINUTE for at, percent in own.items() if percent == 70.0]
    assert busy
    assert burst < min(busy) <= max(busy) <= burst + 5
    assert {own[max(own)], own[min(own)]} == {0.25}


@pytest.mark.idle("AWS/ refused")
@virtual
async def test_a_vote_that_begins_counts_at_once_in_our_own_metric() -> None:
    """The minute that was already told to be idle is told to be in use as well, which holds its average up."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = True
    for minute in range(-3, 20):
        cloud.cloudwatch.cpu(HOST, START + minute * MINUTE, 0.25)
    async with opened(cloud, memory={"namespace AWS/EC2 123456789012 us-east-1": "refused"}) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(5 * MINUTE + 20)
        keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(20)
    assert cloud.cloudwatch.points["Flambed/EC2", HOST][START + 5 * MINUTE] == [0.25, 100.0]


@pytest.mark.idle("AWS/ refused")
@virtual
async def test_a_vote_that_begins_while_a_minute_is_written_counts_in_that_minute_too() -> None:
    """The points on their way say idle: another set follows at once, or the alarm would see nothing but idle minutes."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = True
    for minute in range(-3, 20):
        cloud.cloudwatch.cpu(HOST, START + minute * MINUTE, 0.25)
    put = cloud.cloudwatch.put_metric_data

    async with opened(cloud, memory={"namespace AWS/EC2 123456789012 us-east-1": "refused"}) as (_region, keeper):

        async def put_meanwhile(**params: Any) -> Any:
            keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
            return await put(**params)

        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(4 * MINUTE + 30)
        with mock.patch.object(cloud.cloudwatch, "put_metric_data", put_meanwhile):
            await asyncio.sleep(50)
    assert cloud.cloudwatch.points["Flambed/EC2", HOST][START + 5 * MINUTE] == [0.25, 100.0]


@pytest.mark.idle("AWS/ refused")
@virtual
async def test_a_changed_timeout_is_seeded_in_our_own_metric_too() -> None:
    """The minutes that hold the real CPU are written over: else no fake point would ever be read back."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = True
    for minute in range(-3, 20):
        cloud.cloudwatch.cpu(HOST, START + minute * MINUTE, 0.25)
    async with opened(cloud, memory={"namespace AWS/EC2 123456789012 us-east-1": "refused"}) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(3 * MINUTE)
        cloud.heard.facts.clear()
        keeper.want(ME, table(minutes=120, seed=True), cloud.heard.take)
        await asyncio.sleep(MINUTE)
    assert cloud.heard.kinds() == ["PointsSeeded", "AlarmArmed"]


@pytest.mark.idle("AWS/ refused", "daemon restarted")
@virtual
async def test_gaps_of_our_own_metric_are_filled_after_a_restart() -> None:
    """While the service was away the real CPU went on, and an idle host is not given its whole timeout again."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = True
    config = protect.alarm(HOST, 60, 0.5, region="us-east-1", own_metric=True)
    cloud.cloudwatch.alarms[alarm_name(HOST)] = dict(config)
    for minute in range(-60, 5):
        cloud.cloudwatch.cpu(HOST, START + minute * MINUTE, 0.25)
    for minute in range(-40, -20):
        cloud.cloudwatch.points["Flambed/EC2", HOST][START + minute * MINUTE].append(0.2)
    memory = {"namespace AWS/EC2 123456789012 us-east-1": "refused"}
    async with cloud.region(survey_interval=NO_SURVEY, memory=memory) as region:
        region.keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(181)
    own = cloud.cloudwatch.points["Flambed/EC2", HOST]
    assert sorted(own) == [START + MINUTE * n for n in range(-40, 4)]
    assert all(len(values) == 1 for values in own.values())
    assert cloud.heard.kinds() == ["AlarmArmed", "BecameIdle"]


# --- reading the real CPU


@virtual
async def test_only_edges_of_the_cpu_are_told() -> None:
    """Idle, busy and idle again are three facts, however many samples there were."""
    cloud = Cloud()
    for minute in range(120):
        busy = 30 <= minute < 40
        cloud.cloudwatch.cpu(HOST, START + minute * MINUTE, 70.0 if busy else 0.2)
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(100 * MINUTE)
    edges = [fact for fact in cloud.heard.facts if isinstance(fact, BecameBusy | BecameIdle)]
    assert [type(fact) for fact in edges] == [BecameIdle, BecameBusy, BecameIdle]
    # Before that nobody has seen it busy: the first minute that was read is none in which it was.
    assert [fact.since for fact in cloud.heard.of(BecameIdle)] == [None, START + 39 * MINUTE]


@virtual
async def test_a_burst_between_two_readings_moves_the_last_busy_minute() -> None:
    """A host that is idle at both is told to have been busy meanwhile."""
    cloud = Cloud()
    for minute in range(60):
        cloud.cloudwatch.cpu(HOST, START + minute * MINUTE, 70.0 if minute == 17 else 0.2)
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(40 * MINUTE)
    assert [fact.since for fact in cloud.heard.of(BecameIdle)][1:] == [START + 17 * MINUTE]
    assert cloud.heard.of(BecameBusy) == []


@pytest.mark.idle("own fakes")
@virtual
async def test_our_own_fake_points_do_not_count_as_busy() -> None:
    """The least sample of a minute is the real one, and a minute that has only ours is not judged."""
    cloud = Cloud()
    for minute in range(40):
        cloud.cloudwatch.cpu(HOST, START + minute * MINUTE, 0.2)
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
        await asyncio.sleep(30 * MINUTE)
    assert cloud.heard.of(BecameBusy) == []
    assert len(cloud.heard.of(BecameIdle)) == 1


@pytest.mark.idle("own fakes")
@virtual
async def test_a_minute_whose_real_cpu_comes_late_is_not_judged_by_our_point() -> None:
    """CloudWatch shows a metric some minutes after; until then a voted minute has only our own point."""
    cloud = Cloud()

    async def measure() -> None:
        for minute in range(60):
            cloud.cloudwatch.cpu(HOST, START + (minute - 3) * MINUTE, 70.0 if minute == 23 else 0.2)
            await asyncio.sleep(MINUTE)

    async with opened(cloud) as (_region, keeper):
        measuring = asyncio.create_task(measure())
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(10 * MINUTE + 1)
        keeper.want(ME, table(vote_until=math.inf), cloud.heard.take)
        await measuring
    assert cloud.heard.of(BecameBusy) == []
    assert [fact.since for fact in cloud.heard.of(BecameIdle)][1:] == [START + 20 * MINUTE]


@virtual
async def test_a_thousand_hosts_are_read_five_hundred_a_call_every_five_minutes() -> None:
    """Each metric that is asked for costs; a short window is read oftener."""
    cloud = Cloud()
    async with opened(cloud) as (_region, keeper):
        many = table(ids(range(1, 1001)), minutes=60)
        keeper.want(ME, many, cloud.heard.take)
        await asyncio.sleep(61)
        first = [len(params["MetricDataQueries"]) for params in cloud.cloudwatch.of("get_metric_data")]
        assert first == [500, 500]
        await asyncio.sleep(20 * MINUTE)
    assert len(cloud.cloudwatch.of("get_metric_data")) == 10


@pytest.mark.idle("CloudWatch unreachable")
@virtual
async def test_a_cpu_that_cannot_be_read_is_not_idle_and_is_warned_of_at_half_the_window() -> None:
    """No data is no verdict; what was missed is read later."""
    cloud = Cloud()
    for minute in range(200):
        cloud.cloudwatch.cpu(HOST, START + minute * MINUTE, 70.0 if minute == 20 else 0.2)
    async with opened(cloud) as (_region, keeper):
        keeper.want(ME, table(), cloud.heard.take)
        await asyncio.sleep(10 * MINUTE)
        cloud.heard.facts.clear()
        cloud.cloudwatch.fail("get_metric_data", *[client_error("InternalServiceFault", status=500)] * 40)
        await asyncio.sleep(32 * MINUTE)
        assert cloud.heard.facts == []
        warned = [fields for name, fields in cloud.heard.events if name == "protection.lacking"]
        assert [fields["instance"] for fields in warned] == [HOST]
        await asyncio.sleep(60 * MINUTE)
    assert [fact.since for fact in cloud.heard.of(BecameIdle)] == [START + 20 * MINUTE]


# --- an alarm that is in ALARM already


@pytest.mark.idle("alarm already in ALARM")
@pytest.mark.parametrize("vote_until", [None, math.inf])
@virtual
async def test_an_alarm_that_is_in_alarm_is_neither_put_anew_nor_set_by_hand(vote_until: float | None) -> None:
    """With a vote it has points, after which CloudWatch itself says OK; without one it is left as it is."""
    cloud = Cloud()
    config = protect.alarm(HOST, 60, 0.5, region="us-east-1")
    cloud.cloudwatch.alarms[alarm_name(HOST)] = {**config, "StateValue": "ALARM"}
    async with cloud.region(survey_interval=300) as region:
        region.subscribe(ME, cloud.heard.take)
        region.keeper.want(ME, table(vote_until=vote_until), cloud.heard.take)
        await asyncio.sleep(10 * MINUTE)
    changed = {name for name, _ in cloud.cloudwatch.calls if not name.startswith(("describe_", "get_"))}
    assert changed == (set() if vote_until is None else {"put_metric_data"})
    assert cloud.heard.of(AlarmLacking) == []


# --- what it costs


@pytest.mark.idle("votes", "window", "AWS/ accepted", "AWS/ refused")
@pytest.mark.parametrize(
    ("minutes", "refused", "read"), [(60, False, 0.4), (5, False, 2.0), (60, True, 1.0), (5, True, 2.0)]
)
@virtual
async def test_a_thousand_hosts_in_the_steady_state_cost_a_call_or_two_a_minute(
    minutes: int, refused: bool, read: float
) -> None:
    """One PutMetricData, half a GetMetricData, and no PutMetricAlarm, half of the hosts in use; one reading for our own metric."""
    cloud = Cloud()
    cloud.cloudwatch.refuses_aws = refused
    memory = {"namespace AWS/EC2 123456789012 us-east-1": "refused"} if refused else {}
    hosts = ids(range(1, 1001))
    for host in hosts:
        config = protect.alarm(host, minutes, 0.5, region="us-east-1", own_metric=refused)
        cloud.cloudwatch.alarms[alarm_name(host)] = {**config, "StateValue": "OK"}
        for minute in range(-5, 15):
            cloud.cloudwatch.cpu(host, START + minute * MINUTE, 0.2)
    async with cloud.region(survey_interval=NO_SURVEY, memory=memory) as region:
        wants = table(hosts[:500], minutes=minutes) | table(hosts[500:], minutes=minutes, vote_until=math.inf)
        region.keeper.want(ME, wants, cloud.heard.take)
        await asyncio.sleep(4 * MINUTE + 30)
        before = len(cloud.cloudwatch.calls)
        await asyncio.sleep(10 * MINUTE)
    calls = Counter(name for name, _ in cloud.cloudwatch.calls[before:])
    assert {name: count / 10 for name, count in calls.items()} == {"put_metric_data": 1.0, "get_metric_data": read}
