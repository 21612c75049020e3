"""The service in a process of its own against a lab, and flambectl beside it, as a user has them.

with start_lab() as lab, start_service(lab) as service:
    file = service.file(factories_num=2)
    code, stdout, stderr = service.ctl("up", file, "--json")
    service.kill()
    service.start()

What is waited for is followed on a stream (the log on stdout, `?follow=1` of the API), and every wait has an end.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab.daemonproc import ANSWERS_WITHIN, ENDS_WITHIN, Daemon, Document
from tests.lab.labproc import LabProcess

CREATOR = "you@example.com"


class Ended(NamedTuple):
    """How a run of flambectl ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout, or the last of a stream."""
        return json.loads(self.stdout.splitlines()[-1] if "\n{" in self.stdout.strip() else self.stdout)


class Answer(NamedTuple):
    """An answer of the control API."""

    status: int
    document: Any


class Service(Daemon):
    """A service, and what its users do: they write files, run flambectl and ask the control API."""

    def file(self, name: str = "c", *, region: str | None = None, **changes: Any) -> str:
        """The path of a new cluster file: an orchestrator, two factories, nobody ends by itself."""
        region = region or self.lab.info["region"]
        world = self.lab.info["regions"][region]
        cluster = {
            "name": name,
            "creator": CREATOR,
            "orchestrator_type": "t3.large",
            "factories_num": 2,
            "factories_type": "g4dn.xlarge",
            "orchestrator_timeout": -1,
            "factories_timeout": -1,
            "key_name": self.lab.info["key_name"],
            "key": self.lab.info["key"],
            "security_group": world["security_group"],
            "subnet_id": world["subnet_id"],
            "region_name": region,
        } | changes
        number = sum(1 for _ in self.folder.glob("*.yaml"))
        path = self.folder / f"{name}-{number}.yaml"
        # JSON is YAML.
        path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in cluster.items() if value is not None))
        return str(path)

    def command(self, *words: str) -> list[str]:
        """The command line of flambectl."""
        return [sys.executable, "-m", "flambed.cli", *words]

    def ctl(self, *words: str, within: float = ANSWERS_WITHIN, **environ: str) -> Ended:
        """Run flambectl to its end."""
        done = subprocess.run(
            self.command(*words),
            env=self.environ() | environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    def ctl_as(self, uid: int, folder: Path, *words: str) -> Ended:
        """Run flambectl as another user, in a folder of theirs; only root can.

        What it imports is imported before: that user may not be able to read where Python is installed.
        """
        program = (
            "import os, sys, encodings.ascii, encodings.idna, encodings.latin_1, encodings.utf_8_sig, importlib.metadata; "
            "import flambed.cli.commands, flambed.cli.files; "
            f"os.setgroups([]); os.setgid({uid}); os.setuid({uid}); "
            "sys.exit(flambed.cli.main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            env=self.environ() | {"HOME": str(folder)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWERS_WITHIN,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running_ctl(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run flambectl beside; its stdout is a pipe. It has to have ended at the end."""
        with subprocess.Popen(
            self.command(*words),
            env=self.environ(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
                process.wait(ENDS_WITHIN)
            finally:
                process.kill()

    def up(self, file: str, *more: str) -> Document:
        """Bring a cluster up and return its status, which has to be ready."""
        ended = self.ctl("up", file, "--json", *more)
        assert ended.code == 0, ended
        status: Document = ended.document
        assert status["phase"] == "ready", status
        return status

    def down(self, name: str = "c") -> Document:
        """Take a cluster down and return its status, which has to be gone."""
        ended = self.ctl("down", name, "--yes", "--json")
        assert ended.code == 0, ended
        status: Document = ended.document
        assert status["phase"] == "gone", status
        return status

    def status(self, name: str = "c") -> Document:
        """The status of a cluster now."""
        answer = self.api("GET", f"/v1/clusters/{name}")
        assert answer.status == 200, answer
        status: Document = answer.document
        return status

    # --- the control API ---

    def api(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        *,
        key: bool = False,
        within: float = ANSWERS_WITHIN,
    ) -> Answer:
        """Ask the control API; with `key` the lab's private key goes with it, as flambectl sends it."""
        headers = {"Content-Type": "application/yaml"} if body is not None else {}
        if key:
            headers["Flambed-Key"] = base64.b64encode(Path(self.lab.info["key"]).read_bytes()).decode()
        with _connected(self.socket, within) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, json.loads(answer.read()))

    def metrics(self) -> str:
        """The text of GET /metrics."""
        return self.text("/metrics")

    def text(self, path: str) -> str:
        """What is answered to GET of a path, whatever it is made of."""
        with _connected(self.socket, ANSWERS_WITHIN) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
        assert answer.status == 200, text
        return text

    def follow(self, path: str, within: float = ANSWERS_WITHIN) -> Iterator[Document]:
        """The documents of a stream, as they come; AssertionError if it has to be waited for too long."""
        deadline = time.monotonic() + within
        with _connected(self.socket, within) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            while line := answer.readline():
                assert time.monotonic() < deadline, f"{path}: nothing fitted within {within} s; the last was {line!r}"
                if line.strip():
                    yield json.loads(line)

    def until(self, fits: Callable[[Document], bool], name: str = "c", *, within: float = ANSWERS_WITHIN) -> Document:
        """The first status of a cluster that fits, waited for."""
        last: Document | None = None
        with suppress(TimeoutError):  # told below, with what there was instead
            for last in self.follow(f"/v1/clusters/{name}?follow=1", within):
                if fits(last):
                    return last
        raise AssertionError(f"{name} never came to it; its last status: {json.dumps(last, indent=1)}")

    def until_phase(self, *phases: str, name: str = "c", within: float = ANSWERS_WITHIN) -> Document:
        """The first status in one of these phases, waited for."""
        return self.until(lambda status: status["phase"] in phases, name, within=within)


@contextmanager
def start_service(
    lab: LabProcess,
    *,
    parent: Path | None = None,
    started: bool = True,
    program: str = "flambed.app",
    **settings: Any,
) -> Iterator[Service]:
    """A service against a lab; ended and checked when the context ends.

    Args:
        lab: the pretend AWS.
        parent: where its folder is made; where all temporary ones are, if not given.
        started: whether it is started, or left to the test to start.
        program: the module that is run as the service.
        settings: the service's settings as in its environment, lower case: `ssh__deadline="5s"`. What is no text
            goes as JSON.

    At the end it must exit with 0 on SIGTERM, have said nothing on stderr, have crashed nowhere, and have logged
    nothing that its schema does not allow.
    """
    environ = {
        f"FLAMBED_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.items()
    }
    with ExitStack() as at_end:
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="flambed-service-", dir=parent)))
        service = Service(lab, folder, environ, program)
        try:
            if started:
                service.start()
            yield service
            service.close()
        except BaseException as error:
            error.add_note("the end of the service's log:\n" + "\n".join(map(json.dumps, service.log()[-25:])))
            raise
        finally:
            service._forget_next()
            if service._process is not None:
                service.kill()
        service.check()


@contextmanager
def _connected(path: Path, within: float) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("localhost", timeout=within)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(within)
    try:
        connection.sock.connect(str(path))
        yield connection
    finally:
        connection.close()
