"""A line that comes again and again is written ten times a minute and counted from then on; nothing is lost but times."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from flambed.catalogue import CATALOGUE
from flambed.journal import Entry
from flambed.log import REPEATED, Log, schema
from flambed.log.repeats import AT_ONCE, MINUTE, MOST, Line, Repeats
from flambed.observed import facts
from flambed.tasks import end
from tests.json_schema import fits
from tests.virtualtime import virtual


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def line(timestamp: str = "t", **fields: Any) -> Line:
    """A line of the service's own."""
    ids = dict.fromkeys(("cluster", "instance", "action", "cause", "fact"))
    return {"timestamp": timestamp, "level": "warning", "event": "aws.throttled", **ids, "region": "us-east-1"} | fields


def stands_for(written: Mapping[str, Any]) -> int:
    """How many lines a written one tells of."""
    return int(written.get(REPEATED, 1))


@pytest.fixture
def time() -> Time:
    """The clock."""
    return Time()


@pytest.fixture
def repeats(time: Time) -> Repeats:
    """Those of one log."""
    return Repeats(time)


def test_a_flood_is_its_beginning_and_a_count(repeats: Repeats, time: Time) -> None:
    """The first lines go through at once; when the minute is over the last of the rest stands for all of it."""
    written = [each for number in range(25) for each in repeats.take(line(f"t{number}"))]
    assert written == [line(f"t{number}") for number in range(AT_ONCE)]
    time.seconds = MINUTE - 0.1
    assert repeats.due() == []
    assert repeats.pause() == pytest.approx(0.1)
    time.seconds = MINUTE
    assert repeats.due() == [line("t24", repeated=15)]
    assert (repeats.due(), repeats.pause()) == ([], MINUTE)


def test_after_the_minute_a_line_goes_through_at_once_again_behind_the_count(repeats: Repeats, time: Time) -> None:
    """Nobody has to ask for what is due: the next line brings it along."""
    for _ in range(AT_ONCE + 1):
        repeats.take(line())
    time.seconds = MINUTE
    assert repeats.take(line("later")) == [line(repeated=1), line("later")]


def test_a_rhythm_is_no_flood(repeats: Repeats, time: Time) -> None:
    """A line every seven seconds is written every time, for hours."""
    for _ in range(1000):
        assert repeats.take(line()) == [line()]
        time.seconds += 7


@pytest.mark.parametrize(
    "other",
    [
        {"event": "aws.call_failed"},
        {"level": "info"},
        {"cluster": "c"},
        {"instance": "i-1"},
        {"action": "Launch"},
        {"region": "eu-west-1"},
        {"message": "more"},
    ],
)
def test_a_line_that_says_anything_else_is_another_one(repeats: Repeats, other: dict[str, Any]) -> None:
    """It goes through in the middle of the flood."""
    for _ in range(2 * AT_ONCE):
        repeats.take(line())
    assert repeats.take(line(**other)) == [line(**other)]


@pytest.mark.parametrize("kept", [{"level": "error"}, {"fact": 7}, {"cause": 7}])
def test_no_error_and_nothing_of_a_clusters_story_is_left_out(repeats: Repeats, kept: dict[str, Any]) -> None:
    """However often it comes."""
    for _ in range(10 * AT_ONCE):
        assert repeats.take(line(**kept)) == [line(**kept)]
    assert repeats.all() == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 50) | st.just(0.0)), max_size=200))
def test_whatever_comes_and_whenever_every_line_is_told_in_the_end(coming: list[tuple[str, float]]) -> None:
    """What is written stands for exactly what came, and of no line are more than eleven written in a minute."""
    time = Time()
    repeats = Repeats(time)
    written: list[tuple[float, Line]] = []
    for message, pause in coming:
        time.seconds += pause
        written += [(time.seconds, each) for each in repeats.take(line(message=message))]
    written += [(time.seconds, each) for each in repeats.all()]
    told: Counter[str] = Counter()
    for _, each in written:
        told[each["message"]] += stands_for(each)
    assert told == Counter(message for message, _ in coming)
    for at, each in written:
        same = [when for when, other in written if other["message"] == each["message"] and at <= when < at + MINUTE]
        assert len(same) <= 2 * (AT_ONCE + 1), "at most two of the minutes that are counted overlap with any other"


