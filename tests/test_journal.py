"""The journal: nothing that was committed is ever lost, and what is read back is what was written."""

# These tests have the loop for themselves: they may touch files and start processes in it.
# ruff: noqa: ASYNC220, ASYNC240

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticSerializationError

from flambed.codec import decode, encode
from flambed.journal import Entry, Journal, JournalError, ReadOnlyError
from flambed.journal.file import APPLICATION_ID, MIGRATIONS
from flambed.observed.facts import (
    FACTS,
    ClusterSurveyed,
    CommandEnded,
    DownRequested,
    Fact,
    HostReached,
    Seen,
    StateNotified,
)
from tests.fact_strategies import facts_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal would be, in a folder that is not there yet."""
    return tmp_path / "state" / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    """An empty journal."""
    opened = Journal.open(path)
    yield opened
    await opened.close()


def facts(count: int) -> list[Fact]:
    """Facts that can be told apart: fact n became known at n."""
    return [HostReached(at=float(number), instance=f"i-{number}") for number in range(count)]


async def reopened(path: Path) -> list[Entry]:
    """What the next service finds."""
    journal = Journal.open(path)
    try:
        return list(journal.load())
    finally:
        await journal.close()


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """The file is locked against writers, as by a person's sqlite3, while this lasts."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def filled(journal: Journal) -> None:
    """Let the file grow no more."""
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")


def edit(path: Path, *statements: str) -> None:
    """Change a journal that no service has open."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


# --- facts <-> JSON


@pytest.mark.parametrize("kind", FACTS.values(), ids=FACTS)
@given(data=st.data())
def test_a_fact_is_read_back_as_it_was(kind: type[Fact], data: st.DataObject) -> None:
    """Every kind of fact, with whatever its types allow, survives the round trip."""
    fact = data.draw(facts_of(kind))
    again = decode(*encode(fact))
    assert again == fact
    assert type(again) is kind
    assert encode(again) == encode(fact)


def test_what_a_newer_version_added_to_a_fact_is_ignored() -> None:
    """A field that this version does not know does not keep it from reading the rest."""
    fact = decode("StateNotified", '{"at": 1.5, "instance": "i-1", "state": "running", "zone": "a"}')
    assert fact == StateNotified(at=1.5, instance="i-1", state="running")


def test_a_character_that_is_none_is_replaced_and_stops_nothing() -> None:
    """JSON of others can hold half of a surrogate pair, which no file in UTF-8 can."""
    fact = StateNotified(at=1.5, instance="i-1", state="run\ud800ning")
    assert decode(*encode(fact)) == StateNotified(at=1.5, instance="i-1", state="run?ning")


def test_a_fact_with_a_value_of_another_type_is_refused_before_it_gets_a_number(path: Path) -> None:
    """It would be read back as something else, so it is an error where it is made."""

    async def scenario() -> list[Entry]:
        journal = Journal.open(path)
        with pytest.raises(PydanticSerializationError, match="instance"):
            journal.append("c", [HostReached(at=1.0, instance=7)])  # type: ignore[arg-type]
        journal.append("c", facts(1))
        await journal.close()
        return await reopened(path)

    assert [entry.seq for entry in asyncio.run(scenario())] == [1]


# --- appending and reading


async def test_entries_come_back_in_their_order_with_their_cause(journal: Journal) -> None:
    """Numbers are given at once, in order, over all clusters."""
    first = journal.append("a", facts(2))
    second = journal.append("b", [DownRequested(at=9.0, by=7)], cause=first[1].seq)
    await journal.commit()
    assert [(entry.seq, entry.cluster, entry.cause) for entry in (*first, *second)] == [
        (1, "a", None),
        (2, "a", None),
        (3, "b", 2),
    ]
    assert list(journal.load()) == [*first, *second]
    assert [entry.at for entry in journal.load()] == [0.0, 1.0, 9.0]


async def test_what_was_not_committed_is_not_read(journal: Journal) -> None:
    """Readers see what a crash would leave, and no more."""
    journal.append("a", facts(1))
    assert list(journal.load()) == []
    await journal.commit()
    assert len(list(journal.load())) == 1


async def test_entries_can_be_asked_for_by_cluster_and_number(journal: Journal) -> None:
    """The stream of events pages through them by number."""
    journal.append("a", facts(10))
    journal.append("b", facts(10))
    await journal.commit()

    async def numbers(*, cluster: str | None = None, after: int = 0, limit: int = 1000) -> list[int]:
        page = await journal.page(cluster=cluster, after=after, limit=limit)
        assert page.checkpoints == {}
        return [item.seq for item in page.items]

    assert await numbers() == list(range(1, 21))
    assert await numbers(limit=3) == [1, 2, 3]
    assert await numbers(after=18) == [19, 20]
    assert await numbers(cluster="b", limit=2) == [11, 12]
    assert await numbers(cluster="a", after=6, limit=2) == [7, 8]
    assert await numbers(cluster="c") == []


async def test_a_forgotten_cluster_is_gone_and_its_numbers_are_not_given_again(path: Path) -> None:
    """The log still speaks of facts by number, so a number means one fact for ever."""
    journal = Journal.open(path)
    journal.append("old", facts(1))
    journal.append("new", facts(3))
    journal.forget("new")
    await journal.close()
    journal = Journal.open(path)
    assert [entry.cluster for entry in journal.load()] == ["old"]
    [entry] = journal.append("newest", facts(1))
    assert entry.seq == 5
    await journal.close()


async def test_a_creator_belongs_to_the_first_uid_that_used_it(path: Path) -> None:
    """Also after a restart."""
    journal = Journal.open(path)
    assert journal.owner("ann@x.com") is None
    assert journal.claim("ann@x.com", 1000) == 1000
    assert journal.claim("ann@x.com", 1001) == 1000
    await journal.close()
    journal = Journal.open(path)
    assert journal.owner("ann@x.com") == 1000
    assert journal.claim("ann@x.com", 1001) == 1000
    assert journal.claims() == {"ann@x.com": 1000}
    await journal.close()


async def test_what_is_remembered_is_known_after_a_restart(path: Path) -> None:
    """Set, set again, removed; and the journal's own id is no part of it."""
    journal = Journal.open(path)
    assert dict(journal.memory) == {}
    journal.memory["kept"] = "first"
    journal.memory["kept"] = "second"
    journal.memory["dropped"] = "x"
    await journal.commit()
    del journal.memory["dropped"]
    assert len(journal.memory) == 1
    await journal.close()
    journal = Journal.open(path)
    assert dict(journal.memory) == {"kept": "second"}
    await journal.close()


