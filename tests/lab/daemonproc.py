"""The service as a process: it is started, killed, stopped, and its log is read while it runs."""

from __future__ import annotations

import grp
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from flambed import log
from tests.eventsseen import saw
from tests.json_schema import fits
from tests.lab.labproc import LabProcess

Document = dict[str, Any]

ANSWERS_WITHIN = 60.0
"""Seconds for a command, a cluster's way to a phase, or a line of the log, on a busy machine."""

ENDS_WITHIN = 20.0

LOADED = "import sys; from flambed import app; sys.stdin.read(); sys.exit(app.main(['run']))"
"""The service as a program that loads everything, and begins when its standard input ends."""

BUGS = frozenset({"loop.crashed", "step.crashed", "log.undeclared", "control.request_failed"})
"""Events that no test may cause."""


@dataclass
class Daemon:
    """A service on a state folder of its own. `start` and `kill` may follow each other as often as wanted."""

    lab: LabProcess
    folder: Path
    settings: Mapping[str, str]
    program: str = "flambed.app"  # the module that is run
    _process: subprocess.Popen[str] | None = None
    _next: subprocess.Popen[str] | None = None  # has everything loaded, and waits for a word to begin
    _lines: list[Document] = field(default_factory=list)
    _came: threading.Condition = field(default_factory=threading.Condition)
    _reader: threading.Thread | None = None
    _began: int = 0  # where in the lines the process that runs began
    _said: Path = field(init=False)

    def __post_init__(self) -> None:
        self._said = self.folder / "stderr"

    # --- its life ---

    @property
    def pid(self) -> int:
        """The process id of the service that runs."""
        assert self._process is not None, "it is not running"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and not ended by the test."""
        return self._process is not None and self._process.poll() is None

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / "control.sock"

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.folder / "state"

    def environ(self) -> dict[str, str]:
        """What the service and flambectl are started with."""
        kept = {name: value for name, value in self.lab.env().items() if not name.startswith("FLAMBED_")}
        minute = {"FLAMBED_LAB_MINUTE": str(self.lab.info["minute"])} if self.lab.info["minute"] != 60.0 else {}
        return {
            **kept,
            **minute,
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "PYTHONWARNINGS": "error",
            "FLAMBED_CONFIG": os.devnull,
            "FLAMBED_STATE_DIR": str(self.state),
            "FLAMBED_SOCKET": str(self.socket),
            "FLAMBED_SSH_PORT": str(self.lab.info["ssh_port"]),
            "FLAMBED_EVENTS__QUEUES": json.dumps(self.lab.info["queues"]),
            "FLAMBED_LOG__FORMAT": "json",
            # Whoever runs the tests is an admin, so that they need not be root.
            "FLAMBED_ADMIN_GROUP": grp.getgrgid(os.getegid()).gr_name,
            **self.settings,
        }

    def start(self) -> None:
        """Start it, and return when it says that it has started."""
        self.spawn()
        assert self.until_started(), f"the service did not start; stderr: {self.said()}"

    def spawn(self) -> None:
        """Start it, and return at once; it takes most of a second before it calls anybody."""
        assert self._process is None, "it runs already"
        self._began = len(self._lines)
        self._process, self._next = self._next or self._launched("-m", self.program, "run"), None
        if self._process.stdin is not None:
            self._process.stdin.close()  # the word to begin
        self._reader = threading.Thread(target=self._read, args=(self._process,), name="service log", daemon=True)
        self._reader.start()

    def prepare(self) -> None:
        """Load what the next process needs, which is most of the time that a start takes: on a sped-up clock, minutes."""
        self._next = self._launched("-c", LOADED, stdin=subprocess.PIPE)

    def _launched(self, *words: str, stdin: int | None = None) -> subprocess.Popen[str]:
        with self._said.open("a") as stderr:
            return subprocess.Popen(
                [sys.executable, *words],
                env=self.environ(),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def until_started(self) -> bool:
        """Return when the process of the last `spawn` says that it has started, or has ended; whether it has started."""
        deadline = time.monotonic() + ANSWERS_WITHIN
        with self._came:
            while not (said := any(line["event"] == "service.started" for line in self._lines[self._began :])):
                if not self.runs:
                    return False
                assert time.monotonic() < deadline, f"the service has not started; stderr: {self.said()}"
                self._came.wait(1.0)  # that the process has ended does not notify
        return said

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as systemd would, and see that it ends well."""
        code = self._end(signal.SIGTERM)
        assert code == 0, f"the service ended with {code}:\n{self._said.read_text()}"

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None, "it is not running"
        assert self._reader is not None
        process.send_signal(number)
        try:
            return process.wait(ENDS_WITHIN)
        finally:
            process.kill()
            process.wait()
            self._reader.join()

    def close(self) -> None:
        """End it if it was not ended by the test."""
        self._forget_next()
        if self._process is not None:
            self.stop()

    def _forget_next(self) -> None:
        if self._next is not None:
            with self._next as process:
                process.kill()
            self._next = None

    def check(self) -> None:
        """See that it said what it may say and nothing else, and begin a new log."""
        said = self._said.read_text()
        assert not said, f"on stderr of the service:\n{said}"
        with self._came:
            lines, self._lines[:] = list(self._lines), []
        for line in lines:
            assert line["event"] not in BUGS, line
            assert fits(line, _schemas()[line["event"]]), line
            saw(line["event"])

    def said(self) -> str:
        """What it has said on stderr; it should be nothing."""
        return self._said.read_text() or "nothing"

    # --- its log ---

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None, "it was asked for"
        with process.stdout:
            for line in process.stdout:
                with self._came:
                    self._lines.append(json.loads(line))
                    self._came.notify_all()
        with self._came:
            self._came.notify_all()

    def log(self, *events: str) -> list[Document]:
        """The lines of its log since the last `check`, those of all its runs; with `events` only these."""
        with self._came:
            return [line for line in self._lines if not events or line["event"] in events]

    def until_logged(
        self, event: str, *, count: int = 1, since: int = 0, within: float = ANSWERS_WITHIN, **wanted: Any
    ) -> list[Document]:
        """The lines of this event from index `since` on whose fields are as wanted, once there are `count`."""
        deadline = time.monotonic() + within
        with self._came:
            while True:
                found = [
                    line
                    for line in self._lines[since:]
                    if line["event"] == event and all(line[name] == value for name, value in wanted.items())
                ]
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or self._process is None or self._process.poll() is not None:
                    raise AssertionError(
                        f"the log has {len(found)} times {event} {wanted or ''} and not {count} times; "
                        f"stderr: {self.said()}"
                    )
                self._came.wait(min(left, 1.0))  # that the process has ended does not notify


@cache
def _schemas() -> Mapping[str, Document]:
    """The schema of each event's line."""
    return {one["title"]: one for one in log.schema()["oneOf"]}
