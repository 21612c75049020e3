"""Each field of a cluster file takes what it may hold and refuses the rest in words."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from flambed import desired
from flambed.desired import Cluster, parse
from flambed.errors import Problem
from tests.clusterfiles import LEAST, cluster, problems, text, told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name: the name is '': it must begin with a letter or a digit"),
        ({"name": "-x"}, "name: the name is '-x': it must begin with a letter or a digit"),
        ({"name": "a b"}, "name: the name holds ' ': use letters, digits, '-', '_' and '.'"),
        ({"name": "é"}, "name: the name holds 'é': use letters, digits, '-', '_' and '.'"),
        ({"name": "x" * 64}, "name: the name has 64 characters and may have 63"),
        ({"name": 7}, "name: expected text, found 7; put it in quotes"),
        ({"name": True}, "name: expected text, found true; put it in quotes"),
        ({"name": None}, "name: expected text, found nothing"),
        ({"creator": ""}, "creator: the creator must be named, without blanks around it"),
        ({"creator": "a/b"}, "creator: the creator holds '/', which separates creator and name"),
        ({"creator": "a\u0007"}, "creator: the creator holds '\\x07', which a tag cannot carry"),
        ({"creator": "a*"}, "creator: the creator holds '*', which a tag cannot carry"),
        ({"creator": "x" * 257}, "creator: the creator has 257 characters and may have 256"),
        ({"region_name": "Europe"}, "region_name: 'Europe' is not an AWS region, such as us-east-1"),
        ({"factories_num": 2.5}, "factories_num: expected a whole number, found 2.5"),
        ({"factories_num": "two"}, "factories_num: expected a whole number, found the text 'two'"),
        ({"factories_num": True}, "factories_num: expected a whole number, found true"),
        ({"factories_num": 10_001}, "factories_num: 10001 is out of range: it must be between 1 and 10000"),
        ({"key": ""}, "key: '' is no path: name the private key of the key pair"),
        ({"subnet_id": "sg-1"}, "subnet_id: 'sg-1' is not the id of a subnet"),
        ({"username": "-oProxyCommand=x"}, "username: '-oProxyCommand=x' is not a user to log in as"),
        ({"volume_type": "gp4"}, "volume_type: the text 'gp4' is none of them: did you mean 'gp3'?"),
        ({"volume_type": "standard"}, "volume_type: the text 'standard' is none of them: known are gp2, gp3, io1, io2"),
        ({"volume_size": "100GB"}, "volume_size: expected a whole number, found the text '100GB'"),
        (
            {"orchestrator_ami": "ubuntu"},
            "orchestrator_ami: 'ubuntu' is not an image: write its id (ami-...) or a public",
        ),
        ({"factory_ami": "ssm:/mine"}, "factory_ami: 'ssm:/mine' is not an image"),
        ({"setup_cmds": "ls"}, "setup_cmds: expected a list, found the text 'ls'"),
        ({"setup_cmds": [["ls"]]}, "setup_cmds, command 1: expected text, found a list"),
        (
            {"setup_cmds": ["ls", {'echo "a': 'b"'}]},
            "setup_cmds, command 2: YAML reads keys and values here, because of a colon: put the whole command in quotes",
        ),
        (
            {"iam_instance_profile": "a b"},
            "iam_instance_profile: 'a b' is not an instance profile: write its name, or its ARN",
        ),
        ({"user_data": "echo"}, "user_data: cloud-init would ignore what begins with 'echo'"),
        ({"user_data": "#!/bin/sh\n" + "x" * 20_000}, "user_data: the user data has 20010 bytes"),
        ({"launch": 5}, "launch: expected keys and values, found 5"),
        ({"launch": {"deadline": -1}}, "launch.deadline: -1 is not between 0 seconds and 366 days"),
        ({"launch": {"deadline": 15}}, "launch.deadline: 15 has no unit: write 15h, 15m or 15s"),
        ({"launch": {"deadline": 0}}, "launch.deadline: 0 is out of range: input should be greater than 0"),
        ({"launch": {"minimum": 0}}, "launch.minimum: 0 is not between 1 and 10000"),
        ({"launch": {"minimum": 5}}, "launch.minimum: 5 factories are more than the 4 asked for (factories_num)"),
        ({"launch": {"minimum": 1.0}}, "launch.minimum: 1.0 could mean one factory or all of them: write 1 or 100%"),
        ({"launch": {"minimum": 1.5}}, "launch.minimum: 1.5 is no share of the factories"),
        ({"launch": {"minimum": "101%"}}, "launch.minimum: '101%' is no share of the factories"),
        ({"launch": {"minimum": "most"}}, "launch.minimum: 'most' is no number of factories"),
        ({"launch": {"minimum": True}}, "launch.minimum: True is no number of factories"),
    ],
)
def test_each_wrong_value_is_told_with_what_is_expected(changes: dict[str, object], message: str) -> None:
    """The message names the field, what was found, and what to write."""
    assert told(**changes).startswith(message)


def test_a_least_number_beyond_all_factories_is_told_at_the_number() -> None:
    """Not at the section that holds it."""
    [problem] = problems(text(launch={"deadline": "1m", "minimum": 5}))
    assert (problem.line, problem.column, problem.field) == (10, 39, "launch.minimum")


@pytest.mark.seed("S16")
def test_a_command_that_no_shell_can_take_is_refused() -> None:
    """A NUL ends an argument of a program, so a command with one would run half."""
    with pytest.raises(ValidationError, match="holds a NUL character"):
        Cluster.model_validate({**LEAST, "setup_cmds": ["a\0b"]})
    assert problems(text() + 'setup_cmds: ["a\\0b"]\n')[0].line == 10


@pytest.mark.seed("S11")
@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("creator", "the tag 'creator' is set from the field 'creator': leave it out of tags"),
        ("Name", "the tag 'Name' is set from the field 'name': leave it out of tags"),
        ("nAmE", "the tag 'nAmE' is set from the field 'name': leave it out of tags"),
        ("Purpose", "the tag 'Purpose' is how flambed finds its instances: choose another key"),
        ("Cluster-Name", "the tag 'Cluster-Name' is how flambed finds its instances: choose another key"),
        ("Role", "the tag 'Role' is how flambed finds its instances: choose another key"),
        ("AWS:x", "the tag 'AWS:x' begins with 'aws:', which is reserved: choose another key"),
        ("flambed:owner", "the tag 'flambed:owner' is how flambed finds its instances: choose another key"),
        ("flambed:x", "the tag 'flambed:x' begins with 'flambed:', which is reserved: choose another key"),
        ("", "a tag needs a key"),
        ("a?", "the key 'a?' holds '?', which a tag cannot carry: use letters, digits, spaces and any of +-=._:/@"),
        ("x" * 129, f"the key '{'x' * 56}... has 129 characters and may have 128"),
    ],
)
def test_a_tag_key_that_is_taken_or_cannot_be_is_refused_at_the_key(key: str, message: str) -> None:
    """The place is that of the key, in its own line."""
    [problem] = problems(text() + f"tags:\n  fine: x\n  {json.dumps(key)}: x\n")
    assert problem == Problem(f"tags.{key}: {message}", 12, 3, f"tags.{key}")


@pytest.mark.seed("S11")
@pytest.mark.parametrize("key", ["purpose", "role", "names", "x" * 128, "a b", "größe", "a.b/c@d:e+f=g_h-i"])
def test_other_tags_are_the_users_own(key: str) -> None:
    """Only what flambed needs is reserved; the case of a tag counts."""
    assert cluster(tags={key: "x" * 256}).user_tags == {key: "x" * 256}


@pytest.mark.seed("S11")
def test_a_tag_value_is_text_as_it_is_written() -> None:
    """Numbers and booleans need no quotes and lose nothing; other things are refused."""
    document = text() + "tags: {a: 1.10, b: 007, c: TRUE, d: 1e3, e: yes, f: '5', g: ''}\n"
    assert parse(document).tags == {"a": "1.10", "b": "007", "c": "TRUE", "d": "1e3", "e": "yes", "f": "5", "g": ""}
    assert Cluster.model_validate({**LEAST, "tags": {"a": 1, "b": 1.5, "c": False}}).tags == {
        "a": "1",
        "b": "1.5",
        "c": "false",
    }
    assert told(tags={"a": None}) == "tags.a: expected text, found nothing"
    assert told(tags={"a": "x" * 257}).endswith("has 257 characters and may have 256")
    assert told(tags=["a"]) == "tags: expected keys and values, found a list"


@pytest.mark.seed("S11", "S23")
def test_users_tags_leave_room_for_flambeds_own() -> None:
    """AWS takes 50 tags on an instance."""
    most = 50 - len(desired.OUR_TAGS)
    assert len(cluster(tags={f"t{index}": "x" for index in range(most)}).tags) == most
    assert told(tags={f"t{index}": "x" for index in range(most + 1)}) == (
        f"tags: there are {most + 1} tags and may be {most}: AWS takes 50, the rest are flambed's"
    )


@pytest.mark.seed("S07", "S08")
@pytest.mark.parametrize(
    ("kind", "least", "most"), [("gp2", 1, 16_384), ("gp3", 1, 65_536), ("io1", 100, 16_384), ("io2", 10, 65_536)]
)
def test_volumes_keep_to_the_limits_of_their_type(kind: str, least: int, most: int) -> None:
    """The least of io1 and io2 is what 5000 IOPS need: 50 and 500 IOPS a GiB."""
    assert cluster(volume_type=kind, volume_size=least).volume_size == least
    assert cluster(volume_type=kind, volume_size=most).volume_size == most
    assert told(volume_type=kind, volume_size=least - 1).startswith(f"volume_size: {least - 1} GiB are")
    assert told(volume_type=kind, volume_size=most + 1).startswith(f"volume_size: {most + 1} GiB are out of range")


@pytest.mark.seed("S08")
@pytest.mark.parametrize("written", ["120", "120.", "120.0", "1.2e2"])
def test_a_volume_size_may_be_written_as_flambe_writes_it(written: str) -> None:
    """Flambé's own files say `100.`; it is a whole number all the same."""
    size = parse(text() + f"volume_size: {written}\n").volume_size
    assert (size, type(size)) == (120, int)


