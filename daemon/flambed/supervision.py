"""The service under its manager: the line that tells how it is, and the settings that are read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from flambed.bench import Bench
from flambed.control import Control
from flambed.errors import ClusterConfigurationError
from flambed.fleet import Fleet
from flambed.journal import Journal
from flambed.log import Log
from flambed.reloading import reload
from flambed.settings import Settings
from flambed.systemd import Manager


class Supervised:
    """The running service, as systemd sees it.

    Args:
        manager: systemd, or nobody.
        bench: holds the settings that apply.
        fleet: its clusters are counted.
        journal: whether it can be written is told.
        control: is given the rules of access anew.
        log: is given its level anew.
        read: reads the settings, or raises a ClusterConfigurationError.
    """

    def __init__(
        self,
        manager: Manager,
        *,
        bench: Bench,
        fleet: Fleet,
        journal: Journal,
        control: Control,
        log: Log,
        read: Callable[[], Settings],
    ) -> None:
        self._manager = manager
        self._bench = bench
        self._fleet = fleet
        self._journal = journal
        self._control = control
        self._log = log
        self._read = read
        self._waiting: tuple[str, ...] = ()  # what was changed, and needs a restart

    @property
    def status(self) -> str:
        """How the service is, in one line: "3 clusters: 1 converging, 2 ready; the journal is read-only"."""
        phases = Counter(member.world.phase for member in self._fleet.directory if member.world.desired is not None)
        phases.pop("gone", None)
        total = phases.total()
        each = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))
        said = [f"{total} cluster{'s' if total != 1 else ''}" + (f": {each}" if each else "")]
        if self._journal.health.read_only is not None:
            said.append("the journal is read-only: nothing is begun")
        if self._fleet.account.trouble is not None:
            said.append("the credentials are another account's: nothing is begun")
        if self._waiting:
            said.append(f"a restart is needed for {', '.join(self._waiting)}")
        return "; ".join(said)

    async def tell(self) -> None:
        """Tell systemd how the service is, whenever that changes, until cancelled."""
        told = ""
        while True:
            changed = self._fleet.changes()
            if self.status != told:
                told = self.status
                self._manager.status(told)
            await changed.wait()

    def reload(self) -> None:
        """Read the settings again, apply what can be applied while the service runs, and say what cannot."""
        self._manager.reloading()
        try:
            found = reload(self._bench.settings, self._read())
        except ClusterConfigurationError as error:
            self._log.emit("service.reload_refused", message=str(error))
            self._manager.ready(f"{self.status}; the settings are wrong, so the old ones apply: see the log")
            return
        self._bench.settings = found.settings
        self._control.rules = self._bench.access
        self._log.set_level(found.settings.log.level)
        self._waiting = found.restart
        self._log.emit("service.reloaded", changed=found.changed, restart=found.restart)
        self._manager.ready(self.status)
