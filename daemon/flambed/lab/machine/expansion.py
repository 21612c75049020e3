"""Words to fields: parameters, substitutions, arithmetic, splitting and file names, as POSIX 2.6 has them."""

import re
from collections.abc import Awaitable, Iterable, Sequence
from typing import Protocol

from flambed.lab.machine.arithmetic import ReckoningError, evaluate
from flambed.lab.machine.files import Directory, FileSystem
from flambed.lab.machine.syntax import Arithmetic, Document, Parameter, Part, Script, Substitution, Text, Word

Field = list[tuple[str, bool]]  # runs of characters, and whether they are quoted


class ExpansionError(Exception):
    """An expansion that ends the shell: ${x:?...}, an unset variable under set -u, bad arithmetic."""


class Variables(Protocol):
    """What an expansion asks of the shell that it is part of."""

    def get(self, name: str) -> str | None:
        """Return a variable or special parameter, None if it is unset."""

    def assign(self, name: str, value: str) -> None:
        """Set a variable."""

    @property
    def positional(self) -> Sequence[str]:
        """The positional parameters from $1 on."""

    @property
    def strict(self) -> bool:
        """Whether an unset variable is an error (set -u)."""

    def output_of(self, script: Script) -> Awaitable[str]:
        """Run `script` in a subshell and return what it printed, without the newlines at the end."""

    @property
    def globbing(self) -> bool:
        """Whether patterns become file names (not set -f)."""

    def listing(self) -> tuple[FileSystem, str]:
        """Return the files, and the working directory, that patterns are matched in."""


class Expander:
    """Expands the words of one shell."""

    def __init__(self, variables: Variables) -> None:
        self._shell = variables

    async def fields(self, words: Iterable[Word]) -> list[str]:
        """Expand words to the arguments of a command."""
        fields: list[str] = []
        for word in words:
            for field in await self._split_word(word):
                fields += self._file_names(field)
        return fields

    async def string(self, word: Word) -> str:
        """Expand a word to one string: no splitting, no file names (assignments, redirections, case)."""
        return "".join([text for part in _with_home(word) for text, _ in await self._joined(part)])

    async def pattern(self, word: Word) -> re.Pattern[str]:
        """Expand a word to a compiled shell pattern."""
        return compile_pattern([run for part in _with_home(word) for run in await self._joined(part)])

    # --- parts ---

    async def _joined(self, part: Part) -> Field:
        """Expand one part without splitting."""
        fields = await self._part(part)
        joined: Field = []
        for index, field in enumerate(fields):
            joined += [(" ", True)] * (index > 0) + field
        return joined

    async def _part(self, part: Part) -> list[Field]:
        """Expand one part; only "$@" and its like give other than one field."""
        match part:
            case Text(text, quoted):
                return [[(text, quoted)]]
            case Substitution(script, quoted):
                return [[(await self._shell.output_of(script), quoted)]]
            case Arithmetic(expression, quoted):
                source = await self.string(expression)
                try:
                    return [[(str(evaluate(source, self._shell.get, self._shell.assign)), quoted)]]
                except ReckoningError as error:
                    raise ExpansionError(f"arithmetic expression: {error}") from None
            case Document(word):
                return [[(await self.string(word), True)]]
            case Parameter():
                return await self._parameter(part)

    async def _parameter(self, part: Parameter) -> list[Field]:
        if part.name in {"@", "*"} and part.operator != "length":
            return await self._all(part)
        value = self._shell.get(part.name)
        if part.operator == "length":
            return [[(str(len(value or "")), part.quoted)]]
        missing = value is None or (not value and part.operator.startswith(":"))
        match part.operator.removeprefix(":"):
            case "+":
                return await self._operand(part) if not missing else [[("", part.quoted)]]
            case "-" if missing:
                return await self._operand(part)
            case "=" if missing:
                value = await self.string(part.operand)
                self._shell.assign(part.name, value)
            case "?" if missing:
                raise ExpansionError(f"{part.name}: {await self.string(part.operand) or 'parameter not set or null'}")
            case "" if value is None and self._shell.strict and part.name not in {"@", "*", "!"}:
                raise ExpansionError(f"{part.name}: parameter not set")
            case "#" | "##" | "%" | "%%":
                value = _trimmed(value or "", part.operator, await self.pattern(part.operand))
        return [[(value or "", part.quoted)]]

    async def _operand(self, part: Parameter) -> list[Field]:
        """Expand the word in ${name-word}; "$@" in it gives several fields, as in ${1+"$@"}."""
        fields: list[Field] = [[]]
        for inner in _with_home(part.operand):
            first, *rest = await self._part(inner) or [[]]
            fields[-1] += first
            fields += rest
        return fields if part.operand else [[("", part.quoted)]]

    async def _all(self, part: Parameter) -> list[Field]:
        """Expand $@ and $*."""
        values = self._shell.positional
        operator = part.operator.removeprefix(":")
        if operator in {"-", "+"} and bool(values) == (operator == "+"):
            return await self._operand(part)
        if part.name == "*" and part.quoted:
            separator = self._shell.get("IFS")
            return [[((" " if separator is None else separator[:1]).join(values), True)]]
        return [[(value, part.quoted)] for value in values]

    # --- splitting and file names ---

    async def _split_word(self, word: Word) -> list[Field]:
        """Expand a word, splitting what unquoted expansions gave; no field at all where nothing is left."""
        fields: list[Field] = []
        current: Field | None = None
        for part in _with_home(word):
            expanded = await self._part(part)
            for index, runs in enumerate(expanded):
                if index:
                    fields += [current] if current is not None else []
                    current = None
                for text, quoted in runs:
                    if quoted or isinstance(part, Text):
                        current = [*(current or []), (text, quoted)]
                        continue
                    pieces = self._split(text)
                    for number, piece in enumerate(pieces):
                        if number:
                            fields += [current] if current is not None else []
                            current = None
                        if piece:
                            current = [*(current or []), (piece, False)]
        return [*fields, current] if current is not None else fields

    def _split(self, text: str) -> list[str]:
        """Split at IFS; empty pieces at the ends stand for separators there."""
        separators = self._shell.get("IFS")
        if separators == "":
            return [text]
        separators = " \t\n" if separators is None else separators
        blanks = re.escape("".join(c for c in separators if c in " \t\n"))
        others = re.escape("".join(c for c in separators if c not in " \t\n"))
        space = f"[{blanks}]" if blanks else "(?!)"
        return re.split(f"{space}*[{others}]{space}*|{space}+" if others else f"{space}+", text)

    def _file_names(self, field: Field) -> list[str]:
        plain = "".join(text for text, _ in field)
        if not self._shell.globbing or not any(mark in text for text, quoted in field if not quoted for mark in "*?["):
            return [plain]
        files, working = self._shell.listing()
        return glob(files, working, field) or [plain]


