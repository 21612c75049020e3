"""queuemark: two services that read one queue notice it; one that is started again never takes itself for two."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambed.observed.facts import EventsLost, EventsResumed, Fact
from flambed.observed.lookout import Lookout
from flambed.observed.queuemark import PATIENCE, TAG, Mark
from flambed.region import Region
from tests.fakes import ME, QUEUE, Cloud, Recorder, client_error
from tests.virtualtime import START, virtual

OURS, THEIRS = "00000000000000aa", "00000000000000bb"
INTERVAL = 300.0


class Custodian:
    """Stands for a service's fleet, which knows no cluster."""

    def __init__(self, daemon: str) -> None:
        self.daemon = daemon
        self.daemons = frozenset({daemon})
        self.known: frozenset[str] = frozenset()

    async def take_over(self, *_found: Any) -> None:
        """Nothing is found here."""
        raise AssertionError


def service(cloud: Cloud, heard: Recorder, daemon: str = OURS) -> Region:
    """Return a service's region on the one queue; what its cluster and its log hear goes to `heard`."""
    region = Region(
        "us-east-1",
        cloud.clients,
        emit=heard.emit,
        clock=cloud.region().clock,
        queue=QUEUE,
        survey_interval=INTERVAL,
        lookout=Lookout(Custodian(daemon)),
    )
    region.subscribe(ME, heard.take)
    return region


def mark_of(cloud: Cloud) -> Mark:
    """Return the mark on the queue."""
    mark = Mark.parse(cloud.sqs.tags[TAG])
    assert mark is not None
    return mark


def events(heard: Recorder) -> list[type[Fact]]:
    """Return what a cluster heard of its events, in order."""
    return [type(fact) for fact in heard.facts if isinstance(fact, EventsLost | EventsResumed)]


HEX = st.text("0123456789abcdef", min_size=1, max_size=16)


@given(HEX, HEX, st.from_regex(r"[A-Za-z0-9.-]{1,64}", fullmatch=True), st.integers(0, 4_000_000_000))
def test_a_mark_survives_its_tag(daemon: str, run: str, host: str, at: int) -> None:
    """And fits into one."""
    mark = Mark(daemon=daemon, run=run, host=host, at=at)
    assert Mark.parse(str(mark)) == mark
    assert len(str(mark)) <= 256


@pytest.mark.parametrize("text", ["", "us", "a/b", "aa/bb host later", "aa/bb  1"])
def test_a_tag_of_another_shape_is_no_mark(text: str) -> None:
    """A person's, or a later version's."""
    assert Mark.parse(text) is None


@virtual
async def test_a_service_marks_its_queue_and_takes_the_mark_away_when_it_stops() -> None:
    """It is renewed with every survey."""
    cloud, heard = Cloud(), Recorder()
    async with service(cloud, heard):
        await asyncio.sleep(1)
        assert (mark_of(cloud).daemon, mark_of(cloud).at) == (OURS, START)
        await asyncio.sleep(3 * INTERVAL)
        assert mark_of(cloud).at == START + 3 * INTERVAL
    assert cloud.sqs.tags == {}
    assert "queue.shared" not in heard.names()


@virtual
@pytest.mark.parametrize("daemon", [OURS, THEIRS], ids=["a copy of the state folder", "another service"])
async def test_two_services_on_one_queue_both_notice(daemon: str) -> None:
    """Each says who the other is, and takes its events for lost, so that it looks at its instances instead."""
    cloud, mine, yours = Cloud(), Recorder(), Recorder()
    async with service(cloud, mine) as region, AsyncExitStack() as second:
        await asyncio.sleep(100)
        other = await second.enter_async_context(service(cloud, yours, daemon))
        await asyncio.sleep(2 * INTERVAL)
        for heard, where, whose in ((mine, region, daemon), (yours, other, OURS)):
            [told] = [fields for name, fields in heard.events if name == "queue.shared"]
            assert told["daemon"] == whose
            assert told["seconds"] < INTERVAL
            assert heard.kinds().count("EventsLost") == 1
            assert where.inbox is not None
            assert where.inbox.trouble is not None
            assert ("copy of this state folder" in where.inbox.trouble) is (daemon == OURS)
        late = Recorder()
        region.subscribe(("me", "late"), late.take)
        assert late.kinds() == ["EventsLost"], "a cluster that comes meanwhile hears of it, too"
        # The other one ends, without a word.
        second.pop_all()
        await _killed(other)
        await asyncio.sleep((PATIENCE + 1) * INTERVAL)
        assert mine.names("region.opened", "region.survey_done") == ["queue.shared", "queue.own_again"]
        assert events(mine) == [EventsLost, EventsResumed]
        assert region.inbox is not None
        assert region.inbox.trouble is None


