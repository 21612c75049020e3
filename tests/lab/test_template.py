"""The queue and the rules of the CloudFormation template, made in the lab as CloudFormation would make them."""

from __future__ import annotations

import json
from typing import Any

from tests.cfntemplate import template
from tests.lab.labproc import LabProcess, start_lab
from tests.lab.serviceproc import start_service

QUEUE = "AWS::SQS::Queue"
QUEUE_POLICY = "AWS::SQS::QueuePolicy"
RULE = "AWS::Events::Rule"


class Stack:
    """What the template makes of these three kinds, by its logical names: URLs of queues, ARNs of all.

    moto's own CloudFormation makes no queue policies, without which EventBridge may send nothing.
    """

    def __init__(self, lab: LabProcess) -> None:
        self.urls: dict[str, str] = {}
        self.arns: dict[str, str] = {}
        self._sqs, self._events = lab.boto("sqs"), lab.boto("events")
        self._resources: dict[str, Any] = template()["Resources"]
        for kind, make in ((QUEUE, self._queue), (RULE, self._rule), (QUEUE_POLICY, self._policy)):
            # A dead-letter queue is there before what names it.
            for name, properties in sorted(self._of(kind).items(), key=lambda one: "RedrivePolicy" in one[1]):
                make(name, properties)

    def _of(self, kind: str) -> dict[str, Any]:
        return {name: one["Properties"] for name, one in self._resources.items() if one["Type"] == kind}

    def _queue(self, name: str, properties: dict[str, Any]) -> None:
        plain = self._resolved(properties)
        attributes = {key: value if isinstance(value, str) else json.dumps(value) for key, value in plain.items()}
        self.urls[name] = self._sqs.create_queue(QueueName=attributes.pop("QueueName"), Attributes=attributes)[
            "QueueUrl"
        ]
        answer = self._sqs.get_queue_attributes(QueueUrl=self.urls[name], AttributeNames=["QueueArn"])
        self.arns[name] = answer["Attributes"]["QueueArn"]

    def _rule(self, name: str, properties: dict[str, Any]) -> None:
        plain = self._resolved(properties)
        pattern = json.dumps(plain["EventPattern"])
        answer = self._events.put_rule(Name=plain["Name"], EventPattern=pattern, Description=plain["Description"])
        self.arns[name] = answer["RuleArn"]
        assert self._events.put_targets(Rule=plain["Name"], Targets=plain["Targets"])["FailedEntryCount"] == 0

    def _policy(self, _name: str, properties: dict[str, Any]) -> None:
        policy = json.dumps(self._resolved(properties["PolicyDocument"]))
        for one in properties["Queues"]:
            self._sqs.set_queue_attributes(QueueUrl=self.urls[one["Ref"]], Attributes={"Policy": policy})

    def _resolved(self, value: Any) -> Any:
        """A part of the template with `!GetAtt NAME.Arn` in place; anything else that has to be resolved is refused."""
        if isinstance(value, dict) and "GetAtt" in value:
            name, _, attribute = value["GetAtt"].partition(".")
            assert attribute == "Arn", value
            return self.arns[name]
        if isinstance(value, dict):
            assert not {"Ref", "Sub", "If"} & value.keys(), value
            return {key: self._resolved(inner) for key, inner in value.items()}
        return [self._resolved(one) for one in value] if isinstance(value, list) else value

    def heard(self, name: str = "Queue") -> list[tuple[str, str]]:
        """The events that have come to a queue, taken off it: what they are, and of which instance."""
        events: list[tuple[str, str]] = []
        ask = {"QueueUrl": self.urls[name], "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0}
        while messages := self._sqs.receive_message(**ask).get("Messages"):
            for message in messages:
                event = json.loads(message["Body"])
                events.append((event["detail"].get("state", event["detail-type"]), event["detail"]["instance-id"]))
                self._sqs.delete_message(QueueUrl=self.urls[name], ReceiptHandle=message["ReceiptHandle"])
        return events

    def forbid(self) -> None:
        """Take the queue's policy away."""
        self._sqs.set_queue_attributes(QueueUrl=self.urls["Queue"], Attributes={"Policy": ""})


def test_the_templates_rules_bring_every_event_to_its_queue_and_only_because_its_policy_lets_them() -> None:
    """State changes, the warning of a spot instance and its recommendation; nothing of it goes to the dead letters."""
    with start_lab("--boot", "0.1", "--shutdown", "0.1", "--quotas", "off") as lab:
        stack = Stack(lab)
        [instance] = lab.launch()
        lab.until_state([instance], "running")
        lab.fault({"kind": "interruption", "instance": instance, "notice": "rebalance", "seconds": 0})
        lab.fault({"kind": "interruption", "instance": instance, "notice": "interruption", "seconds": 0})
        lab.until_state([instance], "terminated")
        warnings = ["EC2 Instance Rebalance Recommendation", "EC2 Spot Instance Interruption Warning"]
        told = ["pending", "running", *warnings, "shutting-down", "terminated"]
        assert stack.heard() == [(what, instance) for what in told]
        assert stack.heard("DeadLetters") == []

        stack.forbid()
        [unheard] = lab.launch()
        lab.until_state([unheard], "running")
        assert stack.heard() == []


def test_a_service_on_the_templates_queue_hears_of_its_instances_and_doctor_finds_nothing_wrong() -> None:
    """The template's output is what the settings want under `events.queues`."""
    with start_lab("--boot", "0.5", "--ssh-delay", "0", "--quotas", "off") as lab:
        stack = Stack(lab)
        with start_service(lab, events__queues={"us-east-1": stack.urls["Queue"]}) as service:
            status = service.up(service.file(setup_cmds=[]))
            heard = {line["instance"] for line in service.log("instance.state_notified") if line["state"] == "running"}
            assert heard == {row["id"] for row in status["instances"]}
            checks = service.ctl("doctor", "--json").document
            assert [check for check in checks if check["ok"] is False] == []
            service.down()
        assert stack.heard("DeadLetters") == []
