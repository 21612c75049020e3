"""What every host of a region should have, and who makes it true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from flambed.actions import Protection
from flambed.aws import AwsError
from flambed.keeper import signals
from flambed.keeper.alarms import Alarms
from flambed.keeper.guard import Ask, Guard
from flambed.keeper.points import Points
from flambed.keeper.probing import Probing
from flambed.keeper.readings import Readings
from flambed.observed.facts import Fact
from flambed.observed.survey import describe_alarms
from flambed.steps import protect

if TYPE_CHECKING:
    from flambed.region import Identity, Region, Sink


class Keeper:
    """Keeps the protection of all hosts of a region as their clusters want it."""

    def __init__(self, region: Region, memory: MutableMapping[str, str], *, gpu_percent: float = 5.0) -> None:
        """Prepare a keeper; it works once its `works` run.

        Args:
            region: where the hosts are.
            memory: keeps across restarts that an account's region refuses points in AWS's own namespaces, and for how
                long a use of a host counts.
            gpu_percent: a GPU is in use above it.
        """
        self.region = region
        self.guards: dict[str, Guard] = {}
        self.own_metric = False
        self._memory = memory
        self._tables: dict[Identity, Mapping[str, Protection]] = {}
        self.alarms = Alarms(self)
        self.points = Points(self)
        self.readings = Readings(self)
        self.probing = Probing(self, memory, gpu_percent)

    def works(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return what has to run for as long as the region is open, by name."""
        return {
            "alarms": self.alarms.run,
            "points": self.points.run,
            "readings": self.readings.run,
            "probes": self.probing.run,
        }

    # --- what is wanted ------------------------------------------------------------------------------------------

    def want(
        self,
        cluster: Identity,
        table: Mapping[str, Protection],
        sink: Sink,
        tags: Mapping[str, str] = MappingProxyType({}),
        ask: Ask | None = None,
    ) -> None:
        """Take the protection that the hosts of a cluster shall have from now on, by instance. Returns at once.

        An instance that is in the table no more is forgotten, and its alarm stays: to have it deleted, leave it in with
        `minutes` None until `AlarmRemoved` came.

        Args:
            cluster: whose they are.
            table: what each should have.
            sink: takes the facts about them.
            tags: are put on the alarms that are made.
            ask: how the hosts themselves are asked; None: they are not.
        """
        before = self._tables.get(cluster)
        if before == table:
            return
        for instance in before.keys() - table.keys() if before else ():
            self.guards.pop(instance, None)
            self.probing.forget(instance)
        for protection in table.values():
            # After a restart most alarms are there already, and comparing a hundred costs less than putting one: who
            # puts all of them anew, three a second, may never come to the last ones if it is restarted again and again.
            unknown = before is None and protection.minutes is not None
            self._want(cluster, protection, sink, tags, check=unknown)
            self.guards[protection.instance].ask = ask
        self._tables[cluster] = dict(table)
        self.alarms.wake.set()
        self.points.wake.set()
        self.probing.wake.set()

    def _want(
        self, cluster: Identity, protection: Protection, sink: Sink, tags: Mapping[str, str], *, check: bool
    ) -> None:
        guard = self.guards.get(protection.instance)
        if guard is None or guard.cluster != cluster:
            guard = self.guards[protection.instance] = Guard(cluster, sink, protection, tags, check=check)
        elif guard.wanted == protection:
            return
        elif (guard.wanted.minutes, guard.wanted.threshold) != (protection.minutes, protection.threshold):
            guard.settled()
            guard.removed = False
        guard.wanted, guard.sink = protection, sink
        guard.aim(self.region.name, own_metric=self.own_metric)

    def forget(self, cluster: Identity) -> None:
        """Want nothing any more for a cluster, and leave its alarms as they are."""
        for instance in self._tables.pop(cluster, {}):
            self.guards.pop(instance, None)

    def check(self) -> None:
        """Compare every alarm with what it should be, and restore what others changed or deleted."""
        for guard in self.guards.values():
            guard.check = guard.check or guard.armed is not None
        self.alarms.wake.set()

    def tell(self, guard: Guard, fact: Fact) -> None:
        """Give a fact to the host's cluster, if it still wants to know."""
        if self.guards.get(guard.instance) is guard:
            guard.sink(fact)

    def asked(self, instance: str) -> bool:
        """Whether a host itself was asked lately whether it is in use; true where nobody can ask it."""
        guard = self.guards.get(instance)
        return guard is None or guard.asked(self.region.clock.now())

    async def signals(self, instances: Sequence[str]) -> dict[str, list[signals.Signal]]:
        """Return what is known of hosts beyond their cluster's world, by instance (see `signals`)."""
        guards = [guard for instance in instances if (guard := self.guards.get(instance)) is not None]
        names = {protect.alarm_name(guard.instance): guard.instance for guard in guards if guard.guarded}
        states: dict[str, str] = dict.fromkeys(names.values(), "there is none")
        try:
            for alarm in await describe_alarms(self.region, list(names)):
                states[names[alarm["AlarmName"]]] = str(alarm["StateValue"])
        except AwsError:  # logged by the region; what is known otherwise is shown all the same
            states = {}
        return {guard.instance: signals.of(guard, states.get(guard.instance)) for guard in guards}

    # --- which metric --------------------------------------------------------------------------------------------

    @property
    def namespace(self) -> str:
        """The namespace of the metric that alarms watch and points go to."""
        return protect.OWN_NAMESPACE if self.own_metric else protect.AWS_NAMESPACE

    async def recall(self) -> None:
        """Remember whether this account's region refuses points in AWS's own namespaces."""
        if self.own_metric or not self._memory:
            return
        try:
            account = await self.region.account()
        except AwsError:
            return  # logged by the region; the next refusal tells again
        if self._memory.get(self._remembered_as(account)) == "refused":
            self._use_own_metric()

    async def refused(self, error: AwsError) -> None:
        """CloudWatch takes no points in its own namespace: use ours from now on, and remember that."""
        if self.own_metric:
            return
        self._use_own_metric()
        self.region.emit(
            "protection.namespace_refused", region=self.region.name, code=error.code, message=error.message
        )
        try:
            account = await self.region.account()
        except AwsError:
            return  # logged by the region; it will be found out again after a restart
        self._memory[self._remembered_as(account)] = "refused"

    def _remembered_as(self, account: str) -> str:
        return f"namespace {protect.AWS_NAMESPACE} {account} {self.region.name}"

    def _use_own_metric(self) -> None:
        self.own_metric = True
        for guard in self.guards.values():
            # A metric of ours without points would start an armed host's clock anew without anybody having said so.
            guard.reseed = guard.armed is not None
            guard.written = guard.read_until = None
            guard.aim(self.region.name, own_metric=True)
        self.alarms.wake.set()
        self.points.wake.set()

    # --- time ----------------------------------------------------------------------------------------------------

    async def until_woken(self, wake: asyncio.Event, seconds: float | None = None) -> None:
        """Return when woken, or after so many real seconds; and clear the event."""
        try:
            async with asyncio.timeout(seconds):
                await wake.wait()
        except TimeoutError:
            pass
        wake.clear()

    async def until_next_minute(self, wake: asyncio.Event | None = None) -> None:
        """Return when the next minute of the clock has begun, or when woken."""
        now = self.region.now()
        left = self.region.clock.real(protect.minute_of(now) + protect.MINUTE - now)
        await self.until_woken(wake if wake is not None else asyncio.Event(), max(left, 0.001))
