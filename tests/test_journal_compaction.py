"""Compaction: the journal gets smaller, and what is folded from it stays what it was."""

# These tests have the loop for themselves: they may touch files and start processes in it.
# ruff: noqa: ASYNC220, ASYNC240

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flambed.codec import decode_world, encode_world
from flambed.history import History
from flambed.journal import AUDIT, AuditLine, Entry, Journal, JournalError, compaction, folded
from flambed.journal.compaction import AUDIT_FOR, DAY, KEPT_FOR, KEPT_MOST, WORTH_IT
from flambed.journal.file import MIGRATIONS
from flambed.observed import facts
from flambed.observed.facts import FACTS, Fact, Key
from flambed.observed.fold import fold
from flambed.observed.instance import IllegalTransitionError
from flambed.observed.world import World
from tests.fact_strategies import facts_of
from tests.stories.story import NOON, Story, cluster

CANARY = "sesame-7f3a"


class Life(Story):
    """A story whose facts are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Fact] = []

    def happens(self, *happened: Fact) -> None:
        """Fold facts, and keep them."""
        self.told += happened
        super().happens(*happened)


def life(edges: int) -> list[Fact]:
    """What happens to a cluster that becomes ready, and whose factory is busy and idle so often, once a minute."""
    story = Life()
    story.becomes_ready(
        cluster(setup_cmds=(f"echo {CANARY}",), user_data=f"#!/bin/sh\n# {CANARY}\n", tags={"t": CANARY})
    )
    for number in range(edges):
        at = NOON + 60.0 * (number + 1)
        busy = number % 2 == 0
        story.told.append(
            facts.BecameBusy(at=at, instance="i-0") if busy else facts.BecameIdle(at=at, instance="i-0", since=at - 300)
        )
    return story.told


def world_of(told: Sequence[Fact]) -> World:
    """What these facts fold to."""
    world = World()
    for fact in told:
        world = fold(world, fact)
    return world


def replayed(journal: Journal) -> dict[str, World]:
    """What the next service would know."""
    worlds = {start.cluster: start.world for start in journal.checkpoints()}
    for entry in journal.load():
        worlds[entry.cluster] = folded(journal.path, worlds.get(entry.cluster, World()), entry)
    return worlds


async def events(journal: Journal, cluster_id: str | None = None) -> list[dict[str, Any]]:
    """What `flambectl events` would print."""
    return [event async for _, event in History(journal).read(cluster_id, None)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal would be."""
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """An empty journal."""
    opened = Journal.open(path)
    yield opened
    await opened.close()


# --- worlds <-> JSON


def test_a_world_of_an_older_version_gets_the_defaults_of_new_fields() -> None:
    """A checkpoint is not written anew when the program changes."""
    world = world_of(life(3))
    document = json.loads(encode_world(world))
    del document["losses"], document["failures"]
    for instance in document["instances"].values():
        del instance["misses"]
    document["invented_later"] = {"a": 1}
    assert decode_world(json.dumps(document)) == world


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.builds(Key, st.text(max_size=5), st.text(max_size=5)), st.floats(0, 4e9), max_size=4))
def test_what_is_in_flight_is_read_back_whatever_it_is_called(in_flight: dict[Key, float]) -> None:
    """A key is no text, so JSON has no place for it."""
    world = replace(world_of(life(1)), in_flight=in_flight)
    assert decode_world(encode_world(world)) == world


# --- compaction


async def test_what_is_left_folds_to_the_same_world(path: Path) -> None:
    """The checkpoint stands for what is gone; the newest entries are as they were; a restart finds the same cluster."""
    told = life(3000)
    journal = Journal.open(path)
    entries = journal.append("c1", told)
    await journal.commit()
    before = replayed(journal)
    assert await journal.compact(NOON + 2000 * 60 + KEPT_FOR) == 1
    assert replayed(journal) == before == {"c1": world_of(told)}
    left = list(journal.load())
    assert left == list(entries[-len(left) :])
    assert len(told) - 2100 < len(left) < len(told) - 1900
    await journal.close()
    journal = Journal.open(path)
    assert replayed(journal) == before
    [first, *_] = journal.append("c1", [facts.HoldReleased(at=NOON, by=1)])
    assert first.seq == len(told) + 1
    await journal.close()


