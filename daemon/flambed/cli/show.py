"""Documents of the service as text for people."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from flambed.cli import times
from flambed.cli.console import Console, cut, printable, printable_lines, table

Document = Mapping[str, Any]

PHASE_COLOURS: Final = {
    "ready": "green", "converging": "yellow", "stopping": "yellow", "degraded": "red", "failed": "red", "gone": "dim"
}  # fmt: skip
SPARE: Final = ("ID", "PUBLIC", "TYPE", "PRIVATE", "PROTECTED")
"""Columns of a status that a narrow terminal does without, the first of them first."""
STAGES: Final = (
    "requested", "pending", "running", "reachable", "setting_up", "ready", "failed", "stopping", "gone"
)  # fmt: skip

SHOWN_FAILURES: Final = 5  # of hosts, where they are told one by one
_REASON: Final = 120  # columns of a reason in a line with other things; `why` has all of it
_FAILURE: Final = 300  # columns of a reason in a line of its own


def reference(cluster: Document) -> str:
    """Return CREATOR/NAME, which is never ambiguous."""
    return f"{cluster['creator']}/{cluster['name']}"


def word(cluster: Document) -> str:
    """Return CREATOR/NAME as a word for a shell, to be copied out of an advice."""
    return shlex.quote(reference(cluster))


def headline(cluster: Document, console: Console, *, with_reason: bool = True) -> str:
    """Return one line: name, region, phase, reason."""
    phase = console.paint(cluster["phase"], PHASE_COLOURS.get(cluster["phase"], "bold"))
    reason = f": {cut(printable(cluster['reason']), _REASON)}" if with_reason and cluster.get("reason") else ""
    return f"{console.paint(printable(cluster['name']), 'bold')} in {printable(cluster['region'])} is {phase}{reason}"


def counts(cluster: Document) -> str:
    """Return how many instances are in which stage: "setting_up 3, ready 14"."""
    found = Counter(instance["stage"] for instance in cluster["instances"])
    known = [stage for stage in STAGES if found[stage]]
    return ", ".join(f"{stage} {found[stage]}" for stage in [*known, *sorted(set(found) - set(STAGES))])


def hosts(cluster: Document) -> str:
    """Return how many hosts there are, gone ones not counted: "1 orchestrator, 16 factories"."""
    return roles(Counter(one["role"] for one in cluster["instances"] if one["stage"] != "gone"))


def roles(found: Mapping[str, int]) -> str:
    """Return how many hosts there are of each role: "1 orchestrator, 16 factories"."""
    names = (("Orchestrator", "orchestrator", "orchestrators"), ("Factory", "factory", "factories"))
    parts = [(found.get(role, 0), one, many) for role, one, many in names]
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in parts if count) or "no hosts"


def title(instance: Document) -> str:
    """Return what an instance is called: its name and its id, as far as it has them."""
    name, identity = instance.get("name"), instance.get("id") or instance.get("instance")
    return printable(f"{name} ({identity})" if name and identity else name or identity or "an instance without an id")


def clusters(found: Sequence[Document], console: Console) -> list[str]:
    """Return a table, one line a cluster."""
    if not found:
        return ["no clusters"]
    rows = [
        [cut(printable(one.get(key) or ""), _REASON) for key in ("name", "creator", "region", "phase", "reason")]
        for one in sorted(found, key=lambda one: (one["name"], one["creator"]))
    ]
    return [*read_only(found), *table(("NAME", "CREATOR", "REGION", "PHASE", "REASON"), rows, console.width)]


def read_only(found: Sequence[Document]) -> list[str]:
    """Return a warning where the service says that it begins nothing."""
    return warnings({one.get("read_only") for one in found})


def warnings(texts: Iterable[str | None]) -> list[str]:
    """Return a line for each text that there is."""
    return [f"warning: {printable(text)}" for text in texts if text]


def status(cluster: Document, console: Console, now: datetime | None = None) -> list[str]:
    """Return a cluster in full: a headline, the counts, and a table of its instances."""
    now = now or datetime.now(UTC)
    instances = sorted(
        cluster["instances"],
        key=lambda one: (
            one["stage"] == "gone",
            one["role"] != "Orchestrator",
            one["index"] is None,
            one["index"] or 0,
        ),
    )
    lines = [
        *read_only([cluster]),
        headline(cluster, console),
        f"creator {printable(cluster['creator'])}; {counts(cluster) or 'no instances'}",
    ]
    if hold := cluster.get("hold"):
        lines.append(f"held by uid {hold['by']} until {held(hold, now)}")
    rows = [
        [
            printable(one["name"] or one["role"]),
            printable(one["id"] or ""),
            printable(one["type"]),
            _stage(one),
            printable(one["private_host"] or ""),
            printable(one["public_host"] or ""),
            _protection(one),
            times.until(one["terminates_at"], now),
            cut(printable(one["reason"] or ""), _REASON),
        ]
        for one in instances
    ]
    header = ("NAME", "ID", "TYPE", "STAGE", "PRIVATE", "PUBLIC", "PROTECTED", "ENDS", "REASON")
    return [*lines, "", *table(header, rows, console.width, SPARE)] if rows else lines


def held(hold: Document, now: datetime | None = None) -> str:
    """Return the end of a hold, how long that is, and what for: "16:33 (4 h): training run 12"."""
    now = now or datetime.now(UTC)
    return f"{times.clock(hold['until'], now)} ({times.left(hold['until'], now)}): {printable(hold['why'])}"


def in_order(records: Sequence[Document]) -> list[Document]:
    """Return kept outputs in the order of the table of hosts: the orchestrator first, factories by their number."""
    return sorted(records, key=_row)


def _row(record: Document) -> tuple[bool, int, str]:
    name = record["name"] or ""
    index = name.rpartition("_")[2]
    return (not name.endswith("_orchestrator"), int(index) if index.isdecimal() else -1, name)


def failures(cluster: Document) -> list[str]:
    """Return a line for each of the first instances that failed, with its reason, and how many more did."""
    failed = [one for one in cluster["instances"] if one["stage"] == "failed"]
    lines = [cut(f"{title(one)}: {printable(one['reason'] or 'failed')}", _FAILURE) for one in failed[:SHOWN_FAILURES]]
    more = len(failed) - len(lines)
    return [*lines, f"and {more} more"] if more else lines


def output(record: Document, *, last: int | None = None) -> list[str]:
    """Return the kept output of one command: a line that says of what, then its lines, or the last ones."""
    code = record.get("code")
    end = "still running" if code is None else f"exit code {code}"
    text = str(record.get("output") or "").rstrip("\n")
    lines = printable_lines(text) if text else []
    if last is not None and len(lines) > last:
        lines = [f"... {len(lines) - last} lines before these", *lines[-last:]]
    attempt = f", attempt {record['attempt'] + 1}" if record.get("attempt") else ""
    head = f"{title(record)}, command {record['number'] + 1}{attempt}: {printable(record['command'])} ({end})"
    return [head, *(f"  {line}" for line in lines)]


def plan(found: Document, names: Mapping[str, str]) -> list[str]:
    """Return what `up` would do, a line for each kind of change, and the idle times that it would keep to.

    Args:
        found: the plan.
        names: those of instances, by id, as far as they are known.
    """

    def named(ids: Sequence[str]) -> str:
        return ", ".join(title({"id": one, "name": names.get(one)}) for one in ids)

    changes = [f"launch  {roles(found['launch'])}"] if any(found["launch"].values()) else []
    for name, text in (
        ("adopt", "adopt, launched by others"),
        ("start", "start, stopped now"),
        ("retire", "terminate"),
    ):
        if found[name]:
            changes.append(f"{text}  {named(found[name])}")
    if found["setup"]:
        changes.append("run the set-up commands")
    lines = [f"{printable(found['name'])} in {printable(found['region'])}", *(changes or ["nothing to do"])]
    if found["keep"]:
        lines.append(f"keep  {named(found['keep'])}")
    if found["surplus"]:
        lines.append(f"too many, kept without --shrink  {named(found['surplus'])}")
    ends = ", ".join(f"{role.lower()} {_idle(minutes)}" for role, minutes in found["alarms"].items())
    return [*lines, f"end when idle  {ends}"]


def _idle(minutes: int | None) -> str:
    """Return an idle time in hours, as it is in the file, where that is a whole number."""
    if minutes is None:
        return "never"
    return f"after {minutes} min" if minutes % 60 else f"after {minutes // 60} h"


def event(found: Document) -> str:
    """Return an event as a line: time, name, then whatever it has."""
    skipped = {"timestamp", "event", "level"}
    fields = " ".join(
        f"{key}={_value(value)}" for key, value in found.items() if key not in skipped and value is not None
    )
    return f"{found['timestamp']}  {printable(found['event'])}  {fields}".rstrip()


def checks(found: Sequence[Document], console: Console) -> list[str]:
    """Return what was checked: a mark, what it is about, and what to do."""
    marks = {True: ("ok", "green"), False: ("FAIL", "red"), None: ("?", "yellow")}
    lines = []
    for one in found:
        mark, colour = marks[one["ok"]]
        lines.append(f"{console.paint(f'{mark:<4}', colour)}  {printable(one['check'])}: {printable(one['message'])}")
        if one.get("advice") and one["ok"] is not True:
            lines.append(f"      {printable(one['advice'])}")
    return lines


def _stage(instance: Document) -> str:
    setup = instance.get("setup") or {}
    at_work = instance["stage"] == "setting_up" and setup.get("of")
    done = f" {min(setup['done'] + 1, setup['of'])}/{setup['of']}" if at_work else ""  # the running one counts
    return f"{printable(instance['stage'])}{done}"


def _protection(instance: Document) -> str:
    kinds = [kind for kind, stands in (instance.get("protection") or {}).items() if stands]
    if instance["protected"] is None:
        return "?"
    return ("+".join(kinds) or "yes") if instance["protected"] else "no"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ",".join(f"{printable(key)}:{_value(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ",".join(map(_value, value)) or "none"
    text = printable(value)
    return repr(text) if " " in text else text
