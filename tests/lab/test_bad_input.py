"""What is wrong is told with file, line and column, all of it at once, with exit code 2, and nothing is launched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.labproc import LabProcess
from tests.lab.serviceproc import Service, start_service

GOOD = """\
!AWSCluster
name: c
creator: you@example.com
factories_num: 2
factories_type: g4dn.xlarge
orchestrator_type: t3.large
key_name: {key_name}
key: {key}
security_group: {security_group}
subnet_id: {subnet_id}
"""


@pytest.fixture(scope="module")
def service(_session_lab: LabProcess) -> Iterator[Service]:
    """One service for all of these: none may launch anything, which is seen at the end."""
    begun = len(_session_lab.calls())
    with start_service(_session_lab) as service:
        yield service
        assert service.ctl("list", "--json").document == []
    assert _session_lab.calls(begun, action="RunInstances") == []


def good(service: Service) -> str:
    """A file that could be brought up."""
    return GOOD.format(**service.lab.info)


def written(service: Service, content: str | bytes) -> str:
    """The path of a file with this content."""
    path = service.folder / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path.name


def proving(row: str, *values: str) -> pytest.ParameterSet:
    """A case that proves a row of docs/parity.md."""
    return pytest.param(*values, marks=pytest.mark.seed(row))


@pytest.mark.parametrize(
    ("lines", "place", "message"),
    [
        proving("S38", "factory_num: 3", "11:1", "factories_num"),
        proving("S08", "volume_size: plenty", "11:14", "volume_size"),
        proving("S32", "orchestrator_timeout: 1\nfactories_timeout: 5", "12:20", "outlive the orchestrator"),
        proving("S32", "orchestrator_timeout: 1\nfactories_timeout: -1", "12:20", "outlive the orchestrator"),
        proving("S11", "tags:\n  Creator: me", "12:3", "Creator"),
        proving("S11", "tags:\n  NAME: me", "12:3", "NAME"),
        ("tags:\n  aws:x: me", "12:3", "aws:"),
        (f"tags:\n  x: {'y' * 300}", "12:6", "256"),
        proving("S07", "volume_type: io1\nvolume_size: 50", "12:14", "100"),
        proving("S08", "volume_size: 20000", "11:14", "16384"),
        proving("S07", "volume_type: floppy", "11:14", "gp3"),
        proving("S16", "setup_cmds: [7]", "11:14", "setup_cmds"),
        proving("S09", "region_name: nowhere", "11:14", "region"),
        ("name: d", "11:1", "name"),
    ],
)
def test_a_mistake_has_its_place_and_its_advice(service: Service, lines: str, place: str, message: str) -> None:
    """A line is wrong, and the message says where, what and how else."""
    ended = service.ctl("up", written(service, f"{good(service)}{lines}\n"))
    assert ended.code == 2, ended
    assert f"bad.yaml:{place}: " in ended.stderr, ended.stderr
    assert message in ended.stderr


def test_whichever_command_reads_a_file_says_the_same_of_it(service: Service) -> None:
    """`validate` needs no service for it, `plan` and `up` ask nobody either."""
    file = written(service, f"{good(service)}volume_size: plenty\nvolume_type: floppy\n")
    said = {service.ctl(*words) for words in (["validate", file], ["plan", file], ["up", file], ["up", file, "--plan"])}
    assert len(said) == 1
    [ended] = said
    assert (ended.code, ended.stdout) == (2, "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("name: [c\n", "bad.yaml:2:1"),
        ("- a\n- list\n", "bad.yaml:1:1"),
        ("!Cluster\nname: c\n", "!AWSCluster"),
        (b"\xff\xfe\x00", "UTF-8"),
        ("x: " + "y" * 10_000_000, "may have 1,048,576"),
        ("a: &a [x]\n" + "b: [" + "*a, " * 10 + "]\n", "bad.yaml:2"),
    ],
    ids=["empty", "broken", "a list", "another tag", "no text", "10 MB", "aliases"],
)
def test_a_file_that_is_no_cluster_is_told_quickly(service: Service, content: str | bytes, message: str) -> None:
    """Whatever is in it, the answer is a sentence."""
    ended = service.ctl("up", written(service, content), within=10.0)
    assert ended.code == 2, ended
    assert message in ended.stderr
    assert len(ended.stderr) < 2_000


def test_several_mistakes_are_told_at_once_in_the_order_of_the_file(service: Service) -> None:
    """Nobody mends one to be told of the next."""
    bad = good(service).replace("factories_num: 2", "factories_num: many").replace("key_name", "keyname")
    ended = service.ctl("up", written(service, f"{bad}volume_size: 3.5\n"))
    assert ended.code == 2, ended
    places = [line.split(": ")[0] for line in ended.stderr.splitlines() if line.startswith("bad.yaml")]
    assert places == ["bad.yaml:4:16", "bad.yaml:7:1", "bad.yaml:11:14"], ended.stderr


def test_a_file_that_does_not_exist_and_a_folder_are_told(service: Service) -> None:
    """With what to do, and exit code 2."""
    for path, message in (("nothing.yaml", "check the path"), (".", "name the cluster file in it")):
        ended = service.ctl("up", path)
        assert ended.code == 2, ended
        assert f"{path}: " in ended.stderr
        assert message in ended.stderr


@pytest.mark.seed("S04")
@pytest.mark.parametrize("mode", [None, 0o640, 0o604], ids=["missing", "group", "others"])
def test_a_key_that_will_not_do_is_an_error_in_up_and_a_warning_in_validate(service: Service, mode: int | None) -> None:
    """It is a mistake where it is needed, with the place of the line that names it."""
    key = service.folder / "a-key"
    key.unlink(missing_ok=True)
    if mode is not None:
        key.write_bytes(Path(service.lab.info["key"]).read_bytes())
        key.chmod(mode)
    file = written(service, good(service).replace(service.lab.info["key"], str(key)))
    refused = service.ctl("up", file)
    assert refused.code == 2, refused
    assert "bad.yaml:8:6: key: " in refused.stderr
    assert (f"chmod 600 {key}" if mode else "put the private key") in refused.stderr
    warned = service.ctl("validate", file)
    assert warned.code == 0, warned
    assert "bad.yaml:8:6: warning: key: " in warned.stderr


def test_bad_overrides_are_told_by_their_option(service: Service) -> None:
    """--set is read like the file, and named where it is wrong."""
    ended = service.ctl("up", written(service, good(service)), "--set", "factories_num=-1", "--set", "colour=red")
    assert ended.code == 2, ended
    assert "--set factories_num" in ended.stderr
    assert "--set colour" in ended.stderr


def test_the_service_refuses_by_itself_what_a_client_did_not_check(service: Service) -> None:
    """With curl there is no flambectl in between: 400 with line and column, 413 for too much, 400 without a key."""
    bad = service.api("PUT", "/v1/clusters/c", f"{good(service)}volume_size: plenty\n", key=True)
    assert bad.status == 400, bad
    [problem] = bad.document["error"]["detail"]
    assert (problem["line"], problem["column"], problem["field"]) == (11, 14, "volume_size")
    assert service.api("PUT", "/v1/clusters/c", "x" * 1_100_000, key=True).status == 413
    assert service.api("PUT", "/v1/clusters/c", good(service)).status == 400
    assert service.api("PUT", "/v1/clusters/other", good(service), key=True).status == 400
    assert service.api("GET", "/v1/nothing").status == 404
