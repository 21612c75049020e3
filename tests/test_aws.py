"""aws and clock: the session, the regions, and what AWS's errors mean."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import cast

import aioboto3
import pytest
from botocore import exceptions as sdk

from flambed.aws import LOOK_EVERY, Aws, AwsError, Clients, as_aws_error, reason_of
from flambed.clock import ANCHOR, Clock, is_loopback_endpoint
from flambed.errors import ClusterConfigurationError, Reason
from flambed.region import Region
from tests.fakes import Cloud, Recorder, client_error
from tests.virtualtime import virtual


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("RequestLimitExceeded", 503, Reason.THROTTLED),
        ("Throttling", 400, Reason.THROTTLED),
        ("ThrottlingException", 400, Reason.THROTTLED),
        ("EC2ThrottledException", 400, Reason.THROTTLED),
        ("InternalError", 500, Reason.TRANSIENT),
        ("Unavailable", 503, Reason.TRANSIENT),
        ("ConcurrentTagAccess", 400, Reason.TRANSIENT),
        ("SomethingQuiteNew", 500, Reason.TRANSIENT),
        ("SomethingQuiteNew", 400, Reason.BAD_REQUEST),
        ("InsufficientInstanceCapacity", 500, Reason.NO_CAPACITY),
        ("Unsupported", 400, Reason.NO_CAPACITY),
        ("InsufficientFreeAddressesInSubnet", 400, Reason.NO_CAPACITY),
        ("VcpuLimitExceeded", 400, Reason.QUOTA),
        ("VolumeLimitExceeded", 400, Reason.QUOTA),
        ("UnauthorizedOperation", 403, Reason.NOT_PERMITTED),
        ("PendingVerification", 400, Reason.NOT_PERMITTED),
        ("InvalidClientTokenId", 403, Reason.NOT_PERMITTED),
        ("InvalidAMIID.NotFound", 400, Reason.BAD_REQUEST),
        ("TagLimitExceeded", 400, Reason.BAD_REQUEST),
        ("InvalidInstanceID.NotFound", 400, Reason.NOT_FOUND_YET),
        ("InvalidVolume.NotFound", 400, Reason.NOT_FOUND_YET),
        ("IdempotentParameterMismatch", 400, Reason.MISMATCH),
        ("IdempotentInstanceTerminated", 400, Reason.GONE),
        ("OperationNotPermitted", 400, Reason.PROTECTED),
    ],
)
def test_an_error_code_of_aws_means_what_its_documentation_says(code: str, status: int, reason: Reason) -> None:
    """Each of AWS's codes has a reason, and an unknown one goes by whose fault it is."""
    assert reason_of(client_error(code, status=status)) is reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (sdk.EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), Reason.TRANSIENT),
        (sdk.ReadTimeoutError(endpoint_url="http://127.0.0.1:1"), Reason.TRANSIENT),
        (sdk.ConnectionClosedError(endpoint_url="http://127.0.0.1:1"), Reason.TRANSIENT),
        (sdk.NoCredentialsError(), Reason.TRANSIENT),
        (sdk.PartialCredentialsError(provider="p", cred_var="c"), Reason.NOT_PERMITTED),
        (sdk.CredentialRetrievalError(provider="p", error_msg="e"), Reason.TRANSIENT),
        (sdk.ParamValidationError(report="r"), Reason.BAD_REQUEST),
    ],
)
def test_an_error_of_the_sdk_means_the_network_the_credentials_or_the_call(error: Exception, reason: Reason) -> None:
    """What never reached AWS passes by itself, unless credentials or parameters are wrong."""
    assert reason_of(error) is reason


def test_an_error_tells_the_call_aws_words_and_what_to_do() -> None:
    """The message is fit for a person, and a page of encoded text is cut."""
    error = as_aws_error(client_error("UnauthorizedOperation", "You may not. " + "x" * 5000), "RunInstances")
    assert (error.reason, error.code, error.action) == (Reason.NOT_PERMITTED, "UnauthorizedOperation", "RunInstances")
    assert error.message.startswith("RunInstances: You may not.")
    assert error.message.endswith("(check the service's credentials and their permissions: `flambectl doctor`)")
    assert len(error.message) < 1200


