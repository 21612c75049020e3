"""Redirections: what `> file`, `2>&1` and here-documents do to a process's descriptors."""

import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from flambed.lab.machine.expansion import Expander
from flambed.lab.machine.files import File, FileStream
from flambed.lab.machine.process import Process
from flambed.lab.machine.streams import Stream
from flambed.lab.machine.syntax import Redirect

_MODES = {">": "w", ">|": "w", "&>": "w", ">>": "a", "&>>": "a", "<": "r", "<>": "+"}
_INPUTS = {"<", "<>", "<&", "<<", "<<<"}


class RedirectionError(Exception):
    """A redirection failed; the command is not run."""


async def redirect(process: Process, expander: Expander, redirects: Sequence[Redirect]) -> None:
    """Carry out redirections for good. Raises RedirectionError at the first that fails; those before it stay."""
    for each in redirects:
        target = await expander.string(each.target)
        number = each.descriptor if each.descriptor is not None else 0 if each.operator in _INPUTS else 1
        try:
            _carry_out(process, number, each.operator, target)
        except OSError as error:
            verb = "open" if each.operator in _INPUTS else "create"
            raise RedirectionError(f"cannot {verb} {target}: {error.strerror}") from None


@asynccontextmanager
async def redirected(process: Process, expander: Expander, redirects: Sequence[Redirect]) -> AsyncIterator[None]:
    """Carry out redirections while something runs, and put the descriptors back."""
    saved: dict[int, Stream | None] = {}
    for each in redirects:
        numbers = [each.descriptor if each.descriptor is not None else 0 if each.operator in _INPUTS else 1]
        for number in [*numbers, 2] if each.operator in {"&>", "&>>", ">&"} else numbers:
            held = process.descriptors.get(number)
            saved.setdefault(number, held.share() if held else None)
    try:
        await redirect(process, expander, redirects)
        yield
    finally:
        for number, stream in saved.items():
            if stream is None:
                process.close(number)
            else:
                process.redirect(number, stream)


def _carry_out(process: Process, number: int, operator: str, target: str) -> None:
    if operator in {"<<", "<<<"}:
        text = target + ("\n" if operator == "<<<" else "")
        process.redirect(number, FileStream(File(data=bytearray(text.encode(errors="surrogateescape"))), append=False))
    elif operator in {">&", "<&"} and target == "-":
        process.close(number)
    elif operator in {">&", "<&"} and target.isdigit():
        try:
            process.redirect(number, process.stream(int(target)).share())
        except OSError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
    else:
        process.redirect(number, process.open(target, _MODES.get(operator, "w")))
        if operator in {"&>", "&>>", ">&"}:
            process.redirect(2, process.stream(number).share())
