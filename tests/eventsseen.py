"""The report on the catalogue of events: each has to be seen in a test, said by the product itself.

Whatever stands for the log in a test notes here what it takes: the logs of services that ran against the lab, the recorder
of the fakes, the log of simulated lives. Lines are checked against the catalogue where they are noted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, Final

import pytest

from flambed.catalogue import CATALOGUE
from flambed.log import Log

_SEEN: Final[set[str]] = set()

ELSEWHERE: Final = {
    "host.key_kept": "real/test_sshd.py",
    "service.ended_badly": "real/test_under_systemd.py",
    "service.reload_refused": "real/test_under_systemd.py",
    "service.reloaded": "real/test_under_systemd.py",
}
"""Events that only a run against real parts shows, and the file of the test that looks for each."""


def saw(event: str) -> None:
    """Note that the product has said this."""
    _SEEN.add(event)


def noting(write: Callable[[Log, dict[str, Any]], None]) -> Callable[[Log, dict[str, Any]], None]:
    """Return a log's way to write a line that notes the event, too."""

    def noted(log: Log, line: dict[str, Any]) -> None:
        saw(line["event"])
        write(log, line)

    return noted


class EventReport:
    """Tells at the end of a run which events no test has seen; a whole run fails by them."""

    def __init__(self, catalogue: Collection[str] = CATALOGUE.keys(), here: Collection[str] = _SEEN) -> None:
        """Prepare a report on these events; `here` is what this process itself sees."""
        self._catalogue = frozenset(catalogue)
        self._here = here
        self._seen: set[str] = set()
        self._left_out = False

    def pytest_testnodedown(self, node: object) -> None:
        """Take what a process that ran tests has seen."""
        self._seen.update(getattr(node, "workeroutput", {}).get("events", ()))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note that a test was left out because the machine lacks a part (see `parts`)."""
        self._left_out |= report.skipped and "left out: " in str(report.longrepr) and not os.environ.get("CI")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Take what this process itself has seen, and fail where every test ran and an event was never seen."""
        self._seen.update(self._here)
        binding = is_whole(session.config) and not self._left_out
        if binding and self.missing() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def missing(self) -> list[str]:
        """Return the events of the catalogue that no test has seen."""
        return sorted(self._catalogue - self._seen - ELSEWHERE.keys())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the count, and what is missing."""
        terminalreporter.section("the catalogue of events")
        missing = self.missing()
        terminalreporter.line(
            f"{len(self._catalogue & self._seen)} of {len(self._catalogue)} events were seen, "
            f"{len(ELSEWHERE)} are by `make test-real`" + (f"; missing: {' '.join(missing)}" if missing else "")
        )


def is_whole(config: pytest.Config) -> bool:
    """Whether a run has all tests: none was picked by its path, name or mark, or by how it went the last time."""
    option = config.option
    picked = (option.keyword, option.markexpr, option.deselect, option.lf, option.stepwise)
    return config.args_source is not pytest.Config.ArgsSource.ARGS and not any(picked)


class EventCollector:
    """Hands what one process of many has seen to the one that reports."""

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Put it into what goes back."""
        session.config.workeroutput["events"] = sorted(_SEEN)  # type: ignore[attr-defined] # pytest-xdist puts it there
