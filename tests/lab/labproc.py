"""A lab in a process of its own, for any test of the project.

with start_lab("--boot", "3") as lab:
    ec2 = lab.boto("ec2")
    ...
    assert lab.calls()[-1]["action"] == "RunInstances"
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests import iam

READY_WITHIN = 60.0  # seconds; moto's import alone takes two or three on a busy machine
ENDS_WITHIN = 10.0

T = TypeVar("T")

_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIALABLABLABLABLAB0",
    "AWS_SECRET_ACCESS_KEY": "lab",
}


@dataclass(frozen=True)
class LabProcess:
    """A running lab."""

    info: dict[str, Any]
    """The JSON line it printed."""
    pid: int
    _clients: dict[tuple[str, str, bool], Any] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """The URL that clients of AWS are given."""
        return str(self.info["endpoint"])

    def env(self) -> dict[str, str]:
        """This process's environment, changed so that every AWS client in a child speaks to the lab."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return {
            **kept,
            **_CREDENTIALS,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": self.info["region"],
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "FLAMBED_LAB_MINUTE": str(self.info["minute"]),
        }

    def boto(self, service: str, region: str | None = None, *, compress: bool = True) -> Any:
        """A client of the SDK that never retries; without `compress` it sends large requests as they are."""
        key = (service, region or self.info["region"], compress)
        if key not in self._clients:
            self._clients[key] = boto3.client(
                service,
                region_name=key[1],
                endpoint_url=self.endpoint,
                aws_access_key_id=_CREDENTIALS["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
                config=Config(
                    retries={"total_max_attempts": 1},
                    max_pool_connections=50,
                    disable_request_compression=not compress,
                ),
            )
        return self._clients[key]

    def request(self, *, role: str = "Factory", region: str | None = None, **changes: Any) -> dict[str, Any]:
        """Arguments of run_instances that the lab accepts: one small instance, tagged with `role`."""
        world = self.info["regions"][region or self.info["region"]]
        tags = [{"Key": "Role", "Value": role}]
        return {
            "ImageId": world["images"]["ubuntu"],
            "InstanceType": "t3.large",
            "MinCount": 1,
            "MaxCount": 1,
            "KeyName": self.info["key_name"],
            "SubnetId": world["subnet_id"],
            "SecurityGroupIds": [world["security_group"]],
            "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
        } | changes

    def launch(self, *, role: str = "Factory", region: str | None = None, **changes: Any) -> list[str]:
        """Launch instances as `request` has them; their ids."""
        answer = self.boto("ec2", region).run_instances(**self.request(role=role, region=region, **changes))
        return [instance["InstanceId"] for instance in answer["Instances"]]

    def calls(self, since: int = 0, **wanted: Any) -> list[dict[str, Any]]:
        """The ledger from index `since` on; `wanted` compares fields, as in `action="RunInstances"`."""
        calls = self.http("GET", f"/lab/calls?since={since}")
        return [call for call in calls if all(call[name] == value for name, value in wanted.items())]

    def instances(self, *, hosts: bool = True) -> list[dict[str, Any]]:
        """All instances, by default with the view of their hosts."""
        answer: list[dict[str, Any]] = self.http("GET", f"/lab/instances?hosts={int(hosts)}")
        return answer

    def instance(self, instance_id: str) -> dict[str, Any]:
        """One instance with the view of its host."""
        answer: dict[str, Any] = self.http("GET", f"/lab/instances/{instance_id}")
        return answer

    def alarms(self) -> list[dict[str, Any]]:
        """CloudWatch's alarms as they are now."""
        answer: list[dict[str, Any]] = self.http("GET", "/lab/alarms")
        return answer

    def fault(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        """Post a fault (see flambed.lab.faults); those now active."""
        answer: list[dict[str, Any]] = self.http("POST", "/lab/faults", order)
        return answer

    def clear_faults(self) -> None:
        """End all faults."""
        self.http("DELETE", "/lab/faults")

    def until(self, what: Callable[[], T | None], *, within: float = 10.0) -> T:
        """The first answer of `what` that is true; the lab has no way to wait for it. Raises TimeoutError."""
        deadline = time.monotonic() + within
        while not (answer := what()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} was not true within {within} s; the lab has {self.instances(hosts=False)}")
            time.sleep(0.02)
        return answer

    def until_state(self, ids: list[str], state: str, *, within: float = 10.0) -> None:
        """Wait until all these instances are in `state`."""
        self.until(
            lambda: {i["state"] for i in self.instances(hosts=False) if i["id"] in ids} == {state}, within=within
        )

    def http(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the control endpoint; a refusal is a RuntimeError with its message."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.endpoint + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(f"{method} {path}: {json.load(error)['error']}") from None


@contextmanager
def refused(code: str, status: int = 400) -> Iterator[None]:
    """The call in this context must fail with AWS's error `code` and the HTTP status."""
    with pytest.raises(ClientError) as caught:
        yield
    answer = caught.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status), answer["Error"]


@contextmanager
def start_lab(*arguments: str) -> Iterator[LabProcess]:
    """A lab with these command line arguments; ended, checked and cleaned up when the context ends.

    At the end it must exit with 0 on SIGTERM within ENDS_WITHIN, have said nothing on stderr and have left no file; and
    the shipped IAM policy must allow whatever services have called in it.
    """
    command = [sys.executable, "-m", "flambed.lab", "--until-eof", *arguments]
    with tempfile.TemporaryFile("w+") as stderr:

        def said() -> str:
            stderr.seek(0)
            return stderr.read()

        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert process.stdin
        assert process.stdout
        with process:
            line = process.stdout.readline()
            if not line:
                process.wait(ENDS_WITHIN)
                raise RuntimeError(f"{' '.join(command)} did not start:\n{said()}")
            lab = LabProcess(json.loads(line), process.pid)
            try:
                yield lab
                not_allowed = iam.refused(lab.calls())
            except BaseException as error:
                error.add_note(f"the lab said: {said() or 'nothing'}")
                raise
            finally:
                for client in lab._clients.values():
                    client.close()
                code = _end(process)
        assert code == 0, f"the lab ended with {code}:\n{said()}"
        assert not said(), f"the lab said:\n{said()}"
        assert not Path(lab.info["key"]).parent.exists(), "the lab left its folder behind"
        assert not not_allowed, f"a service did what config/iam-policy.json does not allow: {not_allowed[:5]}"


def _end(process: subprocess.Popen[str]) -> int:
    """Ask the lab to end, make it end where it does not within ENDS_WITHIN; its exit code."""
    process.terminate()
    try:
        return process.wait(ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
