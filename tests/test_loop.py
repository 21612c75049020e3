"""The loop: what comes is folded at once, decided upon once, written down before it is acted on, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flambed import loop as loops
from flambed.actions import Action, Find, Launch, Prepare, Protection, SetUp, Tag, Terminate
from flambed.clock import Clock
from flambed.desired import Role
from flambed.errors import ClusterError, Reason, StepError
from flambed.journal import Journal, JournalError, ReadOnlyError
from flambed.loop import ClusterLoop, Emit, Happened
from flambed.observed import facts
from flambed.observed.facts import Fact, Image, Key, LaunchSpec
from flambed.observed.fold import fold
from flambed.observed.instance import IllegalTransitionError
from flambed.observed.world import World
from flambed.plan import Rules
from tests.stories.story import KEY, cluster, see


class Stage:
    """An outside that does what a test tells it to, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Action] = []
        self.answers: dict[type[Action], Callable[[Action], list[Fact] | Exception]] = {}
        self.happened: list[Happened] = []
        self.tables: list[Mapping[str, Protection]] = []
        self.bugs: list[str] = []
        self.cancelled = 0
        self.news = asyncio.Event()

    def perform(self, action: Action, world: World, emit: Emit) -> Coroutine[Any, Any, Mapping[Key, StepError]]:
        self.asked.append(action)
        self.news.set()
        return self._perform(action, emit)

    async def _perform(self, action: Action, emit: Emit) -> Mapping[Key, StepError]:
        answer = self.answers.get(type(action))
        if answer is None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        assert answer is not None
        found = answer(action)
        if isinstance(found, Exception):
            raise found
        for fact in found:
            emit(fact)
        return {}

    def protect(self, table: Mapping[str, Protection], emit: Callable[[Fact], None]) -> None:
        self.tables.append(table)

    def told(self, happened: Sequence[Happened]) -> None:
        self.happened += happened
        self.news.set()

    def crashed(self, what: str, error: BaseException, action: Action | None) -> None:
        self.bugs.append(f"{what}: {error!r}")
        self.news.set()

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(10):
            while not what():
                self.news.clear()
                await self.news.wait()

    def kinds(self) -> list[str]:
        """The facts that were written down, by kind."""
        return [type(one.entry.fact).__name__ for one in self.happened]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """A journal on disk."""
    journal = Journal.open(tmp_path / "state" / "journal.sqlite")
    yield journal
    await journal.close()


@pytest.fixture
async def stage() -> Stage:
    """An outside."""
    return Stage()


@pytest.fixture
async def loop(journal: Journal, stage: Stage) -> AsyncIterator[ClusterLoop]:
    """A running loop of an empty cluster."""
    loop = ClusterLoop("c1", World(), journal=journal, outside=stage, rules=Rules(daemon="d1"), clock=Clock())
    task = asyncio.create_task(loop.run())
    yield loop
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def up() -> facts.UpRequested:
    """Return an `up` of the stories' cluster."""
    return facts.UpRequested(
        at=Clock().now(),
        desired=cluster(),
        region="us-east-1",
        cluster_id="c1",
        host_key=KEY,
        owner=1,
        by=1,
        may_adopt=False,
    )


def nothing_exists(_action: Action) -> list[Fact]:
    """Answer a look by tag."""
    now = Clock().now()
    return [facts.ClusterSurveyed(at=now, instances=(), began=now)]


def prepared(action: Action) -> list[Fact]:
    """Answer a preparation."""
    assert isinstance(action, Prepare)
    image = Image(id="ami-1", root_device="/dev/sda1", min_gib=8)
    specs = [LaunchSpec(role=role, count=0, image=image, type="t", ebs_optimized=False) for role in action.roles]
    return [facts.LaunchPrepared(at=Clock().now(), specs=tuple(specs))]


