"""The report on the catalogue of events fails the run that it should fail, and no other."""

from __future__ import annotations

import pytest

from tests.eventsseen import ELSEWHERE, EventReport

pytest_plugins = ["pytester"]

CATALOGUE = {"tea.made", "tea.spilt", *ELSEWHERE}


@pytest.fixture
def kitchen(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with two tests, one of which is left out where there is no kettle."""
    monkeypatch.delenv("CI", raising=False)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(
        test_tea="""
            import os, pytest

            def test_tea_is_made():
                pass

            def test_tea_is_spilt():
                if "NO_KETTLE" in os.environ:
                    pytest.skip("left out: this machine has no kettle")
        """
    )
    return pytester


def ended(project: pytest.Pytester, seen: set[str], *options: str) -> tuple[int, str]:
    """Run a project's tests of which these events are seen; return its exit code and the report."""
    result = project.runpytest_inprocess(*options, plugins=[EventReport(CATALOGUE, seen)])
    [line] = [line for line in result.outlines if "events were seen" in line]
    return result.ret, line


def test_a_whole_run_that_has_not_seen_an_event_fails_and_names_it(kitchen: pytest.Pytester) -> None:
    """All tests passed, and the run failed all the same; those that only real parts show are left to them."""
    code, line = ended(kitchen, {"tea.made"})
    assert code == pytest.ExitCode.TESTS_FAILED
    assert (
        line == f"1 of {len(CATALOGUE)} events were seen, {len(ELSEWHERE)} are by `make test-real`; missing: tea.spilt"
    )


def test_a_run_that_has_seen_every_event_passes(kitchen: pytest.Pytester) -> None:
    """And the report says of none that it is missing."""
    code, line = ended(kitchen, {"tea.made", "tea.spilt"})
    assert code == pytest.ExitCode.OK
    assert line == f"2 of {len(CATALOGUE)} events were seen, {len(ELSEWHERE)} are by `make test-real`"


@pytest.mark.parametrize("options", [["test_tea.py"], ["-k", "made"], ["--deselect", "test_tea.py::test_tea_is_spilt"]])
def test_a_run_of_some_tests_only_tells(kitchen: pytest.Pytester, options: list[str]) -> None:
    """Who picks tests cannot have seen everything."""
    code, line = ended(kitchen, {"tea.made"}, *options)
    assert code == pytest.ExitCode.OK
    assert line.endswith("missing: tea.spilt")


def test_a_machine_that_lacks_a_part_only_tells_unless_it_is_ci(
    kitchen: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In CI no part may lack."""
    monkeypatch.setenv("NO_KETTLE", "1")
    assert ended(kitchen, {"tea.made"})[0] == pytest.ExitCode.OK
    monkeypatch.setenv("CI", "1")
    assert ended(kitchen, {"tea.made"})[0] == pytest.ExitCode.TESTS_FAILED
