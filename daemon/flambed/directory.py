"""Names: which cluster, and which of its hosts, somebody means."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flambed.cluster import Member
from flambed.desired import Role
from flambed.errors import ConflictError, NotKnownError
from flambed.observed.instance import Instance, Stage
from flambed.observed.world import World

Identity = tuple[str, str]


class Directory:
    """All clusters, by creator and name."""

    def __init__(self, doubt: Callable[[], str | None] = lambda: None) -> None:
        """Begin without any; `doubt` says why one may exist all the same that is not known (yet)."""
        self._doubt = doubt
        self._members: dict[Identity, Member] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member) -> None:
        """Make a cluster known under its identity."""
        self._members[member.identity] = member

    def remove(self, member: Member) -> None:
        """Forget a cluster."""
        del self._members[member.identity]

    def get(self, identity: Identity) -> Member | None:
        """Return the cluster of this creator and name."""
        return self._members.get(identity)

    def find(self, ref: str) -> Member:
        """Return the cluster that NAME or CREATOR/NAME means.

        Raises:
            NotKnownError: there is none.
            ConflictError: NAME alone is ambiguous.
        """
        creator, slash, name = ref.rpartition("/")
        known = [m for m in self if m.world.desired is not None]
        found = [m for m in known if (m.identity == (creator, name) if slash else m.identity[1] == ref)]
        if not found:
            if (doubt := self._doubt()) is not None:
                raise NotKnownError(f"no cluster {ref!r} is known: {doubt}")
            raise NotKnownError(f"there is no cluster {ref!r}; `flambectl list` shows those that there are")
        living = [m for m in found if m.world.phase != "gone"]
        if len(living) == 1:
            return living[0]
        if len(found) > 1:
            names = ", ".join(sorted("/".join(m.identity) for m in found))
            raise ConflictError(f"several clusters are called {ref!r}: say which one: {names}")
        return found[0]


def host_of(world: World, host: str | None, ref: str) -> Instance:
    """Return the instance that an id, a name or an address means; without one: the orchestrator.

    Raises:
        NotKnownError: the cluster has no such host.
    """
    assert world.desired is not None, "a cluster is known from its first `up` on"
    living = [i for i in world.instances.values() if i.stage is not Stage.GONE]
    for instance in (*living, *(i for i in world.instances.values() if i.stage is Stage.GONE and not i.past)):
        name = world.desired.instance_name(instance.role, instance.index)
        if host is None and instance.role is Role.ORCHESTRATOR:
            return instance
        if host is not None and host in (instance.id, name, instance.name, instance.private_host, instance.public_host):
            return instance
    if host is None:
        raise NotKnownError(f"{ref} has no orchestrator now; name a host")
    raise NotKnownError(
        f"{ref} has no host {host!r}: give an instance id, a name or an address out of `flambectl status`"
    )
