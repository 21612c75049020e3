"""Asks the hosts themselves whether they are in use, and renews their timers: one SSH command each, every five minutes.

What a host answers is a sample; only its edges are told: a use that begins or ends, a timer that is there or not, a host
that does not answer. A use is leased: a probe that fails proves nothing, and keeps it for fifteen minutes at most.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, MutableMapping
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from flambed.actions import Question
from flambed.errors import StepError
from flambed.keeper.guard import Ask, Guard
from flambed.observed.facts import HostHeard, HostMute, TimerSeen, VoteBegan, VoteEnded
from flambed.observed.probes import Probe, ProbeError, Timer, Unknown, parse

if TYPE_CHECKING:
    from flambed.keeper.keeper import Keeper

EVERY: Final = 300.0
"""Seconds between two probes of a host."""

AGAIN: Final = 60.0
"""Seconds after which a host that did not answer is asked again, until it counts as mute."""

LEASE: Final = 900.0
"""Seconds for which a use counts that is not seen again because probes fail; and after which a host is mute."""

TYPED_WITHIN: Final = 1800.0
"""Seconds since the last input to a terminal for which somebody is there."""

TOLD_AT: Final = 2
"""Failures in a row of which the log tells: a host that boots, or a link that drops, may have one."""

PARALLEL: Final = 64
"""Hosts that are asked at the same time."""


class Probing:
    """Asks all hosts that have a timeout, and reduces what they answer."""

    def __init__(self, keeper: Keeper, memory: MutableMapping[str, str], gpu_percent: float) -> None:
        """Prepare; `memory` keeps the leases across restarts, so that a service that restarts does not prolong them."""
        self._keeper = keeper
        self._region = keeper.region
        self._memory = memory
        self._gpu_percent = gpu_percent
        self._slots = asyncio.Semaphore(PARALLEL)
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Work for ever."""
        for guard in self._keeper.guards.values():
            guard.listening.asking = False
        async with asyncio.TaskGroup() as group:
            while True:
                now = self._region.clock.now()
                next_at = math.inf
                guards = list(self._keeper.guards.values())
                for guard in guards:
                    self._recall(guard, now)
                # After a restart all are due at once: first comes the host whose use would lapse first.
                guards.sort(key=lambda guard: min(guard.listening.leases.values(), default=math.inf))
                for guard in guards:
                    next_at = min(next_at, self._attend(guard, now, group))
                pause = None if math.isinf(next_at) else max(0.001, self._region.clock.real(next_at - now))
                await self._keeper.until_woken(self.wake, pause)

    def _attend(self, guard: Guard, now: float, group: asyncio.TaskGroup) -> float:
        """Begin a probe that is due, end leases that have run out; return when to look at this host again."""
        question, host = guard.wanted.question, guard.listening
        for vote, until in list(host.leases.items()):
            if until <= now:
                typed_out = vote == "terminal" and host.failing_since is None
                self._end(guard, vote, "no more input" if typed_out else "it was not seen again")
        ends_at = min(host.leases.values(), default=math.inf)
        if question is None or guard.ask is None or host.asking:
            return ends_at
        if _differs(host.asked, question):  # its timer has to learn that
            host.due_at = min(host.due_at, now)
        if host.due_at > now:
            return min(ends_at, host.due_at)
        host.asking = True
        group.create_task(self._ask(guard, question, guard.ask))
        return ends_at

    async def _ask(self, guard: Guard, question: Question, ask: Ask) -> None:
        host = guard.listening
        host.asked = question  # whether or not it hears of it: what cannot be told is told again after a pause
        clock = self._region.clock
        hold = max(0.0, (question.hold_until or 0.0) - clock.now())
        try:
            async with self._slots:
                answer = parse(await ask(question, hold))
        except (StepError, ProbeError) as error:
            self._failed(guard, str(error))
        else:
            self._answered(guard, question, answer)
        finally:
            host.asking = False
            self.wake.set()

    # --- what it means -------------------------------------------------------------------------------------------

    def _failed(self, guard: Guard, why: str) -> None:
        host, now = guard.listening, self._region.clock.now()
        host.failure = why
        if host.failing_since is None:
            host.failing_since = now
        host.due_at = now + (EVERY if host.mute else AGAIN)
        if not host.mute and now - host.failing_since >= LEASE:
            host.mute = True
            self._keeper.tell(guard, HostMute(at=now, instance=guard.instance, since=host.failing_since, why=why))
        host.failures += 1
        if host.failures == TOLD_AT and not host.mute:
            self._emit("instance.probe_failed", guard, since=host.failing_since, why=why)
        if host.mute:
            self._known(guard, now)

    def _answered(self, guard: Guard, question: Question, answer: Probe) -> None:
        host, now = guard.listening, self._region.clock.now()
        host.answer, host.answered_at, host.due_at = answer, now, now + EVERY
        self._known(guard, now)
        if host.mute:
            host.mute = False
            self._keeper.tell(guard, HostHeard(at=now, instance=guard.instance))
        elif host.failures >= TOLD_AT:
            self._emit("instance.probe_recovered", guard, failures=host.failures)
        host.failing_since, host.failure, host.failures = None, "", 0
        self._take_unknown(guard, answer)
        self._take_timer(guard, question, answer.timer)
        for vote, until in self._uses(answer, now).items():
            if until is None:
                continue  # not known: what was known goes on for as long as its lease
            if until > now:
                self._renew(guard, vote, until)
            elif vote in host.leases:
                self._end(guard, vote, "it was not seen any more")
        self._remember(guard)

    def _take_unknown(self, guard: Guard, answer: Probe) -> None:
        """Say so once when a host cannot tell a signal, and when it can again."""
        unknown = guard.listening.unknown
        for signal in fields(answer):
            value = getattr(answer, signal.name)
            if isinstance(value, Unknown):
                unknown[signal.name] = unknown.get(signal.name, 0) + 1
                if unknown[signal.name] == TOLD_AT:
                    self._emit("instance.signal_unknown", guard, signal=signal.name, why=value.why)
            elif unknown.pop(signal.name, 0) >= TOLD_AT:
                self._emit("instance.signal_known", guard, signal=signal.name)

    def _emit(self, event: str, guard: Guard, **said: object) -> None:
        self._region.emit(event, cluster=guard.cluster[1], instance=guard.instance, **said)

    def _take_timer(self, guard: Guard, question: Question, state: Timer | Unknown) -> None:
        if isinstance(state, Unknown):
            return
        told = (state.value, question.minutes if state is Timer.RENEWED else None)
        if told != guard.listening.timer:
            guard.listening.timer = told
            at = self._region.clock.now()
            self._keeper.tell(guard, TimerSeen(at=at, instance=guard.instance, state=told[0], minutes=told[1]))

    def _uses(self, answer: Probe, now: float) -> Mapping[str, float | None]:
        """Return until when each kind of use counts; 0 where there is none, None where that could not be found out."""
        found: dict[str, float | None] = {"gpu": None, "terminal": None, "experiment": None}
        if not isinstance(answer.gpu, Unknown):
            found["gpu"] = now + LEASE if (answer.gpu or 0.0) > self._gpu_percent else 0.0
        if not isinstance(answer.terminal, Unknown):
            found["terminal"] = now + TYPED_WITHIN - answer.terminal if answer.terminal is not None else 0.0
        if not isinstance(answer.experiment, Unknown):
            found["experiment"] = now + LEASE if answer.experiment else 0.0
        return found

    def _renew(self, guard: Guard, vote: str, until: float) -> None:
        host = guard.listening
        if vote not in host.leases:
            self._keeper.tell(guard, VoteBegan(at=self._region.clock.now(), instance=guard.instance, vote=vote))
        host.leases[vote] = until

    def _end(self, guard: Guard, vote: str, why: str) -> None:
        del guard.listening.leases[vote]
        at = self._region.clock.now()
        self._keeper.tell(guard, VoteEnded(at=at, instance=guard.instance, vote=vote, why=why))
        self._remember(guard)

    def forget(self, instance: str) -> None:
        """Keep nothing of a host that runs no more."""
        self._memory.pop(_kept_as(instance), None)
        self._memory.pop(_known_as(instance), None)

    # --- across restarts -----------------------------------------------------------------------------------------

    def _recall(self, guard: Guard, now: float) -> None:
        """Take up the uses that the cluster knows of, with the leases that they had."""
        question, host = guard.wanted.question, guard.listening
        if question is None or host.recalled:
            return
        host.recalled, host.mute = True, question.mute
        host.known_at = float(self._memory.get(_known_as(guard.instance), "-inf"))
        kept = json.loads(self._memory.get(_kept_as(guard.instance), "{}"))
        host.leases = {vote: min(float(kept.get(vote, now + LEASE)), now + TYPED_WITHIN) for vote in question.votes}

    def _known(self, guard: Guard, now: float) -> None:
        """Note that it is known whether the host is in use; across restarts only where our own metric depends on it."""
        guard.listening.known_at = now
        if self._keeper.own_metric:
            self._memory[_known_as(guard.instance)] = str(now)

    def _remember(self, guard: Guard) -> None:
        leases = guard.listening.leases
        if leases:
            self._memory[_kept_as(guard.instance)] = json.dumps(leases)
        elif _kept_as(guard.instance) in self._memory:
            del self._memory[_kept_as(guard.instance)]


def _kept_as(instance: str) -> str:
    return f"leases {instance}"


def _known_as(instance: str) -> str:
    return f"known {instance}"


def _differs(asked: Question | None, question: Question) -> bool:
    """Whether a host's timer has been told something else than it is to know."""
    if asked is None:
        return False
    return (asked.minutes, asked.threshold, asked.hold_until) != (
        question.minutes,
        question.threshold,
        question.hold_until,
    )
