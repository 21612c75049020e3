"""What becomes of settings that are read again while the service runs: some apply at once, the others wait. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from flambed import settings
from flambed.settings import Settings

LIVE: Final = frozenset(
    {
        "admin_group",
        "creators",
        "idle.experiment",
        "idle.max_hold",
        "keep_gone",
        "log.level",
        "ssh.connect_timeout",
        "ssh.keepalive",
    }
)
"""The settings that are read where they are used, so that a reload is enough. All others are built into what the service
opened or decided at its start: a queue, a path, the region's survey, a launch that is under way."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Reload:
    """What reading the settings again comes to.

    Attributes:
        settings: those that apply from now on.
        changed: what is another one now: dotted name -> "OLD -> NEW".
        restart: dotted names of what was changed, and goes on as it was until a restart.
    """

    settings: Settings
    changed: Mapping[str, str]
    restart: tuple[str, ...]


def reload(applied: Settings, read: Settings) -> Reload:
    """Return what to apply of settings that were read again, over those that apply."""
    merged = _merge(applied, read)
    before, after, wanted = (settings.flat(one) for one in (applied, merged, read))
    changed = {
        name: f"{before.get(name, '-')} -> {after.get(name, '-')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }
    restart = tuple(name for name in sorted(after.keys() | wanted.keys()) if after.get(name) != wanted.get(name))
    return Reload(merged, changed, restart)


def _merge(applied: M, read: M, above: str = "") -> M:
    update: dict[str, Any] = {}
    for name in type(applied).model_fields:
        old, new = getattr(applied, name), getattr(read, name)
        if above + name in LIVE:
            update[name] = new
        elif isinstance(old, BaseModel):
            update[name] = _merge(old, new, f"{above}{name}.")
    return applied.model_copy(update=update)
