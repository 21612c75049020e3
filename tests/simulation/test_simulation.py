"""Lives by the hundred: the service's own loop, steps and keeper, on a virtual clock, in any weather."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import flambed
from flambed import cluster, fleet, hands, service
from flambed import loop as loop_module
from flambed.keeper import alarms, points, readings
from flambed.observed import fold, inbox, survey
from flambed.plan import launching
from flambed.steps import launch, retire, setup
from tests.simulation import runner
from tests.simulation.__main__ import main
from tests.simulation.faults import HOUR, Outage, Weather
from tests.simulation.life import clear_weather, live

LIVES = int(os.environ.get("SIMULATION_LIVES", "300"))

HOME = Path(flambed.__file__).parent

SEAMS = frozenset({
    ("flambed.loop", "decide"),  # the product's own, with somebody who looks on
    ("flambed.hands", "connect_when_up"),  # SSH
})  # fmt: skip
"""All that a life replaces in the product; what it reaches AWS, the disk and the clock by is handed to it."""

OWN = (
    loop_module.ClusterLoop._take_in,
    fold.fold,
    launching.launch,
    hands.Hands.perform,
    launch.launch,
    launch.tag,
    setup.set_up,
    retire.terminate,
    alarms.Alarms._put,
    points.Points._write,
    readings.Readings._read_due,
    inbox.Inbox._take,
    survey.describe,
    cluster.Member.told,
    fleet.Fleet.start,
    service.Service.up,
)
"""What decides and acts in the product: a life has to run through all of it."""


def test_in_clear_weather_a_cluster_comes_up_is_left_alone_and_goes() -> None:
    """A life without any fault keeps every promise, and ends with nothing left."""
    outcome = live(1, clear_weather())
    assert not outcome.violations, outcome.told()
    assert (outcome.rested, outcome.phase, outcome.crashes) == ("ready", "gone", 0)


@pytest.mark.timeout(0 if LIVES > 300 else 240)
def test_every_life_keeps_every_promise() -> None:
    """No seed breaks an invariant, and the weather is bad enough for that to mean something."""
    crashes = 0
    for life in runner.lives(0, LIVES, runner.cores()):
        assert not life.violations, live(life.seed).told()
        crashes += life.crashes
    assert crashes > LIVES / 2, "the service hardly ever crashes: the weather is too good"


@pytest.mark.parametrize(
    "seed", [9, 237, 993, 1941, 2316, 2811, 2890, 4436, 4551, 4930, 23345, 25530, 35641, 201852, 302007, 500414]
)
def test_what_was_once_broken_stays_mended(seed: int) -> None:
    """Lives that showed what no other test did; a change of the weather may have given their seeds another life."""
    outcome = live(seed)
    assert not outcome.violations, outcome.told()


def test_an_outage_of_an_hour_crashes_nothing_and_is_over_when_it_ends() -> None:
    """While nothing is answered the service asks a few times a minute; a minute after the end it is at work again."""
    weather, ends = clear_weather(calm_at=2 * HOUR), 600.0 + HOUR
    weather.outages = [Outage(600.0, ends, ("",))]
    outcome = live(1, weather)
    assert not outcome.violations, outcome.told()
    assert outcome.phase == "gone"
    calls = [(at, words()) for at, kind, words in outcome.tell.lines if kind == "call" and at >= 600.0]
    refused = [at for at, words in calls if "https://aws.example" in words or "overloaded" in words]
    answered = min(at for at, words in calls if at >= ends)
    assert 60 < len(refused) < 20 * 60, "given up, or a busy loop"
    assert max(refused) < ends
    assert answered < ends + 60.0


def test_a_seed_always_tells_the_same_story() -> None:
    """A life that failed can be seen again, by another process, too."""
    seed = next(life.seed for life in runner.lives(0, LIVES, 1) if life.crashes > 1)
    told = [
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", str(seed)],
            env={**os.environ, "PYTHONHASHSEED": hashing},
            capture_output=True,
            check=True,
            text=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for hashing in ("1", "2")
    ]
    assert told[0] == told[1]
    assert live(seed).tell.text() in told[0]


def test_lives_are_the_same_whichever_process_lives_them() -> None:
    """Sharding changes how long it takes, and nothing else."""
    one = sorted(runner.lives(0, 12, 1), key=lambda life: life.seed)
    two = sorted(runner.lives(0, 12, 2), key=lambda life: life.seed)
    assert one == two


def test_a_seed_that_fails_is_told_with_the_command_that_lives_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's story comes last, and the exit code says that something is wrong."""
    monkeypatch.setattr("tests.simulation.invariants.UNPROTECTED_FOR", -1.0)
    assert main(["--lives", "3", "--jobs", "1"]) == 1
    told = capsys.readouterr().out
    assert "runs without its alarm" in told
    assert "Again: python -m tests.simulation 0\n" in told


def test_a_life_runs_the_product_itself_and_replaces_only_the_seams() -> None:
    """Every function that decides or acts is the product's own, and is run."""
    before = _contents()
    changed: set[tuple[str, str]] = set()
    ran: set[Any] = set()
    codes = {one.__code__ for one in OWN}

    def watch(frame: FrameType, event: str, _arg: object) -> None:
        if event == "call" and frame.f_code in codes and frame.f_code not in ran:
            ran.add(frame.f_code)
            changed.update(where for where, what in _contents().items() if before.get(where, what) is not what)

    sys.setprofile(watch)
    try:
        live(1, clear_weather())
    finally:
        sys.setprofile(None)
    assert {one.__qualname__ for one in OWN if one.__code__ not in ran} == set()
    assert changed == SEAMS
    assert _contents() == before, "something was not put back"


def _contents() -> dict[tuple[str, str], object]:
    """Return what every module and class of the product holds, by module and name."""
    held: dict[tuple[str, str], object] = {}
    for name, module in list(sys.modules.items()):
        if not name.startswith("flambed.") or name.startswith("flambed.lab"):
            continue
        for attribute, value in vars(module).items():
            if callable(value) or attribute.isupper():
                held[name, attribute] = value
            if isinstance(value, type) and value.__module__ == name:
                held |= {
                    (name, f"{attribute}.{member}"): what for member, what in vars(value).items() if callable(what)
                }
    return held


@pytest.mark.parametrize(
    "kind",
    [
        "crash", "disk_full", "long_down", "clock_jumps", "sleeps", "outages", "throttled", "lost_answer", "no_capacity",
        "partial", "quota_from", "refuses_aws_namespace", "forgets_tokens", "event_lost", "event_doubled", "event_late",
        "dies", "dies_pending", "stops", "protected", "interrupted", "bad_host", "drops", "strangers", "two_users", "adopts",
        "torn", "gpu", "typed", "experiment", "deaf", "dim", "alarm_fails", "robbed", "cpu_lost", "impostors",
        "restarts",
    ],
)  # fmt: skip
def test_every_kind_of_fault_comes_about(kind: str) -> None:
    """Among a thousand seeds there are lives with it, and lives without."""
    calm = Weather(random.Random(0))
    drawn = [getattr(Weather.of(random.Random(seed)), kind) for seed in range(1000)]
    without = sum(value in (getattr(calm, kind), []) for value in drawn)
    assert 0 < without < 1000
