"""The region over real HTTP: what crosses the wire is what the lab, and so AWS, understands."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import aioboto3
import pytest

from flambed.actions import Protection
from flambed.aws import Aws, AwsError
from flambed.clock import Clock
from flambed.desired import Cluster, Role
from flambed.errors import Reason, StepError
from flambed.observed import survey
from flambed.observed.facts import (
    AlarmArmed,
    AlarmLacking,
    BecameBusy,
    BecameIdle,
    ClusterSurveyed,
    Fact,
    LaunchAnswered,
    PointsSeeded,
    StateNotified,
)
from flambed.region import Region
from flambed.steps import launch, retire
from flambed.steps.protect import alarm_name
from flambed.tags import tags_of
from tests.clusterfiles import cluster as cluster_file
from tests.fakes import OWNER, Recorder
from tests.lab.labproc import LabProcess, start_lab

F = TypeVar("F", bound=Fact)


@dataclass
class Heard(Recorder):
    """Takes facts, and lets a test wait for them."""

    came: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, fact: Fact) -> None:
        super().take(fact)
        self.came.set()

    async def until(self, what: Callable[[], bool], within: float = 15.0) -> None:
        """Return when it is so; it is looked at whenever a fact came."""
        async with asyncio.timeout(within):
            while not what():
                self.came.clear()
                await self.came.wait()


def wanted(host: str, **changes: Any) -> Protection:
    """Return the protection of a factory with a timeout of an hour."""
    plain = Protection(instance=host, minutes=60, threshold=0.5, vote_until=None, seed=False, policy="p")
    return replace(plain, **changes)


@dataclass
class Opened:
    """A region of a lab, a cluster in it, and what is heard."""

    lab: LabProcess
    region: Region
    cluster: Cluster
    heard: Heard
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # the lab's tests share it, and tokens are kept

    async def launch(self, role: Role, count: int) -> LaunchAnswered:
        """Launch instances of a role, and have their events."""
        prepared = await launch.prepare(self.region, self.cluster, (role,))
        spec = replace(prepared.specs[0], count=count)
        name = launch.creation_name(self.cluster, role)
        tags = tags_of(self.cluster, role, name, cluster_id=self.id, daemon="d", owner=1000)
        answer = await launch.launch(self.region, self.cluster, spec, f"{self.id}-{role}", tags, b"#cloud-config\n")
        for instance in answer.instances:
            self.region.route(instance.id, self.cluster.identity)
        return answer

    def states(self) -> set[tuple[str, str]]:
        """Return the states that events have told, and of which instance."""
        return {(fact.state, fact.instance) for fact in self.heard.of(StateNotified)}

    async def running(self, ids: Sequence[str]) -> None:
        """Return when events have told that these run."""
        await self.heard.until(lambda: self.states() >= {("running", instance) for instance in ids})

    def want(self, hosts: Sequence[str], **changes: Any) -> None:
        """Want this protection for the hosts."""
        self.region.keeper.want(
            self.cluster.identity, {host: wanted(host, **changes) for host in hosts}, self.heard.take
        )


@asynccontextmanager
async def opened(lab: LabProcess, *, queue: bool = True, survey_interval: float = 1e6) -> AsyncIterator[Opened]:
    """Open the lab's region, as the service would."""
    env = lab.env()
    session = aioboto3.Session(
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=lab.info["region"],
    )
    aws, heard = Aws(session), Heard()
    wanted = cluster_file(
        key_name=lab.info["key_name"],
        subnet_id=lab.info["subnet_id"],
        security_group=lab.info["security_group"],
        factories_type="g4dn.xlarge",
        orchestrator_ami="ssm:/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    )
    region = Region(
        lab.info["region"],
        await aws.clients(lab.info["region"]),
        emit=heard.emit,
        clock=Clock(float(lab.info["minute"])),
        queue=lab.info["queues"][lab.info["region"]] if queue else None,
        image_owners=(OWNER,),
        survey_interval=survey_interval,
    )
    try:
        async with region:
            region.subscribe(wanted.identity, heard.take)
            yield Opened(lab, region, wanted, heard)
    finally:
        await aws.close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[LabProcess], None]:
    """Point every client that is made from now on to a lab, the way the service is pointed to one."""

    def point(lab: LabProcess) -> None:
        for name in ("AWS_ENDPOINT_URL", "AWS_EC2_METADATA_DISABLED"):
            monkeypatch.setenv(name, lab.env()[name])

    return point


