"""Who uses which host, and when: what is true of the world, whether anybody knows of it or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from flambed.desired import Role

if TYPE_CHECKING:
    from tests.simulation.cloud import Machine
    from tests.simulation.faults import Weather

Stretch = tuple[float, float]
"""From one second of the life to another."""


class Way(StrEnum):
    """How a host is used. CloudWatch sees the first, a probe the others, and only them."""

    CPU = "its CPU"
    GPU = "its GPU"
    TERMINAL = "a terminal"
    EXPERIMENT = "an experiment"


Uses = Mapping[Way, tuple[Stretch, ...]]

TYPED_WITHIN: Final = 1800.0
"""Seconds for which somebody who has typed is there."""

BUSY_GPU: Final = 90
"""Percent."""


def drawn(weather: Weather, machine: Machine, now: float) -> Uses:
    """Draw how a machine will be used that is launched now."""
    rng = weather.rng
    uses: dict[Way, tuple[Stretch, ...]] = {}
    if rng.random() < 0.5:
        begins = now + rng.uniform(60, 3600)
        uses[Way.CPU] = ((begins, begins + rng.uniform(60, 5400)),)
    chances = {Way.GPU: weather.gpu, Way.TERMINAL: weather.typed, Way.EXPERIMENT: weather.experiment}
    possible = {Way.GPU: machine.has_gpu, Way.TERMINAL: True, Way.EXPERIMENT: machine.role == Role.ORCHESTRATOR}
    for way, chance in chances.items():
        if possible[way] and weather.chance(chance):
            uses[way] = tuple(_stretches(weather, now))
    return uses


def _stretches(weather: Weather, now: float) -> Iterator[Stretch]:
    rng, at = weather.rng, now
    for _ in range(rng.choice([1, 1, 2])):
        begins = at + rng.choice([rng.uniform(60, 900), rng.uniform(600, 5400)])
        at = begins + rng.choice([rng.uniform(60, 1200), rng.uniform(1200, 7200)])
        yield begins, at


def last(machine: Machine, way: Way, now: float) -> float | None:
    """Return when a machine was last used in a way, up to now; None if it never was."""
    return max((min(ends, now) for begins, ends in machine.uses.get(way, ()) if begins <= now), default=None)


def between(machine: Machine, way: Way, since: float, until: float) -> bool:
    """Whether a machine was used in a way at any moment between two."""
    return any(begins <= until and since < ends for begins, ends in machine.uses.get(way, ()))
