"""What IAM decides: a policy and one use of one permission in, yes or no out; and which uses a call of AWS makes.

It knows as much of IAM as config/iam-policy.json needs: statements that allow, wildcards, and four operators.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import botocore.session
from botocore import xform_name

from flambed import aws
from flambed.desired import PURPOSE
from flambed.tags import LAUNCH_TAG

POLICY: Final[Mapping[str, Any]] = json.loads((Path(__file__).parent.parent / "config" / "iam-policy.json").read_text())

PROTOCOLS: Final = {
    "ec2": aws.Ec2,
    "cloudwatch": aws.CloudWatch,
    "sqs": aws.Sqs,
    "ssm": aws.Ssm,
    "sts": aws.Sts,
    "servicequotas": aws.ServiceQuotas,
}
"""Every client that the service has (`aws.Clients`), under the prefix of its permissions."""

Context = Mapping[str, Sequence[str]]

ACCOUNT: Final = "123456789012"
QUEUE: Final = "flambed"
"""The queue of config/flambed.cloudformation.yaml, which the policy names."""


@dataclass(frozen=True)
class Use:
    """One use of a permission: an action on a resource, with what IAM knows of the request."""

    action: str
    resource: str = "*"
    context: Context = field(default_factory=dict)


def listed(value: str | Sequence[str]) -> Sequence[str]:
    """A policy's element, which may be written without its list."""
    return [value] if isinstance(value, str) else value


def allows(use: Use, policy: Mapping[str, Any] = POLICY) -> bool:
    """Whether one of the policy's statements allows this."""
    return any(
        statement["Effect"] == "Allow"
        and use.action in listed(statement["Action"])
        and any(fnmatch.fnmatchcase(use.resource, pattern) for pattern in listed(statement["Resource"]))
        and all(
            _holds(operator, use.context.get(key), listed(values))
            for operator, conditions in statement.get("Condition", {}).items()
            for key, values in conditions.items()
        )
        for statement in policy["Statement"]
    )


def _holds(operator: str, given: Sequence[str] | None, wanted: Sequence[str]) -> bool:
    match operator:
        case "StringEquals":
            return given is not None and any(one in wanted for one in given)
        case "ForAllValues:StringEquals":
            return all(one in wanted for one in given or ())
        case "ForAllValues:StringNotEquals":
            return all(one not in wanted for one in given or ())
        case "Null":
            return ("true" if given is None else "false") in wanted
        case _:
            raise NotImplementedError(operator)


def methods(protocol: type) -> set[str]:
    """The calls of a Protocol."""
    return {name for name in vars(protocol) if not name.startswith("_")}


def called() -> set[str]:
    """The permissions by the names of the calls that the program makes."""
    session = botocore.session.Session()
    found = set()
    for service, protocol in PROTOCOLS.items():
        model = session.get_service_model({"servicequotas": "service-quotas"}.get(service, service))
        operations = {xform_name(name): name for name in model.operation_names}
        found |= {f"{service}:{operations[name].removesuffix('Batch')}" for name in methods(protocol)}
    return found


# --- what a call needs -------------------------------------------------------------------------------------------


def uses_of(service: str, operation: str, params: Mapping[str, Any]) -> Iterator[Use]:
    """The permissions that a call uses, with AWS's names for the service, the operation and its parameters.

    Of an instance or a volume that exists the tag `Purpose` is taken for given, and of a volume that is deleted the proof
    of its launch: the survey shows no others (tests/test_survey.py), and `cleanup` looks before (tests/test_retire.py).
    """
    # A batch needs the permission for one.
    action = f"{service}:{operation.removesuffix('Batch')}"
    match service:
        case "ec2":
            yield from _ec2(action, params)
        case "cloudwatch":
            yield from _cloudwatch(action, params)
        case "sqs":
            yield Use(action, arn("sqs", QUEUE))
        case "ssm":
            for name in params["Names"]:
                yield Use(action, f"arn:aws:ssm:us-east-1::parameter{name}")
        case _:
            yield Use(action)


