"""The kept output of set-up commands, and how long texts are cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambed.files import write_atomically
from flambed.outputs import MAX_BYTES, Output, Outputs
from flambed.tails import Tail, last_lines


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    """Kept output in a state folder that does not exist yet."""
    return Outputs(tmp_path / "state")


def test_what_a_command_printed_is_read_as_it_was_written(outputs: Outputs, tmp_path: Path) -> None:
    """Any text, and also by a service that was started later."""
    written = outputs.write("c1", "i-1", 0, 2, command="echo 'é\n'", code=1, text="é\r\n\x1b[31m\0\n")
    assert written == Output(
        instance="i-1", number=0, attempt=2, command="echo 'é\n'", code=1, text="é\r\n\x1b[31m\0\n"
    )
    assert Outputs(tmp_path / "state").read("c1") == [written]


def test_outputs_come_by_host_number_and_attempt(outputs: Outputs) -> None:
    """Numbers count as numbers; one host can be asked for alone."""
    runs = [("i-2", 0, 0), ("i-1", 10, 0), ("i-1", 2, 1), ("i-1", 2, 0)]
    for instance, number, attempt in runs:
        outputs.write("c1", instance, number, attempt, command="x", code=0, text="")
    told = [(output.instance, output.number, output.attempt) for output in outputs.read("c1")]
    assert told == sorted(runs)
    assert [output.instance for output in outputs.read("c1", "i-2")] == ["i-2"]
    assert outputs.read("c1", "i-3") == outputs.read("c2") == []


def test_the_end_of_a_command_replaces_what_it_had_printed_by_then(outputs: Outputs) -> None:
    """A command that was timed out and ended later is one run."""
    outputs.write("c1", "i-1", 0, 0, command="x", code=None, text="half")
    outputs.write("c1", "i-1", 0, 0, command="x", code=0, text="half, whole")
    (output,) = outputs.read("c1")
    assert (output.code, output.text) == (0, "half, whole")


def test_of_a_long_output_the_end_is_kept_and_the_loss_is_told(outputs: Outputs) -> None:
    """What the host had cut off before counts as well."""
    kept = outputs.write("c1", "i-1", 0, 0, command="x", code=0, text="a" * MAX_BYTES + "end\n", dropped=1000)
    notice, _, text = kept.text.partition("\n")
    assert notice == "[flambed: the first 1004 bytes are not kept]"
    assert len(text) == MAX_BYTES
    assert text.endswith("aend\n")
    assert outputs.read("c1") == [kept]


def test_only_the_services_user_can_read_outputs(outputs: Outputs, tmp_path: Path) -> None:
    """Commands print what they like."""
    outputs.write("c1", "i-1", 0, 0, command="x", code=0, text="secret")
    paths = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert {(path.is_dir(), path.stat().st_mode & 0o777) for path in paths} == {(True, 0o700), (False, 0o600)}


def test_a_forgotten_cluster_leaves_no_output_and_the_others_stay(outputs: Outputs) -> None:
    """Forgetting twice is no error."""
    for cluster in ("c1", "c2"):
        outputs.write(cluster, "i-1", 0, 0, command="x", code=0, text="")
    outputs.forget("c1")
    outputs.forget("c1")
    assert (outputs.read("c1"), len(outputs.read("c2"))) == ([], 1)


def test_names_never_lead_out_of_the_state_folder(outputs: Outputs) -> None:
    """Neither the cluster's nor the host's."""
    for cluster, instance in (("..", "i-1"), ("c1", "../i-1")):
        with pytest.raises(ValueError, match="cannot be the name of a file"):
            outputs.write(cluster, instance, 0, 0, command="x", code=0, text="")
        with pytest.raises(ValueError, match="cannot be the name of a file"):
            outputs.read(cluster, instance)


def test_the_last_lines_are_what_a_person_wants_to_see() -> None:
    """Without the blank ones at the end."""
    assert last_lines("one\ntwo\nthree\n\n\n", 2) == "two\nthree"
    assert last_lines("one", 5) == "one"
    assert last_lines("\n\n", 5) == ""


@given(st.lists(st.binary(max_size=20)), st.integers(1, 40))
def test_a_tail_is_the_end_of_the_stream_however_it_came(chunks: list[bytes], limit: int) -> None:
    """Cut by hand it would be the same."""
    tail = Tail(limit)
    for chunk in chunks:
        tail.add(chunk)
    whole = b"".join(chunks)
    notice = f"[flambed: the first {len(whole) - limit} bytes are not kept]\n" if len(whole) > limit else ""
    assert tail.text() == notice + whole[-limit:].decode(errors="replace")


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    """Here the name is taken by a folder."""
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomically(tmp_path / "taken", b"x", durable=True)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
