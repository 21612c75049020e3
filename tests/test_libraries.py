"""What libraries say through the standard library's logging is in the log, and passes the same nets as all else."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from flambed.eventkind import REDACTED
from flambed.log import configure

SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

pytestmark = pytest.mark.usefixtures("_logging_as_it_was")


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    """The lines of a stream, each parsed as JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_warnings_of_libraries_are_events_and_their_chatter_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiobotocore, asyncssh and aiohttp speak through the standard library's logging."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would refuse the unfit one
    stream = io.StringIO()
    configure("json", "debug", stream, strict=True)
    library = logging.getLogger("asyncssh")
    library.info("connected")
    library.warning("the key %s is odd", SECRET_KEY)
    library.error("%d files", "three")
    try:
        Path("/dev/null/lost").read_text(encoding="utf-8")
    except NotADirectoryError:
        library.exception("lost")
    odd, unfit, lost = written(stream)
    assert (odd["event"], odd["level"], odd["logger"]) == ("library.message", "warning", "asyncssh")
    assert odd["message"] == f"the key {REDACTED} is odd"
    assert unfit["message"] == "%d files"
    assert lost["traceback"].endswith("Not a directory: '/dev/null/lost'\n")
    assert odd["traceback"] is None


def test_configuring_again_does_not_say_things_twice() -> None:
    """The last one counts."""
    first, second = io.StringIO(), io.StringIO()
    configure("json", "info", first)
    configure("json", "info", second)
    logging.getLogger("aiohttp").warning("once")
    assert written(first) == []
    assert len(written(second)) == 1


async def test_an_error_that_nobody_waits_for_is_in_the_log_by_asyncios_own_word() -> None:
    """A real library, and what the service would show of its own worst kind of slip: a task that was let go of."""
    stream = io.StringIO()
    configure("json", "info", stream)

    async def slip() -> None:
        raise LookupError("nobody waits for this")

    task = asyncio.create_task(slip())
    await asyncio.wait({task})
    del task
    gc.collect()
    [line] = written(stream)
    assert (line["event"], line["logger"]) == ("library.message", "asyncio")
    assert line["message"].startswith("Task exception was never retrieved")
    assert line["traceback"].endswith("LookupError: nobody waits for this\n")
