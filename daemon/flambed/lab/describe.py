"""DescribeInstances: filters, visibility and paging by instance, as EC2 has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from moto.core.responses import ActionResult

from flambed.lab import reservations
from flambed.lab.faults import Faults
from flambed.lab.fleet import Fleet, Record
from flambed.lab.refusal import Refusal

Values = Callable[[Record], Iterable[Any]]

_ATTRIBUTES: Final[dict[str, str]] = {
    "instance-id": "id",
    "instance-state-name": "state",
    "instance-state-code": "state_code",
    "instance-type": "instance_type",
    "image-id": "image_id",
    "client-token": "client_token",
    "subnet-id": "subnet_id",
    "vpc-id": "vpc_id",
    "key-name": "key_name",
    "owner-id": "owner_id",
    "architecture": "architecture",
    "root-device-name": "root_device_name",
    "root-device-type": "root_device_type",
    "instance-lifecycle": "lifecycle",
    "launch-index": "ami_launch_index",
    "monitoring-state": "monitoring_state",
    "hypervisor": "hypervisor",
    "virtualization-type": "virtualization_type",
}

_FILTERS: Final[dict[str, Values]] = {
    "private-ip-address": lambda r: [r.address if r.instance.nics else None],
    "private-dns-name": lambda r: [reservations.private_name(r.region, r.address) if r.instance.nics else None],
    "ip-address": lambda r: [r.public_address],
    "dns-name": lambda r: [r.public_address],
    "reservation-id": lambda r: [r.reservation.id],
    "availability-zone": lambda r: [r.instance.placement.zone],
    "placement-tenancy": lambda r: [r.instance.placement.tenancy],
    "tenancy": lambda r: [r.instance.placement.tenancy],
    "instance.group-id": lambda r: [g.id for g in r.instance.security_groups],
    "instance.group-name": lambda r: [g.name for g in r.instance.security_groups],
    "iam-instance-profile.arn": lambda r: [(r.instance.iam_instance_profile or {}).get("Arn")],
    "block-device-mapping.volume-id": lambda r: [d.volume_id for d in r.instance.block_device_mapping.values()],
    "block-device-mapping.device-name": lambda r: r.instance.block_device_mapping.keys(),
    "launch-time": lambda r: [r.instance.launch_time.strftime("%Y-%m-%dT%H:%M:%S.000Z")],
    "tag-key": lambda r: [tag["key"] for tag in r.instance.get_tags()],
}


def _values(name: str) -> Values:
    """How to read what the filter `name` compares."""
    if name.startswith("tag:"):
        key = name.removeprefix("tag:")
        return lambda r: [tag["value"] for tag in r.instance.get_tags() if tag["key"] == key]
    if attribute := _ATTRIBUTES.get(name):
        return lambda r: [getattr(r.instance, attribute)]
    if name not in _FILTERS:
        raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
    return _FILTERS[name]


def check_filters(filters: Sequence[dict[str, Any]]) -> None:
    """Refuse more filter values than a call takes."""
    if sum(len(f.get("Values", [])) for f in filters) > 200:
        raise Refusal("FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200")


def check_page(ids_as: str, ids: Sequence[str], limit: int | None, *, least: int = 5) -> None:
    """Refuse a page size that is out of range, or beside ids."""
    if ids and limit is not None:
        raise Refusal(
            "InvalidParameterCombination", f"The parameter {ids_as} cannot be used with the parameter maxResults"
        )
    if limit is not None and not least <= limit <= 1000:
        raise Refusal(
            "InvalidParameterValue",
            f"Value ( {limit} ) for parameter maxResults is invalid. Expecting a value between {least} and 1000.",
        )


def pattern(values: Sequence[str]) -> re.Pattern[str]:
    """Any of the values, in which * and ? stand for other characters and a backslash takes that away."""
    parts = []
    for value in values:
        pieces = re.split(r"(\\.|[*?])", value)
        parts.append(
            "".join(
                {"*": ".*", "?": "."}.get(p, re.escape(p[1:] if p[:1] == "\\" and len(p) == 2 else p)) for p in pieces
            )
        )
    return re.compile("|".join(f"(?:{part})" for part in parts), re.DOTALL)


class Describe:
    """Finds instances for the calls that name them. Runs under the lab's lock."""

    def __init__(self, *, fleet: Fleet, faults: Faults) -> None:
        self._fleet = fleet
        self._faults = faults

    def by_ids(self, region: str, ids: Sequence[str]) -> list[Record]:
        """The instances with these ids; refuses the whole call for one that is malformed, unknown or too fresh."""
        if bad := [i for i in ids if not re.fullmatch(r"i-([0-9a-f]{8}|[0-9a-f]{17})", i)]:
            raise Refusal("InvalidInstanceID.Malformed", f'Invalid id: "{bad[0]}"')
        records = [self._fleet.records.get(instance_id) for instance_id in dict.fromkeys(ids)]
        found = [r for r in records if r and r.region == region and not self._too_fresh(r)]
        _none_missing(ids, found)
        return found

    def taggable(self, region: str, ids: Sequence[str]) -> None:
        """Refuse to tag instances with these ids where one is unknown, has ended, or cannot be tagged yet."""
        found = self.by_ids(region, ids)
        _none_missing(ids, [r for r in found if r.state != "terminated" and not self._untaggable(r)])

    def _too_fresh(self, record: Record) -> bool:
        return self._faults.fresh(lambda fault: fault.ids, record.age)

    def _untaggable(self, record: Record) -> bool:
        return self._faults.fresh(lambda fault: fault.tagging, record.age)

    def _lags(self, record: Record) -> bool:
        return self._faults.fresh(lambda fault: fault.tags, record.age)

    def find(self, region: str, filters: Sequence[dict[str, Any]]) -> list[Record]:
        """The region's instances that pass all filters, oldest first."""
        check_filters(filters)
        tests = [(f["Name"], _values(f["Name"]), pattern(f.get("Values", []))) for f in filters]
        found = []
        for record in self._fleet.records.values():
            if record.region != region or self._too_fresh(record):
                continue
            lags = self._lags(record)
            if all(
                not (lags and name.startswith("tag"))
                and any(value is not None and wanted.fullmatch(str(value)) for value in values(record))
                for name, values, wanted in tests
            ):
                found.append(record)
        return found

    def select(self, request: Any, *, least: int) -> tuple[list[Record], str | None]:
        """The page of instances that a Describe request asks for, and the token of the next page."""
        params = request.params
        ids, limit, token = params.get("InstanceIds", []), params.get("MaxResults"), params.get("NextToken")
        check_page("instancesSet", ids, limit, least=least)
        records = self.find(request.region, params.get("Filters", []))
        if ids:
            wanted = {r.id for r in self.by_ids(request.region, ids)}
            records = [r for r in records if r.id in wanted]
        start = _start(token, records)
        page = records[start : start + (limit or 1000)]
        return page, page[-1].id if len(records) > start + len(page) else None

    def describe_instances(self, request: Any) -> str:
        """Answer DescribeInstances: instances by reservation, a page counting instances."""
        page, token = self.select(request, least=5)
        by_reservation: dict[str, list[Record]] = {}
        for record in page:
            by_reservation.setdefault(record.reservation.id, []).append(record)
        found = [
            reservations.reservation(records[0].reservation, [self.instance(record) for record in records])
            for records in by_reservation.values()
        ]
        return reservations.xml("DescribeInstances", {"Reservations": found, "NextToken": token})

    def instance(self, record: Record) -> dict[str, Any]:
        """What EC2 says of it just now."""
        hidden = self._faults.fresh(lambda fault: fault.address, record.age)
        return reservations.instance(record, addressed=not hidden)

    def describe_instance_status(self, request: Any) -> ActionResult:
        """Answer DescribeInstanceStatus: running instances, or all with IncludeAllInstances."""
        page, token = self.select(request, least=5)
        every = request.params.get("IncludeAllInstances", False)
        shown = [r.instance for r in page if every or r.state == "running"]
        return ActionResult({"InstanceStatuses": shown, "NextToken": token})


def _none_missing(ids: Sequence[str], found: Sequence[Record]) -> None:
    known = {record.id for record in found}
    if missing := [i for i in dict.fromkeys(ids) if i not in known]:
        word, verb = ("ID", "does") if len(missing) == 1 else ("IDs", "do")
        raise Refusal("InvalidInstanceID.NotFound", f"The instance {word} '{', '.join(missing)}' {verb} not exist")


def _start(token: str | None, records: Sequence[Record]) -> int:
    """Where the page after `token`, the last instance of the page before, begins."""
    if token is None:
        return 0
    for index, record in enumerate(records):
        if record.id == token:
            return index + 1
    raise Refusal("InvalidNextToken", f"The token '{token}' is not valid or has expired")
