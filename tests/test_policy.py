"""The shipped IAM policy and CloudFormation template, held against the program and against AWS's own models."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from cfnlint.api import lint_file

from flambed import aws
from flambed.desired import Role
from flambed.observed.facts import Image, LaunchSpec
from flambed.observed.inbox import PARSERS
from flambed.steps import protect
from flambed.steps.launch import run_instances_params
from flambed.tags import LAUNCH_TAG, tags_of
from tests.cfntemplate import TEMPLATE, template
from tests.clusterfiles import cluster
from tests.iam import ACCOUNT, POLICY, PROTOCOLS, Use, allows, arn, called, listed, methods, uses_of

ROOT = Path(__file__).parent.parent

IMPLIED: Final = {
    "cloudwatch:TagResource": "PutMetricAlarm with tags needs it, and `gc` knows our alarms by their tags",
    "iam:PassRole": "RunInstances with an instance profile hands its role to EC2",
    "iam:CreateServiceLinkedRole": "the first alarm of an account that acts on EC2 makes the role with which alarms act",
}
"""What no call asks for by name, and why it is allowed all the same."""


def calls() -> dict[str, set[str]]:
    """Service -> the methods of its client that the program's source names."""
    found: dict[str, set[str]] = {service: set() for service in PROTOCOLS}
    for file in (ROOT / "daemon" / "flambed").rglob("*.py"):
        if {"lab", "demo.py"} & set(file.relative_to(ROOT / "daemon" / "flambed").parts):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                for service in _clients(node.value):
                    found[service].add(node.attr)
    return found


def _clients(node: ast.expr) -> list[str]:
    """The service of which an expression is the client: `region.clients.ec2`, or a variable by that name."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    of_clients = isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _ends_in_clients(node.value))
    return [name] if name in PROTOCOLS and of_clients else []


def _ends_in_clients(node: ast.expr) -> bool:
    return (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")) == "clients"


def allowed() -> set[str]:
    """The actions that the policy names."""
    return {action for statement in POLICY["Statement"] for action in listed(statement["Action"])}


def test_the_clients_have_no_call_that_the_program_does_not_make_and_it_makes_no_other() -> None:
    """What is allowed goes by the Protocols in aws.py: they are neither longer nor shorter than what the source calls."""
    assert set(aws.Clients.__dataclass_fields__) == set(PROTOCOLS)
    assert calls() == {service: methods(protocol) for service, protocol in PROTOCOLS.items()}


def test_the_policy_allows_every_call_and_beyond_them_only_what_calls_imply() -> None:
    """Action by action; each that is no call's own has its reason in a literal list."""
    assert allowed() - called() == set(IMPLIED)
    assert called() <= allowed()


def test_the_policy_fits_into_a_role_and_names_no_action_twice_without_a_scope() -> None:
    """An inline policy of a role has 10,240 characters, white space not counted, a managed one 6,144."""
    assert len(json.dumps(POLICY, separators=(",", ":"))) <= 6_144
    sids = [statement["Sid"] for statement in POLICY["Statement"]]
    assert len(set(sids)) == len(sids)
    assert not [action for action in allowed() if "*" in action]


def test_only_looking_and_points_in_two_namespaces_are_allowed_on_everything() -> None:
    """Whatever changes something is held to our names, our tags or the bastion's own queue."""
    changing = {
        action
        for statement in POLICY["Statement"]
        if statement["Resource"] == "*" and "Condition" not in statement
        for action in listed(statement["Action"])
        if not action.partition(":")[2].startswith(("Describe", "Get"))
    }
    assert changing == set()
    assert allows(Use("cloudwatch:PutMetricData", context={"cloudwatch:namespace": [protect.OWN_NAMESPACE]}))
    assert allows(Use("cloudwatch:PutMetricData", context={"cloudwatch:namespace": [protect.AWS_NAMESPACE]}))
    assert not allows(Use("cloudwatch:PutMetricData", context={"cloudwatch:namespace": ["AWS/RDS"]}))


# --- its conditions ----------------------------------------------------------------------------------------------


def launch(**changes: object) -> dict[str, Any]:
    """A launch as the program makes it."""
    wanted = cluster(**changes)
    tags = tags_of(wanted, Role.FACTORY, "c_factory", cluster_id="c1", daemon="d1", owner=1000)
    image = Image(id="ami-1", root_device="/dev/sda1", min_gib=8)
    spec = LaunchSpec(role=Role.FACTORY, count=2, image=image, type="g5.xlarge", ebs_optimized=True)
    return run_instances_params(wanted, spec, "c1-token", tags, b"")


def test_a_launch_is_allowed_as_the_program_makes_it_and_in_no_other_way() -> None:
    """Without our tag, or with the old metadata service, EC2 refuses it."""
    made = launch(iam_instance_profile="flambed-host-gpu")
    assert [use for use in uses_of("ec2", "RunInstances", made) if not allows(use)] == []
    untagged = {**made, "TagSpecifications": []}
    assert not all(map(allows, uses_of("ec2", "RunInstances", untagged)))
    old = {**made, "MetadataOptions": {"HttpTokens": "optional"}}
    assert not all(map(allows, uses_of("ec2", "RunInstances", old)))


@pytest.mark.parametrize("action", ["TerminateInstances", "StartInstances", "MonitorInstances", "GetConsoleOutput"])
def test_what_carries_our_tag_can_be_ended_and_nothing_else(action: str) -> None:
    """Adopted machines carry Flambé's tag as well; a colleague's database does not."""
    machine = arn("ec2", "instance/i-0123456789abcdef0")
    assert allows(Use(f"ec2:{action}", machine, {"aws:ResourceTag/Purpose": ["flambe"]}))
    assert not allows(Use(f"ec2:{action}", machine, {"aws:ResourceTag/Purpose": ["database"]}))
    assert not allows(Use(f"ec2:{action}", machine))


