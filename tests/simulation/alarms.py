"""CloudWatch in memory: alarms that are evaluated each minute and end their instance, and the points that they see."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flambed.aws import Answer
from tests.fakes import client_error
from tests.simulation import use
from tests.simulation.faults import Weather
from tests.simulation.use import Way
from tests.virtualtime import START

if TYPE_CHECKING:
    from tests.simulation.cloud import Cloud, Machine

MINUTE = 60.0
LATE = 2  # minutes after which a real point can be read


class CloudWatch:
    """Alarms and points of the region. A point is known by its minute, counted from the life's begin."""

    def __init__(self, cloud: Cloud, weather: Weather) -> None:
        self._cloud = cloud
        self._weather = weather
        self.alarms: dict[str, dict[str, Any]] = {}  # by instance
        self.aimed_at: dict[tuple[str, str], float] = {}  # when a machine first had an alarm on a namespace's metric
        self.robbed_at: dict[str, float] = {}
        self._fired: set[str] = set()
        self._points: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._values: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        self._cloud.later(MINUTE, self._evaluate)

    # --- the API -------------------------------------------------------------------------------------------------

    def put_metric_alarm(self, params: Mapping[str, Any]) -> Answer:
        instance = params["Dimensions"][0]["Value"]
        machine = self._cloud.machines.get(instance)
        if machine is None or machine.shown_from > self._cloud.now or machine.state == "terminated":
            raise client_error("ValidationError", f"{instance} is no valid instance id")
        self._cloud.witness.touched(machine, "armed")
        if instance not in self.alarms:
            self._fired.discard(instance)
        aims_at = instance, params["Namespace"]
        self.aimed_at.setdefault(aims_at, self._cloud.now)
        made = {"AlarmArn": f"arn:{params['AlarmName']}", "Tags": params.get("Tags", [])}
        before = self.alarms.get(instance, made)  # tags count at the creation only
        self.alarms[instance] = {**params, "AlarmArn": before["AlarmArn"], "Tags": before["Tags"]}
        return {}

    def describe_alarms(self, params: Mapping[str, Any]) -> Answer:
        if (prefix := params.get("AlarmNamePrefix")) is not None:
            found = sorted(one["AlarmName"] for one in self.alarms.values() if one["AlarmName"].startswith(prefix))
            start, page = int(params.get("NextToken", 0)), self._weather.page
            more = {"NextToken": str(start + page)} if len(found) > start + page else {}
            return self.describe_alarms({"AlarmNames": found[start : start + page]}) | more
        wanted = set(params["AlarmNames"])
        found = [
            {"StateValue": "ALARM" if instance in self._fired else "OK", "StateReason": "Threshold Crossed"} | alarm
            for instance, alarm in self.alarms.items()
            if alarm["AlarmName"] in wanted
        ]
        return {"MetricAlarms": found}

    def delete_alarms(self, params: Mapping[str, Any]) -> Answer:
        names = params["AlarmNames"]
        known = {alarm["AlarmName"]: instance for instance, alarm in self.alarms.items()}
        if self._weather.strict_delete and any(name not in known for name in names):
            raise client_error("ResourceNotFound", "an alarm does not exist", 404)
        for name in names:
            if name in known:
                self._cloud.witness.unguarded(self._cloud.machines[known[name]])
                del self.alarms[known[name]]
        return {}

    def list_tags_for_resource(self, params: Mapping[str, Any]) -> Answer:
        for alarm in self.alarms.values():
            if alarm["AlarmArn"] == params["ResourceARN"]:
                return {"Tags": alarm["Tags"]}
        raise client_error("ResourceNotFoundException", "there is no such alarm", 404)

    def put_metric_data(self, params: Mapping[str, Any]) -> Answer:
        namespace = params["Namespace"]
        if self._weather.refuses_aws_namespace and namespace.startswith("AWS/"):
            raise client_error("InvalidParameterValue", "The value AWS/ for parameter Namespace is invalid.")
        for metric in params["MetricData"]:
            instance = metric["Dimensions"][0]["Value"]
            minute = int((metric["Timestamp"].timestamp() - START) // MINUTE)
            found = self._values[namespace, instance, minute]
            if not found:
                insort(self._points[namespace, instance], minute)
            found.append(metric["Value"])
        return {}

    def get_metric_data(self, params: Mapping[str, Any]) -> Answer:
        first = math.ceil((params["StartTime"].timestamp() - START) / MINUTE)
        last = min(math.ceil((params["EndTime"].timestamp() - START) / MINUTE), int(self._cloud.now // MINUTE) + 1)
        results = []
        queries = params["MetricDataQueries"]
        start, page = int(params.get("NextToken", 0)), self._weather.page
        if start and (torn := self._weather.breaks_off(self._cloud.now)) is not None:
            raise torn
        for query in queries[start : start + page]:
            metric, how = query["MetricStat"]["Metric"], query["MetricStat"]["Stat"]
            namespace, instance = metric["Namespace"], metric["Dimensions"][0]["Value"]
            known = {minute: self._samples(namespace, instance, minute) for minute in range(first, last)}
            reduced = [(minute, _reduce(how, values)) for minute, values in known.items() if values]
            times = [datetime.fromtimestamp(START + minute * MINUTE, UTC) for minute, _ in reduced]
            results.append({"Id": query["Id"], "Timestamps": times, "Values": [value for _, value in reduced]})
        more = {"NextToken": str(start + page)} if len(queries) > start + page else {}
        return {"MetricDataResults": results, **more}

    def rob(self, instance: str) -> None:
        """Somebody deletes a machine's alarm, or switches it off."""
        self.robbed_at[instance] = self._cloud.now
        if self._weather.rng.random() < 0.5:
            del self.alarms[instance]
        else:
            self.alarms[instance]["ActionsEnabled"] = False

    # --- what the points are -------------------------------------------------------------------------------------

    def _samples(self, namespace: str, instance: str, minute: int) -> list[float]:
        written = self._values.get((namespace, instance, minute), [])
        machine = self._cloud.machines.get(instance)
        if machine is None or not namespace.startswith("AWS/") or self._is_lost(minute):
            return written
        if not _measured(machine, minute, self._cloud.now):
            return written
        return [*written, _real(machine, minute)]

    def _last_in_use(self, machine: Machine, now: int) -> int:
        """Return the last minute in which the host was in use, by a fake point or by itself."""
        fakes = self._points.get(("AWS/EC2", machine.id), [])
        at = bisect_right(fakes, now)
        last = fakes[at - 1] if at else -1
        used = use.last(machine, Way.CPU, now * MINUTE)
        return last if used is None else max(last, int(used // MINUTE))

    # --- evaluation ----------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        minute = round(self._cloud.now / MINUTE)
        self._cloud.later((minute + 1) * MINUTE - self._cloud.now, self._evaluate)
        if self._is_lost(minute):
            return
        now = minute - 1
        for instance, alarm in list(self.alarms.items()):
            machine = self._cloud.machines[instance]
            if machine.state != "running" or not alarm["ActionsEnabled"]:
                continue
            idle = self._is_idle(machine, alarm, now)
            if not idle:
                self._fired.discard(instance)
            elif instance not in self._fired:
                self._fired.add(instance)
                fails = self._cloud.now < self._weather.calm_at and self._weather.chance(self._weather.alarm_fails)
                if machine.protected or fails:
                    machine.spared = True
                else:
                    self._cloud.end(machine, "its alarm", by="alarm")

    def _is_lost(self, minute: int) -> bool:
        begins, ends = self._weather.cpu_lost
        return begins <= minute * MINUTE < ends

    def _is_idle(self, machine: Machine, alarm: Mapping[str, Any], now: int) -> bool:
        length = int(alarm["Period"] * alarm["EvaluationPeriods"] // MINUTE)
        assert machine.running_at is not None
        if alarm["Namespace"].startswith("AWS/"):
            since = max(self._last_in_use(machine, now), int(machine.running_at // MINUTE))
            return now - since >= length
        minutes = range(now - length + 1, now + 1)
        samples = (self._values.get((alarm["Namespace"], machine.id, minute)) for minute in minutes)
        return all(values and sum(values) / len(values) < alarm["Threshold"] for values in samples)


def _measured(machine: Machine, minute: int, now: float) -> bool:
    """Whether EC2 has a point of a machine for a minute, that can be read already."""
    if machine.running_at is None or minute * MINUTE < machine.running_at or minute > now // MINUTE - LATE:
        return False
    return machine.seen_at(minute * MINUTE) == "running"


def _real(machine: Machine, minute: int) -> float:
    at = minute * MINUTE
    return 50.0 if use.between(machine, Way.CPU, at, at) else 0.02


def _reduce(how: str, values: list[float]) -> float:
    if how == "Average":
        return sum(values) / len(values)
    return min(values) if how == "Minimum" else max(values)
