"""A cluster file becomes a frozen Cluster, or every mistake in it is told at once, with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flambed import desired
from flambed.desired import Cluster, Role, parse
from flambed.errors import ClusterConfigurationError
from tests.clusterfiles import LEAST, cluster, problems, text

CONFIG = Path(__file__).parent.parent / "config"

# The file that Flambé's documentation shows, to the letter: a blank ends its line of tags.
FLAMBE = """\
!AWSCluster

name: my-cluster  # Make sure to name your cluster

factories_num: 1 # Number of factories to spin up, there is always just 1 orchestrator
factories_type: g3.4xlarge
orchestrator_type: t3.large
orchestrator_timeout: -1 # -1 means the orchestrator will have to be killed manually (recommended)
factories_timeout: -1 # Factories timeout after being unused for these many hours

creator: user@company.com
key_name: my_key

key: '/path/to/ssh/key'

tags:\x20
    project: my-project
    company: xxxxxxxxxx

subnet_id: subnet-XXXXXXX
volume_size: 100

# Don't change if not sure
security_group: sg-XXXXXXXXXXXX
"""


def test_the_roles_are_the_values_of_their_tag() -> None:
    """Flambé finds its instances by these."""
    assert [role.value for role in Role] == ["Orchestrator", "Factory"]


@pytest.mark.seed("S17")
def test_a_flambe_file_is_accepted_unchanged() -> None:
    """The sample of Flambé's documentation parses, tag, comments, quotes and all."""
    assert parse(FLAMBE).model_dump(include={*LEAST, "tags", "orchestrator_timeout", "factories_timeout"}) == {
        "name": "my-cluster",
        "creator": "user@company.com",
        "factories_num": 1,
        "factories_type": "g3.4xlarge",
        "orchestrator_type": "t3.large",
        "orchestrator_timeout": -1,
        "factories_timeout": -1,
        "key_name": "my_key",
        "key": "/path/to/ssh/key",
        "tags": {"project": "my-project", "company": "xxxxxxxxxx"},
        "subnet_id": "subnet-XXXXXXX",
        "security_group": "sg-XXXXXXXXXXXX",
    }


def test_mistakes_of_the_yaml_do_not_hide_those_of_the_values() -> None:
    """A character, a tag or a key that cannot stand there is told with what is wrong beside it, each of them once."""
    listed = problems(text() + 'setup_cmds: ["", 3, "a\\0b"]\n')
    assert [(problem.line, problem.column) for problem in listed] == [(10, 14), (10, 18), (10, 21)]
    assert listed[2].message == "the character U+0000 cannot stand in a text: remove it"
    mixed = problems(text(volume_size="plenty") + "username: !x ubuntu\nusername: other\nvolumetype: gp3\n")
    assert [(problem.line, problem.column) for problem in mixed] == [(10, 14), (11, 11), (12, 1), (13, 1)]


@pytest.mark.seed("S17")
@pytest.mark.parametrize("document", [FLAMBE.removeprefix("!AWSCluster"), FLAMBE.encode(), text(), json.dumps(LEAST)])
def test_a_plain_mapping_bytes_and_json_are_accepted_too(document: str | bytes) -> None:
    """Flambé's tag is optional, and JSON is YAML."""
    assert parse(document).name in {"my-cluster", "c"}


@pytest.mark.seed("S07", "S08", "S09", "S10", "S11", "S12", "S13", "S14", "S15", "S16")
def test_what_a_file_leaves_out_has_the_defaults_of_the_seed() -> None:
    """The least file is completed as Flambé would, and beyond it as flambed documents."""
    assert cluster().model_dump(exclude=set(LEAST)) == {
        "region_name": None,
        "volume_type": "gp2",
        "volume_size": 100,
        "username": "ubuntu",
        "tags": {},
        "orchestrator_ami": None,
        "factory_ami": None,
        "dedicated": False,
        "orchestrator_timeout": -1,
        "factories_timeout": 1,
        "setup_cmds": (),
        "iam_instance_profile": None,
        "user_data": None,
        "volume_encrypted": True,
        "launch": {"deadline": "15m", "minimum": 1},
        "setup": {"timeout": "4h"},
    }