def test_the_words_of_lacking_credentials_say_what_to_do() -> None:
    """It is tried again, as the metadata service may only have hiccuped; and somebody has to act if it stays so."""
    error = as_aws_error(sdk.NoCredentialsError(), "RunInstances")
    assert error.message.startswith("RunInstances: Unable to locate credentials (asked for again; if it stays so, give")
    assert "`flambectl doctor`" in error.message


class Watched(Aws):
    """Notes which clients were discarded."""

    def __init__(self, session: aioboto3.Session) -> None:
        super().__init__(session)
        self.discarded: list[Clients] = []

    async def discard(self, clients: Clients) -> None:
        self.discarded.append(clients)
        await super().discard(clients)


async def test_a_region_gets_fresh_clients_once_there_are_credentials_and_breaks_no_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A client that was made without credentials never looks for them again, so it is replaced when it is last used."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # where nothing listens
    monkeypatch.setattr("flambed.aws.LOOK_EVERY", 0.0)
    aws = Watched(aioboto3.Session(region_name="us-east-1"))
    stale = await aws.clients("us-east-1")
    region = Region("us-east-1", stale, emit=Recorder().emit, aws=aws)
    asked, answered = asyncio.Event(), asyncio.Event()

    async def receive_message(**_params: object) -> dict[str, object]:
        asked.set()
        await answered.wait()
        return {"Messages": []}

    async def code() -> str:
        with pytest.raises(AwsError) as caught:
            await region.call(region.clients.ec2.describe_instances, MaxResults=5)
        return caught.value.code

    try:
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(region.call(receive_message))
            await asked.wait()
            assert await code() == "NoCredentialsError"
            assert region.clients is stale
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
            assert [await code(), await code()] == ["NoCredentialsError", "EndpointConnectionError"]
            assert region.clients is await aws.clients("us-east-1") is not stale
            assert aws.discarded == []
            answered.set()
        assert poll.result() == {"Messages": []}
        assert aws.discarded == [stale]
    finally:
        await region.close()
        await aws.close()


class Searched:
    """Stands for a session that has no credentials, and counts how often it is asked for them."""

    asked = 0

    async def get_credentials(self) -> None:
        """Return nothing."""
        self.asked += 1


@virtual
async def test_credentials_that_lack_are_looked_for_every_few_seconds_at_most() -> None:
    """Each look may be a call to the instance's metadata service."""
    session = Searched()
    aws, stale = Aws(cast("aioboto3.Session", session)), Cloud().clients
    vars(aws)["_clients"]["us-east-1"] = stale
    for _ in range(3):
        assert await aws.renewed("us-east-1", stale) is stale
    assert session.asked == 1
    await asyncio.sleep(LOOK_EVERY)
    assert await aws.renewed("us-east-1", stale) is stale
    assert session.asked == 2


