"""steps.judge: hosts that seem to be due are looked at afresh, and their CPU is read before anybody ends them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flambed.actions import Case, Protection, Question
from flambed.aws import AwsError
from flambed.observed.facts import Judged
from flambed.steps.judge import judge
from flambed.verdict import Finding
from tests.clusterfiles import cluster
from tests.fakes import ME, Cloud, client_error, cluster_tags, ids, instance
from tests.virtualtime import START, virtual

MINUTE, HOUR = 60.0, 3600.0


def case(host: str, **changes: Any) -> Case:
    """Return a factory with a timeout of an hour that has idled since the beginning."""
    plain: dict[str, Any] = {
        "instance": host, "minutes": 60, "threshold": 0.5, "idle_from": START - 300 * HOUR, "votes": {}, "mute_since": None,
    }  # fmt: skip
    return Case(**(plain | changes))


async def examined(cloud: Cloud, *cases: Case) -> list[Judged]:
    """Return what is found of these hosts."""
    async with cloud.region(survey_interval=1e9) as region:
        look, found = await judge(region, cluster(creator=ME[0], name=ME[1]), cases)
        assert len(look.instances) + len(look.missing) == len(cases)
        return found


def has(cloud: Cloud, number: int, percents: dict[int, float], **changes: Any) -> str:
    """Let there be a host with this CPU, by minutes before now."""
    cloud.ec2.instances.append(instance(number, tags=cluster_tags()) | changes)
    [host] = ids([number])
    for back, percent in percents.items():
        cloud.cloudwatch.cpu(host, START - back * MINUTE, percent)
    return host


IDLE = dict.fromkeys(range(1, 90), 0.1)


@virtual
async def test_an_idle_host_is_due_and_a_busy_one_is_not() -> None:
    """One look and one reading for both."""
    cloud = Cloud()
    idle, busy = has(cloud, 1, IDLE), has(cloud, 2, {**IDLE, 20: 50.0})
    found = await examined(cloud, case(idle), case(busy))
    assert [(one.instance, one.finding) for one in found] == [(idle, Finding.DUE), (busy, Finding.NOT_DUE)]
    assert found[1].last_busy == START - 20 * MINUTE
    assert len(cloud.cloudwatch.of("get_metric_data")) == 1
    assert len(cloud.ec2.of("describe_instances")) == 1


@pytest.mark.idle("own fakes")
@virtual
async def test_our_own_fakes_are_not_its_cpu_and_still_no_proof_of_idleness() -> None:
    """A minute with the real point too is idle; one with the fake alone is not known to be."""
    cloud = Cloud()
    host = has(cloud, 1, IDLE)
    for back in range(30, 40):
        cloud.cloudwatch.cpu(host, START - back * MINUTE, 100.0)
    assert (await examined(cloud, case(host)))[0].finding is Finding.DUE
    alone = has(cloud, 2, {back: (100.0 if back == 30 else 0.1) for back in range(1, 90)})
    assert (await examined(cloud, case(alone)))[0].finding is Finding.NOT_DUE


@pytest.mark.idle("the alarm did not act")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"Tags": [{"Key": "creator", "Value": "me"}]}, "it does not carry the cluster's tags any more"),
        ({"State": {"Code": 80, "Name": "stopped"}}, "EC2 says that it is stopped"),
        ({"InstanceId": "i-other"}, "EC2 does not show it"),
    ],
)
@virtual
async def test_a_host_that_may_be_somebody_elses_is_never_due(changes: dict[str, Any], why: str) -> None:
    """A fresh look decides, not what the journal remembers."""
    cloud = Cloud()
    has(cloud, 1, IDLE, **changes)
    [found] = await examined(cloud, case(ids([1])[0]))
    assert found.finding is Finding.UNKNOWN
    assert why in found.why


@pytest.mark.idle("CloudWatch unreachable")
@virtual
async def test_without_any_cpu_nothing_is_known() -> None:
    """No data is not idleness."""
    cloud = Cloud()
    assert (await examined(cloud, case(has(cloud, 1, {}))))[0].finding is Finding.UNKNOWN


@pytest.mark.idle("window", "basic monitoring")
@virtual
async def test_basic_monitoring_and_long_timeouts_are_read_in_their_own_periods() -> None:
    """Five minutes, and hours: an hour's average is what the alarm goes by, too."""
    cloud = Cloud()
    basic = has(cloud, 1, dict.fromkeys(range(0, 100, 5), 0.1), Monitoring={"State": "disabled"})
    long = has(cloud, 2, dict.fromkeys(range(31 * 60), 0.1))
    found = await examined(cloud, case(basic), case(long, minutes=30 * 60))
    assert [one.finding for one in found] == [Finding.DUE, Finding.DUE]
    periods = {p["MetricDataQueries"][0]["MetricStat"]["Period"] for p in cloud.cloudwatch.of("get_metric_data")}
    assert periods == {300, 3600}


@pytest.mark.idle("CloudWatch unreachable")
@virtual
async def test_what_cannot_be_read_is_an_error_and_no_verdict() -> None:
    """It is tried again, with growing pauses, as any other step."""
    cloud = Cloud()
    host = has(cloud, 1, IDLE)
    cloud.cloudwatch.fail("get_metric_data", client_error("InternalFailure", status=500))
    with pytest.raises(AwsError):
        await examined(cloud, case(host))


@virtual
async def test_a_thousand_hosts_of_one_timeout_are_two_readings() -> None:
    """Five hundred metrics a call."""
    cloud = Cloud()
    hosts = ids(range(1, 1001))
    cloud.ec2.PAGE = 1000
    for number in range(1, 1001):
        cloud.ec2.instances.append(instance(number, tags=cluster_tags()))
    found = await examined(cloud, *(case(host) for host in hosts))
    await asyncio.sleep(0)
    assert len(found) == 1000
    assert len(cloud.cloudwatch.of("get_metric_data")) == 2


@pytest.mark.idle("the alarm did not act", "daemon restarted")
@virtual
async def test_a_host_that_has_not_been_asked_lately_is_never_due() -> None:
    """The service has just come back: its CPU idled, and its GPU may have been busy all the time."""
    cloud = Cloud()
    host = has(cloud, 1, IDLE)
    asked = Question(
        address="127.0.0.9", host_key="ssh-ed25519 A", username="ubuntu", minutes=60, threshold=0.5, hold_until=None,
        experiment=False, votes=(), mute=False,
    )  # fmt: skip
    protection = Protection(
        instance=host, minutes=60, threshold=0.5, vote_until=None, seed=False, policy="p", question=asked
    )
    may_answer = asyncio.Event()

    async def ask(_question: Question, _hold: float) -> str:
        await may_answer.wait()
        return "flambed-probe\ntimer renewed\ngpu none\nterminal none\nexperiment none\nuptime 900\nend\n"

    async with cloud.region(survey_interval=1e9) as region:
        region.keeper.want(ME, {host: protection}, cloud.heard.take, ask=ask)
        wanted = cluster(creator=ME[0], name=ME[1])
        _, [before] = await judge(region, wanted, [case(host)])
        may_answer.set()
        await asyncio.sleep(1)
        _, [after] = await judge(region, wanted, [case(host)])
    assert (before.finding, after.finding) == (Finding.UNKNOWN, Finding.DUE)
    assert "has not been asked lately" in before.why
