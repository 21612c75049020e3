"""The command line of the service, apart from running it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from flambed.app import main


@pytest.mark.parametrize("of", ["cluster", "settings", "events"])
def test_each_schema_is_printed_as_json(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON document on stdout."""
    assert main(["schema", of]) == 0
    assert "$schema" in json.loads(capsys.readouterr().out)


def test_schema_without_a_word_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, as for all bad usage."""
    with pytest.raises(SystemExit) as end:
        main(["schema"])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith("flambed: error: schema: choose cluster, settings or events\n")


def test_a_reader_of_a_schema_that_goes_away_is_no_traceback() -> None:
    """`flambed schema events | head -1` says nothing on stderr, and claims no success."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "import sys; from flambed.app import main; sys.exit(main(['schema', 'events']))"]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")
