"""How one process reaches the cloud: calls are late, refused or lost, and the process may be killed around each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, Protocol

from flambed.aws import Answer, Clients
from tests.simulation.cloud import Cloud
from tests.simulation.faults import Weather
from tests.virtualtime import START


class Process(Protocol):
    """The process that calls."""

    async def point(self, what: str) -> None:
        """It may be killed here."""

    def call(self, line: str) -> None:
        """Note a call, for the story."""

    def called(self, method: str, error: Exception | None) -> None:
        """Note what became of a call, for the traffic."""


def _api(name: str) -> Any:
    async def method(self: Wire, **params: Any) -> Answer:
        return await self.call(name, params)

    method.__name__ = name
    return method


class Wire:
    """How one process reaches the cloud: calls are late, refused or lost, and the process may be killed around them."""

    def __init__(self, cloud: Cloud, weather: Weather, process: Process) -> None:
        self._cloud = cloud
        self._weather = weather
        self._process = process

    @property
    def clients(self) -> Clients:
        """The clients of the region."""
        return Clients(self, self, self, self, self, self)

    run_instances = _api("run_instances")
    describe_instances = _api("describe_instances")
    terminate_instances = _api("terminate_instances")
    start_instances = _api("start_instances")
    monitor_instances = _api("monitor_instances")
    create_tags = _api("create_tags")
    delete_tags = _api("delete_tags")
    describe_volumes = _api("describe_volumes")
    delete_volume = _api("delete_volume")
    describe_images = _api("describe_images")
    describe_instance_types = _api("describe_instance_types")
    get_service_quota = _api("get_service_quota")
    describe_instance_type_offerings = _api("describe_instance_type_offerings")
    get_console_output = _api("get_console_output")
    put_metric_alarm = _api("put_metric_alarm")
    describe_alarms = _api("describe_alarms")
    delete_alarms = _api("delete_alarms")
    list_tags_for_resource = _api("list_tags_for_resource")
    put_metric_data = _api("put_metric_data")
    get_metric_data = _api("get_metric_data")
    get_parameters = _api("get_parameters")

    async def call(self, name: str, params: Mapping[str, Any]) -> Answer:
        """Make a call."""
        cloud, weather = self._cloud, self._weather
        await self._process.point(f"before {name}")
        await asyncio.sleep(weather.latency(cloud.now))
        await self._process.point(f"on the way to {name}")
        try:
            answer = self._answer(name, params)
        except Exception as error:
            self._process.call(f"{name}{_short(params)}: {error}")
            self._process.called(name, error)
            raise
        self._process.call(f"{name}{_short(params)}")
        self._process.called(name, None)
        await self._process.point(f"after {name}")
        return answer | self._date()

    def _date(self) -> Answer:
        """Return when AWS answers. Where the machine's clock is right that tells nothing, and takes time to read."""
        if not self._weather.clock_jumps:
            return {}
        return {"ResponseMetadata": {"HTTPHeaders": {"date": formatdate(START + self._cloud.now, usegmt=True)}}}

    def _answer(self, name: str, params: Mapping[str, Any]) -> Answer:
        cloud, weather = self._cloud, self._weather
        if (refusal := weather.refusal(name, cloud.now)) is not None:
            raise refusal
        owner = next(part for part in (cloud, cloud.watch, cloud.volumes) if hasattr(part, name))
        answer: Answer = getattr(owner, name)(params)
        if (lost := weather.loses_answer(cloud.now)) is not None:
            raise lost
        return answer

    async def list_queue_tags(self, **_params: Any) -> Answer:
        """Return who reads the queue."""
        await self._process.point("before list_queue_tags")
        return {"Tags": dict(self._cloud.queue.tags)}

    async def tag_queue(self, **params: Any) -> Answer:
        """Mark the queue."""
        await self._process.point("before tag_queue")
        self._cloud.queue.tags |= params["Tags"]
        return {}

    async def untag_queue(self, **params: Any) -> Answer:
        """Take marks away."""
        await self._process.point("before untag_queue")
        for key in params["TagKeys"]:
            self._cloud.queue.tags.pop(key, None)
        return {}

    async def get_caller_identity(self, **params: Any) -> Answer:
        """Say who calls."""
        await asyncio.sleep(0)
        return {"Account": "123456789012"}

    async def receive_message(self, **params: Any) -> Answer:
        """Wait for messages, up to 20 s."""
        cloud, clock = self._cloud, asyncio.get_running_loop()
        await self._process.point("before receive_message")
        if (refusal := self._weather.refusal("receive_message", cloud.now)) is not None:
            await asyncio.sleep(self._weather.latency(cloud.now))
            self._process.called("receive_message", refusal)
            raise refusal
        self._process.called("receive_message", None)
        give_up_at = clock.time() + params["WaitTimeSeconds"]
        while not (messages := cloud.queue.receive(cloud.now, params["MaxNumberOfMessages"])):
            cloud.queue.came.clear()
            if clock.time() >= give_up_at:
                return {}
            try:
                async with asyncio.timeout_at(give_up_at):
                    await cloud.queue.came.wait()
            except TimeoutError:
                continue
        await self._process.point("after receive_message")
        return {"Messages": messages}

    async def delete_message_batch(self, **params: Any) -> Answer:
        """Delete messages."""
        await self._process.point("before delete_message_batch")
        if (refusal := self._weather.refusal("delete_message_batch", self._cloud.now)) is not None:
            await asyncio.sleep(0)
            raise refusal
        self._cloud.queue.delete(entry["ReceiptHandle"] for entry in params["Entries"])
        return {}


def _short(params: Mapping[str, Any]) -> str:
    shown = [
        params[name] for name in ("ClientToken", "MaxCount", "InstanceIds", "Resources", "AlarmName") if name in params
    ]
    return f" {' '.join(map(str, shown))}" if shown else ""