@pytest.mark.seed("S14", "S15")
@pytest.mark.parametrize("field", ["orchestrator_timeout", "factories_timeout"])
@pytest.mark.parametrize(
    ("hours", "message"),
    [
        ("-2", "-2 is no timeout: write hours (0.5 is half an hour), 0 for at once, or -1 for never"),
        ("-0.5", "-0.5 is no timeout"),
        (".nan", "nan is no timeout"),
        (".inf", "inf is no timeout"),
        ("true", "expected a number, found true"),
        ("1h", "'1h' has a unit, and this is a number of hours: write 1"),
        ("90m", "'90m' has a unit, and this is a number of hours: write 1.5"),
        ("'1'", "expected a number, found the text '1'"),
        ("soon", "expected a number, found the text 'soon'"),
        ("9000", "9000 hours are more than a year: write -1 for never"),
    ],
)
def test_a_timeout_is_hours_or_zero_or_minus_one(field: str, hours: str, message: str) -> None:
    """Anything else is refused with the three that are."""
    [problem] = problems(text() + f"{field}: {hours}\n")
    assert problem.message.startswith(f"{field}: {message}")


@pytest.mark.parametrize(
    ("written", "kept", "count"),
    [
        (1, 1, 1),
        (4, 4, 4),
        ("80%", "80%", 4),
        (0.8, "80%", 4),
        ("100%", "100%", 4),
        ("0.1%", "0.1%", 1),
        (0.5, "50%", 2),
    ],
)
def test_a_least_number_of_factories_is_a_count_or_a_share(written: object, kept: object, count: int) -> None:
    """A share is rounded up to instances, and is never none."""
    wanted = cluster(launch={"minimum": written})
    assert (wanted.launch.minimum, wanted.minimum_factories) == (kept, count)
