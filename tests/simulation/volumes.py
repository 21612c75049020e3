"""The volumes of machines: each has one, which should go with it and sometimes does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flambed.aws import Answer
from tests.fakes import client_error
from tests.simulation.faults import Weather
from tests.virtualtime import START

if TYPE_CHECKING:
    from tests.simulation.cloud import Cloud, Machine


@dataclass(slots=True)
class Volume:
    """A root volume."""

    machine: Machine
    tags: dict[str, str]
    state: str = "in-use"


class Volumes:
    """All volumes of the region, by id."""

    def __init__(self, cloud: Cloud, weather: Weather) -> None:
        self._cloud = cloud
        self._weather = weather
        self.all: dict[str, Volume] = {}

    def made(self, machine: Machine, tags: Mapping[str, str]) -> None:
        """A machine was launched."""
        self.all[machine.volume] = Volume(machine, dict(tags))

    def ended(self, machine: Machine) -> None:
        """A machine is terminated: its volume goes with it, or is left."""
        if self._cloud.now < self._weather.calm_at and self._weather.chance(self._weather.volume_outlives):
            self.all[machine.volume].state = "available"
        else:
            del self.all[machine.volume]

    def tag(self, volume: str, tags: Mapping[str, str]) -> None:
        """Tag a volume."""
        self._known(volume).tags |= tags

    # --- the API -------------------------------------------------------------------------------------------------

    def describe_volumes(self, params: Mapping[str, Any]) -> Answer:
        filters = {one["Name"]: one["Values"] for one in params["Filters"]}
        return {
            "Volumes": [
                _described(name, volume)
                for name, volume in self.all.items()
                if all(_fits(name, volume, *wanted) for wanted in filters.items())
            ]
        }

    def delete_volume(self, params: Mapping[str, Any]) -> Answer:
        volume = self._known(params["VolumeId"])
        self._cloud.witness.touched(volume.machine, "robbed of its volume")
        if volume.state != "available":
            raise client_error("VolumeInUse", f"Volume {params['VolumeId']} is currently attached")
        del self.all[params["VolumeId"]]
        return {}

    def delete_tags(self, params: Mapping[str, Any]) -> Answer:
        for name in params["Resources"]:
            volume = self._known(name)
            self._cloud.witness.touched(volume.machine, "robbed of a tag")
            for tag in params["Tags"]:
                volume.tags.pop(tag["Key"], None)
        return {}

    def _known(self, name: str) -> Volume:
        if name not in self.all:
            raise client_error("InvalidVolume.NotFound", f"The volume '{name}' does not exist.")
        return self.all[name]


def _described(name: str, volume: Volume) -> dict[str, Any]:
    return {
        "VolumeId": name,
        "State": volume.state,
        "CreateTime": datetime.fromtimestamp(START + volume.machine.launched_at, UTC),
        "Attachments": [{"InstanceId": volume.machine.id}] if volume.state == "in-use" else [],
        "Tags": [{"Key": key, "Value": value} for key, value in volume.tags.items()],
    }


def _fits(name: str, volume: Volume, by: str, values: list[str]) -> bool:
    if by == "volume-id":
        return name in values
    if by == "status":
        return volume.state in values
    return volume.tags.get(by.removeprefix("tag:")) in values
