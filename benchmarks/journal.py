"""How large the journal gets: a year of many clusters, written through the real journal with a made-up clock.

    .venv/bin/python -m benchmarks.journal [--clusters 100] [--days 365] [--edges 3]

Every cluster has an orchestrator and eight factories. It is brought up each Monday and down each Saturday; its factories
change in number every third day; a factory is lost to EC2, and replaced, once a week; somebody holds it twice a week; and
its hosts become busy or idle so many times an hour (`--edges`). The service starts anew each Sunday, and compacts once a
day, which is seldom: it does so each hour. That takes about six minutes of one core.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from flambed.desired import Cluster, Role
from flambed.journal import Journal, folded
from flambed.observed.facts import (
    ActionEnded,
    ActionsBegan,
    AlarmArmed,
    AlarmRemoved,
    BecameBusy,
    BecameIdle,
    ClusterSurveyed,
    CommandEnded,
    CommandStarted,
    DownRequested,
    Fact,
    HoldPlaced,
    HostInformed,
    HostReached,
    Image,
    InstancesDescribed,
    InstanceTagged,
    Key,
    LaunchAnswered,
    LaunchIntended,
    LaunchPrepared,
    LaunchSpec,
    PhaseChanged,
    Seen,
    ServiceStarted,
    SetupDone,
    StateNotified,
    TerminationAccepted,
    UpRequested,
)
from flambed.observed.world import World

DAY = 86_400.0
BEGIN = 1_800_000_000.0
DIGEST = "8f83fa2deb1a27f1"
COMMANDS = tuple(
    f"pip install --quiet package-{number}==1.{number}.0 --index-url https://example.com" for number in range(5)
)
MB = 1e6


@dataclass
class Life:
    """One cluster's facts, made up day by day."""

    name: str
    edges: int
    rng: random.Random
    hosts: dict[str, Seen] = field(default_factory=dict)
    ids: Iterator[int] = field(default_factory=itertools.count)
    request: int = 0
    at: float = BEGIN

    def day(self, number: int) -> Iterator[Fact]:
        """Return what happens on a day; 0 is a Monday."""
        self.at = max(self.at, BEGIN + number * DAY)
        weekday = number % 7
        if weekday == 6:
            yield ServiceStarted(at=self._later(60))
        if weekday == 0:
            yield from self._up(8)
        elif weekday == 5:
            yield from self._down()
        elif number % 3 == 0:
            yield from self._up(7 if len(self.hosts) > 8 else 8)
        if self.hosts and weekday == 2:
            yield from self._lose()
        if self.hosts and weekday in (1, 3):
            yield HoldPlaced(at=self._later(60), by=1000, until=self.at + 7200, why="a long experiment, until tomorrow")
        for edge in range(24 * self.edges if self.hosts else 0):
            host = self.rng.choice(list(self.hosts))
            at = self._later(3600 / self.edges)
            yield BecameBusy(at=at, instance=host) if edge % 2 else BecameIdle(at=at, instance=host, since=at - 300)

    def _later(self, seconds: float) -> float:
        self.at += seconds * self.rng.uniform(0.5, 1.0)
        return self.at

    def _began(self, kind: str, *subjects: str) -> Fact:
        return ActionsBegan(at=self._later(1), keys=tuple(Key(kind, subject) for subject in subjects or ("",)))

    def _ended(self, kind: str, *subjects: str) -> Iterator[Fact]:
        return (ActionEnded(at=self._later(1), key=Key(kind, subject)) for subject in subjects or ("",))

    def _up(self, factories: int) -> Iterator[Fact]:
        wanted = Cluster(
            name=self.name, creator="somebody@company.com", factories_num=factories, factories_type="g5.xlarge",
            orchestrator_type="t3.large", key_name="key", key="~/.ssh/key.pem", security_group="sg-0123456789abcdef0",
            subnet_id="subnet-0123456789abcdef0", setup_cmds=COMMANDS, tags={"project": "x", "team": "y"},
        )  # fmt: skip
        self.request += 1
        yield UpRequested(
            at=self._later(60), desired=wanted, region="us-east-1", cluster_id=f"{self.name:0>16}", host_key="ssh-ed25519 A" * 5,
            owner=1000, by=1000, may_adopt=False,
        )  # fmt: skip
        yield self._began("find")
        yield ClusterSurveyed(at=self._later(1), instances=tuple(self.hosts.values()), began=self.at)
        yield from self._ended("find")
        roles = [seen.role for seen in self.hosts.values()]
        surplus = [seen.id for seen in self.hosts.values() if seen.role is Role.FACTORY][factories:]
        yield from self._terminate(surplus)
        yield from self._launch(Role.ORCHESTRATOR, 1 - roles.count(Role.ORCHESTRATOR))
        yield from self._launch(Role.FACTORY, factories - roles.count(Role.FACTORY))
        yield PhaseChanged(at=self._later(1), phase="ready", reason=None)

    def _launch(self, role: Role, count: int) -> Iterator[Fact]:
        if count <= 0:
            return
        yield PhaseChanged(at=self._later(1), phase="converging", reason=None)
        image = Image(id="ami-0123456789abcdef0", root_device="/dev/sda1", min_gib=50)
        spec = LaunchSpec(
            role=role, count=count, image=image, type="g5.xlarge", ebs_optimized=True, user_data=DIGEST * 4
        )
        yield self._began("prepare")
        yield LaunchPrepared(at=self._later(1), specs=(replace(spec, count=0),))
        yield from self._ended("prepare")
        token = f"{self.name:0>16}-{self.request}-3f2a1b-{next(self.ids)}"
        yield LaunchIntended(at=self._later(1), token=token, spec=spec)
        yield self._began("launch", token)
        tags = {f"flambed:tag-{number}": "some-value-of-usual-length" for number in range(10)}
        new = [
            Seen(
                id=f"i-{next(self.ids):05x}{self.rng.getrandbits(48):012x}", state="pending", role=role, name=f"{self.name}_x",
                type=spec.type, token=token, launched_at=self.at, private_host="10.0.0.17", tags=tags,
            )
            for _ in range(count)
        ]  # fmt: skip
        yield LaunchAnswered(at=self._later(2), token=token, instances=tuple(new))
        yield from self._ended("launch", token)
        ids = [seen.id for seen in new]
        yield from (StateNotified(at=self._later(1), instance=one, state="running") for one in ids)
        yield self._began("describe")
        running = [replace(seen, state="running", volumes=(f"vol-{seen.id[2:]}",)) for seen in new]
        yield InstancesDescribed(at=self._later(1), instances=tuple(running))
        yield from self._ended("describe")
        for kind in ("tag", "setup"):
            yield self._began(kind, *ids)
        for one in ids:
            yield InstanceTagged(at=self._later(1), instance=one, digest=DIGEST)
            yield AlarmArmed(at=self._later(1), instance=one, digest=DIGEST, policy="60min<0.5%")
            yield HostReached(at=self._later(5), instance=one)
            yield HostInformed(at=self._later(1), instance=one, digest=DIGEST)
            for number in range(len(COMMANDS)):
                yield CommandStarted(at=self._later(1), instance=one, number=number, attempt=0)
                yield CommandEnded(at=self._later(9), instance=one, number=number, attempt=0, code=0, digest=DIGEST)
            yield SetupDone(at=self._later(1), instance=one, digest=DIGEST)
        for kind in ("tag", "setup"):
            yield from self._ended(kind, *ids)
        self.hosts |= {seen.id: seen for seen in running}

    def _terminate(self, ids: list[str]) -> Iterator[Fact]:
        if not ids:
            return
        yield self._began("terminate", *ids)
        yield TerminationAccepted(at=self._later(1), instances=tuple(ids))
        yield from self._ended("terminate", *ids)
        yield from self._gone(ids, "Client.UserInitiatedShutdown: User initiated shutdown")

    def _gone(self, ids: list[str], why: str) -> Iterator[Fact]:
        yield from (StateNotified(at=self._later(1), instance=one, state="shutting-down") for one in ids)
        yield self._began("describe")
        gone = tuple(replace(self.hosts.pop(one), state="terminated", tags={}, why=why) for one in ids)
        yield InstancesDescribed(at=self._later(60), instances=gone)
        yield from self._ended("describe")
        yield from (AlarmRemoved(at=self._later(1), instance=one) for one in ids)

    def _lose(self) -> Iterator[Fact]:
        lost = next(seen.id for seen in self.hosts.values() if seen.role is Role.FACTORY)
        yield from self._gone([lost], "Server.SpotInstanceTermination: Instance terminated by EC2")
        yield PhaseChanged(at=self._later(1), phase="degraded", reason="1 of 8 factories missing: terminated by EC2")
        yield from self._up(8)

    def _down(self) -> Iterator[Fact]:
        yield DownRequested(at=self._later(60), by=1000)
        yield PhaseChanged(at=self._later(1), phase="stopping", reason=None)
        yield from self._terminate(list(self.hosts))
        yield PhaseChanged(at=self._later(1), phase="gone", reason=None)


