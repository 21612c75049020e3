"""What a survey shows beside the clusters that are known: those whose record was lost, and other services' instances."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from flambed import recovery
from flambed.observed.facts import Seen
from flambed.recovery import Lost, Other

if TYPE_CHECKING:
    from flambed.region import Region

CONFIRM_AFTER: Final = 15.0
"""Real seconds until the next survey where something has to be seen again."""

SURE_AFTER: Final = 2
"""Surveys after which all that was lost is found: what one shows may be gone, and the look behind."""


class Custodian(Protocol):
    """Who looks after the clusters; see `fleet`."""

    @property
    def daemon(self) -> str:
        """The id of this service."""

    @property
    def daemons(self) -> Collection[str]:
        """The ids that are ours: this service's, and those of services that it succeeds."""

    @property
    def known(self) -> Collection[str]:
        """The ids of the clusters that there is a record of."""

    async def take_over(
        self, region: Region, lost: Lost, described: Mapping[str, Mapping[str, Any]], began: float
    ) -> None:
        """Look after a cluster that was found, if that can be: it comes again at the next survey where it cannot."""


class Lookout:
    """One region's; it is shown every survey.

    Attributes:
        looks: how many surveys it was shown.
        others: the other services whose instances the last survey showed, by id.
        unsure: whether something has to be seen again: what one look shows may be gone, and the look behind.
    """

    def __init__(self, custodian: Custodian, *, twice: bool = False) -> None:
        """Prepare; with `twice` a second survey comes soon whatever the first one shows."""
        self._custodian = custodian
        self._twice = twice
        self._lost: frozenset[str] = frozenset()  # ids of clusters that the last survey showed without a record
        self._told: set[str] = set()
        self.looks = 0
        self.unsure = False
        self.others: tuple[Other, ...] = ()

    @property
    def daemon(self) -> str:
        """The id of this service."""
        return self._custodian.daemon

    async def take(
        self, region: Region, seen: Sequence[Seen], described: Mapping[str, Mapping[str, Any]], began: float
    ) -> None:
        """Take in what a survey showed: all instances of the region under Flambé's tags."""
        self.others = tuple(recovery.others(seen, daemons=self._custodian.daemons))
        for other in self.others:
            if other.daemon not in self._told:
                self._told.add(other.daemon)
                region.emit(
                    "daemon.other_seen",
                    region=region.name,
                    daemon=other.daemon,
                    instances=other.instances,
                    clusters=list(other.clusters),
                )
        found = recovery.lost(seen, daemons=self._custodian.daemons, known=self._custodian.known)
        before, self._lost = self._lost, frozenset(lost.cluster_id for lost in found)
        self.unsure = bool(self._lost - before) or (self._twice and self.looks + 1 < SURE_AFTER)
        for lost in found:
            if lost.cluster_id in before:
                await self._custodian.take_over(region, lost, described, began)
        self.looks += 1
