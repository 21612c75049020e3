"""What outlives an instance: volumes that should have gone with it are deleted, those that are to stay are let go of."""

from __future__ import annotations

from flambed.actions import CleanUp, LetGo
from flambed.observed.facts import Key
from flambed.plan.draft import Draft
from flambed.plan.launching import conflict

SETTLES_IN = 60.0
"""Seconds after the end of an instance in which EC2 deletes its volumes by itself, and others end with it."""


def clean_up(draft: Draft) -> None:
    """Delete the volumes that were to go with instances that are gone, in case that EC2 left them."""
    if draft.world.recovered and draft.world.wanted:
        return
    due = {i.id: i.stage_at + SETTLES_IN for i in draft.world.instances.values() if i.volumes_left}
    now = [instance for instance, at in due.items() if at <= draft.now]
    if due and not now:
        draft.wake(min(due.values()))
        return
    # Those that ended a moment later are looked at with the first, so that one look serves all of a `down`.
    soon = [instance for instance, at in due.items() if at <= draft.now + SETTLES_IN] if now else []
    volumes = [volume for instance in soon for volume in draft.world.instances[instance].disposable]
    if free := tuple(volume for volume in volumes if draft.free(Key("clean_up", volume))):
        draft.want(CleanUp(free))
    draft.wake(min((at for instance, at in due.items() if instance not in soon), default=draft.wake_at))


def let_go(draft: Draft) -> None:
    """Let go of the volumes that EC2 was told to keep when their instance ends: no clean-up may take them for ours."""
    if (draft.world.recovered and draft.world.wanted) or conflict(draft) is not None:
        return  # it is not certain whose this is
    lasting = [volume for instance in draft.world.instances.values() for volume in instance.lasting]
    if free := tuple(volume for volume in lasting if draft.free(Key("let_go", volume))):
        draft.want(LetGo(free))
