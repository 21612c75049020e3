"""Two regions in one service: clusters side by side, each with a reader, a survey and a keeper of its region."""

from __future__ import annotations

import pytest

from tests.lab.serviceproc import Service


@pytest.mark.seed("S09", "S30")
def test_clusters_live_side_by_side_in_two_regions(service: Service) -> None:
    """They come up at the same time; taking one down leaves the other alone; each sees its own region only."""
    files = {
        name: service.file(name, region=region, factories_num=1, factories_timeout=1)
        for name, region in (("east", "us-east-1"), ("west", "eu-west-1"))
    }
    for file in files.values():
        assert service.ctl("up", file, "--detach").code == 0
    statuses = {name: service.until_phase("ready", "degraded", name=name) for name in files}
    assert {name: (s["phase"], s["region"]) for name, s in statuses.items()} == {
        "east": ("ready", "us-east-1"),
        "west": ("ready", "eu-west-1"),
    }
    where = {i["id"]: i["region"] for i in service.lab.instances(hosts=False)}
    for status in statuses.values():
        assert {where[instance["id"]] for instance in status["instances"]} == {status["region"]}
    assert len({line["region"] for line in service.log("region.opened")}) == 2

    service.down("east")
    west = service.status("west")
    assert west["phase"] == "ready"
    alive = {i["id"] for i in service.lab.instances(hosts=False) if i["state"] == "running"}
    assert alive == {instance["id"] for instance in west["instances"]}
    service.down("west")


def test_one_creator_and_name_cannot_live_in_two_regions(service: Service) -> None:
    """The second is refused and names the region of the first; after `down` it may be launched elsewhere."""
    service.up(service.file(factories_num=1))
    begun = len(service.lab.calls())
    refused = service.ctl("up", service.file(factories_num=1, region="eu-west-1"))
    assert refused.code == 1, refused
    assert "us-east-1" in refused.stderr
    assert service.lab.calls(begun, action="RunInstances") == []
    service.down()
    assert service.up(service.file(factories_num=1, region="eu-west-1"))["region"] == "eu-west-1"
    service.down()


@pytest.mark.seed("S09")
def test_without_region_name_the_configured_region_is_taken(service: Service) -> None:
    """The environment of the service says where, as for every tool of AWS."""
    status = service.up(service.file(factories_num=1, region_name=None))
    assert status["region"] == "us-east-1"
    service.down()
