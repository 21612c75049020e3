"""verdict: from samples and votes to due, not due or unknown."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambed.verdict import Evidence, Finding, judge

NOW = 1_800_000_000.0
MINUTE = 60.0
HOUR = 3600.0


def idle(minutes: int, percent: float = 0.1, until: float = NOW) -> list[tuple[float, float]]:
    """Return idle samples of so many minutes."""
    return [(until - MINUTE * back, percent) for back in range(minutes, 0, -1)]


def evidence(**changes: Any) -> Evidence:
    """Return what is known of a host that has idled for two hours, and has a timeout of one."""
    plain: dict[str, Any] = {
        "minutes": 60,
        "threshold": 0.5,
        "idle_from": NOW - 2 * HOUR,
        "votes": {},
        "samples": idle(120),
    }
    return Evidence(**(plain | changes))


def test_a_host_that_idled_for_its_timeout_is_due() -> None:
    """All its minutes are known, and all are idle."""
    found = judge(evidence(), NOW)
    assert (found.finding, found.reasons) == (Finding.DUE, ("idle for 60 minutes",))


@pytest.mark.idle("the alarm did not act", "clock skew")
@pytest.mark.parametrize(
    ("changes", "finding", "why"),
    [
        ({"minutes": None}, Finding.NOT_DUE, "its timeout is -1"),
        ({"votes": {"gpu": NOW + 1}}, Finding.NOT_DUE, "vote: gpu"),
        ({"votes": {"hold": math.inf}}, Finding.NOT_DUE, "vote: hold"),
        ({"votes": {"hold": NOW - 1}}, Finding.DUE, "idle for 60 minutes"),
        ({"skew": 61.0}, Finding.UNKNOWN, "this machine's clock is 61 s off AWS's"),
        ({"skew": -61.0}, Finding.UNKNOWN, "this machine's clock is 61 s off AWS's"),
        ({"samples": []}, Finding.UNKNOWN, "only 0% of the CPU of the last 60 minutes is known"),
        ({"samples": idle(50)}, Finding.UNKNOWN, "only 83% of the CPU of the last 60 minutes is known"),
        ({"samples": idle(50, until=NOW - 9 * MINUTE)}, Finding.UNKNOWN, "only 83% of the CPU of the last 60 minutes is known"),
        ({"samples": idle(60, until=NOW - 9 * MINUTE)}, Finding.DUE, "idle for 60 minutes"),
        ({"samples": idle(120, until=NOW - 11 * MINUTE)}, Finding.UNKNOWN, "only 82% of the CPU of the last 60 minutes is known"),
        ({"samples": idle(55)}, Finding.DUE, "idle for 60 minutes"),
        ({"idle_from": NOW - 30 * MINUTE}, Finding.NOT_DUE, "idle for 30 of 60 minutes"),
        ({"samples": [*idle(119), (NOW - 10 * MINUTE, 0.5)]}, Finding.NOT_DUE, "idle for 9 of 60 minutes"),
        ({"samples": idle(12), "period": 300.0}, Finding.NOT_DUE, "idle for 0 of 60 minutes"),
        ({"samples": [], "mute_since": NOW - 23 * HOUR}, Finding.UNKNOWN, "only 0% of the CPU of the last 60 minutes is known"),
    ],
)  # fmt: skip
def test_what_speaks_against_it_is_told(changes: dict[str, Any], finding: Finding, why: str) -> None:
    """A vote, a busy minute, a minute that nobody read, a clock that is wrong."""
    if "period" in changes:
        changes |= {"samples": [(NOW - 300.0, 99.0)]}
    found = judge(evidence(**changes), NOW)
    assert (found.finding, found.reasons) == (finding, (why,))


@pytest.mark.idle("host mute and no CPU data")
def test_a_host_that_is_mute_in_every_way_is_due_after_a_day() -> None:
    """No CPU, no answer over SSH for 24 hours: it is impaired, and bills."""
    mute = {"samples": [], "mute_since": NOW - 25 * HOUR, "idle_from": NOW - 30 * HOUR}
    assert judge(evidence(**mute), NOW).finding is Finding.DUE
    assert judge(evidence(**mute, minutes=26 * 60), NOW).finding is Finding.UNKNOWN
    assert judge(evidence(**mute | {"samples": idle(5)}), NOW).finding is Finding.UNKNOWN, "it reports some CPU"


@pytest.mark.idle("basic monitoring")
def test_five_minute_samples_stand_for_five_minutes() -> None:
    """Where there is no more than basic monitoring, twelve of them are an hour."""
    samples = [(NOW - 300.0 * back, 0.1) for back in range(1, 13)]
    assert judge(evidence(samples=samples, period=300.0), NOW).finding is Finding.DUE
    assert judge(evidence(samples=samples[2:], period=300.0), NOW).finding is Finding.UNKNOWN


def test_the_last_busy_minute_is_told() -> None:
    """The world learns it where it knew an earlier one."""
    found = judge(evidence(samples=[*idle(60), (NOW - 5 * MINUTE, 80.0)]), NOW)
    assert found.last_busy == NOW - 5 * MINUTE


SAMPLES = st.lists(st.tuples(st.integers(0, 180), st.floats(0, 100)), max_size=200).map(
    lambda found: [(NOW - MINUTE * back, percent) for back, percent in sorted(dict(found).items(), reverse=True)]
)


@pytest.mark.idle("the alarm did not act")
@given(
    samples=SAMPLES, minutes=st.integers(5, 180), idle_for=st.integers(0, 300), threshold=st.sampled_from([0.5, 4.0])
)
def test_due_means_that_every_known_minute_was_idle_and_enough_are_known(
    samples: list[tuple[float, float]], minutes: int, idle_for: int, threshold: float
) -> None:
    """Whatever the samples are, and more use never makes a host due."""
    known = evidence(samples=samples, minutes=minutes, idle_from=NOW - idle_for * MINUTE, threshold=threshold)
    found = judge(known, NOW).finding
    end = max((at + MINUTE for at, _ in samples), default=NOW)
    end = min(end, NOW) if end >= NOW - 10 * MINUTE else NOW
    window = [percent for at, percent in samples if end - minutes * MINUTE <= at < end]
    if found is Finding.DUE:
        assert idle_for >= minutes
        assert all(percent < threshold for percent in window)
        assert len(window) >= 0.9 * minutes - 1
    busier = evidence(
        samples=[(at, min(100.0, percent + 1)) for at, percent in samples],
        minutes=minutes, idle_from=NOW - idle_for * MINUTE, threshold=threshold,
    )  # fmt: skip
    assert found is Finding.DUE or judge(busier, NOW).finding is not Finding.DUE
