"""What all clusters of one account and region share: clients, quotas, one inbox, one survey, one keeper of alarms.

Facts go from here to the clusters' loops, through the sink with which a cluster subscribed. Events carry no tags, so
they are routed by instance; one that comes before its instance is known - it may outrun the answer to RunInstances -
waits a while for its cluster.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from email.utils import parsedate_to_datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, Self

from flambed.account import Account
from flambed.aws import CALL_ERRORS, DRY_RUN, NO_CREDENTIALS, Answer, Aws, AwsError, Clients, as_aws_error
from flambed.clock import Clock
from flambed.errors import Reason
from flambed.keeper import Keeper
from flambed.observed import survey
from flambed.observed.facts import EventsLost, Fact, Image, InterruptionNotified, StateNotified
from flambed.observed.inbox import Inbox
from flambed.observed.lookout import Lookout
from flambed.observed.orphans import Orphans
from flambed.observed.queuemark import QueueMark
from flambed.ownership import Known
from flambed.pacing import Pacer, Rank
from flambed.recovery import Other
from flambed.sharing import Shared
from flambed.tasks import end, supervise

Identity = tuple[str, str]
"""A cluster, by creator and name."""

Sink = Callable[[Fact], None]
"""Takes one fact for a cluster's loop; returns at once."""

Event = StateNotified | InterruptionNotified

STRAY_SECONDS: Final = 600.0
STRAYS: Final = 2_000
"""How long, and how many of, events of unknown instances wait. An account has others' instances, too."""

LONGEST_PAUSE: Final = 30.0
"""Seconds between two tries of what AWS fails to do, at most: so soon it is noticed that an outage is over."""

NOBODY: Final[Identity] = ("", "")
"""Whose a call is that is made for all clusters."""


class Emit(Protocol):
    """Writes one line of the log."""

    def __call__(self, event: str, /, **fields: Any) -> None: ...


