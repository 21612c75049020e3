"""region: what clusters share, and how facts find them."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Any

import pytest

from flambed.aws import AwsError
from flambed.clock import Clock
from flambed.errors import Reason
from flambed.observed.facts import ClusterSurveyed, StateNotified
from flambed.observed.instance import Failure
from flambed.pacing import Rank
from flambed.plan.draft import again_at
from flambed.region import LONGEST_PAUSE, STRAYS
from flambed.sharing import Shared
from flambed.tasks import end, supervise
from tests.fakes import ME, Cloud, Recorder, client_error, cluster_tags, ids, instance
from tests.virtualtime import START, virtual

HOST, OTHER = ids([1, 2])
YOU = ("you", "c")


def state(host: str, word: str = "running") -> StateNotified:
    """Return an event of the inbox."""
    return StateNotified(at=START, instance=host, state=word)


@virtual
async def test_whoever_failed_waits_twice_as_long_each_time_and_never_longer_than_half_a_minute() -> None:
    """So that the end of an outage is noticed within half a minute, by the service's clock, the lab's too."""
    region = Cloud().region()
    assert [region.pause(failures) for failures in (1, 2, 3, 5, 6, 1_000)] == [1, 2, 4, 16, 30, 30]
    assert region.pause(6, most=15.0) == 15
    region.clock = Clock(minute=6.0)
    assert region.pause(1_000) == 3
    lasting = Failure(reason=Reason.TRANSIENT, code="", message="", at=START, since=START, tries=1_000)
    assert again_at(lasting) == START + LONGEST_PAUSE


@virtual
async def test_an_event_reaches_the_cluster_of_its_instance_and_no_other() -> None:
    """Events carry no tags: the instance is all that tells whose they are."""
    region = Cloud().region()
    mine, yours = Recorder(), Recorder()
    region.subscribe(ME, mine.take)
    region.subscribe(YOU, yours.take)
    region.route(HOST, ME)
    region.route(OTHER, YOU)
    region.deliver(state(HOST))
    region.unroute(OTHER)
    region.deliver(state(OTHER))
    assert mine.facts == [state(HOST)]
    assert yours.facts == []


@virtual
async def test_an_event_that_outruns_its_launch_waits_ten_minutes_for_it() -> None:
    """`running` may come before the answer to RunInstances; what is older is of no use."""
    region, heard = Cloud().region(), Recorder()
    region.subscribe(ME, heard.take)
    region.deliver(state(OTHER))
    await asyncio.sleep(5)
    region.deliver(state(HOST, "pending"))
    region.deliver(state(HOST, "running"))
    await asyncio.sleep(599)
    region.route(HOST, ME)
    region.route(OTHER, ME)
    assert heard.facts == [state(HOST, "pending"), state(HOST, "running")]


@virtual
async def test_events_of_strangers_are_kept_in_bounded_number() -> None:
    """An account's other instances cannot fill the memory; the newest are kept."""
    region, heard = Cloud().region(), Recorder()
    region.subscribe(ME, heard.take)
    hosts = ids(range(STRAYS + 10))
    for host in hosts:
        region.deliver(state(host))
    for host in hosts:
        region.route(host, ME)
    assert [fact.instance for fact in heard.of(StateNotified)] == hosts[10:]


@virtual
async def test_a_cluster_that_unsubscribed_hears_nothing_more() -> None:
    """Neither its events nor a survey."""
    cloud = Cloud()
    async with cloud.region(survey_interval=10) as region:
        region.subscribe(ME, cloud.heard.take)
        region.route(HOST, ME)
        region.unsubscribe(ME)
        region.deliver(state(HOST))
        await asyncio.sleep(30)
    assert cloud.heard.facts == []
    assert cloud.ec2.calls == []


@virtual
async def test_a_call_that_aws_refuses_is_told_with_its_reason() -> None:
    """Whoever called knows what it means, and the log has it at debug."""
    cloud = Cloud()
    cloud.ec2.fail("describe_instances", client_error("UnauthorizedOperation"))
    with pytest.raises(AwsError, match="DescribeInstances") as caught:
        await cloud.region().call(cloud.ec2.describe_instances, MaxResults=5)
    assert caught.value.reason is Reason.NOT_PERMITTED
    assert cloud.heard.names() == ["aws.call_failed"]


@virtual
async def test_a_throttled_call_makes_the_next_one_wait() -> None:
    """Ours is not the only program that uses the account."""
    cloud = Cloud()
    region = cloud.region()
    cloud.ec2.fail("describe_instances", client_error("RequestLimitExceeded", status=503))
    with pytest.raises(AwsError):
        await region.call(cloud.ec2.describe_instances, MaxResults=5)
    await region.call(cloud.ec2.describe_instances, MaxResults=5)
    assert asyncio.get_running_loop().time() > 1.0
    assert cloud.heard.names() == ["aws.throttled"]


