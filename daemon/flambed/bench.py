"""The bench: what all clusters of the service share, whatever their region."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass

from flambed import access
from flambed.keys import KeyStore
from flambed.outputs import Outputs
from flambed.settings import Settings


@dataclass(slots=True)
class Bench:
    """What all clusters of the service share, whatever their region."""

    settings: Settings  # replaced by a reload: to be read where they are used
    daemon: str  # the id of this service
    memory: MutableMapping[str, str]  # what the regions' keepers know after a restart
    keys: KeyStore
    outputs: Outputs
    ssh_slots: asyncio.Semaphore  # how many hosts are connected to at the same time
    predecessors: frozenset[str] = frozenset()  # the ids of services whose clusters this one takes over

    @property
    def access(self) -> access.Rules:
        """Who may do what."""
        return access.Rules(self.settings.admin_group, self.settings.creators)

    @property
    def daemons(self) -> frozenset[str]:
        """The ids that are ours in the tags of what we made."""
        return self.predecessors | {self.daemon}
