"""The shell of the pretend hosts: runs `syntax` in a process, as POSIX says a shell does.

What it bends: a script on standard input is read to its end before its first command runs; there are no job
control, no aliases and no arrays; `[[ ]]`, `(( ))`, `local` and `pipefail` are known although sh need not know them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from flambed.lab.machine import programs, syntax
from flambed.lab.machine.arithmetic import ReckoningError, evaluate
from flambed.lab.machine.expansion import Expander, ExpansionError
from flambed.lab.machine.files import FileSystem
from flambed.lab.machine.lexer import SourceError
from flambed.lab.machine.parser import parse
from flambed.lab.machine.process import CHUNK, Process
from flambed.lab.machine.programs import CannotRunError
from flambed.lab.machine.redirection import RedirectionError, redirect, redirected
from flambed.lab.machine.state import State
from flambed.lab.machine.streams import Null, Pipe, Signal, Stream

MAX_CALLS = 60  # functions inside one another; each takes several frames of ours


class ExitShell(Exception):  # noqa: N818 - control flow, as the next three
    """The shell ends with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Return(ExitShell):
    """The function, or the sourced file, ends with `status`."""


class Break(Exception):  # noqa: N818
    """`levels` loops end."""

    def __init__(self, levels: int) -> None:
        super().__init__(levels)
        self.levels = levels


class Continue(Break):
    """All but the outermost of `levels` loops end, and that one goes on with its next round."""


