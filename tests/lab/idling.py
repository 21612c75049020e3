"""A service and a lab in which hours of idleness pass in seconds, and what became of the hosts in them.

All times are minutes of the lab, counted from the moment at which the lab was opened.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import asyncssh

from flambed.clock import Clock
from tests.lab.labproc import LabProcess, start_lab
from tests.lab.serviceproc import Service, start_service

WITHIN: Final = 12.0
"""Minutes after its timeout within which an idle host has to be gone: the alarm's evaluation, and a late point."""

BEFORE: Final = 1.5
"""Minutes by which a host may end before its timeout is over: points are stamped with the start of their minute."""

Use = Literal["cpu", "gpu", "typing", "forgotten", "nothing"]

USES: Final[dict[Use, tuple[dict[str, Any], ...]]] = {
    "cpu": ({"kind": "cpu", "percent": 60.0},),
    "gpu": ({"kind": "gpu", "percent": 97}, {"kind": "cpu", "percent": 0.0}),
    "typing": ({"kind": "tty", "typing": True},),
    "forgotten": ({"kind": "tty", "typing": False},),
    "nothing": (
        {"kind": "cpu", "percent": 0.2},
        {"kind": "gpu", "percent": 0},
        {"kind": "tty", "typing": None},
    ),
}
"""What a host is used for, as the lab is told."""


@dataclass
class Idling:
    """A service, its lab, and the lab's clock."""

    service: Service
    minute: float  # real seconds
    opened: float = field(init=False)  # UNIX seconds

    def __post_init__(self) -> None:
        self.opened = time.time()

    @property
    def lab(self) -> LabProcess:
        """The pretend AWS."""
        return self.service.lab

    @property
    def clock(self) -> Clock:
        """The clock of CloudWatch and of the service."""
        return Clock(self.minute)

    # --- time ---

    def now(self) -> float:
        """The minute that it is."""
        return (time.time() - self.opened) / self.minute

    def rest(self, minutes: float) -> None:
        """Let minutes pass."""
        time.sleep(minutes * self.minute)

    # --- hosts ---

    def run(self, instance: str, command: str) -> str:
        """Run a command on a host, which has to end well; return what it printed."""

        async def run() -> str:
            address, port, key = self.lab.instance(instance)["address"], self.lab.info["ssh_port"], self.lab.info["key"]
            async with asyncssh.connect(
                address, port, username="ubuntu", client_keys=[key], known_hosts=None, config=None, agent_path=None
            ) as connection:
                return str((await connection.run(command, check=True)).stdout)

        return asyncio.run(run())

    def up(self, name: str = "c", **changes: Any) -> dict[str, str]:
        """Bring up a cluster whose orchestrator never ends; return its instances by name, without the cluster's own."""
        plain: dict[str, Any] = {"orchestrator_timeout": -1, "setup_cmds": []}
        status = self.service.up(self.service.file(name, **(plain | changes)))
        return {row["name"].removeprefix(f"{name}_"): row["id"] for row in status["instances"]}

    def use(self, use: Use, *instances: str) -> float:
        """Use hosts for something from now on, and return the minute that it is."""
        for order in USES[use]:
            for instance in instances:
                self.lab.fault(order | {"instance": instance})
        return self.now()

    def ended(self) -> dict[str, float]:
        """The minutes at which instances ended, by id."""
        return {
            instance["id"]: (instance["ending_since"] - self.opened) / self.minute
            for instance in self.lab.instances(hosts=False)
            if instance["ending_since"] is not None
        }

    def until_ended(self, instances: Iterable[str], by: float) -> dict[str, float]:
        """Wait until all these have ended, which has to be so at this minute; return the minutes at which they did."""
        wanted = set(instances)
        left = (by - self.now() + 1) * self.minute
        self.lab.until(lambda: wanted <= self.ended().keys(), within=max(left, 0.0) + 1.0)
        return {instance: at for instance, at in self.ended().items() if instance in wanted}

    def ended_by(self, instance: str) -> Literal["alarm", "service", "timer"]:
        """Who ended an instance."""
        if self.lab.instance(instance)["reason"] == "Client.InstanceInitiatedShutdown":
            return "timer"
        called = any(instance in str(call["params"]) for call in self.lab.calls(action="TerminateInstances"))
        return "service" if called else "alarm"


@contextmanager
def idling(minute: float, *arguments: str, namespace: str = "accept", **settings: Any) -> Iterator[Idling]:
    """A service and a lab whose minute lasts so many real seconds.

    Args:
        minute: how many; below 0.25 the service and the lab cannot keep up where every minute counts.
        arguments: further ones of the lab.
        namespace: what becomes of points in AWS's own namespaces: "accept" or "refuse".
        settings: the service's, as `start_service` takes them.
    """
    speed = ("--minute", str(minute), "--boot", "0.3", "--ssh-delay", "0.1", "--shutdown", "0.1", "--quotas", "off")
    plain = {"ssh__deadline": "4h", "survey__interval": "2s", "log__level": "debug"}
    with (
        start_lab(*speed, "--aws-namespace", namespace, *arguments) as lab,
        start_service(lab, **(plain | settings)) as service,
    ):
        yield Idling(service, minute)
