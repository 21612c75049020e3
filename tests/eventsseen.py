"""The report on the catalogue of events: each has to be seen in a test, said by the product itself.

Whatever stands for the log in a test notes here what it takes: the logs of services that ran against the lab, the recorder
of the fakes, the log of simulated lives. Lines are checked against the catalogue where they are noted.
"""

from __future__ import annotations

from collections.abc import Callable
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

NEVER: Final = {"instance.requested"}
"""The stage before the first sight of an instance, which is seen pending at once: no life has shown it yet."""


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
    """Tells which events no test has seen."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def pytest_testnodedown(self, node: object) -> None:
        """Take what a process that ran tests has seen."""
        self._seen.update(getattr(node, "workeroutput", {}).get("events", ()))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Take what this process itself has seen."""
        self._seen |= _SEEN

    def missing(self) -> list[str]:
        """Return the events of the catalogue that no test has seen."""
        return sorted(CATALOGUE.keys() - self._seen - ELSEWHERE.keys() - NEVER)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the count, and what is missing."""
        terminalreporter.section("the catalogue of events")
        missing = self.missing()
        terminalreporter.line(
            f"{len(CATALOGUE.keys() & self._seen)} of {len(CATALOGUE)} events were seen, {len(ELSEWHERE)} are by `make test-real`"
            + (f"; missing: {' '.join(missing)}" if missing else "")
        )


class EventCollector:
    """Hands what one process of many has seen to the one that reports."""

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Put it into what goes back."""
        session.config.workeroutput["events"] = sorted(_SEEN)  # type: ignore[attr-defined] # pytest-xdist puts it there
