"""test, [, [[, true, false, expr."""

import re
from collections.abc import Callable

from flambed.lab.machine.expansion import compile_pattern
from flambed.lab.machine.files import Directory, File, Link, Node, NullDevice, Virtual
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import Main, UsageError, program

_FILES: dict[str, Callable[[Node], bool]] = {
    "-e": lambda node: True,  # noqa: ARG005 - that there is a node is the answer
    "-f": lambda node: isinstance(node, File | Virtual),
    "-d": lambda node: isinstance(node, Directory),
    "-s": lambda node: node.size() > 0,
    "-r": lambda node: True,  # noqa: ARG005 - the lab refuses nobody
    "-w": lambda node: True,  # noqa: ARG005
    "-x": lambda node: isinstance(node, Directory) or bool(node.mode & 0o111),
    "-c": lambda node: isinstance(node, NullDevice),
    "-O": lambda node: True,  # noqa: ARG005
}
_NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "-eq": lambda a, b: a == b,
    "-ne": lambda a, b: a != b,
    "-lt": lambda a, b: a < b,
    "-le": lambda a, b: a <= b,
    "-gt": lambda a, b: a > b,
    "-ge": lambda a, b: a >= b,
}
_STRINGS: dict[str, Callable[[str, str], bool]] = {
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}
_AND, _OR = {"-a", "&&"}, {"-o", "||"}


class _Condition:
    """A condition being evaluated; `patterns` makes = and != match shell patterns, as [[ does."""

    def __init__(self, process: Process, args: list[str], *, patterns: bool) -> None:
        self._process = process
        self._args = args
        self._patterns = patterns

    def holds(self) -> bool:
        """Return the value of the whole. Raises UsageError."""
        if not self._args:
            return False
        value = self._or()
        if self._args:
            raise UsageError(f"{self._args[0]}: unexpected operator", 2)
        return value

    def _or(self) -> bool:
        value = self._and()
        while self._args and self._args[0] in _OR:
            self._args.pop(0)
            value = self._and() or value
        return value

    def _and(self) -> bool:
        value = self._not()
        while self._args and self._args[0] in _AND:
            self._args.pop(0)
            value = self._not() and value
        return value

    def _not(self) -> bool:
        if len(self._args) > 1 and self._args[0] == "!" and not self._is_binary():
            self._args.pop(0)
            return not self._not()
        return self._primary()

    def _is_binary(self) -> bool:
        return len(self._args) > 2 and (self._args[1] in _NUMBERS or self._args[1] in _STRINGS or self._args[1] == "=~")

    def _primary(self) -> bool:
        if not self._args:
            raise UsageError("argument expected", 2)
        if self._is_binary():
            left, operator, right = self._args[:3]
            del self._args[:3]
            return self._binary(left, operator, right)
        first = self._args.pop(0)
        if first == "(" and self._args:
            value = self._or()
            if not self._args or self._args.pop(0) != ")":
                raise UsageError("closing paren expected", 2)
            return value
        if self._args and self._args[0] not in _AND | _OR | {")"} and re.fullmatch(r"-[a-zA-Z]", first):
            return self._unary(first, self._args.pop(0))
        return first != ""

    def _unary(self, operator: str, operand: str) -> bool:
        if operator in {"-n", "-z"}:
            return (operand == "") == (operator == "-z")
        if operator == "-t":
            return False
        if operator in {"-L", "-h"}:
            return isinstance(self._find(operand, follow=False), Link)
        if operator not in _FILES:
            raise UsageError(f"{operator}: unexpected operator", 2)
        node = self._find(operand)
        return node is not None and _FILES[operator](node)

    def _binary(self, left: str, operator: str, right: str) -> bool:
        if operator in _NUMBERS:
            return _NUMBERS[operator](_integer(left), _integer(right))
        if operator == "=~":
            return _regular(right).search(left) is not None
        if self._patterns and operator in {"=", "==", "!="}:
            return bool(compile_pattern([(right, False)]).fullmatch(left)) == (operator != "!=")
        return _STRINGS[operator](left, right)

    def _find(self, name: str, *, follow: bool = True) -> Node | None:
        return self._process.machine.files.find(self._process.path(name), follow=follow) if name else None


def _regular(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{pattern}: {error}", 2) from None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"Illegal number: {text}", 2) from None


def test(name: str) -> Main:
    """Return the program `name`: test, or [ and [[, which want their closing brackets."""

    async def main(process: Process, args: list[str]) -> int:
        args = list(args)
        closing = {"[": "]", "[[": "]]"}.get(name)
        if closing and (not args or args.pop() != closing):
            raise UsageError(f"missing {closing}", 2)
        return 0 if _Condition(process, args, patterns=name == "[[").holds() else 1

    return main


for _name in ("test", "["):
    program(_name)(test(_name))


@program("true")
async def true(_: Process, __: list[str]) -> int:
    """Succeed."""
    return 0


@program("false")
async def false(_: Process, __: list[str]) -> int:
    """Fail."""
    return 1


@program("expr")
async def expr(process: Process, args: list[str]) -> int:
    """Print A op B for integers and comparisons, or the length of a match (A : REGEX)."""
    match args:
        case [left, ":", pattern]:
            found = _regular(pattern.replace(r"\(", "(").replace(r"\)", ")")).match(left)
            value = str(len(found[0]) if found else 0) if not found or not found.groups() else found[1]
        case [left, ("+" | "-" | "*" | "/" | "%") as operator, right]:
            a, b = _integer(left), _integer(right)
            if b == 0 and operator in "/%":
                raise UsageError("division by zero", 2)
            quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else 0
            value = str({"+": a + b, "-": a - b, "*": a * b, "/": quotient, "%": a - b * quotient}[operator])
        case [left, ("=" | "!=" | "<" | ">") as operator, right]:
            value = str(int(_STRINGS[operator](left, right)))
        case _:
            raise UsageError("syntax error", 2)
    await process.out(f"{value}\n")
    return 0 if value not in {"", "0"} else 1
