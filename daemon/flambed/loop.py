"""The loop of one cluster: the only place where the flow turns back.

    facts -> fold -> decide -> journal -> steps -> facts ...

It sleeps until a fact comes or the decision said to look again. It drains what has come, folds all of it, decides
once, writes down what it is about to do, and only then starts it. What it starts returns as facts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from flambed.actions import Action, Inform, Launch, LearnHostKey, Protection, SetUp
from flambed.errors import ClusterError, Reason, StepError
from flambed.journal import Entry, Journal, JournalError
from flambed.observed.facts import ActionEnded, ActionFailed, ActionsBegan, Fact, Key, LaunchIntended
from flambed.observed.fold import fold
from flambed.observed.instance import IllegalTransitionError, Stage
from flambed.observed.world import World
from flambed.plan import Decision, Rules, decide

REST = 0.05
"""Seconds between two decisions at least: many facts, one decision."""

ON_HOSTS: Final = (SetUp, Inform, LearnHostKey)
"""Actions that wait for one host, and can be left at any time."""

_CLOSED = "the cluster is not looked after any more: ask again"


class Clock(Protocol):
    """What the loop asks of a clock."""

    def now(self) -> float:
        """Return UNIX seconds."""

    def real(self, seconds: float) -> float:
        """Return how many real seconds these seconds of the clock take."""


class Outside(Protocol):
    """What the loop reaches the outside through."""

    def perform(
        self, action: Action, world: World, emit: Callable[[Fact], None]
    ) -> Coroutine[Any, Any, Mapping[Key, StepError]]:
        """Perform an action; what it finds is emitted, and what failed of a batch is returned by key.

        Raises:
            StepError: all of it failed, as may be expected.
        """

    def protect(self, table: Mapping[str, Protection], emit: Callable[[Fact], None]) -> None:
        """Hand the table of protection to the keeper."""

    def told(self, happened: Sequence[Happened]) -> None:
        """Take note of what has happened: the log, the routes of events, whoever watches."""

    def crashed(self, what: str, error: BaseException, action: Action | None) -> None:
        """Tell of a bug."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One fact, written down, and the world before and after it."""

    before: World
    after: World
    entry: Entry


@dataclass(slots=True)
class _Letter:
    fact: Fact
    cause: int | None
    taken: asyncio.Future[None] | None = None

    def answer(self, error: Exception | None = None) -> None:
        """Tell whoever waits that the fact was taken in, or why it was not; only the first answer counts."""
        if self.taken is None or self.taken.done():
            return
        if error is None:
            self.taken.set_result(None)
        else:
            self.taken.set_exception(error)


