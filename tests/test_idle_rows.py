"""The contract of idle protection: each of its rows is proved by tests, without the lab and in it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests import rows

TESTS = Path(__file__).parent


def marks() -> Iterator[tuple[str, Path]]:
    """Yield each row that a test is marked with, and the test's file."""
    for file in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.idle":
                yield from ((ast.literal_eval(argument), file) for argument in node.args)


def test_every_row_of_idle_protection_has_a_test_and_one_in_the_lab_where_it_crosses_the_wire() -> None:
    """What is promised and not tested is not promised; no mark names a row that there is not."""
    found: dict[str, set[str]] = defaultdict(set)
    for row, file in marks():
        found[row].add("lab" if file.is_relative_to(TESTS / "lab") else "alone")
    wanted = {row: {"alone"} if row in rows.WITHIN else {"alone", "lab"} for row in rows.IDLE}
    assert {row: kinds - found[row] for row, kinds in wanted.items() if kinds - found[row]} == {}
    assert found.keys() == wanted.keys()


def reported(
    test: str, outcome: Literal["passed", "failed", "skipped"], *named: str, why: str = ""
) -> pytest.TestReport:
    """Return pytest's report of a test that is marked with rows."""
    return pytest.TestReport(
        test, (test, 0, test), {}, outcome, why or None, "call", user_properties=[("idle", row) for row in named]
    )


def test_a_row_without_a_test_that_passed_is_missing_and_so_is_one_with_a_test_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a machine lacks a part for is left out there, and never where CI runs."""
    monkeypatch.delenv("CI", raising=False)
    for lacking in (["nobody's", "half"], ["nobody's", "half", "elsewhere"]):
        report = rows.Report("a table", "idle", ["good", "half", "elsewhere", "nobody's"])
        for told in (
            reported("tests/test_x.py::test_good", "passed", "good", "half"),
            reported("tests/lab/test_x.py::test_half", "failed", "half"),
            reported("tests/test_x.py::test_sshd", "skipped", "elsewhere", why="left out: no sshd"),
        ):
            report.pytest_runtest_logreport(told)
        assert sorted(report.missing()) == sorted(lacking)
        monkeypatch.setenv("CI", "1")
