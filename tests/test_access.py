"""Who may do what."""

from __future__ import annotations

import pytest

from flambed.access import Caller, Rules
from flambed.errors import NotAllowedError


def caller(uid: int, name: str, *groups: str) -> Caller:
    return Caller(uid=uid, gid=uid, pid=1, name=name, groups=frozenset(groups))


ANN = caller(1001, "ann", "users")
BOB = caller(1002, "bob", "users")
EVE = caller(1003, "eve", "flambed-admin")
ROOT = caller(0, "root")
RULES = Rules()


@pytest.mark.parametrize("who", [ANN, EVE, ROOT], ids=lambda who: who.name)
def test_the_owner_the_admin_group_and_root_may_act_on_a_cluster(who: Caller) -> None:
    """These three kinds of callers pass, and nothing is raised."""
    assert RULES.may_act(who, ANN.uid)
    RULES.check_act(who, ANN.uid, "take down demo")


def test_everybody_else_is_refused_with_the_owner_and_what_to_do() -> None:
    """The message names the caller, the deed, the owner and the group that could help."""
    assert not RULES.may_act(BOB, ANN.uid)
    with pytest.raises(NotAllowedError, match=r"bob \(uid 1002\) may not take down demo: .* uid 1001; .*flambed-admin"):
        RULES.check_act(BOB, ANN.uid, "take down demo")


def test_the_admin_group_is_the_one_of_the_settings() -> None:
    """Another group in the settings makes its members admins, and the default group's members no longer."""
    rules = Rules(admin_group="users")
    assert rules.is_admin(ANN)
    assert not rules.is_admin(EVE)


def test_only_admins_may_take_all_clusters_down() -> None:
    """An owner of some of them is refused, an admin is not."""
    RULES.check_admin(EVE, "take all clusters down")
    with pytest.raises(NotAllowedError, match="may not take all clusters down"):
        RULES.check_admin(ANN, "take all clusters down")


def test_a_creator_belongs_to_the_first_uid_that_used_it() -> None:
    """A fresh creator is free for anybody; after that only for its first user and for admins."""
    RULES.check_creator(BOB, "ann@x", {})
    claims = {"ann@x": ANN.uid}
    RULES.check_creator(ANN, "ann@x", claims)
    RULES.check_creator(ROOT, "ann@x", claims)
    with pytest.raises(NotAllowedError, match="uid 1001 used it first"):
        RULES.check_creator(BOB, "ann@x", claims)


def test_a_line_in_the_settings_comes_over_the_first_use() -> None:
    """A creator that the settings give to bob is bob's, although ann used it first."""
    rules = Rules(creators={"bob": ["lab@x", "ann@x"]})
    claims = {"ann@x": ANN.uid}
    rules.check_creator(BOB, "ann@x", claims)
    with pytest.raises(NotAllowedError, match="the settings give it to bob"):
        rules.check_creator(ANN, "ann@x", claims)


def test_adopting_needs_the_admin_group_or_a_line_in_the_settings() -> None:
    """A first use of a creator is no right to its instances: anybody could write it into a file."""
    rules = Rules(creators={"bob": ["ann@x"]})
    assert rules.may_adopt(BOB, "ann@x")
    assert rules.may_adopt(EVE, "ann@x")
    assert not rules.may_adopt(ANN, "ann@x")
    assert not rules.may_adopt(BOB, "other@x")