@pytest.mark.seed("C01")
async def test_both_roles_are_launched_at_the_same_time(loop: ClusterLoop, stage: Stage) -> None:
    """One decision asks for the orchestrator and the factories; neither waits for the other."""
    stage.answers = {Find: nothing_exists, Prepare: prepared}
    loop.submit(up())
    await stage.until(lambda: sum(isinstance(a, Launch) for a in stage.asked) == 2)
    assert {a.spec.role for a in stage.asked if isinstance(a, Launch)} == set(Role)


async def test_a_launch_is_on_disk_before_it_is_called(loop: ClusterLoop, stage: Stage, journal: Journal) -> None:
    """Persist, then send: when the step is asked for, another reader of the journal sees the intent."""
    committed: list[list[str]] = []

    def launch(_action: Action) -> list[Fact]:
        committed.append([type(entry.fact).__name__ for entry in journal.load()])
        return []

    stage.answers = {Find: nothing_exists, Prepare: prepared, Launch: launch}
    loop.submit(up())
    await stage.until(lambda: len(committed) == 2)
    assert all(kinds.count("LaunchIntended") == 2 for kinds in committed)


async def test_what_a_step_has_written_is_on_disk_before_it_goes_on(
    loop: ClusterLoop, stage: Stage, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host shows its new key only once the service can never forget it."""
    found: list[list[str]] = []

    async def perform(_action: Action, emit: Emit) -> Mapping[Key, StepError]:
        await emit.written(facts.HoldPlaced(at=1.0, by=1, until=2.0, why="x"))
        found.append([type(entry.fact).__name__ for entry in journal.load()])
        stage.news.set()
        return {}

    monkeypatch.setattr(stage, "_perform", perform)
    loop.submit(up())
    await stage.until(lambda: bool(found))
    assert "HoldPlaced" in found[0]


async def test_what_cannot_be_written_fails_the_step_and_is_no_bug(
    loop: ClusterLoop, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again as soon as the disk allows."""

    async def perform(_action: Action, emit: Emit) -> Mapping[Key, StepError]:
        async def refused(_fact: Fact, _cause: int | None) -> None:
            raise ClusterError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(loop, "take", refused)
            await emit.written(facts.HoldPlaced(at=1.0, by=1, until=2.0, why="x"))
        return {}

    monkeypatch.setattr(stage, "_perform", perform)
    loop.submit(up())
    await stage.until(lambda: "ActionFailed" in stage.kinds())
    [failed] = [one.entry.fact for one in stage.happened if isinstance(one.entry.fact, facts.ActionFailed)][:1]
    assert (failed.reason, failed.message, stage.bugs) == (Reason.TRANSIENT, "the disk is full", [])


async def test_many_facts_make_one_decision(loop: ClusterLoop, stage: Stage) -> None:
    """What came in the meantime is folded together, and written in one go."""
    stage.answers = {Find: nothing_exists}
    loop.submit(up())
    await stage.until(lambda: any(isinstance(a, Prepare) for a in stage.asked))
    before = len(stage.happened)
    for number in range(100):
        loop.submit(facts.HoldPlaced(at=1.0, by=1, until=Clock().now() + number + 60, why="x"))
    await loop.take(facts.HoldReleased(at=2.0, by=1))
    assert stage.kinds()[before:] == ["HoldPlaced"] * 100 + ["HoldReleased"]


async def test_a_fact_that_tells_nothing_new_is_not_written_down(loop: ClusterLoop, stage: Stage) -> None:
    """An event of an instance that is not ours leaves no trace."""
    loop.submit(facts.StateNotified(at=1.0, instance="i-other", state="running"))
    await loop.take(facts.HoldPlaced(at=1.0, by=1, until=2.0, why="x"))
    assert stage.kinds() == ["HoldPlaced"]


@pytest.mark.seed("S38")
async def test_an_expected_failure_becomes_a_fact_with_its_reason(loop: ClusterLoop, stage: Stage) -> None:
    """A step raises; the loop writes down why."""
    stage.answers = {Find: lambda _: StepError(Reason.NOT_PERMITTED, "AuthFailure", "no credentials")}
    loop.submit(up())
    await stage.until(lambda: "ActionFailed" in stage.kinds())
    assert loop.world.failures[Key("find")].reason is Reason.NOT_PERMITTED
    assert stage.bugs == []


async def test_a_bug_in_a_step_is_told_and_the_loop_goes_on(loop: ClusterLoop, stage: Stage) -> None:
    """It is logged with the action, and tried again later instead of being under way for ever."""
    stage.answers = {Find: lambda _: KeyError("surprise")}
    loop.submit(up())
    await stage.until(lambda: bool(stage.bugs) and "ActionFailed" in stage.kinds())
    assert "the step Find: KeyError('surprise')" in stage.bugs[0]
    assert loop.world.in_flight == {}
    await loop.take(facts.HoldPlaced(at=1.0, by=1, until=2.0, why="still here"))


async def test_an_impossible_fact_is_told_and_dropped(
    loop: ClusterLoop, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the fold does not end the loop."""

    def impossible(world: World, fact: Fact) -> World:
        if isinstance(fact, facts.HoldReleased):
            raise IllegalTransitionError("i-1 cannot go from gone to ready; its story: ...")
        return fold(world, fact)

    monkeypatch.setattr(loops, "fold", impossible)
    await loop.take(facts.HoldReleased(at=1.0, by=1))
    await loop.take(facts.HoldPlaced(at=1.0, by=1, until=2.0, why="x"))
    assert len(stage.bugs) == 1
    assert stage.kinds() == ["HoldPlaced"]


async def test_nothing_is_done_while_the_journal_cannot_be_written(
    loop: ClusterLoop, stage: Stage, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked is told; the loop tries again by itself and then goes on."""
    monkeypatch.setattr("flambed.journal.health.RETRY", 0.01)
    told: list[str | None] = []
    journal.health.watch(told.append)
    (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
    journal._connection.execute(f"PRAGMA max_page_count = {pages}")
    commit, begun, gate = journal.commit, asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        await gate.wait()
        await commit()

    monkeypatch.setattr(journal, "commit", slow)
    first = asyncio.create_task(loop.take(replace(up(), desired=cluster(setup_cmds=("x" * 100_000,)))))
    await begun.wait()
    second = asyncio.create_task(loop.take(facts.HoldReleased(at=1.0, by=1)))
    await asyncio.sleep(0)  # it comes while the first one is being written
    gate.set()
    for asked in (first, second):
        with pytest.raises(
            JournalError, match="make room on its disk; what was asked for is done once that is so, and lost if"
        ):
            await asked
    with pytest.raises(ReadOnlyError, match="make room on its disk; until then the service is read-only"):
        await loop.take(facts.DownRequested(at=1.0, by=1))
    await asyncio.sleep(0.05)  # some tries later
    assert stage.asked == []
    assert len(told) == 1
    journal._connection.execute("PRAGMA max_page_count = 1000000")
    await stage.until(lambda: bool(stage.asked))
    assert isinstance(stage.asked[0], Find)
    assert told[1:] == [None]
    assert stage.kinds()[0] == "UpRequested"
    assert "DownRequested" not in stage.kinds()


async def test_stopping_ends_the_steps_that_are_under_way(journal: Journal, stage: Stage) -> None:
    """Cancellation reaches every step, and nothing is left running."""
    loop = ClusterLoop("c1", World(), journal=journal, outside=stage, rules=Rules(daemon="d1"), clock=Clock())
    task = asyncio.create_task(loop.run())
    loop.submit(up())
    await stage.until(lambda: bool(stage.asked))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert stage.cancelled == 1


async def test_the_table_of_protection_is_handed_over_when_it_changes(loop: ClusterLoop, stage: Stage) -> None:
    """Not at every turn: the keeper is told once."""

    def exists(_action: Action) -> list[Fact]:
        now = Clock().now()
        tags = {"flambed:cluster": "c1"}
        seen = (see("i-o", Role.ORCHESTRATOR, "running", tags=tags), see("i-0", Role.FACTORY, "running", tags=tags))
        return [facts.ClusterSurveyed(at=now, instances=seen, began=now)]

    stage.answers = {Find: exists}
    await loop.take(replace(up(), desired=cluster(factories_timeout=1)))
    await stage.until(lambda: bool(stage.tables))
    # What the tags alone say is ours may have had an alarm: that of the orchestrator, who lives for ever, is removed.
    assert {i: wanted.minutes for i, wanted in stage.tables[-1].items()} == {"i-o": None, "i-0": 60}
    handed = len(stage.tables)
    await loop.take(facts.BecameBusy(at=Clock().now(), instance="i-0"))
    assert len(stage.tables) == handed


async def test_a_set_up_is_called_off_when_its_machine_is_given_back(loop: ClusterLoop, stage: Stage) -> None:
    """It would hold a connection's place until its deadline."""

    def exists(_action: Action) -> list[Fact]:
        now = Clock().now()
        tags = {"flambed:cluster": "c1"}
        seen = (see("i-o", Role.ORCHESTRATOR, "running", tags=tags), see("i-0", Role.FACTORY, "running", tags=tags))
        return [facts.ClusterSurveyed(at=now, instances=seen, began=now)]

    def accepted(action: Action) -> list[Fact]:
        assert isinstance(action, Terminate)
        return [facts.TerminationAccepted(at=Clock().now(), instances=action.instances)]

    stage.answers = {Find: exists, Terminate: accepted, Tag: lambda _: [], Prepare: prepared, Launch: lambda _: []}
    await loop.take(replace(up(), desired=cluster(factories_num=1)))
    await stage.until(lambda: sum(isinstance(a, SetUp) for a in stage.asked) == 2)
    await loop.take(facts.DownRequested(at=Clock().now(), by=1))
    await stage.until(lambda: all(key.kind != "setup" for key in loop.world.in_flight) and stage.cancelled == 2)
    assert stage.bugs == []


class Slow(Stage):
    """A stage whose launches take until `answer` is set; all else is answered or waits for ever, as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()
        self.answers = {Find: nothing_exists, Prepare: prepared}

    async def _perform(self, action: Action, emit: Emit) -> Mapping[Key, StepError]:
        if isinstance(action, Launch):
            await self.answer.wait()
            emit(facts.LaunchAnswered(at=Clock().now(), token=action.token, instances=()))
            return {}
        return await super()._perform(action, emit)


async def stopped(journal: Journal, stage: Stage) -> ClusterLoop:
    """A loop that is stopped while both its launches are under way."""
    loop = ClusterLoop("c1", World(), journal=journal, outside=stage, rules=Rules(daemon="d1"), clock=Clock())
    task = asyncio.create_task(loop.run())
    loop.submit(up())
    await stage.until(lambda: sum(isinstance(a, Launch) for a in stage.asked) == 2)
    loop.stop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return loop


async def test_a_loop_that_is_stopped_writes_down_what_aws_still_answers(journal: Journal) -> None:
    """The launches that are under way are awaited, and nothing follows from their answers any more."""
    stage = Slow()
    loop = await stopped(journal, stage)
    asked = len(stage.asked)
    draining = asyncio.create_task(loop.drain(60))
    done, _ = await asyncio.wait({draining}, timeout=0.05)
    assert not done
    stage.answer.set()
    await draining
    await journal.commit()
    kinds = [type(entry.fact).__name__ for entry in journal.load()]
    assert kinds.count("LaunchAnswered") == 2
    assert (len(stage.asked), stage.cancelled) == (asked, 0)
    with pytest.raises(ClusterError):
        await loop.take(up())


async def test_a_loop_that_is_stopped_waits_for_aws_no_longer_than_it_may(journal: Journal) -> None:
    """An answer that does not come is not written down: the launch is called again with its token at the next start."""
    stage = Slow()
    loop = await stopped(journal, stage)
    await loop.drain(0.01)
    await journal.commit()
    assert "LaunchAnswered" not in [type(entry.fact).__name__ for entry in journal.load()]
    assert loop.world.intents.keys() == {a.token for a in stage.asked if isinstance(a, Launch)}
