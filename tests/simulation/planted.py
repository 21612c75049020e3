"""Bugs to plant into the product's own modules, each of a kind that a program of this field has had or may have.

Each is a context manager, under which lives are lived; `PLANTED` says how the promise that it breaks is told.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from flambed import aws
from flambed.desired import Role
from flambed.errors import Reason
from flambed.keeper import alarms
from flambed.keeper.guard import Guard
from flambed.keeper.probing import Probing
from flambed.loop import ClusterLoop
from flambed.observed import fold, sightings
from flambed.observed import hosts as host_facts
from flambed.observed.facts import BecameIdle, HostKeyRefused, ServiceStarted, StateNotified
from flambed.observed.instance import DYING, Instance, Stage
from flambed.observed.probes import Probe
from flambed.observed.world import World
from flambed.plan import draft as drafts
from flambed.plan import hosts, launching, protecting, retiring
from flambed.plan.draft import Draft
from flambed.policy import IdlePolicy
from flambed.steps import launch, protect


@contextmanager
def token_made_anew() -> Iterator[None]:
    """A launch that is replayed is asked for under another token than the one that was written down."""
    inner = launch.run_instances_params

    def params(*args: Any, **more: Any) -> dict[str, Any]:
        return inner(*args, **more) | {"ClientToken": secrets.token_hex(8)}

    with mock.patch.object(launch, "run_instances_params", params):
        yield


@contextmanager
def act_before_commit() -> Iterator[None]:
    """What is decided is done, and written down some time later."""

    async def later(_loop: ClusterLoop, _letters: object) -> None:
        return

    with mock.patch.object(ClusterLoop, "_commit", later):
        yield


@contextmanager
def intents_dropped() -> Iterator[None]:
    """A restart forgets the launches that have no answer yet."""

    def started(world: World, fact: ServiceStarted) -> World:
        return replace(fold._service_started(world, fact), intents={})

    with mock.patch.dict(fold._FOLDS, {ServiceStarted: started}):
        yield


@contextmanager
def in_flight_kept() -> Iterator[None]:
    """After a restart, what the last process had begun still counts as under way."""

    def started(world: World, fact: ServiceStarted) -> World:
        return replace(fold._service_started(world, fact), in_flight=world.in_flight)

    with mock.patch.dict(fold._FOLDS, {ServiceStarted: started}):
        yield


@contextmanager
def lost_launch_abandoned() -> Iterator[None]:
    """A launch whose answer was lost is closed as if it had created nothing."""
    inner = fold._launch_failed

    def closed(world: World, token: str, failure: Any) -> World:
        return fold._close(inner(world, token, failure), token)

    with mock.patch.dict(fold._FAILURES, {"launch": closed}):
        yield


@contextmanager
def launches_counted_by_a_look() -> Iterator[None]:
    """What was launched counts only once a description shows it, so until then it is launched again."""
    with mock.patch.object(launching, "missing", launching.lacking):
        yield


@contextmanager
def event_is_truth() -> Iterator[None]:
    """An event ends an instance without a look."""

    def believed(world: World, fact: StateNotified) -> World:
        instance = world.instances.get(fact.instance)
        if instance is None or instance.stage is Stage.GONE or fact.state not in DYING:
            return sightings.state_notified(world, fact)
        return world.with_instance(replace(instance.to(Stage.GONE, fact.at), state="terminated"))

    with mock.patch.dict(fold._FOLDS, {StateNotified: believed}):
        yield


@contextmanager
def gone_on_one_look() -> Iterator[None]:
    """An instance that one description lacks is declared gone."""
    with (
        mock.patch.object(sightings, "GONE_AFTER_MISSES", 1),
        mock.patch.object(sightings, "GONE_AFTER_SECONDS", 0.0),
    ):
        yield


@contextmanager
def termination_given_up() -> Iterator[None]:
    """A termination that failed is not tried again."""
    inner = retiring._ask

    def once(draft: Draft, instances: Iterable[Instance]) -> None:
        failed = {key.subject for key in draft.world.failures if key.kind == "terminate"}
        inner(draft, [instance for instance in instances if instance.id not in failed])

    with mock.patch.object(retiring, "_ask", once):
        yield


@contextmanager
def strangers_welcome() -> Iterator[None]:
    """What carries the cluster's name is taken for the cluster's own, whoever launched it."""
    with mock.patch.object(sightings, "_ours", return_value=True):
        yield


@contextmanager
def alarm_never_put() -> Iterator[None]:
    """An alarm is believed to stand that was never put."""
    inner = alarms._work_for
    with mock.patch.object(alarms, "_work_for", lambda guard: None if inner(guard) == "put" else inner(guard)):
        yield


@contextmanager
def alarm_deleted_before_put() -> Iterator[None]:
    """An alarm is replaced by deleting it first, so a crash in between leaves its host without one."""
    inner = alarms.Alarms._put

    async def put(self: alarms.Alarms, guard: Guard) -> None:
        await self._remove([guard])
        await inner(self, guard)

    with mock.patch.object(alarms.Alarms, "_put", put):
        yield


@contextmanager
def factories_have_no_vote() -> Iterator[None]:
    """Living factories do not count as a use of their orchestrator."""
    inner = protecting.votes

    def votes(draft: Draft, instance: Instance) -> dict[str, float]:
        return {kind: until for kind, until in inner(draft, instance).items() if kind != "factories"}

    with mock.patch.object(protecting, "votes", votes):
        yield


@contextmanager
def set_up_twice() -> Iterator[None]:
    """A set-up that is under way does not keep another from beginning."""
    inner = hosts._set_up

    def set_up(draft: Draft, instance: Instance) -> None:
        under_way = {key: at for key, at in draft.world.in_flight.items() if key.kind != "setup"}
        inner(replace(draft, world=replace(draft.world, in_flight=under_way)), instance)

    with mock.patch.object(hosts, "_set_up", set_up):
        yield


@contextmanager
def throttled_is_no_capacity() -> Iterator[None]:
    """An answer "too fast" is told as if EC2 had no such machines."""
    wrong = dict.fromkeys(aws._CODES[Reason.THROTTLED], Reason.NO_CAPACITY)
    with mock.patch.dict(aws._REASONS, wrong):
        yield


@contextmanager
def no_pause() -> Iterator[None]:
    """What failed is tried again at once."""
    with mock.patch.object(drafts, "again_at", lambda failure: failure.at):
        yield


@contextmanager
def long_pause() -> Iterator[None]:
    """After an outage, what it held up waits for minutes."""
    with mock.patch.dict(drafts._PAUSES, {Reason.TRANSIENT: (1.0, 3600.0)}):
        yield


@contextmanager
def orchestrator_forgotten() -> Iterator[None]:
    """`down` gives back the factories, and the orchestrator stays."""
    inner = retiring.terminate

    def terminate(draft: Draft, instances: Iterable[Instance]) -> None:
        inner(draft, [instance for instance in instances if instance.role is Role.FACTORY])

    with mock.patch.object(retiring, "terminate", terminate):
        yield


# --- idle protection, and trust in hosts


@contextmanager
def points_not_ahead() -> Iterator[None]:
    """A vote has no points ahead of now, so nothing rides over a restart."""
    inner = protect.vote_minutes

    def vote_minutes(now: float, until: float, written: float | None, _ahead: int = 0) -> list[float]:
        return inner(now, until, written, 0)

    with mock.patch.object(protect, "vote_minutes", vote_minutes):
        yield


@contextmanager
def what_failed_is_idle() -> Iterator[None]:
    """A host that does not answer, or cannot tell how it is used, is taken for one that nobody uses."""
    inner, inner_uses = Probing._failed, Probing._uses

    def failed(self: Probing, guard: Guard, why: str) -> None:
        for vote in list(guard.listening.leases):
            self._end(guard, vote, why)
        inner(self, guard, why)

    def uses(self: Probing, answer: Probe, now: float) -> Mapping[str, float | None]:
        return {vote: until or 0.0 for vote, until in inner_uses(self, answer, now).items()}

    with mock.patch.object(Probing, "_failed", failed), mock.patch.object(Probing, "_uses", uses):
        yield


@contextmanager
def gpu_is_not_looked_at() -> Iterator[None]:
    """A GPU that is busy does not count as use."""
    inner = Probing._uses

    def uses(self: Probing, answer: Probe, now: float) -> Mapping[str, float | None]:
        return {**inner(self, answer, now), "gpu": 0.0}

    with mock.patch.object(Probing, "_uses", uses):
        yield


@contextmanager
def vote_never_ends() -> Iterator[None]:
    """A use that was seen once counts for ever."""

    def end(_self: Probing, guard: Guard, vote: str, _why: str) -> None:
        del guard.listening.leases[vote]

    with mock.patch.object(Probing, "_end", end):
        yield


@contextmanager
def seeded_at_each_start() -> Iterator[None]:
    """After each restart all hosts have fake points first, and their whole timeout again."""

    def must_seed(_draft: Draft, _instance: Instance, policy: IdlePolicy) -> bool:
        return policy.minutes is not None

    with mock.patch.object(protecting, "_must_seed", must_seed):
        yield


@contextmanager
def idleness_is_activity() -> Iterator[None]:
    """An experiment counts as begun as soon as somebody has seen that the host is idle."""

    def became_idle(world: World, fact: BecameIdle) -> World:
        since = fact.since if fact.since is not None else fact.at
        return host_facts.became_idle(world, replace(fact, since=since))

    with mock.patch.dict(fold._FOLDS, {BecameIdle: became_idle}):
        yield


@contextmanager
def changed_key_accepted() -> Iterator[None]:
    """A host that shows another key than the pinned one is known by that from then on."""

    def refused(world: World, fact: HostKeyRefused) -> World:
        return host_facts._pinned(world, fact.instance, fact.shown) if fact.shown else world

    with mock.patch.dict(fold._FOLDS, {HostKeyRefused: refused}):
        yield


PLANTED: Mapping[Callable[[], AbstractContextManager[None]], tuple[str, int]] = {
    token_made_anew: ("which was not written down before", 0),
    act_before_commit: ("which was not written down before", 0),
    intents_dropped: ("exist", 66),
    in_flight_kept: ("for 6000 s", 0),
    lost_launch_abandoned: ("factories exist", 0),
    launches_counted_by_a_look: ("exist", 0),
    event_is_truth: ("", 0),
    gone_on_one_look: ("", 0),
    termination_given_up: ("6000 s", 96),
    strangers_welcome: ("which belongs to somebody else", 0),
    alarm_never_put: ("runs without its alarm", 0),
    alarm_deleted_before_put: ("which runs, was deleted", 0),
    factories_have_no_vote: ("before its factories", 0),
    set_up_twice: ("two set-ups at once", 0),
    throttled_is_no_capacity: ("is reported as lacking capacity", 0),
    no_pause: ("a busy loop", 60),
    long_pause: ("was not tried again", 440),
    orchestrator_forgotten: ("`down`", 0),
    points_not_ahead: ("was ended by its alarm", 400),
    what_failed_is_idle: ("was ended by its", 980),
    gpu_is_not_looked_at: ("which its GPU uses", 80),
    vote_never_ends: ("has not been used for its timeout", 0),
    seeded_at_each_start: ("has not been used for its timeout", 780),
    idleness_is_activity: ("which what is to begin uses", 0),
    changed_key_accepted: ("an impostor", 0),
}
"""What is told of the promise that a bug breaks, and the first seed to be tried: 0, unless it takes long from there.

A change of the weather gives all seeds other lives: where a bug takes long again, a nearer seed is to be found.
"""
