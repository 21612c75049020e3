"""What `gc` says: what is left over, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from flambed.cli import times
from flambed.cli.console import Console, cut, printable, table

Document = Mapping[str, Any]

_REASON: Final = 120  # columns
_DONE: Final = {"instance": "terminated", "alarm": "deleted", "volume": "deleted"}


def listed(found: Sequence[Document], console: Console, now: datetime | None = None) -> list[str]:
    """Return a table, one line a thing; what can be removed now comes first."""
    if not found:
        return ["nothing is left over"]
    now = now or datetime.now(UTC)
    rows = [
        [
            printable(one["kind"]),
            printable(one["id"]),
            printable(one["region"]),
            printable(one["name"] or ""),
            printable(one["creator"] or ""),
            printable(one["state"]),
            times.away(one["created_at"], now) if one["created_at"] else "",
            cut(printable(one["reason"] or "can be removed"), _REASON),
        ]
        for one in sorted(found, key=lambda one: not one["removable"])
    ]
    header = ("WHAT", "ID", "REGION", "NAME", "CREATOR", "STATE", "CREATED", "")
    return table(header, rows, console.width, ("REGION", "CREATOR", "STATE"))


def count(found: Sequence[Document]) -> str:
    """Return how many there are of each kind: "2 instances, 1 alarm"."""
    kinds = Counter(one["kind"] for one in found)
    return ", ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in kinds.items())


def told(outcome: Document) -> str:
    """Return what became of one: "i-... terminated"."""
    name = printable(outcome["id"])
    match outcome["outcome"]:
        case "ending":
            return f"{name} is ending"
        case "removed":
            return f"{name} {_DONE[outcome['kind']]}"
        case _:
            return f"{name} was not removed: {printable(outcome['reason'])}"