async def year(path: Path, clusters: int, days: int, edges: int) -> None:
    """Write it, and print what became of it."""
    lives = [Life(f"c{number}", edges, random.Random(number)) for number in range(clusters)]
    journal = Journal.open(path)
    began = time.perf_counter()
    written = largest = 0
    compacting = 0.0
    for day in range(days):
        for life in lives:
            written += len(journal.append(f"{life.name:0>16}", life.day(day)))
        await journal.commit()
        before = size(path)
        start = time.perf_counter()
        await journal.compact(BEGIN + (day + 1) * DAY)
        compacting += time.perf_counter() - start
        largest = max(largest, before, size(path))
        if day % 30 == 0 or day == days - 1:
            print(
                f"day {day + 1:3d}: {written:9,d} entries written, {before / MB:6.1f} MB, after compaction {size(path) / MB:6.1f} MB",
                flush=True,
            )
    await journal.close()
    seconds = time.perf_counter() - began
    print(
        f"{clusters} clusters, {days} days: {written:,} entries in {seconds:.0f} s, of which compaction {compacting:.0f} s"
    )
    print(
        f"largest size at any time, with the write-ahead log: {largest / MB:.1f} MB; in the end {size(path) / MB:.1f} MB"
    )
    began = time.perf_counter()
    journal = Journal.open(path)
    opened = time.perf_counter()
    worlds = {start.cluster: start.world for start in journal.checkpoints()}
    count = 0
    for entry in journal.load():
        worlds[entry.cluster] = folded(path, worlds.get(entry.cluster, World()), entry)
        count += 1
    done = time.perf_counter()
    print(f"opened in {opened - began:.2f} s; {len(worlds)} worlds out of {count:,} entries in {done - opened:.2f} s")
    audit = journal._connection.execute("SELECT count(*), sum(length(told)) FROM audit").fetchone()  # noqa: SLF001 - to tell what it is made of
    print(f"audit lines: {audit[0]:,}, {(audit[1] or 0) / MB:.1f} MB of text")
    await journal.close()


def size(path: Path) -> int:
    """Return the bytes of a journal on disk, those of its write-ahead log among them."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--edges", type=int, default=3, help="how often an hour hosts of a cluster become busy or idle")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state" / "journal.sqlite"
        asyncio.run(year(path, options.clusters, options.days, options.edges))


if __name__ == "__main__":
    main()
