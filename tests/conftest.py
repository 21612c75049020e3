"""What all tests share: the reports on parity with the source document (docs/parity.md) and on the log's events."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.eventsseen import EventCollector, EventReport

PARITY = Path(__file__).parent.parent / "docs" / "parity.md"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --seed-report."""
    parser.addoption(
        "--seed-report",
        action="store_true",
        help="print which tests prove each row of docs/parity.md, and which events no test has seen; fail where one lacks",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Turn the report on where it is asked for."""
    if not config.getoption("--seed-report"):
        return
    is_worker = hasattr(config, "workerinput")
    config.pluginmanager.register(EventCollector() if is_worker else EventReport())
    if not is_worker:
        config.pluginmanager.register(SeedReport(rows()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the report of each test tell which rows it speaks of, whichever process runs it."""
    for item in items:
        for mark in item.iter_markers("seed"):
            item.user_properties += [("seed", row) for row in mark.args]


def rows() -> list[str]:
    """Return the ids of the parity table, in its order."""
    return re.findall(r"^\| ([SC]\d\d) \|", PARITY.read_text(), re.MULTILINE)


class SeedReport:
    """Counts the passed tests of each row."""

    def __init__(self, wanted: list[str]) -> None:
        self._passed: dict[str, list[str]] = {row: [] for row in wanted}
        self._left_out: set[str] = set()
        self._unknown: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note which of them passed, and which were left out because the machine lacks a part (see `parts`)."""
        spoken_of = [str(row) for name, row in report.user_properties if name == "seed"]
        self._unknown.update(f"{row} ({report.nodeid})" for row in spoken_of if row not in self._passed)
        if report.skipped and "left out: " in str(report.longrepr) and not os.environ.get("CI"):
            self._left_out.update(spoken_of)
        if report.when == "call" and report.passed:
            for row in spoken_of:
                if row in self._passed:
                    self._passed[row].append(report.nodeid)

    def missing(self) -> list[str]:
        """Return the rows that no test has proved."""
        return [row for row, tests in self._passed.items() if not tests and row not in self._left_out]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail where a row has no test, or a test names a row that there is not."""
        if (self.missing() or self._unknown) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        terminalreporter.section("parity with the source document")
        for row, tests in self._passed.items():
            nothing = "left out on this machine" if row in self._left_out else "NO TEST PASSED FOR THIS ROW"
            example = tests[0].split("::")[-1] if tests else nothing
            terminalreporter.line(f"{row}  {len(tests):4d}  {example}")
        for unknown in sorted(self._unknown):
            terminalreporter.line(f"unknown row: {unknown}")
        missing = self.missing()
        terminalreporter.line(
            f"{sum(map(bool, self._passed.values()))} of {len(self._passed)} rows are proved"
            + (f"; missing: {' '.join(missing)}" if missing else "")
        )
