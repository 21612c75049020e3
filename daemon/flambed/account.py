"""The one AWS account of the service.

In another one a Describe call answers that there is nothing, and a cluster that is up would be taken for gone. So the
journal remembers the account, and while the credentials belong to another one no call is made but the one that tells so.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Final

from flambed.aws import AwsError
from flambed.errors import Reason

REMEMBERED_AS: Final = "aws account"
"""Under which the journal remembers the number of the account."""


class Account:
    """Which account the service works in, for all of its regions.

    Attributes:
        number: the account that the credentials belong to; None until AWS has told.
        trouble: what is wrong and what to do, where that is not the account that it should be.
    """

    def __init__(self, memory: MutableMapping[str, str], *, named: str | None, emit: Callable[..., None]) -> None:
        """Prepare.

        Args:
            memory: keeps the number across restarts.
            named: the setting `aws_account`, which goes before what is remembered.
            emit: takes events for the log.
        """
        self.number: str | None = None
        self.trouble: str | None = None
        self._memory = memory
        self._named = named
        self._emit = emit

    def learn(self, number: str) -> str:
        """AWS has told whose the credentials are; return that. The first time, it is remembered."""
        if self.number is None:
            self.number = number
            expected = self._named or self._memory.get(REMEMBERED_AS, number)
            if number != expected:
                self.trouble = self._say(number, expected)
                self._emit("aws.other_account", account=number, expected=expected, message=self.trouble)
            elif self._memory.get(REMEMBERED_AS) != number:
                self._memory[REMEMBERED_AS] = number
        return self.number

    def check(self, action: str) -> None:
        """Let a call pass, unless it would reach another account.

        Raises:
            AwsError: it would; TRANSIENT, as nothing is to be concluded from it.
        """
        if self.trouble is not None:
            raise AwsError(Reason.TRANSIENT, "OtherAccount", self.trouble, action)

    def _say(self, number: str, expected: str) -> str:
        if self._named:
            whose, move = f"the setting aws_account names {expected}", "correct the setting"
        else:
            whose = f"this service works in {expected}"
            move = f'if it is to move, take its clusters down first and set aws_account: "{number}"'
        return (
            f"the credentials belong to AWS account {number}, and {whose}: nothing is looked at or changed; give the "
            f"service that account's credentials (AWS_PROFILE, its environment, an instance role), or {move}; then restart it"
        )
