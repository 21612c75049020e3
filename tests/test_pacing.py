"""pacing: AWS's quotas are kept, by rank and fairly."""

from __future__ import annotations

import asyncio

import pytest

from flambed.pacing import QUOTAS, Bucket, Pacer, Quota, Rank, buckets_of
from tests.virtualtime import virtual


@virtual
async def test_a_bucket_gives_what_it_holds_at_once_and_then_what_comes_back() -> None:
    """CloudWatch takes three alarms at once and then three a second; one is left to it, for calls that overtake."""
    loop = asyncio.get_running_loop()
    bucket = Bucket(QUOTAS["put_metric_alarm"], loop)
    times = []
    for _ in range(9):
        await bucket.take(1, Rank.ARM, "c")
        times.append(round(loop.time(), 3))
    assert times == [0, 0, 0.333, 0.667, 1.0, 1.333, 1.667, 2.0, 2.333]


@virtual
async def test_waiters_are_served_by_rank_and_clusters_take_turns() -> None:
    """Termination goes before arming before launching, and a small cluster does not wait for a large one."""
    bucket = Bucket(Quota(1, 1), asyncio.get_running_loop())
    await bucket.take(1, Rank.LOOK, "first")
    served: list[str] = []

    async def wait(rank: Rank, whose: str, name: str) -> None:
        await bucket.take(1, rank, whose)
        served.append(name)

    async with asyncio.TaskGroup() as group:
        for rank, whose, name in [
            (Rank.LAUNCH, "large", "l1"),
            (Rank.LAUNCH, "large", "l2"),
            (Rank.LAUNCH, "large", "l3"),
            (Rank.LAUNCH, "small", "s1"),
            (Rank.ARM, "large", "a1"),
            (Rank.TERMINATE, "small", "t1"),
        ]:
            group.create_task(wait(rank, whose, name))
    assert served == ["t1", "a1", "l1", "s1", "l2", "l3"]


@virtual
async def test_who_gives_up_waiting_leaves_the_place_to_the_next() -> None:
    """A cancelled waiter costs nobody a token."""
    loop = asyncio.get_running_loop()
    bucket = Bucket(Quota(1, 1), loop)
    await bucket.take(1, Rank.LOOK, "c")
    gone = asyncio.create_task(bucket.take(1, Rank.TERMINATE, "c"))
    stays = asyncio.create_task(bucket.take(1, Rank.LOOK, "c"))
    await asyncio.sleep(0.5)
    gone.cancel()
    await stays
    assert loop.time() == pytest.approx(1.0)
    assert gone.cancelled()


@virtual
async def test_a_token_that_was_given_to_a_cancelled_waiter_is_given_back() -> None:
    """Being cancelled at the very moment of one's turn loses no token."""
    loop = asyncio.get_running_loop()
    bucket = Bucket(Quota(1, 1), loop)
    await bucket.take(1, Rank.LOOK, "c")
    unlucky = asyncio.create_task(bucket.take(1, Rank.LOOK, "c"))
    await asyncio.sleep(0)
    loop.call_at(1.0 + 5e-10, unlucky.cancel)  # right after its turn came, before it runs again
    await asyncio.wait({unlucky})
    assert unlucky.cancelled()
    await bucket.take(1, Rank.LOOK, "c")
    assert loop.time() == pytest.approx(1.0)


@virtual
async def test_a_throttled_bucket_is_empty_for_a_moment() -> None:
    """Where others use the account's quota up, we hold back."""
    loop = asyncio.get_running_loop()
    bucket = Bucket(Quota(100, 20), loop)
    bucket.throttled()
    await bucket.take(1, Rank.LOOK, "c")
    assert loop.time() == pytest.approx(1.05)


@virtual
async def test_more_than_a_bucket_holds_is_given_when_it_is_full() -> None:
    """A request that can never fit does not wait for ever."""
    bucket = Bucket(Quota(10, 5), asyncio.get_running_loop())
    await bucket.take(50, Rank.LAUNCH, "c")
    await bucket.take(1, Rank.LAUNCH, "c")
    assert asyncio.get_running_loop().time() == pytest.approx(0.2)


@virtual
async def test_launches_are_paced_by_requests_and_by_instances() -> None:
    """RunInstances has a bucket of requests and one of the instances that it launches."""
    loop = asyncio.get_running_loop()
    pacer = Pacer()
    for _ in range(10):
        await pacer.pace("run_instances", {}, Rank.LAUNCH, "c", 100)
    assert loop.time() == pytest.approx(3.0)  # four at once, then two a second
    await pacer.pace("run_instances", {}, Rank.LAUNCH, "c", 10)
    assert loop.time() == pytest.approx(5.5)  # 999 instances are used up, but for what came back
    pacer.close()


@virtual
async def test_one_refusal_does_not_empty_the_bucket_of_instances() -> None:
    """After a throttled launch of many only requests are held back; a thousand instances would take minutes."""
    pacer = Pacer()
    pacer.throttled("run_instances", {})
    await pacer.pace("run_instances", {}, Rank.LAUNCH, "c", 100)
    assert asyncio.get_running_loop().time() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("method", "params", "buckets"),
    [
        ("describe_instances", {"Filters": []}, ("describe",)),
        ("describe_instances", {"MaxResults": 5}, ("describe",)),
        ("describe_instances", {}, ("describe everything",)),
        ("describe_instances", {"InstanceIds": ["i"]}, ("describe everything",)),
        ("start_instances", {"InstanceIds": ["i"]}, ("mutating",)),
        ("terminate_instances", {}, ("terminated instances", "terminate_instances")),
        ("put_metric_alarm", {}, ("put_metric_alarm",)),
        ("receive_message", {}, ()),
    ],
)
def test_each_call_takes_from_the_buckets_that_aws_counts_it_in(
    method: str, params: dict[str, object], buckets: tuple[str, ...]
) -> None:
    """A narrowed Describe is cheaper than one of everything, and SQS counts nothing."""
    assert buckets_of(method, params) == buckets