async def test_the_service_keeps_its_random_id(path: Path, tmp_path: Path) -> None:
    """One id a journal, and another one for another journal."""
    ids = []
    for place in (path, path, tmp_path / "other" / "journal.db"):
        journal = Journal.open(place)
        ids.append(journal.daemon_id)
        await journal.close()
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 16


async def test_an_entry_of_an_unknown_kind_is_kept_and_left_out(path: Path) -> None:
    """A newer version wrote it; the one after us may want it."""
    journal = Journal.open(path)
    journal.append("a", facts(3))
    await journal.close()
    edit(path, "UPDATE entry SET kind = 'HostBlessed', fact = '{\"at\": 1.0}' WHERE seq = 2")
    journal = Journal.open(path)
    assert [entry.seq for entry in journal.load()] == [1, 3]
    assert [item.seq for item in (await journal.page(limit=2)).items] == [1, 3]
    assert journal.unknown == {"HostBlessed": 1}
    await journal.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM entry").fetchone() == (3,)
    connection.close()


async def test_an_entry_that_cannot_be_read_is_an_error_that_names_it_and_shows_no_value(path: Path) -> None:
    """To leave out an intent could mean to launch twice; so a person has to look."""
    journal = Journal.open(path)
    journal.append("c-7", facts(1))
    await journal.close()
    edit(path, """UPDATE entry SET fact = '{"at": 1.0, "instance": ["hush"]}'""")
    with pytest.raises(JournalError, match=r"an entry: 1, HostReached of cluster c-7: instance: .*backup") as caught:
        await reopened(path)
    assert "hush" not in str(caught.value)


# --- group commit


