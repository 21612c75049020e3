"""AWS's request quotas: token buckets per region, numbers as documented (aws-facts; EC2's "API throttling")."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

from flambed.lab.ledger import Call


@dataclass
class Bucket:
    """A token bucket that starts full."""

    capacity: float
    refill: float  # tokens a second
    tokens: float = field(default=-1.0)
    checked: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tokens = self.capacity

    def level(self, now: float) -> float:
        """Tokens there are at `now` (monotonic seconds)."""
        self.tokens = min(self.capacity, self.tokens + (now - self.checked) * self.refill)
        self.checked = now
        return self.tokens


# (capacity, refill a second)
_EC2: Final = {
    "RunInstances": (5, 2),
    "TerminateInstances": (100, 5),
    "CreateTags": (100, 10),
    "describe": (100, 20),
    "describe everything": (50, 10),
    "change": (50, 5),
}
_INSTANCES: Final = {"RunInstances": (1000, 2), "TerminateInstances": (1000, 20)}
_CLOUDWATCH: Final = {
    "PutMetricAlarm": (3, 3),
    "DeleteAlarms": (3, 3),
    "EnableAlarmActions": (3, 3),
    "DisableAlarmActions": (3, 3),
    "SetAlarmState": (3, 3),
    "DescribeAlarms": (9, 9),
    "PutMetricData": (500, 500),
    "GetMetricData": (50, 50),
    "GetMetricStatistics": (400, 400),
    "ListMetrics": (25, 25),
}


class Quotas:
    """What each region still grants. Not thread-safe: called under the lab's lock."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str, str], Bucket] = {}

    def refuse(self, call: Call) -> tuple[str, str, int] | None:
        """Take what `call` costs; (code, message, status) where a bucket is short, and then nothing is taken."""
        if call.service == "ec2":
            wanted = [(self._bucket(call, kind := _ec2_kind(call), _EC2[kind]), 1)]
            if limits := _INSTANCES.get(call.action):
                wanted.append((self._bucket(call, f"{call.action} instances", limits), _instances(call.params)))
            refusal = ("RequestLimitExceeded", "Request limit exceeded.", 503)
        elif call.service == "cloudwatch" and (limits := _CLOUDWATCH.get(call.action)):
            wanted = [(self._bucket(call, call.action, limits), 1)]
            refusal = ("Throttling", "Rate exceeded", 400)
        else:
            return None
        now = time.monotonic()
        if any(bucket.level(now) < cost for bucket, cost in wanted):
            return refusal
        for bucket, cost in wanted:
            bucket.tokens -= cost
        return None

    def _bucket(self, call: Call, kind: str, limits: tuple[float, float]) -> Bucket:
        key = (call.region, call.service, kind)
        if key not in self._buckets:
            self._buckets[key] = Bucket(*limits)
        return self._buckets[key]


def _ec2_kind(call: Call) -> str:
    if call.action in _EC2:
        return call.action
    if not call.action.startswith(("Describe", "Get", "List", "Search")):
        return "change"
    narrowed = "Filter" in call.params or "MaxResults" in call.params  # naming ids is no filter
    return "describe everything" if call.action == "DescribeInstances" and not narrowed else "describe"


def _instances(params: dict[str, Any]) -> int:
    return len(params["InstanceId"]) if "InstanceId" in params else int(params.get("MaxCount", 1))