async def test_a_cluster_of_a_busy_week_is_compacted_before_the_week_is_over(journal: Journal) -> None:
    """What is fresh is kept, and no more of it than there is room for."""
    journal.append("c1", life(KEPT_MOST + WORTH_IT))
    await journal.commit()
    assert await journal.compact(NOON) == 1
    assert len(list(journal.load())) == KEPT_MOST


async def test_a_little_is_not_worth_a_compaction(journal: Journal) -> None:
    """However old it is."""
    journal.append("c1", life(WORTH_IT // 2))
    await journal.commit()
    assert await journal.compact(NOON + 1000 * DAY) == 0
    assert journal.checkpoints() == []


async def test_a_compaction_that_ends_anywhere_has_lost_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of it is a transaction: after every one, a service that starts finds the same world."""
    monkeypatch.setattr(compaction, "STEP", 100)
    told = life(1200)
    expected, found = {"c1": world_of(told)}, []
    journal = Journal.open(path)
    journal.append("c1", told)
    await journal.commit()
    inner = compaction.compact

    def watched(*args: Any, **kwargs: Any) -> bool:
        found.append(replayed(journal))  # what was committed before this step
        return inner(*args, **kwargs)

    def interrupted(*_args: object, **_kwargs: object) -> bool:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(compaction, "compact", watched)
    await journal.compact(NOON + 30 * DAY)
    assert len(found) > 10
    assert found == [expected] * len(found)
    monkeypatch.setattr(compaction, "compact", interrupted)
    journal.append("c1", [facts.BecameBusy(at=NOON, instance="i-0")] * WORTH_IT)
    await journal.commit()
    with pytest.raises(JournalError, match="cannot be made smaller"):
        await journal.compact(NOON + 30 * DAY)
    assert journal.health.read_only is None
    assert len(list(journal.load())) == WORTH_IT
    await journal.close()


_COMPACTOR = """
import asyncio, sys
from pathlib import Path
from flambed.journal import Journal, compaction

inner = compaction.compact

def told(*args, **kwargs):
    print("step", flush=True)
    return inner(*args, **kwargs)

compaction.STEP, compaction.compact = 5, told

async def main():
    await Journal.open(Path(sys.argv[1])).compact(4e9)

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(3))
async def test_a_kill_in_the_middle_of_a_compaction_loses_nothing(path: Path, seed: int) -> None:
    """Killed at some moment: the world is the same, the file is whole, and the next compaction goes on from there."""
    told = life(1500)
    journal = Journal.open(path)
    journal.append("c1", told)
    await journal.close()
    command = [sys.executable, "-c", _COMPACTOR, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as compactor:
        assert compactor.stdout is not None
        for _ in range(random.Random(seed).randrange(5, 150)):
            assert compactor.stdout.readline() == b"step\n"
        compactor.kill()
    journal = Journal.open(path)
    [start] = journal.checkpoints()
    assert 0 < start.seq < len(told)
    assert replayed(journal) == {"c1": world_of(told)}
    if len(told) - start.seq >= WORTH_IT:
        await journal.compact(4e9)
        assert list(journal.load()) == []
        assert replayed(journal) == {"c1": world_of(told)}
    await journal.close()


async def test_facts_are_committed_while_a_compaction_is_under_way(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes its turns with the commits, and neither waits for the whole of the other."""
    monkeypatch.setattr(compaction, "STEP", 20)
    told = life(2000)
    journal.append("c1", told)
    await journal.commit()
    compacting = asyncio.create_task(journal.compact(NOON + 30 * DAY))
    commits = 0
    while not compacting.done():
        journal.append("c2", [facts.HoldReleased(at=NOON, by=1)])
        await journal.commit()
        commits += 1
    assert await compacting == 1
    assert commits > 10
    assert replayed(journal)["c1"] == world_of(told)


async def test_entries_of_a_newer_version_stay_with_all_that_followed(journal: Journal, path: Path) -> None:
    """The version that knows them folds them in their place."""
    journal.append("c1", life(2000))
    await journal.commit()
    journal._connection.execute("UPDATE entry SET kind = 'HostBlessed' WHERE seq = 500")
    await journal.compact(NOON + 30 * DAY)
    [start] = journal.checkpoints()
    assert start.seq == 499
    kept = journal._connection.execute("SELECT min(seq), kind FROM entry").fetchone()
    assert kept == (500, "HostBlessed")


async def test_the_space_is_given_back_to_the_disk(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but a little, to grow into."""
    monkeypatch.setattr(compaction, "_SLACK", 16)
    journal.append("c1", life(20_000))
    await journal.commit()
    journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.stat().st_size
    await journal.compact(NOON + 30 * DAY)
    journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert before > 1_500_000
    assert path.stat().st_size < 250_000


async def test_a_checkpoint_that_cannot_be_read_is_an_error_that_names_it_and_shows_no_value(path: Path) -> None:
    """To begin with an empty world instead would be to launch everything again."""
    journal = Journal.open(path)
    journal.append("c-7", life(1200))
    await journal.commit()
    await journal.compact(NOON + 30 * DAY)
    for broken in ("json_replace(world, '$.region', json('[\"hush\"]'))", "'{not json'"):
        journal._connection.execute(f"UPDATE checkpoint SET world = {broken}")
        with pytest.raises(JournalError, match=r"the checkpoint of cluster c-7 at \d+: .*backup") as caught:
            replayed(journal)
        assert "hush" not in str(caught.value)
    await journal.close()


async def test_an_entry_that_cannot_be_folded_stops_the_compaction_of_its_cluster(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told which one it is, and nothing was changed."""
    told = life(1500)
    journal.append("c1", told)
    await journal.commit()

    def impossible(world: World, fact: Fact) -> World:
        if isinstance(fact, facts.HostReached):
            raise IllegalTransitionError("instance i-0 cannot go from gone to reachable")
        return fold(world, fact)

    monkeypatch.setattr(compaction, "fold", impossible)
    with pytest.raises(
        JournalError, match=r"cannot be folded \(\d+, HostReached of cluster c1: instance i-0 cannot go"
    ):
        await journal.compact(NOON + 30 * DAY)
    assert [entry.fact for entry in journal.load()] == told


# --- no open intent is lost

_IDS = st.sampled_from(["i-0", "i-1", "i-2"])
_TOKENS = st.sampled_from(["t-0", "t-1", "t-2"])


@st.composite
def lively(draw: st.DrawFn) -> Fact:
    """A fact about one of few instances and launches, so that it matters to those before it."""
    fact = draw(facts_of(draw(st.sampled_from(list(FACTS.values())))))
    changes: dict[str, Any] = {}
    if hasattr(fact, "token"):
        changes["token"] = draw(_TOKENS)
    if hasattr(fact, "instance"):
        changes["instance"] = draw(_IDS)
    if hasattr(fact, "key"):
        kind, subject = draw(st.sampled_from([("launch", _TOKENS), ("setup", _IDS), ("terminate", _IDS)]))
        changes["key"] = Key(kind, draw(subject))
    if isinstance(fact, facts.ClusterSurveyed | facts.LaunchAnswered | facts.InstancesDescribed | facts.ClusterFound):
        changes["instances"] = tuple(replace(seen, id=draw(_IDS), state="running") for seen in fact.instances)
    return replace(fact, **changes)


def possible(told: Sequence[Fact]) -> Iterator[tuple[Fact, World]]:
    """Those facts that a loop would have written down, and what it knew after each."""
    world = World()
    for fact in told:
        if world.desired is None and not isinstance(fact, facts.UpRequested | facts.ClusterFound):
            continue
        try:
            after = fold(world, fact)
        except IllegalTransitionError:
            continue
        if after is not world:
            world = after
            yield fact, world


@settings(deadline=None, max_examples=60)
@given(first=facts_of(facts.UpRequested), told=st.lists(lively(), max_size=40), data=st.data())
def test_wherever_a_journal_is_compacted_its_world_and_its_intents_stay(
    first: Fact, told: list[Fact], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any facts, compacted up to any of them, and on to another one: what is folded from the rest is the same."""
    lived = list(possible([first, *told]))
    cuts = data.draw(st.lists(st.integers(0, len(lived)), max_size=3).map(sorted))

    async def scenario() -> tuple[World, list[AuditLine | Entry]]:
        journal = Journal.open(tmp_path_factory.mktemp("compaction") / "state" / "journal.sqlite")
        journal.append("c", [fact for fact, _ in lived])
        await journal.commit()
        for cut in cuts:
            await journal._run(partial(compaction.compact, journal.path, cluster="c", upto=cut))
        page = await journal.page()
        world = replayed(journal)["c"]
        await journal.close()
        return world, list(page.items)

    world, items = asyncio.run(scenario())
    assert world == lived[-1][1]
    assert world.intents == lived[-1][1].intents
    cut = max(cuts, default=0)
    audited = [seq for seq, (fact, _) in enumerate(lived[:cut], 1) if type(fact) in AUDIT]
    assert [item.seq for item in items] == [*audited, *range(cut + 1, len(lived) + 1)]


# --- what is left of the past


async def test_events_go_on_after_a_compaction(journal: Journal) -> None:
    """Of the past the audit lines are told as they were; of what follows, everything, and in the right world."""
    journal.append("c1", life(2500))
    await journal.commit()
    before = await events(journal, "c1")
    await journal.compact(NOON + 1500 * 60 + KEPT_FOR)
    [start] = journal.checkpoints()
    names = {e["event"] for e in before if e["fact"] and e["fact"] <= start.seq}
    assert "host.reached" in names
    expected = [e for e in before if (e["fact"] or e["cause"]) > start.seq or is_audit(e)]
    assert await events(journal, "c1") == expected


def is_audit(event: dict[str, Any]) -> bool:
    """Whether an event tells a fact of which an audit line is left."""
    return event["fact"] is not None and event["event"].startswith(
        ("cluster.up", "launch.intended", "launch.answered", "cluster.phase")
    )


async def test_who_reads_on_during_a_compaction_misses_no_audit_line_and_no_entry(journal: Journal) -> None:
    """A reader that is behind the checkpoint goes on from the checkpoint's world."""
    journal.append("c1", life(3000))
    await journal.commit()
    everything = await events(journal, "c1")
    history = History(journal)
    read = []
    async for _, event in history.read("c1", None):
        read.append(event)
        if len(read) == 30:
            await journal.compact(NOON + 2500 * 60 + KEPT_FOR)
    [start] = journal.checkpoints()
    late = [e for e in everything if (e["fact"] or e["cause"]) > start.seq]
    assert read[-len(late) :] == late
    journal.append("c1", [facts.HoldPlaced(at=NOON, by=1, until=NOON + 60, why="x")])
    await journal.commit()
    assert [event["event"] async for _, event in history.read("c1", None)] == ["cluster.hold_placed"]


@pytest.mark.parametrize("compacted", [True, False])
async def test_a_forgotten_cluster_leaves_who_asked_for_what_and_no_secret(path: Path, *, compacted: bool) -> None:
    """Its user data, commands and tags are nowhere in the file any more; its tokens and instances are."""
    journal = Journal.open(path)
    journal.append("c1", life(1200))
    await journal.commit()
    assert CANARY in str(journal._connection.execute("SELECT fact FROM entry").fetchall())
    if compacted:
        await journal.compact(NOON + 30 * DAY)
    journal.forget("c1")
    await journal.commit()
    assert replayed(journal) == {}
    lines = (await journal.page()).items
    assert {line.event for line in lines if isinstance(line, AuditLine)} == {
        "cluster.up_requested", "launch.intended", "launch.answered", "cluster.phase_changed",
    }  # fmt: skip
    [asked] = [line for line in lines if isinstance(line, AuditLine) and line.event == "cluster.up_requested"]
    assert (asked.told["creator"], asked.told["name"], asked.told["by"]) == ("user@company.com", "x", 1000)
    assert any("i-0" in line.told.get("instances", ()) for line in lines if isinstance(line, AuditLine))
    assert CANARY not in "\n".join(journal._connection.iterdump())
    told = await events(journal)
    assert {event["cluster"] for event in told} == {"x"}
    await journal.close()


async def test_audit_lines_outlive_their_cluster_by_a_year(journal: Journal) -> None:
    """Those of a cluster that is known are kept as long as it is."""
    for name in ("gone", "known"):
        journal.append(name, life(1200))
    journal.forget("gone")
    await journal.commit()
    await journal.compact(NOON + AUDIT_FOR - DAY)
    assert {line.cluster for line in (await journal.page()).items if isinstance(line, AuditLine)} == {"gone", "known"}
    await journal.compact(NOON + AUDIT_FOR + 3 * DAY)
    assert {line.cluster for line in (await journal.page()).items if isinstance(line, AuditLine)} == {"known"}


async def test_of_too_many_audit_lines_the_oldest_go(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year of clusters that come and go has an end."""
    monkeypatch.setattr(compaction, "AUDIT_MOST", 10)
    for number in range(5):
        journal.append(f"c{number}", life(0))
        journal.forget(f"c{number}")
    await journal.commit()
    seqs = [item.seq for item in (await journal.page()).items]
    await journal.compact(NOON)
    assert [item.seq for item in (await journal.page()).items] == seqs[-10:]


# --- schema 1

SCHEMA_1 = """
    CREATE TABLE entry (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, cluster TEXT NOT NULL, at REAL NOT NULL, cause INTEGER,
        kind TEXT NOT NULL, fact TEXT NOT NULL
    ) STRICT;
    CREATE INDEX entry_of_cluster ON entry (cluster, seq);
    CREATE TABLE creator (name TEXT PRIMARY KEY, uid INTEGER NOT NULL) STRICT;
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    INSERT INTO meta VALUES ('daemon_id', lower(hex(randomblob(8))));
    PRAGMA application_id = 0x666c6264;
    PRAGMA user_version = 1;
"""
"""What the first version made of an empty file."""


async def test_a_journal_of_the_first_schema_is_found_again(path: Path) -> None:
    """Made by its own SQL, with what a service wrote into it: every entry, owner and id is there, and it can shrink."""
    told = life(30)
    scratch = Journal.open(path.parent / "scratch" / "journal.sqlite")
    scratch.append("c1", told)
    await scratch.commit()
    rows = scratch._connection.execute("SELECT seq, cluster, at, cause, kind, fact FROM entry").fetchall()
    await scratch.close()
    path.parent.chmod(0o700)
    first = sqlite3.connect(path, isolation_level=None)
    first.executescript(SCHEMA_1)
    first.executemany("INSERT INTO entry (seq, cluster, at, cause, kind, fact) VALUES (?, ?, ?, ?, ?, ?)", rows)
    first.execute("INSERT INTO creator VALUES ('user@company.com', 1000)")
    [(daemon_id,)] = first.execute("SELECT value FROM meta WHERE name = 'daemon_id'")
    first.close()
    path.chmod(0o600)
    journal = Journal.open(path)
    assert replayed(journal) == {"c1": world_of(told)}
    assert (journal.daemon_id, journal.claims()) == (daemon_id, {"user@company.com": 1000})
    pragmas = [journal._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "auto_vacuum")]
    assert pragmas == [len(MIGRATIONS), 2]
    await journal.close()
