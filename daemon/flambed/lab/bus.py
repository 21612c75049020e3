"""EventBridge and SQS as the lab needs them: state-change events, disabled rules, queue policies, long polls."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.events.models import Rule, events_backends
from moto.sqs import models as sqs_models
from moto.sqs.models import Message, Queue, SQSBackend, sqs_backends

from flambed.lab.fault_kinds import EventsFault
from flambed.lab.faults import Faults
from flambed.lab.seams import replace, seam
from flambed.lab.timers import Timers
from flambed.lab.wsgi import client_left

Deliver = Callable[[], None]


class Bus:
    """Publishes AWS's own events to the rules of a region, as the fault "events" would have it."""

    def __init__(self, *, lock: threading.RLock, timers: Timers, faults: Faults, enabled: bool) -> None:
        self._timers = timers
        self._faults = faults
        self._enabled = enabled
        self._arrived = threading.Condition(lock)
        self._held: list[Deliver] = []  # waiting to be sent in reverse order

    def instance_state(self, region: str, instance_id: str, state: str) -> None:
        """Publish "EC2 Instance State-change Notification"."""
        self.publish(
            region,
            "aws.ec2",
            "EC2 Instance State-change Notification",
            [f"arn:aws:ec2:{region}:{DEFAULT_ACCOUNT_ID}:instance/{instance_id}"],
            {"instance-id": instance_id, "state": state},
        )

    def interruption(self, region: str, zone: str, instance_id: str) -> None:
        """Publish "EC2 Spot Instance Interruption Warning", whose ARN has a form of its own."""
        self.publish(
            region,
            "aws.ec2",
            "EC2 Spot Instance Interruption Warning",
            [f"arn:aws:ec2:{zone}:instance/{instance_id}"],
            {"instance-id": instance_id, "instance-action": "terminate"},
        )

    def rebalance(self, region: str, instance_id: str) -> None:
        """Publish "EC2 Instance Rebalance Recommendation"."""
        arn = f"arn:aws:ec2:{region}:{DEFAULT_ACCOUNT_ID}:instance/{instance_id}"
        self.publish(region, "aws.ec2", "EC2 Instance Rebalance Recommendation", [arn], {"instance-id": instance_id})

    def alarm_state(self, region: str, detail: dict[str, Any]) -> None:
        """Publish "CloudWatch Alarm State Change"."""
        arn = f"arn:aws:cloudwatch:{region}:{DEFAULT_ACCOUNT_ID}:alarm:{detail['alarmName']}"
        self.publish(region, "aws.cloudwatch", "CloudWatch Alarm State Change", [arn], detail)

    def publish(self, region: str, source: str, kind: str, resources: list[str], detail: dict[str, Any]) -> None:
        """Publish an event of an AWS service; best effort, as EventBridge promises no more."""
        event: Any = {
            "version": "0",
            "id": str(uuid4()),
            "detail-type": kind,
            "source": source,
            "account": DEFAULT_ACCOUNT_ID,
            "time": time.time(),
            "region": region,
            "resources": resources,
            "detail": detail,
        }

        def deliver() -> None:
            for rule in events_backends[DEFAULT_ACCOUNT_ID][region].event_buses["default"].rules.values():
                rule.send_to_targets(event)

        if not self._enabled:
            return
        fault = next(iter(self._faults.of(EventsFault)), None)
        if fault:
            fault.strike()
        match fault.mode if fault else None:
            case "drop":
                pass
            case "double":
                deliver()
                deliver()
            case "delay" if fault:
                self._timers.after(fault.seconds, deliver)
            case "reverse" if fault:
                if not self._held:
                    self._timers.after(fault.seconds, self._release)
                self._held.append(deliver)
            case _:
                deliver()

    def _release(self) -> None:
        held, self._held = self._held, []
        for deliver in reversed(held):
            deliver()

    def install(self) -> None:
        """Mend moto: disabled rules deliver, queue policies are ignored, a long poll would hold the lab's lock."""
        send = seam(Rule, "send_to_targets", "original_event", "transform_input")
        send_to_queue = seam(Rule, "_send_to_sqs_queue", "resource_id", "event", "group_id")
        receive = seam(
            SQSBackend, "receive_message", "queue_name", "count", "wait_seconds_timeout", "visibility_timeout"
        )
        add = seam(Queue, "add_message", "message")

        def send_to_targets(rule: Any, original_event: Any, transform_input: bool = False) -> None:
            if rule.state == "ENABLED":
                send(rule, original_event, transform_input)

        def send_to_sqs_queue(rule: Any, resource_id: str, event: dict[str, Any], group_id: str | None = None) -> None:
            queue: Any = sqs_backends[rule.account_id][rule.region_name].queues.get(resource_id)
            if queue is None or not _may_send(queue.policy, rule.arn):
                return
            if group_id:
                send_to_queue(rule, resource_id, event, group_id)
                return
            # moto's own way counts all messages of the queue for each that is sent.
            message = Message(str(uuid4()), json.dumps({**_without_ingestion(event), "time": _stamp(event["time"])}))
            message.mark_sent(queue.delay_seconds)
            queue.add_message(message)

        def receive_message(  # noqa: PLR0917  # moto's signature
            backend: Any, queue_name: str, count: int, wait: int, visibility: int, names: list[str] | None = None
        ) -> list[Any]:
            deadline = time.monotonic() + wait
            while not client_left():  # a message must not go to a client that died while it waited
                messages = receive(backend, queue_name, count, 0, visibility, names)
                left = deadline - time.monotonic()
                if messages or left <= 0:
                    return list(messages)
                self._arrived.wait(min(left, _until_visible(backend.get_queue(queue_name))))
            return []

        def add_message(queue: Any, message: Any) -> None:
            add(queue, message)
            self._arrived.notify_all()

        replace(Rule, "send_to_targets", send_to_targets)
        replace(Rule, "_send_to_sqs_queue", send_to_sqs_queue)
        replace(SQSBackend, "receive_message", receive_message)
        replace(Queue, "add_message", add_message)
        # Ten times as fast as moto's, which is asked twice for each message of the queue.
        replace(sqs_models, "unix_time_millis", lambda: time.time() * 1000)


