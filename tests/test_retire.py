"""retire: giving instances back, whatever is wrong with one of them."""

from __future__ import annotations

import pytest

from flambed.errors import Reason
from flambed.steps import retire
from tests.fakes import Cloud, client_error, ids, instance
from tests.virtualtime import virtual


def cloud_of(count: int) -> Cloud:
    """Return a cloud with so many instances."""
    cloud = Cloud()
    cloud.ec2.instances = [instance(n) for n in range(1, count + 1)]
    return cloud


@pytest.mark.seed("S30")
@virtual
async def test_instances_are_terminated_a_thousand_at_a_time_and_no_others() -> None:
    """What was asked for ends, in few calls."""
    cloud = cloud_of(2600)
    accepted, refused = await retire.terminate(cloud.region(), ids(range(1, 2501)))
    assert sorted(accepted) == ids(range(1, 2501)) == sorted(cloud.ec2.terminated)
    assert refused == {}
    assert [len(params["InstanceIds"]) for params in cloud.ec2.of("terminate_instances")] == [1000, 1000, 500]


@virtual
async def test_an_unknown_id_does_not_hold_up_the_rest_and_is_gone() -> None:
    """AWS refuses the whole call and names it: all others are asked for without it."""
    cloud = cloud_of(10)
    accepted, refused = await retire.terminate(cloud.region(), ids(range(1, 13)))
    assert sorted(accepted) == ids(range(1, 11))
    assert {i: error.reason for i, error in refused.items()} == dict.fromkeys(ids([11, 12]), Reason.GONE)
    assert len(cloud.ec2.of("terminate_instances")) == 2


@virtual
async def test_a_protected_instance_is_reported_and_never_unprotected() -> None:
    """Termination protection is a person's word."""
    cloud = cloud_of(5)
    cloud.ec2.protected = {ids([3])[0]}
    accepted, refused = await retire.terminate(cloud.region(), ids(range(1, 6)))
    assert sorted(accepted) == ids([1, 2, 4, 5])
    assert [error.reason for error in refused.values()] == [Reason.PROTECTED]
    assert {name for name, _ in cloud.ec2.calls} == {"terminate_instances"}


@virtual
async def test_a_refusal_that_names_nobody_is_bisected() -> None:
    """Where AWS does not say which one it is, halves find it."""
    cloud = cloud_of(8)
    cloud.ec2.fail("terminate_instances", client_error("InvalidInstanceID.Malformed", "something is wrong"))
    accepted, refused = await retire.terminate(cloud.region(), ids(range(1, 9)))
    assert len(accepted) == 8
    assert refused == {}
    assert [len(params["InstanceIds"]) for params in cloud.ec2.of("terminate_instances")] == [8, 4, 4]


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [("RequestLimitExceeded", 503, Reason.THROTTLED), ("InternalError", 500, Reason.TRANSIENT)],
)
@virtual
async def test_a_refusal_that_is_about_nobody_is_told_for_all(code: str, status: int, reason: Reason) -> None:
    """Asking in halves would only make it worse."""
    cloud = cloud_of(4)
    cloud.ec2.fail("terminate_instances", client_error(code, status=status))
    accepted, refused = await retire.terminate(cloud.region(), ids(range(1, 5)))
    assert accepted == ()
    assert {i: error.reason for i, error in refused.items()} == dict.fromkeys(ids(range(1, 5)), reason)
    assert len(cloud.ec2.of("terminate_instances")) == 1
