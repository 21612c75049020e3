"""Puts, compares and deletes alarms: at once where something is wanted otherwise, and whenever the region is surveyed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from flambed.aws import AwsError
from flambed.errors import Reason
from flambed.keeper.guard import Guard
from flambed.observed import cpu
from flambed.observed.facts import AlarmArmed, AlarmFired, AlarmLacking, AlarmRemoved, PointsSeeded
from flambed.observed.survey import MOST_NAMES, describe_alarms
from flambed.pacing import Rank
from flambed.steps import protect

if TYPE_CHECKING:
    from flambed.keeper.keeper import Keeper

PATIENCE: Final = 300.0
"""Real seconds for which an alarm may fail to be put before the cluster is told: CloudWatch does not know fresh ids."""

_SOON_MENDED: Final = frozenset({Reason.THROTTLED, Reason.TRANSIENT, Reason.NOT_FOUND_YET})


class Alarms:
    """Makes the alarms of all guards true. One call is under way for a guard at a time."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._region = keeper.region
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Work for ever; the pacer says who goes first where many alarms wait to be put."""
        await self._keeper.recall()
        for guard in self._keeper.guards.values():
            guard.at_work = False
        async with asyncio.TaskGroup() as group:
            while True:
                for guards, work in self._due():
                    for guard in guards:
                        guard.at_work = True
                    group.create_task(self._do(guards, work))
                await self._keeper.until_woken(self.wake, self._pause())

    def _due(self) -> Iterator[tuple[Sequence[Guard], str]]:
        """Yield what can be begun now: guards, and what is to be done for them in one go."""
        now = asyncio.get_running_loop().time()
        lists: dict[str, list[Guard]] = {"compare": [], "remove": [], "seed": []}
        for guard in list(self._keeper.guards.values()):
            if guard.at_work or guard.again_at > now:
                continue
            work = _work_for(guard)
            if work == "put":
                yield (guard,), work
            elif work is not None:
                lists[work].append(guard)
        for work, guards in lists.items():
            for start in range(0, len(guards), MOST_NAMES):
                yield guards[start : start + MOST_NAMES], work

    def _pause(self) -> float | None:
        now = asyncio.get_running_loop().time()
        waiting = (g.again_at for g in self._keeper.guards.values() if not g.at_work and _work_for(g) is not None)
        first = min(waiting, default=math.inf)
        return None if math.isinf(first) else max(0.0, first - now)

    async def _do(self, guards: Sequence[Guard], work: str) -> None:
        try:
            await self._try(guards, work)
        finally:
            for guard in guards:
                guard.at_work = False
            self.wake.set()

    async def _try(self, guards: Sequence[Guard], work: str) -> None:
        try:
            match work:
                case "compare":
                    await self._compare(guards)
                case "remove":
                    await self._remove(guards)
                case "seed":
                    await self._seed(guards)
                case _:
                    await self._put(guards[0])
        except AwsError as error:
            if error.reason is Reason.NOT_FOUND_YET and len(guards) > 1:
                for guard in guards:  # one id that EC2 does not know fails the call for all
                    await self._try([guard], work)
                return
            for guard in guards:
                self._failed(guard, error)

    # --- putting and deleting ------------------------------------------------------------------------------------

    async def _put(self, guard: Guard) -> None:
        digest, policy = guard.digest, guard.wanted.policy  # another may be wanted when the answer comes
        tags = {"Tags": [{"Key": key, "Value": value} for key, value in guard.tags.items()]} if guard.tags else {}
        try:
            await self._call_put(guard, tags)
        except AwsError as error:
            if error.reason is not Reason.NOT_PERMITTED or not tags:
                raise
            # Tagging takes a permission of its own, and only `gc` lives by the tags: the alarm matters more.
            await self._call_put(guard, {})
        guard.settled()
        self._armed(guard, digest, policy)

    async def _call_put(self, guard: Guard, tags: Mapping[str, Any]) -> None:
        """Put the alarm; CloudWatch takes tags where it creates one, and passes over them where it changes one."""
        await self._region.call(
            self._region.clients.cloudwatch.put_metric_alarm, rank=Rank.ARM, whose=guard.cluster, **guard.config, **tags
        )

    def _armed(self, guard: Guard, digest: str, policy: str) -> None:
        guard.armed, guard.lacking = digest, False
        at = self._region.clock.now()
        self._keeper.tell(guard, AlarmArmed(at=at, instance=guard.instance, digest=digest, policy=policy))

    async def _remove(self, guards: Sequence[Guard]) -> None:
        names = [protect.alarm_name(guard.instance) for guard in guards]
        await self._look_who_fired([guard for guard in guards if guard.wanted.gone])
        try:
            await self._delete(names)
        except AwsError as error:
            if error.reason is not Reason.GONE:
                raise
            # One name without an alarm may fail the call, and nothing is deleted then.
            known = [alarm["AlarmName"] for alarm in await describe_alarms(self._region, names)]
            if known:
                await self._delete(known)
        for guard in guards:
            guard.settled()
            self._removed(guard)

    async def _look_who_fired(self, guards: Sequence[Guard]) -> None:
        """Tell whose alarm ended it, before that is forgotten with the alarm: EC2 says that somebody did, and not who."""
        known = {protect.alarm_name(guard.instance): guard for guard in guards}
        for alarm in await describe_alarms(self._region, list(known)) if known else ():
            if alarm.get("StateValue") == "ALARM":
                guard, why = known[alarm["AlarmName"]], alarm.get("StateReason", "")
                self._keeper.tell(guard, AlarmFired(at=self._region.clock.now(), instance=guard.instance, why=why))

    async def _delete(self, names: list[str]) -> None:
        await self._region.call(self._region.clients.cloudwatch.delete_alarms, rank=Rank.ARM, AlarmNames=names)

    def _removed(self, guard: Guard) -> None:
        guard.armed, guard.removed, guard.lacking = None, True, False
        self._keeper.tell(guard, AlarmRemoved(at=self._region.clock.now(), instance=guard.instance))

    def _failed(self, guard: Guard, error: AwsError) -> None:
        """Try again later; tell the cluster if this will not pass, or has not for five minutes."""
        failing_for = guard.failed(asyncio.get_running_loop().time(), self._region.pause(guard.tries + 1))
        passes = error.reason in _SOON_MENDED or error.code.startswith("Validation")
        if guard.guarded and (not passes or failing_for >= PATIENCE):
            self._lacking(guard, error.reason, error.code, error.message)

    def _lacking(self, guard: Guard, reason: Reason, code: str, message: str) -> None:
        if guard.lacking:
            return
        guard.lacking = True
        at = self._region.clock.now()
        self._keeper.tell(
            guard, AlarmLacking(at=at, instance=guard.instance, reason=reason, code=code, message=message)
        )

    # --- comparing -----------------------------------------------------------------------------------------------

    async def _compare(self, guards: Sequence[Guard]) -> None:
        names = [protect.alarm_name(guard.instance) for guard in guards]
        found = {alarm["AlarmName"]: alarm for alarm in await describe_alarms(self._region, names)}
        for guard in guards:
            guard.check = False
            guard.settled()
            self._judge(guard, found.get(protect.alarm_name(guard.instance)))

    def _judge(self, guard: Guard, found: protect.Config | None) -> None:
        if not guard.guarded:
            if found is None and not guard.removed:
                self._removed(guard)
            return
        if found is not None and guard.armed is None and found.get("Period") == 300:
            # From before a restart: the host has no more than basic monitoring.
            guard.detailed = False
            guard.aim(self._region.name, own_metric=self._keeper.own_metric)
        wrong = protect.differences(guard.config, found) if found is not None else ()
        if found is not None and not wrong:
            if guard.armed is None and not guard.must_seed:
                guard.recall = self._keeper.own_metric
                self._armed(guard, guard.digest, guard.wanted.policy)
            return
        if guard.armed == guard.digest:
            code, what = (
                ("AlarmDeleted", "deleted") if found is None else ("AlarmChanged", f"changed: {', '.join(wrong)}")
            )
            self._lacking(
                guard, Reason.GONE, code, f"the alarm {protect.alarm_name(guard.instance)} was {what}; it is put again"
            )
        guard.armed = None

    # --- seeding -------------------------------------------------------------------------------------------------

    async def _seed(self, guards: Sequence[Guard]) -> None:
        """Write fake points and look whether they can be read back; where they cannot, all this comes again shortly."""
        await self._monitor([guard for guard in guards if not guard.reseed])
        await self._keeper.points.seed(guards)
        visible = await self._visible(guards)
        now = asyncio.get_running_loop().time()
        for guard in guards:
            if guard.instance not in visible:
                if guard.failed(now, self._region.pause(guard.tries + 1, most=15.0)) >= 2 * PATIENCE:
                    self._lacking(
                        guard,
                        Reason.TIMED_OUT,
                        "PointsNotVisible",
                        f"CloudWatch took CPU points of {guard.instance} and does not show them; the alarm waits for that",
                    )
                continue
            guard.settled()
            guard.reseed, guard.armed = False, None
            if guard.wanted.seed:
                guard.seeded = guard.wanted.policy
                at = self._region.clock.now()
                self._keeper.tell(guard, PointsSeeded(at=at, instance=guard.instance, policy=guard.wanted.policy))

    async def _monitor(self, guards: Sequence[Guard]) -> None:
        """Switch detailed monitoring on where an alarm counts minutes and others may have launched the host."""
        short = [g for g in guards if g.wanted.minutes is not None and g.wanted.minutes <= 24 * 60 and not g.monitored]
        if not short or self._keeper.own_metric:
            return
        try:
            await self._region.call(
                self._region.clients.ec2.monitor_instances,
                rank=Rank.ARM,
                InstanceIds=[guard.instance for guard in short],
            )
        except AwsError as error:
            if error.reason is not Reason.NOT_PERMITTED:
                raise
            for guard in short:
                guard.detailed = False
                guard.aim(self._region.name, own_metric=False)
        for guard in short:
            guard.monitored = True

    async def _visible(self, guards: Sequence[Guard]) -> set[str]:
        """Return the instances of which a point says "in use" within the last ten minutes."""
        now = protect.minute_of(self._region.now())
        ids = [guard.instance for guard in guards]
        start, end = now - protect.BACK * protect.MINUTE, now + protect.MINUTE
        samples = await cpu.read(self._region, ids, self._keeper.namespace, "Maximum", start, end)
        return {
            instance for instance, found in samples.items() if any(percent >= protect.IN_USE for _, percent in found)
        }


def _work_for(guard: Guard) -> str | None:
    """Return what is to be done next for a guard, or None."""
    if guard.check:
        return "compare"
    if not guard.guarded:
        return None if guard.removed else "remove"
    if guard.must_seed:
        return "seed"
    return "put" if guard.armed != guard.digest else None
