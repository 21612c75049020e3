"""Documents of the service as text for people."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from flambed.cli.console import Console, cut, printable, printable_lines, table

Document = Mapping[str, Any]

PHASE_COLOURS: Final = {
    "ready": "green", "converging": "yellow", "stopping": "yellow", "degraded": "red", "failed": "red", "gone": "dim"
}  # fmt: skip
STAGES: Final = (
    "requested", "pending", "running", "reachable", "setting_up", "ready", "failed", "stopping", "gone"
)  # fmt: skip

SHOWN_FAILURES: Final = 5  # of hosts, where they are told one by one
_REASON: Final = 120  # columns of a reason in a line with other things; `why` has all of it
_FAILURE: Final = 300  # columns of a reason in a line of its own

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


def reference(cluster: Document) -> str:
    """Return CREATOR/NAME, which is never ambiguous."""
    return f"{cluster['creator']}/{cluster['name']}"


def word(cluster: Document) -> str:
    """Return CREATOR/NAME as a word for a shell, to be copied out of an advice."""
    return shlex.quote(reference(cluster))


def headline(cluster: Document, console: Console) -> str:
    """Return one line: name, region, phase, reason."""
    phase = console.paint(cluster["phase"], PHASE_COLOURS.get(cluster["phase"], "bold"))
    reason = f": {cut(printable(cluster['reason']), _REASON)}" if cluster.get("reason") else ""
    return f"{console.paint(printable(cluster['name']), 'bold')} in {printable(cluster['region'])} is {phase}{reason}"


def counts(cluster: Document) -> str:
    """Return how many instances are in which stage: "setting_up 3, ready 14"."""
    found = Counter(instance["stage"] for instance in cluster["instances"])
    known = [stage for stage in STAGES if found[stage]]
    return ", ".join(f"{stage} {found[stage]}" for stage in [*known, *sorted(set(found) - set(STAGES))])


def hosts(cluster: Document) -> str:
    """Return how many hosts there are, gone ones not counted: "1 orchestrator, 16 factories"."""
    roles = Counter(instance["role"] for instance in cluster["instances"] if instance["stage"] != "gone")
    factories = roles["Factory"]
    parts = ["1 orchestrator"] if roles["Orchestrator"] == 1 else []
    if factories or not parts:
        parts.append(f"{factories} factor{'y' if factories == 1 else 'ies'}")
    return ", ".join(parts)


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
    return table(("NAME", "CREATOR", "REGION", "PHASE", "REASON"), rows, console.width)


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
        headline(cluster, console),
        f"creator {printable(cluster['creator'])}; {counts(cluster) or 'no instances'}",
    ]
    if hold := cluster.get("hold"):
        lines.append(f"held by uid {hold['by']} until {hold['until']}: {printable(hold['why'])}")
    rows = [
        [
            printable(one["name"] or one["role"]),
            printable(one["id"] or ""),
            printable(one["type"]),
            _stage(one),
            printable(one["private_host"] or ""),
            printable(one["public_host"] or ""),
            _protection(one),
            until(one["terminates_at"], now),
            cut(printable(one["reason"] or ""), _REASON),
        ]
        for one in instances
    ]
    header = ("NAME", "ID", "TYPE", "STAGE", "PRIVATE", "PUBLIC", "PROTECTED", "ENDS", "REASON")
    return [*lines, "", *table(header, rows, console.width)] if rows else lines


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


def plan(found: Document) -> list[str]:
    """Return what `up` would do, a line for each kind of change, and the idle times that it would keep to."""
    launch = ", ".join(f"{count} {role}" for role, count in found["launch"].items() if count)
    changes = [f"launch  {launch}"] if launch else []
    for name, text in (
        ("adopt", "adopt, launched by others"),
        ("start", "start, stopped now"),
        ("retire", "terminate"),
    ):
        if found[name]:
            changes.append(f"{text}  {', '.join(map(printable, found[name]))}")
    if found["setup"]:
        changes.append("run the set-up commands")
    lines = [f"{printable(found['name'])} in {printable(found['region'])}", *(changes or ["nothing to do"])]
    if found["keep"]:
        lines.append(f"keep  {', '.join(map(printable, found['keep']))}")
    if found["surplus"]:
        lines.append(f"too many, kept without --shrink  {', '.join(map(printable, found['surplus']))}")
    ends = ", ".join(
        f"{role} {'never' if minutes is None else f'after {minutes} min'}" for role, minutes in found["alarms"].items()
    )
    return [*lines, f"end when idle  {ends}"]


def why(found: Document, console: Console, now: datetime | None = None) -> list[str]:
    """Return why hosts live or end, a paragraph for each."""
    now = now or datetime.now(UTC)
    reason = f": {printable(found['reason'])}" if found.get("reason") else ""
    lines = [f"{printable(found['name'])} is {found['phase']}{reason}"]
    for host in found["hosts"]:
        end = until(host.get("terminates_at"), now)
        lines.append(console.paint(f"{title(host)}, {host['stage']}", "bold"))
        lines.append(f"  {printable(host['summary'])}")
        if end:
            lines.append(f"  ends {end}, if nothing more happens")
        for signal in host.get("signals", ()):
            age = f", {away(signal['at'], now)}" if signal.get("at") else ""
            lines.append(f"  {printable(signal['signal'])}: {printable(signal['value'])}{age}")
    return lines


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


def until(when: str | None, now: datetime) -> str:
    """Return how far away a time is: "in 2 h 5 min"."""
    if when is None:
        return ""
    seconds = (datetime.fromisoformat(when) - now).total_seconds()
    return f"in {span(seconds)}" if seconds > 0 else "now"


def away(when: str, now: datetime) -> str:
    """Return how far away a time is, in either direction: "3 min ago", "in 2 h"."""
    seconds = (datetime.fromisoformat(when) - now).total_seconds()
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def span(seconds: float) -> str:
    """Return a number of seconds in the two largest units that fit: "2 h 5 min"."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min" + (f" {whole % _MINUTE} s" if whole < 10 * _MINUTE and whole % _MINUTE else "")
    large, small, names = (whole // _DAY, whole % _DAY // _HOUR, ("d", "h"))
    if whole < _DAY:
        large, small, names = (whole // _HOUR, whole % _HOUR // _MINUTE, ("h", "min"))
    return f"{large} {names[0]}" + (f" {small} {names[1]}" if small else "")


def _stage(instance: Document) -> str:
    setup = instance.get("setup") or {}
    done = f" {setup['done']}/{setup['of']}" if instance["stage"] == "setting_up" and setup.get("of") else ""
    return f"{printable(instance['stage'])}{done}"


def _protection(instance: Document) -> str:
    kinds = [kind for kind, stands in (instance.get("protection") or {}).items() if stands]
    return ("+".join(kinds) or "yes") if instance["protected"] else "no"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = printable(value)
    return repr(text) if " " in text else text