@virtual
async def test_a_termination_overtakes_launches_that_wait() -> None:
    """Nobody's launches keep anybody's machines from ending: each has a quota of its own."""
    cloud = Cloud()
    region = cloud.region()
    cloud.ec2.instances = [instance(1)]
    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(region.call(cloud.ec2.start_instances, rank=Rank.LAUNCH, whose=ME, InstanceIds=[HOST]))
        await region.call(cloud.ec2.terminate_instances, rank=Rank.TERMINATE, whose=YOU, units=1, InstanceIds=[HOST])
    assert cloud.ec2.terminated == [HOST]


@pytest.mark.idle("clock skew")
@virtual
async def test_the_difference_to_the_clock_of_aws_is_learned_from_its_answers() -> None:
    """Points are stamped with AWS's time; a difference within a second's rounding is none."""
    cloud = Cloud()
    region = cloud.region()
    ahead = 0.0

    async def answer(**_params: Any) -> dict[str, Any]:
        return {"ResponseMetadata": {"HTTPHeaders": {"date": formatdate(time.time() + ahead, usegmt=True)}}}

    await region.call(answer)
    assert region.offset == 0.0
    ahead = 90.0
    await region.call(answer)
    assert region.offset == pytest.approx(90, abs=1.5)
    assert region.now() - region.clock.now() == pytest.approx(90, abs=1.5)


@virtual
async def test_the_account_is_asked_for_once() -> None:
    """Concurrent askers share one call, and later ones its answer."""
    cloud = Cloud()
    region = cloud.region()
    assert set(await asyncio.gather(region.account(), region.account())) == {"123456789012"}
    await region.account()
    assert len(cloud.sts.calls) == 1


@virtual
async def test_a_shared_failure_is_told_to_all_and_not_kept() -> None:
    """The next asker tries again, and one who gives up takes the value from nobody."""
    shared: Shared[str, int] = Shared()
    calls = 0

    async def fetch() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1)
        if calls == 1:
            raise ValueError("no")
        return calls

    first = await asyncio.gather(shared.get("k", fetch), shared.get("k", fetch), return_exceptions=True)
    assert [type(outcome) for outcome in first] == [ValueError, ValueError]
    hasty = asyncio.create_task(shared.get("k", fetch))
    patient = asyncio.create_task(shared.get("k", fetch))
    await asyncio.sleep(0.5)
    hasty.cancel()
    assert await patient == 2
    assert await shared.get("k", fetch) == 2
    await asyncio.sleep(3601)
    assert await shared.get("k", fetch) == 3
    await shared.close()


@virtual
async def test_work_that_crashes_is_logged_and_started_again_after_growing_pauses() -> None:
    """A bug is never silent, and never a busy loop."""
    began: list[float] = []
    told: list[tuple[str, float]] = []

    async def work() -> None:
        began.append(asyncio.get_running_loop().time())
        raise RuntimeError("a bug")

    task = asyncio.create_task(supervise(work, lambda error, pause: told.append((repr(error), pause))))
    await asyncio.sleep(20)
    await end(task)
    assert began == [0, 1, 3, 7, 15]
    assert told[0] == ("RuntimeError('a bug')", 1.0)


@virtual
async def test_closing_a_region_ends_all_that_it_began() -> None:
    """Nothing of it is left, whatever it was waiting for."""
    cloud = Cloud()
    region = cloud.region(queue="https://sqs.example/queue")
    await region.start()
    await asyncio.sleep(1)
    await region.close()
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@virtual
async def test_one_survey_tells_every_cluster_what_there_is_of_it() -> None:
    """One look at everything, grouped by tags, told also to whom nothing is left."""
    cloud = Cloud()
    mine, yours = Recorder(), Recorder()
    cloud.ec2.instances = [
        instance(1, tags=cluster_tags()),
        instance(2, tags=cluster_tags(name="other")),
        instance(3, state="stopped", tags=cluster_tags()),
    ]
    async with cloud.region(survey_interval=300) as region:
        region.subscribe(ME, mine.take)
        region.subscribe(YOU, yours.take)
        await asyncio.sleep(301)
    (seen,) = mine.of(ClusterSurveyed)
    assert [i.id for i in seen.instances] == ids([1, 3])
    assert seen.began == START + 300
    assert [fact.instances for fact in yours.of(ClusterSurveyed)] == [()]
    filters = [params["Filters"] for params in cloud.ec2.of("describe_instances")]
    assert filters == [[{"Name": "tag:Purpose", "Values": ["flambe"]}]] * 2  # two pages of two
    assert cloud.heard.names("region.opened") == ["region.survey_done"]


@virtual
async def test_a_survey_that_fails_tells_no_cluster_anything() -> None:
    """Half a look is none: nobody is told that hosts are missing."""
    cloud = Cloud()
    cloud.ec2.instances = [instance(n, tags=cluster_tags()) for n in (1, 2, 3)]
    cloud.ec2.fail("describe_instances", client_error("InternalError", status=500))
    async with cloud.region(survey_interval=300) as region:
        region.subscribe(ME, cloud.heard.take)
        await asyncio.sleep(301)
        assert cloud.heard.facts == []
        await asyncio.sleep(300)
    assert cloud.heard.names("region.opened", "aws.call_failed") == ["region.survey_failed", "region.survey_done"]
