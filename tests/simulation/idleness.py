"""The promises of idle protection, judged by who really uses a host: no live work is ended, and nothing idle stays.

What the service knows, or believes, is no excuse. That it could not know better - it was away, nothing answered it - is seen
in the world that the simulation keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from flambed.desired import Role
from flambed.keeper.probing import EVERY, LEASE
from flambed.plan.ending import AGAIN_MOST, GRACE
from flambed.policy import ASKED_FOR, EXPERIMENT_MAY_BEGIN, VOTE_AHEAD
from flambed.verdict import LATE, READ_SHARE
from tests.simulation import use
from tests.simulation.cloud import Cloud, Machine
from tests.simulation.faults import Weather
from tests.simulation.hosts import Hosts
from tests.simulation.person import SHORTEST, Person
from tests.simulation.process import Served
from tests.simulation.story import Teller
from tests.simulation.use import TYPED_WITHIN, Stretch, Way

MINUTE: Final = 60.0

SEEN_WITHIN: Final = 5 * MINUTE
"""Seconds after which real CPU counts, and with a metric of ours, which takes what is ten minutes old, so many more."""

NOTICED_WITHIN: Final = 8 * MINUTE
"""Seconds after which a service that works has asked a host that answers, and written down that it is in use."""

WRITTEN_WITHIN: Final = 2 * MINUTE
"""Seconds after which what the service was told holds an alarm off."""

KNOWN_FOR: Final = 11 * MINUTE
"""Seconds for which a host may count as idle that was asked, and was idle then."""

SETUP_MAY_LAST: Final = 900.0
"""Seconds that a set-up command has, by the clusters' files."""


GONE_WITHIN: Final = 12 * MINUTE
"""Seconds after its timeout within which an idle host is gone, by the contract."""

FADES: Final = {Way.CPU: 0.0, Way.GPU: EVERY + LEASE, Way.TERMINAL: TYPED_WITHIN, Way.EXPERIMENT: LEASE}
"""Seconds for which a use still counts after its end, at the most: where probes fail, it keeps its lease."""

REACHED_WITHIN: Final = 900.0
LAUNCH_MAY_LAST: Final = 900.0
"""Seconds, by the settings and the clusters' files."""


@dataclass(frozen=True, slots=True)
class Work:
    """Something for which a host is needed: how, when, and at which moments the service surely keeps the host for it."""

    name: str
    stretch: Stretch
    is_kept: Callable[[float], bool]
    leased: bool  # by points that are written ahead
    way: Way | None = None  # in which the host is used, where only the host itself can tell of it


