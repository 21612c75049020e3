"""Listings of AWS that come in pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from flambed.aws import Answer, AwsError
from flambed.errors import Reason
from flambed.pacing import Rank

if TYPE_CHECKING:
    from flambed.region import Identity, Region

TRIES: Final = 4
"""How often in a row a page after the first is asked for."""

_PASSES: Final = frozenset({Reason.THROTTLED, Reason.TRANSIENT})


async def pages(
    region: Region,
    method: Callable[..., Awaitable[Answer]],
    /,
    *,
    rank: Rank = Rank.LOOK,
    whose: Identity = ("", ""),
    **params: Any,
) -> AsyncIterator[Answer]:
    """Yield the pages of a listing, as `region.call` answers them.

    A page after the first that AWS throttles or that is lost is asked for again by itself: a listing of many pages that
    begins anew each time may never come to its end. The first one is not: whoever lists knows when to come back.

    Raises:
        AwsError: the listing is not complete.
    """
    token: dict[str, Any] = {}
    failures = 0
    while True:
        try:
            answer = await region.call(method, rank=rank, whose=whose, **params, **token)
        except AwsError as error:
            failures += 1
            if not token or error.reason not in _PASSES or failures >= TRIES:
                raise
            await asyncio.sleep(region.pause(failures))
            continue
        failures = 0
        yield answer
        if not answer.get("NextToken"):
            return
        token = {"NextToken": answer["NextToken"]}