def _without_ingestion(event: dict[str, Any]) -> dict[str, Any]:
    """The event as EventBridge's targets see it: moto adds a field of its own."""
    return {name: value for name, value in event.items() if name != "ingestion-time"}


def _stamp(moment: float | str) -> str:
    """UNIX seconds in the form of event envelopes."""
    return moment if isinstance(moment, str) else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _may_send(policy: str | None, rule_arn: str) -> bool:
    """Whether a queue's policy (JSON) lets EventBridge's rule send to it; without one it may not."""
    statements = json.loads(policy or "{}").get("Statement", [])
    return any(_allows(s, rule_arn) for s in (statements if isinstance(statements, list) else [statements]))


def _allows(statement: dict[str, Any], rule_arn: str) -> bool:
    def listed(value: Any) -> list[Any]:
        return value if isinstance(value, list) else [value]

    principal = statement.get("Principal")
    services = listed(principal.get("Service", principal.get("AWS"))) if isinstance(principal, dict) else [principal]
    sources = [
        arn
        for operator, keys in statement.get("Condition", {}).items()
        if operator in {"ArnEquals", "ArnLike", "StringEquals", "StringLike"}
        for key, value in keys.items()
        if key.lower() == "aws:sourcearn"
        for arn in listed(value)
    ]
    return (
        statement.get("Effect") == "Allow"
        and any(service in {"*", "events.amazonaws.com"} for service in services)
        and any(str(a).lower() in {"sqs:sendmessage", "sqs:*", "*"} for a in listed(statement.get("Action")))
        and (not sources or not {rule_arn, "*"}.isdisjoint(sources))
    )


def _until_visible(queue: Any) -> float:
    """Seconds until a message that is in flight or delayed can be received; at most one second (client check)."""
    now = time.time()
    due: Iterator[float] = (max(m.visible_at, m.delayed_until) / 1000 - now for m in queue._messages)  # noqa: SLF001  # a seam
    return min([1.0, *(seconds + 0.002 for seconds in due if seconds > 0)])
