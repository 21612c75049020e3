"""What the service needs, looked at one by one: how it is, and what to do where it is not well."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from flambed.aws import AwsError
from flambed.errors import Reason
from flambed.observed import survey
from flambed.region import Region
from flambed.settings import Settings

CLOCK_SKEW = 60.0
"""Seconds of difference to AWS's clock from which on the service ends nothing by itself."""

Check = dict[str, Any]


LEAST_BYTES: Final = 100_000_000
LEAST_PERCENT: Final = 5.0
"""Free space on the state folder's disk under which a person has to see to it."""


TRUST: Final = "look at the key on the host itself; then `flambectl trust NAME HOST`, or terminate the host"


async def examine(
    settings: Settings, regions: list[Region], state_dir: Path, daemon: str, *, read_only: str | None = None
) -> list[Check]:
    """Return every check, those of the service, whose id is `daemon`, first, then those of each region.

    `read_only` says why the service begins nothing, if that is so.
    """
    found = [_state_folder(state_dir, read_only), _key_files(state_dir / "keys"), check("service id", True, daemon)]
    for region in regions:
        found += await _region(settings, region)
    return found


def check(name: str, ok: bool | None, message: str, advice: str | None = None) -> Check:
    """Return one check as the control API shows it."""
    return {"check": name, "ok": ok, "message": message, "advice": advice if ok is not True else None}


def _state_folder(path: Path, read_only: str | None) -> Check:
    disk = shutil.disk_usage(path)
    percent = 100.0 * disk.free / disk.total if disk.total else 0.0
    room = f"{disk.free / 1e6:,.0f} MB ({percent:.0f} %) of its disk are free"
    if read_only is not None:
        advice = f"{room}; it goes on by itself once the journal can be written: do not restart it before"
        return check("state folder", False, read_only, advice)
    mode = stat.S_IMODE(path.stat().st_mode)
    mine = path.stat().st_uid == os.geteuid()
    ok = mine and not mode & 0o077
    said = f"{path} has mode {mode:04o}, {room}"
    if ok and (disk.free < LEAST_BYTES or percent < LEAST_PERCENT):
        return check("state folder", None, said, "make room there: without any the service begins and ends nothing")
    return check("state folder", ok, said, f"chmod 700 {path}, and have it belong to the service")


def _key_files(folder: Path) -> Check:
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
    bad = [path for path in files if path.stat().st_mode & 0o077 or path.stat().st_uid != os.geteuid()]
    said = f"{len(files)} key files, readable by the service alone" if not bad else f"others may read {bad[0]}"
    return check("key files", not bad, said, f"chmod 600 {bad[0]}, and exchange that key" if bad else None)


async def _region(settings: Settings, region: Region) -> list[Check]:
    name = region.name
    found: list[Check] = []
    try:
        account = await region.account()
    except AwsError as error:
        advice = (
            "give the service credentials as every AWS tool takes them: a profile, its environment, an instance role"
        )
        return [check(f"{name}: credentials", False, str(error), advice)]
    if region.account_trouble is not None:
        return [check(f"{name}: account", False, region.account_trouble)]
    found.append(check(f"{name}: credentials", True, f"account {account}"))
    found.append(await _call(f"{name}: EC2", "DescribeInstances", lambda: survey.instances(region, creator=None)))
    found.append(
        await _call(
            f"{name}: CloudWatch",
            "DescribeAlarms",
            lambda: region.call(region.clients.cloudwatch.describe_alarms, MaxRecords=1),
        )
    )
    for action, call in _changes(region).items():
        found.append(await _dry_run(f"{name}: {action}", action, call))
    found.append(_queue(settings, region))
    found += _others(region)
    ahead = region.offset
    skewed = abs(ahead) > CLOCK_SKEW
    advice = "set this machine's clock (chrony or systemd-timesyncd): until then nothing is ended by the service itself"
    found.append(check(f"{name}: clock", not skewed, f"AWS's clock is {ahead:+.0f} s ahead of this machine's", advice))
    mode = "refused: points go to Flambed/EC2" if region.keeper.own_metric else "not known to be refused"
    found.append(check(f"{name}: points in AWS/EC2", True, mode))
    return found


async def _call(name: str, action: str, call: Callable[[], Awaitable[object]]) -> Check:
    try:
        await call()
    except AwsError as error:
        return check(name, False, str(error), f"allow {action} to the service's role")
    return check(name, True, f"{action} is permitted")


def _changes(region: Region) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return calls that would change something; with DryRun EC2 only says whether they are permitted."""
    nobody = "i-00000000000000000"
    return {
        "CreateTags": lambda: region.call(
            region.clients.ec2.create_tags, DryRun=True, Resources=[nobody], Tags=[{"Key": "Name", "Value": "dry run"}]
        ),
        "TerminateInstances": lambda: region.call(
            region.clients.ec2.terminate_instances, DryRun=True, InstanceIds=[nobody]
        ),
    }


async def _dry_run(name: str, action: str, call: Callable[[], Awaitable[object]]) -> Check:
    try:
        await call()
    except AwsError as error:
        if error.code == "DryRunOperation":
            return check(name, True, f"{action} is permitted")
        refused = error.reason is Reason.NOT_PERMITTED
        said = str(error) if refused else f"could not be found out: {error}"
        return check(
            name, False if refused else None, said, f"allow {action} to the service's role" if refused else None
        )
    return check(name, None, f"{action} did not say whether it is permitted", None)


def _queue(settings: Settings, region: Region) -> Check:
    name = f"{region.name}: events"
    if region.name not in settings.events.queues:
        advice = f"make a queue with EC2's state changes and name it in the settings: events.queues.{region.name}"
        return check(name, None, "no queue: changes are noticed later, by Describe calls", advice)
    inbox = region.inbox
    assert inbox is not None, "a region with a queue reads it"
    if inbox.unreadable is not None:
        return check(
            name, False, f"the queue cannot be read: {inbox.unreadable}", "allow sqs:ReceiveMessage and DeleteMessage"
        )
    if inbox.shared is not None:
        return check(name, False, inbox.shared, "see above; until then instances are looked at instead")
    return check(name, True, "the queue is being read")


def _others(region: Region) -> list[Check]:
    """Return a check for each other service that has instances here. That is no mistake, if it is known."""
    advice = (
        "if that is this service's own past, as after the loss of its state folder: name the id under `predecessors` in the "
        "settings; else nothing, its instances are left alone"
    )
    return [
        check(
            f"{region.name}: service {other.daemon}",
            None,
            f"another service has {other.instances} instances here: {', '.join(other.clusters)}",
            advice,
        )
        for other in region.others
    ]
