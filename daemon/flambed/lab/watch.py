"""CloudWatch as the lab has it: metrics, alarms that are evaluated and act, and the CPU of the hosts.

moto keeps what it is told and never looks at it. Here each operation of CloudWatch that the lab has is taken over whole,
below the client's protocol: it gets the parsed parameters and gives back what the API reference names.

What bends the truth (beyond what metrics.py, metric_queries.py, alarms.py and alarm_api.py say of themselves): a point
of a host's CPU is one sample, stamped with the start of its minute (basic monitoring: of its five minutes) and there
when that is over; minutes that tick() missed are written with the CPU of now.
"""

from __future__ import annotations

import threading
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from moto.cloudwatch.exceptions import CloudWatchException
from moto.cloudwatch.models import CloudWatchBackend
from moto.cloudwatch.responses import CloudWatchResponse
from moto.core.responses import ActionResult
from moto.ec2.models import EC2Backend, ec2_backends

from flambed.lab import metric_queries
from flambed.lab.alarm_api import Alarms, Params, Place, backends, place
from flambed.lab.clock import Clock
from flambed.lab.metrics import MINUTE, Datum, Metric, Metrics, Rejected, parse_data
from flambed.lab.seams import seam

CPU: Final = ("AWS/EC2", "CPUUtilization")
BASIC_MONITORING: Final = 5  # minutes from point to point

Operation = Callable[[CloudWatchBackend, Params], dict[str, Any]]


