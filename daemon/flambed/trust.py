"""Pinning the host key that a person has checked: what a host shows, what is pinned, and the fact that changes it."""

from __future__ import annotations

from typing import Any

from flambed.cluster import Member
from flambed.errors import ConflictError, Reason
from flambed.hostkey import fingerprint
from flambed.observed.facts import HostKeyTrusted, RetryRequested
from flambed.observed.instance import Instance, Stage
from flambed.settings import Settings
from flambed.ssh import Deadlines, shown_keys

_HOST_KEY = frozenset({Reason.HOST_KEY_CHANGED, Reason.HOST_KEY_UNKNOWN})


async def trust(
    member: Member, settings: Settings, instance: Instance, name: str, *, wanted: str | None, by: int
) -> dict[str, Any]:
    """Pin the key with the fingerprint `wanted`, if the host shows it now; without one only tell what it shows.

    A host that had failed for want of a key that could be trusted is tried again.

    Returns:
        instance, name, `pinned` and `shown` (fingerprints), and `trusted`: the one that was pinned, or None.

    Raises:
        ConflictError: the host has no address, or shows no such key.
        SshError: it shows none at all.
    """
    address = instance.public_host if settings.address == "public" else instance.private_host
    if address is None or not instance.alive:
        raise ConflictError(f"{name} is {instance.stage.value}, and has no address at which it could show its host key")
    deadlines = Deadlines(connect=settings.ssh.connect_timeout, login=5.0)
    shown = {fingerprint(key): key for key in await shown_keys(address, settings.ssh_port, deadlines)}
    if wanted is not None:
        if wanted not in shown:
            raise ConflictError(
                f"{name} shows the host key {' and '.join(shown) or 'of no known kind'}, not {wanted}: nothing was changed"
            )
        await _pin(member, instance, shown[wanted], by)
    return {
        "instance": instance.id,
        "name": name,
        "pinned": [fingerprint(key) for key in instance.host_keys],
        "shown": list(shown),
        "trusted": wanted,
    }


async def _pin(member: Member, instance: Instance, key: str, by: int) -> None:
    now = member.region.clock.now()
    await member.loop.take(HostKeyTrusted(at=now, instance=instance.id, public_key=key, was=instance.host_key, by=by))
    failure = instance.failure
    if instance.stage is Stage.FAILED and failure is not None and failure.reason in _HOST_KEY:
        await member.loop.take(RetryRequested(at=now, by=by, instances=(instance.id,)))