@pytest.mark.seed("S01", "S02", "S03", "S04", "S05", "S06")
def test_all_missing_keys_are_told_at_once_at_the_start_of_the_document() -> None:
    """Each required key is named, with what it is for."""
    found = problems("\n# a file\nusername: ubuntu\n")
    assert [problem.field for problem in found] == list(LEAST)
    assert {(problem.line, problem.column) for problem in found} == {(3, 1)}
    assert found[0].message.startswith("'name' is missing: add it (The name of the cluster, unique for its creator")


@pytest.mark.seed("S38")
def test_several_mistakes_are_told_at_once_each_with_its_line_and_column() -> None:
    """Shapes, limits, contradictions, unknown keys, nested ones and overrides are all in one error, in order."""
    document = """\
name: a/b
creator: me
factories_num: 0
factorys_type: g5.xlarge
orchestrator_type: large
key_name: k
key: 5
security_group: subnet-1
subnet_id: [subnet-1]
volume_type: io1
volume_size: 50
orchestrator_timeout: 2
factories_timeout: 3
tags:
  CREATOR: me
  fine: 1
  bad: {a: b}
setup_cmds:
  - ok
  - ''
dedicated: maybe
launch: {dedline: 5m}
"""
    with pytest.raises(ClusterConfigurationError) as caught:
        parse(document, source="lab.yaml", overrides=["setup.timeout=soon", "colour=red", "nothing"])
    assert str(caught.value).splitlines() == [
        (
            "lab.yaml:1:7: name: the name holds '/', as CREATOR/NAME names a cluster of one creator: "
            "use letters, digits, '-', '_' and '.'"
        ),
        "lab.yaml:3:16: factories_num: 0 is out of range: it must be between 1 and 10000",
        "lab.yaml:4:1: unknown key 'factorys_type': did you mean 'factories_type'?",
        "lab.yaml:5:20: orchestrator_type: 'large' is not an instance type, such as g5.xlarge",
        "lab.yaml:7:6: key: expected text, found 5; put it in quotes",
        "lab.yaml:8:17: security_group: 'subnet-1' is not the id of a security group, such as sg-0123456789abcdef0",
        "lab.yaml:9:12: subnet_id: expected text, found a list",
        (
            "lab.yaml:11:14: volume_size: 50 GiB are too few: an io1 volume with 5000 IOPS needs at least 100 GiB: "
            "make it larger or choose gp3"
        ),
        (
            "lab.yaml:13:20: factories_timeout: factories may not outlive the orchestrator: theirs is 3 h, "
            "orchestrator_timeout is 2 h; lower the one or raise the other (-1 is never)"
        ),
        "lab.yaml:15:3: tags.CREATOR: the tag 'CREATOR' is set from the field 'creator': leave it out of tags",
        "lab.yaml:17:8: tags.bad: expected text, found keys and values",
        "lab.yaml:20:5: setup_cmds, command 2: a set-up command is empty: leave it out",
        "lab.yaml:21:12: dedicated: expected true or false, found the text 'maybe'",
        "lab.yaml:22:10: unknown key 'dedline' in 'launch': did you mean 'deadline'?",
        "lab.yaml: --set nothing: it has no value: write --set nothing=VALUE",
        "lab.yaml: --set setup.timeout: 'soon' is no duration: write it as 90s, 15m, 4h, 2d or 1h30m",
        f"lab.yaml: --set colour: unknown key 'colour': known are {', '.join(sorted(Cluster.model_fields))}",
    ]


@pytest.mark.seed("S17")
@pytest.mark.parametrize("key", ["tags", "setup_cmds"])
def test_an_empty_list_of_tags_or_commands_is_none(key: str) -> None:
    """Flambé's default for these is None, which people write as nothing."""
    assert parse(text() + f"{key}:\n") == cluster()


@pytest.mark.seed("S07")
def test_provisioned_volumes_have_5000_iops_and_others_their_own() -> None:
    """As the source document says for io1."""
    assert {kind: cluster(volume_type=kind).iops for kind in ("gp2", "gp3", "io1", "io2")} == {
        "gp2": None,
        "gp3": None,
        "io1": 5000,
        "io2": 5000,
    }


@pytest.mark.seed("S14", "S15", "S32")
@pytest.mark.parametrize(
    ("orchestrator", "factories"), [(-1, -1), (-1, 0), (-1, 99), (0, 0), (1, 1), (2, 0.5), (0.5, 0.5), (1, 0)]
)
def test_factories_that_end_no_later_than_the_orchestrator_are_accepted(orchestrator: float, factories: float) -> None:
    """An orchestrator that never ends allows everything; else the factories' timeout is at most its own."""
    accepted = cluster(orchestrator_timeout=orchestrator, factories_timeout=factories)
    assert (accepted.orchestrator_timeout, accepted.factories_timeout) == (orchestrator, factories)


