"""What a cluster file names reaches EC2 and the hosts: subnet, group, images, and the user who sets up."""

from __future__ import annotations

import pytest

from tests.lab.serviceproc import Service


@pytest.mark.seed("S10")
def test_set_up_runs_as_the_user_of_the_file_on_every_host(service: Service) -> None:
    """Amazon Linux's user instead of Ubuntu's: whoami says so, in that user's home folder."""
    images = service.lab.info["images"]
    status = service.up(
        service.file(
            username="ec2-user",
            orchestrator_ami=images["amazon-linux"],
            factory_ami=images["amazon-linux"],
            setup_cmds=["whoami > who"],
        )
    )
    for instance in status["instances"]:
        files = service.lab.instance(instance["id"])["host"]["files"]
        assert files["/home/ec2-user/who"] == "ec2-user\n"
        assert "/home/ec2-user/.flambed/cluster.json" in files
        assert not [path for path in files if path.startswith("/home/ubuntu/.flambed")]
    service.down()


@pytest.mark.seed("S05", "S27", "S28", "S29")
def test_hosts_are_launched_into_the_subnet_and_the_group_from_the_owners_default_images(service: Service) -> None:
    """The second subnet, so that no default can be meant; a stranger has public images of the same names."""
    lab = service.lab
    world = lab.info["regions"]["us-east-1"]
    subnet = world["subnets"]["us-east-1b"]
    began = len(lab.calls())
    service.up(service.file(factories_num=1, subnet_id=subnet))
    launches = lab.calls(began, action="RunInstances")
    assert {call["params"]["ImageId"] for call in launches} == {
        world["images"]["orchestrator"],
        world["images"]["factory"],
    }
    assert [call["params"]["SubnetId"] for call in launches] == [subnet] * 2
    assert [call["params"]["SecurityGroupId"] for call in launches] == [[world["security_group"]]] * 2
    same = [{"Name": "name", "Values": ["flambe-factory-ami 0.0.0"]}]
    owners = {image["OwnerId"] for image in lab.boto("ec2").describe_images(Filters=same)["Images"]}
    assert len(owners) == 2, "the stranger's image is there to be chosen"
    service.down()