@pytest.mark.seed("S09")
@pytest.mark.parametrize(
    ("variable", "profile", "expected"),
    [("eu-west-1", "eu-north-1", "eu-west-1"), (None, "eu-north-1", "eu-north-1"), (None, None, "us-east-1")],
)
def test_the_default_region_is_the_locally_configured_one_else_us_east_1(
    variable: str | None, profile: str | None, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environment goes before the configuration file, and us-east-1 is the last resort."""
    config = tmp_path / "config"
    config.write_text(f"[default]\nregion = {profile}\n" if profile else "[default]\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    if variable:
        monkeypatch.setenv("AWS_DEFAULT_REGION", variable)
    assert Aws().default_region == expected


async def test_clients_are_made_once_a_region_and_never_retry_by_themselves() -> None:
    """Clients are long-lived, and each call of theirs is one request."""
    aws = Aws(aioboto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"))
    try:
        clients = await aws.clients("eu-west-1")
        assert await aws.clients("eu-west-1") is clients
        assert clients.ec2.meta.config.retries["total_max_attempts"] == 1  # type: ignore[attr-defined]
        assert clients.sqs.meta.region_name == "eu-west-1"  # type: ignore[attr-defined]
    finally:
        await aws.close()


async def test_a_region_that_is_no_name_is_refused_with_a_reason() -> None:
    """A region that the SDK will not have is told like any other refusal."""
    aws = Aws(aioboto3.Session(aws_access_key_id="a", aws_secret_access_key="b"))
    with pytest.raises(AwsError, match="opening region not a region"):
        await aws.clients("not a region")
    await aws.close()


def test_the_clock_is_the_time_of_day_unless_a_lab_minute_is_given() -> None:
    """Without the variable the clock is the real one, and a minute lasts a minute."""
    clock = Clock.from_environ({})
    assert abs(clock.now() - time.time()) < 1
    assert clock.real(60) == 60


def test_setting_the_machines_clock_changes_nothing_while_the_service_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pause and deadline is reckoned from an earlier time."""
    clock, before = Clock(), time.time()
    monkeypatch.setattr(time, "time", lambda: before - 3 * 3600)
    assert clock.now() == pytest.approx(before, abs=5)


@pytest.mark.parametrize("minute", [60.0, 2.0])
def test_a_clock_is_not_behind_what_is_written_down(minute: float) -> None:
    """The machine's clock may have been set back while the service was down."""
    clock = Clock(minute)
    now = clock.now()
    assert clock.not_before(now + 3600).now() == pytest.approx(now + 3600, abs=300)
    assert clock.not_before(now - 3600).now() == pytest.approx(now, abs=300)


def test_a_lab_minute_speeds_the_clock_up_from_its_anchor() -> None:
    """Lab and service compute the same time without speaking about it."""
    clock = Clock.from_environ({"FLAMBED_LAB_MINUTE": "2", "AWS_ENDPOINT_URL": "http://127.0.0.1:5000"})
    assert clock.now() == pytest.approx(ANCHOR + (time.time() - ANCHOR) * 30, abs=30)
    assert clock.real(60) == 2


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "AWS is not a lab on this machine"),
        ({"AWS_ENDPOINT_URL": "https://ec2.us-east-1.amazonaws.com"}, "AWS is not a lab on this machine"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "FLAMBED_LAB_MINUTE": "0"}, "write how many real seconds"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "FLAMBED_LAB_MINUTE": "soon"}, "write how many real seconds"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "FLAMBED_LAB_MINUTE": "inf"}, "write how many real seconds"),
    ],
)
def test_a_lab_minute_is_refused_where_it_could_end_real_machines(environ: dict[str, str], words: str) -> None:
    """Another clock than AWS's own is for a lab on this machine only."""
    with pytest.raises(ClusterConfigurationError, match=words):
        Clock.from_environ({"FLAMBED_LAB_MINUTE": "2", **environ})


@pytest.mark.parametrize(
    ("environ", "loopback"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:5000"}, True),
        ({"AWS_ENDPOINT_URL": "http://127.9.0.1:5000"}, True),
        ({"AWS_ENDPOINT_URL": "http://[::1]:5000"}, True),
        ({"AWS_ENDPOINT_URL": "http://localhost:5000"}, True),
        ({"AWS_ENDPOINT_URL": "http://localhost.example:5000"}, False),
        ({"AWS_ENDPOINT_URL": "http://10.0.0.1"}, False),
        ({"AWS_ENDPOINT_URL": "http://[oops"}, False),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1", "AWS_ENDPOINT_URL_EC2": "https://ec2.amazonaws.com"}, False),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, False),
        ({"AWS_ENDPOINT_URL_EC2": "http://127.0.0.1"}, False),
    ],
)
def test_an_endpoint_is_loopback_only_if_no_call_can_leave_the_machine(environ: dict[str, str], loopback: bool) -> None:
    """A name may resolve to anything, and a service's own endpoint goes before the common one."""
    assert is_loopback_endpoint(environ) is loopback
