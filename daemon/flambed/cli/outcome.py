"""What to say of a cluster that did not become ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flambed.cli import show
from flambed.cli.client import Client, cluster_path
from flambed.cli.console import Console, cut
from flambed.cli.failure import FailureError

SHOWN_OUTPUTS: Final = 3  # hosts whose output is shown
LAST_LINES: Final = 10  # of the output of a command that failed
_REASON: Final = 300  # columns


def tell_failure(client: Client, status: Mapping[str, Any], console: Console) -> None:
    """Say what failed, with the hosts, the last lines of their output, and what to do; on stderr."""
    name = show.word(status)
    reason = f": {cut(status['reason'], _REASON)}" if status["reason"] else ""
    console.error(f"flambectl: {status['name']} is {status['phase']}{reason}")
    for line in show.failures(status):
        console.error(f"  {line}")
    failed = [one for one in status["instances"] if one["stage"] == "failed"]
    for one in failed[:SHOWN_OUTPUTS]:
        for line in _last_output(client, show.reference(status), one):
            console.error(f"  {line}")
    if failed:
        console.error(f"Read the output: flambectl logs {name} HOST. Try them again: flambectl retry {name}")
    if status["phase"] != "gone":
        console.error(f"Give the cluster back: flambectl down {name}")


def _last_output(client: Client, ref: str, instance: Mapping[str, Any]) -> list[str]:
    if not instance["id"]:
        return []
    try:
        records = client.get(cluster_path(ref, "logs"), [("host", instance["id"])])
    except FailureError as failure:  # that the cluster failed is what matters here
        return [f"its output cannot be shown: {failure.message}"]
    bad = [record for record in records if record["code"] != 0]
    return show.output(bad[-1], last=LAST_LINES) if bad else []
