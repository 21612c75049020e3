"""DescribeInstances of the lab: paging counts instances, filters are EC2's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.labproc import LabProcess, refused


def _found(answer: dict[str, Any]) -> list[str]:
    return [i["InstanceId"] for r in answer["Reservations"] for i in r["Instances"]]


def _filter(name: str, *values: str) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": list(values)}]


def test_pages_count_instances(lab: LabProcess) -> None:
    """One reservation of 12 is three pages of five, and together all of them once."""
    ids = lab.launch(MaxCount=12, ClientToken="twelve")
    pages = (
        lab.boto("ec2")
        .get_paginator("describe_instances")
        .paginate(Filters=_filter("client-token", "twelve"), PaginationConfig={"PageSize": 5})
    )
    found = [_found(page) for page in pages]
    assert [len(page) for page in found] == [5, 5, 2]
    assert [i for page in found for i in page] == ids


@pytest.mark.parametrize("size", [4, 1001])
def test_pages_have_five_to_a_thousand_instances(lab: LabProcess, size: int) -> None:
    """MaxResults outside that is refused."""
    with refused("InvalidParameterValue"):
        lab.boto("ec2").describe_instances(MaxResults=size)


def test_ids_and_pages_exclude_each_other(lab: LabProcess) -> None:
    """MaxResults together with instance ids is refused."""
    ids = lab.launch()
    with refused("InvalidParameterCombination"):
        lab.boto("ec2").describe_instances(InstanceIds=ids, MaxResults=5)


def test_at_most_200_filter_values(lab: LabProcess) -> None:
    """200 are answered, 201 are refused."""
    ec2 = lab.boto("ec2")
    values = [f"i-{n:017x}" for n in range(201)]
    assert _found(ec2.describe_instances(Filters=_filter("instance-id", *values[:200]))) == []
    with refused("FilterLimitExceeded"):
        ec2.describe_instances(Filters=_filter("instance-id", *values))


def test_an_unknown_filter_and_a_foreign_token_are_refused(lab: LabProcess) -> None:
    """Neither is taken for "everything"."""
    ec2 = lab.boto("ec2")
    with refused("InvalidParameterValue"):
        ec2.describe_instances(Filters=_filter("colour", "red"))
    with refused("InvalidNextToken"):
        ec2.describe_instances(MaxResults=5, NextToken="i-0123456789abcdef0")


def test_unknown_ids_are_named(lab: LabProcess) -> None:
    """One unknown id fails the call, and the message says which."""
    [known] = lab.launch()
    with refused("InvalidInstanceID.NotFound"):
        lab.boto("ec2").describe_instances(InstanceIds=[known, "i-0123456789abcdef0"])


@pytest.mark.parametrize(
    ("name", "value", "matches"),
    [
        ("tag:Role", "Orchestrator", ["o"]),
        ("tag:Role", "?rch*", ["o"]),
        ("tag:Role", "orchestrator", []),
        ("tag-key", "Role", ["f", "o"]),
        ("instance-type", "t3.small", ["o"]),
        ("instance-state-name", "stopped", []),
        ("availability-zone", "us-east-1a", ["f", "o"]),
        ("tag:Role", "F*\\*", []),
    ],
)
def test_filters_match_whole_values_with_wildcards(lab: LabProcess, name: str, value: str, matches: list[str]) -> None:
    """* and ? are wildcards, a backslash takes that away, case matters."""
    [factory] = lab.launch()
    [orchestrator] = lab.launch(role="Orchestrator", InstanceType="t3.small")
    alive = _filter("instance-state-name", "pending", "running")
    found = _found(lab.boto("ec2").describe_instances(Filters=_filter(name, value) + alive))
    assert sorted({factory: "f", orchestrator: "o"}[i] for i in found) == matches
    lab.boto("ec2").terminate_instances(InstanceIds=[factory, orchestrator])
    lab.until_state([factory, orchestrator], "terminated")
