"""The report on the catalogue of events: each has to be seen in a test, said by the product itself.

Whatever stands for the log in a test notes here what it takes: the logs of services that ran against the lab, the recorder
of the fakes, the log of simulated lives. Lines are checked against the catalogue where they are noted.
"""

from __future__ import annotations

from typing import Final

import pytest

from flambed.catalogue import CATALOGUE

_SEEN: Final[set[str]] = set()


def saw(event: str) -> None:
    """Note that the product has said this."""
    _SEEN.add(event)


class EventReport:
    """Tells which events no test has seen."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def pytest_testnodedown(self, node: object) -> None:
        """Take what a process that ran tests has seen."""
        self._seen.update(getattr(node, "workeroutput", {}).get("events", ()))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail where an event was never seen."""
        self._seen |= _SEEN
        if self.missing() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def missing(self) -> list[str]:
        """Return the events of the catalogue that no test has seen."""
        return sorted(CATALOGUE.keys() - self._seen)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the count, and what is missing."""
        terminalreporter.section("the catalogue of events")
        missing = self.missing()
        terminalreporter.line(
            f"{len(CATALOGUE) - len(missing)} of {len(CATALOGUE)} events were seen"
            + (f"; missing: {' '.join(missing)}" if missing else "")
        )


class EventCollector:
    """Hands what one process of many has seen to the one that reports."""

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Put it into what goes back."""
        session.config.workeroutput["events"] = sorted(_SEEN)  # type: ignore[attr-defined] # pytest-xdist puts it there
