"""grep and sed: programs that match lines against regular expressions."""

import re
from collections.abc import Callable, Iterator

from flambed.lab.machine.commands.filters import count_of, whole_lines
from flambed.lab.machine.process import Process
from flambed.lab.machine.programs import UsageError, options, program


def _expression(pattern: str, *, basic: bool, fixed: bool, ignore_case: bool) -> re.Pattern[str]:
    """Compile a POSIX regular expression."""
    if fixed:
        pattern = re.escape(pattern)
    elif basic:
        pattern = re.sub(r"\\([(){}|+?])|([(){}|+?])", lambda m: m[1] or "\\" + m[2], pattern)
    for name, members in (("digit", "0-9"), ("alpha", "a-zA-Z"), ("alnum", "a-zA-Z0-9"), ("space", r"\s")):
        pattern = pattern.replace(f"[:{name}:]", members)
    try:
        return re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise UsageError(f"{pattern}: {error}", 2) from None


@program("grep", "egrep", "fgrep")
async def grep(process: Process, args: list[str]) -> int:
    """Print lines that match; -q -c -v -E -F -i -o -x -w -n -l -s -e -h -m are known."""
    found, operands = options(args, "qcvEFioxwnlshe:m:")
    if "e" not in found and not operands:
        raise UsageError("usage: grep [OPTION]... PATTERNS [FILE]...", 2)
    source, names = (found["e"], operands) if "e" in found else (operands[0], operands[1:])
    style = process.argv[0]
    fixed = "F" in found or style.endswith("fgrep")
    basic = "E" not in found and not style.endswith("egrep")
    source = source if "w" not in found else rf"\b{re.escape(source) if fixed else source}\b"
    patterns = [
        _expression(line, basic=basic, fixed=fixed and "w" not in found, ignore_case="i" in found)
        for line in source.split("\n")
    ]
    matches: Callable[[re.Pattern[str], str], object] = re.Pattern.fullmatch if "x" in found else re.Pattern.search
    status = 1
    for name in names or ["-"]:
        try:
            lines = whole_lines(await process.contents([name]))
        except OSError as error:
            if "s" not in found:
                await process.err(f"grep: {name}: {error.strerror}\n")
            status = 2
            continue
        hits = [
            (number, line)
            for number, line in enumerate(lines, 1)
            if any(matches(p, line) for p in patterns) != ("v" in found)
        ]
        hits = hits[: count_of(found["m"])] if "m" in found else hits
        status = 0 if hits and status == 1 else status
        prefix = f"{name}:" if len(names) > 1 and "h" not in found else ""
        await process.out("".join(_grep_output(found, name, prefix, hits, patterns)))
    return status


def _grep_output(
    found: dict[str, str], name: str, prefix: str, hits: list[tuple[int, str]], patterns: list[re.Pattern[str]]
) -> Iterator[str]:
    if "q" in found:
        return
    if "c" in found:
        yield f"{prefix}{len(hits)}\n"
    elif "l" in found:
        yield f"{name}\n" if hits else ""
    elif "o" in found:
        yield from (
            f"{prefix}{match[0]}\n" for _, line in hits for p in patterns for match in p.finditer(line) if match[0]
        )
    else:
        yield from (f"{prefix}{f'{number}:' if 'n' in found else ''}{line}\n" for number, line in hits)


@program("sed")
async def sed(process: Process, args: list[str]) -> int:
    """Edit lines by s/../../[gip], and p, d and q behind a line number, $, a range or /regex/; -n -E -i -e are known."""
    scripts: list[str] = []
    plain: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg in {"-e", "--expression"}:
            scripts.append(next(rest, ""))
        else:
            plain.append(arg)
    found, operands = options(plain, "nEri")
    names = operands if scripts else operands[1:]
    edits = [edit for text in scripts or operands[:1] for edit in _edits(text, basic=not {"E", "r"} & set(found))]
    for name in names or ["-"]:
        lines = whole_lines(await process.contents([name]))
        result = "".join(f"{line}\n" for line in _edited(lines, edits, quiet="n" in found)).encode(
            errors="surrogateescape"
        )
        if "i" in found:
            process.machine.files.write(process.path(name), result)
        else:
            await process.write(1, result)
    return 0


_ADDRESS = r"(\d+|\$|/(?:\\.|[^/\\])*/)"
_EDIT = re.compile(
    rf"\s*(?:{_ADDRESS}(?:,{_ADDRESS})?)?\s*(!?)\s*(?:s(.)((?:\\.|(?!\4).)*)\4((?:\\.|(?!\4).)*)\4([gipI]*)|([pdq]))\s*(?:;|$)",
    re.DOTALL,
)


def _edits(script: str, *, basic: bool) -> Iterator[tuple[re.Match[str], re.Pattern[str] | None]]:
    position = 0
    while position < len(script.rstrip()):
        found = _EDIT.match(script, position)
        if found is None:
            raise UsageError(f"the lab's sed does not know ‘{script[position:]}’")  # noqa: RUF001 - as coreutils quotes
        position = found.end()
        pattern = None
        if found[4]:
            source = found[5].replace(f"\\{found[4]}", found[4])
            pattern = _expression(source, basic=basic, fixed=False, ignore_case="i" in found[7].lower())
        yield found, pattern


def _edited(
    lines: list[str], edits: list[tuple[re.Match[str], re.Pattern[str] | None]], *, quiet: bool
) -> Iterator[str]:
    inside: dict[int, bool] = {}
    for index, original in enumerate(lines, 1):
        line: str | None = original
        ended = False
        for place, (edit, pattern) in enumerate(edits):
            if line is None or _selected(edit, index, line, len(lines), inside=inside, place=place) == bool(edit[3]):
                continue
            if pattern is not None:
                replacement = re.sub(r"\\(\d)|\\(.)|(&)", _template, edit[6].replace(f"\\{edit[4]}", edit[4]))
                line, changes = pattern.subn(replacement, line, count=0 if "g" in edit[7] else 1)
                if changes and "p" in edit[7]:
                    yield line
            elif edit[8] == "p":
                yield line
            elif edit[8] == "d":
                line = None
            else:
                ended = True
        if line is not None and not quiet:
            yield line
        if ended:
            return


def _template(found: re.Match[str]) -> str:
    if found[1] or found[3]:
        return rf"\g<{found[1] or 0}>"
    return {"n": "\n", "t": "\t"}.get(found[2], found[2] if found[2] != "\\" else r"\\")


def _selected(edit: re.Match[str], index: int, line: str, last: int, *, inside: dict[int, bool], place: int) -> bool:
    """Whether the addresses of an edit choose this line."""

    def at(address: str) -> bool:
        if address.startswith("/"):
            return re.search(address[1:-1], line) is not None
        return index == (last if address == "$" else int(address))

    first, second = edit[1], edit[2]
    if first is None:
        return True
    if second is None:
        return at(first)
    if inside.get(place):
        inside[place] = not at(second)
        return True
    inside[place] = at(first) and not (second.isdigit() and int(second) <= index)
    return at(first)
