"""echo, printf, seq, yes: programs that print what they are told. echo is bash's, also in sh."""

import re
from collections.abc import Iterator

from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import UsageError, number, options, program

MAX_NUMBERS = 1_000_000

_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|0?([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b"}
_DIRECTIVE = re.compile(r"%(?:(%)|([-+ 0#]*)(\*|\d*)(?:\.(\*|\d*))?([a-zA-Z]))")


def unescape(text: str) -> str:
    r"""Replace \n, \t, \\, \0101, \x41 and their like."""

    def replaced(found: re.Match[str]) -> str:
        if found[1] or found[2]:
            return chr(int(found[1], 16) if found[1] else int(found[2], 8) & 0xFF)
        return _LETTERS.get(found[3], found[3] if found[3] in "\\'\"" else found[0])

    return _ESCAPE.sub(replaced, text)


@program("echo")
async def echo(process: Process, args: list[str]) -> int:
    """Print the arguments."""
    newline, escapes = "\n", False
    while args and re.fullmatch(r"-[neE]+", args[0]):
        newline = "" if "n" in args[0] else newline
        escapes = escapes or "e" in args[0]
        args = args[1:]
    text = " ".join(args)
    await process.out((unescape(text) if escapes else text) + newline)
    return 0


@program("printf")
async def printf(process: Process, args: list[str]) -> int:
    """Print by a format, again and again while there are arguments."""
    args = args[1:] if args[:1] == ["--"] else args
    if not args:
        raise UsageError("usage: printf format [arguments]", 2)
    layout, rest = unescape(args[0]), args[1:]
    printed: list[str] = []
    while True:
        values = iter(rest)
        printed.append(_DIRECTIVE.sub(lambda found, values=values: _formatted(found, values), layout))  # type: ignore[misc]
        left = list(values)
        if not left or len(left) == len(rest):
            break
        rest = left
    await process.out("".join(printed))
    return 0


def _formatted(found: re.Match[str], values: Iterator[str]) -> str:
    percent, flags, width, precision, kind = found.groups()
    if percent:
        return "%"
    width = next(values, "0") if width == "*" else width
    precision = next(values, "0") if precision == "*" else precision
    value = next(values, "")
    layout = f"%{flags}{width}" + (f".{precision}" if precision is not None else "")
    match kind:
        case "s" | "b":
            return (layout + "s") % (unescape(value) if kind == "b" else value)
        case "c":
            return (layout + "s") % value[:1]
        case "q":
            return value if re.fullmatch(r"[\w./:=@%+-]+", value) else "'" + value.replace("'", "'\\''") + "'"
        case "d" | "i" | "u" | "x" | "X" | "o":
            return (layout + ("d" if kind in "iu" else kind)) % int(_numeric(value))
        case "f" | "e" | "g" | "F" | "E" | "G":
            return (layout + kind) % _numeric(value)
        case _:
            raise UsageError(f"%{kind}: invalid directive", 2)


def _numeric(value: str) -> float:
    if value[:1] in {"'", '"'}:
        return ord(value[1:2] or "\0")
    if re.fullmatch(r"[-+]?0[xX][0-9a-fA-F]+", value):
        return int(value, 16)
    if re.fullmatch(r"[-+]?\d+", value):
        return int(value)
    return number(value, "number") if value else 0


@program("seq")
async def seq(process: Process, args: list[str]) -> int:
    """Print numbers: LAST, FIRST LAST, or FIRST STEP LAST."""
    found, operands = options([f"./{a}" if re.fullmatch(r"-[\d.]+", a) else a for a in args], "s:w", mixed=False)
    numbers = [number(operand.removeprefix("./"), "floating point argument") for operand in operands]
    if not 1 <= len(numbers) <= 3:
        raise UsageError("expected 1 to 3 operands")
    first = numbers[0] if len(numbers) > 1 else 1.0
    step = numbers[1] if len(numbers) == 3 else 1.0
    if step == 0:
        raise UsageError("invalid Zero increment value: ‘0’")  # noqa: RUF001 - as coreutils quotes
    count = max(0, int((numbers[-1] - first) / step + 1e-9) + 1)
    if count > MAX_NUMBERS:
        raise UsageError(f"the lab's seq prints no more than {MAX_NUMBERS} numbers")
    values = [first + step * index for index in range(count)]
    if values:
        separator = found.get("s", "\n")
        await process.out(separator.join(f"{value:.10g}" for value in values) + "\n")
    return 0


@program("yes")
async def yes(process: Process, args: list[str]) -> int:
    """Print a line until nobody reads any more."""
    while True:
        await process.out((" ".join(args) or "y") + "\n")
