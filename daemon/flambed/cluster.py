"""One cluster in the service: its loop, and all that its loop reaches the outside through.

It performs the plan's actions (see `hands`), hands the protection table to the region's keeper, writes the log, routes
the events of its instances, and wakes whoever watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from flambed.actions import Action, Protection
from flambed.bench import Bench
from flambed.desired import Cluster
from flambed.errors import StepError
from flambed.hands import Hands
from flambed.journal import Journal
from flambed.log import Log
from flambed.loop import ClusterLoop, Emit, Happened
from flambed.observed.facts import Fact, Key, ServiceStarted
from flambed.observed.instance import Instance, Stage
from flambed.observed.world import World
from flambed.plan import Rules
from flambed.region import Region
from flambed.tags import CLUSTER_TAG, DAEMON_TAG
from flambed.tasks import end, supervise


class Member:
    """A cluster that the service looks after.

    Attributes:
        identity: creator and name.
        cluster_id: random; tells it from an earlier cluster of that name.
        loop: its loop; `loop.world` is what is known of it.
    """

    def __init__(
        self,
        identity: tuple[str, str],
        cluster_id: str,
        world: World,
        *,
        region: Region,
        rules: Rules,
        bench: Bench,
        journal: Journal,
        log: Log,
        on_change: Callable[[], None],
    ) -> None:
        self.identity = identity
        self.cluster_id = cluster_id
        self.region = region
        self.rules = rules
        self._bench = bench
        self._log = log.bind(cluster=identity[1])
        self._on_change = on_change
        self._hands = Hands(cluster_id, region, bench)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.loop = ClusterLoop(cluster_id, world, journal=journal, outside=self, rules=rules, clock=region.clock)

    @property
    def world(self) -> World:
        """What is known of it."""
        return self.loop.world

    @property
    def desired(self) -> Cluster:
        """What it shall be."""
        assert self.world.desired is not None, "a cluster is known from its first `up` on"
        return self.world.desired

    @property
    def alarms_left(self) -> bool:
        """Whether alarms of its hosts may have to be removed still; a volume is found by its tags (`gc`), an alarm may not be."""
        return any(i.alarm_left for i in self.world.instances.values())

    @property
    def leftovers(self) -> bool:
        """Whether alarms or volumes of its hosts may have to be removed still: its record is needed for that."""
        return self.alarms_left or any(i.volumes_left for i in self.world.instances.values())

    def start(self) -> None:
        """Begin to turn, and to receive the region's facts; what was under way before is not any more."""
        for instance in self.world.instances.values():
            if instance.stage is not Stage.GONE:
                self.region.route(instance.id, self.identity)
        if self.world.phase == "gone":
            self._forget_keys()
        if self.world.desired is not None:
            self.loop.submit(ServiceStarted(at=self.region.clock.now()))
        self.region.subscribe(self.identity, self.loop.submit)
        work = supervise(self.loop.run, self._loop_crashed)
        self._task = asyncio.create_task(work, name=f"cluster {'/'.join(self.identity)}")

    async def close(self, drain: float = 0.0) -> None:
        """Stop turning, and await calls to AWS that are under way for so many seconds; the cluster itself goes on."""
        self.loop.stop()
        if self._task is not None:
            await end(self._task)
        await self.loop.drain(drain)
        self.region.unsubscribe(self.identity)

    def changes(self) -> asyncio.Event:
        """Return an event that is set at the next change."""
        return self._changed

    # --- what the loop reaches the outside through ------------------------------------------------------------------

    def perform(self, action: Action, world: World, emit: Emit) -> Coroutine[Any, Any, Mapping[Key, StepError]]:
        """Perform an action."""
        return self._hands.perform(action, world, emit)

    def protect(self, table: Mapping[str, Protection], emit: Callable[[Fact], None]) -> None:
        """Hand the protection table to the region's keeper."""
        tags = {CLUSTER_TAG: self.cluster_id, DAEMON_TAG: self._bench.daemon}
        self.region.keeper.want(self.identity, table, emit, tags, partial(self._hands.ask, emit))

    def told(self, happened: Sequence[Happened]) -> None:
        """Write the log, route events, and wake whoever watches."""
        for one in happened:
            self._log.tell(one.entry)
            for instance, was in moved(one.before, one.after):
                event, fields = stage_event(one.after, instance, was)
                self._log.emit(event, instance=instance.id, cause=one.entry.seq, **fields)
                if was is None:
                    self.region.route(instance.id, self.identity)
                elif instance.stage is Stage.GONE:
                    self.region.unroute(instance.id)
        if happened[-1].after.phase == "gone" and happened[0].before.phase != "gone":
            self._forget_keys()
        self.notify()

    def notify(self) -> None:
        """Wake whoever watches."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()

    def crashed(self, what: str, error: BaseException, action: Action | None) -> None:
        """Log a bug in a step or a fold."""
        self._log.emit(
            "step.crashed",
            action=type(action).__name__ if action else None,
            step=what,
            pause=None,
            error=f"{type(error).__name__}: {error}",
            traceback=error,
        )

    def _forget_keys(self) -> None:
        try:
            self._bench.keys.forget(self.cluster_id)
        except OSError as error:  # tried again when the service starts, and when the cluster is forgotten
            self.crashed("forgetting keys", error, None)

    def _loop_crashed(self, error: BaseException, _pause: float) -> None:
        self._log.emit("loop.crashed", error=f"{type(error).__name__}: {error}", traceback=error)
        # What was under way was cancelled with it: it is begun again.
        self.loop.submit(ServiceStarted(at=self.region.clock.now()))


def moved(before: World, after: World) -> Iterator[tuple[Instance, Stage | None]]:
    """Return the instances that are in another stage than before, with that one; None for those that are new."""
    for instance in after.instances.values():
        was = before.instances.get(instance.id)
        if was is None or was.stage is not instance.stage:
            yield instance, was.stage if was else None


def stage_event(world: World, instance: Instance, was: Stage | None) -> tuple[str, dict[str, Any]]:
    """Return the event of an instance that has come to another stage."""
    assert world.desired is not None, "a cluster has instances from its first `up` on"
    reason = instance.failure.message if instance.failure else instance.why
    return f"instance.{instance.stage.value}", {
        "role": instance.role.value,
        "name": world.desired.instance_name(instance.role, instance.index),
        "was": was.value if was else None,
        "reason": reason if instance.stage in (Stage.FAILED, Stage.STOPPING, Stage.GONE) else None,
    }
