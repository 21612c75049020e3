"""YAML is read into plain values that know their place, and what is no such file is refused with it."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flambed import yamlfile, yamltree
from flambed.errors import ClusterConfigurationError
from flambed.yamltree import Place


def told(text: str | bytes) -> list[tuple[int | None, int | None, str]]:
    """Return the line, column and message of everything that is wrong with a file."""
    with pytest.raises(ClusterConfigurationError) as caught:
        yamlfile.load(text if isinstance(text, str) else yamlfile.decode(text, "f"), source="f", root_tags=("!Mine",))
    return [(problem.line, problem.column, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("12", 12),
        ("012", 12),
        ("-1", -1),
        ("100.", 100.0),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("0x1F", "0x1F"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!int 12", 12),
        ("~", None),
        ("", None),
        ("1" * 101, float("1" * 101)),
        ("[1, a]", [1, "a"]),
        ("{b: 1}", {"b": 1}),
        ("a#b", "a#b"),
        ("a # comment", "a"),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
    ],
)
def test_scalars_are_read_by_the_core_schema(written: str, value: object) -> None:
    """YAML 1.2's rules hold, not the surprises of YAML 1.1."""
    assert yamlfile.load(f"a: {written}\n", source="f").value == {"a": value}


def test_every_value_and_key_knows_its_place() -> None:
    """Lines and columns count from 1, in mappings and in lists."""
    document = yamlfile.load("a: 1\nb:\n  c: x\n  d:\n    - y\n    -   01.50\n", source="f")
    assert document.keys["b", "c"] == Place(3, 3)
    assert document.values["b", "c"] == Place(3, 6)
    assert document.values["b", "d", 1] == Place(6, 9)
    assert document.written["b", "d", 1] == "01.50"


def test_keys_are_text_as_they_are_written() -> None:
    """A tag named 1 or on is a tag of that name."""
    assert yamlfile.load("1: a\non: b\n0x1: c\n", source="f").value == {"1": "a", "on": "b", "0x1": "c"}


def test_an_alias_stands_where_it_is_written() -> None:
    """What is wrong with a value is told where it is used."""
    document = yamlfile.load("a: &x 1\nb:\n  c: *x\n", source="f")
    assert document.values["b", "c"] == Place(3, 6)
    assert document.values["a",].line == 1


def test_aliases_and_merges_are_followed() -> None:
    """What is written in the mapping itself comes over what is merged into it."""
    text = "base: &base {x: 1, y: 2}\nmine:\n  <<: *base\n  y: 3\nalso: *base\n"
    assert yamlfile.load(text, source="f").value == {
        "base": {"x": 1, "y": 2},
        "mine": {"x": 1, "y": 3},
        "also": {"x": 1, "y": 2},
    }


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(10**20), 10**20)
            | st.floats(allow_nan=False, allow_infinity=False),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("k"), inner, max_size=1),
            max_leaves=6,
        ),
        max_size=5,
    )
)
@settings(deadline=None)
def test_json_is_read_as_json(value: dict[str, object]) -> None:
    """JSON is YAML: every JSON object reads as itself."""
    text = json.dumps(value)
    assert yamlfile.load(text, source="f").value == json.loads(text)


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "the file is empty"),
        ("\n# only this\n", 1, 1, "the file is empty"),
        ("---\n", 2, 1, "the file is empty"),
        ("!Mine\n", 1, 1, "the file is empty"),
        ("- a\n", 1, 1, "expected keys and values, such as `name: value`, and found a list"),
        ("hello\n", 1, 1, "expected keys and values, such as `name: value`, and found 'hello'"),
        ("a: 1\n---\nb: 2\n", 2, 1, "a second document begins here: keep one in a file"),
        ("a: 1\nb: 2\na: 3\n", 3, 1, "the key 'a' is given twice, first on line 1"),
        ("a:\n\tb: 1\n", 2, 1, "a tab stands here: YAML is indented with spaces"),
        ("a:\n  b: 1\n \tc: 2\n", 3, 2, "a tab stands here"),
        ("a: [1\n", 2, 1, "this is not YAML: did not find expected ',' or ']'"),
        ("a: b: c\n", 1, 5, "this is not YAML: mapping values are not allowed in this context; check the indentation"),
        ("a: @x\n", 1, 4, "this is not YAML: found character that cannot start any token"),
        ("a: 'x\n", 2, 1, "found unexpected end of stream, while scanning a quoted scalar from line 1"),
        ("a: *b\n", 1, 4, "the alias *b has no anchor before it"),
        ("a: &a [*a]\n", 1, 8, "the alias *a stands for a part that holds it"),
        ("a: !Mine 1\n", 1, 4, "the tag !Mine means nothing here: remove it (only !Mine, before the first key)"),
        ("!Other\na: 1\n", 1, 1, "the tag !Other means nothing here"),
        (
            "a: !!python/object/apply:os.system [x]\n",
            1,
            4,
            "the tag !!python/object/apply:os.system means nothing here",
        ),
        ("? [x]\n: 1\n", 1, 3, "a key must be a word, and a list stands here"),
        ("<<: 1\n", 1, 5, "`<<` merges keys and values, and '1' stands here"),
        ("a: x\x01y\n", 1, 5, "the character U+0001 cannot stand in YAML"),
        ('a: "x\\0"\n', 1, 4, "the character U+0000 cannot stand in a text"),
        ("a: \ud800\n", 1, 4, "the character U+D800 cannot stand in YAML"),
        (b"a: 1\nb: x\xff\n", 2, 5, "byte 0xff is not UTF-8: save the file as UTF-8"),
        ("a: é\n".encode("utf-16"), 1, 1, "is not UTF-8"),
        ("a: " + "[" * 25, 1, 24, "values are nested more than 20 deep here"),
    ],
)
def test_each_kind_of_broken_file_is_told_with_its_place(
    text: str | bytes, line: int, column: int, message: str
) -> None:
    """The one thing wrong is told, where it stands, in words that say what to do."""
    [(told_line, told_column, told_message)] = told(text)
    assert message in told_message
    assert (told_line, told_column) == (line, column)


