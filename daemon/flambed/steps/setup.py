"""Setting up a host: reach it the moment it can be, tell it about its cluster, run the set-up commands in order.

Commands run detached on the host (see runner.sh beside this file), so a link that drops, or a service that ends, leaves
them alone: the same call attaches to what runs and learns of what has ended. What could not be done is raised as a
`StepError`; the loop makes a fact of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Final

from flambed.errors import Reason
from flambed.observed.facts import (
    CommandEnded,
    CommandStarted,
    Fact,
    HostAcquainted,
    HostInformed,
    HostReached,
    SetupDone,
)
from flambed.outputs import Output, Outputs
from flambed.setupkeys import command_key
from flambed.ssh import SshError, Target
from flambed.steps.acquaint import authorize
from flambed.steps.link import SHORT, Connector, CutOffError, Link, SetupError, encoded, insist, store
from flambed.steps.rekey import rekey

RUNNER: Final = resources.files(__package__).joinpath("runner.sh").read_text(encoding="utf-8")
_PEEK: Final = 'tail -c 65536 "$HOME/.flambed/setup/$1/output" 2>/dev/null'

_REPORTED: Final = 65536  # bytes of output that the runner reports
_NO_EXIT_CODE: Final = 121  # the runner's word for a command that was cut off
_RUNNER_SAYS: Final = {
    120: "it cannot be stored in ~/.flambed/setup: is the disk full, or the home folder not writable?",
    _NO_EXIT_CODE: "it left no exit code: it was killed, the disk is full, or flock is missing",
}

Emit = Callable[[Fact], None]
Written = Callable[[Fact], Awaitable[None]]
Now = Callable[[], float]


class _CutOffError(SetupError, CutOffError):
    """A command ended without an exit code: killed, or the host went down. It may be run again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupWork:
    """All that is needed to set up one host."""

    cluster_id: str
    instance: str
    target: Target
    commands: tuple[str, ...]
    first: int = 0  # the number of the command to begin with; those before it have ended well
    attempt: int
    digest: str  # of the commands
    timeout: float  # seconds, for each command
    deadline: float  # seconds in which the host has to be reached, from now on and after each loss of the link
    description: str  # the text of ~/.flambed/cluster.json
    description_digest: str
    rekey: bool = False  # it is to make itself a host key (see `rekey`)
    lets_in: str | None = None  # the public key of its cluster, which it is to let in (see `acquaint`)
    lets_in_digest: str = ""


async def set_up(
    work: SetupWork, *, emit: Emit, written: Written, now: Now, connect: Connector, outputs: Outputs
) -> None:
    """Set up one host, from the command `work.first` on.

    Emits HostReached, what becomes of its key (see `rekey`), HostInformed, then CommandStarted and CommandEnded for each command (a code other than 0 is the
    last one), and SetupDone.

    Args:
        emit: takes a fact.
        written: takes one, and returns once it is in the journal.
        now: the service's clock, for the facts.
        outputs: where the commands' output is kept, before CommandEnded is emitted.

    Raises:
        SshError: the host could not be reached, or the link dropped again and again.
        SetupError: COMMAND_FAILED or TIMED_OUT; the message names the command by its number only.
        OSError: the state folder cannot be written.
    """
    async with Link(work.target, connect, work.deadline) as link:
        await link.open()
        emit(HostReached(at=now(), instance=work.instance))
        if work.rekey:
            await rekey(link, work.instance, work.target.host_keys, emit=emit, written=written, now=now)
        if work.lets_in is not None:
            await authorize(link, work.instance, work.lets_in)
            emit(HostAcquainted(at=now(), instance=work.instance, digest=work.lets_in_digest))
        await _describe(link, work.instance, work.description)
        emit(HostInformed(at=now(), instance=work.instance, digest=work.description_digest))
        for number in range(work.first, len(work.commands)):
            emit(CommandStarted(at=now(), instance=work.instance, number=number, attempt=work.attempt))
            output = await _run(link, work, number, outputs)
            assert output.code is not None, "_run returns when the command has ended"
            emit(
                CommandEnded(
                    at=now(),
                    instance=work.instance,
                    number=number,
                    attempt=work.attempt,
                    code=output.code,
                    digest=work.digest,
                )
            )
            if output.code != 0:
                raise _failed(work, output, output.code)
    emit(SetupDone(at=now(), instance=work.instance, digest=work.digest))