def glob(files: FileSystem, working: str, field: Field) -> list[str]:
    """Return the paths that match the pattern `field`, sorted."""
    levels: list[Field] = [[]]
    for text, quoted in field:
        first, *rest = text.split("/")
        levels[-1].append((first, quoted))
        levels += [[(piece, quoted)] for piece in rest]
    found = [""]
    for index, level in enumerate(levels):
        name = "".join(text for text, _ in level)
        last = index == len(levels) - 1
        pattern = compile_pattern(level)
        following: list[str] = []
        for base in found:
            if not any(mark in text for text, quoted in level if not quoted for mark in "*?["):
                following.append(f"{base}{name}" if last else f"{base}{name}/")
                continue
            directory = files.find(base if base.startswith("/") else f"{working}/{base}")
            names = directory.names() if isinstance(directory, Directory) else []
            matching = [n for n in names if pattern.fullmatch(n) and (n[0] != "." or name.startswith("."))]
            following += [f"{base}{n}" if last else f"{base}{n}/" for n in matching]
        found = following
    return [path for path in found if files.find(path if path.startswith("/") else f"{working}/{path}", follow=False)]


def compile_pattern(field: Field) -> re.Pattern[str]:
    """Compile runs of characters to the regular expression of the shell pattern they form."""
    return re.compile("".join(re.escape(text) if quoted else _translated(text) for text, quoted in field), re.DOTALL)


def _translated(text: str) -> str:
    pieces: list[str] = []
    for found in re.finditer(r"\*|\?|\[([!^]?)(\]?(?:\[:\w+:\]|[^\]])*)\]|\\(.)|(.)", text, re.DOTALL):
        if found[0] in {"*", "?"}:
            pieces.append(".*" if found[0] == "*" else ".")
        elif found[2]:
            pieces.append(_bracket(found[0], found[2], negated=bool(found[1])))
        else:
            pieces.append(re.escape(found[3] or found[0]))
    return "".join(pieces)


def _bracket(source: str, members: str, *, negated: bool) -> str:
    """Return the regular expression of [members]; of a range that is none, the characters themselves."""
    members = re.sub(r"\[:(\w+):\]", lambda named: _CLASSES.get(named[1], ""), members)
    expression = f"[{'^' if negated else ''}{members.replace('[', chr(92) + '[').replace('^', chr(92) + '^')}]"
    try:
        re.compile(expression)
    except re.error:
        return re.escape(source)
    return expression


_CLASSES = {"digit": "0-9", "alpha": "a-zA-Z", "alnum": "a-zA-Z0-9", "space": r"\s", "upper": "A-Z", "lower": "a-z"}


def _trimmed(value: str, operator: str, pattern: re.Pattern[str]) -> str:
    """Take the shortest (#, %) or longest (##, %%) match off the front or the end of `value`."""
    sizes: Iterable[int] = range(len(value) + 1) if len(operator) == 1 else range(len(value), -1, -1)
    front = operator[0] == "#"

    def matches(size: int) -> bool:
        return bool(pattern.fullmatch(value[:size] if front else value[len(value) - size :]))

    size = next((size for size in sizes if matches(size)), 0)
    return value[size:] if front else value[: len(value) - size]


def _with_home(word: Word) -> Word:
    """Replace an unquoted ~ at the front by $HOME."""
    match word:
        case (Text(text, False), *rest) if text == "~" or text.startswith("~/"):
            return (Parameter("HOME", quoted=True), Text(text[1:], quoted=False), *rest)
    return word