@pytest.mark.seed("S24")
@pytest.mark.seed("S25")
@pytest.mark.seed("S30")
async def test_a_cluster_is_launched_found_and_given_back(
    lab: LabProcess, endpoint: Callable[[LabProcess], None]
) -> None:
    """Launch, events, look-ups, tags, console and termination, as the lab and the SDK have them."""
    endpoint(lab)
    began = len(lab.calls())
    async with opened(lab) as it:
        factories = [i.id for i in (await it.launch(Role.FACTORY, 3)).instances]
        (orchestrator,) = (await it.launch(Role.ORCHESTRATOR, 1)).instances
        again = await it.launch(Role.FACTORY, 3)
        assert [i.id for i in again.instances] == factories  # the same token: the same instances
        await it.running([*factories, orchestrator.id])

        described = await survey.describe(it.region, [*factories, "i-00000000000000000"])
        assert described.missing == ("i-00000000000000000",)
        assert all(i.private_host and i.public_host and i.volumes and i.monitored for i in described.instances)
        tags = {"Purpose": "flambe", "Name": "c_factory_0"}
        await launch.tag(it.region, it.cluster, factories[0], described.instances[0].volumes, tags, "d")
        found, _ = await survey.find(it.region, "me", "c")
        assert {i.id: (i.role, i.name) for i in found} == {
            orchestrator.id: (Role.ORCHESTRATOR, "c_orchestrator"),
            factories[0]: (Role.FACTORY, "c_factory_0"),
            **dict.fromkeys(factories[1:], (Role.FACTORY, "c_factory")),
        }
        (by_host,) = await survey.instances(it.region, host=described.instances[1].public_host)
        assert (by_host["id"], by_host["cluster"], by_host["alarm"]) == (factories[1], "c", False)
        assert (by_host["tags"]["flambed:owner"], by_host["role"]) == ("1000", "Factory")

        ec2 = lab.boto("ec2")
        await asyncio.to_thread(
            lab.until, lambda: ec2.get_console_output(InstanceId=factories[0]).get("Output") or None
        )
        assert "ssh-ed25519 " in await launch.console(it.region, it.cluster, factories[0])
        ec2.stop_instances(InstanceIds=[factories[2]])
        await it.heard.until(lambda: ("stopped", factories[2]) in it.states())
        it.heard.facts.clear()
        await launch.start(it.region, it.cluster, [factories[2]])
        await it.running([factories[2]])

        accepted, refused = await retire.terminate(
            it.region, [*factories, orchestrator.id, "i-00000000000000000"], it.cluster.identity
        )
        assert sorted(accepted) == sorted([*factories, orchestrator.id])
        assert {i: error.reason for i, error in refused.items()} == {"i-00000000000000000": Reason.GONE}
        await it.heard.until(lambda: it.states() >= {("terminated", instance) for instance in accepted})
        assert it.region.offset == 0.0
    assert len([call for call in lab.calls(began, action="RunInstances") if call["status"] == 200]) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factories_type": "g4dn.xlrage"}, r"no instance type 'g4dn.xlrage' in us-east-1; the nearest is g4dn"),
        ({"factory_ami": "ami-00000000000000000"}, "ami-00000000000000000"),
        ({"factory_ami": "ssm:/aws/service/no/such"}, "there is no image behind ssm:/aws/service/no/such"),
        ({"volume_size": 1}, "volume_size is 1 GiB, but the image"),
    ],
)
async def test_what_cannot_be_launched_is_told_before_anything_is(
    lab: LabProcess, endpoint: Callable[[LabProcess], None], changes: dict[str, Any], words: str
) -> None:
    """Wrong types, images and volumes are refusals that waiting does not mend."""
    endpoint(lab)
    began = len(lab.calls())
    async with opened(lab) as it:
        wanted = it.cluster.model_copy(update=changes)
        with pytest.raises(StepError, match=words) as caught:
            await launch.prepare(it.region, wanted, tuple(Role))
        assert caught.value.reason is Reason.BAD_REQUEST
    assert lab.calls(began, action="RunInstances") == []


async def test_a_refusal_of_capacity_and_a_lost_answer_have_their_reasons(
    lab: LabProcess, endpoint: Callable[[LabProcess], None]
) -> None:
    """The SDK retries nothing by itself: one call each, and the error that AWS gave."""
    endpoint(lab)
    began = len(lab.calls())
    async with opened(lab) as it:
        lab.fault(
            {
                "kind": "error",
                "action": "RunInstances",
                "code": "InsufficientInstanceCapacity",
                "status": 500,
                "count": 1,
            }
        )
        with pytest.raises(AwsError) as no_capacity:
            await it.launch(Role.FACTORY, 1)
        assert no_capacity.value.reason is Reason.NO_CAPACITY
        lab.fault(
            {
                "kind": "error",
                "action": "RunInstances",
                "code": "InternalError",
                "status": 500,
                "count": 1,
                "when": "after",
            }
        )
        with pytest.raises(AwsError) as lost:
            await it.launch(Role.FACTORY, 1)
        assert lost.value.reason is Reason.TRANSIENT
        (found,) = (await it.launch(Role.FACTORY, 1)).instances  # asked again: it had been done
        assert len([i for i in lab.instances(hosts=False) if i["state"] in {"pending", "running"}]) == 1
        assert found.id
    assert len(lab.calls(began, action="RunInstances")) == 3


