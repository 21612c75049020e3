"""What can go wrong, as types and reasons.

Two kinds of errors face a user, and they are different types (S38): a `ClusterConfigurationError` is raised before
anything is launched, a `ClusterError` tells what became of a cluster after it. What may be expected of AWS and of
hosts is neither: it is a `Reason` on a fact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why an action did not do what it was for. Each has its own reaction in `plan`."""

    THROTTLED = "throttled"  # ask again, later
    TRANSIENT = "transient"  # AWS's own fault or the network's: ask again
    NO_CAPACITY = "no_capacity"  # this zone has no such machine now
    QUOTA = "quota"  # the account may not have more: another zone is useless
    NOT_PERMITTED = "not_permitted"  # the service's credentials lack a permission
    BAD_REQUEST = "bad_request"  # AWS will never accept it as it is
    NOT_FOUND_YET = "not_found_yet"  # a fresh id that is not everywhere known: ask again
    GONE = "gone"  # it does not exist any more
    PROTECTED = "protected"  # termination protection stands
    MISMATCH = "mismatch"  # a client token was used before with other parameters
    UNREACHABLE = "unreachable"  # no answer on the SSH port
    LOGIN_REFUSED = "login_refused"  # the host answers and does not accept the key
    HOST_KEY_CHANGED = "host_key_changed"  # the host shows another key than the pinned one
    HOST_KEY_UNKNOWN = "host_key_unknown"  # nothing vouches for the host's key
    CONNECTION_LOST = "connection_lost"  # the link dropped in the middle of something
    COMMAND_FAILED = "command_failed"  # a command ended with a code other than 0
    TIMED_OUT = "timed_out"  # a deadline of ours passed


class FlambedError(Exception):
    """The base of everything that flambed raises on purpose."""


class StepError(FlambedError):
    """An action did not do what it was for, as may be expected; the loop makes a fact of it.

    Attributes:
        reason: what kind of failure it is.
        code: AWS's, the system's or the SSH library's own word for it.
        message: what happened, to what, and what to do.
    """

    def __init__(self, reason: Reason, code: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a document, and where it is.

    `line` and `column` count from 1 and are None where the mistake has no place (an override, a missing file).
    """

    message: str
    line: int | None = None
    column: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = f"{self.line}:{self.column}: " if self.line is not None else ""
        return f"{place}{self.message}"


class ClusterConfigurationError(FlambedError):
    """A cluster file or a settings file that cannot be used; nothing was launched.

    Attributes:
        problems: every mistake that was found, in the order of the document.
        source: the name of the file, as the user knows it.
    """

    def __init__(self, problems: Iterable[Problem], source: str = "cluster file") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__("\n".join(f"{source}:{'' if one.line is not None else ' '}{one}" for one in self.problems))


class ClusterError(FlambedError):
    """Something about a running cluster that a command could not do; the message says what to do instead."""


class NotKnownError(ClusterError):
    """There is no such cluster or host."""


class NotAllowedError(ClusterError):
    """The caller may not do this to that cluster."""


class OverLimitError(NotAllowedError):
    """The caller may not have so much, or such a thing: the settings limit it.

    Attributes:
        problems: each limit that is exceeded; `field` is the setting.
    """

    def __init__(self, what: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        told = "; ".join(problem.message for problem in self.problems)
        super().__init__(f"{what}: {told}; ask for less, or have an admin change the settings")


class ConflictError(ClusterError):
    """The command contradicts what the cluster is doing or is made of."""
