"""What idle protection costs in calls: so many a minute for 1,000 hosts in the steady state, as the lab counts them.

    .venv/bin/python benchmarks/idle.py [HOSTS]

The region's keeper runs against the lab as it does in the service; a minute of both lasts three seconds. Probes are no
calls to AWS: each host is asked once in five minutes over SSH, which `tests/test_probing.py` counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3

from flambed.actions import Protection
from flambed.aws import Aws
from flambed.clock import Clock
from flambed.demo import environment, started
from flambed.keeper import Keeper
from flambed.region import Region
from flambed.steps import protect

MINUTE = 3.0  # real seconds; the lab has to keep up with 1,000 hosts
MINUTES = 5
CLUSTER = ("bench", "bench")
COUNTED = ("PutMetricData", "GetMetricData", "PutMetricAlarm", "DescribeAlarms")


def main() -> None:
    """Count in both modes and print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"calls a minute for {count} hosts\n{'AWS/':8s}  {'timeout':8s}  {'votes':8s}  " + "  ".join(COUNTED))
    for mode in ("accept", "refuse"):
        with ExitStack() as at_end:
            folder = Path(at_end.enter_context(tempfile.TemporaryDirectory()))
            switches = ["--minute", str(MINUTE), "--quotas", "off", "--aws-namespace", mode]
            told = json.loads(at_end.enter_context(started(["lab", *switches], os.environ, folder / "lab.log")))
            os.environ.update({k: v for k, v in environment(told, folder).items() if k.startswith("AWS_")})
            ids = launched(told, count)
            # Else the alarms of five minutes would end them all.
            ask(told, "/lab/faults", {"kind": "cpu", "match": {}, "percent": 50.0})
            asyncio.run(measure(told, mode, ids))


def launched(told: dict[str, Any], count: int) -> list[str]:
    """Launch hosts, and return their ids when they run."""
    ec2 = boto3.client("ec2", region_name=told["region"])
    answer = ec2.run_instances(
        ImageId=told["images"]["ubuntu"], InstanceType="t3.large", MinCount=count, MaxCount=count,
        SubnetId=told["subnet_id"], Monitoring={"Enabled": True},
    )  # fmt: skip
    ids = [instance["InstanceId"] for instance in answer["Instances"]]
    while not all(instance["state"] == "running" for instance in ask(told, "/lab/instances?hosts=0")):
        time.sleep(0.1)  # the lab has no way to wait for it
    return ids


async def measure(told: dict[str, Any], mode: str, ids: Sequence[str]) -> None:
    """Have the keeper protect all hosts, with votes and without, with a timeout of an hour and of 0, and count."""
    aws = Aws()
    region = Region(
        told["region"], await aws.clients(told["region"]), emit=lambda *_, **__: None, clock=Clock(MINUTE),
        queue=None, image_owners=("self",), survey_interval=1e6,
    )  # fmt: skip
    try:
        async with region:
            if mode == "refuse":
                region.keeper.own_metric = True  # found out long ago
            for name, minutes in (("1 h", 60), ("0", 5)):
                at_once = asyncio.Semaphore(16)
                await asyncio.gather(*(put(region, instance, minutes, at_once) for instance in ids))
                await steady(told, region.keeper, (mode, name, "none"), table(ids, minutes))
                await steady(told, region.keeper, (mode, name, "all"), table(ids, minutes, vote_until=float("inf")))
                region.keeper.forget(CLUSTER)
    finally:
        await aws.close()


async def put(region: Region, instance: str, minutes: int, at_once: asyncio.Semaphore) -> None:
    """Put an alarm as the keeper would: three a second are what AWS takes, and they are not what is counted."""
    config = protect.alarm(instance, minutes, 0.5, region=region.name, own_metric=region.keeper.own_metric)
    async with at_once:
        await region.clients.cloudwatch.put_metric_alarm(**config)


def table(ids: Sequence[str], minutes: int, **changes: Any) -> dict[str, Protection]:
    """Return the same protection for all."""
    plain = Protection(instance="", minutes=minutes, threshold=0.5, vote_until=None, seed=False, policy=f"{minutes}")
    return {instance: replace(plain, instance=instance, **changes) for instance in ids}


async def steady(told: dict[str, Any], keeper: Keeper, about: tuple[str, ...], wanted: dict[str, Protection]) -> None:
    """Let the first minutes pass, count the calls of the next ones, and print how many a minute there were."""
    keeper.want(CLUSTER, wanted, lambda _: None)
    await asyncio.sleep(3 * MINUTE)
    before = len(ask(told, "/lab/calls"))
    await asyncio.sleep(MINUTES * MINUTE)
    calls = Counter(call["action"] for call in ask(told, f"/lab/calls?since={before}"))
    figures = "  ".join(f"{calls[action] / MINUTES:{len(action)}.2f}" for action in COUNTED)
    print("  ".join(f"{word:8s}" for word in about) + f"  {figures}", flush=True)


def ask(told: dict[str, Any], path: str, order: dict[str, Any] | None = None) -> Any:
    """Ask the lab's control endpoint, or post an order to it."""
    with urllib.request.urlopen(
        told["endpoint"] + path, None if order is None else json.dumps(order).encode()
    ) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