class ClusterLoop:
    """Owns the world of one cluster.

    Attributes:
        world: everything known now; replaced, never changed.
    """

    def __init__(
        self, cluster_id: str, world: World, *, journal: Journal, outside: Outside, rules: Rules, clock: Clock
    ) -> None:
        self.cluster_id = cluster_id
        self.world = world
        self._journal = journal
        self._outside = outside
        self._rules = rules
        self._clock = clock
        self._letters: deque[_Letter] = deque()
        self._wake = asyncio.Event()
        self._last_seq: int | None = None
        self._table: Mapping[str, Protection] = {}
        self._steps: dict[asyncio.Task[Mapping[Key, StepError]], Action] = {}
        self._ending = False
        self._closed = False

    def submit(self, fact: Fact, cause: int | None = None) -> None:
        """Take a fact; it is folded at the next turn."""
        self._letters.append(_Letter(fact, cause))
        self._wake.set()

    async def take(self, fact: Fact) -> None:
        """Take a fact, and return when it is written down and decided upon.

        Raises:
            ClusterError: nobody looks after the cluster any more.
            ReadOnlyError: the journal cannot be written, so the fact was not taken.
            JournalError: it was taken, and could not be written down; it is as soon as the journal can be written, if the
                service lives until then.
        """
        self._journal.health.check()
        if self._closed:
            raise ClusterError(_CLOSED)
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._letters.append(_Letter(fact, None, taken))
        self._wake.set()
        await taken

    def stop(self) -> None:
        """Begin nothing any more, and leave the hosts alone, which go on by themselves; `run` is to be cancelled next."""
        self._ending = True
        for task, action in self._steps.items():
            if isinstance(action, ON_HOSTS):
                task.cancel()

    async def drain(self, seconds: float) -> None:
        """Await the calls to AWS that are under way, after `stop` and `run`, for so long; then take nothing any more.

        What they found is handed to the journal. A launch that has no answer by then is called again with its token.
        """
        if self._steps:
            await asyncio.wait(self._steps, timeout=seconds)
        await self._cancel_steps()
        self._closed = True
        happened: list[Happened] = []
        for letter in self._letters:
            if letter.taken is None:
                happened += self._fold(letter.fact, letter.cause)
            letter.answer(ClusterError(_CLOSED))  # nobody is left waiting
        self._letters.clear()
        if happened:
            self._outside.told(happened)

    async def run(self) -> None:
        """Turn for ever, until cancelled."""
        self._wake.set()
        try:
            while True:
                await self._wake.wait()
                wake_at = await self._turn()
                await asyncio.sleep(REST)
                timer = None
                if wake_at is not None:
                    delay = max(0.0, self._clock.real(wake_at - self._clock.now()))
                    timer = asyncio.get_running_loop().call_later(delay, self._wake.set)
                await self._wake.wait()
                if timer:
                    timer.cancel()
        finally:
            if not self._ending:
                await self._cancel_steps()

    async def _cancel_steps(self) -> None:
        before, self._ending = self._ending, True
        steps = tuple(self._steps)
        for step in steps:
            step.cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        self._ending = before

    async def _turn(self) -> float | None:
        """Take in what has come, decide once, write it down, and begin; return when to decide again."""
        self._wake.clear()
        letters = list(self._letters)
        self._letters.clear()
        try:
            wake_at = await self._take_in(letters)
        except BaseException as error:
            for letter in letters:  # nobody waits for what will not come
                letter.answer(ClusterError(f"a bug in flambed, told in its log: {error!r}"))
            raise
        for letter in letters:
            letter.answer()
        return wake_at

    async def _take_in(self, letters: list[_Letter]) -> float | None:
        happened: list[Happened] = []
        for letter in letters:
            happened += self._fold(letter.fact, letter.cause)
        self._call_off()
        decision = decide(self.world.desired, self.world, self._clock.now(), self._rules)
        cause = happened[-1].entry.seq if happened else self._last_seq
        for fact in (*decision.conclusions, *self._intents(decision)):
            happened += self._fold(fact, cause)
        if happened:
            self._last_seq = happened[-1].entry.seq
            await self._commit(letters)
            self._outside.told(happened)
        if decision.protection != self._table:
            self._table = decision.protection
            self._outside.protect(self._table, self.submit)
        for action in decision.actions:
            self._begin(action, cause)
        if decision.conclusions:
            self._wake.set()  # they may lead on
        return decision.wake_at

    def _fold(self, fact: Fact, cause: int | None) -> Sequence[Happened]:
        before = self.world
        try:
            world = fold(before, fact)
        except IllegalTransitionError as error:
            self._outside.crashed("folding a fact", error, None)
            return ()
        if world is before:
            return ()
        self.world = world
        [entry] = self._journal.append(self.cluster_id, (fact,), cause=cause)
        return (Happened(before, world, entry),)

    def _intents(self, decision: Decision) -> list[Fact]:
        """Return what has to be written down before the actions begin."""
        now = self._clock.now()
        intended: list[Fact] = [
            LaunchIntended(at=now, token=action.token, spec=action.spec)
            for action in decision.actions
            if isinstance(action, Launch) and action.token not in self.world.intents
        ]
        keys = tuple(key for action in decision.actions for key in action.keys)
        return [*intended, ActionsBegan(at=now, keys=keys)] if keys else intended

    async def _commit(self, letters: list[_Letter]) -> None:
        """Make everything durable; nothing is done before it is."""
        while True:
            try:
                await self._journal.commit()
                return
            except JournalError as error:
                advice = (
                    f"{error.advice}; what was asked for is done once that is so, and lost if the service ends before: "
                    "ask again then"
                )
                told = JournalError(error.path, error.what, advice)
                # Those that came meanwhile would wait as long as the disk refuses.
                for letter in (*letters, *self._letters):
                    letter.answer(told)
            await self._journal.health.good()

    def _call_off(self) -> None:
        """Cancel the steps about hosts that are ending: nobody waits for a connection to a machine that is given back."""
        for task, action in self._steps.items():
            if isinstance(action, ON_HOSTS):
                instance = self.world.instances.get(action.instance)
                if instance is not None and instance.stage in (Stage.STOPPING, Stage.GONE):
                    task.cancel()

    def _begin(self, action: Action, cause: int | None) -> None:
        work = self._outside.perform(action, self.world, lambda fact: self.submit(fact, cause))
        task = asyncio.get_running_loop().create_task(work, name=type(action).__name__)
        self._steps[task] = action
        task.add_done_callback(lambda task: self._ended(task, action, cause))

    def _ended(self, task: asyncio.Task[Mapping[Key, StepError]], action: Action, cause: int | None) -> None:
        """Make facts of how a step ended. A bug in one must not leave its key under way for ever."""
        del self._steps[task]
        failures: Mapping[Key, StepError] = {}
        error = None
        if task.cancelled():
            if self._ending:
                return
        elif (error := task.exception()) is None:
            failures = task.result()
        elif isinstance(error, StepError):
            failures = dict.fromkeys(action.keys, error)
        else:
            self._outside.crashed(f"the step {type(action).__name__}", error, action)
            bug = StepError(Reason.TRANSIENT, type(error).__name__, "a bug in flambed; its log has the details")
            failures = dict.fromkeys(action.keys, bug)
        now = self._clock.now()
        for key in action.keys:
            if (failure := failures.get(key)) is not None:
                reason, code, message = failure.reason, failure.code, failure.message
                self.submit(ActionFailed(at=now, key=key, reason=reason, code=code, message=message), cause)
            else:
                self.submit(ActionEnded(at=now, key=key), cause)