async def test_many_commits_at_once_become_few_transactions(journal: Journal, path: Path) -> None:
    """Who comes during a write shares the next one: two writes for a hundred callers."""
    done: list[int] = []

    async def one(number: int) -> None:
        journal.append("c", [HostReached(at=float(number), instance="i-1")])
        await journal.commit()
        done.append(number)

    with held(path):
        tasks = [asyncio.create_task(one(0))]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(one(number)) for number in range(1, 100)]
        for _ in range(10):
            await asyncio.sleep(0)  # the loop is free while the disk is not
        assert done == []
    await asyncio.gather(*tasks)
    assert sorted(done) == list(range(100))
    assert len(list(journal.load())) == 100
    assert journal.commits == 2


async def test_a_commit_that_comes_just_as_a_write_ends_does_not_spin(journal: Journal) -> None:
    """The write has ended, the loop has not yet been told: whoever asks now waits, and lets it be told."""
    journal.append("c", [HostReached(at=1.0, instance="i-1")])
    first = asyncio.create_task(journal.commit())
    await asyncio.sleep(0)  # the write is under way
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - the loop must not turn while the write ends
    journal.append("c", [HostReached(at=2.0, instance="i-1")])
    second = asyncio.create_task(journal.commit())
    await asyncio.gather(first, second)
    assert [entry.at for entry in journal.load()] == [1.0, 2.0]


async def test_a_commit_with_nothing_new_writes_nothing(journal: Journal) -> None:
    """It is free to call it."""
    await journal.commit()
    journal.append("c", facts(5))
    await journal.commit()
    await journal.commit()
    assert journal.commits == 1


async def test_a_cancelled_commit_does_not_take_the_others_with_it(journal: Journal, path: Path) -> None:
    """The write that several wait for goes on when one of them is cancelled."""
    with held(path):
        journal.append("c", facts(1))
        first = asyncio.create_task(journal.commit())
        second = asyncio.create_task(journal.commit())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    await second
    assert len(list(journal.load())) == 1


async def test_a_full_disk_fails_every_waiter_and_the_next_commit_tries_again(path: Path) -> None:
    """Nothing is lost and the order is kept: what failed is written before what came later."""
    journal = Journal.open(path)
    filled(journal)
    journal.append("c", facts(500))
    answers = await asyncio.gather(journal.commit(), journal.commit(), journal.commit(), return_exceptions=True)
    assert len({id(answer) for answer in answers}) == 3
    for answer in answers:
        assert isinstance(answer, JournalError)
        assert str(answer) == (
            f"the journal {path} cannot be written (database or disk is full): make room on its disk"
        )
    with pytest.raises(JournalError, match="make room"):
        await journal.commit()
    assert list(journal.load()) == []
    journal.append("later", facts(1))
    journal._connection.execute("PRAGMA max_page_count = 1000000")
    await journal.commit()
    assert [entry.seq for entry in journal.load()] == list(range(1, 502))
    await journal.close()
    assert (await reopened(path))[-1].cluster == "later"


async def test_a_journal_that_cannot_write_what_is_left_is_released_all_the_same(path: Path) -> None:
    """The error is told, and the next service can open the file."""
    journal = Journal.open(path)
    filled(journal)
    journal.append("c", facts(500))
    journal.memory["x"] = "y"
    told: list[object] = []
    journal.tell_lost = told.append
    with pytest.raises(JournalError, match="make room"):
        await journal.close()
    assert told == [{"c": {type(facts(1)[0]).__name__: 500}}]
    assert await reopened(path) == []


