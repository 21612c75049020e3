"""A mark on the queue itself says who reads it: two services that read one queue take each other's events, unnoticed.

The mark is a tag of the queue, renewed at the start and with every survey. Who finds another's where it had put its own
knows that somebody else renews theirs, and so is alive. A mark that is found at the start tells nothing yet: it may be
what a service left that was killed, our own last run among them. So a restart is never taken for a second service, and no
clock has to be right.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from flambed.aws import AwsError
from flambed.errors import Reason

if TYPE_CHECKING:
    from flambed.observed.inbox import Inbox
    from flambed.region import Region

TAG: Final = "flambed:reader"

PATIENCE: Final = 3
"""Surveys after which a rival that has not renewed its mark is taken for gone."""

GOODBYE: Final = 3.0
"""Seconds that a service which stops gives the removal of its mark."""

_SHAPE: Final = re.compile(r"([0-9a-f]+)/([0-9a-f]+) (\S+) ([0-9]{1,15})")
_NOT_IN_TAGS: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Who reads the queue: the service's id, this run of it (random), its machine, and when it said so (UNIX seconds)."""

    daemon: str
    run: str
    host: str
    at: int

    def __str__(self) -> str:
        return f"{self.daemon}/{self.run} {self.host} {self.at}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the mark that a tag's value is; None for one that is none of ours."""
        if (match := _SHAPE.fullmatch(text)) is None:
            return None
        return cls(daemon=match[1], run=match[2], host=match[3], at=int(match[4]))


class QueueMark:
    """Keeps our mark on one queue, and tells its inbox of a rival."""

    def __init__(self, region: Region, queue: str, inbox: Inbox, daemon: str) -> None:
        self._region = region
        self._queue = queue
        self._inbox = inbox
        self._daemon = daemon
        self._run = secrets.token_hex(4)
        self._host = _NOT_IN_TAGS.sub("-", socket.gethostname())[:64]
        self._permitted = True
        self._ours: Mark | None = None  # as it was put last
        self._rival_until: float | None = None  # in the loop's time

    async def run(self) -> None:
        """Renew the mark for ever. A call that fails is made up for by the next one."""
        while True:
            if self._permitted:
                try:
                    await self._renew()
                except AwsError as error:
                    self._refused(error)
            await asyncio.sleep(self._region.survey_interval)

    async def remove(self) -> None:
        """Take our mark away, if that can be done at once: whoever comes next needs not wonder."""
        if self._ours is None or self._rival_until is not None:
            return
        sqs = self._region.clients.sqs
        try:
            async with asyncio.timeout(GOODBYE):
                await self._region.call(sqs.untag_queue, QueueUrl=self._queue, TagKeys=[TAG])
        except (AwsError, TimeoutError):
            return  # it is taken for what it is: a mark that nobody renews

    async def _renew(self) -> None:
        now = self._region.clock.now()
        tags = (await self._region.call(self._region.clients.sqs.list_queue_tags, QueueUrl=self._queue)).get("Tags", {})
        found = Mark.parse(tags.get(TAG, ""))
        if self._ours is not None:
            self._judge(found, now)
        mark = Mark(daemon=self._daemon, run=self._run, host=self._host, at=int(now))
        await self._region.call(self._region.clients.sqs.tag_queue, QueueUrl=self._queue, Tags={TAG: str(mark)})
        self._ours = mark

    def _judge(self, found: Mark | None, now: float) -> None:
        """Tell what stands where we had put our mark."""
        loop_now = asyncio.get_running_loop().time()
        if found is not None and found.run != self._run:
            if self._rival_until is None:
                self._region.emit(
                    "queue.shared",
                    region=self._region.name,
                    daemon=found.daemon,
                    host=found.host,
                    seconds=max(0.0, now - found.at),
                )
            self._rival_until = loop_now + PATIENCE * self._region.survey_interval
            self._inbox.shared_with(self._words(found))
        elif self._rival_until is not None and (found is None or loop_now >= self._rival_until):
            self._rival_until = None
            self._region.emit("queue.own_again", region=self._region.name)
            self._inbox.shared_with(None)

    def _words(self, found: Mark) -> str:
        if found.daemon == self._daemon:
            return (
                f"another flambed on {found.host} runs on a copy of this state folder (service {found.daemon}) and reads the "
                f"queue of {self._region.name}, too: stop one of them"
            )
        return (
            f"another flambed on {found.host} (service {found.daemon}) reads the queue of {self._region.name}, too, and each "
            f"takes the other's events: give each a queue of its own (events.queues.{self._region.name})"
        )

    def _refused(self, error: AwsError) -> None:
        if error.reason is Reason.NOT_PERMITTED:
            self._permitted = False
            self._region.emit("queue.not_marked", region=self._region.name, code=error.code, message=error.message)