async def inform(
    instance: str,
    target: Target,
    description: str,
    digest: str,
    *,
    rekeyed: bool,
    deadline: float,
    emit: Emit,
    written: Written,
    now: Now,
    connect: Connector,
) -> None:
    """Bring ~/.flambed/cluster.json of a host up to date, which has to be reached within `deadline` seconds.

    With `rekeyed` it makes itself a host key before (see `rekey`).

    Raises:
        SshError: the host could not be reached, or the link dropped again and again.
        SetupError: the file could not be written.
    """
    async with Link(target, connect, deadline) as link:
        if rekeyed:
            await rekey(link, instance, target.host_keys, emit=emit, written=written, now=now)
        await _describe(link, instance, description)
    emit(HostInformed(at=now(), instance=instance, digest=digest))


async def _describe(link: Link, instance: str, description: str) -> None:
    await store(link, instance, "cluster.json", description, mode="644")


async def _run(link: Link, work: SetupWork, number: int, outputs: Outputs) -> Output:
    """Run a set-up command to its end, or attach to it, and keep what it printed."""
    key = command_key(work.commands, number, work.attempt)
    give_up_at = asyncio.get_running_loop().time() + work.timeout
    try:
        code, text, dropped = await insist(
            lambda: _attach(link, work, number, key=key, give_up_at=give_up_at, outputs=outputs)
        )
    except SshError as error:
        if error.reason is not Reason.TIMED_OUT:
            raise SshError(error.reason, error.code, f"{_named(work, number)}: {error.message}") from error
        printed = await _printed_so_far(link, key)
        output = await _keep(outputs, work, number, code=None, text=printed, dropped=0)
        raise _timed_out(work, output) from error
    return await _keep(outputs, work, number, code=code, text=text, dropped=dropped)


async def _attach(
    link: Link, work: SetupWork, number: int, *, key: str, give_up_at: float, outputs: Outputs
) -> tuple[int, str, int]:
    """(exit code, end of the output, bytes before that end) of a command, started if it neither runs nor ran."""
    command = work.commands[number]
    left = give_up_at - asyncio.get_running_loop().time()
    code, stdout, stderr = await link.run(RUNNER, key, str(len(encoded(command))), stdin=command, timeout=left)
    # A login shell may print something of its own before.
    report = re.search(rf"^flambed-exit {key} (\d+) +(\d+)\n", stdout, re.MULTILINE)
    if code == 0 and report:
        return int(report[1]), stdout[report.end() :], max(int(report[2]) - _REPORTED, 0)
    cut_off = code == _NO_EXIT_CODE or code > 128  # 128 + signal: the host goes down
    if stderr.strip():  # a login shell may print anything there, so it is for the owner's eyes
        await _keep(outputs, work, number, code=None, text=stderr, dropped=0)
    why = _RUNNER_SAYS.get(code, f"its runner ended with {code}")
    raise (_CutOffError if cut_off else SetupError)(
        Reason.COMMAND_FAILED, f"runner {code}", f"{_named(work, number)} could not be run: {why}", number=number
    )


async def _printed_so_far(link: Link, key: str) -> str:
    try:
        _, stdout, _ = await link.run(_PEEK, key, timeout=SHORT)
    except SshError:
        return ""  # the time-out is the news, and it is about to be told
    return stdout


async def _keep(outputs: Outputs, work: SetupWork, number: int, *, code: int | None, text: str, dropped: int) -> Output:
    return await asyncio.to_thread(
        outputs.write,
        work.cluster_id,
        work.instance,
        number,
        work.attempt,
        command=work.commands[number],
        code=code,
        text=text,
        dropped=dropped,
    )


def _failed(work: SetupWork, output: Output, code: int) -> SetupError:
    return SetupError(
        Reason.COMMAND_FAILED,
        str(code),
        f"{_named(work, output.number)} ended with {code}",
        number=output.number,
        exit_code=code,
    )


def _timed_out(work: SetupWork, output: Output) -> SetupError:
    return SetupError(
        Reason.TIMED_OUT,
        "timeout",
        f"{_named(work, output.number)} has not ended after {work.timeout:g} s; it, or an earlier one that it waits for, "
        "still runs on the host",
        number=output.number,
    )


def _named(work: SetupWork, number: int) -> str:
    # Neither its text nor its output: everybody may read why a cluster is degraded, and both are its owner's.
    return f"set-up command {number + 1} of {len(work.commands)}"
