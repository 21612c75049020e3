"""How flambectl ends."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    FAILED = 1  # the cluster failed, or what it is doing stands against the command
    USAGE = 2  # bad usage or a bad file
    UNREACHABLE = 3  # the service cannot be reached, or cannot do it now
    NOT_PERMITTED = 4
    NOT_KNOWN = 5  # no such cluster or host
    INTERRUPTED = 130


class FailureError(Exception):
    """The command ends here.

    Attributes:
        code: the exit code.
        message: one line, printed after "flambectl: "; empty where the details say it all.
        details: further lines, printed as they are.
    """

    def __init__(self, code: Exit, message: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message or "\n".join(details))
        self.code = code
        self.message = message
        self.details = tuple(details)
