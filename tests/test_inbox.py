"""inbox: what the queue's messages tell, and what becomes of those that tell nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambed.observed.facts import InterruptionNotified, StateNotified
from flambed.observed.inbox import UnreadableError, parse
from flambed.region import Region
from tests.fakes import ME, QUEUE, Cloud, client_error, ids, state_change
from tests.virtualtime import virtual

HOST = ids([1])[0]


def envelope(kind: str, detail: dict[str, Any], source: str = "aws.ec2") -> str:
    """Return an event's text."""
    return json.dumps({"version": "0", "source": source, "detail-type": kind, "detail": detail})


def trouble(region: Region) -> str | None:
    """Return why a region's queue cannot be read now."""
    assert region.inbox is not None
    return region.inbox.trouble


def test_a_state_change_tells_the_instance_and_its_state() -> None:
    """The most common event of all."""
    fact = parse(json.dumps(state_change(HOST, "running")), 7.0)
    assert fact == StateNotified(at=7.0, instance=HOST, state="running")


@pytest.mark.parametrize(
    ("kind", "detail", "action"),
    [
        ("EC2 Spot Instance Interruption Warning", {"instance-action": "terminate"}, "terminate"),
        ("EC2 Instance Rebalance Recommendation", {}, "rebalance"),
    ],
)
def test_an_interruption_tells_what_ec2_is_going_to_do(kind: str, detail: dict[str, Any], action: str) -> None:
    """Both of EC2's warnings about spot instances become the same fact."""
    fact = parse(envelope(kind, {"instance-id": HOST, **detail}), 7.0)
    assert fact == InterruptionNotified(at=7.0, instance=HOST, action=action)


@pytest.mark.parametrize(
    "body", [envelope("EC2 Fleet State Change", {}), envelope("EC2 Instance State-change Notification", {}, "other")]
)
def test_an_event_of_another_kind_tells_nothing(body: str) -> None:
    """A kind is a source and a detail-type; all others are a no-op."""
    assert parse(body, 7.0) is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        '"text"',
        "{}",
        "[" * 100_000,
        '{"source": 1, "detail-type": "x"}',
        '{"source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification"}',
        envelope("EC2 Instance State-change Notification", {"instance-id": HOST}),
        envelope("EC2 Instance State-change Notification", {"instance-id": 5, "state": "running"}),
    ],
)
def test_a_message_that_is_no_whole_event_is_unreadable(body: str) -> None:
    """What others put into the queue cannot crash the reader."""
    with pytest.raises(UnreadableError):
        parse(body, 7.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
)


@given(
    st.text()
    | JSON.map(json.dumps)
    | JSON.map(lambda detail: json.dumps({**state_change(HOST, "x"), "detail": detail}))
)
def test_no_text_does_anything_but_tell_a_fact_or_nothing_or_be_unreadable(body: str) -> None:
    """Whatever is in the queue, the parser raises only what its reader expects."""
    try:
        fact = parse(body, 7.0)
    except UnreadableError:
        return
    assert fact is None or fact.instance


@virtual
async def test_facts_are_delivered_and_only_then_their_messages_deleted() -> None:
    """Every kind of message is deleted in the end: the known, the unknown and the unreadable."""
    cloud = Cloud()
    unknown, unreadable = envelope("EC2 Fleet State Change", {}), "not an event"
    cloud.sqs.send(state_change(HOST, "running"), unknown, unreadable)
    async with cloud.region(queue=QUEUE) as region:
        region.subscribe(ME, cloud.heard.take)
        region.route(HOST, ME)
        await asyncio.sleep(1)
    assert [fact.state for fact in cloud.heard.of(StateNotified)] == ["running"]
    assert cloud.sqs.deleted == [json.dumps(state_change(HOST, "running")), unknown, unreadable]
    assert cloud.heard.names() == ["region.opened", "region.message_unknown", "region.message_unreadable"]


@virtual
async def test_a_message_that_was_not_taken_stays_in_the_queue() -> None:
    """A crash of the taker is logged, and the message is not deleted, so that it comes again."""
    cloud = Cloud()
    cloud.sqs.send(state_change(HOST, "running"))

    def crash(_fact: object) -> None:
        raise RuntimeError("a bug")

    async with cloud.region(queue=QUEUE) as region:
        region.subscribe(ME, crash)
        region.route(HOST, ME)
        await asyncio.sleep(0.5)
        assert cloud.sqs.deleted == []
        region.subscribe(ME, cloud.heard.take)
        cloud.sqs.send(state_change(HOST, "terminated"))
        await asyncio.sleep(2)
    assert "step.crashed" in cloud.heard.names()
    assert [fact.state for fact in cloud.heard.of(StateNotified)] == ["terminated"]


@virtual
async def test_a_quiet_queue_is_asked_once_in_twenty_seconds() -> None:
    """Long polls are the only calls while nothing happens."""
    cloud = Cloud()
    async with cloud.region(queue=QUEUE):
        await asyncio.sleep(100)
    assert len(cloud.sqs.of("receive_message")) <= 6
    assert all(params["WaitTimeSeconds"] == 20 for params in cloud.sqs.of("receive_message"))


@virtual
async def test_a_full_queue_is_read_by_several_receives_at_once_and_deleted_by_tens() -> None:
    """A thousand events do not take a hundred round trips, one after the other."""
    cloud = Cloud()
    cloud.sqs.send(*(state_change(host, "running") for host in ids(range(1000))))
    async with cloud.region(queue=QUEUE) as region:
        region.subscribe(ME, cloud.heard.take)
        for host in ids(range(1000)):
            region.route(host, ME)
        await asyncio.sleep(10)
    assert len(cloud.heard.of(StateNotified)) == 1000
    assert len(cloud.sqs.deleted) == 1000
    short = [params for params in cloud.sqs.of("receive_message") if params["WaitTimeSeconds"] == 0]
    assert len(short) > 80


@virtual
async def test_a_queue_that_cannot_be_read_is_told_once_and_asked_ever_less_often() -> None:
    """No busy loop, no flood of the log, and its return is told, too."""
    cloud = Cloud()
    cloud.sqs.fail("receive_message", *[client_error("AWS.SimpleQueueService.NonExistentQueue")] * 8)
    async with cloud.region(queue=QUEUE) as region:
        await asyncio.sleep(30)
        assert trouble(region) == "ReceiveMessage: injected"
        assert len(cloud.sqs.of("receive_message")) == 5  # after pauses of 1, 2, 4, 8 and 16 seconds
        await asyncio.sleep(200)
        assert trouble(region) is None
    told = cloud.heard.names("aws.call_failed", "region.opened")
    assert told == ["region.queue_unreachable", "region.queue_recovered"]
