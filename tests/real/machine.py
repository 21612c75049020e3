"""A machine of its own under a real systemd, in a throwaway root of this one, as an operator has it.

with booted() as machine:
    machine.run("systemctl", "start", "flambed")
    machine.lab()

Nothing of it is left behind, and nothing of the host can be reached from inside: see throwaway-root.sh.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.parts import real_part

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
INSIDE = "/usr/src/flambed"
PATH = "/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BOOTS_WITHIN = 60.0
ENDS_WITHIN = 120.0


class Machine:
    """A booted machine.

    Attributes:
        pid: of its PID 1, as the host sees it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def command(self, *words: str) -> list[str]:
        """A command line that runs inside, as root."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        return [*enter, "env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", *words]

    def run(self, *words: str, check: bool = True, within: float = ENDS_WITHIN) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end."""
        done = subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        if check and done.returncode != 0:
            pytest.fail(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}{self.log()}")
        return done

    def sh(self, script: str, **options: Any) -> str:
        """Run a script inside; return what it prints."""
        return self.run("bash", "-euc", script, **options).stdout

    def show(self, name: str, unit: str = "flambed.service") -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def log(self) -> str:
        """Return what the service has left in the journal."""
        return self.run("journalctl", "--no-pager", "-n", "60", "-o", "cat", "-u", "flambed", check=False).stdout

    @contextmanager
    def journal(self, *, since: str = "now") -> Iterator[Callable[..., dict[str, Any]]]:
        """Follow the service's events from now on: yields a function that returns the next one of a name."""
        words = ["journalctl", "--no-pager", "--follow", "--output=json", f"--since={since}", "-u", "flambed"]
        with subprocess.Popen(self.command(*words), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None, "it was asked for"
            os.set_blocking(process.stdout.fileno(), True)

            def until(event: str, within: float = ENDS_WITHIN) -> dict[str, Any]:
                signal.signal(signal.SIGALRM, _late)
                signal.setitimer(signal.ITIMER_REAL, within)
                try:
                    for line in process.stdout or ():
                        entry = json.loads(line)
                        told = _json(entry.get("MESSAGE"))
                        if told.get("event") == event:
                            return {**told, "_entry": entry}
                except TimeoutError:
                    pytest.fail(f"no {event} within {within} s:\n{self.log()}")
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                raise AssertionError("journalctl ended")

            try:
                yield until
            finally:
                process.kill()

    @contextmanager
    def lab(self, *options: str) -> Iterator[dict[str, Any]]:
        """Run a lab inside; yields what it told."""
        words = ["env", f"PYTHONPATH={INSIDE}/daemon", sys.executable, "-m", "flambed.app", "lab", *options]
        with subprocess.Popen(self.command(*words), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None, "it was asked for"
            try:
                yield json.loads(process.stdout.readline())
            finally:
                process.terminate()
                process.wait(ENDS_WITHIN)

    @contextmanager
    def hung_file(self, path: str, owner: str) -> Iterator[Callable[[], None]]:
        """Have a file that cannot be read, as on a disk that hangs; yields a function that waits until somebody tries to.

        From then on the file is gone for all others; that one hangs until the end.
        """
        self.run("mkfifo", "-m", "0600", path)
        self.run("chown", owner, path)
        file = Path(f"/proc/{self.pid}/root{path}")
        with ExitStack() as held:

            def reached() -> None:
                held.enter_context(file.open("wb"))  # opens once there is a reader, who is never given anything
                file.unlink()

            yield reached

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside."""
        file = Path(f"/proc/{self.pid}/root{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def read(self, path: str) -> str:
        """Read a file inside."""
        return Path(f"/proc/{self.pid}/root{path}").read_text()


def _late(_number: int, _frame: object) -> None:
    raise TimeoutError


def _json(text: object) -> dict[str, Any]:
    """Return a line of the log as its event; of what is none: nothing."""
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@contextmanager
def booted() -> Iterator[Machine]:
    """Boot a machine, bare but for a checkout."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("booting a systemd needs root: CI runs as root")
        pytest.skip("left out: booting a systemd needs root")
    for program, package in {"nsenter": "util-linux", "ip": "iproute2", "git": "git", "make": "make"}.items():
        real_part(program, package)
    systemd = real_part("/lib/systemd/systemd", "systemd")
    wheels = Path(os.environ.get("WHEELS", CHECKOUT / ".venv" / "packages")).absolute()
    if not wheels.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{wheels} is missing: run `make test-real`")
        pytest.skip("left out: `make test-real` fetches the packages that this needs")
    environ = os.environ | {
        "CHECKOUT": str(CHECKOUT),
        "WHEELS": str(wheels),
        "PYTHON_PREFIX": sys.base_prefix,
        "VENV_PREFIX": sys.prefix,
    }
    script = [str(HERE / "throwaway-root.sh"), "-p", str(HERE / "prepare.sh")]
    init = [systemd, "--system", "--unit=multi-user.target"]
    with subprocess.Popen(
        [*script, *init], env=environ, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as process:
        try:
            yield Machine(_booted(process))
        finally:
            process.terminate()
            process.wait(ENDS_WITHIN)
            assert not list(Path("/sys/fs/cgroup").glob(f"**/throwaway.{process.pid}")), "it left control groups behind"


def _booted(process: subprocess.Popen[bytes]) -> int:
    """Return the PID 1 of a machine once it is up. Nothing tells when systemd itself can be asked: it is tried."""
    until = time.monotonic() + BOOTS_WITHIN
    while time.monotonic() < until:
        assert process.poll() is None, f"the throwaway root ended with {process.returncode}"
        pid = _child(_child(process.pid))
        if pid and Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
            machine = Machine(pid)
            state = machine.run("systemctl", "is-system-running", "--wait", check=False, within=BOOTS_WITHIN).stdout
            if state.strip() in ("running", "degraded"):
                return pid
        time.sleep(0.1)
    raise AssertionError(f"no systemd within {BOOTS_WITHIN} s")


def _child(pid: int | None) -> int | None:
    """Return the last child of a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[-1]) if children else None
