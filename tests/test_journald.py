"""Entries of systemd's journal: the line as its message, and fields beside it."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flambed import journald, log

pytestmark = pytest.mark.usefixtures("_logging_as_it_was")


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that is systemd's journal's."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "journal"))
    receiver.settimeout(5)
    monkeypatch.setattr(journald, "SOCKET", tmp_path / "journal")
    yield receiver
    receiver.close()


def entry(data: bytes) -> dict[str, str]:
    """Return the fields of an entry, each of which says its length."""
    found = {}
    while data:
        name, _, rest = data.partition(b"\n")
        length = int.from_bytes(rest[:8], "little")
        found[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        data = rest[9 + length :]
    return found


def test_a_line_is_an_entry_with_its_ids_and_priority(journal: socket.socket) -> None:
    """The message is the JSON line; what is null is no field; a text of several lines is one value."""
    line = {
        "level": "error",
        "event": "a.b",
        "cluster": "x\ny",
        "instance": None,
        "action": None,
        "cause": 7,
        "fact": None,
    }
    journald.send("the line", line)
    assert entry(journal.recv(4096)) == {
        "MESSAGE": "the line",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "flambed",
        "FLAMBED_EVENT": "a.b",
        "FLAMBED_CLUSTER": "x\ny",
        "FLAMBED_CAUSE": "7",
    }


def test_a_service_whose_output_is_the_journals_logs_to_it(
    journal: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JOURNAL_STREAM says so; what the journal does not take goes to the output."""
    with (tmp_path / "out").open("w") as out:
        status = os.fstat(out.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        told = log.configure("json", "info", out)
        told.emit("service.stopped")
        told.emit("journal.writable")
        assert json.loads(entry(journal.recv(4096))["MESSAGE"])["event"] == "service.stopped"
        assert (tmp_path / "out").read_text() == ""
        journal.close()
        told.emit("service.stopped")
    assert json.loads((tmp_path / "out").read_text())["event"] == "service.stopped"


def test_another_output_is_not_the_journals(tmp_path: Path) -> None:
    """A file beside it, and a stream that is none of the system's."""
    with (tmp_path / "out").open("w") as out:
        assert not journald.takes(out, {"JOURNAL_STREAM": "1:2"})
        assert not journald.takes(out, {})
    assert not journald.takes(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