def _ec2(action: str, params: Mapping[str, Any]) -> Iterator[Use]:
    ours = {"aws:ResourceTag/Purpose": [PURPOSE]}
    match action:
        case "ec2:RunInstances":
            yield from _launch(params)
        case "ec2:CreateTags" | "ec2:DeleteTags":
            tags = _tags(params)
            context = {**ours, "aws:TagKeys": list(tags), **_requested(tags)}
            for resource in _ids(params, "Resources", "ResourceId"):
                kind = "volume" if resource.startswith("vol-") else "instance"
                yield Use(action, arn("ec2", f"{kind}/{resource}"), context)
        case "ec2:TerminateInstances" | "ec2:StartInstances" | "ec2:MonitorInstances" | "ec2:GetConsoleOutput":
            for instance in _ids(params, "InstanceIds", "InstanceId"):
                yield Use(action, arn("ec2", f"instance/{instance}"), ours)
        case "ec2:DeleteVolume":
            context = {**ours, f"aws:ResourceTag/{LAUNCH_TAG}": ["token"]}
            yield Use(action, arn("ec2", f"volume/{params['VolumeId']}"), context)
        case _:
            yield Use(action)


def _cloudwatch(action: str, params: Mapping[str, Any]) -> Iterator[Use]:
    match action:
        case "cloudwatch:PutMetricAlarm" | "cloudwatch:DeleteAlarms":
            for name in _ids(params, "AlarmNames", "AlarmName"):
                yield Use(action, arn("cloudwatch", f"alarm:{name}"))
                if params.get("Tags"):
                    yield Use("cloudwatch:TagResource", arn("cloudwatch", f"alarm:{name}"))
        case "cloudwatch:ListTagsForResource":
            yield Use(action, params["ResourceARN"])
        case "cloudwatch:PutMetricData":
            yield Use(action, context={"cloudwatch:namespace": [params["Namespace"]]})
        case _:
            yield Use(action)


def arn(service: str, what: str) -> str:
    """The ARN of something of the account's."""
    return f"arn:aws:{service}:us-east-1:{ACCOUNT}:{what}"


def _launch(params: Mapping[str, Any]) -> Iterator[Use]:
    tagged = {
        one["ResourceType"]: _tags(one) for one in params.get("TagSpecifications", params.get("TagSpecification", ()))
    }
    tokens = params.get("MetadataOptions", {}).get("HttpTokens")
    for kind in ("instance", "volume", "network-interface"):
        tags = tagged.get(kind, {})
        context = {
            **_requested(tags),
            "aws:TagKeys": list(tags),
            **({"ec2:MetadataHttpTokens": [tokens]} if tokens else {}),
        }
        yield Use("ec2:RunInstances", arn("ec2", f"{kind}/*"), context)
        if tags:
            yield Use("ec2:CreateTags", arn("ec2", f"{kind}/*"), {**context, "ec2:CreateAction": ["RunInstances"]})
    for kind in ("key-pair", "security-group", "subnet"):
        yield Use("ec2:RunInstances", arn("ec2", f"{kind}/x"))
    for kind in ("image", "snapshot"):
        yield Use("ec2:RunInstances", f"arn:aws:ec2:us-east-1::{kind}/x")
    if params.get("IamInstanceProfile"):
        context = {"iam:PassedToService": ["ec2.amazonaws.com"]}
        yield Use("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/flambed-host-gpu", context)


def _requested(tags: Mapping[str, str]) -> dict[str, list[str]]:
    return {f"aws:RequestTag/{key}": [value] for key, value in tags.items()}


def _tags(params: Mapping[str, Any]) -> dict[str, str]:
    # The SDK's name of a list is not always the one on the wire, and the lab's ledger has the latter.
    found = params.get("Tags", params.get("Tag", ()))
    return {tag["Key"]: tag.get("Value", "") for tag in found}


def _ids(params: Mapping[str, Any], *names: str) -> Sequence[str]:
    return listed(next(params[name] for name in names if name in params))


def refused(calls: Iterable[Mapping[str, Any]], policy: Mapping[str, Any] = POLICY) -> list[Use]:
    """What the policy does not allow of the calls of the service that are in a lab's ledger."""
    return [
        use
        for call in calls
        if "flambed" in call["user_agent"]
        for use in uses_of(call["service"], call["action"], call["params"])
        if not allows(use, policy)
    ]
