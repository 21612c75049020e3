"""account: nothing is concluded from, or begun in, another AWS account than the one that the service works in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from flambed import doctor
from flambed.account import REMEMBERED_AS, Account
from flambed.aws import AwsError
from flambed.errors import Reason
from flambed.region import Region
from flambed.settings import Settings
from tests.fakes import Cloud, client_error
from tests.virtualtime import virtual

HERE, ELSEWHERE = "123456789012", "210987654321"
"""The account of the fakes, and another one."""


def regions(cloud: Cloud, memory: dict[str, str], named: str | None = None) -> list[Region]:
    """Return two regions of a service that remembers this."""
    account = Account(memory, named=named, emit=cloud.heard.emit)
    return [cloud.region(name, account=account) for name in ("us-east-1", "eu-west-1")]


async def look(region: Region) -> None:
    """Make a call."""
    await region.call(region.clients.ec2.describe_instances, MaxResults=5)


@virtual
async def test_the_first_account_is_remembered_and_asked_for_once_a_process() -> None:
    """Before the first other call; all regions share the answer."""
    cloud, memory = Cloud(), dict[str, str]()
    one, two = regions(cloud, memory)
    await asyncio.gather(look(one), look(one))
    await look(two)
    assert memory == {REMEMBERED_AS: HERE}
    assert len(cloud.sts.calls) == 1
    assert len(cloud.ec2.calls) == 3
    assert cloud.heard.names() == []


@virtual
async def test_with_another_accounts_credentials_no_call_is_made_and_nothing_is_concluded(tmp_path: Path) -> None:
    """Each call fails as if AWS were not reached; the log tells it once, `doctor` for each region."""
    cloud, memory = Cloud(), {REMEMBERED_AS: ELSEWHERE}
    for region in regions(cloud, memory):
        for _ in range(2):
            with pytest.raises(AwsError) as caught:
                await look(region)
            assert (caught.value.reason, caught.value.code) == (Reason.TRANSIENT, "OtherAccount")
            assert all(words in caught.value.message for words in (HERE, ELSEWHERE, "AWS_PROFILE", "aws_account"))
        checks = {one["check"]: one for one in await doctor.examine(Settings(), [region], tmp_path, "d")}
        assert checks[f"{region.name}: account"]["ok"] is False
        assert f"{region.name}: permissions" not in checks
    assert cloud.ec2.calls == []
    assert memory == {REMEMBERED_AS: ELSEWHERE}
    assert cloud.heard.names() == ["aws.other_account"]


@virtual
async def test_a_setting_moves_the_service_to_another_account() -> None:
    """What it names is remembered in place of what was."""
    cloud, memory = Cloud(), {REMEMBERED_AS: ELSEWHERE}
    await look(regions(cloud, memory, named=HERE)[0])
    assert memory == {REMEMBERED_AS: HERE}


@virtual
async def test_a_setting_that_names_another_account_than_the_credentials_is_not_passed_over() -> None:
    """Though the credentials are those of the account that is remembered."""
    cloud, memory = Cloud(), {REMEMBERED_AS: HERE}
    with pytest.raises(AwsError, match=f"the setting aws_account names {ELSEWHERE}"):
        await look(regions(cloud, memory, named=ELSEWHERE)[0])
    assert memory == {REMEMBERED_AS: HERE}


@virtual
async def test_while_the_account_cannot_be_asked_for_calls_fail_and_then_go_on() -> None:
    """Nothing is remembered of a failure."""
    cloud, memory = Cloud(), dict[str, str]()
    cloud.sts.fail("get_caller_identity", client_error("ServiceUnavailable", status=503))
    region = regions(cloud, memory)[0]
    with pytest.raises(AwsError, match="GetCallerIdentity") as caught:
        await look(region)
    assert caught.value.reason is Reason.TRANSIENT
    assert (cloud.ec2.calls, memory) == ([], {})
    await look(region)
    assert memory == {REMEMBERED_AS: HERE}
