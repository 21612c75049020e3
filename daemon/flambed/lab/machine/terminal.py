"""An interactive session: a line discipline good enough for a person, and the prompt."""

import signal
from collections.abc import Callable

from flambed.lab.machine.expansion import ExpansionError
from flambed.lab.machine.lexer import SourceError
from flambed.lab.machine.process import Process
from flambed.lab.machine.shell import ExitShell, Shell
from flambed.lab.machine.streams import PipeWriter

_INTERRUPT, _END, _ERASE, _KILL = 0x03, 0x04, {0x08, 0x7F}, 0x15


class LineDiscipline:
    """Turns keystrokes into lines, echoing them: backspace, ^U, ^C and ^D are known.

    `interrupt` interrupts what runs, and returns whether anything did.
    """

    def __init__(self, lines: PipeWriter, echo: Callable[[bytes], None], interrupt: Callable[[], bool]) -> None:
        self._lines = lines
        self._echo = echo
        self._interrupt = interrupt
        self._line = bytearray()
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take keystrokes."""
        for key in data:
            if key in {0x0D, 0x0A}:
                self._echo(b"\r\n")
                self._lines.feed(bytes(self._line) + b"\n")
                self._line.clear()
            elif key in _ERASE:
                if self._line:
                    self._line.pop()
                    self._echo(b"\b \b")
            elif key == _KILL:
                self._echo(b"\b \b" * len(self._line))
                self._line.clear()
            elif key == _INTERRUPT:
                self._echo(b"^C\r\n")
                self._line.clear()
                if not self._interrupt():
                    self._lines.feed(b"\n")  # for a new prompt
            elif key == _END and not self._line:
                self.end()
            elif key >= 0x20 or key == 0x09:
                self._line.append(key)
                self._echo(bytes([key]))

    def end(self) -> None:
        """Be at the end of input."""
        if not self._ended:
            self._ended = True
            self._lines.release()


async def prompt_loop(process: Process) -> int:
    """Read and run a line at a time until `exit` or the end of input; return the exit status."""
    shell = Shell(process, "bash")
    stream = process.stream(0)
    process.handlers[signal.SIGINT] = lambda: None  # the shell lives on; what it runs does not
    home = process.machine.home(process.user)
    mark = "#" if process.user == "root" else "$"
    while True:
        where = "~" + process.cwd.removeprefix(home) if process.cwd.startswith(home) else process.cwd
        await process.out(f"{process.user}@{process.machine.hostname}:{where}{mark} ")
        line = bytearray()
        while (byte := await stream.read(1)) not in {b"", b"\n"}:
            line += byte
        if not byte and not line:
            await process.out("\n")
            return shell.status
        try:
            await shell.evaluate(line.decode(errors="surrogateescape"))
        except ExitShell as end:
            return end.status
        except (SourceError, ExpansionError) as error:
            await shell.complain(str(error))
            shell.status = 2
