"""The half of CloudWatch's API that is about alarms: they are put, described, evaluated, and act.

Alarms live in moto's own backends, so that tags of alarms and moto's reset go on working. Each operation takes moto's
backend of an account and region and the parsed parameters, and gives back what the API reference names.

What bends the truth (beyond what alarms.py says of itself): an alarm is evaluated within the call that creates it; of
EC2's actions only `terminate` does anything, other actions are written to the history; DeleteAlarms says nothing about
names that it does not know, and deletes the others.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from moto.cloudwatch.models import CloudWatchBackend, cloudwatch_backends
from moto.cloudwatch.utils import make_arn_for_alarm
from moto.core.exceptions import ServiceException
from moto.utilities.utils import get_partition

from flambed.lab.alarms import Alarm, State, ec2_action, evaluate, parse_alarm
from flambed.lab.clock import Clock
from flambed.lab.metric_queries import Pages
from flambed.lab.metrics import Metric, Metrics, Rejected, moment, unix

MAX_NAMES = 100  # alarm names in a call
DESCRIBED = 50  # alarms in an answer of DescribeAlarms that names none
HISTORY_KEPT = 10_000  # items an account and region

Params = Mapping[str, Any]
Place = tuple[str, str]  # account and region


class Alarms:
    """All alarms of the lab. `metrics` are the points by account and region; the other arguments are those of Watch."""

    def __init__(
        self,
        clock: Clock,
        metrics: Mapping[Place, Metrics],
        *,
        terminate: Callable[[str, str], None],
        instance_state: Callable[[str, str], str | None],
        announce: Callable[[str, dict[str, Any]], None] | None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._terminate = terminate
        self._instance_state = instance_state
        self._announce = announce
        self._history: defaultdict[Place, deque[dict[str, Any]]] = defaultdict(partial(deque, maxlen=HISTORY_KEPT))
        self._pages = Pages()

    def evaluate_all(self, now: float) -> None:
        """Evaluate every alarm at `now` (UNIX seconds) and act on changes of state."""
        for backend in backends(cloudwatch_backends):
            for alarm in list(_alarms(backend).values()):
                self._evaluate(backend, alarm, now)

    def as_json(self) -> list[dict[str, Any]]:
        """Every alarm with its region and history, in types that JSON has."""
        told = []
        for backend in backends(cloudwatch_backends):
            history = defaultdict(list)
            for item in self._history[place(backend)]:
                history[item["AlarmName"]].append(item)
            told += [
                _json({"Region": backend.region_name, **alarm.as_api(), "History": history[alarm.name]})
                for alarm in _alarms(backend).values()
            ]
        return told

    def _evaluate(self, backend: CloudWatchBackend, alarm: Alarm, now: float) -> None:
        configuration = alarm.configuration
        points = self._metrics[place(backend)].series(configuration.metric, configuration.unit)
        verdict = evaluate(configuration, points, now, alarm.state)
        if verdict.state != alarm.state:
            data = {
                "version": "1.0",
                "queryDate": moment(now).isoformat(),
                "statistic": configuration.statistic,
                "period": configuration.period,
                "recentDatapoints": list(reversed(verdict.recent)),
                "threshold": configuration.threshold,
            }
            self._transition(backend, alarm, verdict.state, verdict.reason, json.dumps(data))

    def _transition(self, backend: CloudWatchBackend, alarm: Alarm, state: State, reason: str, data: str) -> None:
        """Set the state; where that changes it, remember, announce and act."""
        now = self._clock.now()
        before = {"value": alarm.state, "reason": alarm.reason, "timestamp": moment(alarm.updated).isoformat()}
        changed = state != alarm.state
        alarm.state, alarm.reason, alarm.reason_data, alarm.updated = state, reason, data, now
        if not changed:
            return
        alarm.transitioned = now
        after = {"value": state, "reason": reason, "timestamp": moment(now).isoformat()}
        summary = f"Alarm updated from {before['value']} to {state}"
        self._remember(backend, alarm.name, "StateUpdate", summary, {"oldState": before, "newState": after})
        if self._announce is not None:
            detail = {
                "alarmName": alarm.name,
                "state": {**after, "reasonData": data},
                "previousState": before,
                "configuration": {"description": alarm.configuration.description},
            }
            self._announce(backend.region_name, detail)
        if alarm.configuration.actions_enabled:
            for arn in alarm.configuration.actions(state):
                self._act(backend, alarm, arn)

    def _act(self, backend: CloudWatchBackend, alarm: Alarm, arn: str) -> None:
        """Carry out one action, once: one that fails is not tried again."""
        instance_id = alarm.configuration.metric.dimension("InstanceId")
        if ec2_action(arn) != "terminate" or instance_id is None:
            self._remember(backend, alarm.name, "Action", f"The lab does nothing for action {arn}", {"action": arn})
            return
        try:
            self._terminate(backend.region_name, instance_id)
        except ServiceException as rejected:
            summary = f"Failed to execute action {arn}. Received error: {rejected}"
            self._remember(backend, alarm.name, "Action", summary, {"action": arn, "error": str(rejected)})
        else:
            self._remember(backend, alarm.name, "Action", f"Successfully executed action {arn}", {"action": arn})

    def _remember(self, backend: CloudWatchBackend, name: str, kind: str, summary: str, data: dict[str, Any]) -> None:
        self._history[place(backend)].append(
            {
                "AlarmName": name,
                "AlarmType": "MetricAlarm",
                "Timestamp": moment(self._clock.now()),
                "HistoryItemType": kind,
                "HistorySummary": summary,
                "HistoryData": json.dumps(data),
            }
        )

    # The operations

    def put_metric_alarm(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """Create an alarm and evaluate it, or replace the configuration of one and keep its state."""
        region = backend.region_name
        configuration = parse_alarm(params, region=region, partition=get_partition(region))
        if configuration.has_ec2_action:
            self._check_instance(region, configuration.metric)
        now = self._clock.now()
        alarm = _alarms(backend).get(configuration.name)
        if alarm is not None:
            alarm.configuration, alarm.configured = configuration, now
            self._remember(
                backend, alarm.name, "ConfigurationUpdate", f'Alarm "{alarm.name}" updated', {"type": "Update"}
            )
            return {}
        arn = make_arn_for_alarm(region, backend.account_id, configuration.name)
        alarm = Alarm(configuration, arn, configured=now, updated=now, transitioned=now)
        _alarms(backend)[alarm.name] = alarm
        backend.tagger.tag_resource(arn, params.get("Tags") or [])
        self._remember(backend, alarm.name, "ConfigurationUpdate", f'Alarm "{alarm.name}" created', {"type": "Create"})
        self._evaluate(backend, alarm, now)
        return {}

    def _check_instance(self, region: str, metric: Metric) -> None:
        """Refuse an EC2 action on a metric that is not one of a running instance, in AWS/EC2 or an own namespace."""
        instance_id = metric.dimension("InstanceId")
        foreign = metric.namespace.startswith("AWS/") and metric.namespace != "AWS/EC2"
        if instance_id is None or foreign:
            wrong = "An EC2 action can only be used if the alarm is monitoring an EC2 instance."
        elif self._instance_state(region, instance_id) != "running":
            wrong = f"{instance_id} is not a valid EC2 instance."
        else:
            return
        raise Rejected("ValidationError", f"Invalid use of EC2 action. {wrong}")

    def describe_alarms(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """The alarms by name, prefix, state and action, in the order of their names."""
        names, prefix = _names(params), params.get("AlarmNamePrefix")
        if names and prefix:
            raise Rejected("ValidationError", "AlarmNames and AlarmNamePrefix must not be given together.")
        found = [
            alarm.as_api()
            for _, alarm in sorted(_alarms(backend).items())
            if (not names or alarm.name in names)
            and alarm.name.startswith(prefix or "")
            and params.get("StateValue") in (None, alarm.state)
            and ("ActionPrefix" not in params or _acts_on(alarm, params["ActionPrefix"]))
        ]
        page, onward = self._pages.cut(
            found, _page_size(params, MAX_NAMES if names else DESCRIBED), params.get("NextToken")
        )
        return {"MetricAlarms": page, "CompositeAlarms": [], "NextToken": onward}

    def describe_alarms_for_metric(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """The alarms on one metric."""
        metric = Metric.of(params["Namespace"], params["MetricName"], params.get("Dimensions"))
        alarms = [alarm for _, alarm in sorted(_alarms(backend).items()) if alarm.configuration.metric == metric]
        return {"MetricAlarms": [alarm.as_api() for alarm in alarms]}

    def describe_alarm_history(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """What was done to alarms and what they did, deleted ones included."""
        since, until = params.get("StartDate"), params.get("EndDate")
        found = [
            item
            for item in self._history[place(backend)]
            if params.get("AlarmName") in (None, item["AlarmName"])
            and params.get("HistoryItemType") in (None, item["HistoryItemType"])
            and (since is None or unix(since) <= item["Timestamp"].timestamp())
            and (until is None or item["Timestamp"].timestamp() <= unix(until))
        ]
        if params.get("ScanBy", "TimestampDescending") == "TimestampDescending":
            found.reverse()
        page, onward = self._pages.cut(found, _page_size(params, 100), params.get("NextToken"))
        return {"AlarmHistoryItems": page, "NextToken": onward}

    def delete_alarms(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """Delete alarms; names that are not known are passed over."""
        for name in _names(params):
            if (alarm := _alarms(backend).pop(name, None)) is not None:
                backend.tagger.delete_all_tags_for_resource(alarm.alarm_arn)
                self._remember(backend, name, "ConfigurationUpdate", f'Alarm "{name}" deleted', {"type": "Delete"})
        return {}

    def list_tags_for_resource(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """The tags of an alarm, by its ARN."""
        arn = params["ResourceARN"]
        if all(alarm.alarm_arn != arn for alarm in _alarms(backend).values()):
            raise Rejected("ResourceNotFoundException", f"There is no resource {arn}.")
        tags = backend.tagger.get_tag_dict_for_resource(arn)
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}

    def enable_alarm_actions(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """Let changes of state act; a state that is there already does not."""
        return self._enable(backend, params, enabled=True)

    def disable_alarm_actions(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """Let changes of state pass without an action."""
        return self._enable(backend, params, enabled=False)

    def _enable(self, backend: CloudWatchBackend, params: Params, *, enabled: bool) -> dict[str, Any]:
        for name in _names(params):
            if (alarm := _alarms(backend).get(name)) is not None:
                alarm.configuration = replace(alarm.configuration, actions_enabled=enabled)
        return {}

    def set_alarm_state(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """Set a state by hand; it acts like any change, and lasts until the next evaluation."""
        alarm = _alarms(backend).get(params["AlarmName"])
        if alarm is None:
            raise Rejected("ResourceNotFound", f"There is no alarm named {params['AlarmName']}.")
        state, data = params["StateValue"], params.get("StateReasonData") or "{}"
        if state not in ("OK", "ALARM", "INSUFFICIENT_DATA"):
            raise Rejected("ValidationError", f"StateValue must be OK, ALARM or INSUFFICIENT_DATA, not {state}.")
        try:
            json.loads(data)
        except ValueError as error:
            raise Rejected("InvalidFormat", f"StateReasonData is no JSON: {error}") from error
        self._transition(backend, alarm, state, params["StateReason"], data)
        return {}


def backends(all_backends: Any) -> Iterator[Any]:
    """moto's backends of a service that exist by now, of every account and region."""
    for account in list(all_backends.values()):
        yield from list(account.values())


def place(backend: Any) -> Place:
    return backend.account_id, backend.region_name


def _alarms(backend: CloudWatchBackend) -> dict[str, Alarm]:
    """moto's store of alarms, which here holds alarms of the lab."""
    alarms: Any = backend.alarms
    return alarms  # type: ignore[no-any-return]  # moto's type is that of its own alarms


def _names(params: Params) -> Sequence[str]:
    names = params.get("AlarmNames") or ()
    if len(names) > MAX_NAMES:
        raise Rejected(
            "ValidationError",
            f"1 validation error detected: Value at 'alarmNames' failed to satisfy constraint: "
            f"Member must have length less than or equal to {MAX_NAMES}",
        )
    return names


def _page_size(params: Params, default: int) -> int:
    return min(int(params.get("MaxRecords") or default), MAX_NAMES)


def _acts_on(alarm: Alarm, prefix: str) -> bool:
    return any(arn.startswith(prefix) for arn in alarm.configuration.alarm_actions)


def _json(value: Any) -> Any:
    """The value with its times as text."""
    if isinstance(value, dict):
        return {key: _json(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_json(member) for member in value]
    return value.isoformat() if hasattr(value, "isoformat") else value
