"""fleet: what the service says of itself while it looks after its clusters, and that it goes on whatever it meets."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from flambed import fleet as fleets
from flambed import tasks
from flambed.catalogue import CATALOGUE
from flambed.journal import Journal, JournalError, compaction
from flambed.journal.compaction import WORTH_IT
from flambed.log import configure
from flambed.plan import decide
from tests.fakes import Cloud
from tests.runningfleet import OURS, running_fleet
from tests.stories.story import Story
from tests.test_journal_compaction import life


async def test_a_cluster_whose_loop_meets_a_bug_goes_on_and_the_bug_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is started again after a pause, and what was under way is begun again."""
    bugs = [ZeroDivisionError("a bug")]

    def buggy(*args: Any, **more: Any) -> Any:
        if bugs:
            raise bugs.pop()
        return decide(*args, **more)

    monkeypatch.setattr("flambed.loop.decide", buggy)
    monkeypatch.setattr(tasks, "FIRST_PAUSE", 0.01)
    story = Story()
    story.becomes_ready()
    async with running_fleet(tmp_path, Cloud()) as (fleet, _, log):
        await fleet.take_on(("creator", "c"), "c1", story.world, await fleet.region())
        [crash] = await log.until("loop.crashed")
        assert not log.of("cluster.resumed"), "it crashed before it had said anything"
        await log.until("cluster.resumed")
    assert crash["error"] == "ZeroDivisionError: a bug"


async def test_old_entries_of_the_journal_are_compacted_while_the_service_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says of how many clusters."""
    monkeypatch.setattr(fleets, "FORGET_EVERY", 0.01)
    monkeypatch.setattr(compaction, "KEPT_MOST", WORTH_IT)
    journal = Journal.open(tmp_path / "state" / "journal.sqlite", daemon_id=OURS)
    journal.append("c1", life(2 * WORTH_IT))
    await journal.close()
    async with running_fleet(tmp_path, Cloud()) as (fleet, journal, log):
        before = len(list(journal.load()))
        forgetting = asyncio.create_task(fleet.run())
        assert await log.until("journal.compacted") == [{"clusters": 1}]
        await tasks.end(forgetting)
        assert len(list(journal.load())) < before


async def test_a_compaction_that_fails_is_told_and_made_up_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for a moment costs nothing but that."""
    compact, failures = Journal.compact, [JournalError(tmp_path, "cannot be written", "make room")]

    async def full_once(journal: Journal, now: float) -> int:
        if failures:
            raise failures.pop()
        return await compact(journal, now)

    monkeypatch.setattr(Journal, "compact", full_once)
    monkeypatch.setattr(fleets, "FORGET_EVERY", 0.01)
    monkeypatch.setattr(compaction, "KEPT_MOST", WORTH_IT)
    journal = Journal.open(tmp_path / "state" / "journal.sqlite", daemon_id=OURS)
    journal.append("c1", life(2 * WORTH_IT))
    await journal.close()
    async with running_fleet(tmp_path, Cloud()) as (fleet, _, log):
        forgetting = asyncio.create_task(fleet.run())
        assert await log.until("journal.compacted") == [{"clusters": 1}]
        await tasks.end(forgetting)
        [failed] = log.of("journal.not_compacted")
    assert "cannot be written: make room" in failed["message"]


@pytest.mark.usefixtures("_logging_as_it_was")
async def test_a_mistake_in_the_catalogue_costs_a_note_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's own log is lenient: a field that is not declared is left out, and its event is told all the same."""
    kind = CATALOGUE["region.opened"]
    without = {name: field for name, field in kind.fields.items() if name != "queue"}
    monkeypatch.setitem(cast("dict[str, Any]", CATALOGUE), kind.name, replace(kind, fields=without))
    stream = io.StringIO()
    async with running_fleet(tmp_path, Cloud(), log=configure("json", "info", stream)) as (fleet, _, _):
        assert sorted(fleet.regions) == ["us-east-1"]
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    [note] = [line for line in lines if line["event"] == "log.undeclared"]
    assert (note["of"], note["problems"]) == ("region.opened", ["'queue' is not declared"])
    assert [line["region"] for line in lines if line["event"] == "region.opened"] == ["us-east-1"]