def test_a_flood_of_different_lines_takes_no_more_room_than_there_is(repeats: Repeats) -> None:
    """The oldest are told early, so that nothing is lost with them."""
    told = 0
    for number in range(3 * MOST):
        for _ in range(AT_ONCE + 2):
            told += sum(map(stands_for, repeats.take(line(message=str(number)))))
        assert len(vars(repeats)["_minutes"]) <= MOST + 1
    assert told + sum(map(stands_for, repeats.all())) == 3 * MOST * (AT_ONCE + 2)


def test_threads_lose_no_line_between_them(repeats: Repeats) -> None:
    """A library may speak from any."""
    written: list[Line] = []

    def speak() -> None:
        for _ in range(2000):
            written.extend(repeats.take(line()))

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == AT_ONCE
    assert sum(map(stands_for, written + repeats.all())) == 8000


# --- in the log


def throttled(log: Log, times: int) -> None:
    """Let AWS refuse calls."""
    for _ in range(times):
        log.emit("aws.throttled", region="us-east-1", call="RunInstances")


@virtual
async def test_a_count_is_written_when_its_minute_is_over_though_nothing_else_is_said() -> None:
    """To the second, by whoever has the log count; for each minute of a flood anew."""
    time = asyncio.get_running_loop().time
    log = Log(repeats=Repeats(time))
    with structlog.testing.capture_logs() as lines:
        counting = asyncio.create_task(log.count())
        await asyncio.sleep(7)
        throttled(log.bind(cluster="c"), 30)
        throttled(log, AT_ONCE)
        await asyncio.sleep(MINUTE - 1)
        assert len(lines) == 2 * AT_ONCE
        await asyncio.sleep(1.5)
        assert lines[2 * AT_ONCE :] == [{**lines[0], "timestamp": lines[-1]["timestamp"], REPEATED: 20}]
        throttled(log.bind(cluster="c"), 30)
        await asyncio.sleep(MINUTE + 0.1)
        await end(counting)
    assert [each[REPEATED] for each in lines if REPEATED in each] == [20, 20]


def test_what_is_kept_back_is_written_before_the_log_ends() -> None:
    """Whatever the time."""
    log = Log(repeats=Repeats())
    with structlog.testing.capture_logs() as lines:
        throttled(log, AT_ONCE + 5)
        log.flush()
        log.flush()
    assert [stands_for(each) for each in lines] == [*[1] * AT_ONCE, 5]
    assert fits({name: value for name, value in lines[-1].items() if name != "log_level"}, schema())


def test_the_metrics_count_every_line_once() -> None:
    """Whether it was written, left out or told as a part of a count."""
    log = Log(repeats=Repeats())
    with structlog.testing.capture_logs():
        throttled(log, 25)
        log.flush()
    assert log.counts == {"aws.throttled": 25}


def test_the_events_of_facts_pass_untouched() -> None:
    """Each is a document of the control API, with a number of its own."""
    log = Log(repeats=Repeats())
    with structlog.testing.capture_logs() as lines:
        for number in range(2 * AT_ONCE):
            log.tell(Entry(number + 1, "c-1", None, facts.HostReached(at=1.0, instance="i-1")))
    assert [each["fact"] for each in lines] == list(range(1, 2 * AT_ONCE + 1))


def test_the_schema_lets_only_those_lines_stand_for_others_that_may_be_left_out() -> None:
    """No error, and no event of a fact."""
    allowed = {one["title"] for one in schema()["oneOf"] if REPEATED in one["properties"]}
    assert allowed == {kind.name for kind in CATALOGUE.values() if kind.level != "error" and kind.fact is None}
    assert "aws.throttled" in allowed
    assert not any(REPEATED in kind.fields for kind in CATALOGUE.values())
