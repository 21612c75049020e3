"""supervision: what systemd is told of the service, and what a reload comes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from flambed.bench import Bench
from flambed.control import Control
from flambed.errors import ClusterConfigurationError, Problem
from flambed.journal import Journal
from flambed.journal.health import Health
from flambed.log import Log
from flambed.observed.world import World
from flambed.settings import Settings
from flambed.supervision import Supervised
from flambed.systemd import Manager
from flambed.tasks import end
from tests.fakes import Cloud
from tests.runningfleet import running_fleet
from tests.stories.story import Story


class HeardManager(Manager):
    """systemd, and what it is told."""

    def __init__(self) -> None:
        super().__init__({})
        self.heard: list[str] = []
        self.came = asyncio.Event()

    def _send(self, *lines: str) -> None:
        self.heard.append(" ".join(line for line in lines if not line.startswith("MONOTONIC_USEC=")))
        self.came.set()

    async def until(self, told: str) -> None:
        """Wait until it was told this."""
        async with asyncio.timeout(10):
            while told not in self.heard:
                self.came.clear()
                await self.came.wait()


class Ruled:
    """Stands for the control API, which is given its rules anew."""

    rules: Any = None


def ready() -> World:
    """A cluster that is ready."""
    story = Story()
    story.becomes_ready()
    return story.world


def settings(**changes: Any) -> Settings:
    """Settings that a file says."""
    return Settings.model_validate(changes)


def supervised(fleet: Any, journal: Journal, log: Log, read: Callable[[], Settings]) -> tuple[Supervised, Ruled]:
    """A service under its manager, and its control API."""
    control, bench = Ruled(), cast("Bench", vars(fleet)["_bench"])
    made = Supervised(
        HeardManager(),
        bench=bench,
        fleet=fleet,
        journal=journal,
        control=cast("Control", control),
        log=log,
        read=read,
    )
    return made, control


def manager_of(it: Supervised) -> HeardManager:
    """The systemd of a supervised service."""
    return cast("HeardManager", vars(it)["_manager"])


async def test_the_status_line_counts_clusters_by_phase_and_names_every_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are gone do not count."""
    async with running_fleet(tmp_path, Cloud()) as (fleet, journal, log):
        it, _ = supervised(fleet, journal, log, settings)
        assert it.status == "0 clusters"
        region, world = await fleet.region(), ready()
        await fleet.take_on(("ann", "a"), "a1", world, region)
        assert it.status == "1 cluster: 1 ready"
        await fleet.take_on(("ann", "b"), "b1", replace(world, phase="degraded"), region)
        await fleet.take_on(("ann", "z"), "z1", replace(world, phase="gone"), region)
        assert it.status == "2 clusters: 1 degraded, 1 ready"
        fleet.account.trouble = "another one"
        monkeypatch.setattr(Health, "read_only", "full")
        assert it.status.split("; ")[1:] == [
            "the journal is read-only: nothing is begun",
            "the credentials are another account's: nothing is begun",
        ]
        monkeypatch.setattr(Health, "read_only", None)


async def test_systemd_is_told_of_each_change_once(tmp_path: Path) -> None:
    """A change of a cluster that leaves the line as it was is none."""
    async with running_fleet(tmp_path, Cloud()) as (fleet, journal, log):
        it, _ = supervised(fleet, journal, log, settings)
        manager = manager_of(it)
        telling = asyncio.create_task(it.tell())
        await manager.until("STATUS=0 clusters")
        member = await fleet.take_on(("ann", "a"), "a1", ready(), await fleet.region())
        await manager.until("STATUS=1 cluster: 1 ready")
        member.notify()
        await asyncio.sleep(0)
        await end(telling)
        assert len(manager.heard) == len(set(manager.heard))


async def test_a_reload_applies_what_it_can_and_says_what_waits_until_the_next_reload(tmp_path: Path) -> None:
    """The rules of access and the log's level are new; the port waits, and systemd's line says so until it is put back."""
    files = [settings(admin_group="ops", ssh_port=2222, log={"level": "error"}), settings(admin_group="ops")]
    async with running_fleet(tmp_path, Cloud()) as (fleet, journal, log):
        it, control = supervised(fleet, journal, log, lambda: files.pop(0))
        it.reload()
        assert control.rules == vars(fleet)["_bench"].access
        assert control.rules.admin_group == "ops"
        assert vars(log)["_threshold"].level == "error"
        assert vars(fleet)["_bench"].settings.ssh_port == 22
        [told] = log.of("service.reloaded")
        assert (sorted(told["changed"]), told["restart"]) == (["admin_group", "log.level"], ("ssh_port",))
        waiting = "0 clusters; a restart is needed for ssh_port"
        assert manager_of(it).heard == ["RELOADING=1", f"READY=1 STATUS={waiting}"]
        it.reload()
        assert it.status == "0 clusters"


async def test_a_reload_of_wrong_settings_changes_nothing_and_is_ready_again(tmp_path: Path) -> None:
    """systemd does not wait for ever, and its line and the log say what is wrong."""

    def wrong() -> Settings:
        raise ClusterConfigurationError([Problem("there is no such setting", field="nonsense")], "flambed.yaml")

    async with running_fleet(tmp_path, Cloud()) as (fleet, journal, log):
        before = vars(fleet)["_bench"].settings
        it, control = supervised(fleet, journal, log, wrong)
        it.reload()
        assert vars(fleet)["_bench"].settings is before
        assert control.rules is None
        assert log.of("service.reload_refused") == [{"message": "flambed.yaml: there is no such setting"}]
        assert manager_of(it).heard == [
            "RELOADING=1",
            "READY=1 STATUS=0 clusters; the settings are wrong, so the old ones apply: see the log",
        ]
