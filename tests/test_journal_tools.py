"""`flambed journal`: what was written can be checked, exported and replayed, and nothing is changed by that."""

# These tests have the loop for themselves: they may touch files in it.
# ruff: noqa: ASYNC240

from __future__ import annotations

import ast
import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flambed import plan
from flambed.app import main
from flambed.desired import Cluster
from flambed.eventkind import REDACTED
from flambed.journal import Journal, redacted
from flambed.journal.compaction import DAY
from flambed.journal.file import MIGRATIONS
from flambed.journal.redaction import SHOWN
from flambed.observed import facts
from flambed.observed.facts import FACTS, Fact, Seen
from flambed.replay import DECIDED
from tests.fact_strategies import facts_of
from tests.stories.story import NOON, cluster
from tests.test_journal_compaction import CANARY, SCHEMA_1, life


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three lives of a cluster: one is known, one is compacted, one forgotten."""
    path = tmp_path / "state" / "journal.sqlite"

    async def write() -> None:
        journal = Journal.open(path)
        journal.append("c1", life(3))
        journal.append("c2", life(1500))
        journal.append("c3", life(2))
        journal.forget("c3")
        await journal.commit()
        await journal.compact(NOON + 2 * DAY + 7 * DAY)
        await journal.close()

    asyncio.run(write())
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str], str]:
    """Run `flambed journal`; return its exit code, its lines, and what it says on stderr."""
    code = main(["journal", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def edit(path: Path, statement: str) -> None:
    """Change a journal that no service has open."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


# --- check


