"""A journal's cluster, folded again: every fact, and every decision with the fact that caused it.

A decision leaves its conclusions, its intents and what it began in the journal. Here this version decides once more upon
the same world at the same time, and says so where it would decide otherwise than was recorded.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from flambed.catalogue import CATALOGUE, event_of, ids_of
from flambed.eventkind import rfc3339
from flambed.fleet import rules_of
from flambed.journal import AuditLine, Entry, Reader, folded
from flambed.observed import facts
from flambed.observed.facts import Fact, Key
from flambed.observed.world import World
from flambed.plan import Rules, decide
from flambed.settings import Settings

DECIDED: Final[frozenset[type[Fact]]] = frozenset({
    facts.ActionsBegan, facts.LaunchIntended, facts.LaunchAbandoned, facts.LaunchRolledBack,
    facts.PhaseChanged, facts.HostGivenUp, facts.TerminationOverdue,
})  # fmt: skip
"""Facts that decisions lead to; all others come from outside."""

_WIDEST: Final = 160
"""Characters of what one fact says."""

_NAMED: Final = 5
"""Subjects of actions of one kind that are named one by one."""


def lines(reader: Reader, cluster: str, name: str, config: Settings, until: int | None) -> Iterator[str]:
    """Yield the story of one cluster, up to the fact of a number; `name` is CREATOR/NAME, or its id where nobody knows.

    Raises:
        JournalError: something cannot be read or folded.
    """
    yield f"cluster {name} ({cluster})" if name != cluster else f"cluster {cluster}"
    if until is not None and (first := reader.first(cluster)) > until:
        yield f"  nothing is known of it before #{first}"
        return
    for line in reader.audit(cluster, upto=until):
        yield _line(line, _words(line.told))
    world = World()
    for start in reader.checkpoints(cluster):
        if until is not None and start.seq > until:
            yield f"  what was decided up to #{start.seq} is folded into a checkpoint; only the above is left of it"
            return
        world = start.world
        yield f"  checkpoint after #{start.seq}: {_state(world)}"
    group: list[Entry] = []  # what one decision led to
    for entry in reader.entries(cluster, upto=until):
        decided = type(entry.fact) in DECIDED
        if group and not (decided and entry.cause == group[0].cause):
            yield from _decision(world, group, reader, config)
            world, group = _after(reader, world, group), []
        if decided:
            group.append(entry)
            continue
        yield _line(entry, _told(entry.fact))
        world = folded(reader.path, world, entry)
    if group:
        yield from _decision(world, group, reader, config)
        world = _after(reader, world, group)
    yield f"  in the end: {_state(world)}"


def _after(reader: Reader, world: World, group: Iterable[Entry]) -> World:
    for entry in group:
        world = folded(reader.path, world, entry)
    return world


def _decision(world: World, group: Sequence[Entry], reader: Reader, config: Settings) -> Iterator[str]:
    """Yield what was decided, and whether this version decides the same."""
    first = group[0]
    cause = f"because of #{first.cause}" if first.cause is not None else "by itself"
    yield f"    decided {cause}, at {rfc3339(first.at)}"
    began = [key for entry in group if isinstance(entry.fact, facts.ActionsBegan) for key in entry.fact.keys]
    for entry in group:
        if isinstance(entry.fact, facts.ActionsBegan):
            yield f"      #{entry.seq} begins {_keys(entry.fact.keys)}"
        else:
            yield f"      #{entry.seq} {type(entry.fact).__name__} {_told(entry.fact)}"
    decision = decide(world.desired, world, first.at, _rules(world, group, reader, config))
    again = Counter(key for action in decision.actions for key in action.keys)
    if again != Counter(began):
        yield f"      this version, with these settings, would begin {_keys(again.elements()) or 'nothing'}"
    concluded = [entry.fact for entry in group if not isinstance(entry.fact, facts.ActionsBegan | facts.LaunchIntended)]
    if [replace(fact, at=0.0) for fact in decision.conclusions] != [replace(fact, at=0.0) for fact in concluded]:
        said = "; ".join(f"{type(fact).__name__} {_told(fact)}" for fact in decision.conclusions)
        yield f"      this version, with these settings, would conclude {said or 'nothing'}"


def _rules(world: World, group: Iterable[Entry], reader: Reader, config: Settings) -> Rules:
    """Return the rules of the service that decided: its settings are those given, its run is told by its tokens."""
    tokens = [entry.fact.token for entry in group if isinstance(entry.fact, facts.LaunchIntended)]
    run = tokens[0].rsplit("-", 2)[1] if tokens else ""
    return rules_of(config, world.region, daemon=reader.daemon_id, run=run)


def _line(item: Entry | AuditLine, said: str) -> str:
    kind = type(item.fact).__name__ if isinstance(item, Entry) else item.event
    cause = f" (of #{item.cause})" if item.cause is not None else ""
    return f"{rfc3339(item.at)} #{item.seq} {kind}{cause} {said}".rstrip()


def _told(fact: Fact) -> str:
    """Return what the log tells of a fact, in few words."""
    event, fields = event_of(fact)
    cleaned, _ = CATALOGUE[event].clean(fields)
    about = {name: value for name, value in ids_of(fact).items() if value is not None}
    return _words({**about, **cleaned})


def _words(told: Any) -> str:
    text = " ".join(
        f"{name}={value if isinstance(value, str) and value.isprintable() else json.dumps(value)}"
        for name, value in told.items()
        if value not in (None, [], {}, "")
    )
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _keys(keys: Iterable[Key]) -> str:
    by_kind: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        by_kind[key.kind].append(key.subject)
    return "; ".join(
        " ".join([kind, *filter(None, subjects[:_NAMED])])
        + (f" and {len(subjects) - _NAMED} more" if len(subjects) > _NAMED else "")
        for kind, subjects in by_kind.items()
    )


def _state(world: World) -> str:
    stages = Counter(instance.stage.value for instance in world.instances.values())
    hosts = ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items())) or "no instances"
    reason = f" ({world.reason})" if world.reason else ""
    return f"{world.phase}{reason}; {hosts}; open intents: {' '.join(world.intents) or 'none'}"