async def test_a_journal_that_cannot_be_written_says_so_once_and_recovers_by_itself(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches is told twice: why nothing is begun, and that it is over; nobody else has to try again."""
    monkeypatch.setattr("flambed.journal.health.RETRY", 0.01)
    told: list[str | None] = []
    journal.health.watch(told.append)
    filled(journal)
    journal.append("c", facts(500))
    for _ in range(3):
        with pytest.raises(JournalError, match="make room"):
            await journal.commit()
    assert told == [journal.health.read_only]
    assert str(told[0]).endswith(
        "(database or disk is full): make room on its disk; until then the service is read-only: it begins nothing, and "
        "protection goes on"
    )
    with pytest.raises(ReadOnlyError, match="until then the service is read-only"):
        journal.health.check()
    journal._connection.execute("PRAGMA max_page_count = 1000000")
    async with asyncio.timeout(10):
        await journal.health.good()
    assert told[1:] == [None]
    assert len(list(journal.load())) == 500
    journal.health.check()


async def test_a_journal_is_closed_while_it_tries_again(path: Path) -> None:
    """It tries once more, tells what is lost, and no task is left behind."""
    journal = Journal.open(path)
    filled(journal)
    journal.append("c", facts(500))
    with pytest.raises(JournalError):
        await journal.commit()
    with pytest.raises(JournalError, match="make room"):
        await journal.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await reopened(path) == []


async def test_a_commit_that_failed_half_way_is_written_whole_by_the_next_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes a part of the write-ahead log's pages and then no more; and again, and again."""
    journal = Journal.open(path)
    journal.append("c", facts(10))
    await journal.commit()
    journal.append("c", facts(2000))
    log = path.with_name(f"{path.name}-wal")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for share in (100, 5_000, 20_000, 60_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + share, before[1]))
        try:
            with pytest.raises(JournalError, match="cannot be written"):
                await journal.commit()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [entry.seq for entry in journal.load()] == list(range(1, 11))
    await journal.commit()
    assert [entry.seq for entry in journal.load()] == list(range(1, 2011))
    await journal.close()
    assert len(await reopened(path)) == 2010


# --- opening


def mode(path: Path) -> int:
    """Who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
async def test_nobody_else_can_read_the_journal(path: Path, umask: int) -> None:
    """Whatever the umask: the folder is for us alone, and so is each file in it."""
    path.parent.parent.chmod(0o755)
    if umask == 0o277:
        path.parent.mkdir(mode=0o700)
    before = os.umask(umask)
    try:
        journal = Journal.open(path)
        journal.append("c", facts(1))
        await journal.commit()
    finally:
        os.umask(before)
    assert mode(path.parent) == 0o700
    assert {file.name: mode(file) for file in path.parent.iterdir()} == dict.fromkeys(
        ("journal.db", "journal.db-shm", "journal.db-wal", "journal.lock"), 0o600
    )
    await journal.close()


async def test_a_journal_that_others_could_read_is_closed_to_them(path: Path) -> None:
    """As after a careless copy."""
    await reopened(path)
    path.chmod(0o644)
    await reopened(path)
    assert mode(path) == 0o600


def test_a_folder_that_others_may_write_to_is_refused(path: Path) -> None:
    """They could put another file in the journal's place."""
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(JournalError, match=r"folder that others may write to.*chmod 700"):
        Journal.open(path)
    assert list(path.parent.iterdir()) == []


def test_a_link_in_the_place_of_the_journal_is_refused(path: Path, tmp_path: Path) -> None:
    """What it leads to is not ours to open."""
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.open(path)
    assert not (tmp_path / "elsewhere").exists()


async def test_a_second_service_on_the_same_folder_is_refused_and_told_of_the_first(path: Path) -> None:
    """The message names the process; once that is gone the folder is free."""
    journal = Journal.open(path)
    with pytest.raises(JournalError, match=f"in use by another flambed, process {os.getpid()} on .* since 20"):
        Journal.open(path)
    journal.append("c", facts(1))
    await journal.close()
    assert len(await reopened(path)) == 1


async def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    """A downgrade says what to do, and changes nothing."""
    await reopened(path)
    edit(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"newer flambed \(schema \d; this version knows \d\): run that version"):
        Journal.open(path)
    assert path.read_bytes() == before


