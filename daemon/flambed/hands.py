"""One cluster's hands: each action of the plan, performed with the region, the hosts and the state folder.

Nothing is decided here. A step returns what it found as facts; what it could not do it raises, with a reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace

from flambed import userdata
from flambed.actions import (
    Acquaint,
    Action,
    CleanUp,
    Describe,
    Find,
    Inform,
    Judge,
    Launch,
    LearnHostKey,
    LetGo,
    Prepare,
    Question,
    SetUp,
    Start,
    Tag,
    Terminate,
)
from flambed.bench import Bench
from flambed.console import host_key_of_console
from flambed.desired import Cluster
from flambed.errors import Reason, StepError
from flambed.loop import Emit
from flambed.observed import probes, survey
from flambed.observed.facts import (
    ClusterSurveyed,
    Fact,
    HostKeyLearned,
    HostKeyRefused,
    Key,
    LaunchPrepared,
    TerminationAccepted,
    VolumesLeft,
    VolumesRemoved,
)
from flambed.observed.world import World
from flambed.policy import policy_of
from flambed.region import Region
from flambed.ssh import Deadlines, Host, HostKeyChangedError, Target, connect_when_up
from flambed.steps import acquaint, cleanup, judge, launch, retire, setup
from flambed.tags import tags_of

SHORTEST_REACH = 10.0
"""Seconds that a host is given to answer, however late it is, unless the setting `ssh.deadline` is shorter still."""

ASK_DEADLINE = 30.0
"""Seconds in which a host has to be reached, and then to answer, when it is asked whether it is in use."""

INFORM_DEADLINE = 60.0
"""Seconds in which a ready host has to be reached to be told of a change."""


class Hands:
    """Performs the actions of one cluster; see `loop.Outside`."""

    def __init__(self, cluster_id: str, region: Region, bench: Bench) -> None:
        self._cluster_id = cluster_id
        self._region = region
        self._bench = bench

    async def perform(self, action: Action, world: World, emit: Emit) -> Mapping[Key, StepError]:
        """Perform an action; return what failed of a batch, by key.

        Raises:
            StepError: all of it failed, as may be expected.
        """
        assert world.desired is not None, "nothing is done before the first `up`"
        region, desired = self._region, world.desired
        match action:
            case Find() | Describe() | Judge():
                await self._look(action, desired, emit)
            case Prepare():
                emit(await self._prepare(action, desired))
            case Launch():
                await self._launch(action, world, emit)
            case Tag():
                emit(await launch.tag(region, desired, action.instance, action.volumes, action.tags, action.digest))
            case Start(instances):
                emit(await launch.start(region, desired, instances))
            case LearnHostKey():
                await self._learn(action, desired, emit)
            case SetUp():
                with _told(action.instance, action.host_keys, self._region.clock.now, emit):
                    await self._set_up(action, desired, emit)
            case Inform():
                with _told(action.instance, action.host_keys, self._region.clock.now, emit):
                    await self._inform(action, desired, emit)
            case Acquaint():
                with _told(action.instance, action.host_keys, self._region.clock.now, emit):
                    await self._acquaint(action, world, desired, emit)
            case Terminate(instances):
                return await self._terminate(instances, desired, emit)
            case CleanUp() | LetGo():
                return await self._clean_up(action, world, desired, emit)
            case _:
                raise AssertionError(f"there is no step for {action!r}")
        return {}

    async def _look(self, action: Find | Describe | Judge, desired: Cluster, emit: Emit) -> None:
        region = self._region
        match action:
            case Find():
                found, began = await survey.find(region, desired.creator, desired.name)
                emit(ClusterSurveyed(at=region.clock.now(), instances=found, began=began))
            case Describe(instances):
                emit(await survey.describe(region, instances, desired.identity))
            case Judge(cases):
                look, judged = await judge.judge(region, desired, cases)
                for fact in (look, *judged):
                    emit(fact)

    async def _prepare(self, action: Prepare, desired: Cluster) -> LaunchPrepared:
        fact = await launch.prepare(self._region, desired, action.roles)
        keys = self._bench.keys
        pair = await asyncio.to_thread(keys.host_key, self._cluster_id)
        specs = []
        for spec in fact.specs:
            policy = policy_of(desired, spec.role)
            timer = None if policy.minutes is None else userdata.IdleTimer(policy.minutes, policy.threshold)
            text = userdata.build(
                host_key_private=pair.private,
                host_key_public=pair.public,
                user_data=desired.user_data,
                timer=timer,
            )
            try:
                digest = await asyncio.to_thread(keys.keep_user_data, self._cluster_id, text)
            except OSError as error:
                message = f"the state folder cannot be written ({error.strerror}): make room on its disk"
                raise StepError(Reason.TRANSIENT, "StateFolder", message) from error
            specs.append(replace(spec, user_data=digest))
        return replace(fact, specs=tuple(specs))

    async def _launch(self, action: Launch, world: World, emit: Emit) -> None:
        desired = world.intents[action.token].desired
        tags = tags_of(
            desired,
            action.spec.role,
            launch.creation_name(desired, action.spec.role),
            cluster_id=world.cluster_id,
            daemon=self._bench.daemon,
            owner=world.owner,
        )
        keys = self._bench.keys
        text = await asyncio.to_thread(keys.user_data, self._cluster_id, action.spec.user_data)
        emit(await launch.launch(self._region, desired, action.spec, action.token, tags, text))

    async def _learn(self, action: LearnHostKey, desired: Cluster, emit: Emit) -> None:
        text = await launch.console(self._region, desired, action.instance)
        key = host_key_of_console(text)
        if key is None:
            message = f"the console of {action.instance} shows no host key yet; EC2 shows it some minutes after a boot"
            raise StepError(Reason.HOST_KEY_UNKNOWN, "NoHostKey", message)
        now = self._region.clock.now()
        emit(HostKeyLearned(at=now, instance=action.instance, public_key=key, source="console"))

    async def _set_up(self, action: SetUp, desired: Cluster, emit: Emit) -> None:
        clock = self._region.clock
        work = setup.SetupWork(
            cluster_id=self._cluster_id,
            instance=action.instance,
            target=await self._target(action.address, action.host_keys, desired.username),
            commands=action.commands,
            first=action.first,
            attempt=action.attempt,
            digest=action.digest,
            timeout=clock.real(desired.setup.timeout),
            deadline=max(
                clock.real(action.reach_by - clock.now()), min(SHORTEST_REACH, self._bench.settings.ssh.deadline)
            ),
            description=action.description,
            description_digest=action.description_digest,
            rekey=action.rekey,
            lets_in=action.lets_in,
            lets_in_digest=action.lets_in_digest,
        )
        async with self._bench.ssh_slots:
            await setup.set_up(
                work,
                emit=emit,
                written=emit.written,
                now=clock.now,
                connect=self._connect,
                outputs=self._bench.outputs,
            )

    async def _inform(self, action: Inform, desired: Cluster, emit: Emit) -> None:
        target = await self._target(action.address, action.host_keys, desired.username)
        async with self._bench.ssh_slots:
            await setup.inform(
                action.instance,
                target,
                action.description,
                action.digest,
                rekeyed=action.rekey,
                deadline=INFORM_DEADLINE,
                emit=emit,
                written=emit.written,
                now=self._region.clock.now,
                connect=self._connect,
            )

    async def _acquaint(self, action: Acquaint, world: World, desired: Cluster, emit: Emit) -> None:
        target = await self._target(action.address, action.host_keys, desired.username)
        what: acquaint.Guide | str = world.peer_key
        if action.peers is not None:
            pair = await asyncio.to_thread(self._bench.keys.peer_key, self._cluster_id)
            what = acquaint.Guide(pair.private, desired.username, self._bench.settings.ssh_port, action.peers)
        async with self._bench.ssh_slots:
            await acquaint.acquaint(
                action.instance,
                target,
                what,
                action.digest,
                deadline=INFORM_DEADLINE,
                emit=emit,
                now=self._region.clock.now,
                connect=self._connect,
            )

    async def ask(self, emit: Callable[[Fact], None], question: Question, hold: float) -> str:
        """Run the probe on a host, and return what it printed.

        Args:
            emit: takes HostKeyRefused.
            question: where it is, and what its timer is told.
            hold: seconds for which a person still holds it.

        Raises:
            StepError: the host could not be asked.
        """
        target = await self._target(question.address, question.host_keys, question.username)
        command = probes.command(
            minutes=question.minutes,
            percent=question.threshold,
            hold=hold,
            experiment=self._bench.settings.idle.experiment if question.experiment else None,
        )
        until = asyncio.get_running_loop().time() + ASK_DEADLINE
        with _told(question.instance, question.host_keys, self._region.clock.now, emit):
            async with self._connect(target, until=until) as host:
                result = await host.run(command, timeout=ASK_DEADLINE)
        if result.code != 0:
            said = (result.stderr.strip() or result.stdout.strip() or "it said nothing")[-300:]
            raise StepError(Reason.COMMAND_FAILED, str(result.code), f"the probe ended with {result.code}: {said}")
        return result.stdout

    def _connect(self, target: Target, *, until: float) -> AbstractAsyncContextManager[Host]:
        wanted = self._bench.settings.ssh
        deadlines = Deadlines(connect=wanted.connect_timeout, keepalive=wanted.keepalive)
        return connect_when_up(target, until=until, deadlines=deadlines)

    async def _target(self, address: str, host_keys: tuple[str, ...], username: str) -> Target:
        login_key = await asyncio.to_thread(self._bench.keys.login_key, self._cluster_id)
        return Target(
            address=address,
            port=self._bench.settings.ssh_port,
            username=username,
            host_keys=host_keys,
            client_key=login_key,
        )

    async def _terminate(self, instances: tuple[str, ...], desired: Cluster, emit: Emit) -> Mapping[Key, StepError]:
        # What is attached to them, and is to go with them or to stay, may have been changed since the last look.
        emit(await survey.describe(self._region, instances, desired.identity))
        accepted, refused = await retire.terminate(self._region, instances, desired.identity)
        if accepted:
            emit(TerminationAccepted(at=self._region.clock.now(), instances=accepted))
        return {Key("terminate", instance): error for instance, error in refused.items()}

    async def _clean_up(
        self, action: CleanUp | LetGo, world: World, desired: Cluster, emit: Emit
    ) -> Mapping[Key, StepError]:
        if isinstance(action, CleanUp):
            of = {v: i.id for i in world.instances.values() for v in i.disposable if v in action.volumes}
            daemons = self._bench.daemons
            done = await cleanup.delete_volumes(self._region, of, daemons=daemons, whose=desired.identity)
        else:
            done = await cleanup.let_go(self._region, action.volumes, desired.identity)
        now = self._region.clock.now()
        if done.removed:
            emit(VolumesRemoved(at=now, volumes=tuple(done.removed), deleted=tuple(done.deleted)))
        if done.left:
            emit(VolumesLeft(at=now, volumes=tuple(done.left)))
        return {key: done.refused[key.subject] for key in action.keys if key.subject in done.refused}


@contextmanager
def _told(
    instance: str, pinned: tuple[str, ...], now: Callable[[], float], emit: Callable[[Fact], None]
) -> Iterator[None]:
    """Tell of a host that shows another key than the pinned ones; whoever wanted to reach it has to bear it."""
    try:
        yield
    except HostKeyChangedError as error:
        emit(HostKeyRefused(at=now(), instance=instance, pinned=pinned, shown=error.shown))
        raise
