"""What the timeouts of a cluster file ask of an alarm (idle protection, row "window"; S35, S36).

Pure: the one place that knows the thresholds and what makes two policies the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from flambed.desired import Cluster, Role

THRESHOLDS = {Role.FACTORY: 0.5, Role.ORCHESTRATOR: 4.0}
"""Average CPU, in percent, below which a host counts as idle (the source document's own figures)."""

LONGEST_WINDOW = 168 * 60
"""Minutes that one alarm can look back at most."""


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
