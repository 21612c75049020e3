"""The main job, shown: a cluster in a pretend AWS on this machine, brought up, looked at and taken down.

It starts the lab, the service and the client as a user would, each as a process of its own, and shows each command
before it runs it. Everything lives in a temporary folder and ends with the demo.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

CLUSTER = """\
!AWSCluster

name: demo
creator: you@example.com

orchestrator_type: t3.large
factories_num: 4
factories_type: g4dn.xlarge
orchestrator_timeout: -1   # runs until it is taken down
factories_timeout: 1       # an hour of idleness ends a factory

key_name: {key_name}
key: {key}
security_group: {security_group}
subnet_id: {subnet_id}

setup_cmds:
  - echo installing what the experiment needs
  - sleep 1
"""

ENDS_WITHIN = 15.0
"""Seconds that the service and the lab are given to end."""


def main() -> int:
    """Run the demo; return 0 if it went as it should."""
    with ExitStack() as at_end:
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="flambed-demo-")))
        say("a pretend AWS on this machine: flambed lab --boot 3")
        lab = at_end.enter_context(started(["lab", "--boot", "3"], os.environ, folder / "lab.log"))
        told = json.loads(lab)
        environ = environment(told, folder)
        file = folder / "cluster.yaml"
        file.write_text(
            CLUSTER.format(**{name: told[name] for name in ("key_name", "key", "security_group", "subnet_id")})
        )
        say("the service: flambed run")
        log = folder / "service.log"
        at_end.enter_context(started(["run"], environ, log, '"service.started"'))
        steps = [
            ["up", str(file)],
            ["status", "demo"],
            ["why", "demo"],
            ["logs", "demo", "demo_factory_0"],
            ["down", "demo", "--yes"],
            ["list"],
        ]
        for step in steps:
            say("flambectl " + " ".join(step).replace(str(file), "cluster.yaml"))
            code = subprocess.run([*program("flambed.cli"), *step], env=environ, check=False).returncode
            if code != 0:
                print(f"flambectl ended with {code}; the service's log:\n{log.read_text()[-4000:]}")
                return 1
        return left(told, environ)


def left(told: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Ask the lab, not the service, what is left."""
    import boto3  # noqa: PLC0415 - only the last step needs it

    say("what the pretend AWS itself says is left")
    session = boto3.Session(
        aws_access_key_id=environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
        region_name=told["region"],
    )
    ec2 = session.client("ec2", endpoint_url=told["endpoint"])
    alive = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped", "shutting-down"]}
    instances = [
        i["InstanceId"] for r in ec2.describe_instances(Filters=[alive])["Reservations"] for i in r["Instances"]
    ]
    volumes = [volume["VolumeId"] for volume in ec2.describe_volumes()["Volumes"]]
    alarms = session.client("cloudwatch", endpoint_url=told["endpoint"]).describe_alarms()["MetricAlarms"]
    print(f"instances: {len(instances)}, volumes: {len(volumes)}, alarms: {len(alarms)}")
    return 1 if instances or volumes or alarms else 0


def environment(told: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the environment in which AWS is the lab and everything of the service is in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FLAMBED_"))}
    return {
        **kept,
        "AWS_ENDPOINT_URL": told["endpoint"],
        "AWS_DEFAULT_REGION": told["region"],
        "AWS_ACCESS_KEY_ID": "AKIADEMODEMODEMODEMO",
        "AWS_SECRET_ACCESS_KEY": "demo",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "FLAMBED_CONFIG": os.devnull,
        "FLAMBED_STATE_DIR": str(folder / "state"),
        "FLAMBED_SOCKET": str(folder / "control.sock"),
        "FLAMBED_SSH_PORT": str(told["ssh_port"]),
        "FLAMBED_EVENTS__QUEUES": json.dumps(told["queues"]),
        "FLAMBED_LOG__FORMAT": "json",
    }


def program(module: str) -> list[str]:
    """Return the command line of one of our programs, in this very Python."""
    return [sys.executable, "-m", module]


@contextmanager
def started(arguments: list[str], environ: Mapping[str, str], log: Path, until: str = "") -> Iterator[str]:
    """Run `flambed` in the background, its output in `log`; yield the first line that speaks of `until`."""
    process = subprocess.Popen(
        [*program("flambed.app"), *arguments],
        env=dict(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_copy, args=(process, log, lines), daemon=True)
    reader.start()
    try:
        while (line := lines.get()) is not None and until not in line:
            pass
        if line is None:
            raise SystemExit(f"flambed {' '.join(arguments)} ended at once:\n{log.read_text()}")
        yield line
    finally:
        process.terminate()  # also when the demo is interrupted: the lab takes its folder with it
        try:
            process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()


def _copy(process: subprocess.Popen[str], log: Path, lines: queue.SimpleQueue[str | None]) -> None:
    """Read what a process prints, to its end: a full pipe would stop it."""
    assert process.stdout is not None, "it was asked for"
    with process.stdout, log.open("w") as copy:
        for line in process.stdout:
            copy.write(line)
            copy.flush()
            lines.put(line)
    lines.put(None)


def say(text: str) -> None:
    """Show what comes next."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    print(f"\n{bold}# {text}{plain}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
