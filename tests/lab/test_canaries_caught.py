"""The search for canaries can fail: a service with leaks planted (`leaks`) is caught at every door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.lab import canaries as search
from tests.lab.canaries import Canaries
from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import Service

DOORS: dict[str, tuple[Callable[[Service, Canaries], None], str]] = {
    "the state folder": (search.check_state_folder, r"debug\.txt"),
    "the log": (search.check_log, "canary-"),
    "an export": (partial(search.check_tool, "export"), "journal export"),
    "everybody's answers": (search.check_everybodys_answers, "/v1/events"),
    "its owner's answers": (search.check_the_owners_answers, "/v1/clusters/c"),
    "a refusal": (partial(search.check_refusal, {"nonsense": 1}), "the refusal"),
}
"""The search at each door, and where it says that a secret got out."""


@pytest.fixture(scope="module")
def leaky(_session_lab: LabProcess) -> Iterator[Service]:
    """A service that lets secrets out, and keeps every other promise."""
    with search.entrusted(_session_lab, program="tests.lab.leaks") as running:
        yield running


@pytest.mark.parametrize("door", DOORS)
def test_a_planted_leak_is_caught(leaky: Service, door: str) -> None:
    """By the very check that the sound service passes."""
    check, where = DOORS[door]
    with pytest.raises(AssertionError, match=where):
        check(leaky, search.canaries_of(leaky.lab))