async def _killed(region: Region) -> None:
    """End a region as SIGKILL does: it takes no mark away."""
    region._mark = None
    await region.close()


@virtual
async def test_a_service_that_was_killed_and_starts_again_is_not_two() -> None:
    """What it finds at its start is its own last run's, or that of one who is gone: nobody renews it."""
    cloud, heard = Cloud(), Recorder()
    for daemon in (OURS, OURS, THEIRS):
        region = service(cloud, heard, daemon)
        await region.start()
        await asyncio.sleep(INTERVAL + 1)
        await _killed(region)
    async with service(cloud, heard):
        await asyncio.sleep(5 * INTERVAL)
    assert "queue.shared" not in heard.names()
    assert heard.of(EventsLost) == []


@virtual
async def test_a_rival_that_stops_in_order_is_gone_at_once() -> None:
    """It leaves the queue to the one that stays."""
    cloud, mine, yours = Cloud(), Recorder(), Recorder()
    async with service(cloud, mine):
        await asyncio.sleep(100)
        async with service(cloud, yours, THEIRS):
            await asyncio.sleep(250)
        assert events(mine) == [EventsLost]
        await asyncio.sleep(INTERVAL)
        assert events(mine) == [EventsLost, EventsResumed]
        assert mark_of(cloud).daemon == OURS


@virtual
async def test_a_queue_that_may_not_be_marked_is_read_all_the_same() -> None:
    """One line says so; it is not asked again."""
    cloud, heard = Cloud(), Recorder()
    cloud.sqs.fail("list_queue_tags", client_error("AccessDenied"))
    async with service(cloud, heard) as region:
        await asyncio.sleep(3 * INTERVAL)
        assert region.inbox is not None
        assert region.inbox.trouble is None
    assert heard.names("region.opened", "region.survey_done", "aws.call_failed") == ["queue.not_marked"]
    assert len(cloud.sqs.of("list_queue_tags")) == 1
    assert cloud.sqs.of("untag_queue") == []


@virtual
async def test_a_call_that_fails_is_made_up_for() -> None:
    """An outage of the queue's is the inbox's to tell."""
    cloud, heard = Cloud(), Recorder()
    cloud.sqs.fail("tag_queue", client_error("InternalError", status=500))
    cloud.sqs.fail("list_queue_tags", client_error("InternalError", status=500))
    async with service(cloud, heard):
        await asyncio.sleep(2 * INTERVAL + 1)
        assert mark_of(cloud).daemon == OURS
        cloud.sqs.fail("untag_queue", client_error("InternalError", status=500))
    assert set(heard.names("region.opened", "region.survey_done")) == {"aws.call_failed"}


@virtual
async def test_events_come_again_only_when_the_queue_can_be_read_and_is_ours() -> None:
    """Two troubles at once are told as one, and end with the last of them."""
    cloud, heard = Cloud(), Recorder()
    region = service(cloud, heard)
    inbox = region.inbox
    assert inbox is not None
    inbox.shared_with("somebody")
    cloud.sqs.fail("receive_message", *[client_error("AccessDenied")] * 3)
    async with region:
        await asyncio.sleep(30)
        assert "region.queue_recovered" in heard.names()
        assert events(heard) == [EventsLost]
        inbox.shared_with(None)
    assert events(heard) == [EventsLost, EventsResumed]