async def test_a_database_of_another_program_is_refused_and_left_as_it_is(path: Path) -> None:
    """A wrong state folder is no reason to write into somebody's file."""
    path.parent.mkdir(mode=0o700)
    edit(path, "CREATE TABLE bookmark (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(JournalError, match="database of another program"):
        Journal.open(path)
    assert path.read_bytes() == before


async def test_a_journal_is_marked_as_one_and_kept_durable(journal: Journal) -> None:
    """The settings that the promises rest on: WAL, and a sync at every commit."""
    pragmas = ("application_id", "user_version", "journal_mode", "synchronous")
    found = [journal._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    assert found == [APPLICATION_ID, len(MIGRATIONS), "wal", 2]


async def test_each_migration_leads_from_one_schema_to_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old file is brought up to date, with what it holds; one that fails half-way changes nothing."""
    journal = Journal.open(path)
    journal.append("c", facts(2))
    await journal.close()
    broken = ("ALTER TABLE creator ADD COLUMN since REAL", "ALTER TABLE nothing ADD COLUMN x")
    monkeypatch.setattr("flambed.journal.file.MIGRATIONS", (*MIGRATIONS, broken))
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.open(path)
    monkeypatch.setattr("flambed.journal.file.MIGRATIONS", (*MIGRATIONS, broken[:1]))
    assert len(await reopened(path)) == 2
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    assert connection.execute("SELECT since FROM creator").fetchall() == []
    connection.close()


# --- crashes and damage

_WRITER = """
import asyncio, sys
from pathlib import Path
from flambed.journal import Journal
from flambed.observed.facts import HostReached

async def write(journal, name):
    for number in range(10**9):
        entries = journal.append(name, [HostReached(at=float(number), instance=str(part)) for part in range(3)])
        await journal.commit()
        print(entries[-1].seq, flush=True)

async def main():
    journal = Journal.open(Path(sys.argv[1]))
    await asyncio.gather(*(write(journal, name) for name in ("a", "b", "c")))

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(3))
async def test_a_kill_in_the_middle_of_appends_loses_nothing_that_was_committed(path: Path, seed: int) -> None:
    """Killed at some moment, what it said to be durable is there, whole groups at a time, in order, without a gap."""
    chance = random.Random(seed)
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(chance.randrange(50, 300))]
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().splitlines()]
    entries = await reopened(path)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert max(said) <= len(entries)
    for name in ("a", "b", "c"):
        own = [(entry.at, entry.fact.instance) for entry in entries if entry.cluster == name]  # type: ignore[attr-defined]
        assert own == [(float(index // 3), str(index % 3)) for index in range(len(own))]
        assert len(own) % 3 == 0


async def test_a_torn_end_of_the_write_ahead_log_costs_no_more_than_the_end(path: Path, tmp_path: Path) -> None:
    """Wherever the file is cut, as by a disk that lied, what is read is a beginning of what was written."""
    journal = Journal.open(path)
    for fact in facts(20):
        journal.append("c", [fact])
        await journal.commit()
    everything = list(journal.load())
    log = path.with_name("journal.db-wal").read_bytes()
    main = path.read_bytes()
    found = []
    for number, size in enumerate(range(len(log), 0, -len(log) // 25)):
        copy = tmp_path / str(number) / "journal.db"
        copy.parent.mkdir(mode=0o700)
        copy.write_bytes(main)
        copy.with_name("journal.db-wal").write_bytes(log[:size])
        entries = await reopened(copy)
        assert entries == everything[: len(entries)]
        found.append(len(entries))
    await journal.close()
    assert found[0] == 20
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_a_torn_journal_is_refused_with_what_to_do(path: Path, share: float) -> None:
    """Half a file is no journal; nothing is read from it as if it were all."""
    journal = Journal.open(path)
    journal.append("c", facts(2000))
    await journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(JournalError, match=r"malformed|damaged|not a database") as caught:
        Journal.open(path)
    assert "restore it from a backup" in str(caught.value)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """Such as a text somebody put there."""
    path.parent.mkdir(mode=0o700)
    path.write_text("once upon a time, there was a journal\n" * 100)
    with pytest.raises(JournalError, match=r"not a database.*restore it from a backup"):
        Journal.open(path)


async def test_a_hundred_thousand_entries_are_loaded_in_seconds(
    path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A long-lived service comes up again soon."""
    journal = Journal.open(path)
    for number in range(100_000):
        fact = CommandEnded(at=float(number), instance="i-0123456789abcdef0", number=number % 9, attempt=1, code=0)
        journal.append(f"c{number % 7}", [fact])
    await journal.commit()
    began = time.perf_counter()
    count = sum(1 for _ in journal.load())
    seconds = time.perf_counter() - began
    record_property("seconds", seconds)
    assert count == 100_000
    assert seconds < 10
    await journal.close()


async def test_a_survey_of_a_thousand_instances_is_one_entry(journal: Journal) -> None:
    """The largest facts there are."""
    seen = tuple(Seen(id=f"i-{number}", state="running", tags={"a": "b" * 200}) for number in range(1000))
    [entry] = journal.append("c", [ClusterSurveyed(at=1.0, instances=seen, began=0.5)])
    await journal.commit()
    assert list(journal.load()) == [entry]
