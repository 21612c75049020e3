"""The policy of idle protection: what counts as idle, for how long what counts as use, and what makes two policies the same.

Pure. The timeouts of a cluster file ask for an alarm's window and threshold (row "window"; S35, S36); votes hold it off.
"""

from __future__ import annotations

from dataclasses import dataclass

from flambed.desired import Cluster, Role

THRESHOLDS = {Role.FACTORY: 0.5, Role.ORCHESTRATOR: 4.0}
"""Average CPU, in percent, below which a host counts as idle (the source document's own figures)."""

LONGEST_WINDOW = 168 * 60
"""Minutes that one alarm can look back at most."""

EXPERIMENT_MAY_BEGIN = 30 * 60.0
"""Seconds after ready that a host with timeout 0 waits for the experiment to begin."""

EXPERIMENT_MAY_IDLE = 24 * 3600.0
"""Seconds without any activity of CPU or GPU for which an experiment's process counts as use."""

ASKED_FOR = 300.0
"""Seconds for which an `up` or a `retry` counts as use: whoever asks for a cluster does not want it to end that minute."""

VOTE_AHEAD = 5
"""Minutes ahead of now for which a vote has points: they ride over a restart of the service, and lapse without it."""

HOLD_AHEAD = 30
"""The same for a person's word, which has to outlast a longer absence; a release takes as long to have an effect."""


@dataclass(frozen=True, slots=True)
class IdlePolicy:
    """When a host of one role is to end by itself."""

    minutes: int | None  # of consecutive idleness; None: never
    threshold: float  # percent of CPU

    @property
    def digest(self) -> str:
        """Return what tells this policy from another."""
        return "never" if self.minutes is None else f"{self.minutes}min<{self.threshold:g}%"


def policy_of(cluster: Cluster, role: Role) -> IdlePolicy:
    """Return the idle policy of a role."""
    return IdlePolicy(cluster.timeout_minutes(role), THRESHOLDS[role])