class Watch:
    """CloudWatch of the lab. All of it runs under `lock`.

    `terminate(region, instance_id)` carries out the alarms' terminate action and raises the ServiceException that EC2
    would answer where it cannot; `instance_state` gives the state's name, None for an instance that EC2 does not (yet)
    know; `monitored` tells detailed monitoring. `namespaces` says what becomes of points for namespaces that begin with
    `AWS/`. `announce` gets the region and the detail of each `CloudWatch Alarm State Change` event. `seed` sets the
    hosts' idle CPU.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        lock: threading.RLock,
        namespaces: Literal["accept", "refuse"],
        terminate: Callable[[str, str], None],
        instance_state: Callable[[str, str], str | None],
        monitored: Callable[[str, str], bool],
        announce: Callable[[str, dict[str, Any]], None] | None = None,
        seed: int = 0,
    ) -> None:
        self._clock = clock
        self._lock = lock
        self._namespaces = namespaces
        self._instance_state = instance_state
        self._monitored = monitored
        self._seed = seed
        self._metrics: defaultdict[Place, Metrics] = defaultdict(Metrics)
        self._alarms = Alarms(
            clock, self._metrics, terminate=terminate, instance_state=instance_state, announce=announce
        )
        self._pages = metric_queries.Pages()
        self._cpu: dict[str, float | None] = {}
        self._written: dict[tuple[Place, str], int] = {}  # the last minute whose CPU was written, by instance

    def install(self) -> None:
        """Take CloudWatch over from moto. Raises what seam() raises where moto is not the one this was written for."""
        backend = CloudWatchBackend("us-east-1", "0" * 12)
        seam(backend, "alarms")
        seam(backend, "tagger")
        seam(CloudWatchBackend, "tag_resource", "arn", "tags")
        seam(EC2Backend, "all_reservations", "filters")
        seam(CloudWatchResponse, "cloudwatch_backend")
        seam(CloudWatchResponse, "_get_params")
        for operation in self._operations():
            if operation != self._alarms.describe_alarm_history:  # moto has none
                seam(CloudWatchResponse, operation.__name__)
            setattr(CloudWatchResponse, operation.__name__, self._adapt(operation))

    def _operations(self) -> Iterator[Any]:
        yield self.put_metric_data
        yield self.get_metric_data
        yield self.get_metric_statistics
        yield self.list_metrics
        yield self._alarms.put_metric_alarm
        yield self._alarms.describe_alarms
        yield self._alarms.describe_alarms_for_metric
        yield self._alarms.describe_alarm_history
        yield self._alarms.delete_alarms
        yield self._alarms.list_tags_for_resource
        yield self._alarms.enable_alarm_actions
        yield self._alarms.disable_alarm_actions
        yield self._alarms.set_alarm_state

    def _adapt(self, operation: Operation) -> Callable[[CloudWatchResponse], ActionResult]:
        """The operation in the form of a method of moto's CloudWatchResponse."""

        def method(response: CloudWatchResponse) -> ActionResult:
            params = response._get_params()  # noqa: SLF001 - the parameters by the API's names, whatever the protocol
            with self._lock:
                try:
                    return ActionResult(operation(response.cloudwatch_backend, params))
                except Rejected as rejected:
                    raise CloudWatchException(rejected.code, rejected.message) from rejected

        return method

    def tick(self) -> None:
        """A lab minute has passed: write the CPU of the hosts, evaluate every alarm, act on changes of state."""
        with self._lock:
            now = self._clock.now()
            self._write_cpu(int(now // MINUTE) - 1)
            self._alarms.evaluate_all(now)

    def set_cpu(self, instance_id: str, percent: float | None) -> None:
        """The host's real CPU from now on, in percent of all its cores; None: no data at all."""
        with self._lock:
            self._cpu[instance_id] = percent

    def alarms_json(self) -> list[dict[str, Any]]:
        """Every alarm as DescribeAlarms tells it, with its `Region` and `History`, in types that JSON has."""
        with self._lock:
            return self._alarms.as_json()

    # The hosts' CPU

    def _write_cpu(self, last: int) -> None:
        """Write the points of all running instances up to the minute `last`."""
        for backend in backends(ec2_backends):
            where = place(backend)
            for instance_id in [i.id for reservation in backend.all_reservations() for i in reservation.instances]:
                if self._instance_state(backend.region_name, instance_id) != "running":
                    self._written.pop((where, instance_id), None)
                    continue
                first = self._written.get((where, instance_id), last - 1) + 1
                self._written[where, instance_id] = last
                detailed = self._monitored(backend.region_name, instance_id)
                for minute in range(first, last + 1):
                    self._write_point(where, instance_id, minute, detailed=detailed)

    def _write_point(self, where: Place, instance_id: str, minute: int, *, detailed: bool) -> None:
        """Write the point that is due when this minute is over, if one is."""
        if not detailed:
            if minute % BASIC_MONITORING != BASIC_MONITORING - 1:
                return
            minute -= BASIC_MONITORING - 1
        noise = zlib.crc32(f"{self._seed}/{instance_id}/{minute}".encode()) / 2**32
        percent = self._cpu.get(instance_id, 0.1 + 0.2 * noise)
        if percent is not None:
            metric = Metric(*CPU, frozenset({("InstanceId", instance_id)}))
            self._metrics[where].add(Datum(metric, "Percent", minute, 1.0, percent, percent, percent))

    # The operations of the API that are about metrics

    def put_metric_data(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """Keep points, all of a call or none."""
        namespace = params["Namespace"]
        if namespace.startswith("AWS/") and self._namespaces == "refuse":
            raise Rejected("InvalidParameterValue", "The value AWS/ for parameter Namespace is invalid.")
        for datum in parse_data(namespace, params.get("MetricData") or (), self._clock.now()):
            self._metrics[place(backend)].add(datum)
        return {}

    def get_metric_data(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """Statistics of up to 500 metrics."""
        return metric_queries.get_metric_data(self._metrics[place(backend)], self._pages, params)

    def get_metric_statistics(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """Statistics of one metric."""
        return metric_queries.get_metric_statistics(self._metrics[place(backend)], params)

    def list_metrics(self, backend: CloudWatchBackend, params: Params) -> dict[str, Any]:
        """The metrics that have points."""
        return metric_queries.list_metrics(self._metrics[place(backend)], self._pages, params)
