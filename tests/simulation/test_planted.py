"""The simulation is able to fail: bugs planted into the product's own modules break its promises within few lives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.simulation import runner
from tests.simulation.planted import PLANTED

CAUGHT_WITHIN = 1000
"""Lives in which a planted bug has to be found; most take a handful."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("plant", PLANTED, ids=[plant.__name__ for plant in PLANTED])
def test_a_planted_bug_is_caught(plant: Callable[[], AbstractContextManager[None]]) -> None:
    """It breaks the promise that it was planted to break, and the simulation says so."""
    told, first = PLANTED[plant]
    lives = runner.lives(first, CAUGHT_WITHIN - first, 1, plant)
    found = (violation for life in lives for violation in life.violations)
    assert any(told in violation for violation in found), f"{CAUGHT_WITHIN} lives do not mind: {plant.__doc__}"


def test_a_planted_bug_is_gone_with_its_life() -> None:
    """What is planted for some lives does not reach those after."""
    plant = next(iter(PLANTED))
    assert any(life.violations for life in runner.lives(0, 3, 1, plant))
    assert not any(life.violations for life in runner.lives(0, 3, 1))
