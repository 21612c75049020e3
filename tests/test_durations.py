"""Durations are read and written as people do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from flambed import durations


class Model(BaseModel):
    """A model with one duration."""

    wait: durations.Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("15m", 900.0),
        ("4h", 14_400.0),
        ("2d", 172_800.0),
        ("1h30m", 5_400.0),
        ("1d2h3m4.5s", 93_784.5),
        ("0.5h", 1_800.0),
        (" 90s ", 90.0),
        ("0", 0.0),
        (0, 0.0),
        (0.0, 0.0),
        ("366d", 31_622_400.0),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str | float, seconds: float) -> None:
    """Units combine in order, and only 0 goes without one."""
    assert durations.parse(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "s", "5x", "m5", "1m1h", "1h 30m", "-5s", "1e3s", ".5s", "5.s", "1h1h", "٣s", "five minutes"]
)
def test_what_is_no_duration_is_refused_with_how_to_write_one(text: str) -> None:
    """The message quotes the text and shows the shapes that are taken."""
    with pytest.raises(ValueError, match="is no duration: write it as 90s, 15m, 4h, 2d or 1h30m") as error:
        durations.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("4", "'4' has no unit: write 4h, 4m or 4s"),
        (15, "15 has no unit: write 15h, 15m or 15s"),
        (" 0.5 ", "' 0.5 ' has no unit: write 0.5h, 0.5m or 0.5s"),
    ],
)
def test_a_number_without_a_unit_is_refused_with_the_units(number: str | float, message: str) -> None:
    """Who writes 4 may mean hours, and must not get seconds."""
    with pytest.raises(ValueError, match="has no unit") as error:
        durations.parse(number)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(360_000, "100 h"), (259_200, "72 h"), (900, "15 min"), (90, "90 s"), (0.5, "0.5 s"), (0, "0 s")],
)
def test_a_duration_is_told_in_one_unit_of_hours_at_most(seconds: float, text: str) -> None:
    """As people compare them."""
    assert durations.words(seconds) == text


@pytest.mark.parametrize("number", [-1, -0.1, float("inf"), float("nan"), 10**400, "367d"])
def test_a_duration_below_zero_or_over_a_year_is_refused(number: str | float) -> None:
    """Numbers that no timer could take are refused whatever their type."""
    with pytest.raises(ValueError, match="is not between 0 seconds and 366 days"):
        durations.parse(number)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (90, "1m30s"), (900, "15m"), (5_400, "1h30m"), (172_800, "2d"), (0.5, "0.5s"), (86_401, "1d1s")],
)
def test_a_duration_is_written_in_the_largest_units(seconds: float, text: str) -> None:
    """What is written is the shortest exact form."""
    assert durations.text(seconds) == text


@given(st.integers(min_value=0, max_value=31_622_400_000))
@settings(deadline=None)
def test_a_duration_survives_being_written_and_read(milliseconds: int) -> None:
    """Writing and reading is exact to the millisecond."""
    seconds = milliseconds / 1000
    assert durations.parse(durations.text(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.text() | st.integers() | st.floats())
@settings(deadline=None)
def test_no_text_or_number_makes_the_parser_do_anything_but_answer_or_refuse(value: str | float) -> None:
    """Every input gives seconds within bounds or a ValueError."""
    try:
        seconds = durations.parse(value)
    except ValueError:
        return
    assert 0 <= seconds <= 31_622_400


def test_a_field_takes_a_duration_and_shows_it_as_one() -> None:
    """A model holds seconds, and dumps what a person would write."""
    model = Model.model_validate({"wait": "1h30m"})
    assert model.wait == 5_400.0
    assert model.model_dump(mode="json") == {"wait": "1h30m"}


@pytest.mark.parametrize("value", [True, None, [], {}, "soon"])
def test_a_field_refuses_what_is_no_duration(value: object) -> None:
    """A boolean is no number of seconds, nor is a list."""
    with pytest.raises(ValidationError, match="is no duration"):
        Model.model_validate({"wait": value})