def test_a_volume_can_be_deleted_only_if_a_launch_made_it_and_nobody_can_pretend_that_later() -> None:
    """The tag that proves it is given at the launch; by itself it can be taken off, and never put on."""
    volume = arn("ec2", "volume/vol-0123456789abcdef0")
    launched = {"aws:ResourceTag/Purpose": ["flambe"], f"aws:ResourceTag/{LAUNCH_TAG}": ["c1-token"]}
    assert allows(Use("ec2:DeleteVolume", volume, launched))
    assert not allows(Use("ec2:DeleteVolume", volume, {"aws:ResourceTag/Purpose": ["flambe"]}))
    assert not allows(Use("ec2:DeleteVolume", volume, {f"aws:ResourceTag/{LAUNCH_TAG}": ["c1-token"]}))

    def tagging(action: str, *keys: str) -> Use:
        return Use(f"ec2:{action}", volume, {"aws:TagKeys": keys, "aws:RequestTag/Purpose": ["flambe"]})

    assert allows(tagging("CreateTags", "Purpose", "Name"))
    assert not allows(tagging("CreateTags", "Purpose", LAUNCH_TAG))
    assert allows(tagging("DeleteTags", LAUNCH_TAG))
    assert not allows(tagging("DeleteTags", "Purpose"))
    assert not allows(tagging("DeleteTags", LAUNCH_TAG, "Purpose"))


def test_a_foreign_instance_cannot_be_made_ours_by_a_tag() -> None:
    """Else the tag that guards its end would guard nothing."""
    machine = arn("ec2", "instance/i-0123456789abcdef0")
    ours = {"aws:RequestTag/Purpose": ["flambe"], "aws:TagKeys": ["Purpose"]}
    assert not allows(Use("ec2:CreateTags", machine, ours))
    assert allows(Use("ec2:CreateTags", machine, {**ours, "aws:ResourceTag/Purpose": ["flambe"]}))


def test_other_alarms_queues_parameters_and_roles_are_out_of_reach() -> None:
    """Each is held to the names that the program uses."""
    mine = protect.alarm_name("i-0123456789abcdef0")
    for action in ("PutMetricAlarm", "DeleteAlarms", "TagResource", "ListTagsForResource"):
        assert allows(Use(f"cloudwatch:{action}", arn("cloudwatch", f"alarm:{mine}")))
        assert not allows(Use(f"cloudwatch:{action}", arn("cloudwatch", "alarm:production-down")))
    assert not allows(Use("sqs:ReceiveMessage", arn("sqs", "orders")))
    assert not allows(Use("ssm:GetParameters", arn("ssm", "parameter/database/password")))
    role, to_ec2 = f"arn:aws:iam::{ACCOUNT}:role/", {"iam:PassedToService": ["ec2.amazonaws.com"]}
    assert not allows(Use("iam:PassRole", f"{role}admin", to_ec2))
    assert not allows(Use("iam:PassRole", f"{role}flambed-host-gpu", {"iam:PassedToService": ["lambda.amazonaws.com"]}))


# --- the template ------------------------------------------------------------------------------------------------


def rendered(value: Any) -> Any:
    """A part of the template as the policy's JSON has it: everybody's account and partition."""
    if isinstance(value, dict) and set(value) == {"Sub"}:
        text: str = value["Sub"]
        standing_for = {"AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com", "AWS::AccountId": "*"}
        standing_for["HostRoles"] = template()["Parameters"]["HostRoles"]["Default"]
        for name, stands in standing_for.items():
            text = text.replace(f"${{{name}}}", stands)
        return text
    if isinstance(value, Mapping):
        return {key: rendered(inner) for key, inner in value.items()}
    return [rendered(one) for one in value] if isinstance(value, list) else value


def test_the_linter_finds_nothing_to_say_about_the_template() -> None:
    """cfn-lint knows every resource's properties, and every action that there is."""
    found = lint_file(TEMPLATE)
    assert [f"{match.rule.id} line {match.linenumber}: {match.message[:200]}" for match in found] == []


def test_the_role_of_the_template_has_exactly_the_policy_of_the_file() -> None:
    """Two texts of one policy, and neither may run away from the other."""
    [inline] = template()["Resources"]["BastionRole"]["Properties"]["Policies"]
    assert rendered(inline["PolicyDocument"]) == POLICY


def test_the_rules_send_exactly_the_events_that_the_inbox_reads() -> None:
    """To the queue that the policy lets the bastion read; and the queue takes events of these rules alone."""
    resources = template()["Resources"]
    rules = {name: one["Properties"] for name, one in resources.items() if one["Type"] == "AWS::Events::Rule"}
    patterns = [rule["EventPattern"] for rule in rules.values()]
    sent = {(source, kind) for pattern in patterns for source in pattern["source"] for kind in pattern["detail-type"]}
    assert sent == set(PARSERS)
    for rule in rules.values():
        [target] = rule["Targets"]
        assert target["Arn"] == {"GetAtt": "Queue.Arn"}
        assert target["DeadLetterConfig"]["Arn"] == {"GetAtt": "DeadLetters.Arn"}
    [statement] = resources["QueuePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    senders = statement["Condition"]["ArnEquals"]["aws:SourceArn"]
    assert senders == [{"GetAtt": f"{name}.Arn"} for name in rules]
    [hearing] = [one for one in POLICY["Statement"] if one["Sid"] == "HearOfChanges"]
    assert hearing["Resource"].rpartition(":")[2] == resources["Queue"]["Properties"]["QueueName"]
