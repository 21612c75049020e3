"""What all tests share: the reports on which rows of docs/parity.md and of idle protection they prove."""

from __future__ import annotations

import pytest

from tests import rows


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --seed-report."""
    parser.addoption(
        "--seed-report",
        action="store_true",
        help="print which tests prove each row of docs/parity.md and of idle protection; fail where none does",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Turn the reports on where they are asked for."""
    if config.getoption("--seed-report") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(rows.Report("parity with the source document", "seed", rows.parity()))
        config.pluginmanager.register(rows.Report("idle protection", "idle", rows.IDLE))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the report of each test tell which rows it speaks of, whichever process runs it."""
    for item in items:
        for kind in ("seed", "idle"):
            for mark in item.iter_markers(kind):
                item.user_properties += [(kind, row) for row in mark.args]
