"""flambectl, from its arguments to an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from flambed.cli import arguments, commands
from flambed.cli.console import Console, quiet
from flambed.cli.failure import Exit, FailureError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `Exit`)."""
    try:
        # A pipe whose reader is gone shows itself at the last flush at the latest.
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        quiet(sys.stdout)
        return Exit.INTERRUPTED
    return code


def _run(argv: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        # Names are Unicode; a terminal that is not shows what it cannot show as an escape.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = arguments.parse(argv)
    console = Console(sys.stdout, sys.stderr, os.environ, as_json=args.json)
    try:
        return commands.RUN[args.command](args, console)
    except FailureError as failure:
        if failure.message:
            console.error(f"flambectl: {failure.message}")
        for line in failure.details:
            console.error(line)
        return failure.code
    except KeyboardInterrupt:
        console.error("flambectl: interrupted")
        return Exit.INTERRUPTED
