"""paging: a listing comes to its end although single pages are lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flambed.aws import AwsError
from flambed.errors import Reason
from flambed.paging import TRIES, pages
from tests.fakes import Cloud, client_error
from tests.virtualtime import virtual

THROTTLED = client_error("RequestLimitExceeded", status=503)


class Listing:
    """Three pages; each call may fail instead."""

    def __init__(self, *fates: Exception | None) -> None:
        self.fates = list(fates)
        self.asked: list[int] = []

    async def describe_instances(self, **params: Any) -> dict[str, Any]:
        """Answer with one page."""
        page = int(params.get("NextToken", 0))
        self.asked.append(page)
        if self.fates and (fate := self.fates.pop(0)) is not None:
            raise fate
        return {"Page": page} | ({"NextToken": str(page + 1)} if page < 2 else {})


async def listed(listing: Listing) -> Sequence[int]:
    """Return the pages that came."""
    return [answer["Page"] async for answer in pages(Cloud().region(), listing.describe_instances)]


@virtual
async def test_a_page_after_the_first_that_is_lost_is_asked_for_again_by_itself() -> None:
    """Throttled or not answered, whatever came before it stays."""
    listing = Listing(None, THROTTLED, client_error("Unavailable", status=503), None, THROTTLED)
    assert await listed(listing) == [0, 1, 2]
    assert listing.asked == [0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("fates", "asked", "reason"),
    [
        ([THROTTLED], [0], Reason.THROTTLED),
        ([None, client_error("UnauthorizedOperation", status=403)], [0, 1], Reason.NOT_PERMITTED),
        ([None, *[THROTTLED] * TRIES], [0, *[1] * TRIES], Reason.THROTTLED),
    ],
)
@virtual
async def test_a_listing_is_given_up_at_its_first_page_and_where_nothing_helps(
    fates: list[Exception | None], asked: list[int], reason: Reason
) -> None:
    """The first page is for the caller to ask for again, and so is one that fails for long."""
    listing = Listing(*fates)
    with pytest.raises(AwsError) as refused:
        await listed(listing)
    assert (listing.asked, refused.value.reason) == (asked, reason)
