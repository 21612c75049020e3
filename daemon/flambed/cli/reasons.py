"""Why hosts live or end, for people: a paragraph for each, or for those that are in the same situation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from flambed.cli import show, times
from flambed.cli.console import Console, printable

Document = Mapping[str, Any]

_NAMED: Final = 3  # hosts of a group
_VOTE: Final = "vote: "


def why(found: Document, console: Console, now: datetime | None = None) -> list[str]:
    """Return why hosts live or end, hosts in the same situation together."""
    now = now or datetime.now(UTC)
    reason = f": {printable(found['reason'])}" if found.get("reason") else ""
    lines = [f"{printable(found['name'])} is {found['phase']}{reason}"]
    alike: dict[tuple[str, ...], list[Document]] = {}
    for host in found["hosts"]:
        alike.setdefault((host["stage"], *_situation(host, "each", now)), []).append(host)
    for (stage, *situation), hosts in alike.items():
        lines.append(console.paint(f"{_titles(hosts)}, {stage}", "bold"))
        lines += situation if len(hosts) > 1 else _situation(hosts[0], hosts[0]["name"], now)
    return lines


def _titles(hosts: list[Document]) -> str:
    if len(hosts) <= _NAMED:
        return ", ".join(map(show.title, hosts))
    return f"{len(hosts)} hosts ({', '.join(printable(host['name']) for host in hosts[:_NAMED])}, ...)"


def _situation(host: Document, called: str, now: datetime) -> list[str]:
    """Return what there is to say about a host, each thing once; `called` is what stands for its name."""
    summary = host["summary"].replace(host["name"], called)
    lines = [f"  {printable(times.told(summary, now))}"]
    end = host.get("terminates_at")
    if end and end not in summary:
        lines.append(f"  ends at {times.clock(end, now)} ({times.away(end, now)}), if nothing more happens")
    for signal in host.get("signals", ()):
        name, value, at = signal["signal"], printable(signal["value"]), signal.get("at")
        if not name.startswith(_VOTE):
            lines.append(f"  {printable(name)}: {value}" + (f", {times.away(at, now)}" if at else ""))
        elif signal["value"] not in summary:
            lines.append(f"  kept{f' until {times.clock(at, now)} ({times.away(at, now)})' if at else ''}: {value}")
    return lines
