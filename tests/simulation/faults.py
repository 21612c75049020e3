"""What goes wrong in one life, all of it drawn from its seed: the weather.

Each kind of fault is switched on or off for a whole life, so that lives differ in what meets what. All faults end at
`calm_at`; from then on the cluster has to come to rest.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from tests.fakes import client_error

AT_STAKE = ("run_instances", "Launch", "terminate", "Terminat", "put_metric_alarm", "Command", "script")
"""What a crash is most dangerous around."""

ENDPOINT = "https://aws.example"
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Outage:
    """From one second of the life to another, calls of these prefixes are not answered."""

    begins: float
    ends: float
    methods: tuple[str, ...]  # prefixes of the SDK's method names; "" is all of them

    def covers(self, method: str, now: float) -> bool:
        """Whether a call meets it."""
        return self.begins <= now < self.ends and method.startswith(self.methods)


@dataclass(slots=True)
class Weather:
    """The faults of one life. Times are seconds since it began; chances are per call, event, machine or point."""

    rng: random.Random = field(repr=False)
    calm_at: float = 0.0

    # the service
    crash: float = 0.0  # at each point between two facts, before and after each outside call
    crashes_left: int = 0
    disk_full: tuple[float, float] = (0.0, 0.0)
    journal_lost: float = 0.0  # at a crash: the state folder is gone, or an old copy of it is put back
    long_down: float = (
        0.0  # seconds for which it stays down after its first crash: for longer than a client token lives
    )
    restarts: Sequence[float] = ()  # when it is killed, whatever it is doing
    clock_jumps: Sequence[tuple[float, float]] = ()  # when the machine's clock is set, and by how much
    sleeps: Sequence[tuple[float, float]] = ()  # when the machine is suspended, and for how long
    slept: list[tuple[float, float]] = field(default_factory=list)  # from when until when it was, so far

    # the API
    outages: Sequence[Outage] = ()
    page: int = 1000  # instances that Describe gives at once
    torn: float = 0.0  # an answer of several pages breaks off
    throttled: float = 0.0
    lost_request: float = 0.0  # it never arrives
    lost_answer: float = 0.0  # it is done, and nobody hears of it
    slow: float = 0.0  # it takes up to half a minute
    lag: float = 0.0  # seconds by which Describe and tag filters may lag at most
    no_capacity: Sequence[tuple[float, float]] = ()
    partial: float = 0.0
    quota_from: float = float("inf")
    refuses_aws_namespace: bool = False
    strict_delete: bool = False
    forgets_tokens: bool = False  # IdempotentInstanceTerminated instead of the terminated instances

    # events
    has_queue: bool = True
    event_lost: float = 0.0
    event_doubled: float = 0.0
    event_late: float = 0.0  # by up to five minutes

    # machines and hosts
    dies: float = 0.0
    stops: float = 0.0
    protected: float = 0.0
    dies_pending: float = 0.0
    slow_end: float = 0.0
    volume_outlives: float = 0.0  # a machine's end
    interrupted: float = 0.0  # AWS takes a machine back, two minutes after it said so
    bad_host: float = 0.0
    bad_command: float = 0.0
    drops: float = 0.0  # a link, at each command
    strangers: Sequence[float] = ()
    impostors: float = 0.0  # somebody else answers at a host's address for a while

    # idle protection
    gpu: float = 0.0  # a machine is used by its GPU alone; see `use`
    typed: float = 0.0
    experiment: float = 0.0
    deaf: float = 0.0  # a host does not answer for a while
    dim: float = 0.0  # a host cannot tell something that it is asked, or not all of it arrives
    alarm_fails: float = 0.0  # an alarm comes, and its action does nothing
    robbed: Sequence[float] = ()  # when somebody deletes or disables an alarm
    cpu_lost: tuple[float, float] = (0.0, 0.0)  # EC2 has no CPU of any machine, and alarms are not evaluated

    # who else is there
    two_users: bool = False
    adopts: int = 0  # machines of an older tool that carry the cluster's tags, and that an admin wants to be taken over

    @classmethod
    def of(cls, rng: random.Random) -> Weather:
        """Draw the weather of a life."""
        weather = cls(rng, calm_at=rng.choice([600.0, 600.0, 1800.0, 3600.0, 7200.0]))
        calm = weather.calm_at

        def some(chance: float, *values: Any, otherwise: Any) -> Any:
            return rng.choice(values) if rng.random() < chance else otherwise

        weather.crash = some(0.6, 0.001, 0.004, 0.02, 0.1, otherwise=0.0)
        weather.crashes_left = rng.choice([1, 2, 4, 12])
        if rng.random() < 0.1:
            weather.disk_full = _window(rng, calm)
        weather.outages = _outages(rng, calm)
        weather.throttled = some(0.3, 0.02, 0.2, 0.6, otherwise=0.0)
        weather.lost_request = some(0.3, 0.02, 0.2, otherwise=0.0)
        weather.lost_answer = some(0.4, 0.02, 0.2, otherwise=0.0)
        weather.slow = some(0.2, 0.05, 0.2, otherwise=0.0)
        weather.lag = some(0.5, 2.0, 20.0, 240.0, otherwise=0.5)
        weather.no_capacity = [_window(rng, calm) for _ in range(rng.choice([0, 0, 1, 2]))]
        weather.partial = some(0.3, 0.3, 0.9, otherwise=0.0)
        weather.quota_from = some(0.05, 0.0, rng.uniform(0, calm), otherwise=float("inf"))
        weather.refuses_aws_namespace = rng.random() < 0.2
        weather.strict_delete = rng.random() < 0.5
        weather.forgets_tokens = rng.random() < 0.5
        weather.has_queue = rng.random() < 0.8
        weather.event_lost = some(0.4, 0.05, 0.5, 1.0, otherwise=0.0)
        weather.event_doubled = some(0.4, 0.2, otherwise=0.0)
        weather.event_late = some(0.4, 0.2, otherwise=0.0)
        weather.dies = some(0.4, 0.1, 0.5, otherwise=0.0)
        weather.stops = some(0.2, 0.2, otherwise=0.0)
        weather.protected = some(0.1, 0.3, otherwise=0.0)
        weather.dies_pending = some(0.2, 0.1, 0.5, otherwise=0.0)
        weather.slow_end = some(0.2, 0.3, otherwise=0.0)
        weather.bad_host = some(0.3, 0.2, otherwise=0.0)
        weather.bad_command = some(0.3, 0.2, otherwise=0.0)
        weather.drops = some(0.3, 0.1, 0.5, otherwise=0.0)
        weather.strangers = [rng.uniform(0, calm) for _ in range(rng.choice([0, 0, 0, 1]))]
        weather.interrupted = some(0.15, 0.3, otherwise=0.0)
        weather.volume_outlives = some(0.3, 0.5, otherwise=0.0)
        weather.page = some(0.3, 1, 2, otherwise=1000)
        weather.torn = some(0.5, 0.2, otherwise=0.0)
        weather.two_users = rng.random() < 0.15
        weather.adopts = some(0.1, 1, 2, 4, otherwise=0)
        weather.clock_jumps = [
            (rng.uniform(0, calm), rng.choice([-1, 1]) * rng.choice([90.0, 600.0, 3600.0, 10800.0]))
            for _ in range(some(0.12, 1, 2, otherwise=0))
        ]
        weather.sleeps = [
            (rng.uniform(0, calm), rng.choice([60.0, 900.0, 7200.0])) for _ in range(some(0.08, 1, 2, otherwise=0))
        ]
        weather.journal_lost = some(0.15, 0.3, 1.0, otherwise=0.0)
        weather.gpu = some(0.4, 0.3, 0.8, otherwise=0.0)
        weather.typed = some(0.3, 0.3, 0.6, otherwise=0.0)
        weather.experiment = some(0.3, 0.9, otherwise=0.0)
        weather.deaf = some(0.25, 0.3, 0.8, otherwise=0.0)
        weather.dim = some(0.25, 0.05, 0.4, otherwise=0.0)
        weather.impostors = some(0.15, 0.3, otherwise=0.0)
        weather.alarm_fails = some(0.2, 0.5, 1.0, otherwise=0.0)
        weather.robbed = [rng.uniform(0, calm) for _ in range(some(0.2, 1, 3, otherwise=0))]
        if rng.random() < 0.15:
            weather.cpu_lost = _window(rng, calm)
        if rng.random() < 0.15:
            every = rng.choice([300.0, 900.0, 1800.0])
            weather.restarts = [every * (number + rng.random()) for number in range(int(calm // every))]
        if rng.random() < 0.02:
            weather.crash, weather.long_down = 0.02, rng.choice([21 * HOUR, 25 * HOUR])
        if rng.random() < 0.06:
            weather.outages = [*weather.outages, _long_outage(rng, weather)]
        return weather

    def chance(self, probability: float) -> bool:
        """Throw the dice. Nothing is drawn for what never happens."""
        return probability > 0.0 and self.rng.random() < probability

    def spell(self, probability: float, now: float) -> tuple[float, float]:
        """Return from when until when something is the matter with one machine, with this probability."""
        if not self.chance(probability):
            return 0.0, 0.0
        begins = now + self.rng.uniform(0, 3600)
        return begins, min(self.calm_at, begins + self.rng.uniform(60, 2400))

    def crashes_here(self, what: str, now: float) -> bool:
        """Whether the service is killed at this point; most often where much is at stake, seldom where it only waits."""
        if self.crash == 0.0 or self.crashes_left <= 0 or now >= self.calm_at:
            return False
        stake = 10.0 if any(word in what for word in AT_STAKE) else 0.1 if "_message" in what else 1.0
        if not self.chance(self.crash * stake):
            return False
        self.crashes_left -= 1
        return True

    def refusal(self, method: str, now: float) -> Exception | None:
        """Return what a call meets instead of AWS."""
        if now >= self.calm_at:
            return None
        if any(outage.covers(method, now) for outage in self.outages):
            if self.rng.random() < 0.5:
                return _unreachable()
            return _refused("Unavailable", "The server is overloaded and can't handle the request.", 503)
        if self.chance(self.throttled):
            return _refused("RequestLimitExceeded", "Request limit exceeded.", 503)
        if self.chance(self.lost_request):
            return _unreachable()
        return None

    def loses_answer(self, now: float) -> Exception | None:
        """Return what a caller hears instead of the answer to a call that was done."""
        if now < self.calm_at and self.chance(self.lost_answer):
            lost: Exception = ReadTimeoutError(endpoint_url=ENDPOINT)
            return lost
        return None

    def breaks_off(self, now: float) -> Exception | None:
        """Return what a call for another page meets."""
        if now < self.calm_at and self.chance(self.torn):
            return _refused("RequestLimitExceeded", "Request limit exceeded.", 503)
        return None

    def latency(self, now: float) -> float:
        """Return the seconds that a call takes on its way."""
        if now < self.calm_at and self.chance(self.slow):
            return self.rng.uniform(1.0, 30.0)
        return self.rng.uniform(0.02, 0.2)

    def lags(self, now: float) -> float:
        """Return the seconds by which one thing is seen late."""
        return self.rng.uniform(0.0, self.lag if now < self.calm_at else 0.5)

    def works(self, now: float) -> bool:
        """Whether the API answers by and large, so that one may ask why something is not done."""
        if now >= self.calm_at:
            return True
        torn = self.torn if self.page < 1000 else 0.0  # an answer of many pages hardly ever arrives
        return self.throttled + self.lost_request + self.lost_answer + torn < 0.3 and not any(
            outage.begins <= now < outage.ends for outage in self.outages
        )

    def works_between(self, since: float, until: float) -> bool:
        """Whether the API answered by and large all the time, quickly, and the disk took what was to be written."""
        away = [(outage.begins, outage.ends) for outage in self.outages] + [self.disk_full]
        if any(begins <= until and since < ends for begins, ends in away):
            return False
        return since >= self.calm_at or self.throttled + self.lost_request + self.lost_answer + self.slow < 0.1

    def fair_since(self, now: float) -> float:
        """Return since when the API answers by and large, the disk takes what is written, and clocks do not jump."""
        if now < self.calm_at and self.throttled + self.lost_request + self.lost_answer + self.slow >= 0.1:
            return now
        away = [*((outage.begins, outage.ends) for outage in self.outages), *self.slept, self.disk_full, self.cpu_lost]
        away += [(at, at) for at, _ in self.clock_jumps]
        return max((min(ends, now) for begins, ends in away if begins <= now), default=0.0)

    def is_odd(self, since: float, until: float) -> bool:
        """Whether the machine's clock was set, or the machine slept, between two times."""
        slept = any(begins <= until and since <= ends for begins, ends in self.slept)
        return slept or any(since <= at <= until for at, _ in self.clock_jumps)


