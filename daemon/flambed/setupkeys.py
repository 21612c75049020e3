"""The names under which set-up is known: of a list of commands, and of one run of one command on a host."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def setup_digest(commands: Sequence[str]) -> str:
    """What stands for a whole list of set-up commands (64 hex digits): the same list, the same digest."""
    return _sha256(list(commands))


def command_key(commands: Sequence[str], number: int, attempt: int) -> str:
    """The name of a run of `commands[number]` on a host (64 hex digits).

    It stands for the commands up to and including this one, so that an edited list runs again only from the first
    command that changed, and for the attempt, so that a retry is another run.

    Raises:
        IndexError: there is no such command.
    """
    if not 0 <= number < len(commands):
        raise IndexError(f"there is no set-up command {number}: there are {len(commands)}, counted from 0")
    return _sha256([list(commands[: number + 1]), attempt])


def _sha256(value: object) -> str:
    # JSON in ASCII marks where each command ends, and holds whatever text a command is.
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()