class Region:
    """One account's region, shared by its clusters. Use it as a context manager, or `start` and `close` it."""

    def __init__(
        self,
        name: str,
        clients: Clients,
        *,
        emit: Emit,
        clock: Clock = Clock(),  # noqa: B008 - a frozen value
        queue: str | None = None,
        image_owners: tuple[str, ...] = (),
        survey_interval: float = 300.0,
        memory: MutableMapping[str, str] | None = None,
        gpu_percent: float = 5.0,
        lookout: Lookout | None = None,
        known: Callable[[], Known] | None = None,
        grace: float = 3600.0,
        aws: Aws | None = None,
        account: Account | None = None,
    ) -> None:
        """Prepare a region; nothing is called yet.

        Args:
            name: the region, such as us-east-1.
            clients: its clients.
            emit: takes events for the log.
            clock: the service's clock.
            queue: the URL of the SQS queue with EC2's events, or None.
            image_owners: accounts whose images may be default images (S27).
            survey_interval: real seconds between two looks at everything.
            memory: what is to be known after a restart (see `keeper`); by default it is forgotten.
            gpu_percent: a GPU is in use above it.
            lookout: is shown what each survey shows; by default nobody is.
            known: tells what belongs to a cluster; by default nothing is looked at for being an orphan.
            grace: seconds of the clock that an orphan has to be old.
            aws: makes clients anew for those that were made without credentials; by default they are kept.
            account: the account that all calls must reach; by default it may be any.
        """
        self.name = name
        self.clients = clients
        self.emit = emit
        self.clock = clock
        self.image_owners = image_owners
        self.survey_interval = survey_interval
        self.lookout = lookout
        self.orphans = Orphans(self, known, grace) if known is not None else None
        self.pacer = Pacer()
        self.images: Shared[tuple[str, ...], Mapping[str, Image]] = Shared()
        self.parameters: Shared[tuple[str, ...], Mapping[str, str]] = Shared()
        self.types: Shared[tuple[str, ...], Mapping[str, Any]] = Shared()
        self.offerings: Shared[str, tuple[str, ...]] = Shared()
        self._aws = aws
        self._account = account
        self._under_way: Counter[Clients] = Counter()  # calls, by the clients that they began with
        self._accounts: Shared[str, str] = Shared(keep=float("inf"))
        self._offset = 0.0
        self.surveyed_at: float | None = None  # when everything was last looked at
        self.calls: Counter[tuple[str, str]] = Counter()  # by call and outcome: "ok", or why not
        self._sinks: dict[Identity, Sink] = {}
        self._routes: dict[str, Identity] = {}
        self._strays: OrderedDict[str, list[tuple[float, Event]]] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self.inbox = Inbox(self, queue) if queue else None
        self._mark = QueueMark(self, queue, self.inbox, lookout.daemon) if queue and self.inbox and lookout else None
        self.keeper = Keeper(self, memory if memory is not None else {}, gpu_percent=gpu_percent)

    # --- its life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to read events, to survey and to keep alarms."""
        works: dict[str, Callable[[], Awaitable[None]]] = {"survey": lambda: survey.keep_surveying(self)}
        if self.inbox is not None:
            works["inbox"] = self.inbox.run
        if self._mark is not None:
            works["queue mark"] = self._mark.run
        works |= self.keeper.works()
        for name, work in works.items():
            task = supervise(work, partial(self._crashed, name))
            self._tasks.append(asyncio.create_task(task, name=f"{self.name} {name}"))
        self.emit("region.opened", region=self.name, queue=self.inbox is not None)

    async def close(self) -> None:
        """End everything that `start` began, and what is still being fetched."""
        await end(*self._tasks)
        self._tasks.clear()
        if self._mark is not None:
            await self._mark.remove()
        for shared in (self.images, self.parameters, self.types, self.offerings, self._accounts):
            await shared.close()
        self.pacer.close()

    def _crashed(self, name: str, error: BaseException, pause: float) -> None:
        said = f"{type(error).__name__}: {error}"
        self.emit("step.crashed", step=name, pause=pause, error=said, traceback=error)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- calls ---------------------------------------------------------------------------------------------------

    async def call(
        self,
        method: Callable[..., Awaitable[Answer]],
        /,
        *,
        rank: Rank = Rank.LOOK,
        whose: Identity = NOBODY,
        units: int = 1,
        **params: Any,
    ) -> Answer:
        """Call a method of one of the clients once, when the account's quotas let it.

        Args:
            method: such as `region.clients.ec2.run_instances`.
            rank: what it is for, which decides who goes first.
            whose: the cluster that it is for; clusters take turns.
            units: how many instances it launches or terminates.
            params: the call's own parameters, under AWS's names.

        Raises:
            AwsError: AWS refused, or was not reached. It may have done it all the same where the reason is TRANSIENT.
        """
        name = getattr(method, "__name__", str(method))
        clients = self.clients
        self._under_way[clients] += 1
        try:
            if self._account is not None and name != "get_caller_identity":
                await self.account()
                self._account.check(_action(name))
            await self.pacer.pace(name, params, rank, whose, units)
            answer = await method(**params)
        except CALL_ERRORS as error:
            refused = self._refused(as_aws_error(error, _action(name)), name, params)
            self.calls[refused.action, "ok" if refused.code == DRY_RUN else refused.reason.value] += 1
            if refused.code == NO_CREDENTIALS and self._aws is not None:
                self.clients = await self._aws.renewed(self.name, clients)
            raise refused from error
        finally:
            await self._leave(clients)
        self.calls[_action(name), "ok"] += 1
        self._learn_offset(answer)
        return answer

    async def _leave(self, clients: Clients) -> None:
        """A call has ended: the last one of clients that were replaced closes them."""
        self._under_way[clients] -= 1
        if not self._under_way[clients]:
            del self._under_way[clients]
            if clients is not self.clients and self._aws is not None:
                await self._aws.discard(clients)

    def _refused(self, error: AwsError, name: str, params: Mapping[str, Any]) -> AwsError:
        if error.reason is Reason.THROTTLED:
            self.pacer.throttled(name, params)
            self.emit("aws.throttled", region=self.name, call=error.action)
        elif error.code != DRY_RUN:
            self.emit(
                "aws.call_failed",
                region=self.name,
                call=error.action,
                reason=error.reason.value,
                code=error.code,
                message=error.message,
            )
        return error

    @property
    def account_trouble(self) -> str | None:
        """What is wrong with the account that the credentials belong to, where it is another one than it should be."""
        return self._account.trouble if self._account is not None else None

    @property
    def others(self) -> tuple[Other, ...]:
        """The other services whose instances the last survey showed; see `lookout`."""
        return self.lookout.others if self.lookout is not None else ()

    def now(self) -> float:
        """Return the time as AWS has it, UNIX seconds: the service's clock, and how far AWS is ahead of it."""
        return self.clock.now() + self._offset

    def pause(self, failures: int, most: float = LONGEST_PAUSE) -> float:
        """Return how many real seconds to wait after so many failures in a row (from 1): twice as long after each."""
        return self.clock.real(min(2.0 ** min(failures - 1, 16), most))

    @property
    def offset(self) -> float:
        """Seconds by which AWS's clock is ahead of this machine's; 0 where they agree within two seconds."""
        return self._offset

    def _learn_offset(self, answer: Answer) -> None:
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date:
            # The header tells whole seconds, so half a second is the best guess for the rest of them.
            ahead = parsedate_to_datetime(date).timestamp() + 0.5 - self.clock.system()
            self._offset = ahead if abs(ahead) > 2.0 else 0.0

    async def account(self) -> str:
        """Return the number of the account that the credentials belong to; AWS is asked once for all regions.

        Raises:
            AwsError: they are not accepted, or AWS is not reached.
        """

        async def fetch() -> str:
            return str((await self.call(self.clients.sts.get_caller_identity))["Account"])

        if self._account is None:
            return await self._accounts.get("account", fetch)
        return self._account.number or self._account.learn(await self._accounts.get("account", fetch))

    # --- facts ---------------------------------------------------------------------------------------------------

    @property
    def clusters(self) -> tuple[Identity, ...]:
        """The clusters that have subscribed."""
        return tuple(self._sinks)

    def subscribe(self, cluster: Identity, sink: Sink) -> None:
        """Send the facts of a cluster to this sink from now on."""
        self._sinks[cluster] = sink
        if self.inbox is not None and self.inbox.trouble is not None:
            sink(EventsLost(at=self.clock.now()))

    def unsubscribe(self, cluster: Identity) -> None:
        """Send nothing more to a cluster, forget its instances, and leave their alarms as they are."""
        self._sinks.pop(cluster, None)
        self._routes = {instance: owner for instance, owner in self._routes.items() if owner != cluster}
        self.keeper.forget(cluster)

    def route(self, instance: str, cluster: Identity) -> None:
        """Send an instance's events to this cluster, those that came before it was known among them."""
        self._routes[instance] = cluster
        now = asyncio.get_running_loop().time()
        for since, event in self._strays.pop(instance, ()):
            if now - since <= STRAY_SECONDS:
                self.tell(cluster, event)

    def unroute(self, instance: str) -> None:
        """Send an instance's events to nobody any more."""
        self._routes.pop(instance, None)

    def tell(self, cluster: Identity, fact: Fact) -> None:
        """Give a fact to a cluster, if it has subscribed."""
        if (sink := self._sinks.get(cluster)) is not None:
            sink(fact)

    def tell_all(self, fact: Callable[[float], Fact]) -> None:
        """Give a fact to every cluster; it is made with the present time."""
        for sink in list(self._sinks.values()):
            sink(fact(self.clock.now()))

    def deliver(self, event: Event) -> None:
        """Give an event to the cluster of its instance, or keep it until there is one."""
        cluster = self._routes.get(event.instance)
        if cluster is not None:
            self.tell(cluster, event)
            return
        now = asyncio.get_running_loop().time()
        self._strays.setdefault(event.instance, []).append((now, event))
        self._strays.move_to_end(event.instance)
        while self._strays:
            oldest, events = next(iter(self._strays.items()))
            if len(self._strays) <= STRAYS and now - events[-1][0] <= STRAY_SECONDS:
                break
            del self._strays[oldest]


def _action(method: str) -> str:
    """Return the call's name as AWS writes it: run_instances is RunInstances."""
    return "".join(word.capitalize() for word in method.split("_"))
