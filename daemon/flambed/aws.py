"""AWS as the service sees it: one session, long-lived clients, and every error as a `Reason`.

The SDK's own retries are off: a call is one request, and what it answered is seen by whoever asked. Retrying is decided
in `plan`, pacing in `pacing`; nothing hides below.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aioboto3
from botocore import exceptions as sdk
from botocore.config import Config
from botocore.parsers import ResponseParserError

from flambed.errors import Reason, StepError

FALLBACK_REGION: Final = "us-east-1"

LOOK_EVERY: Final = 5.0
"""Real seconds between two looks for credentials that lack: each may ask the instance's metadata service."""

CALL_ERRORS: Final = (sdk.ClientError, sdk.BotoCoreError, ResponseParserError)
"""Everything that a call of the SDK raises by design."""

Answer = dict[str, Any]


class Ec2(Protocol):
    """The calls of EC2 that are used."""

    async def run_instances(self, **params: Any) -> Answer: ...
    async def describe_instances(self, **params: Any) -> Answer: ...
    async def terminate_instances(self, **params: Any) -> Answer: ...
    async def start_instances(self, **params: Any) -> Answer: ...
    async def monitor_instances(self, **params: Any) -> Answer: ...
    async def create_tags(self, **params: Any) -> Answer: ...
    async def delete_tags(self, **params: Any) -> Answer: ...
    async def describe_volumes(self, **params: Any) -> Answer: ...
    async def delete_volume(self, **params: Any) -> Answer: ...
    async def describe_images(self, **params: Any) -> Answer: ...
    async def describe_instance_types(self, **params: Any) -> Answer: ...
    async def describe_instance_type_offerings(self, **params: Any) -> Answer: ...
    async def get_console_output(self, **params: Any) -> Answer: ...


class CloudWatch(Protocol):
    """The calls of CloudWatch that are used."""

    async def put_metric_alarm(self, **params: Any) -> Answer: ...
    async def describe_alarms(self, **params: Any) -> Answer: ...
    async def delete_alarms(self, **params: Any) -> Answer: ...
    async def list_tags_for_resource(self, **params: Any) -> Answer: ...
    async def put_metric_data(self, **params: Any) -> Answer: ...
    async def get_metric_data(self, **params: Any) -> Answer: ...


class Sqs(Protocol):
    """The calls of SQS that are used."""

    async def receive_message(self, **params: Any) -> Answer: ...
    async def delete_message_batch(self, **params: Any) -> Answer: ...
    async def list_queue_tags(self, **params: Any) -> Answer: ...
    async def tag_queue(self, **params: Any) -> Answer: ...
    async def untag_queue(self, **params: Any) -> Answer: ...


class Ssm(Protocol):
    """The calls of Systems Manager that are used."""

    async def get_parameters(self, **params: Any) -> Answer: ...


class ServiceQuotas(Protocol):
    """The calls of Service Quotas that are used."""

    async def get_service_quota(self, **params: Any) -> Answer: ...


