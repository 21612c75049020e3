"""The crash matrix: the service is killed before and after every request of a whole life, and nothing leaks or doubles.

A life is `up`, one factory more, one factory less, and `down`. It is lived undisturbed first, which tells the requests.
Then it is lived again and again, each time with a few deaths, until each of these requests has had both of its own. An
ordinary run takes every third of them, and another third for each commit; `make crash-matrix` takes all (CRASH_MATRIX).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import pytest

from tests.lab.daemonproc import Document
from tests.lab.labproc import LabProcess, start_lab
from tests.lab.mortal import Mortal, Point
from tests.lab.serviceproc import start_service

SETUP: Final = ["echo begun >> runs", "sleep 0.2; echo done >> runs"]
"""The set-up commands, the second of which takes long enough for a service to die meanwhile."""

ASKED: Final = {"Orchestrator": 1, "Factory": 3}
"""How many instances a whole life asks for: two factories, and one more later."""

LABS: Final = 2
"""Lives that are lived at the same time, each against a lab of its own."""

UNDISTURBED: Final = 4
"""Lives without a death, which tell the requests: what came in each of them, for some depend on the time that things take."""

DEATHS: Final = 3
"""How often the service dies in a phase at most."""

ROUNDS: Final = 4
"""How often a point that did not come in its life is tried again, as the only one of its phase."""


@dataclass
class Life:
    """What became of one life. Its lists of what is wrong should be empty."""

    calls: dict[str, list[str]] = field(default_factory=dict)  # the actions that were answered, by phase
    hit: list[Point] = field(default_factory=list)
    missed: list[Point] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def live(lab: LabProcess, points: Sequence[Point] = ()) -> Life:
    """Live one life against a lab that has no other, and die at these points in it."""
    life = Life()
    earlier = {i["id"] for i in lab.instances(hosts=False)}
    region = lab.info["region"]
    queues = {region: lab.info["queues"][region]}
    with start_service(lab, started=False, events__queues=queues, log__level="debug") as service:
        mortal = Mortal(service)
        for phase, bring_about in PHASES.items():
            mortal.begin(point for point in points if point.phase == phase)
            bring_about(mortal)
            life.calls[phase] = [call["action"] for call in mortal.calls() if call["duration"] is not None]
            life.doubled += doubled_commands(lab)
        mortal.begin()
        life.hit, life.missed = mortal.hit, mortal.missed
        life.leaked = remains(lab)
        roles = Counter(i["last_tags"]["Role"] for i in lab.instances(hosts=False) if i["id"] not in earlier)
        life.doubled += [f"{roles[role]} times {role}" for role in roles if roles[role] != ASKED[role]]
    return life


def start(mortal: Mortal) -> None:
    """The service starts, looks at what there is and begins to read its queue."""
    service = mortal.service

    def settled() -> bool:
        events = [line["event"] for line in service.log("region.opened", "region.survey_done")]
        return events[-1:] == ["region.survey_done"] and any(c["action"] == "ReceiveMessage" for c in mortal.calls())

    mortal.until(settled)


def up(mortal: Mortal, factories: int, *more: str) -> None:
    """Somebody asks for so many factories, and in the end nothing is left to be done."""
    lab, service = mortal.service.lab, mortal.service
    file = service.file(factories_num=factories, factories_timeout=1, orchestrator_timeout=1, setup_cmds=SETUP)
    ended = mortal.insist("up", file, "--json", *more)
    assert (ended.code, ended.document["phase"]) == (0, "ready"), ended

    def settled() -> bool:
        named = {i["id"] for i in running(lab) if "Name" in i["tags"]}
        armed = {alarm["AlarmName"].rpartition("_")[2] for alarm in lab.alarms()}
        return len(named) > factories and named == armed

    mortal.until(settled)


def down(mortal: Mortal) -> None:
    """Somebody takes the cluster down, and in the end nothing is left of it."""
    ended = mortal.insist("down", "c", "--yes", "--json")
    assert (ended.code, ended.document["phase"]) == (0, "gone"), ended
    with suppress(TimeoutError):  # what is left then is told as leaked
        mortal.until(lambda: not remains(mortal.service.lab))


PHASES: Final[Mapping[str, Callable[[Mortal], None]]] = {
    "start": start,
    "up": lambda mortal: up(mortal, 2),
    "grow": lambda mortal: up(mortal, 3),
    "shrink": lambda mortal: up(mortal, 2, "--shrink"),
    "down": down,
}
"""A life. Each phase ends when nothing is left to be done in it."""


def running(lab: LabProcess) -> list[Document]:
    """The instances that have not ended."""
    return [i for i in lab.instances(hosts=False) if i["state"] not in {"shutting-down", "terminated"}]


def remains(lab: LabProcess) -> list[str]:
    """What is left in AWS: instances, alarms and volumes."""
    instances = [f"{i['id']} {i['state']}" for i in lab.instances(hosts=False) if i["state"] != "terminated"]
    alarms = [str(alarm["AlarmName"]) for alarm in lab.alarms()]
    volumes = [str(volume["VolumeId"]) for volume in lab.boto("ec2").describe_volumes()["Volumes"]]
    return instances + alarms + volumes


def doubled_commands(lab: LabProcess) -> list[str]:
    """The hosts on which the set-up commands did not run once each, one after the other."""
    found = []
    for instance in lab.instances():
        if (host := instance["host"]) is None or instance["state"] != "running":
            continue
        if (runs := host["files"].get("/home/ubuntu/runs")) != "begun\ndone\n":
            found.append(f"{instance['id']} ran {runs!r}")
    return found


def points_of(lives: Sequence[Life]) -> list[Point]:
    """Before and after each call that came in all of these lives, in the order of the first of them."""
    first, *others = lives
    points = []
    for phase in PHASES:
        counts: Counter[str] = Counter()
        for action in first.calls[phase]:
            counts[action] += 1
            if all(life.calls[phase].count(action) >= counts[action] for life in others):
                points += [
                    Point(phase, action, counts[action], "before"),
                    Point(phase, action, counts[action], "after"),
                ]
    return points


def plan(points: Sequence[Point], deaths: int) -> list[list[Point]]:
    """Lives in which each point comes once, at most so many a phase, and as far from each other as can be."""
    phases = [[point for point in points if point.phase == phase] for phase in PHASES]
    number = max(ceil(len(some) / deaths) for some in phases)
    return [[point for some in phases for point in some[first::number]] for first in range(number)]


def part_of(text: str | None) -> tuple[int, int]:
    """Which lives are lived: the first number, counted from 0, of so many parts; without a text a third by commit."""
    if text is not None:
        part, _, parts = text.partition("/")
        return int(part) - 1, int(parts)
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout
    return int(commit or "0", 16) % 3, 3


@pytest.fixture
def labs() -> Iterator[list[LabProcess]]:
    """Labs in which instances boot at once and a minute lasts two seconds."""
    with ExitStack() as stack:
        arguments = ("--boot", "0.3", "--ssh-delay", "0", "--shutdown", "0.1", "--quotas", "off", "--minute", "2")
        yield [stack.enter_context(start_lab(*arguments)) for _ in range(LABS)]


@pytest.mark.timeout(1800)
def test_killed_before_and_after_any_request_of_a_life_nothing_leaks_and_nothing_is_done_twice(
    labs: list[LabProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    """The life goes on to its end, with the instances that were asked for and each command run once a host."""
    free: SimpleQueue[LabProcess] = SimpleQueue()
    for lab in labs:
        free.put(lab)

    def lived(points: Sequence[Point]) -> Life:
        lab = free.get()
        try:
            return live(lab, points)
        except BaseException as error:
            error.add_note(f"in a life with these deaths: {'; '.join(map(str, points)) or 'none'}")
            raise
        finally:
            free.put(lab)

    part, parts = part_of(os.environ.get("CRASH_MATRIX"))
    with ThreadPoolExecutor(LABS) as pool:
        undisturbed = list(pool.map(lived, [()] * UNDISTURBED))
        points = points_of(undisturbed)
        lives: list[Life] = []
        to_come = plan(points, DEATHS)[part::parts]
        for _ in range(ROUNDS):
            batch = list(pool.map(lived, to_come))
            lives += batch
            missed = [point for life in batch for point in life.missed]
            if not missed:
                break
            to_come = plan(missed, 1)

    hit = [point for life in lives for point in life.hit]
    leaked = [what for life in undisturbed + lives for what in life.leaked]
    doubled = [what for life in undisturbed + lives for what in life.doubled]
    with capsys.disabled():
        sys.stdout.write(table(len(points), lives, leaked, doubled))
    assert missed == [], "these never came"
    assert sorted(hit) == sorted(point for life in plan(points, DEATHS)[part::parts] for point in life)
    assert (leaked, doubled) == ([], [])


def test_every_point_is_in_one_life_and_every_life_in_one_part() -> None:
    """So that three commits, or one `make crash-matrix`, kill at each of them once; and no life has too many deaths."""
    calls = {"start": ["a"], "up": ["a", "b", "a", "c"] * 5, "grow": [], "shrink": ["b"] * 4, "down": ["c", "a"]}
    once = Life(calls={**calls, "up": [*calls["up"], "a", "d"]})
    points = points_of([once, Life(calls=calls)])
    assert len(points) == 2 * (1 + 20 + 0 + 4 + 2)
    lives = plan(points, 3)
    assert sorted(point for number in range(3) for life in lives[number::3] for point in life) == sorted(points)
    assert max(Counter(point.phase for point in life).most_common(1)[0][1] for life in lives) == 3
    assert [part_of("1/1"), part_of("2/5")] == [(0, 1), (1, 5)]


def table(requests: int, lives: Sequence[Life], leaked: Sequence[str], doubled: Sequence[str]) -> str:
    """What was found, for people."""
    hit = [point for life in lives for point in life.hit]
    rows = [
        ("requests of a life", requests // 2),
        ("kill points", requests),
        ("  of which hit", len(hit)),
        ("lives", len(lives)),
        ("leaked", len(leaked)),
        ("duplicates", len(doubled)),
    ]
    return "\n\n" + "".join(f"  {name:<20}{number:>5}\n" for name, number in rows)
