"""Canaries: one secret each in key, tag, set-up command, its output and user data; and the search for them.

Each `check_` is an assertion about one door of a service through which none may get out.
"""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import Service, start_service

TAG, COMMAND, OUTPUT, USER_DATA = (f"canary-{what}-5f1c7a" for what in ("tag", "command", "output", "user-data"))

EVERYWHERE_BELOW_STATE: Final = {
    "keys/": {"key"},
    "outputs/": {"command", "output"},
    # What shall be is kept, or a restart would not know what to launch and to run.
    "journal.sqlite": {"tag", "command", "user data"},
}
"""Prefix of a path in the state folder -> the secrets that belong there; in all other files there is none."""

WANTED: Final[Mapping[str, Any]] = {
    "factories_num": 1,
    "tags": {"note": TAG},
    "setup_cmds": [f": {COMMAND}; printf 'canary-%s-5f1c7a\\n' output; exit 7"],
    "user_data": f"#!/bin/sh\n# {USER_DATA}\n",
}
"""What a cluster file says; its set-up fails, for failures quote most."""

Canaries = dict[str, str]


def canaries_of(lab: LabProcess) -> Canaries:
    """The secrets; of the private key a line out of its middle."""
    lines = Path(lab.info["key"]).read_text().splitlines()
    return {"key": lines[len(lines) // 2], "tag": TAG, "command": COMMAND, "output": OUTPUT, "user data": USER_DATA}


@contextmanager
def entrusted(lab: LabProcess, *, program: str = "flambed.app") -> Iterator[Service]:
    """A service that logs everything, with a cluster `c` whose set-up has failed."""
    with start_service(lab, log__level="debug", program=program) as running:
        assert running.ctl("up", running.file(**WANTED)).code == 1
        yield running
        assert running.ctl("down", "c", "--yes").code == 0


def found_in(text: str | bytes, canaries: Canaries) -> set[str]:
    """Which of the secrets are in a text, as they are or in base64."""
    raw = text.encode() if isinstance(text, str) else text
    return {
        what
        for what, secret in canaries.items()
        for form in (secret.encode(), base64.b64encode(secret.encode()).rstrip(b"=")[:-1])
        if form in raw
    }


def files(service: Service) -> dict[str, Path]:
    """Every file of the state folder, by its path in there."""
    return {str(path.relative_to(service.state)): path for path in service.state.rglob("*") if path.is_file()}


def check_state_folder(service: Service, canaries: Canaries) -> None:
    """In the state folder each is in its own place only."""
    for name, path in files(service).items():
        belongs = next((what for prefix, what in EVERYWHERE_BELOW_STATE.items() if name.startswith(prefix)), set())
        assert found_in(path.read_bytes(), canaries) <= belongs, name


def check_log(service: Service, canaries: Canaries) -> None:
    """In the log there is none."""
    assert len(service.log()) > 20
    for line in service.log():
        assert found_in(str(line), canaries) == set(), line


def check_tool(tool: str, service: Service, canaries: Canaries) -> None:
    """In what a tool of the journal prints there is none."""
    shown = subprocess.run(
        [sys.executable, "-m", service.program, "journal", tool, str(service.state / "journal.sqlite")],
        env=service.environ(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert len(shown.stdout) > 20
    assert found_in(shown.stdout + shown.stderr, canaries) == set(), f"journal {tool}"


def check_everybodys_answers(service: Service, canaries: Canaries) -> None:
    """In what is answered to everybody there is none."""
    everybody = ("/v1/clusters", "/v1/health", "/v1/doctor", "/v1/events", "/v1/openapi.json", "/v1/orphans")
    for path in everybody:
        assert found_in(service.text(path), canaries) == set(), path
    assert found_in(service.metrics(), canaries) == set()


def check_the_owners_answers(service: Service, canaries: Canaries) -> None:
    """Its owner sees tags among the instances, and the failed command in its status; nobody the key and the user data."""
    for path in ("/v1/clusters/c", "/v1/clusters/c/why", "/v1/clusters/c/ssh", "/v1/instances"):
        assert found_in(service.text(path), canaries) <= {"tag", "command", "output"}, path


def check_refusal(change: Mapping[str, Any], service: Service, canaries: Canaries) -> None:
    """In the refusal of a file that is wrong elsewhere there is none, nor in the log's line about it."""
    file = service.file(**{**WANTED, **change})
    refused = service.api("PUT", "/v1/clusters/c", Path(file).read_text(), key=True)
    assert refused.status in {400, 409}, refused
    assert found_in(str(refused.document), canaries) == set(), "the refusal"
    assert found_in(str(service.until_logged("control.request_refused")[-1]), canaries) == set()
