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


def test_hosts_of_a_role_with_a_timeout_bring_an_idle_timer_and_the_others_none(service: Service) -> None:
    """Each role has its own user data: the timer's numbers are those of the role, and only there poweroff is the end."""
    lab = service.lab
    began = len(lab.calls())
    status = service.up(service.file(factories_num=1, factories_timeout=1.5, orchestrator_timeout=-1))
    hosts = {i["role"]: lab.instance(i["id"])["host"]["files"] for i in status["instances"] if i["stage"] == "ready"}
    lease = hosts["Factory"]["/var/lib/cloud/instance/flambed/lease"].split()
    assert (lease[0], float(lease[1]), lease[2], lease[-1]) == ("90", 0.5, "0", "end"), "installed, or renewed by now"
    assert "/run/flambed/samples" in hosts["Factory"], "it ticks"
    assert not [path for path in hosts["Orchestrator"] if path.startswith("/run/flambed")]
    launches = lab.calls(began, action="RunInstances")
    assert sorted(call["params"]["InstanceInitiatedShutdownBehavior"] for call in launches) == ["stop", "terminate"]
    service.down()