def test_check_says_what_a_journal_knows(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each cluster: name, phase, entries, open intents; exit code 0."""
    code, lines, _ = run(capsys, "check", path)
    assert code == 0
    rows = {words[1]: words for words in (line.split() for line in lines[2:5])}
    assert rows["c1"][::2] == ["user@company.com/x", "ready", "0"]
    assert rows["c2"][2] == "ready"
    assert rows["c3"][2:4] == ["forgotten", "0"]
    assert lines[-1] == "all of it is in order"


def test_check_finds_what_cannot_be_read_and_what_cannot_be(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is told with its number, once, and the exit code is 1."""
    edit(path, "UPDATE entry SET fact = '{}' WHERE cluster = 'c1' AND kind = 'HostReached'")
    code, lines, _ = run(capsys, "check", path)
    assert code == 1
    [problem] = [line for line in lines if line.startswith("problem: ")]
    assert "HostReached of cluster c1: at: Field required" in problem
    assert lines[-1] == "1 problem"


def test_check_says_what_is_wrong_with_an_entry_that_is_no_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of it is wrong, so no field is named, and no place is left for one."""
    edit(path, "UPDATE entry SET fact = '?' WHERE cluster = 'c1' AND kind = 'HostReached'")
    _, lines, _ = run(capsys, "check", path)
    [problem] = [line for line in lines if line.startswith("problem: ")]
    assert "HostReached of cluster c1: Invalid JSON" in problem


def test_check_counts_intents_that_are_open(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their tokens are what to look for in AWS."""
    edit(path, "DELETE FROM entry WHERE cluster = 'c1' AND seq > 10")
    _, lines, _ = run(capsys, "check", path)
    [row] = [line for line in lines if " c1 " in line]
    assert [word.rsplit("-", 1)[1] for word in row.split()[-2:]] == ["0", "1"]


def test_a_journal_is_looked_into_while_its_service_runs_and_nothing_is_written(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It sees what is committed, is in nobody's way, and leaves the file as it is."""

    async def beside() -> None:
        journal = Journal.open(path)
        journal.append("c9", life(1))
        await journal.commit()
        before = path.read_bytes()
        code, lines, _ = run(capsys, "check", path)
        assert code == 0
        assert any(" c9 " in line for line in lines)
        assert path.read_bytes() == before
        journal.append("c9", [facts.HoldReleased(at=1.0, by=1)])
        await journal.close()

    asyncio.run(beside())


def test_a_journal_of_the_first_schema_is_looked_into_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is brought up to date in memory."""
    path = tmp_path / "old.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA_1)
    connection.close()
    before = path.read_bytes()
    assert run(capsys, "check", path)[0] == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("tool", ["check", "export", "replay"])
def test_what_is_no_journal_is_an_error_that_says_so(
    tool: str, tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No such file, a folder, an empty one, a text, another program's database, half a journal, a newer one."""
    missing, empty, text, other = (tmp_path / name for name in ("missing", "empty", "text", "other"))
    folder = path.parent
    half, newer = tmp_path / "half", tmp_path / "newer"
    empty.touch()
    text.write_text("once upon a time\n" * 100)
    edit(other, "CREATE TABLE bookmark (url TEXT)")
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    newer.write_bytes(path.read_bytes())
    edit(newer, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    expected = {
        missing: "is not there: name the file",
        folder: f"is a folder: name the file in it, such as {path}",
        empty: "is empty, or was copied from a running service without its -wal: name another file",
        text: "file is not a database): restore it",
        other: "is a database of another program",
        half: "malformed",
        newer: "newer flambed (schema",
    }
    for file, words in expected.items():
        code, _, said = run(capsys, tool, file)
        assert (code, words in said) == (1, True), said
        assert said.startswith(f"flambed: the journal {file} ")


def test_without_a_file_the_services_own_journal_is_taken(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found as `flambed run` finds it."""
    assert run(capsys, "check", "--state-dir", path.parent)[1][0].startswith(f"{path}: ")


# --- export


def test_export_prints_every_entry_and_audit_line_in_order(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON document a line."""
    code, lines, _ = run(capsys, "export", path)
    found = [json.loads(line) for line in lines]
    connection = sqlite3.connect(path)
    [(count,)] = connection.execute("SELECT (SELECT count(*) FROM entry) + (SELECT count(*) FROM audit)")
    connection.close()
    assert (code, len(found)) == (0, count)
    assert [one["seq"] for one in found] == sorted(one["seq"] for one in found)
    assert {one["kind"] for one in found if "kind" in one} > {"UpRequested", "HostReached"}
    assert {one["event"] for one in found if "event" in one} > {"cluster.up_requested", "launch.answered"}


@pytest.mark.parametrize("ref", ["x", "user@company.com/x", "c1"])
def test_a_cluster_can_be_named_as_people_name_it(path: Path, ref: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, by creator and name, or by the id of one of its lives."""
    _, lines, _ = run(capsys, "export", path, "--cluster", ref)
    assert {json.loads(line)["cluster"] for line in lines} == ({"c1"} if ref == "c1" else {"c1", "c2", "c3"})


def test_a_cluster_that_nobody_knows_is_an_error_that_names_those_it_knows(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1."""
    code, lines, said = run(capsys, "replay", path, "--cluster", "y")
    assert (code, lines) == (1, [])
    assert said.endswith("knows no cluster 'y': it knows user@company.com/x\n")


@pytest.mark.parametrize("tool", ["export", "replay", "check"])
def test_no_secret_is_shown(tool: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The canary is in the commands, the user data and a tag of the cluster file, and in the journal."""
    assert CANARY.encode() in path.read_bytes()
    _, lines, _ = run(capsys, tool, path)
    assert CANARY not in "\n".join(lines)


def test_what_a_cluster_file_says_is_hidden_unless_it_is_named_as_no_secret() -> None:
    """A field that is new tomorrow is hidden by itself."""
    secret = cluster(setup_cmds=(CANARY,), user_data=f"#!{CANARY}", tags={"t": CANARY}, iam_instance_profile=CANARY)
    asked = facts.UpRequested(
        at=1.0, desired=secret, region="r", cluster_id="c", host_key="k", owner=1, by=1, may_adopt=False
    )
    shown = redacted(asked)["desired"]
    assert shown.keys() == Cluster.model_fields.keys()
    assert {name for name, value in shown.items() if value == REDACTED} == {
        name for name in Cluster.model_fields.keys() - SHOWN if getattr(secret, name)
    }
    assert {"setup_cmds", "user_data", "tags", "key"}.isdisjoint(SHOWN)


@pytest.mark.parametrize("kind", FACTS.values(), ids=FACTS)
@given(data=st.data())
def test_every_fact_can_be_shown_as_json(kind: type[Fact], data: st.DataObject) -> None:
    """With all its fields, and no tag's value."""
    fact = data.draw(facts_of(kind))
    seen = Seen(id="i-1", state="running", tags={"team": CANARY})
    if isinstance(fact, facts.ClusterSurveyed | facts.ClusterFound | facts.LaunchAnswered | facts.InstancesDescribed):
        fact = replace(fact, instances=(seen,))
    shown = redacted(fact)
    assert shown.keys() == {field.name for field in fields(fact)}
    assert CANARY not in json.dumps(shown)


# --- replay


def test_replay_tells_each_decision_with_the_fact_that_caused_it(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The facts in their order, what was decided upon them, and what is so in the end."""
    code, lines, _ = run(capsys, "replay", path, "--cluster", "c1")
    assert code == 0
    text = "\n".join(lines)
    assert lines[0] == "cluster user@company.com/x (c1)"
    assert "#1 UpRequested name=x creator=user@company.com" in lines[1]
    assert lines[2].startswith("    decided ")
    assert lines[3] == "      #2 begins find"
    assert "LaunchIntended token=" in text
    assert "begins setup i-o i-0 i-1; describe" in text
    assert lines[-1] == "  in the end: ready; 3 ready; open intents: none"


def test_replay_begins_with_what_a_compaction_left(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Audit lines, the checkpoint's world, and then every fact."""
    _, lines, _ = run(capsys, "replay", path, "--cluster", "c2")
    [start] = [number for number, line in enumerate(lines) if line.startswith("  checkpoint after #")]
    assert lines[start].endswith("ready; 3 ready; open intents: none")
    assert any("launch.intended token=" in line for line in lines[:start])


def test_replay_ends_where_it_is_told_to(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To see what was known at some moment."""
    _, lines, _ = run(capsys, "replay", path, "--cluster", "c1", "--until", "10")
    assert [line for line in lines if "#11 " in line] == []
    assert "converging; no instances; open intents: " in lines[-1]


@pytest.mark.parametrize("cluster", ["c2", "c3"])
def test_replay_says_so_of_a_cluster_that_began_later(
    path: Path, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is known of it then; from its first fact on something is."""
    _, lines, _ = run(capsys, "replay", path, "--cluster", cluster, "--until", "1")
    [heading, said] = lines
    assert heading == f"cluster user@company.com/x ({cluster})"
    assert said.startswith("  nothing is known of it before #")
    _, lines, _ = run(capsys, "replay", path, "--cluster", cluster, "--until", said.rpartition("#")[2])
    assert f"{said.rpartition('#')[2]} cluster.up_requested" in lines[1]


def test_replay_says_where_this_version_would_decide_otherwise(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As an incident is studied after its bug was mended."""
    recorded = "UPDATE entry SET fact = json_replace(fact, '$.keys[0].kind', 'tag') WHERE cluster = 'c1' AND seq = 2"
    edit(path, recorded)
    _, lines, _ = run(capsys, "replay", path, "--cluster", "c1", "--until", "2")
    assert "      this version, with these settings, would begin find" in lines


def test_a_reader_that_has_seen_enough_is_no_error(path: Path) -> None:
    """`flambed journal export | head -1` leaves no traceback."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "flambed.app", "journal", "export", str(path)]
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_replay_knows_what_decisions_conclude() -> None:
    """Whatever `plan` adds to a decision's conclusions is told as part of that decision."""
    named = {
        node.id
        for file in Path(plan.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Name) and node.id in FACTS
    }
    assert "PhaseChanged" in named
    assert named <= {kind.__name__ for kind in DECIDED}
