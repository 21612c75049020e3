"""The rows that tests prove, and the tables that tell which tests did: `pytest --seed-report`.

A test names the rows that it proves by a mark: `@pytest.mark.seed("S31")` for docs/parity.md, `@pytest.mark.idle("votes")`
for a row of the contract of idle protection.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

PARITY: Final = Path(__file__).parent.parent / "docs" / "parity.md"

IDLE: Final = (
    "arming",
    "window",
    "votes",
    "set-up running",
    "adopted, idle for hours",
    "timeout changed on a live cluster",
    "daemon restarted",
    "alarm changed or deleted by others",
    "AWS/ accepted",
    "AWS/ refused",
    "change of mode",
    "own fakes",
    "basic monitoring",
    "alarm already in ALARM",
    "the alarm did not act",
    "CloudWatch unreachable",
    "clock skew",
    "host mute and no CPU data",
    "orchestrator before factories",
    "orchestrator gone first",
    "factories gone",
    "loss of an instance",
    "dead-man's timer",
    "-1",
    "a maximum lifetime",
)
"""The cases of idle protection's contract, in its order."""

WITHIN: Final = frozenset({"a maximum lifetime"})
"""Those of them that do not cross the wire: no lab test shows them."""


def parity() -> tuple[str, ...]:
    """Return the ids of the parity table, in its order."""
    return tuple(re.findall(r"^\| ([SC]\d\d) \|", PARITY.read_text(), re.MULTILINE))


@dataclass
class Proofs:
    """How the tests of one row went."""

    alone: list[str] = field(default_factory=list)  # passed, without a lab
    lab: list[str] = field(default_factory=list)  # passed, over the wire
    failed: list[str] = field(default_factory=list)
    left_out: bool = False

    @property
    def proved(self) -> bool:
        """Whether there is a test, and none has failed."""
        return bool(self.alone or self.lab) and not self.failed

    @property
    def result(self) -> str:
        """The last word on the row."""
        if self.failed:
            return f"FAILED: {_name(self.failed[0])}"
        if not self.proved:
            return "left out on this machine" if self.left_out else "NO TEST PASSED FOR THIS ROW"
        return f"passed, as {_name((self.alone or self.lab)[0])}"


class Report:
    """A table of rows at the end of a run: how many tests passed for each, without and with the lab, and what it comes to."""

    def __init__(self, title: str, mark: str, wanted: Iterable[str]) -> None:
        """Prepare a table whose rows are named by a mark of pytest."""
        self._title = title
        self._mark = mark
        self._rows = {row: Proofs() for row in wanted}
        self._unknown: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test went for its rows, and whether it was left out because the machine lacks a part (see `parts`)."""
        named = [str(row) for name, row in report.user_properties if name == self._mark]
        self._unknown.update(f"{row} ({report.nodeid})" for row in named if row not in self._rows)
        for row in (self._rows[row] for row in named if row in self._rows):
            if report.failed:
                row.failed.append(report.nodeid)
            elif report.skipped and "left out: " in str(report.longrepr) and not os.environ.get("CI"):
                row.left_out = True
            elif report.when == "call" and report.passed:
                (row.lab if report.nodeid.startswith("tests/lab/") else row.alone).append(report.nodeid)

    def missing(self) -> list[str]:
        """Return the rows that no test has proved."""
        return [name for name, row in self._rows.items() if not row.proved and not row.left_out]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail where a row is not proved, or a test names a row that there is not."""
        if (self.missing() or self._unknown) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        terminalreporter.section(self._title)
        width = max(map(len, self._rows))
        terminalreporter.line(f"{'row':{width}}  alone  lab  result")
        for name, row in self._rows.items():
            terminalreporter.line(f"{name:{width}}  {len(row.alone):5d}  {len(row.lab):3d}  {row.result}")
        for unknown in sorted(self._unknown):
            terminalreporter.line(f"unknown row: {unknown}")
        missing = self.missing()
        terminalreporter.line(
            f"{sum(row.proved for row in self._rows.values())} of {len(self._rows)} rows are proved"
            + (f"; missing: {', '.join(missing)}" if missing else "")
        )


def _name(test: str) -> str:
    return test.rsplit("::", maxsplit=1)[-1]