class Idleness:
    """Looks on who ends hosts, and when."""

    def __init__(
        self, cloud: Cloud, hosts: Hosts, weather: Weather, tell: Teller, people: Sequence[Person], served: list[Served]
    ) -> None:
        self._cloud = cloud
        self._hosts = hosts
        self._weather = weather
        self._tell = tell
        self._people = people
        self._served = served

    # --- no live work is ended -----------------------------------------------------------------------------------

    def ended(self, machine: Machine) -> None:
        """A machine ends, and who asked for that is known."""
        person = next((person for person in self._people if person.identity == machine.cluster), None)
        by, now = machine.ended_by, self._cloud.now
        if person is None or not machine.ours or by not in ("alarm", "service"):
            return
        if by == "service" and person.has_given_back(now):
            return
        timeout = person.timeout(Role(machine.role))
        if timeout is None:
            self._tell.violation(f"{machine.id} was ended by its {by}, and its timeout is -1")
            return
        alarm = self._cloud.watch.alarms[machine.id] if by == "alarm" else None
        own = alarm is not None and not alarm["Namespace"].startswith("AWS/")
        window = alarm["Period"] * alarm["EvaluationPeriods"] if alarm is not None else timeout
        assert machine.running_at is not None, "what does not run is not idle"
        if now < machine.running_at + window:
            self._tell.violation(f"{machine.id} was ended by its {by} {now - machine.running_at:.0f} s after its boot")
        unread = max(self._used_cpu(machine, now - timeout, now) - LATE, 0.0)
        if by == "service" and unread > (1 - READ_SHARE) * timeout:
            self._tell.violation(f"{machine.id} was ended by its service though its CPU was in use, or not known")
        for work in self._works(machine, person, own=own):
            ahead = (VOTE_AHEAD - 1) * MINUTE if work.leased and alarm is not None and not own else 0.0
            moments = (now - MINUTE * back for back in range(int((window + ahead) // MINUTE)))
            unasked = window if own else 0.0 if alarm is None else None
            begins, ends = work.stretch
            if now >= ends + window:
                continue
            if any(map(work.is_kept, moments)) or (unasked is not None and self._is_unasked(machine, work, unasked)):
                when = f"from {begins:.0f} s to {ends:.0f} s"
                self._tell.violation(
                    f"{machine.id}, which {work.name} uses {when}, was ended by its {by} at {now:.0f} s"
                )

    @staticmethod
    def _used_cpu(machine: Machine, since: float, until: float) -> float:
        """Return for how many seconds between two moments a machine's CPU was in use."""
        stretches = machine.uses.get(Way.CPU, ())
        return sum(max(0.0, min(ends, until) - max(begins, since)) for begins, ends in stretches)

    def _is_unasked(self, machine: Machine, work: Work, window: float) -> bool:
        """Whether a host counted as idle for a whole window though it would have told of its use, had it been asked.

        Where the service itself says that a host is idle, by a point in our own metric or by its verdict, it has to ask it.
        """
        since = self._cloud.now - window - KNOWN_FOR
        if work.way is None or self._answers_since(machine) > since or self._silent_at(machine, work.way) >= since:
            return False
        begins, ends = work.stretch
        return begins < since and ends > self._cloud.now

    # --- nothing idle stays --------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look for hosts that should have ended."""
        now = self._cloud.now
        for person in self._people:
            for machine in self._cloud.alive(person.identity):
                due = self.due(machine, person)
                if due is not None and now > due:
                    self._tell.violation(f"{machine.id} has not been used for its timeout, and runs")

    def expects_an_end(self) -> bool:
        """Whether there is a machine that ends by itself."""
        return any(
            self.due(machine, person) is not None
            for person in self._people
            for machine in self._cloud.alive(person.identity)
        )

    def due(self, machine: Machine, person: Person) -> float | None:
        """Return by when a machine that is not used any more has ended at the latest; None: nobody can say."""
        timeout, now = person.timeout(Role(machine.role)), self._cloud.now
        alarm = self._cloud.watch.alarms.get(machine.id)
        if timeout is None or machine.state != "running" or alarm is None or not person.is_remembered(now):
            return None
        if self._weather.clock_jumps:
            return None  # the service ends nothing by itself, and wrote points before it knew how far its clock is off
        others = [m for m in self._cloud.machines.values() if m.cluster == person.identity and m is not machine]
        if any(m.state != "terminated" and (not m.ours or machine.role == Role.ORCHESTRATOR) for m in others):
            return None  # factories need their orchestrator; what is somebody else's holds up the cluster
        assert machine.running_at is not None, "it runs"
        idle_since = [
            machine.running_at,
            person.remembered_since + 10 * MINUTE,
            person.asked_at + ASKED_FOR,
            person.kept_until,
            self._weather.fair_since(now),
            self._cloud.watch.aimed_at[machine.id, alarm["Namespace"]],
            self._set_up_at(machine, person),
            *(at + FADES[way] for way in Way if (at := use.last(machine, way, now)) is not None),
        ]
        if timeout == SHORTEST:
            idle_since.append(self._set_up_at(machine, person) + EXPERIMENT_MAY_BEGIN)
        if machine.role == Role.ORCHESTRATOR:
            idle_since.append(person.asked_at + LAUNCH_MAY_LAST)
            idle_since += [m.ended_at + 10 * MINUTE for m in others if m.ended_at is not None]
        served = self._served[-1]
        if not alarm["Namespace"].startswith("AWS/"):
            idle_since.append(now if served.ended is not None else served.began)
        due = max(idle_since) + timeout + GONE_WITHIN
        if machine.spared or machine.was_protected:
            due = max(due, served.began + timeout) + AGAIN_MOST + GRACE
        return max(due, self._cloud.watch.robbed_at.get(machine.id, 0.0) + 10 * MINUTE)

    def _set_up_at(self, machine: Machine, person: Person) -> float:
        """Return when something was last done to a host that is set up; where it is not, by when it has to be."""
        _, touched = self._hosts.set_up.get(machine.id, (0.0, 0.0))
        if touched and touched >= person.remembered_since and self._ready_at(machine, person) is not None:
            return touched
        assert machine.running_at is not None, "it runs"
        begins = max(machine.running_at, person.asked_at, person.remembered_since, touched)
        return begins + REACHED_WITHIN + SETUP_MAY_LAST * len(person.commands_to_set_up)

    def _ready_at(self, machine: Machine, person: Person) -> float | None:
        """Return when a host was first set up; None: it is not."""
        if machine.id not in self._hosts.set_up:
            return None
        runs = self._hosts.of(machine).runs.values()
        ended = {run.command: run.ends for run in runs if run.code == 0 and run.ends <= self._cloud.now}
        if not ended.keys() >= set(person.commands_to_set_up):
            return None
        first, _ = self._hosts.set_up[machine.id]
        return max([first, *ended.values()])

    def _works(self, machine: Machine, person: Person, *, own: bool) -> Iterator[Work]:
        late = SEEN_WITHIN + (10 * MINUTE if own else 0.0)
        lost = self._weather.cpu_lost
        for stretch in machine.uses.get(Way.CPU, ()):
            yield Work("its CPU", stretch, _covers(stretch, late, lost), leased=False)
        for way in (Way.GPU, Way.TERMINAL, Way.EXPERIMENT):
            for begins, ends in machine.uses.get(way, ()):
                stretch = begins, ends + (TYPED_WITHIN if way is Way.TERMINAL else 0.0)
                yield Work(way, stretch, self._is_known(machine, person, way, stretch), leased=True, way=way)
        for run in self._hosts.of(machine).runs.values():
            stretch = run.begins, min(run.ends, run.begins + SETUP_MAY_LAST)
            yield Work("set-up", stretch, self._is_cared_for(machine, person, stretch), leased=True)
        ready = self._ready_at(machine, person)
        if (
            ready is not None
            and person.timeout(Role(machine.role)) == SHORTEST
            and not _is_used(machine, ready, self._cloud.now)
        ):
            stretch = ready, ready + EXPERIMENT_MAY_BEGIN
            yield Work("what is to begin", stretch, self._is_cared_for(machine, person, stretch), leased=True)
        if person.held is not None:
            yield Work("a hold", person.held, self._is_cared_for(machine, person, person.held), leased=True)

    def _is_known(self, machine: Machine, person: Person, way: Way, stretch: Stretch) -> Callable[[float], bool]:
        """Return whether at a moment the service has been told of a use, or would have been, had it asked."""
        told = self._hosts.told.get((machine.id, way))
        silent = self._silent_at(machine, way)
        answers_since = self._answers_since(machine)
        begins, ends = stretch

        def is_kept(at: float) -> bool:
            if told is not None and begins <= told and told + WRITTEN_WITHIN <= at <= min(told + LEASE, ends):
                return self._worked(told, at)
            since = at - NOTICED_WITHIN
            asked = max(begins, answers_since, silent + 1.0) <= since and at <= ends
            return asked and person.is_remembered(since) and self._worked(since, at)

        return is_kept

    def _is_cared_for(self, machine: Machine, person: Person, stretch: Stretch) -> Callable[[float], bool]:
        """Return whether at a moment the service works, and knows by itself of something that needs a host."""
        silent = self._hosts.silent.get(machine.id, 0.0)
        begins, ends = stretch

        def is_kept(at: float) -> bool:
            since = max(begins, at - WRITTEN_WITHIN)
            known = begins + WRITTEN_WITHIN <= at <= ends and silent < since and person.is_remembered(begins)
            return known and self._worked(since, at)

        return is_kept

    def _answers_since(self, machine: Machine) -> float:
        boots, since = self._hosts.heard.get(machine.id, (0, 0.0))
        return since if boots == machine.boots else self._cloud.now

    def _silent_at(self, machine: Machine, way: Way) -> float:
        """Return when a host last did not tell whether it is used in a way."""
        return max(self._hosts.silent.get(machine.id, 0.0), self._hosts.untold.get((machine.id, way), 0.0))

    def _worked(self, since: float, until: float) -> bool:
        """Whether the service was up between two moments, and nothing was in its way."""
        weather = self._weather
        if not any(served.began <= since and until <= (served.ended or until) for served in self._served):
            return False
        return weather.works_between(since, until) and not weather.is_odd(since, until)


def _is_used(machine: Machine, since: float, until: float) -> bool:
    return any(use.between(machine, way, since, until) for way in Way)


def _covers(stretch: Stretch, late: float, lost: Stretch) -> Callable[[float], bool]:
    """Return whether at a moment a stretch has lasted for so long, and CloudWatch had CPU to show."""
    begins, ends = stretch

    def is_kept(at: float) -> bool:
        return begins + late <= at <= ends and not (lost[0] <= at and at - late < lost[1])

    return is_kept