@pytest.mark.seed("S32")
@pytest.mark.parametrize(("orchestrator", "factories"), [(0, -1), (5, -1), (0, 1), (1, 1.5), (0.5, 0.6)])
def test_factories_that_would_outlive_the_orchestrator_are_refused(orchestrator: float, factories: float) -> None:
    """The message says both and what to change, at the factories' timeout."""
    [problem] = problems(text(orchestrator_timeout=orchestrator, factories_timeout=factories))
    assert problem.message.startswith("factories_timeout: factories may not outlive the orchestrator: theirs is")
    assert f"orchestrator_timeout is {orchestrator:g} h" in problem.message
    assert (problem.line, problem.column) == (11, 20)


@pytest.mark.seed("S32")
def test_factories_that_would_outlive_the_orchestrator_by_default_are_refused_at_its_timeout() -> None:
    """The factories' default is an hour; the place is that of the value that does not go with it."""
    [problem] = problems(text(orchestrator_timeout=0.5))
    assert (problem.line, problem.column, problem.field) == (10, 23, "factories_timeout")


@pytest.mark.seed("S14", "S15", "S36")
@pytest.mark.parametrize(
    ("hours", "minutes"),
    [(-1, None), (0, 5), (0.5, 30), (1, 60), (1.1, 66), (4.15, 249), (0.001, 1), (24, 1440), (0.35, 21)],
)
def test_a_timeout_is_rounded_up_to_minutes(hours: float, minutes: int | None) -> None:
    """-1 is never, 0 is five minutes, and no float adds a minute of its own."""
    wanted = cluster(orchestrator_timeout=-1, factories_timeout=hours)
    assert wanted.timeout_minutes(Role.FACTORY) == minutes
    assert wanted.timeout_minutes(Role.ORCHESTRATOR) is None


@pytest.mark.seed("S22")
def test_names_fit_what_a_tag_holds() -> None:
    """Instances are named as Flambé names them, counting from 0, and the longest fits a tag's 256 characters."""
    wanted = cluster(name="x" * 63)
    assert wanted.instance_name(Role.ORCHESTRATOR) == "x" * 63 + "_orchestrator"
    assert wanted.instance_name(Role.FACTORY, 0) == "x" * 63 + "_factory_0"
    assert len(wanted.instance_name(Role.FACTORY, 9_999)) <= 256
    with pytest.raises(ValueError, match="a factory's name needs its index"):
        wanted.instance_name(Role.FACTORY)


@pytest.mark.seed("S02", "S03", "S12")
def test_each_role_has_its_type_image_and_number() -> None:
    """There is one orchestrator."""
    wanted = cluster(orchestrator_ami="ami-1", factory_ami="ssm:/aws/service/x")
    assert [(wanted.type_of(role), wanted.ami_of(role), wanted.count_of(role)) for role in Role] == [
        ("t3.large", "ami-1", 1),
        ("g5.xlarge", "ssm:/aws/service/x", 4),
    ]
    assert wanted.identity == ("me", "c")


CHANGES: dict[str, Any] = {
    "factories_type": "g6.xlarge",
    "orchestrator_type": "m6i.large",
    "key_name": "other",
    "security_group": "sg-2",
    "subnet_id": "subnet-2",
    "volume_type": "gp3",
    "volume_size": 101,
    "volume_encrypted": False,
    "orchestrator_ami": "ami-2",
    "factory_ami": "ami-2",
    "dedicated": True,
    "iam_instance_profile": "p",
    "user_data": "#!/bin/sh\n",
}


@pytest.mark.parametrize(("field", "value"), CHANGES.items())
def test_a_change_that_needs_new_machines_is_seen(field: str, value: object) -> None:
    """The field that changed is the one that differs."""
    before, after = cluster().machine_fields(), cluster(**{field: value}).machine_fields()
    assert {name for name in before if before[name] != after[name]} == {field}


