"""Who may do what. Pure: the caller and the rules in, yes or a `NotAllowedError` out.

A cluster belongs to the uid that brought it up. The owner, the members of the admin group and root may act on it;
everybody else who can open the socket may list clusters and see their status. A creator belongs to the first uid that
used it, unless the settings name users for it: then to those, and to nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from flambed.errors import NotAllowedError

ROOT: Final = 0


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of the socket, as the kernel and the user database know it."""

    uid: int
    gid: int
    pid: int
    name: str  # the user's name, or the uid as text where there is no such user
    groups: frozenset[str] = frozenset()  # names of all groups of the user, the process's own one included

    def __str__(self) -> str:
        return f"{self.name} (uid {self.uid})"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say about access.

    Attributes:
        admin_group: the members of this group may act on every cluster.
        creators: user name -> the creators that this user may use and whose instances they may adopt.
    """

    admin_group: str = "flambed-admin"
    creators: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def is_admin(self, caller: Caller) -> bool:
        """Return whether the caller may act on everybody's clusters."""
        return caller.uid == ROOT or self.admin_group in caller.groups

    def may_act(self, caller: Caller, owner: int) -> bool:
        """Return whether the caller may change a cluster of this uid and read the output of its hosts."""
        return caller.uid == owner or self.is_admin(caller)

    def check_act(self, caller: Caller, owner: int, doing: str) -> None:
        """Refuse a caller who may not act on a cluster.

        Args:
            caller: who asks.
            owner: the uid that the cluster belongs to.
            doing: what is asked for, to follow "may not": "take down demo".

        Raises:
            NotAllowedError: the caller is neither the owner nor an admin.
        """
        if not self.may_act(caller, owner):
            whose = f"it belongs to uid {owner}; ask its owner, or" if owner >= 0 else "nothing tells whose it is; ask"
            raise NotAllowedError(f"{caller} may not {doing}: {whose} a member of the group {self.admin_group}")

    def check_admin(self, caller: Caller, doing: str) -> None:
        """Refuse a caller who is no admin.

        Raises:
            NotAllowedError: the caller is neither root nor in the admin group.
        """
        if not self.is_admin(caller):
            raise NotAllowedError(f"{caller} may not {doing}: that is for root and the group {self.admin_group}")

    def check_creator(self, caller: Caller, creator: str, claims: Mapping[str, int]) -> None:
        """Refuse a caller who uses somebody else's creator.

        Args:
            caller: who asks.
            creator: the creator that their cluster file names.
            claims: creator -> the uid that used it first; the service adds to it after a cluster is accepted.

        Raises:
            NotAllowedError: the creator belongs to others.
        """
        if self.is_admin(caller):
            return
        if users := self._users_of(creator):
            if caller.name not in users:
                raise NotAllowedError(
                    f"{caller} may not use the creator {creator!r}: the settings give it to {', '.join(users)}; "
                    "name a creator of your own in the cluster file"
                )
            return
        first = claims.get(creator, caller.uid)
        if first != caller.uid:
            raise NotAllowedError(
                f"{caller} may not use the creator {creator!r}: uid {first} used it first; name a creator of your own "
                "in the cluster file, or have an admin list you under `creators` in the settings"
            )

    def owns_creator(self, caller: Caller, creator: str, claims: Mapping[str, int]) -> bool:
        """Return whether a creator is known to be the caller's; for an admin, every one is. See `check_creator`."""
        users = self._users_of(creator)
        mine = caller.name in users if users else claims.get(creator) == caller.uid
        return mine or self.is_admin(caller)

    def may_adopt(self, caller: Caller, creator: str) -> bool:
        """Return whether the caller may take over instances of this creator that the service did not launch.

        A first use alone is not enough: the creator is only a tag there, which anybody can write into a file.
        """
        return self.is_admin(caller) or caller.name in self._users_of(creator)

    def _users_of(self, creator: str) -> tuple[str, ...]:
        return tuple(user for user, creators in self.creators.items() if creator in creators)
