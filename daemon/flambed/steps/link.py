"""A link to one host that is made anew after it was lost, and scripts of ours that are run over it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from importlib import resources
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from flambed.errors import Reason, StepError
from flambed.ssh import Host, SshError, Target

PAUSES: Final = (
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
)  # seconds before a dropped link is made anew, or a cut-off command run again
SHORT: Final = 30.0  # seconds, for what takes a moment on any host that lives

INFORM: Final = resources.files(__package__).joinpath("inform.sh").read_text(encoding="utf-8")

T = TypeVar("T")


class Connector(Protocol):
    """How hosts are connected to: `ssh.connect_when_up`, with the service's deadlines."""

    def __call__(self, target: Target, *, until: float) -> AbstractAsyncContextManager[Host]:
        """Return a connection to `target`; `until` is on the running loop's clock."""


class SetupError(StepError):
    """A host that was reached and could not be set up.

    Attributes:
        number: of the set-up command that it is about, counting from 0; None for the description of the cluster.
        exit_code: the command's, None where it has none.
    """

    def __init__(
        self, reason: Reason, code: str, message: str, *, number: int | None = None, exit_code: int | None = None
    ) -> None:
        super().__init__(reason, code, message)
        self.number = number
        self.exit_code = exit_code


class CutOffError(StepError):
    """A script ended without an end of its own: killed, or the host went down. It may be run again."""


class Link:
    """A connection to one host, which is made anew by the next `run` after it was lost."""

    def __init__(self, target: Target, connect: Connector, deadline: float) -> None:
        self._target = target
        self._connect = connect
        self._deadline = deadline
        self._open = AsyncExitStack()
        self._host: Host | None = None

    async def open(self) -> Host:
        """Return the connected host; waits until it can be connected to, at most until the deadline."""
        if self._host is None:
            until = asyncio.get_running_loop().time() + self._deadline
            self._host = await self._open.enter_async_context(self._connect(self._target, until=until))
        return self._host

    async def run(self, script: str, *args: str, stdin: str = "", timeout: float) -> tuple[int, str, str]:  # noqa: ASYNC109 - handed on
        """Run a script of ours with sh on the host: (exit code, stdout, stderr)."""
        host = await self.open()
        command = shlex.join(["sh", "-c", script, "flambed", *args])  # the user's login shell may be another one
        try:
            result = await host.run(command, stdin=encoded(stdin), timeout=timeout)
        except SshError as error:
            if error.reason is Reason.CONNECTION_LOST:
                await self.drop()
            raise
        return result.code, result.stdout, result.stderr

    def accept(self, *host_keys: str) -> None:
        """From the next connection on the host may show these keys, and no other."""
        self._target = replace(self._target, host_keys=host_keys)

    async def drop(self) -> None:
        """Close the connection; the next use makes a new one."""
        self._host = None
        await self._open.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drop()


async def insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what `attempt` does, again a few times while it is only cut off in the middle."""
    for pause in PAUSES:
        try:
            return await attempt()
        except StepError as error:
            if error.reason is not Reason.CONNECTION_LOST and not isinstance(error, CutOffError):
                raise
        await asyncio.sleep(pause)
    return await attempt()


async def store(link: Link, instance: str, file: str, content: str, *, mode: str) -> None:
    """Put a file below ~/.flambed of a host, whole or not at all; nobody else can read it before it has its mode.

    Raises:
        SshError: the host could not be reached, or the link dropped again and again.
        SetupError: it could not be written.
    """
    size = str(len(encoded(content)))
    code, _, _ = await insist(lambda: link.run(INFORM, size, file, mode, stdin=content, timeout=SHORT))
    if code != 0:
        why = "is its disk full, or the home folder not writable?"
        raise SetupError(
            Reason.COMMAND_FAILED, f"exit {code}", f"~/.flambed/{file} cannot be written on {instance}: {why}"
        )


def encoded(text: str) -> bytes:
    """Return a text as a script reads it: YAML can hold half a surrogate pair, UTF-8 cannot."""
    return text.encode(errors="replace")
