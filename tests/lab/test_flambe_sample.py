"""Flambé's own example file, as its users have it, unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.serviceproc import Service

SAMPLE = str(Path(__file__).parent.parent / "data" / "flambe-example-cluster.yaml")


@pytest.mark.seed("S17", "S04")
def test_flambes_example_is_valid_as_it_is_and_comes_up_with_its_blanks_filled(service: Service) -> None:
    """`validate` only warns of the key that is not there; `up` needs it, and is given it and the ids with --set."""
    valid = service.ctl("validate", SAMPLE)
    assert valid.code == 0, valid
    assert "warning: key: there is no file /path/to/ssh/key" in valid.stderr
    refused = service.ctl("up", SAMPLE)
    assert refused.code == 2, refused
    assert "key: there is no file /path/to/ssh/key" in refused.stderr

    info = service.lab.info
    blanks = {name: info[name] for name in ("subnet_id", "security_group", "key_name", "key")}
    status = service.up(SAMPLE, *(word for name, value in blanks.items() for word in ("--set", f"{name}={value}")))
    assert {i["name"]: i["type"] for i in status["instances"]} == {
        "my-cluster_orchestrator": "t3.large",
        "my-cluster_factory_0": "g3.4xlarge",
    }
    for instance in status["instances"]:
        tags = service.lab.instance(instance["id"])["tags"]
        assert (tags["project"], tags["company"]) == ("my-project", "xxxxxxxxxx")
        assert (tags["creator"], tags["Purpose"], tags["Role"]) == ("user@company.com", "flambe", instance["role"])
    mine = {"Name": "attachment.instance-id", "Values": [instance["id"] for instance in status["instances"]]}
    volumes = service.lab.boto("ec2").describe_volumes(Filters=[mine])["Volumes"]
    assert {(volume["Size"], volume["VolumeType"]) for volume in volumes} == {(100, "gp2")}
    service.down("my-cluster")
