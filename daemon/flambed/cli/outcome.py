"""What to say of a cluster at the end of an `up`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from flambed.cli import show
from flambed.cli.client import Client, cluster_path
from flambed.cli.console import Console, cut
from flambed.cli.failure import FailureError

SHOWN_OUTPUTS: Final = 3  # commands whose output is shown
LAST_LINES: Final = 10  # of the output of a command that failed
_ASKED: Final = 10  # hosts whose output is asked for
_REASON: Final = 1_000  # columns

_ENDING: Final = frozenset({"stopping", "gone"})

Document = Mapping[str, Any]


def success(before: Document, after: Document, wanted: int, *, shrink: bool) -> list[str]:
    """Return what to say of a cluster that is ready: its hosts, factories that were given back or are too many.

    Args:
        before: the status when `up` was accepted.
        after: the one now.
        wanted: how many factories the file asks for.
        shrink: whether those that were too many have been given back.
    """
    factories = {
        one["id"]: show.title(one)
        for one in before["instances"]
        if one["role"] == "Factory" and one["id"] and one["stage"] != "gone"
    }
    left = [one for one in after["instances"] if one["role"] == "Factory" and one["stage"] not in _ENDING]
    gone = [name for key, name in factories.items() if key not in {one["id"] for one in left}]
    many = ""
    if len(left) > wanted:
        many = f"; {wanted} {'is' if wanted == 1 else 'are'} wanted: `up --shrink` gives the others back"
    lines = [f"Given back: {', '.join(gone)}."] if gone and shrink else []
    return [*lines, f"{show.hosts(after)}{many}. Log in: flambectl ssh {show.word(after)}"]


def tell_failure(client: Client, status: Document, console: Console) -> None:
    """Say why, once: the reason, the end of the output of each command that failed, and what to do; on stderr."""
    first, *more = (status["reason"] or "").splitlines() or [""]
    console.error(f"flambectl: {status['name']} is {status['phase']}" + (f": {cut(first, _REASON)}" if first else ""))
    for line in (*more, *_outputs(client, status)):
        console.error(f"  {cut(line, _REASON)}")
    if status["phase"] != "gone":
        console.error(_advice(status))


def _advice(status: Document) -> str:
    name = show.word(status)
    stages = {one["stage"] for one in status["instances"]}
    if status["phase"] == "failed" and stages <= {"gone"}:
        return "Nothing of it is left: mend the file and run `flambectl up` again."
    back = f"or give the cluster back: flambectl down {name}"
    if "failed" in stages:
        return f"Read all output: flambectl logs {name} HOST. Mend it and go on: flambectl retry {name}, {back}"
    return f"Mend it and run `flambectl up` again, {back}"


def _outputs(client: Client, status: Document) -> Iterator[str]:
    """Yield the end of the output of each (command, exit code) that failed, of one host, and how many have the same."""
    alike: dict[str, list[Document]] = {}
    for one in status["instances"]:
        if one["stage"] == "failed" and one["id"]:
            alike.setdefault(_situation(one), []).append(one)
    found: dict[tuple[int, int | None], tuple[Document, int]] = {}
    for hosts in list(alike.values())[:_ASKED]:
        try:
            records = client.get(cluster_path(show.reference(status), "logs"), [("host", hosts[0]["id"])])
        except FailureError as failure:  # that the cluster failed is what matters here
            yield f"the output cannot be shown: {failure.message}"
            return
        if bad := [record for record in records if record["code"] != 0]:
            key = (bad[-1]["number"], bad[-1]["code"])
            record, count = found.get(key, (bad[-1], 0))
            found[key] = (record, count + len(hosts))
    for record, count in list(found.values())[:SHOWN_OUTPUTS]:
        yield from show.output(record, last=LAST_LINES)
        if count > 1:
            yield f"and {count - 1} more host{'' if count == 2 else 's'}"


def _situation(instance: Document) -> str:
    """Return why a host failed, without what is its own, so that hosts that failed alike are one."""
    reason = instance["reason"] or ""
    for part in ("id", "name", "private_host", "public_host"):
        reason = reason.replace(instance[part] or "\0", "")
    return reason