class Shell(State):
    """One shell, or subshell, living in one process; `builtins` are filled in by the module `builtin`."""

    builtins: Mapping[str, Callable[["Shell", list[str]], Awaitable[int]]] = {}

    def __init__(self, process: Process, name: str = "sh", positional: Sequence[str] = ()) -> None:
        super().__init__(process, name, positional)
        self.jobs: dict[int, Process] = {}
        self.pending: list[str] = []  # trapped signals that have come and are not dealt with
        self.interrupted = Signal()
        self.expander = Expander(self)
        self._guards = 0  # > 0: somebody looks at the status, so that set -e does not
        self._substituted: int | None = None  # status of the last $( ) in the running simple command

    # --- whole scripts ---

    async def run(self, source: str, *, tail: bool = False) -> int:
        """Run a script to the end of the shell, the EXIT trap included; return the exit status.

        With `tail` the process becomes the command, if the script is a single simple one.
        """
        await self.settle(self.evaluate(source, tail=tail))
        return await self._leave()

    async def evaluate(self, source: str, *, tail: bool = False) -> int:
        """Run a script inside this shell; return its status. Raises what running it raises, besides SourceError."""
        script = parse(source)
        return await self._script(script, tail=tail and len(script.items) == 1)

    async def settle(self, running: Awaitable[int]) -> bool:
        """Await something that may end the shell; its status is in `status` then, and True returned."""
        try:
            self.status = await running
        except ExitShell as end:
            self.status = end.status
            return True
        except SourceError as error:
            await self.complain(str(error), error.line)
        except ExpansionError as error:
            await self.complain(str(error))
        else:
            return False
        self.status = 2
        return True

    async def complain(self, message: str, line: int | None = None) -> None:
        """Print an error as sh does."""
        await self.process.err(f"{self.name}: {line or self.line}: {message}\n")

    async def _leave(self) -> int:
        action = self.traps.pop("EXIT", "")
        if action:
            status = self.status
            if not await self.settle(self.evaluate(action)):
                self.status = status
        return self.status

    # --- subshells ---

    def listing(self) -> tuple[FileSystem, str]:
        """Return the files and the working directory, for patterns."""
        return self.process.machine.files, self.process.cwd

    async def output_of(self, script: syntax.Script) -> str:
        """Run `script` in a subshell and return what it printed, without the newlines at the end."""
        pipe = Pipe()
        child = self._fork(script, {1: pipe.writer})
        printed = bytearray()
        while chunk := await pipe.reader.read(CHUNK):
            printed += chunk
        pipe.reader.release()
        self._substituted = await child.wait()
        return printed.replace(b"\0", b"").decode(errors="surrogateescape").rstrip("\n")

    def _fork(self, body: syntax.Command, streams: Mapping[int, Stream]) -> Process:
        """Start `body` in a subshell, to which `streams` are handed over as descriptors."""
        child = self.process.fork()
        for number, stream in streams.items():
            child.redirect(number, stream)

        async def main(process: Process) -> int:
            shell = Shell(process, self.name, self.positional)
            shell.inherit(self)
            shell._guards = self._guards
            await shell.settle(shell._command(body, tail=True))
            return await shell._leave()

        return child.start(main)

    # --- lists ---

    async def _script(self, script: syntax.Script, *, tail: bool = False) -> int:
        self.status = 0 if not script.items else self.status
        for command, background in script.items:
            if background:
                self._start_job(command)
                self.status = 0
            else:
                self.status = await self._command(command, tail=tail)
            await self.act_on_signals()
        return self.status

    def _start_job(self, command: syntax.Command) -> None:
        job = self._fork(command, {0: Null()})
        self.jobs[job.pid] = job
        self.last_job = job.pid

    async def act_on_signals(self) -> None:
        """Run the traps of the signals that have come."""
        while self.pending:
            status = self.status
            await self.evaluate(self.traps.get(self.pending.pop(0), ""))
            self.status = status

    async def _guarded(self, command: syntax.Command) -> int:
        """Run a command whose failure is looked at, so that set -e has no say."""
        self._guards += 1
        try:
            self.status = await self._command(command)
        finally:
            self._guards -= 1
        return self.status

    def _checked(self, status: int) -> int:
        """Return `status`, unless set -e ends the shell by it."""
        self.status = status
        if status and "e" in self.flags and not self._guards:
            raise ExitShell(status)
        return status

    # --- commands ---

    async def _command(self, command: syntax.Command, *, tail: bool = False) -> int:
        match command:
            case syntax.Simple():
                return self._checked(await self._simple(command, tail=tail))
            case syntax.AndOr(left, operator, right):
                status = await self._guarded(left)
                return status if (status == 0) == (operator == "||") else await self._command(right)
            case syntax.Pipeline():
                return await self._pipeline(command)
            case syntax.Script():
                return await self._script(command, tail=tail and len(command.items) == 1)
            case syntax.Group(body):
                return await self._script(body)
            case syntax.Subshell(body):
                return self._checked(await self._fork(body, {}).wait())
            case syntax.Redirected(inner, redirects):
                try:
                    async with redirected(self.process, self.expander, redirects):
                        return await self._command(inner)
                except RedirectionError as error:
                    await self.complain(str(error))
                    return self._checked(2)
            case syntax.Function(name, body):
                self.functions[name] = body
                return 0
            case syntax.Reckon(expression):
                return self._checked(await self._reckon(expression))
            case _:
                return await self._compound(command)

    async def _compound(self, command: syntax.If | syntax.Loop | syntax.For | syntax.Case) -> int:
        match command:
            case syntax.If(branches, otherwise):
                for condition, body in branches:
                    if await self._guarded(condition) == 0:
                        return await self._script(body)
                return await self._script(otherwise) if otherwise else 0
            case syntax.Loop() | syntax.For():
                self.loops += 1
                try:
                    return await (self._loop(command) if isinstance(command, syntax.Loop) else self._for(command))
                finally:
                    self.loops -= 1
            case syntax.Case(word, items):
                subject = await self.expander.string(word)
                for patterns, body in items:
                    for pattern in patterns:
                        if (await self.expander.pattern(pattern)).fullmatch(subject):
                            return await self._script(body)
                return 0

    async def _reckon(self, expression: syntax.Word) -> int:
        try:
            return int(evaluate(await self.expander.string(expression), self.get, self.assign) == 0)
        except ReckoningError as error:
            raise ExpansionError(str(error)) from None

    async def _loop(self, loop: syntax.Loop) -> int:
        status = 0
        while True:
            try:
                if (await self._guarded(loop.condition) == 0) == loop.until:
                    return status
            except Break as end:
                self._pass_on(end)
                if isinstance(end, Continue):
                    continue
                return 0
            status, ended = await self._round(loop.body)
            if ended:
                return status

    async def _for(self, loop: syntax.For) -> int:
        values = list(self.positional) if loop.words is None else await self.expander.fields(loop.words)
        status = 0
        for value in values:
            self.assign(loop.variable, value)
            status, ended = await self._round(loop.body)
            if ended:
                break
        return status

    async def _round(self, body: syntax.Script) -> tuple[int, bool]:
        """Run the body of a loop once; return the status, and whether the loop is to end."""
        await asyncio.sleep(0)  # a loop of builtins must not keep the other hosts from running
        try:
            return await self._script(body), False
        except Break as end:
            self._pass_on(end)
            self.status = 0
            return 0, not isinstance(end, Continue)

    @staticmethod
    def _pass_on(end: Break) -> None:
        if end.levels > 1:
            raise type(end)(end.levels - 1)

    async def _pipeline(self, pipeline: syntax.Pipeline) -> int:
        if len(pipeline.commands) == 1:
            status = await self._guarded(pipeline.commands[0])
        else:
            children: list[Process] = []
            source: Stream | None = None
            for index, command in enumerate(pipeline.commands):
                streams: dict[int, Stream] = {0: source} if source else {}
                if index < len(pipeline.commands) - 1:
                    pipe = Pipe()
                    streams[1] = pipe.writer
                    source = pipe.reader
                children.append(self._fork(command, streams))
            statuses = [await child.wait() for child in children]
            failed = [status for status in statuses if status]
            status = failed[-1] if failed and "pipefail" in self.flags else statuses[-1]
        if pipeline.negated:
            self.status = int(status == 0)
            return self.status
        return self._checked(status)

    # --- simple commands ---

    async def _simple(self, command: syntax.Simple, *, tail: bool) -> int:
        self.line = command.line
        self._substituted = None
        argv = await self.expander.fields(command.words)
        values = {name: await self.expander.string(word) for name, word in command.assignments}
        try:
            if not argv:
                async with redirected(self.process, self.expander, command.redirects):
                    for name, value in values.items():
                        self.assign(name, value)
                return self._substituted or 0
            if argv[0] == "exec":
                return await self._exec(command.redirects, argv[1:], values)
            if argv[0] in self.functions or argv[0] in self.builtins:
                async with redirected(self.process, self.expander, command.redirects):
                    return await self._internal(argv, values)
        except RedirectionError as error:
            await self.complain(str(error))
            if argv[:1] == ["exec"]:
                raise ExitShell(2) from None
            return 2
        if tail and "EXIT" not in self.traps:
            return await self._become(self.process, command.redirects, argv, values)
        child = self.process.fork()
        return await child.start(lambda process: self._become(process, command.redirects, argv, values)).wait()

    async def _become(
        self, process: Process, redirects: Sequence[syntax.Redirect], argv: list[str], values: Mapping[str, str]
    ) -> int:
        """Let `process` become the program argv[0]."""
        process.environ = {**self.environment(), **values}
        process.handlers.clear()
        try:
            await redirect(process, self.expander, redirects)
            return await programs.execute(process, argv)
        except RedirectionError as error:
            await process.err(f"{self.name}: {self.line}: {error}\n")
            return 2
        except CannotRunError as error:
            await process.err(f"{self.name}: {self.line}: {error.name}: {error.reason}\n")
            return error.code

    async def _exec(self, redirects: Sequence[syntax.Redirect], argv: list[str], values: Mapping[str, str]) -> int:
        if argv:
            self.traps.pop("EXIT", None)
            raise ExitShell(await self._become(self.process, redirects, argv, values))
        await redirect(self.process, self.expander, redirects)
        return 0

    async def _internal(self, argv: list[str], values: Mapping[str, str]) -> int:
        """Run a function or a builtin; assignments before it hold while it runs."""
        text = " ".join(argv)
        code = self.process.machine.command_fault(text)
        if code is not None:
            return await programs.refuse(self.process, text, code)
        hidden = {name: self.variables.get(name) for name in values}
        for name, value in values.items():
            self.assign(name, value)
        try:
            if argv[0] in self.functions:
                return await self._call(argv)
            return await programs.run(self.process, lambda _, args: self.builtins[argv[0]](self, args), argv)
        finally:
            for name, old in hidden.items():
                if old is None:
                    self.unset(name)
                else:
                    self.assign(name, old)

    async def _call(self, argv: list[str]) -> int:
        if len(self.locals) >= MAX_CALLS:
            raise ExpansionError(f"{argv[0]}: functions are nested more than {MAX_CALLS} deep")
        await asyncio.sleep(0)  # nor must recursion
        positional, self.positional = self.positional, argv[1:]
        self.locals.append({})
        try:
            return await self._command(self.functions[argv[0]])
        except Return as end:
            return end.status
        finally:
            self.positional = positional
            self.reveal()