@pytest.mark.parametrize(
    "changes",
    [{"factories_num": 9}, {"tags": {"a": "b"}}, {"factories_timeout": 0}, {"setup_cmds": ["ls"]}, {"key": "/x"}],
)
def test_a_change_that_running_machines_can_take_needs_no_new_ones(changes: dict[str, object]) -> None:
    """Numbers, tags, timeouts and commands are no part of a machine."""
    assert cluster().machine_fields() == cluster(**changes).machine_fields()


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("name=other", "name", "other"),
        ("factories_num=7", "factories_num", 7),
        ("dedicated=true", "dedicated", True),
        ("factories_timeout=0.5", "factories_timeout", 0.5),
        ("region_name=", "region_name", None),
        ("key=~/.ssh/a: b #c", "key", "~/.ssh/a: b #c"),
        ("key==x", "key", "=x"),
        ('name="5"', "name", "5"),
        ("setup_cmds=[ls, 'a b']", "setup_cmds", ("ls", "a b")),
        ("tags.a.b=1.10", "tags", {"a.b": "1.10"}),
        ("tags={a: 1.10, b: 'x'}", "tags", {"a": "1.10", "b": "x"}),
    ],
)
def test_an_override_comes_over_the_file(override: str, field: str, value: object) -> None:
    """A value is a YAML scalar, whatever it holds, or a list in brackets."""
    assert getattr(parse(text(), overrides=[override]), field) == value


def test_overrides_reach_into_sections_and_keep_the_rest() -> None:
    """Dots separate keys; what is beside them stays, and the last one counts."""
    wanted = parse(
        text(launch={"deadline": "1m", "minimum": 2}, tags={"a": "1", "b": "2"}),
        overrides=["launch.deadline=5m", "tags.a=3", "tags.c=4", "tags.c=5", "setup.timeout=10s"],
    )
    assert (wanted.launch.deadline, wanted.launch.minimum, wanted.setup.timeout) == (300.0, 2, 10.0)
    assert wanted.tags == {"a": "3", "b": "2", "c": "5"}


def test_what_an_override_replaces_leaves_no_trace() -> None:
    """A mistake in an override is not told at the line of what it replaced."""
    [problem] = problems(text(launch={"deadline": "1m"}), "launch={deadline: soon}")
    assert (problem.line, problem.field) == (None, "launch.deadline")
    assert problem.message.startswith("--set launch: launch.deadline: 'soon' is no duration")


def test_an_override_can_mend_a_file() -> None:
    """What stood there does not matter any more."""
    assert parse(text(name="a/b", launch=5), overrides=["name=ab", "launch.minimum=2"]).name == "ab"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("x", "--set x: it has no value: write --set x=VALUE"),
        ("launch.deadline=15", "--set launch.deadline: 15 has no unit: write 15h, 15m or 15s"),
        ("=5", "--set =5: '=5' is no setting: write --set key=value"),
        ("launch.=5", "--set launch.: 'launch.=5' is no setting: write --set key=value"),
        ("factories_num=x", "--set factories_num: expected a whole number, found the text 'x'"),
        ("facories_num=1", "--set facories_num: unknown key 'facories_num': did you mean 'factories_num'?"),
        ("launch.minimum=9", "--set launch.minimum: 9 factories are more than the 4 asked for (factories_num)"),
        ("tags.Name=x", "--set tags.Name: the tag 'Name' is set from the field 'name'"),
        ("name.first=x", "--set name.first: name: expected text, found keys and values"),
        ("setup_cmds=[ls", "--set setup_cmds: the value opens a quote or a bracket and is no YAML"),
        ("key=\udcff", "--set key: the value is not UTF-8 text: write it anew"),
    ],
)
def test_a_wrong_override_is_told_as_one(override: str, message: str) -> None:
    """It has no line, and its message begins with the option."""
    [problem] = problems(text(), override)
    assert problem.message.startswith(message)
    assert (problem.line, problem.column) == (None, None)


def test_a_cluster_cannot_be_changed() -> None:
    """Decisions are made on values."""
    with pytest.raises(ValidationError, match="frozen"):
        cluster().name = "x"  # type: ignore[misc]  # that it may not is the test


@pytest.mark.parametrize("document", [text(), FLAMBE, (CONFIG / "clusters" / "research.yaml").read_text()])
def test_a_cluster_survives_the_journal(document: str) -> None:
    """What is written as JSON reads as the same cluster."""
    wanted = parse(document)
    assert Cluster.model_validate_json(wanted.model_dump_json()) == wanted
    assert parse(wanted.model_dump_json()) == wanted


