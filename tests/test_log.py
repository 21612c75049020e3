"""The log is the monitor: every event declared, every line one document, and never a secret in it."""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from flambed.catalogue import _KINDS, CATALOGUE, event_of
from flambed.desired import Cluster, Role
from flambed.errors import Reason
from flambed.eventkind import LONGEST, REDACTED, Shape, rfc3339, scrub
from flambed.journal import Entry
from flambed.log import COMMON, Log, configure, markdown, schema, to_event, to_line
from flambed.observed import facts
from flambed.observed.facts import FACTS, Fact, Key, Seen
from tests import eventsseen
from tests.fact_strategies import ANY_FACT, facts_of
from tests.json_schema import fits

SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SESSION_TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE" + "aB3/+" * 60 + "=="
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n"
PEM_END = "-----END OPENSSH PRIVATE KEY-----"


pytestmark = pytest.mark.usefixtures("_logging_as_it_was")


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    """The lines of a stream, each parsed as JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# --- the catalogue


def test_every_event_has_a_name_of_its_own_and_a_sentence_for_an_operator() -> None:
    """Names are dotted; sentences begin and end like sentences."""
    assert len(CATALOGUE) == len(_KINDS)
    for name, kind in CATALOGUE.items():
        area, _, what = name.partition(".")
        assert area.isidentifier(), name
        assert what.isidentifier(), name
        assert kind.doc[0].isupper(), name
        assert kind.doc.endswith("."), name
        assert not set(kind.fields) & set(COMMON), f"{name} declares a field that every line has"


def test_every_fact_is_told_by_exactly_one_event() -> None:
    """None is silent, none is told twice."""
    told = [kind.fact for kind in CATALOGUE.values() if kind.fact is not None]
    assert sorted(fact.__name__ for fact in told) == sorted(FACTS)


@pytest.mark.parametrize("kind", FACTS.values(), ids=FACTS)
@given(data=st.data())
def test_an_event_takes_all_that_it_declares_out_of_its_fact(kind: type[Fact], data: st.DataObject) -> None:
    """Whatever the fact holds, each declared field is found in it, and is of its shape."""
    name, fields = event_of(data.draw(facts_of(kind)))
    cleaned, problems = CATALOGUE[name].clean(fields)
    assert problems == []
    assert list(cleaned) == list(CATALOGUE[name].fields)


def test_what_the_catalogue_says_in_docs_is_what_it_is() -> None:
    """docs/events.md is made from the catalogue."""
    page = Path(__file__).parent.parent / "docs" / "events.md"
    command = "python -c 'from flambed import log; print(log.markdown(), end=\"\")' > docs/events.md"
    assert page.read_text(encoding="utf-8") == markdown(), f"docs/events.md is out of date; run: {command}"


def test_the_documentation_names_every_event_and_every_field() -> None:
    """One row an event, and no row is broken by what it holds."""
    page = markdown()
    for name, kind in CATALOGUE.items():
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert row.count(" | ") == 3
        assert kind.doc in row
        assert all(f"`{field}`" in row for field in kind.fields)


def told_in(source: Path) -> Iterator[tuple[str, set[str | None]]]:
    """The events that a module emits by a literal name, each with the fields that it gives (None: by **)."""
    for call in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
        event = call.args[0]
        if name in {"emit", "_emit"} and isinstance(event, ast.Constant) and isinstance(event.value, str):
            yield event.value, {keyword.arg for keyword in call.keywords}


def test_what_the_service_tells_is_what_the_catalogue_declares() -> None:
    """Every event that is emitted anywhere has an entry, gets all fields that it declares, and no other."""
    package = Path(configure.__code__.co_filename).parent
    found = 0
    for source in package.rglob("*.py"):
        if "lab" in source.relative_to(package).parts:
            continue
        for event, given_fields in told_in(source):
            found += 1
            assert event in CATALOGUE, f"{source.name} emits {event!r}: give it an entry in catalogue.py"
            declared = CATALOGUE[event].fields
            extra = given_fields - set(declared) - {"cluster", "instance", "action", "cause", None}
            assert not extra, f"{source.name} emits {event!r} with fields that are not declared: {extra}"
            missing = {name for name, of in declared.items() if not of.optional} - given_fields
            assert not missing or None in given_fields, f"{source.name} emits {event!r} without {missing}"
    assert found > 0


# --- JSON Schema


@given(fact=ANY_FACT, seq=st.integers(1, 10**9), cause=st.none() | st.integers(1, 10**9))
def test_every_fact_makes_a_line_that_the_schema_allows(fact: Fact, seq: int, cause: int | None) -> None:
    """The schema that `flambed schema events` prints is true for the log and for the API, by exactly one event."""
    line = to_event(Entry(seq, "c-1", cause, fact))
    assert fits(line, schema())
    assert list(line)[: len(COMMON)] == list(COMMON)
    assert json.loads(json.dumps(line)) == line


def test_the_schema_refuses_what_is_no_line() -> None:
    """It says something: an unknown field, another level, a missing field and another shape are not allowed."""
    line = to_event(Entry(1, "c-1", None, facts.PhaseChanged(at=1.0, phase="ready", reason=None)))
    assert fits(line, schema())
    assert not fits(line | {"extra": 1}, schema())
    assert not fits(line | {"level": "error"}, schema())
    assert not fits(line | {"phase": None}, schema())
    assert not fits({name: value for name, value in line.items() if name != "phase"}, schema())


# --- lines


def test_a_line_has_the_same_eight_fields_first_and_then_its_own() -> None:
    """What a monitor greps for is always there, in one order."""
    stream = io.StringIO()
    configure("json", "info", stream, strict=True).bind(cluster="ann/demo").emit("control.listening", path="/run/x")
    [line] = stream.getvalue().splitlines()
    assert list(json.loads(line)) == [
        "timestamp", "level", "event", "cluster", "instance", "action", "cause", "fact", "path",
    ]  # fmt: skip
    assert json.loads(line)["cluster"] == "ann/demo"
    assert json.loads(line)["instance"] is None
    assert json.loads(line)["timestamp"].endswith("Z")


def test_a_fact_is_told_with_its_time_its_number_and_its_cause() -> None:
    """The line of the log is the document of the API."""
    stream = io.StringIO()
    log = configure("json", "debug", stream, strict=True)
    key = Key("setup", "i-12")
    fact = facts.ActionFailed(at=1.5, key=key, reason=Reason.TIMED_OUT, code="late", message="no answer")
    log.tell(Entry(7, "c-1", 3, fact))
    assert written(stream) == [
        {
            "timestamp": "1970-01-01T00:00:01.500Z",
            "level": "warning",
            "event": "action.failed",
            "cluster": "c-1",
            "instance": "i-12",
            "action": "setup",
            "cause": 3,
            "fact": 7,
            "subject": "i-12",
            "reason": "timed_out",
            "code": "late",
            "message": "no answer",
        }
    ]
    assert written(stream) == [to_event(Entry(7, "c-1", 3, fact))]


def test_what_follows_from_a_fact_is_an_event_of_the_same_form() -> None:
    """The API tells the stages of an instance as the log does."""
    fields = {"role": "Factory", "name": "demo_factory_0", "was": "pending", "reason": None}
    line = to_line("instance.running", at=2.0, cluster="demo", instance="i-1", cause=7, fields=fields)
    assert fits(line, schema())
    assert (line["event"], line["cause"], line["fact"], line["was"]) == ("instance.running", 7, None, "pending")


def test_a_log_that_is_bound_to_a_cluster_shows_it_by_name() -> None:
    """A journal knows ids, people know names."""
    entry = Entry(7, "c-1", 3, facts.HostReached(at=1.0, instance="i-1"))
    stream = io.StringIO()
    configure("json", "info", stream).bind(cluster="ann/demo").tell(entry)
    assert written(stream) == [to_event(entry, cluster="ann/demo")]
    assert written(stream)[0]["cluster"] == "ann/demo"


def test_binding_adds_to_what_was_bound_and_leaves_the_first_log_alone() -> None:
    """What an event says itself goes before what its log is bound to."""
    stream = io.StringIO()
    log = configure("json", "debug", stream, strict=True)
    inner = log.bind(cluster="a").bind(instance="i-1", cause=4)
    inner.emit("service.stopped")
    inner.emit("service.stopped", instance="i-2")
    log.emit("service.stopped")
    found = [(line["cluster"], line["instance"], line["cause"]) for line in written(stream)]
    assert found == [("a", "i-1", 4), ("a", "i-2", 4), (None, None, None)]


def test_what_is_below_the_level_is_not_written() -> None:
    """A debug event at info, and an info event at error."""
    for level, expected in {"debug": 2, "info": 1, "error": 0}.items():
        stream = io.StringIO()
        log = configure("json", level, stream)  # type: ignore[arg-type]  # the keys are levels
        log.emit("region.survey_done", region="us-east-1", instances=1, clusters=1)
        log.emit("service.stopped")
        assert len(written(stream)) == expected


def test_a_log_made_by_itself_can_be_captured_in_tests() -> None:
    """So that other rooms can assert what they say."""
    with structlog.testing.capture_logs() as lines:
        Log().emit("control.listening", path="/run/x")
    [line] = lines
    assert (line["event"], line["level"], line["path"]) == ("control.listening", "info", "/run/x")


# --- only what is declared


@pytest.mark.parametrize(
    ("event", "fields", "problem"),
    [
        ("service.exploded", {}, "the event is not declared"),
        ("control.listening", {"path": "/run/x", "key": "hush"}, "'key' is not declared"),
        ("control.listening", {}, "'path' is missing"),
        ("control.listening", {"path": ["hush"]}, "'path' is of the type list, which is no text"),
        ("journal.read_only", {"message": Path("hush")}, "'message' is of the type PosixPath, which is no text"),
    ],
)
def test_what_is_not_declared_is_an_error_in_tests_and_a_note_in_production(
    event: str, fields: dict[str, Any], problem: str
) -> None:
    """Strict raises; lenient writes the rest, notes what was wrong, and shows no value of it."""
    with pytest.raises(ValueError, match=problem) as caught:
        Log().emit(event, **fields)
    assert "hush" not in str(caught.value)
    stream = io.StringIO()
    configure("json", "info", stream).emit(event, cluster="c", **fields)
    note, *rest = written(stream)
    assert (note["event"], note["level"], note["of"]) == ("log.undeclared", "warning", event)
    assert note["problems"] == [problem]
    assert [line["event"] for line in rest] == [event] * (event in CATALOGUE)
    assert "hush" not in stream.getvalue()


@pytest.mark.parametrize(
    ("shape", "good", "bad"),
    [
        (Shape.TEXT, "a", 1),
        (Shape.TRACE, "a", None),
        (Shape.FLAG, True, 1),
        (Shape.WHOLE, 3, True),
        (Shape.WHOLE, 3, 3.0),
        (Shape.NUMBER, 1.5, float("nan")),
        (Shape.NUMBER, 2, False),
        (Shape.TEXTS, ["a"], "a"),
        (Shape.TEXTS, [], [1]),
        (Shape.NAMED_TEXTS, {"a": "b"}, {"a": 1}),
        (Shape.NAMED_TEXTS, {}, {1: "a"}),
        (Shape.NAMED_WHOLES, {"a": 1}, {"a": "b"}),
    ],
)
def test_a_value_is_of_the_shape_that_is_declared_or_refused(shape: Shape, good: Any, bad: Any) -> None:
    """Nothing is turned into text that is none: its text could be anything."""
    assert shape.clean(good) == good
    assert fits(good, shape.schema)
    with pytest.raises(TypeError, match=r"which is no (text|traceback|true|whole number|number|list|texts)"):
        shape.clean(bad)


def test_a_time_is_given_in_seconds_and_written_as_rfc_3339() -> None:
    """In UTC, to the millisecond; what is no time of this era is refused."""
    assert Shape.TIME.clean(1_767_225_600.25) == "2026-01-01T00:00:00.250Z"
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    for wrong in (-1.0, 1e12, float("inf"), True, "2026-01-01"):
        with pytest.raises(TypeError, match="which is no time"):
            Shape.TIME.clean(wrong)


def test_long_texts_are_cut_at_their_end_and_tracebacks_at_their_beginning() -> None:
    """The last lines of a traceback are those that tell."""
    long = "a" + "x y " * 1000 + "z"
    assert Shape.TEXT.clean(long) == long[: LONGEST - 1] + "…"
    assert Shape.TRACE.clean(long) == "…" + long[-LONGEST + 1 :]
    assert Shape.TEXT.clean(long[:LONGEST]) == long[:LONGEST]


def test_a_crash_is_written_with_its_traceback() -> None:
    """The exception itself may be given for it."""
    stream = io.StringIO()
    log = configure("json", "info", stream, strict=True)
    try:
        _ = COMMON["lost"]
    except KeyError as error:
        log.emit("loop.crashed", error=repr(error), traceback=error)
    [line] = written(stream)
    assert line["error"] == "KeyError('lost')"
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("KeyError: 'lost'\n")


# --- never a secret


@pytest.mark.parametrize(
    ("secret", "around"),
    [
        (PEM + PEM_END, "cannot read {}: it is bad"),
        (PEM, "cut short: {}"),
        ("b3BlbnNzaC1r", "cut shorter: -----BEGIN OPENSSH PRIVATE KEY-----\n{}"),
        (SECRET_KEY, "the key {} was refused"),
        (SECRET_KEY, "{}"),
        (SECRET_KEY, "AWS_SECRET_ACCESS_KEY={}"),
        (SECRET_KEY, '{{"SecretAccessKey": "{}"}}'),
        (SESSION_TOKEN, "X-Amz-Security-Token: {}"),
        (SESSION_TOKEN, "<SessionToken>{}</SessionToken>"),
        ("hunter2", "password=hunter2"),
        ("hunter2", "passphrase: 'hunter2' is wrong"),
        ("dXNlcjpodW50ZXI=", "Authorization: Basic {}"),
        ("deadbeef", "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/x, SignedHeaders=host, Signature={}"),
        ("bm90aGluZw", "Flambed-Key: {}"),
    ],
)
def test_what_looks_like_a_secret_is_redacted_wherever_it_stands(secret: str, around: str) -> None:
    """In a text, in a list, as a value or a name in a mapping, and in what a log is bound to."""
    text = around.format(secret)
    for shape, value in {
        Shape.TEXT: text,
        Shape.TRACE: text,
        Shape.TEXTS: [text],
        Shape.NAMED_TEXTS: {text: text},
        Shape.NAMED_WHOLES: {text: 1},
    }.items():
        found = json.dumps(shape.clean(value))
        assert REDACTED in found
        assert secret.splitlines()[-1].rstrip("=") not in found
    stream = io.StringIO()
    configure("json", "info", stream).bind(cluster=text).emit("service.stopped")
    assert REDACTED in stream.getvalue()
    assert secret.splitlines()[-1] not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "i-0123456789abcdef0",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "/var/lib/flambed/state/of/clusters/and/their/many/hosts/journal.db",
        "You have requested more vCPU capacity than your current vCPU limit of 64 allows.",
        "arn:aws:cloudwatch:us-east-1:123456789012:alarm:Flambe_Instance_Terminate_CPU_Utilization_i-0123456789abcdef0",
        "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8",
    ],
)
def test_what_an_operator_needs_is_left_as_it_is(text: str) -> None:
    """Ids, digests, paths, messages and fingerprints of keys are no secrets."""
    assert scrub(text) == text


def test_nothing_private_of_a_cluster_file_reaches_the_log() -> None:
    """Set-up commands, user data, tags and key paths are not named in the catalogue, so they are not logged."""
    desired = Cluster(
        name="demo",
        creator="ann@x.com",
        factories_num=2,
        factories_type="g5.xlarge",
        orchestrator_type="t3.large",
        key_name="hush-key-name",
        key="/home/ann/hush.pem",
        security_group="sg-0",
        subnet_id="subnet-0",
        tags={"hush-tag": "hush"},
        setup_cmds=("export TOKEN=hush",),
        user_data="#!/bin/sh\necho hush\n",
    )
    seen = Seen(id="i-1", state="running", role=Role.FACTORY, tags={"hush": "hush"})
    told: list[Fact] = [
        facts.UpRequested(
            at=1.0,
            desired=desired,
            region="us-east-1",
            cluster_id="c-1",
            host_key="hush",
            owner=7,
            by=7,
            may_adopt=False,
        ),
        facts.ClusterSurveyed(at=1.0, instances=(seen,), began=0.0),
        facts.InstancesDescribed(at=1.0, instances=(seen,)),
        facts.LaunchAnswered(at=1.0, token="t", instances=(seen,)),
        facts.HostKeyLearned(at=1.0, instance="i-1", public_key="hush", source="user_data"),
    ]
    lines = [to_event(Entry(1, "c-1", None, fact)) for fact in told]
    assert "hush" not in json.dumps(lines)
    assert lines[0]["name"] == "demo"
    assert lines[2]["states"] == {"i-1": "running"}


# --- streams


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    """The reader of a pipe may go away; clusters still need the service."""

    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    configure("json", "info", Broken()).emit("service.stopped")


@given(text=st.text())
def test_a_line_is_one_line_whatever_it_quotes(text: str) -> None:
    """Line breaks, control characters, any language, and characters that are none."""
    stream = io.StringIO()
    log = configure("json", "info", stream, strict=True)
    log.emit("journal.read_only", message=f"{text}\ud800\n\x1b[2J")
    [line] = stream.getvalue().split("\n")[:-1]
    assert line.isascii()
    assert json.loads(line)["message"] == f"{scrub(text)}\ud800\n\x1b[2J"


def test_json_is_written_unless_a_person_looks() -> None:
    """A terminal gets lines for people; the setting overrides."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for format_, stream, is_json in (
        (None, io.StringIO(), True),
        (None, Terminal(), False),
        ("json", Terminal(), True),
        ("console", io.StringIO(), False),
    ):
        configure(format_, "info", stream).emit("service.stopped")  # type: ignore[arg-type]  # they are formats
        assert stream.getvalue().startswith("{") == is_json