@pytest.mark.idle("alarm changed or deleted by others")
@pytest.mark.seed("C04")
async def test_alarms_are_put_within_the_quota_and_read_back_as_they_were_meant(
    endpoint: Callable[[LabProcess], None],
) -> None:
    """No call is throttled, and a survey finds every alarm as it should be, but for those that others changed."""
    with start_lab("--quotas", "on", "--boot", "0", "--minute", "2") as lab:
        endpoint(lab)
        async with opened(lab, survey_interval=2.0) as it:
            hosts = [i.id for i in (await it.launch(Role.FACTORY, 9)).instances]
            await it.running(hosts)
            it.want(hosts, vote_until=it.region.clock.now() + 3600.0)
            await it.heard.until(lambda: len(it.heard.of(AlarmArmed)) == 9)
            it.heard.facts.clear()
            await it.heard.until(lambda: len(it.heard.of(ClusterSurveyed)) == 2)
            assert len(lab.calls(action="PutMetricAlarm")) == 9
            lab.boto("cloudwatch").disable_alarm_actions(AlarmNames=[alarm_name(hosts[0])])
            lab.boto("cloudwatch").delete_alarms(AlarmNames=[alarm_name(hosts[1])])
            await it.heard.until(lambda: len(it.heard.of(AlarmArmed)) == 2)
            assert {(f.instance, f.code) for f in it.heard.of(AlarmLacking)} == {
                (hosts[0], "AlarmChanged"),
                (hosts[1], "AlarmDeleted"),
            }
            it.want(hosts, minutes=None, gone=True)
            await it.heard.until(lambda: it.heard.kinds().count("AlarmRemoved") == 9)
        assert lab.alarms() == []
        assert "aws.throttled" not in it.heard.names()


@pytest.mark.idle("votes", "adopted, idle for hours")
@pytest.mark.seed("S37")
@pytest.mark.parametrize("namespace", ["accept", "refuse"])
async def test_an_idle_host_ends_after_its_timeout_and_a_voted_one_lives(
    endpoint: Callable[[LabProcess], None], namespace: str
) -> None:
    """Alarm, votes and seeds work together over CloudWatch's own rules, whichever metric it takes points for."""
    with start_lab("--quotas", "off", "--minute", "0.5", "--aws-namespace", namespace) as lab:
        endpoint(lab)
        async with opened(lab) as it:
            idle, voted, adopted = (i.id for i in (await it.launch(Role.FACTORY, 3)).instances)
            await it.running([idle, voted, adopted])
            began = it.region.clock.now()
            table = {
                idle: wanted(idle, minutes=5),
                voted: wanted(voted, minutes=5, vote_until=began + 36_000.0),
                adopted: wanted(adopted, minutes=5, seed=True),
            }
            it.region.keeper.want(it.cluster.identity, table, it.heard.take)
            await it.heard.until(lambda: len({f.instance for f in it.heard.of(AlarmArmed)}) == 3)
            ended: dict[str, float] = {}

            def both_ended() -> bool:
                for fact in it.heard.of(StateNotified):
                    if fact.state == "shutting-down":
                        ended.setdefault(fact.instance, (fact.at - began) / 60)
                return ended.keys() >= {idle, adopted}

            await it.heard.until(both_ended, within=30.0)
            assert voted not in ended
            # Five whole minutes, the first of which may have been nearly over when it began; a millisecond is 0.002 of one.
            assert ended[idle] > 4 - 0.05
            (seeded,) = it.heard.of(PointsSeeded)
            assert seeded.instance == adopted
            assert ended[adopted] >= (seeded.at - began) / 60 + 4
            namespaces = {alarm["Namespace"] for alarm in lab.alarms()}
            assert namespaces == ({"AWS/EC2"} if namespace == "accept" else {"Flambed/EC2"})
        assert ("protection.namespace_refused" in it.heard.names()) is (namespace == "refuse")
        assert "step.crashed" not in it.heard.names()


async def test_the_real_cpu_is_told_as_edges(endpoint: Callable[[LabProcess], None]) -> None:
    """A host that begins to work, and ceases to."""
    with start_lab("--quotas", "off", "--minute", "0.2") as lab:
        endpoint(lab)
        async with opened(lab) as it:
            (host,) = (i.id for i in (await it.launch(Role.FACTORY, 1)).instances)
            await it.running([host])
            it.want([host], minutes=60)
            await it.heard.until(lambda: len(it.heard.of(BecameIdle)) == 1)
            lab.fault({"kind": "cpu", "instance": host, "percent": 70.0})
            await it.heard.until(lambda: len(it.heard.of(BecameBusy)) == 1)
            lab.fault({"kind": "cpu", "instance": host, "percent": 0.1})
            await it.heard.until(lambda: len(it.heard.of(BecameIdle)) >= 2)
            assert it.heard.of(BecameIdle)[-1].since >= it.heard.of(BecameBusy)[0].at - 600