def test_what_is_worth_saying_is_a_warning() -> None:
    """A GPU on the orchestrator and machines that never end are told, and are no mistakes."""
    wanted = cluster(orchestrator_type="p3.2xlarge", factories_timeout=-1, volume_encrypted=False)
    assert [warning.field for warning in desired.warnings(wanted)] == [
        "orchestrator_type",
        "orchestrator_timeout",
        "factories_timeout",
        "volume_encrypted",
    ]
    assert desired.warnings(cluster(orchestrator_timeout=2)) == ()


def test_no_message_is_as_long_as_what_it_is_about() -> None:
    """Keys and values of any length are quoted in part."""
    long = "x" * 1_000  # YAML's own limit for a key is 1,024
    found = problems(text(name=long, volume_type=long, tags={long: long}, launch={"minimum": long}) + f"{long}: 1\n")
    assert len(found) == 6
    assert max(len(problem.message) for problem in found) < 700


@pytest.mark.seed("S03")
def test_a_misspelt_key_is_one_mistake_and_not_also_a_missing_one() -> None:
    """The unknown key says which was meant; another that is missing is still told."""
    document = text().replace("factories_type:", "factory_type:").replace("subnet_id: ", "colour: ")
    assert [problem.message.partition(" (")[0] for problem in problems(document)] == [
        "'subnet_id' is missing: add it",
        "unknown key 'factory_type': did you mean 'factories_type'?",
        f"unknown key 'colour': known are {', '.join(sorted(Cluster.model_fields))}",
    ]


def test_a_thousand_unknown_keys_are_told_in_part() -> None:
    """A file of another kind gives a bounded answer, and gives it soon."""
    found = problems("".join(f"key{index}: 1\n" for index in range(1_000)))
    assert len(found) == 101
    assert found[-1].message == "and 908 more: begin with the first"


@pytest.mark.parametrize("file", sorted((CONFIG / "clusters").glob("*.yaml")), ids=lambda file: file.name)
def test_every_example_is_a_cluster_and_names_its_schema(file: Path) -> None:
    """An editor that opens an example can complete and check it."""
    assert parse(file.read_bytes(), source=file.name).name
    first = file.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../cluster.schema.json"
    assert (file.parent / first.partition("=")[2]).is_file()


def test_the_schema_file_is_current() -> None:
    """config/cluster.schema.json is what `flambed schema cluster` prints; write it anew after a change of the fields."""
    assert json.loads((CONFIG / "cluster.schema.json").read_text()) == desired.schema()


def test_the_schema_explains_every_field() -> None:
    """The descriptions are the documentation: each is a sentence."""
    schema = desired.schema()
    sections = [schema, *schema["$defs"].values()]
    fields = {name: field for section in sections for name, field in section["properties"].items()}
    assert set(Cluster.model_fields) <= set(fields)
    for name, field in fields.items():
        description = field.get("description", "") or schema["$defs"][name.title()]["description"]
        assert description[0].isupper(), name
        assert description.endswith("."), name
    assert schema["required"] == list(LEAST)
    assert schema["additionalProperties"] is False


@given(st.text() | st.binary())
@settings(deadline=None, max_examples=200)
def test_no_file_does_anything_but_be_a_cluster_or_be_refused(document: str | bytes) -> None:
    """Whatever the bytes, the only error is the one that carries problems."""
    with pytest.raises(ClusterConfigurationError):
        parse(document)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*Cluster.model_fields, "x"]), _ANY, max_size=6))
@settings(deadline=None, max_examples=300)
def test_no_values_do_anything_but_be_a_cluster_or_be_refused(values: dict[str, object]) -> None:
    """Whatever stands under the known keys is taken or refused with its place."""
    document = json.dumps({**LEAST, **values}, ensure_ascii=True)
    try:
        parse(document)
    except ClusterConfigurationError as error:
        found = error.problems
    else:
        return
    assert all(problem.line == 1 and problem.column is not None for problem in found)


@given(st.text())
@settings(deadline=None, max_examples=300)
def test_no_override_does_anything_but_count_or_be_refused(override: str) -> None:
    """Whatever a command line carries, nothing of it reaches beyond its key."""
    try:
        wanted = parse(text(), overrides=[f"name={override}"])
    except ClusterConfigurationError as error:
        found = error.problems
    else:
        assert wanted == cluster(name=wanted.name)
        return
    assert {problem.field for problem in found} == {"name"}