class Sts(Protocol):
    """The calls of the Security Token Service that are used."""

    async def get_caller_identity(self, **params: Any) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of one region."""

    ec2: Ec2
    cloudwatch: CloudWatch
    sqs: Sqs
    ssm: Ssm
    sts: Sts
    servicequotas: ServiceQuotas


class AwsError(StepError):
    """A call that AWS refused, or that did not reach it.

    Attributes:
        reason: what it means for the caller.
        code: AWS's own code, or the name of the SDK's error.
        message: the call, AWS's words, and what to do where that is known.
        words: AWS's own words alone.
        action: the call, as AWS names it, such as RunInstances.
    """

    def __init__(self, reason: Reason, code: str, words: str, action: str) -> None:
        advice = _CREDENTIALS_ADVICE if code == NO_CREDENTIALS else _ADVICE.get(reason)
        super().__init__(reason, code, f"{action}: {words}" + (f" ({advice})" if advice else ""))
        self.words = words
        self.action = action


NO_CREDENTIALS: Final = sdk.NoCredentialsError.__name__
"""The code of a call of a client that was made while the session had no credentials; see `Aws.renewed`."""

DRY_RUN: Final = "DryRunOperation"
"""The code of a call that EC2 would have permitted, and that was only to find out that."""

_CREDENTIALS_ADVICE: Final = (
    "asked for again; if it stays so, give the service credentials as every AWS tool takes them - a profile, its "
    "environment, an instance role - and see `flambectl doctor`"
)

_ADVICE: Final[Mapping[Reason, str]] = {
    Reason.NOT_PERMITTED: "check the service's credentials and their permissions: `flambectl doctor`",
    Reason.QUOTA: "ask AWS for a higher quota, or terminate what is not needed",
    Reason.NO_CAPACITY: "asked for again; another zone's subnet or another instance type may have some",
    Reason.THROTTLED: "AWS asks for fewer calls; that passes",
    Reason.PROTECTED: "switch its termination protection off if it is really to end",
}

_CODES: Final[Mapping[Reason, frozenset[str]]] = {
    Reason.THROTTLED: frozenset({
        "RequestLimitExceeded", "EC2ThrottledException", "RequestThrottled", "TooManyRequestsException", "SlowDown",
    }),
    Reason.TRANSIENT: frozenset({
        "InternalError", "InternalFailure", "InternalServiceFault", "InternalServerError", "ServerInternal",
        "Unavailable", "ServiceUnavailable", "ConcurrentTagAccess", "IncorrectInstanceState", "IncorrectState",
        "RequestTimeout", "RequestTimeoutException", "VolumeInUse",
    }),
    Reason.NO_CAPACITY: frozenset({
        "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity", "InsufficientFreeAddressesInSubnet",
        "InsufficientVolumeCapacity", "VolumeTypeNotAvailableInZone", "UnfulfillableCapacity", "SpotMaxPriceTooLow", "Unsupported",
    }),
    Reason.QUOTA: frozenset({
        "VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "VolumeLimitExceeded",
        "MaxIOPSLimitExceeded", "LimitExceeded", "LimitExceededException", "LimitExceededFault",
    }),
    Reason.NOT_PERMITTED: frozenset({
        "UnauthorizedOperation", "AuthFailure", "AccessDenied", "AccessDeniedException", "OptInRequired", "PendingVerification",
        "Blocked", "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredToken", "ExpiredTokenException", "RequestExpired",
        "SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "MissingAuthenticationToken", "NotAuthorized",
    }),
    Reason.BAD_REQUEST: frozenset({
        "MissingParameter", "TagPolicyViolation", "TagLimitExceeded", "ValidationError", "ValidationException", "UnknownParameter",
        "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist",
    }),
    Reason.NOT_FOUND_YET: frozenset({"InvalidInstanceID.NotFound", "InvalidVolume.NotFound", "InvalidNetworkInterfaceID.NotFound"}),
    Reason.GONE: frozenset({"IdempotentInstanceTerminated", "ResourceNotFound", "ResourceNotFoundException"}),
    Reason.PROTECTED: frozenset({"OperationNotPermitted"}),
    Reason.MISMATCH: frozenset({"IdempotentParameterMismatch"}),
}  # fmt: skip
"""AWS's codes by what they mean for us. A new code goes here, and nowhere else."""

_MOST_WORDS: Final = 1_000

_REASONS: Final[Mapping[str, Reason]] = {code: reason for reason, codes in _CODES.items() for code in codes}

_NO_CREDENTIALS: Final = (
    sdk.PartialCredentialsError, sdk.NoAuthTokenError, sdk.RefreshWithMFAUnsupportedError,
    sdk.TokenRetrievalError, sdk.SSOError, sdk.ProfileNotFound, sdk.UnknownCredentialError,
)  # fmt: skip

_NETWORK: Final = (
    sdk.ConnectionError, sdk.HTTPClientError, sdk.IncompleteReadError, ResponseParserError,
    sdk.CredentialRetrievalError, sdk.MetadataRetrievalError, sdk.NoCredentialsError,
)  # fmt: skip
"""AWS, or where the credentials come from, was not reached: a launch must not be given up for that."""


