"""What is checked before an `up` is accepted: the document, the caller, the key, and what exists already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from flambed import desired, limits, recovery, ssh
from flambed.access import Caller, Rules
from flambed.aws import AwsError
from flambed.cluster import Member
from flambed.desired import Cluster, Role
from flambed.directory import Directory
from flambed.errors import ClusterConfigurationError, ConflictError, NotAllowedError, Problem, StepError
from flambed.journal import Journal
from flambed.keys import KeyStore
from flambed.observed import facts, survey
from flambed.observed.facts import Seen
from flambed.observed.lookout import Custodian
from flambed.recovery import Lost
from flambed.region import Region
from flambed.settings import Limit
from flambed.steps import launch
from flambed.tags import is_proven


class Admission:
    """Lets an `up` in, or says why not."""

    def __init__(
        self,
        access: Callable[[], Rules],
        journal: Journal,
        keys: KeyStore,
        custodian: Custodian,
        *,
        directory: Directory,
        limits: Callable[[], Mapping[str, Limit]],
    ) -> None:
        """Prepare it: who may do what at that time, who used which creator first, which login keys are kept, what is ours.

        `directory` has all clusters, and `limits` how much of AWS each user may have, at that time.
        """
        self._directory = directory
        self._limits = limits
        self._counting: dict[int, asyncio.Lock] = {}  # by the owner whose machines are counted
        self._rules = access
        self._journal = journal
        self._keys = keys
        self._custodian = custodian

    @property
    def _access(self) -> Rules:
        return self._rules()

    def read(self, caller: Caller, document: str, ref: str, overrides: Sequence[str]) -> Cluster:
        """Return what a document describes.

        Raises:
            ClusterConfigurationError: it is no cluster, or not the one that the request is about.
            NotAllowedError: its creator belongs to others.
        """
        wanted = desired.parse(document, source="cluster file", overrides=overrides)
        if ref not in (wanted.name, "/".join(wanted.identity)):
            message = f"the file's name is {wanted.name!r} and the request is about {ref!r}: make them the same"
            raise ClusterConfigurationError([Problem(message, field="name")])
        self._access.check_creator(caller, wanted.creator, self._journal.claims())
        return wanted

    def check_fits(self, caller: Caller, wanted: Cluster, member: Member | None, region: Region) -> None:
        """Refuse what contradicts the cluster that there is.

        Raises:
            NotAllowedError: it belongs to somebody else.
            ConflictError: it is being taken down, lives in another region, or would need other machines.
        """
        if member is None or member.world.desired is None:
            return
        world, before = member.world, member.world.desired
        if world.phase == "gone":
            return
        self._access.check_act(caller, world.owner, f"change {wanted.name}")
        if world.phase == "stopping" or not world.wanted:
            raise ConflictError(f"{wanted.name} is being taken down; wait for `flambectl down {wanted.name}` to end")
        if world.region != region.name:
            raise ConflictError(
                f"{wanted.name} of {wanted.creator} lives in {world.region}; take it down first, or give the one in "
                f"{region.name} another name"
            )
        living = [i for i in world.instances.values() if i.alive]
        if world.recovered:
            changed = recovery.differences(before, {i.role for i in living}, wanted)
        else:
            old, new = before.machine_fields(), wanted.machine_fields()
            changed = sorted(name for name in new if old[name] != new[name])
        if changed and (world.intents or living):
            raise ConflictError(
                f"{', '.join(changed)} cannot change on machines that exist: take {wanted.name} down and up again, or "
                "give the new one another name"
            )

    def is_past(self, caller: Caller, member: Member, region: Region) -> bool:
        """Whether what is known of a name is over, so that a cluster that takes the name has nothing to do with it.

        One that its owner brings back in its region goes on with its history instead.

        Raises:
            ConflictError: alarms or volumes of the old one are still being removed.
        """
        world = member.world
        if world.phase != "gone" or (member.region is region and world.owner == caller.uid):
            return False
        if member.alarms_left:
            name = "/".join(member.identity)
            raise ConflictError(f"alarms of the {name} that is gone are still being removed; try again in a minute")
        return True

    @asynccontextmanager
    async def within_limits(
        self, caller: Caller, wanted: Cluster, member: Member | None, region: Region, *, shrink: bool
    ) -> AsyncIterator[None]:
        """Refuse more than the caller may have; in the context no other cluster of its owner is let in.

        Raises:
            OverLimitError: it is more than that, counted over all clusters of the owner.
            ClusterConfigurationError: there is no such instance type, so that its vCPUs cannot be counted.
            AwsError: they could not be looked up.
        """
        said = self._limits()
        line = limits.line_of(caller, said, admin=self._access.is_admin(caller))
        if line is None:
            yield
            return
        owner = member.world.owner if member is not None and member.world.phase != "gone" else caller.uid
        async with self._counting.setdefault(owner, asyncio.Lock()):
            others = [m for m in self._directory if m.world.owner == owner and m is not member]
            mine = limits.asked(wanted, region.name, member.world if member is not None else None, shrink=shrink)
            machines = limits.total([mine, *(limits.machines(m.world) for m in others)])
            limit = said[line]
            vcpus: Mapping[tuple[str, str], int] = {}
            if limit.vcpus is not None:
                vcpus = await _vcpus(machines, {region.name: region, **{m.world.region: m.region for m in others}})
            limits.check(caller, line, limit, wanted=wanted, region=region.name, machines=machines, vcpus=vcpus)
            yield

    def check_key(self, cluster_id: str, key: str | None) -> None:
        """Refuse a private key that cannot be used, or that was not sent and is not kept.

        Raises:
            ClusterConfigurationError: that is so.
        """
        if key is None:
            if not self._keys.has_login_key(cluster_id):
                message = "key: its contents were not sent with the request, as `flambectl up` does"
                raise ClusterConfigurationError([Problem(message, field="key")])
            return
        try:
            ssh.check_private_key(key)
        except ValueError as error:
            raise ClusterConfigurationError([Problem(f"key: {error}", field="key")]) from error

    async def look(
        self, caller: Caller, wanted: Cluster, member: Member | None, region: Region
    ) -> tuple[facts.ClusterSurveyed, Lost | None]:
        """Look up what exists, before anything is said or launched; refuse what may not be adopted.

        Returns:
            What was seen; and, where the cluster is not known and its instances are ours all the same, what is told of it.

        Raises:
            NotAllowedError: instances that this service did not launch would have to be adopted, or its record was lost
                and its tags say that it is somebody else's.
            ConflictError: two orchestrators carry the name.
            AwsError: EC2 did not answer.
        """
        found, began = await survey.find(region, wanted.creator, wanted.name)
        known = member.world.instances if member else {}
        lost = None if member else self._lost(caller, wanted, found)
        cluster_id = member.cluster_id if member else lost.cluster_id if lost else None
        foreign = [
            s
            for s in found
            if s.id not in known
            and _exists(s)
            and (cluster_id is None or not is_proven(s.id, s.token, s.tags, cluster_id))
        ]
        if foreign and not self._access.may_adopt(caller, wanted.creator):
            ids = ", ".join(s.id for s in foreign)
            raise NotAllowedError(
                f"{ids} carry the tags of {wanted.name} of {wanted.creator} and were not launched by this service: "
                f"{caller} may not adopt them. Ask a member of {self._access.admin_group}, or use another name"
            )
        orchestrators = sorted(s.id for s in found if s.role is Role.ORCHESTRATOR and _exists(s))
        if len(orchestrators) > 1:
            raise ConflictError(
                f"two orchestrators are called {wanted.name}: {' and '.join(orchestrators)}. Neither was touched: "
                "terminate one, or change its tag Cluster-Name"
            )
        return facts.ClusterSurveyed(at=region.clock.now(), instances=found, began=began), lost

    def _lost(self, caller: Caller, wanted: Cluster, found: Sequence[Seen]) -> Lost | None:
        custodian = self._custodian
        for lost in recovery.lost(found, daemons=custodian.daemons, known=custodian.known):
            self._access.check_act(caller, lost.owner, f"take on {wanted.name}, whose record was lost")
            return lost
        return None


async def _vcpus(machines: limits.Machines, regions: Mapping[str, Region]) -> Mapping[tuple[str, str], int]:
    """Return the vCPUs of one machine of each kind."""
    found = {}
    for name, kind in machines:
        try:
            found[name, kind] = await launch.vcpus(regions[name], kind)
        except AwsError:
            raise
        except StepError as error:
            raise ClusterConfigurationError([Problem(error.message)]) from error
    return found


def _exists(seen: Seen) -> bool:
    return seen.state not in ("shutting-down", "terminated")
