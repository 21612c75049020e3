"""What the service needs, looked at one by one: how it is, and what to do where it is not well."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from flambed import durations, limits, permissions, vcpuquotas
from flambed.aws import AwsError
from flambed.errors import Reason, StepError
from flambed.observed.world import World
from flambed.region import Region
from flambed.settings import Settings
from flambed.steps import launch

CLOCK_SKEW = 60.0
"""Seconds of difference to AWS's clock from which on the service ends nothing by itself."""

Check = dict[str, Any]

_POLICY: Final = "config/iam-policy.json has what the service needs"

LEAST_BYTES: Final = 100_000_000
LEAST_PERCENT: Final = 5.0
"""Free space on the state folder's disk under which a person has to see to it."""


TRUST: Final = "look at the key on the host itself; then `flambectl trust NAME HOST`, or terminate the host"


async def examine(
    settings: Settings,
    regions: list[Region],
    state_dir: Path,
    daemon: str,
    *,
    read_only: str | None = None,
    worlds: Sequence[World] = (),
) -> list[Check]:
    """Return every check, those of the service, whose id is `daemon`, first, then those of each region.

    `read_only` says why the service begins nothing, if that is so; `worlds` are the clusters that there are.
    """
    found = [_state_folder(state_dir, read_only), _key_files(state_dir / "keys"), check("service id", True, daemon)]
    for region in regions:
        found += await _region(settings, region, daemon, worlds)
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
    if folder.exists() and folder.stat().st_mode & 0o077:
        return check("key files", False, f"others may look into {folder}", f"chmod 700 {folder}")
    bad = [path for path in files if path.stat().st_mode & 0o077 or path.stat().st_uid != os.geteuid()]
    said = f"{len(files)} key files, readable by the service alone" if not bad else f"others may read {bad[0]}"
    return check("key files", not bad, said, f"chmod 600 {bad[0]}, and exchange that key" if bad else None)


async def _region(settings: Settings, region: Region, daemon: str, worlds: Sequence[World]) -> list[Check]:
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
    here = [world for world in worlds if world.region == name]
    found += await _permissions(region, account, permissions.sample(here, daemon))
    found.append(_alarms(region))
    found += await _quotas(region, here)
    found.append(_queue(settings, region))
    found += _others(region)
    ahead = region.offset
    skewed = abs(ahead) > CLOCK_SKEW
    advice = "set this machine's clock (chrony or systemd-timesyncd): until then nothing is ended by the service itself"
    found.append(check(f"{name}: clock", not skewed, f"AWS's clock is {ahead:+.0f} s ahead of this machine's", advice))
    mode = "refused: points go to Flambed/EC2" if region.keeper.own_metric else "not known to be refused"
    found.append(check(f"{name}: points in AWS/EC2", True, mode))
    return found


async def _permissions(region: Region, account: str, sample: permissions.Sample) -> list[Check]:
    """Return a check for each action that is refused or could not be tried, and one for all others."""
    findings = await permissions.examine(region, account, sample)
    refused = [
        check(f"{region.name}: {one.action}", False, one.why, f"allow {one.action} to the service's role: {_POLICY}")
        for one in findings
        if one.allowed is False
    ]
    unclear = [
        check(
            f"{region.name}: {one.action}", None, f"could not be found out: {one.why}", "run `flambectl doctor` again"
        )
        for one in findings
        if one.allowed is None and one.why
    ]
    allowed = [one.action for one in findings if one.allowed]
    said = f"{len(allowed)} of {len(findings)} calls that were tried are permitted"
    untried = [one.action for one in findings if one.allowed is None and not one.why]
    untried += ["ec2:RunInstances"] if sample.launch is None else []
    if untried:
        said += f"; {', '.join(untried)}: not to be told before a cluster is up here"
    advice = "run `flambectl doctor` again while a cluster is up" if untried else f"allow what is refused: {_POLICY}"
    well = False if refused else None if untried else True
    return [check(f"{region.name}: permissions", well, said, advice), *refused, *unclear]


def _alarms(region: Region) -> Check:
    """PutMetricAlarm and PutMetricData cannot be tried without doing them: what became of them tells."""
    guards = [guard for guard in region.keeper.guards.values() if guard.guarded]
    lacking = sorted(guard.instance for guard in guards if guard.lacking)
    name = f"{region.name}: alarms"
    if lacking:
        said = f"{len(lacking)} of {len(guards)} hosts have no alarm: {', '.join(lacking[:5])}"
        return check(
            name,
            False,
            said,
            f"the log has protection.alarm_lacking with why; allow cloudwatch:PutMetricAlarm: {_POLICY}",
        )
    return check(name, True, f"{sum(guard.armed is not None for guard in guards)} of {len(guards)} hosts have theirs")


async def _quotas(region: Region, worlds: Iterable[World]) -> list[Check]:
    """Return a check for each vCPU quota that the clusters of a region need some of."""
    wanted = limits.total(limits.asked(w.desired, w.region, w, shrink=False) for w in worlds if w.desired and w.wanted)
    kinds = {kind: number for (_, kind), number in wanted.items()}
    try:
        vcpus = {kind: await launch.vcpus(region, kind) for kind in kinds}
    except StepError as error:
        return [
            check(f"{region.name}: quotas", None, f"could not be found out: {error}", "the message says what is wrong")
        ]
    return [await _quota(region, quota, number) for quota, number in vcpuquotas.by_quota(kinds, vcpus).items()]


async def _quota(region: Region, quota: vcpuquotas.Quota, wanted: int) -> Check:
    name = f"{region.name}: quota {quota.code}"
    try:
        most = await vcpuquotas.value(region, quota)
    except AwsError as error:
        advice = (
            f"allow servicequotas:GetServiceQuota: {_POLICY}"
            if error.reason is Reason.NOT_PERMITTED
            else "look it up in the console, under Service Quotas"
        )
        return check(name, None, f"{quota.name}: could not be found out: {error}", advice)
    said = (
        f"{quota.name}: the account may have {most} vCPUs, its clusters want {wanted} (what else runs is not counted)"
    )
    advice = (
        "ask AWS for more: aws service-quotas request-service-quota-increase --service-code ec2 "
        f"--quota-code {quota.code} --desired-value {wanted} --region {region.name}"
    )
    return check(name, wanted <= most, said, advice)


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
    if inbox.heard_at is None:
        said = "the queue is being read, and nothing has come since the service started"
        advice = (
            "no mistake while no instance has changed since; else see whether a rule sends to it: aws events "
            f"list-rule-names-by-target --region {region.name} --target-arn ARN_OF_THE_QUEUE"
        )
        return check(name, None, said, advice)
    return check(name, True, f"the queue is being read, and an instance was heard of {_ago(region, inbox.heard_at)}")


def _ago(region: Region, at: float) -> str:
    return f"{durations.words(round(max(0.0, region.clock.now() - at)))} ago"


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
