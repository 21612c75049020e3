"""Whom the service itself ends: hosts that are due, and whose alarm did not act (row "the alarm did not act")."""

from __future__ import annotations

from flambed.actions import Case, Judge
from flambed.observed.facts import Key
from flambed.observed.instance import Instance, Stage
from flambed.plan.draft import Draft, growing
from flambed.plan.launching import conflict
from flambed.plan.protecting import ends_at, idle_from, votes
from flambed.plan.retiring import terminate
from flambed.verdict import IMPAIRED_FOR, Finding

GRACE = 600.0
"""Seconds that an alarm has, after a host is due, before the service examines the host itself."""

FRESH = 120.0
"""Seconds for which a verdict stands: what it is to end is ended at once, or examined again."""

AGAIN, AGAIN_MOST = 600.0, 3600.0
"""Seconds between two verdicts on the same host; they double while they say the same."""


def end_idle(draft: Draft) -> None:
    """End the hosts that are found due, and have those examined that seem to be."""
    if not draft.world.wanted or draft.world.recovered or conflict(draft) is not None:
        return
    doubtful = []
    for instance in draft.world.instances.values():
        at = _examined_at(draft, instance)
        if at is None:
            continue
        judged = instance.judged
        if at > draft.now:
            draft.wake(at)
        elif judged is not None and judged.finding is Finding.DUE and draft.now <= judged.at + FRESH:
            terminate(draft, [instance])
        elif draft.free(Key("terminate", instance.id)) and draft.free(Key("judge", instance.id)):
            doubtful.append(_case(draft, instance))
    if doubtful:
        draft.want(Judge(tuple(doubtful)))


def _examined_at(draft: Draft, instance: Instance) -> float | None:
    """Return when a host is to be examined; None: not while it is in use, and never where it has no timeout."""
    end = ends_at(draft, instance)
    if end is None or instance.stage not in (Stage.READY, Stage.FAILED):  # before that it is being set up
        return None
    if instance.mute_since is not None:  # nobody has read its CPU, and an end by it may never come
        end = max(end, instance.mute_since + IMPAIRED_FOR)
    at = end + GRACE
    if (judged := instance.judged) is not None and judged.finding is not Finding.DUE:
        at = max(at, judged.at + growing(AGAIN, judged.times - 1, AGAIN_MOST))
    return at


def _case(draft: Draft, instance: Instance) -> Case:
    policy = draft.policies[instance.role]
    assert policy.minutes is not None, "only hosts with a timeout are examined"
    return Case(
        instance=instance.id,
        minutes=policy.minutes,
        threshold=policy.threshold,
        idle_from=idle_from(draft, instance),
        votes=votes(draft, instance),
        mute_since=instance.mute_since,
    )
