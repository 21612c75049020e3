"""What all tests share: the reports on docs/parity.md, on idle protection, and on the log's events."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from flambed.log import Log
from flambed.log.libraries import Forward
from tests import rows
from tests.eventsseen import EventCollector, EventReport, noting


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --seed-report."""
    parser.addoption(
        "--seed-report",
        action="store_true",
        help="print which tests prove each row of docs/parity.md and of idle protection, and which events no test has "
        "seen; fail where one lacks",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Turn the reports on where they are asked for."""
    if not config.getoption("--seed-report"):
        return
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(EventCollector())
        return
    config.pluginmanager.register(EventReport())
    config.pluginmanager.register(rows.Report("parity with the source document", "seed", rows.parity()))
    config.pluginmanager.register(rows.Report("idle protection", "idle", rows.IDLE))


@pytest.fixture(autouse=True)
def _note_events(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the report on events know of what the product's own log says; test_log makes it say everything there is."""
    if request.path.name != "test_log.py":
        monkeypatch.setattr(Log, "_write", noting(Log._write))


@pytest.fixture
def _logging_as_it_was() -> Iterator[None]:
    """Logging is of the whole process: who sets it up in a test leaves it as it was found."""
    root = logging.getLogger()
    level = root.level
    yield
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, Forward)]
    root.setLevel(level)
    structlog.reset_defaults()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the report of each test tell which rows it speaks of, whichever process runs it."""
    for item in items:
        for kind in ("seed", "idle"):
            for mark in item.iter_markers(kind):
                item.user_properties += [(kind, row) for row in mark.args]