def _refused(code: str, words: str, status: int) -> Exception:
    error: Exception = client_error(code, words, status)
    return error


def _unreachable() -> Exception:
    error: Exception = EndpointConnectionError(endpoint_url=ENDPOINT)
    return error


def _window(rng: random.Random, calm: float) -> tuple[float, float]:
    begins = rng.uniform(0.0, calm)
    return begins, min(calm, begins + rng.choice([60.0, 600.0, 3600.0]))


def _long_outage(rng: random.Random, weather: Weather) -> Outage:
    """Return an outage of an hour of the whole API; seldom one in which no launch is answered for longer than a token lives."""
    begins = rng.uniform(0.0, 900.0)
    if rng.random() < 0.1:
        weather.calm_at = begins + 22 * HOUR
        return Outage(begins, weather.calm_at, ("run_",))
    weather.calm_at = max(weather.calm_at, begins + HOUR + 900.0)
    return Outage(begins, begins + HOUR, ("",))


def _outages(rng: random.Random, calm: float) -> list[Outage]:
    prefixes: list[tuple[str, ...]] = [("",), ("",), ("describe_inst",), ("run_",), ("terminate_",), ("receive_",)]
    prefixes.append(("put_", "describe_alarms", "delete_alarms", "get_metric"))
    return [Outage(*_window(rng, calm), rng.choice(prefixes)) for _ in range(rng.choice([0, 0, 0, 1, 1, 2]))]