def test_the_console_shows_what_is_there_and_lets_no_message_touch_the_terminal() -> None:
    """Nulls are left out, escape sequences are shown and not obeyed, a message forges no line, a crash is readable."""
    stream = io.StringIO()
    log = configure("console", "info", stream, strict=True)
    log.emit("journal.read_only", message="full\n2026 [info] all is well\x1b[2J")
    log.emit("journal.read_only", message="\x1b[2J", cluster="\x1b[2J")
    log.emit("service.configured", source=None, settings={"\x1b[2J": "\x1b[2J"})
    log.emit("log.undeclared", of="\r", problems=["\x1b[2J\n"])
    log.emit("loop.crashed", error="KeyError", traceback="Traceback\n  line 1 \x1b[2J\nKeyError")
    first, _, _, _, _, *crash = stream.getvalue().splitlines()
    assert "journal.read_only" in first
    assert "full\\n2026" in first
    assert "cluster" not in first
    assert not {"\x1b", "\r"} & set(stream.getvalue())
    assert [line.strip() for line in crash] == ["Traceback", "'  line 1 \\x1b[2J'", "KeyError"]


def test_the_console_has_no_colours_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is honoured, and colours are for terminals."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    configure(None, "info", coloured).emit("service.stopped")
    monkeypatch.setenv("NO_COLOR", "1")
    configure(None, "info", plain).emit("service.stopped")
    assert "\x1b[" in coloured.getvalue()
    assert "\x1b[" not in plain.getvalue()


