"""Queue messages -> facts.

Parsers are keyed on (source, detail-type) of EventBridge's envelope. A message of another kind is a no-op, one that
cannot be read is logged; both are deleted, for they would come back for ever. A message is deleted only after its fact
was taken, so what was not handled comes again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from flambed.aws import AwsError
from flambed.observed.facts import EventsLost, EventsResumed, InterruptionNotified, StateNotified

if TYPE_CHECKING:
    from flambed.region import Region

LONG_POLL: Final = 20
BATCH: Final = 10
"""Seconds that SQS waits for a message at most, and messages that it gives or deletes at once."""

WIDEST: Final = 8
"""Receives at once while the queue is full."""


class UnreadableError(ValueError):
    """A message that is no event of EventBridge, or lacks what its kind must have."""


Detail = Mapping[str, Any]
Event = StateNotified | InterruptionNotified


def _state_changed(detail: Detail, at: float) -> Event:
    return StateNotified(at=at, instance=_text(detail, "instance-id"), state=_text(detail, "state"))


def _spot_interrupted(detail: Detail, at: float) -> Event:
    action = _text(detail, "instance-action")
    return InterruptionNotified(at=at, instance=_text(detail, "instance-id"), action=action)


def _rebalance_recommended(detail: Detail, at: float) -> Event:
    return InterruptionNotified(at=at, instance=_text(detail, "instance-id"), action="rebalance")


PARSERS: Final[Mapping[tuple[str, str], Callable[[Detail, float], Event]]] = {
    ("aws.ec2", "EC2 Instance State-change Notification"): _state_changed,
    ("aws.ec2", "EC2 Spot Instance Interruption Warning"): _spot_interrupted,
    ("aws.ec2", "EC2 Instance Rebalance Recommendation"): _rebalance_recommended,
}
"""Every kind of message that tells us something. A new kind is one entry."""


def parse(body: str, at: float) -> Event | None:
    """Return the fact that a message's body tells, known at `at`; None for a kind that tells us nothing.

    Raises:
        UnreadableError: it is no event, or not a whole one.
    """
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"not JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise UnreadableError("not a JSON object")
    parser = PARSERS.get(kind_of(envelope))
    if parser is None:
        return None
    detail = envelope.get("detail")
    if not isinstance(detail, dict):
        raise UnreadableError("it has no detail")
    return parser(detail, at)


def kind_of(envelope: Mapping[str, Any]) -> tuple[str, str]:
    """Return an event's source and detail-type.

    Raises:
        UnreadableError: it has none.
    """
    return _text(envelope, "source"), _text(envelope, "detail-type")


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    if not isinstance(value, str) or not value:
        raise UnreadableError(f"it has no {key}")
    return value


class Inbox:
    """Reads one queue for as long as it runs, and gives what it reads to the region.

    Attributes:
        unreadable: why the queue cannot be read at the moment, in words; None while it can.
        shared: who else reads it, in words; None while nobody is known to.
        heard_at: when the last event of an instance came, on the service's clock; None before the first.
    """

    def __init__(self, region: Region, queue: str) -> None:
        self._region = region
        self._queue = queue
        self.unreadable: str | None = None
        self.shared: str | None = None
        self.heard_at: float | None = None
        self._failures = 0  # how often in a row the queue could not be read

    @property
    def trouble(self) -> str | None:
        """Why events are missing at the moment; None while all of them should come."""
        return self.unreadable or self.shared

    def shared_with(self, whom: str | None) -> None:
        """Take note of who else reads the queue, in words, or that nobody does any more."""
        before, self.shared = self.trouble, whom
        self._tell(before)

    def _tell(self, before: str | None) -> None:
        """Tell the clusters where events began to be missing, or to come again."""
        if before is None and self.trouble is not None:
            self._region.tell_all(lambda at: EventsLost(at=at))
        elif before is not None and self.trouble is None:
            self._region.tell_all(lambda at: EventsResumed(at=at))

    async def run(self) -> None:
        """Read for ever. A queue that cannot be read is asked again after pauses that grow."""
        width = 1
        while True:
            answers = await asyncio.gather(*(self._receive(LONG_POLL if width == 1 else 0) for _ in range(width)))
            errors = [answer for answer in answers if isinstance(answer, AwsError)]
            messages = [message for answer in answers if not isinstance(answer, AwsError) for message in answer]
            await self._handle(messages)
            if errors:
                width = 1
                await self._lost(errors[0])
            else:
                width = min(width * 2, WIDEST) if len(messages) == width * BATCH else 1
                self._found()

    async def _receive(self, wait: int) -> list[Mapping[str, Any]] | AwsError:
        try:
            answer = await self._region.call(
                self._region.clients.sqs.receive_message,
                QueueUrl=self._queue,
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=wait,
            )
        except AwsError as error:
            return error
        return list(answer.get("Messages", ()))

    async def _handle(self, messages: list[Mapping[str, Any]]) -> None:
        for message in messages:
            self._take(str(message.get("Body", "")))
        for start in range(0, len(messages), BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages[start : start + BATCH])
            ]
            try:
                await self._region.call(
                    self._region.clients.sqs.delete_message_batch, QueueUrl=self._queue, Entries=entries
                )
            except AwsError:
                return  # logged by the region; they come again, and say nothing new

    def _take(self, body: str) -> None:
        region = self._region
        try:
            event = parse(body, region.clock.now())
        except UnreadableError as error:
            region.emit("region.message_unreadable", region=region.name, error=str(error), body=body[:200])
            return
        if event is None:
            source, kind = kind_of(json.loads(body))
            region.emit("region.message_unknown", region=region.name, source=source, kind=kind)
            return
        self.heard_at = event.at
        region.deliver(event)

    async def _lost(self, error: AwsError) -> None:
        before = self.trouble
        if self.unreadable is None:
            self._region.emit(
                "region.queue_unreachable", region=self._region.name, code=error.code, message=error.message
            )
        self.unreadable = error.message
        self._tell(before)
        self._failures += 1
        await asyncio.sleep(self._region.pause(self._failures))

    def _found(self) -> None:
        before = self.trouble
        if self.unreadable is not None:
            self._region.emit("region.queue_recovered", region=self._region.name)
        self.unreadable, self._failures = None, 0
        self._tell(before)
