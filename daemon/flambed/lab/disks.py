"""The volumes that exist: DescribeVolumes and DeleteVolume as EC2 has them.

What bends the truth: a volume that is deleted is gone at once, without being `deleting` for a while.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.models import ec2_backends

from flambed.lab.describe import check_filters, check_page, pattern
from flambed.lab.refusal import Refusal

_FILTERS: Final[dict[str, Callable[[Any], Iterable[Any]]]] = {
    "volume-id": lambda v: [v.id],
    "status": lambda v: [v.status],
    "volume-type": lambda v: [v.volume_type],
    "size": lambda v: [v.size],
    "availability-zone": lambda v: [v.zone.name],
    "snapshot-id": lambda v: [v.snapshot_id],
    "attachment.instance-id": lambda v: [v.attachment.instance.id] if v.attachment else [],
    "attachment.status": lambda v: [v.attachment.status] if v.attachment else [],
    "attachment.device": lambda v: [v.attachment.device] if v.attachment else [],
    "tag-key": lambda v: [tag["key"] for tag in v.get_tags()],
}


def describe_volumes(request: Any) -> ActionResult:
    """The volumes that pass all filters, or those with the ids; one unknown id fails the call."""
    params = request.params
    ids, filters, limit = params.get("VolumeIds", []), params.get("Filters", []), params.get("MaxResults")
    check_filters(filters)
    check_page("volumeIds", ids, limit)
    volumes = _all(request.region)
    for volume in ids:
        _known(volumes, volume)
    tests = [(_values(f["Name"]), pattern(f.get("Values", []))) for f in filters]
    found = [
        volume
        for name, volume in sorted(volumes.items())
        if (not ids or name in ids)
        and all(any(wanted.fullmatch(str(value)) for value in values(volume)) for values, wanted in tests)
    ]
    start = _start(params.get("NextToken"), found)
    page = found[start : start + (limit or 1000)]
    return ActionResult({"Volumes": page, "NextToken": page[-1].id if len(found) > start + len(page) else None})


def delete_volume(request: Any) -> ActionResult:
    """Delete a volume that is attached to nothing."""
    name = request.params["VolumeId"]
    volumes = _all(request.region)
    volume = _known(volumes, name)
    if volume.attachment:
        raise Refusal("VolumeInUse", f"Volume {name} is currently attached to {volume.attachment.instance.id}")
    request.error_on_dryrun()
    del volumes[name]
    ec2_backends[DEFAULT_ACCOUNT_ID][request.region].tags.pop(name, None)
    return EmptyResult()


def _all(region: str) -> dict[str, Any]:
    volumes: dict[str, Any] = ec2_backends[DEFAULT_ACCOUNT_ID][region].volumes
    return volumes


def _known(volumes: dict[str, Any], name: str) -> Any:
    if not re.fullmatch(r"vol-([0-9a-f]{8}|[0-9a-f]{17})", name):
        raise Refusal(
            "InvalidParameterValue", f"Value ({name}) for parameter volumeId is invalid. Expected: 'vol-...'."
        )
    if name not in volumes:
        raise Refusal("InvalidVolume.NotFound", f"The volume '{name}' does not exist.")
    return volumes[name]


def _values(name: str) -> Callable[[Any], Iterable[Any]]:
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return lambda v: [tag["value"] for tag in v.get_tags() if tag["key"] == key]
    if name not in _FILTERS:
        raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
    return _FILTERS[name]


def _start(token: str | None, found: Sequence[Any]) -> int:
    """Where the page after `token`, the last volume of the page before, begins."""
    return 0 if token is None else next((i for i, volume in enumerate(found) if volume.id > token), len(found))
