"""Lives by the hundred: the service's own loop, steps and keeper, on a virtual clock, in any weather."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flambed.keeper import alarms
from flambed.observed import fold, sightings
from flambed.observed.facts import StateNotified
from flambed.observed.instance import Stage
from flambed.observed.world import World
from flambed.plan import launching
from flambed.plan.draft import Draft
from flambed.steps import launch
from tests.simulation.life import clear_weather, live

LIVES = int(os.environ.get("SIMULATION_LIVES", "300"))
CAUGHT_WITHIN = 60
"""Lives in which a planted bug has to be found."""


def test_in_clear_weather_a_cluster_comes_up_is_left_alone_and_goes() -> None:
    """A life without any fault keeps every promise, and ends with nothing left."""
    outcome = live(1, clear_weather())
    assert not outcome.violations, outcome.told()
    assert outcome.phase == "gone"
    assert outcome.crashes == 0


@pytest.mark.timeout(0 if LIVES > 300 else 120)
def test_every_life_keeps_every_promise() -> None:
    """No seed breaks an invariant, and the weather is bad enough for that to mean something."""
    crashes = 0
    for seed in range(LIVES):
        outcome = live(seed)
        assert not outcome.violations, outcome.told()
        crashes += outcome.crashes
    assert crashes > LIVES / 2, "the service hardly ever crashes: the weather is too good"


def test_a_seed_always_tells_the_same_story() -> None:
    """A life that failed can be seen again."""
    seed, one = next((seed, one) for seed in range(LIVES) if (one := live(seed)).crashes > 1)
    assert one.tell.text() == live(seed).tell.text()


def token_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A launch that is replayed is asked for under another token."""
    inner = launch.run_instances_params

    def params(*args: Any, **more: Any) -> dict[str, Any]:
        return inner(*args, **more) | {"ClientToken": secrets.token_hex(8)}

    patch.setattr(launch, "run_instances_params", params)


def event_is_truth(patch: pytest.MonkeyPatch) -> None:
    """An event ends an instance without a look."""

    def believed(world: World, fact: StateNotified) -> World:
        instance = world.instances.get(fact.instance)
        if instance is None or instance.stage is Stage.GONE or fact.state not in sightings.DYING:
            return sightings.state_notified(world, fact)
        return world.with_instance(replace(instance.to(Stage.GONE, fact.at), state="terminated"))

    patch.setitem(fold._FOLDS, StateNotified, believed)


def termination_given_up(patch: pytest.MonkeyPatch) -> None:
    """A termination that failed is not tried again."""
    inner = launching._terminate

    def once(draft: Draft, instances: list[Any]) -> None:
        failed = {key.subject for key in draft.world.failures if key.kind == "terminate"}
        inner(draft, [instance for instance in instances if instance.id not in failed])

    patch.setattr(launching, "_terminate", once)


def strangers_welcome(patch: pytest.MonkeyPatch) -> None:
    """What carries the cluster's name is taken for the cluster's own."""
    patch.setattr(sightings, "_ours", lambda _world, _seen: True)


def alarm_forgotten(patch: pytest.MonkeyPatch) -> None:
    """An alarm is believed to stand that was never put."""
    inner = alarms._work_for
    patch.setattr(alarms, "_work_for", lambda guard: None if inner(guard) == "put" else inner(guard))


def lost_launch_abandoned(patch: pytest.MonkeyPatch) -> None:
    """A launch whose answer was lost is closed as if it had created nothing."""
    inner = fold._launch_failed

    def closed(world: World, token: str, failure: Any) -> World:
        return fold._close(inner(world, token, failure), token)

    patch.setitem(fold._FAILURES, "launch", closed)


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (token_forgotten, "was not written down"),
        (event_is_truth, ""),
        (termination_given_up, ""),
        (strangers_welcome, "somebody else"),
        (alarm_forgotten, "without its alarm"),
        (lost_launch_abandoned, ""),
    ],
)
def test_a_planted_bug_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patched into the product's own modules, it breaks a promise within few lives."""
    plant(monkeypatch)
    found = (violation for seed in range(CAUGHT_WITHIN) for violation in live(seed).violations)
    assert any(told in violation for violation in found), f"{CAUGHT_WITHIN} lives do not mind: {plant.__doc__}"
