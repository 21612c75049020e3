"""Giving instances back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from flambed.aws import AwsError
from flambed.errors import Reason
from flambed.pacing import Rank

if TYPE_CHECKING:
    from flambed.region import Identity, Region

BATCH: Final = 1_000
"""Instances that one call takes."""

_ABOUT_ONE: Final = frozenset({
    Reason.GONE, Reason.NOT_FOUND_YET, Reason.PROTECTED, Reason.NOT_PERMITTED, Reason.BAD_REQUEST,
})  # fmt: skip
"""Refusals of a whole batch that may be about one of it."""

_ID: Final = re.compile(r"\bi-[0-9a-f]{8,17}\b")


async def terminate(
    region: Region, instances: Iterable[str], whose: Identity = ("", "")
) -> tuple[tuple[str, ...], Mapping[str, AwsError]]:
    """Terminate instances, up to 1,000 a call.

    EC2 refuses a call as a whole because of one instance. So a batch that was refused is asked for again without those
    that the refusal names, or in halves, and one bad id does not hold up the rest. Nothing is ever unprotected.

    Returns:
        Those that EC2 accepted, and for each of the others why not: GONE where EC2 does not know the id (any more),
        PROTECTED where its termination protection stands. No AwsError is raised.
    """
    ids = list(dict.fromkeys(instances))
    accepted: list[str] = []
    refused: dict[str, AwsError] = {}
    batches = [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
    while batches:
        batch = batches.pop(0)
        try:
            await region.call(
                region.clients.ec2.terminate_instances,
                rank=Rank.TERMINATE,
                whose=whose,
                units=len(batch),
                InstanceIds=batch,
            )
        except AwsError as error:
            to_blame, again = _sort_out(batch, error)
            refused |= dict.fromkeys(to_blame, _told(error))
            batches[:0] = again
        else:
            accepted += batch
    return tuple(accepted), refused


def _sort_out(batch: list[str], error: AwsError) -> tuple[list[str], list[list[str]]]:
    """Return whom of a refused batch the refusal is about, and in which batches to ask for the others again."""
    if error.reason not in _ABOUT_ONE or len(batch) == 1:
        return batch, []
    named = set(_ID.findall(error.words)) & set(batch)
    if named:
        others = [instance for instance in batch if instance not in named]
        return sorted(named), [others] if others else []
    half = len(batch) // 2
    return [], [batch[:half], batch[half:]]


def _told(error: AwsError) -> AwsError:
    """Return the refusal as it is to be told: whom EC2 does not know there is nothing left to terminate of."""
    if error.reason is Reason.NOT_FOUND_YET:
        return AwsError(Reason.GONE, error.code, error.words, error.action)
    return error