def test_a_terminal_that_lacks_a_character_gets_its_code() -> None:
    """As with LANG=C."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    configure("console", "info", stream, strict=True).emit("control.listening", path="/run/fläm")
    assert b"/run/fl\\xe4m" in raw.getvalue()


def test_the_log_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object a line, as a monitor reads it."""
    configure(level="info").emit("service.stopped")
    assert json.loads(capsys.readouterr().out)["event"] == "service.stopped"


def test_the_log_counts_each_event_whatever_level_is_written_and_whoever_is_bound() -> None:
    """A lenient log at level error writes nothing of these, and counts them all, the undeclared one as such."""
    log = configure("json", "error", io.StringIO())
    log.emit("service.stopped")
    log.bind(cluster="c").emit("service.stopped")
    log.emit("no.such_event")
    assert log.counts == {"service.stopped": 2, "log.undeclared": 1}


@pytest.mark.parametrize("event", sorted(eventsseen.ELSEWHERE))
def test_an_event_that_only_real_parts_show_is_looked_for_by_their_tests(event: str) -> None:
    """The report on events leaves it to them."""
    text = (Path(__file__).parent / eventsseen.ELSEWHERE[event]).read_text()
    fact = CATALOGUE[event].fact
    assert event in text or (fact is not None and fact.__name__ in text)
