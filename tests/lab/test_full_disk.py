"""The disk of the state folder is full: the service does nothing that it could not write down, says so, and recovers."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from flambed.journal import Reader
from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import CREATOR, Service, start_service

Small = tuple[Service, Callable[[Service], AbstractContextManager[None]]]


@contextmanager
def _limited(service: Service) -> Iterator[None]:
    """No file of the service can grow: every write of the journal or of a key fails, as on a full disk."""
    before = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (384, before[1]))
    try:
        yield
    finally:
        if service.runs:
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def _filled(service: Service) -> Iterator[None]:
    """The file system of the state folder has not a byte left."""
    filler = state(service) / "filler"
    with (
        Path("/dev/zero").open("rb") as zeros,
        filler.open("wb", buffering=0) as file,
        pytest.raises(OSError, match=os.strerror(errno.ENOSPC)),
    ):
        shutil.copyfileobj(zeros, file)
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, of 3 MB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "flambed-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# Only root can mount a disk that is small enough to be filled.
@pytest.fixture(params=["no file may grow", *(["a full disk"] if os.geteuid() == 0 else [])])
def small(request: pytest.FixtureRequest, lab: LabProcess, tmp_path: Path) -> Iterator[Small]:
    """A service, and what fills its disk."""
    if request.param == "no file may grow":
        with start_service(lab) as service:
            yield service, _limited
        return
    with _small_disk(tmp_path / "disk") as disk, start_service(lab, state_dir=str(disk / "state")) as service:
        yield service, _filled


def test_on_a_full_disk_the_service_is_read_only_and_recovers_by_itself(
    small: Small,
) -> None:
    """One word in the log, a 503 for each change, no call that changes anything in AWS; then all goes on in order."""
    service, filling = small
    service.up(service.file(factories_num=1))
    other = service.file("other", factories_num=1)
    calls = changes(service)
    with filling(service):
        first = service.ctl("hold", "c", "--for", "1h", "--why", "it is full")
        assert first.code == 3, first
        assert "what was asked for is done once that is so, and lost if the service ends before" in first.stderr
        service.until_logged("journal.read_only")
        began = time.monotonic()
        for words in (
            ("up", other),
            ("down", "c", "--yes"),
            ("release", "c"),
            ("hold", "c", "--for", "1h", "--why", "x"),
        ):
            refused = service.ctl(*words)
            assert refused.code == 3 or words[0] in ("release", "hold"), refused
            if refused.code == 3:
                assert "until then the service is read-only" in refused.stderr
        assert time.monotonic() - began < 20, "they are answered at once"
        checks = {check["check"]: check for check in service.ctl("doctor", "--json").document}
        assert checks["state folder"]["ok"] is False
        assert "until then the service is read-only" in checks["state folder"]["message"]
        shown = service.ctl("list")
        assert shown.code == 0
        assert shown.stdout.startswith("warning: the journal ")
        assert service.ctl("status", "c").stdout.startswith("warning: the journal ")
        health = service.api("GET", "/v1/health")
        assert (health.status, health.document["ok"], health.document["read_only"]) == (503, False, True)
        assert "until then the service is read-only" in health.document["message"]
        assert len(service.log("journal.read_only")) == 1, "it is told once"
    service.until_logged("journal.writable")
    assert changes(service) == calls
    assert service.status()["hold"]["why"] == "it is full"
    assert service.status()["read_only"] is None
    assert service.api("GET", "/v1/health").status == 200
    service.up(other)
    for name in ("c", "other"):
        service.down(name)
    service.stop()
    with Reader.open(state(service) / "journal.sqlite") as reader:
        assert reader.damage() == []
        seqs = [entry.seq for entry in reader.entries()]
    assert seqs == list(range(1, len(seqs) + 1)), "nothing was left out"


def test_an_up_that_is_the_first_to_meet_a_full_disk_is_refused_as_the_others_are(small: Small) -> None:
    """Its keys cannot be kept: exit code 3 with what to do, no bug, and nothing of it is left on the disk."""
    service, filling = small
    file = service.file(factories_num=1)
    keys = state(service) / "keys"
    with filling(service):
        refused = service.ctl("up", file)
        assert refused.code == 3, refused
        assert f"the state folder {state(service)} cannot be written (" in refused.stderr
        assert "make room on its disk" in refused.stderr
        assert not keys.exists() or list(keys.iterdir()) == []
    assert service.log("control.request_failed") == []
    service.up(file)
    service.down()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_service_that_ends_on_a_full_disk_says_what_it_could_not_write(small: Small, end: signal.Signals) -> None:
    """It does not hang; and the next one finds the cluster as it was written down last."""
    service, filling = small
    service.up(service.file(factories_num=1))
    with filling(service):
        asked = service.ctl("hold", "c", "--for", "1h", "--why", "lost")
        assert asked.code == 3
        code = service._end(end)
    said = service._said.read_text()
    if end is signal.SIGTERM:
        assert code == 1
        assert said.startswith("flambed: the journal ")
        assert "cannot be written" in said
        assert "Traceback" not in said
        [lost] = service.log("journal.lost")
        assert lost["clusters"].keys() == {f"{CREATOR}/c"}
        taken = "lost if the service ends before" in asked.stderr  # not, where the service had noticed by itself
        assert ("1 HoldPlaced" in lost["clusters"][f"{CREATOR}/c"]) is taken
    service._said.write_text("")
    service.start()
    status = service.status()
    assert (status["phase"], status["hold"], status["read_only"]) == ("ready", None, None)
    service.down()


def state(service: Service) -> Path:
    """The service's state folder."""
    return Path(service.environ()["FLAMBED_STATE_DIR"])


def changes(service: Service) -> dict[str, int]:
    """How many calls there were to AWS that launch or end anything: those of `doctor` only ask whether they may."""
    return {
        action: sum("DryRun" not in call["params"] for call in service.lab.calls(action=action))
        for action in ("RunInstances", "TerminateInstances")
    }
