"""Settings that are read again: what applies at once, and what waits for a restart."""

from __future__ import annotations

from typing import Any

import pytest

from flambed import settings
from flambed.reloading import LIVE, reload
from flambed.settings import Settings


def test_every_live_setting_is_a_setting() -> None:
    """A name that is misspelt would never apply."""
    names = {".".join(keys) for _, keys in settings._names(Settings)}
    assert names >= LIVE


@pytest.mark.parametrize(
    ("read", "changed", "restart"),
    [
        ({}, {}, ()),
        ({"log": {"level": "debug"}}, {"log.level": "info -> debug"}, ()),
        ({"ssh_port": 2222}, {}, ("ssh_port",)),
        ({"creators": {"ann": ["a"]}}, {"creators": "{} -> -", "creators.ann": "- -> ['a']"}, ()),
        (
            {"ssh": {"keepalive": "1m", "deadline": "1h"}, "admin_group": "ops"},
            {"admin_group": "flambed-admin -> ops", "ssh.keepalive": "15s -> 1m"},
            ("ssh.deadline",),
        ),
    ],
)
def test_what_is_live_applies_and_what_is_not_is_named(
    read: dict[str, Any], changed: dict[str, str], restart: tuple[str, ...]
) -> None:
    """Each change is in one of the two, and never in both."""
    found = reload(Settings(), Settings.model_validate(read))
    assert (dict(found.changed), found.restart) == (changed, restart)


def test_what_waits_for_a_restart_is_named_until_it_is_changed_back() -> None:
    """It is measured against what applies, and not against what was read last."""
    first = reload(Settings(), Settings(ssh_port=2222))
    assert first.settings == Settings()
    second = reload(first.settings, Settings(ssh_port=2222, admin_group="ops"))
    assert second.restart == ("ssh_port",)
    assert second.settings == Settings(admin_group="ops")
    assert reload(second.settings, Settings(admin_group="ops")).restart == ()


def test_limits_of_users_apply_at_once() -> None:
    """They are read at each `up`."""
    found = reload(Settings(), Settings.model_validate({"limits": {"ann": {"instances": 3}}}))
    assert (found.changed["limits.ann.instances"], found.restart) == ("- -> 3", ())