def code_of(error: Exception) -> str:
    """Return AWS's code of an error, or the SDK's name for it."""
    if isinstance(error, sdk.ClientError):
        return str(error.response.get("Error", {}).get("Code") or "Unknown")
    return type(error).__name__


def reason_of(error: Exception) -> Reason:
    """Return what an error of `CALL_ERRORS` means for the caller."""
    if isinstance(error, sdk.ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        return _reason_of_code(code_of(error), status)
    if isinstance(error, _NETWORK):
        return Reason.TRANSIENT
    return Reason.NOT_PERMITTED if isinstance(error, _NO_CREDENTIALS) else Reason.BAD_REQUEST


def _reason_of_code(code: str, status: int) -> Reason:
    if (known := _REASONS.get(code)) is not None:
        return known
    if code.startswith("Throttling"):
        return Reason.THROTTLED
    # Where AWS names no code that is known, its own faults (5xx) may pass by themselves, and ours (4xx) never do.
    return Reason.TRANSIENT if status >= 500 else Reason.BAD_REQUEST


def as_aws_error(error: Exception, action: str) -> AwsError:
    """Return an error of `CALL_ERRORS` as ours; its words are cut, for AWS encodes pages into some."""
    words = str(error)
    if isinstance(error, sdk.ClientError):
        words = str(error.response.get("Error", {}).get("Message") or words)
    return AwsError(reason_of(error), code_of(error), words[:_MOST_WORDS], action)


class Aws:
    """One session for the whole service, and one set of clients a region. Close it when the service ends."""

    def __init__(self, session: aioboto3.Session | None = None) -> None:
        self._session = session if session is not None else aioboto3.Session()
        self._clients: dict[str, Clients] = {}
        self._open: dict[Clients, AsyncExitStack] = {}
        self._renewing = asyncio.Lock()
        self._look_from = 0.0  # of the loop's time

    @property
    def default_region(self) -> str:
        """The locally configured region, else us-east-1 (S09)."""
        return str(self._session.region_name or FALLBACK_REGION)

    async def clients(self, region: str) -> Clients:
        """Return the clients of a region; they are made once.

        Raises:
            AwsError: there is no such region, or the local configuration cannot be used.
        """
        if region not in self._clients:
            try:
                self._clients[region] = await self._make(region)
            except CALL_ERRORS as error:
                raise as_aws_error(error, f"opening region {region}") from error
        return self._clients[region]

    async def renewed(self, region: str, stale: Clients) -> Clients:
        """Return clients in place of `stale`, which were made without credentials and keep none for ever.

        They are the same ones while the session has no credentials, for which it is asked every `LOOK_EVERY` seconds at
        most. The stale ones stay open until they are given to `discard`.
        """
        async with self._renewing:
            now = asyncio.get_running_loop().time()
            if self._clients.get(region) is stale and now >= self._look_from:
                try:
                    if await self._session.get_credentials() is not None:
                        self._clients[region] = await self._make(region)
                        return self._clients[region]
                except CALL_ERRORS:
                    pass  # the call that failed for want of them has told it
                self._look_from = now + LOOK_EVERY
            return self._clients.get(region, stale)

    async def discard(self, clients: Clients) -> None:
        """Close clients that nobody uses any more."""
        if (stack := self._open.pop(clients, None)) is not None:
            await stack.aclose()

    async def _make(self, region: str) -> Clients:
        async with AsyncExitStack() as stack:
            names = ("ec2", "cloudwatch", "sqs", "ssm", "sts", "service-quotas")
            made = Clients(*[await stack.enter_async_context(self._client(name, region)) for name in names])
            self._open[made] = stack.pop_all()
        return made

    def _client(self, name: str, region: str) -> Any:
        config = Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=5,
            # Launching a thousand takes EC2 many seconds; a long poll of SQS takes 20.
            read_timeout=60,
            max_pool_connections=50,
            tcp_keepalive=True,
            user_agent_extra="flambed",
        )
        return self._session.client(name, region_name=region, config=config)

    async def close(self) -> None:
        """Close all clients and their connections."""
        self._clients.clear()
        for clients in tuple(self._open):
            await self.discard(clients)