def test_several_mistakes_are_told_at_once_in_order() -> None:
    """Tags and keys that are wrong do not hide each other, nor what stops the reading after them."""
    assert [(line, column) for line, column, _ in told("a: !x 1\na: 2\nb: !y z\nc: [\n")] == [
        (1, 4),
        (2, 1),
        (3, 4),
        (5, 1),
    ]


@pytest.mark.parametrize("text", ["a: 1\n# " + "x" * (1 << 20), "é" * (1 << 19) + "x"])
def test_a_file_over_one_mebibyte_is_refused_before_it_is_parsed(text: str) -> None:
    """The message says how large it is and what the limit is; bytes count, not characters."""
    [(line, column, message)] = told(text)
    size = len(text.encode())
    assert (line, column, message) == (
        1,
        1,
        f"the file has {size:,} bytes and may have 1,048,576: is it the right one?",
    )


def test_a_file_of_ten_megabytes_is_refused_at_once() -> None:
    """A large file costs no parsing."""
    started = time.monotonic()
    [(_, _, message)] = told(b"a: [" + b"1, " * 3_500_000)
    assert "10,500,004 bytes" in message
    assert time.monotonic() - started < 1


def test_a_bomb_of_aliases_is_refused() -> None:
    """Nine levels of nine aliases would be 400 million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9)]
    [(line, _, message)] = told("\n".join(lines))
    assert "there are more than 20,000 values, aliases counted as written out" in message
    assert line == 5


def test_aliases_do_not_get_round_the_depth() -> None:
    """A chain of aliases, each deep enough by itself, is as deep as all of them together."""
    lines = [f"a0: &a0 {'[' * 15}{']' * 15}", f"a1: {'[' * 15}*a0{']' * 15}"]
    [(line, _, message)] = told("\n".join(lines))
    assert "nested more than 20 deep" in message
    assert line == 2


def test_a_file_in_which_everything_is_wrong_is_told_in_part() -> None:
    """The number of problems is bounded, and the last one says so."""
    problems = told("\n".join("a: 1" for _ in range(5_000)))
    assert len(problems) == yamltree.MOST_PROBLEMS + 1
    assert problems[-1] == (101, 1, "more is wrong than is told here: begin with the first")


def test_a_byte_order_mark_does_no_harm() -> None:
    """Some editors write one."""
    assert yamlfile.load(yamlfile.decode(b"\xef\xbb\xbfa: 1\n", "f"), source="f").value == {"a": 1}
    assert yamlfile.load("\ufeffa: 1\n", source="f").keys["a",] == Place(1, 1)


def test_without_libyaml_the_same_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML's own parser, the fallback, gives the same values and places."""
    text = "!Mine\na: &x [1, 'b']\nc: {d: *x}\n"
    fast = yamlfile.load(text, source="f", root_tags=("!Mine",))
    monkeypatch.setattr(yamltree, "_Loader", yaml.SafeLoader)
    assert yamlfile.load(text, source="f", root_tags=("!Mine",)) == fast
    assert told("a:\n\tb: 1\n")[0][:2] == (2, 1)


@given(st.text() | st.text("ab:-[]{}&*!|>'\"#%@, \n\t<1.~?"))
@settings(deadline=None, max_examples=500)
def test_no_text_does_anything_but_be_read_or_be_refused(text: str) -> None:
    """Whatever the text, the answer is a document or a ClusterConfigurationError whose places are in the file."""
    try:
        document = yamlfile.load(text, source="f")
    except ClusterConfigurationError as error:
        found = error.problems
    else:
        assert isinstance(document.value, dict)
        return
    assert found
    assert all(problem.line is not None and 1 <= problem.line <= len(text.splitlines()) + 1 for problem in found)


@given(st.binary())
@settings(deadline=None)
def test_no_bytes_do_anything_but_be_text_or_be_refused(raw: bytes) -> None:
    """Bytes that are not UTF-8 have a line and a column."""
    try:
        text = yamlfile.decode(raw, "f")
    except ClusterConfigurationError as error:
        found = error.problems
    else:
        assert text.encode() == raw.removeprefix(b"\xef\xbb\xbf")
        return
    [problem] = found
    assert problem.line is not None
    assert problem.column is not None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("5m", "5m"),
        ("a: b", "a: b"),
        ("#x", "#x"),
        ("@x", "@x"),
        ('"5"', "5"),
        ("[a, 1]", ["a", 1]),
        ("{a: 1}", {"a": 1}),
        ("", None),
        ("a\nb: c", "a\nb: c"),
        ("[a,\nb]", ["a", "b"]),
    ],
)
def test_a_value_of_a_command_line_is_a_scalar_unless_it_is_quoted_or_bracketed(text: str, value: object) -> None:
    """Nothing in a value can reach beyond it."""
    assert yamlfile.load_value(text)[0] == value
