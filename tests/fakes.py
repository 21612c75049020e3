"""AWS in memory, under the SDK's own method names: what is asked is recorded, and one-shot errors can be injected.

A fake knows no more of AWS than the tests that use it need; what AWS really does is the lab's to know.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from flambed.aws import Answer, Clients
from flambed.catalogue import CATALOGUE
from flambed.clock import Clock
from flambed.observed.facts import Fact
from flambed.region import Identity, Region
from tests.eventsseen import saw
from tests.virtualtime import VirtualClock

QUEUE = "https://sqs.example/queue"
OWNER = "808129580301"


def client_error(code: str, message: str = "injected", status: int = 400) -> ClientError:
    """Return an error as the SDK raises it."""
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "Operation")


class Fake:
    """What all fakes have: a record of calls, and errors to come."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._errors: dict[str, deque[Exception]] = defaultdict(deque)

    def fail(self, method: str, *errors: Exception) -> None:
        """The next calls of a method fail, one with each of these errors."""
        self._errors[method].extend(errors)

    def of(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of all calls of a method so far."""
        return [params for name, params in self.calls if name == method]

    async def _called(self, method: str, params: Mapping[str, Any]) -> None:
        self.calls.append((method, dict(params)))
        await asyncio.sleep(0)  # a call is never answered at once
        if self._errors[method]:
            raise self._errors[method].popleft()
        if params.get("DryRun"):
            raise client_error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)


def instance(number: int, *, state: str = "running", tags: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return an instance as EC2 describes it."""
    return {
        "InstanceId": f"i-{number:017x}",
        "InstanceType": "g5.xlarge",
        "ClientToken": "token",
        "State": {"Code": 0, "Name": state},
        "LaunchTime": datetime(2026, 1, 1, tzinfo=UTC),
        "PrivateIpAddress": f"10.0.0.{number}",
        "PrivateDnsName": f"ip-10-0-0-{number}.internal",
        "PublicIpAddress": f"203.0.113.{number}",
        "PublicDnsName": f"ec2-203-0-113-{number}.example",
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeId": f"vol-{number:017x}"}}],
        "Monitoring": {"State": "enabled"},
        "Tags": [{"Key": key, "Value": value} for key, value in (tags or {}).items()],
    }


def volume(number: int, tags: Mapping[str, str], *, state: str = "available", of: str | None = None) -> dict[str, Any]:
    """Return a volume as EC2 describes it, attached to an instance where one is given."""
    return {
        "VolumeId": f"vol-{number:017x}",
        "State": state,
        "CreateTime": datetime(2026, 1, 1, tzinfo=UTC),
        "Attachments": [{"InstanceId": of, "State": "attached"}] if of else [],
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


def cluster_tags(creator: str = "me", name: str = "c", role: str = "Factory", **more: str) -> dict[str, str]:
    """Return the tags by which an instance is known."""
    return {"creator": creator, "Purpose": "flambe", "Cluster-Name": name, "Role": role, **more}


class FakeEc2(Fake):
    """Instances, images and types. Pages have two instances where a page size is asked for, so that paging is seen."""

    PAGE = 2

    def __init__(self) -> None:
        super().__init__()
        self.instances: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.types: dict[str, dict[str, Any]] = {}
        self.protected: set[str] = set()
        self.terminated: list[str] = []
        self.console = ""
        self.volumes: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count(1)

    async def run_instances(self, **params: Any) -> Answer:
        await self._called("run_instances", params)
        tags = {tag["Key"]: tag["Value"] for tag in params["TagSpecifications"][0]["Tags"]}
        made = [instance(next(self._numbers), state="pending", tags=tags) for _ in range(params["MaxCount"])]
        self.instances += made
        return {"Instances": made}

    async def describe_instances(self, **params: Any) -> Answer:
        await self._called("describe_instances", params)
        found = [i for i in self.instances if all(_matches(i, f) for f in params.get("Filters", ()))]
        start = int(params.get("NextToken", 0))
        answer: Answer = {"Reservations": [{"Instances": [i]} for i in found[start : start + self.PAGE]]}
        if start + self.PAGE < len(found):
            answer["NextToken"] = str(start + self.PAGE)
        return answer

    async def terminate_instances(self, **params: Any) -> Answer:
        await self._called("terminate_instances", params)
        ids = params["InstanceIds"]
        unknown = [i for i in ids if i not in {known["InstanceId"] for known in self.instances}]
        if unknown:
            raise client_error("InvalidInstanceID.NotFound", f"The instance IDs '{', '.join(unknown)}' do not exist")
        if guarded := self.protected & set(ids):
            raise client_error("OperationNotPermitted", f"The instance '{min(guarded)}' may not be terminated.")
        self.terminated += ids
        return {"TerminatingInstances": [{"InstanceId": i} for i in ids]}

    async def describe_images(self, **params: Any) -> Answer:
        await self._called("describe_images", params)
        names = [value for filtered in params.get("Filters", ()) for value in filtered["Values"]]
        return {
            "Images": [
                image
                for image in self.images
                if image["ImageId"] in params.get("ImageIds", (image["ImageId"],))
                and (not names or image["Name"] in names)
            ]
        }

    async def describe_instance_types(self, **params: Any) -> Answer:
        await self._called("describe_instance_types", params)
        if unknown := [kind for kind in params["InstanceTypes"] if kind not in self.types]:
            raise client_error("InvalidInstanceType", f"The following supplied instance types do not exist: {unknown}")
        return {"InstanceTypes": [{"InstanceType": k, **self.types[k]} for k in params["InstanceTypes"]]}

    async def describe_instance_type_offerings(self, **params: Any) -> Answer:
        await self._called("describe_instance_type_offerings", params)
        return {"InstanceTypeOfferings": [{"InstanceType": kind} for kind in self.types]}

    async def create_tags(self, **params: Any) -> Answer:
        await self._called("create_tags", params)
        return {}

    async def delete_tags(self, **params: Any) -> Answer:
        await self._called("delete_tags", params)
        for volume in params["Resources"]:
            described = self._volume(volume)
            taken = {tag["Key"] for tag in params["Tags"]}
            described["Tags"] = [tag for tag in described["Tags"] if tag["Key"] not in taken]
        return {}

    async def describe_volumes(self, **params: Any) -> Answer:
        await self._called("describe_volumes", params)
        found = [volume for volume in self.volumes.values() if all(_has(volume, f) for f in params["Filters"])]
        start = int(params.get("NextToken", 0))
        answer: Answer = {"Volumes": found[start : start + self.PAGE]}
        return answer | ({"NextToken": str(start + self.PAGE)} if start + self.PAGE < len(found) else {})

    async def delete_volume(self, **params: Any) -> Answer:
        await self._called("delete_volume", params)
        if self._volume(params["VolumeId"])["State"] != "available":
            raise client_error("VolumeInUse", f"Volume {params['VolumeId']} is currently attached")
        del self.volumes[params["VolumeId"]]
        return {}

    def _volume(self, volume: str) -> dict[str, Any]:
        if volume not in self.volumes:
            raise client_error("InvalidVolume.NotFound", f"The volume '{volume}' does not exist.")
        return self.volumes[volume]

    async def start_instances(self, **params: Any) -> Answer:
        await self._called("start_instances", params)
        return {}

    async def monitor_instances(self, **params: Any) -> Answer:
        await self._called("monitor_instances", params)
        return {}

    async def get_console_output(self, **params: Any) -> Answer:
        await self._called("get_console_output", params)
        return {"Output": self.console} if self.console else {}


def _matches(described: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    name, values = wanted["Name"], wanted["Values"]
    if name == "instance-id":
        return described["InstanceId"] in values
    if name == "instance-state-name":
        return described["State"]["Name"] in values
    tags = {tag["Key"]: tag["Value"] for tag in described["Tags"]}
    return tags.get(name.removeprefix("tag:")) in values


def _has(described: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a volume passes a filter."""
    name, values = wanted["Name"], wanted["Values"]
    if name in {"volume-id", "status"}:
        return described["VolumeId" if name == "volume-id" else "State"] in values
    tags = {tag["Key"]: tag["Value"] for tag in described["Tags"]}
    return tags.get(name.removeprefix("tag:")) in values


class FakeCloudWatch(Fake):
    """Alarms and points; `visible` is whether points that were put can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.alarms: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, list[dict[str, str]]] = {}  # of alarms, by name
        self.points: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.refuses_aws = False
        self.visible = True
        self.strict_delete = False

    def cpu(self, instance_id: str, at: float, percent: float) -> None:
        """EC2 measured the CPU of an instance."""
        self.points["AWS/EC2", instance_id][at].append(percent)

    def written(self, instance_id: str, namespace: str = "AWS/EC2") -> dict[float, float]:
        """Return the points that were put for an instance, by minute."""
        return {
            metric["Timestamp"].timestamp(): metric["Value"]
            for params in self.of("put_metric_data")
            if params["Namespace"] == namespace and not (self.refuses_aws and namespace.startswith("AWS/"))
            for metric in params["MetricData"]
            if metric["Dimensions"][0]["Value"] == instance_id
        }

    async def put_metric_alarm(self, **params: Any) -> Answer:
        await self._called("put_metric_alarm", params)
        name, tags = params["AlarmName"], params.get("Tags", [])
        if name not in self.alarms:  # tags count at the creation only
            self.tags[name] = tags
        arn = f"arn:aws:cloudwatch:us-east-1:123456789012:alarm:{name}"
        self.alarms[name] = {"AlarmArn": arn, "StateValue": "OK"} | {k: v for k, v in params.items() if k != "Tags"}
        return {}

    async def describe_alarms(self, **params: Any) -> Answer:
        await self._called("describe_alarms", params)
        if (prefix := params.get("AlarmNamePrefix")) is not None:
            return {"MetricAlarms": [alarm for name, alarm in self.alarms.items() if name.startswith(prefix)]}
        if "AlarmNames" not in params:
            return {"MetricAlarms": list(self.alarms.values())[: params["MaxRecords"]]}
        assert len(params["AlarmNames"]) <= 100
        found = [self.alarms[name] for name in params["AlarmNames"] if name in self.alarms]
        return {"MetricAlarms": [{"StateValue": "OK"} | alarm for alarm in found]}

    async def delete_alarms(self, **params: Any) -> Answer:
        await self._called("delete_alarms", params)
        names = params["AlarmNames"]
        assert len(names) <= 100
        if self.strict_delete and any(name not in self.alarms for name in names):
            raise client_error("ResourceNotFound", "an alarm does not exist", 404)
        for name in names:
            self.alarms.pop(name, None)
        return {}

    async def list_tags_for_resource(self, **params: Any) -> Answer:
        await self._called("list_tags_for_resource", params)
        name = params["ResourceARN"].rpartition(":")[2]
        if name not in self.alarms:
            raise client_error("ResourceNotFoundException", f"{name} does not exist", 404)
        return {"Tags": self.tags.get(name, [])}

    async def put_metric_data(self, **params: Any) -> Answer:
        await self._called("put_metric_data", params)
        assert len(params["MetricData"]) <= 1000
        if self.refuses_aws and params["Namespace"].startswith("AWS/"):
            raise client_error("InvalidParameterValue", "The value AWS/ for parameter Namespace is invalid.")
        for metric in params["MetricData"]:
            key = (params["Namespace"], metric["Dimensions"][0]["Value"])
            self.points[key][metric["Timestamp"].timestamp()].append(metric["Value"])
        return {}

    async def get_metric_data(self, **params: Any) -> Answer:
        await self._called("get_metric_data", params)
        assert len(params["MetricDataQueries"]) <= 500
        start, end = params["StartTime"].timestamp(), params["EndTime"].timestamp()
        reduce: dict[str, Callable[[list[float]], float]] = {
            "Minimum": min,
            "Maximum": max,
            "Average": lambda values: sum(values) / len(values),
        }
        results = []
        for query in params["MetricDataQueries"]:
            metric = query["MetricStat"]["Metric"]
            found = self.points.get((metric["Namespace"], metric["Dimensions"][0]["Value"]), {}) if self.visible else {}
            period, whole = query["MetricStat"]["Period"], defaultdict[float, list[float]](list)
            for at, values in found.items():
                if start <= at < end:
                    whole[at - at % period] += values
            samples = sorted(whole.items())
            statistic = reduce[query["MetricStat"]["Stat"]]
            results.append(
                {
                    "Id": query["Id"],
                    "Timestamps": [datetime.fromtimestamp(at, UTC) for at, _ in samples],
                    "Values": [statistic(values) for _, values in samples],
                }
            )
        return {"MetricDataResults": results}


class FakeSqs(Fake):
    """A queue. A receive waits for a message as long as it may; what is not deleted is not seen again here."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: deque[str] = deque()
        self.deleted: list[str] = []
        self._came = asyncio.Event()
        self._numbers = itertools.count()
        self.bodies: dict[str, str] = {}
        self.tags: dict[str, str] = {}

    def send(self, *bodies: object) -> None:
        """Put messages into the queue: text as it is, all else as JSON."""
        self.messages.extend(body if isinstance(body, str) else json.dumps(body) for body in bodies)
        self._came.set()

    async def receive_message(self, **params: Any) -> Answer:
        await self._called("receive_message", params)
        if not self.messages and params["WaitTimeSeconds"]:
            self._came.clear()
            try:
                async with asyncio.timeout(params["WaitTimeSeconds"]):
                    await self._came.wait()
            except TimeoutError:
                return {}
        taken = [self.messages.popleft() for _ in range(min(len(self.messages), params["MaxNumberOfMessages"]))]
        handles = [f"receipt-{next(self._numbers)}" for _ in taken]
        self.bodies |= dict(zip(handles, taken, strict=True))
        return {"Messages": [{"Body": b, "ReceiptHandle": h} for b, h in zip(taken, handles, strict=True)]}

    async def list_queue_tags(self, **params: Any) -> Answer:
        await self._called("list_queue_tags", params)
        return {"Tags": dict(self.tags)} if self.tags else {}

    async def tag_queue(self, **params: Any) -> Answer:
        await self._called("tag_queue", params)
        self.tags |= params["Tags"]
        return {}

    async def untag_queue(self, **params: Any) -> Answer:
        await self._called("untag_queue", params)
        for key in params["TagKeys"]:
            self.tags.pop(key, None)
        return {}

    async def delete_message_batch(self, **params: Any) -> Answer:
        await self._called("delete_message_batch", params)
        assert len(params["Entries"]) <= 10
        self.deleted += [self.bodies[entry["ReceiptHandle"]] for entry in params["Entries"]]
        return {}


class FakeSsm(Fake):
    """Public parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: dict[str, str] = {}

    async def get_parameters(self, **params: Any) -> Answer:
        await self._called("get_parameters", params)
        return {
            "Parameters": [{"Name": n, "Value": self.parameters[n]} for n in params["Names"] if n in self.parameters]
        }


class FakeServiceQuotas(Fake):
    """Quotas of EC2 by code; of others nothing is known."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, float] = {}

    async def get_service_quota(self, **params: Any) -> Answer:
        await self._called("get_service_quota", params)
        if params["QuotaCode"] not in self.values:
            raise client_error("NoSuchResourceException", "The request failed because the resource does not exist.")
        return {"Quota": {"Value": self.values[params["QuotaCode"]]}}


class FakeSts(Fake):
    """Who calls."""

    async def get_caller_identity(self, **params: Any) -> Answer:
        await self._called("get_caller_identity", params)
        return {"Account": "123456789012"}


@dataclass
class Recorder:
    """Takes the log's events and the clusters' facts; an event that the catalogue does not declare is an error."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take an event of the log."""
        own = {name: value for name, value in fields.items() if name not in {"cluster", "instance", "action", "cause"}}
        _, problems = CATALOGUE[event].clean(own)
        assert not problems, f"{event}: {problems}"
        saw(event)
        self.events.append((event, fields))

    def names(self, *without: str) -> list[str]:
        """Return the names of the events."""
        return [name for name, _ in self.events if name not in without]

    def take(self, fact: Fact) -> None:
        """Take a fact."""
        self.facts.append(fact)

    def kinds(self) -> list[str]:
        """Return the kinds of the facts."""
        return [type(fact).__name__ for fact in self.facts]

    def of(self, kind: type[Fact]) -> list[Any]:
        """Return the facts of a kind."""
        return [fact for fact in self.facts if type(fact) is kind]


@dataclass
class Cloud:
    """One region of AWS in memory, and what is heard of it. Make it where a loop runs."""

    ec2: FakeEc2 = field(default_factory=FakeEc2)
    cloudwatch: FakeCloudWatch = field(default_factory=FakeCloudWatch)
    sqs: FakeSqs = field(default_factory=FakeSqs)
    ssm: FakeSsm = field(default_factory=FakeSsm)
    sts: FakeSts = field(default_factory=FakeSts)
    servicequotas: FakeServiceQuotas = field(default_factory=FakeServiceQuotas)
    heard: Recorder = field(default_factory=Recorder)

    @property
    def clients(self) -> Clients:
        """Its clients."""
        return Clients(self.ec2, self.cloudwatch, self.sqs, self.ssm, self.sts, self.servicequotas)

    def region(self, name: str = "us-east-1", *, clock: Clock | None = None, **settings: Any) -> Region:
        """Return a region that is not open yet."""
        return Region(
            name,
            self.clients,
            emit=self.heard.emit,
            clock=clock if clock is not None else VirtualClock(),
            image_owners=(OWNER,),
            **settings,
        )


ME: Identity = ("me", "c")


def ids(numbers: Iterable[int]) -> list[str]:
    """Return the ids of instances by number, as `instance` makes them."""
    return [f"i-{number:017x}" for number in numbers]


def state_change(instance_id: str, state: str) -> dict[str, Any]:
    """Return EventBridge's envelope of a state change."""
    return {
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "account": "123456789012",
        "time": "2026-01-01T00:00:00Z",
        "region": "us-east-1",
        "resources": [f"arn:aws:ec2:us-east-1:123456789012:instance/{instance_id}"],
        "detail": {"instance-id": instance_id, "state": state},
    }
