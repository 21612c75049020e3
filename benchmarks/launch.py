"""How much flambed adds to a launch: seconds after the slowest host could have been ready, and calls to AWS.

    .venv/bin/python benchmarks/launch.py [FACTORIES ...]

Both sides of each figure come out of one run in the lab: the lab says when the last host's SSH port opened, the service
when the cluster was ready. The set-up command takes a second, which is subtracted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from flambed.demo import CLUSTER, environment, program, started

SETUP = 1.0


def main() -> None:
    """Measure clusters of some sizes and print a table."""
    sizes = [int(size) for size in sys.argv[1:]] or [1, 16, 64]
    with ExitStack() as at_end:
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory()))
        lab = at_end.enter_context(started(["lab", "--boot", "3", "--quotas", "on"], os.environ, folder / "lab.log"))
        told = json.loads(lab)
        environ = environment(told, folder)
        at_end.enter_context(started(["run"], environ, folder / "service.log", '"service.started"'))
        print("factories  late (s)  RunInstances  Describe*  CreateTags  other changes")
        for size in sizes:
            measure(size, told, environ, folder)


def measure(size: int, told: dict[str, Any], environ: dict[str, str], folder: Path) -> None:
    """Bring one cluster up and down, and print what it took."""
    file = folder / "cluster.yaml"
    text = CLUSTER.format(**{name: told[name] for name in ("key_name", "key", "security_group", "subnet_id")})
    file.write_text(text)
    wanted = [
        "--set",
        f"factories_num={size}",
        "--set",
        "factories_timeout=-1",
        "--set",
        f"setup_cmds=['sleep {SETUP:g}']",
    ]
    before = len(ask(told, "/lab/calls"))
    ctl(environ, "up", str(file), *wanted)
    status = json.loads(ctl(environ, "status", "demo", "--json"))
    hosts = {instance["id"] for instance in status["instances"]}
    opened = max(i["ssh_since"] for i in ask(told, "/lab/instances?hosts=0") if i["id"] in hosts)
    ready = datetime.fromisoformat(status["changed_at"]).timestamp()
    calls = Counter(call["action"] for call in ask(told, "/lab/calls")[before:] if call["service"] != "sqs")
    looks = sum(count for action, count in calls.items() if action.startswith("Describe"))
    rest = sum(calls.values()) - calls["RunInstances"] - calls["CreateTags"] - looks
    print(
        f"{size:9d}  {ready - opened - SETUP:8.2f}  {calls['RunInstances']:12d}  {looks:9d}  {calls['CreateTags']:10d}"
        f"  {rest:13d}",
        flush=True,
    )
    ctl(environ, "down", "demo", "--yes")


def ctl(environ: dict[str, str], *words: str) -> str:
    """Run flambectl; return what it printed."""
    done = subprocess.run([*program("flambed.cli"), *words], env=environ, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"flambectl {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def ask(told: dict[str, Any], path: str) -> Any:
    """Ask the lab's control endpoint."""
    with urllib.request.urlopen(told["endpoint"] + path) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
