"""The one place where anything is decided.

    decide(desired, world, now) -> what to do, what to remember, which protection there should be, when to look again

Pure: it reads no clock, calls nothing and knows no event loop. Deciding again about a world in which nothing happened
changes nothing, and a cluster that has converged gets no action. The parts, from top to bottom of a cluster's life:
`launching` (whom to launch), `retiring` (whom to give back), `ending` (whom to end for idleness), `hosts` (whom to look at,
name, set up and inform), `protecting` (which protection each host should have), `leftovers` (what outlived its instance), `phase` (what is to be said of it all).
"""

from __future__ import annotations

from flambed.desired import Cluster
from flambed.observed.facts import PhaseChanged
from flambed.observed.world import World
from flambed.plan.draft import Decision, Draft, Rules
from flambed.plan.ending import end_idle
from flambed.plan.hosts import attend, look
from flambed.plan.launching import launch, replay, trouble
from flambed.plan.leftovers import clean_up, let_go
from flambed.plan.phase import phase_of
from flambed.plan.protecting import protect
from flambed.plan.retiring import give_back, insist

__all__ = ["Decision", "Rules", "decide"]


def decide(desired: Cluster | None, world: World, now: float, rules: Rules) -> Decision:
    """Return what is to be done about a cluster.

    Args:
        desired: what its owner wants; None before the first `up`.
        world: what is known of it.
        now: UNIX seconds on the service's clock.
        rules: what the settings add.
    """
    if desired is None:
        return Decision(actions=(), conclusions=(), protection={}, wake_at=None)
    draft = Draft(desired, world, rules, now)
    if world.wanted and world.recovered:
        pass  # too little is known to do anything but look: `up` says more, `down` ends it
    elif world.wanted:
        launch(draft)
        if trouble(draft) is None:
            attend(draft)
    else:
        replay(draft)  # what a launch without an answer has created is given back, too
        give_back(draft)
    end_idle(draft)
    insist(draft)
    look(draft)
    protect(draft)
    clean_up(draft)
    let_go(draft)
    phase, reason = phase_of(draft)
    if (phase, reason) != (world.phase, world.reason):
        draft.conclusions.append(PhaseChanged(at=now, phase=phase, reason=reason))
    return draft.done()
