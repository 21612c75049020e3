"""EC2 as it behaves: the lab's own actions put in the place of moto's.

Each action takes moto's response object of the request (`params`: the request as the SDK's model names it;
`region`) and returns what moto serialises, or the body itself. All of it runs under the lab's lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult, EmptyResult
from moto.core.types import Base64EncodedString
from moto.ec2.models import ec2_backends
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.responses import EC2Response

from flambed.lab import disks
from flambed.lab.describe import Describe
from flambed.lab.faults import Faults
from flambed.lab.fleet import CODES, Fleet, Record
from flambed.lab.hosting import Hosting
from flambed.lab.launch_checks import check_tags
from flambed.lab.launches import Launches
from flambed.lab.refusal import Refusal, error_body
from flambed.lab.seams import replace, seam

State = dict[str, Any]
Action = Callable[[Any], ActionResult | str]


@dataclass
class Cloud:
    """The actions that the lab answers itself, and what CloudWatch may ask of EC2."""

    fleet: Fleet
    faults: Faults
    launches: Launches
    describe: Describe
    hosting: Hosting

    def install(self) -> None:
        """Take the actions over from moto. Raises SeamMissing where moto is not the one this was written for."""
        actions: dict[str, Action] = {
            "run_instances": self.launches.run_instances,
            "describe_instances": self.describe.describe_instances,
            "describe_instance_status": self.describe.describe_instance_status,
            "terminate_instances": self.terminate_instances,
            "stop_instances": self.stop_instances,
            "start_instances": self.start_instances,
            "reboot_instances": self.reboot_instances,
            "get_console_output": self.get_console_output,
            "create_tags": self.create_tags,
            "delete_tags": self.delete_tags,
            "monitor_instances": self.monitor_instances,
            "unmonitor_instances": self.unmonitor_instances,
            "describe_volumes": disks.describe_volumes,
            "delete_volume": disks.delete_volume,
            "modify_instance_attribute": self.modify_instance_attribute,
        }
        self._modify = seam(EC2Response, "modify_instance_attribute")
        self._delete_tags = seam(EC2Response, "delete_tags")
        for name, action in actions.items():
            replace(EC2Response, name, _answering(action))
        replace(TaggedEC2Resource, "get_tags", _get_tags)

    # What CloudWatch asks.

    def terminate(self, region: str, instance_id: str) -> None:
        """An alarm's terminate action. Raises Refusal for an unknown or a protected instance."""
        record = self.fleet.records.get(instance_id)
        if record is None or record.region != region:
            raise Refusal("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
        if record.instance.disable_api_termination:
            raise _protected(instance_id)
        self.fleet.terminate(record)

    def instance_state(self, region: str, instance_id: str) -> str | None:
        """The state's name; None for an instance that EC2 does not know, or not yet."""
        record = self.fleet.records.get(instance_id)
        if record is None or record.region != region or self.faults.fresh(lambda fault: fault.ids, record.age):
            return None
        return record.state

    def monitored(self, region: str, instance_id: str) -> bool:
        """Whether detailed monitoring is on."""
        record = self.fleet.records.get(instance_id)
        return record is not None and record.region == region and record.instance.monitoring_state == "enabled"

    # EC2's actions.

    def terminate_instances(self, request: Any) -> ActionResult:
        """Terminate; a protected instance spares all of its zone and fails the call."""
        records = self._named(request)
        guarded = {r.instance.placement.zone for r in records if r.instance.disable_api_termination}
        before = {r.id: _state(r) for r in records}
        for record in records:
            if record.instance.placement.zone not in guarded:
                self.fleet.terminate(record)
        if guarded:
            raise _protected(next(r.id for r in records if r.instance.disable_api_termination))
        return _changes("TerminatingInstances", records, before)

    def stop_instances(self, request: Any) -> ActionResult:
        """Stop running instances."""
        records = self._named(request)
        if held := [r for r in records if r.instance.disable_api_stop]:
            raise Refusal(
                "OperationNotPermitted",
                f"The instance '{held[0].id}' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.",
            )
        return self._change(
            records, self.fleet.stop, {"running", "stopping", "stopped"}, "StoppingInstances", "stopped"
        )

    def start_instances(self, request: Any) -> ActionResult:
        """Start stopped instances."""
        records = self._named(request)
        return self._change(
            records, self.fleet.start, {"stopped", "pending", "running"}, "StartingInstances", "started"
        )

    def reboot_instances(self, request: Any) -> ActionResult:
        """Reboot running instances."""
        self._change(self._named(request), self.fleet.reboot, {"running"}, "", "rebooted")
        return EmptyResult()

    def get_console_output(self, request: Any) -> ActionResult:
        """What the host printed while it booted."""
        [record] = self.describe.by_ids(request.region, [request.params["InstanceId"]])
        text = self.hosting.console(record.id)
        result: dict[str, Any] = {"InstanceId": record.id, "Timestamp": datetime.fromtimestamp(time.time(), UTC)}
        if text:
            result["Output"] = Base64EncodedString.from_raw_string(text)
        return ActionResult(result)

    def create_tags(self, request: Any) -> ActionResult:
        """Tag resources, all or none of them."""
        tags = check_tags(request.params.get("Tags", []))
        ids = self._taggable(request)
        request.ec2_backend.create_tags(ids, tags)
        for record in (self.fleet.records[i] for i in ids if i in self.fleet.records):
            record.tags.update(tags)
        return EmptyResult()

    def delete_tags(self, request: Any) -> ActionResult:
        """Take tags away."""
        ids = self._taggable(request)
        answer: ActionResult = self._delete_tags(request)
        for record in (self.fleet.records[i] for i in ids if i in self.fleet.records):
            record.tags = {tag["key"]: tag["value"] for tag in record.instance.get_tags()}
        return answer

    def monitor_instances(self, request: Any) -> ActionResult:
        """Switch detailed monitoring on."""
        return self._monitor(request, "enabled", "pending")

    def unmonitor_instances(self, request: Any) -> ActionResult:
        """Switch detailed monitoring off."""
        return self._monitor(request, "disabled", "disabling")

    def modify_instance_attribute(self, request: Any) -> ActionResult:
        """Change an attribute; moto does not know the shutdown behaviour and does not mind unknown instances."""
        [record] = self.describe.by_ids(request.region, [request.params["InstanceId"]])
        behaviour = request.params.get("InstanceInitiatedShutdownBehavior", {}).get("Value")
        if behaviour is None:
            answer: ActionResult = self._modify(request)
            return answer
        if behaviour not in {"stop", "terminate"}:
            raise Refusal("InvalidParameterValue", f"Invalid value '{behaviour}' for instanceInitiatedShutdownBehavior")
        record.instance.instance_initiated_shutdown_behavior = behaviour
        return EmptyResult()

    def _named(self, request: Any) -> list[Record]:
        ids = request.params.get("InstanceIds", [])
        if not ids:
            raise Refusal("MissingParameter", "The request must contain the parameter InstanceId")
        _at_most_1000(ids)
        records = self.describe.by_ids(request.region, ids)
        request.error_on_dryrun()
        return records

    def _taggable(self, request: Any) -> list[str]:
        ids = list(request.params.get("Resources", []))
        if not ids:
            raise Refusal("MissingParameter", "The request must contain the parameter resourceIdSet")
        _at_most_1000(ids)
        self.describe.taggable(request.region, [i for i in ids if i.startswith("i-")])
        request.ec2_backend.do_resources_exist([i for i in ids if not i.startswith("i-")])
        request.error_on_dryrun()
        return ids

    def _change(
        self, records: Sequence[Record], act: Callable[[Record], None], legal: set[str], key: str, verb: str
    ) -> ActionResult:
        for record in records:
            if record.state not in legal:
                raise Refusal(
                    "IncorrectInstanceState",
                    f"The instance '{record.id}' is {record.state}: not in a state from which it can be {verb}.",
                )
        before = {record.id: _state(record) for record in records}
        for record in records:
            act(record)
        return _changes(key, records, before)

    def _monitor(self, request: Any, state: str, answer: str) -> ActionResult:
        records = self._named(request)
        for record in records:
            record.instance.monitoring_state = state
        monitorings = [{"InstanceId": r.id, "Monitoring": {"State": answer}} for r in records]
        return ActionResult({"InstanceMonitorings": monitorings})


def _answering(action: Action) -> Callable[[Any], Any]:
    """`action` as a method of moto's response class; refusals keep their HTTP status, which moto would drop."""

    def method(request: Any) -> Any:
        try:
            return action(request)
        except Refusal as refusal:
            _, body = error_body("ec2", refusal.code, refusal.message, refusal.status)
            return body.decode(), {"status": refusal.status}

    return method


def _get_tags(resource: Any) -> list[dict[str, str]]:
    """A resource's tags by its id; moto matches the ids of all tagged resources against a pattern."""
    return [
        {"resource_id": resource.id, "key": key, "value": value}
        for key, value in ec2_backends[DEFAULT_ACCOUNT_ID][resource.ec2_backend.region_name]
        .tags.get(resource.id, {})
        .items()
    ]


def _state(record: Record) -> State:
    return {"Code": CODES[record.state], "Name": record.state}


def _changes(key: str, records: Sequence[Record], before: dict[str, State]) -> ActionResult:
    changes = [{"InstanceId": r.id, "CurrentState": _state(r), "PreviousState": before[r.id]} for r in records]
    return ActionResult({key: changes})


def _at_most_1000(ids: Sequence[str]) -> None:
    if len(ids) > 1000:
        raise Refusal("InvalidParameterValue", f"{len(ids)} ids in one call; the maximum is 1000")


def _protected(instance_id: str) -> Refusal:
    return Refusal(
        "OperationNotPermitted",
        f"The instance '{instance_id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and "
        "try again.",
    )
