"""cat, head, tail, cut, sort and others that pass text on."""

import asyncio
import base64 as encoding
import binascii
import hashlib
import re
from itertools import groupby

from flambed.lab.machine.commands.printing import unescape
from flambed.lab.machine.files import File
from flambed.lab.machine.process import CHUNK, Process
from flambed.lab.machine.programs import UsageError, number, options, program


def whole_lines(data: bytes) -> list[str]:
    """Split into lines without their newlines."""
    text = data.decode(errors="surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []


@program("cat")
async def cat(process: Process, args: list[str]) -> int:
    """Copy files, or standard input as it comes, to standard output."""
    _, names = options(args, "u")
    status = 0
    for name in names or ["-"]:
        try:
            stream = process.stream(0) if name == "-" else process.open(name, "r")
            if name != "-":
                process.machine.files.read(process.path(name))  # refuses directories
        except OSError as error:
            await process.err(f"cat: {name}: {error.strerror}\n")
            status = 1
            continue
        while chunk := await stream.read(CHUNK):
            await process.write(1, chunk)
        if name != "-":
            stream.release()
    return status


@program("tee")
async def tee(process: Process, args: list[str]) -> int:
    """Copy standard input to standard output and to files."""
    found, names = options(args, "ai")
    streams = [process.open(name, "a" if "a" in found else "w") for name in names]
    while chunk := await process.stream(0).read(CHUNK):
        await process.write(1, chunk)
        for stream in streams:
            await stream.write(chunk)
    for stream in streams:
        stream.release()
    return 0


def _old_style(args: list[str]) -> list[str]:
    """Turn -5 as the first argument into -n 5."""
    return ["-n", args[0][1:], *args[1:]] if args and re.fullmatch(r"-\d+", args[0]) else args


def count_of(text: str) -> int:
    """Return a number of lines or bytes such as 10, -10, +10 or 64K, without its sign. Raises UsageError."""
    found = re.fullmatch(r"[-+]?(\d+)([kKM]?)", text)
    if not found:
        raise UsageError(f"invalid number of lines or bytes: ‘{text}’")  # noqa: RUF001 - as coreutils quotes
    return int(found[1]) * {"": 1, "k": 1024, "K": 1024, "M": 1 << 20}[found[2]]


@program("head")
async def head(process: Process, args: list[str]) -> int:
    """Print the first lines (-n) or bytes (-c) of each file."""
    found, names = options(_old_style(args), "n:c:q", ["lines=", "bytes="])
    if "c" in found or "bytes" in found:
        size = count_of(found.get("c") or found["bytes"])
        for name in names or ["-"]:
            await process.write(1, await _first_bytes(process, name, size))
        return 0
    text = found.get("n") or found.get("lines") or "10"
    for name in names or ["-"]:
        if text.startswith("-") or name != "-":
            lines = (await process.contents([name])).splitlines(keepends=True)
            await process.write(
                1, b"".join(lines[: -count_of(text) or None] if text.startswith("-") else lines[: count_of(text)])
            )
        else:
            await _first_lines(process, count_of(text))
    return 0


async def _first_lines(process: Process, count: int) -> None:
    """Pass lines of standard input on as they come, and leave what follows to others."""
    while count > 0 and (chunk := await process.stream(0).read(CHUNK)):
        lines = chunk.splitlines(keepends=True)
        await process.write(1, b"".join(lines[:count]))
        count -= sum(line.endswith(b"\n") for line in lines[:count])


async def _first_bytes(process: Process, name: str, size: int) -> bytes:
    if name != "-":
        return process.machine.files.read(process.path(name))[:size]
    data = b""
    while len(data) < size and (chunk := await process.stream(0).read(size - len(data))):
        data += chunk
    return data


@program("tail")
async def tail(process: Process, args: list[str]) -> int:
    """Print the last lines (-n) or bytes (-c), or those from +N on; with -f what a file still gets."""
    found, names = options(_old_style(args), "n:c:fqFs:", ["lines=", "bytes=", "pid=", "follow"])
    size = found.get("c") or found.get("bytes")
    text = size or found.get("n") or found.get("lines") or "10"
    count = count_of(text)
    for name in names or ["-"]:
        data = await process.contents([name])
        if size:
            shown = data[count - 1 :] if text.startswith("+") else data[-count:] if count else b""
        else:
            lines = data.splitlines(keepends=True)
            shown = b"".join(lines[max(count - 1, 0) :] if text.startswith("+") else lines[-count:] if count else [])
        await process.write(1, shown)
    if {"f", "F", "follow"} & set(found) and names:
        await _follow(process, names[-1], found.get("pid"))
    return 0


async def _follow(process: Process, name: str, pid: str | None) -> None:
    """Print what is appended to a file, until the process `pid` ends."""
    node = process.machine.files.resolve(process.path(name))
    if not isinstance(node, File):
        raise UsageError(f"{name}: cannot follow this type of file")
    watched = process.machine.processes.get(int(number(pid, "PID"))) if pid else None
    ended = asyncio.ensure_future(watched.wait() if watched else asyncio.Event().wait())
    position = len(node.data)
    try:
        while True:
            changed = asyncio.ensure_future(node.changed.wait())
            try:
                if len(node.data) <= position:
                    await asyncio.wait({changed, ended}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            position = min(position, len(node.data))
            await process.write(1, bytes(node.data[position:]))
            position = len(node.data)
            if ended.done():
                return
    finally:
        ended.cancel()


@program("wc")
async def wc(process: Process, args: list[str]) -> int:
    """Count lines, words and bytes."""
    found, names = options(args, "lwcm")
    wanted = [letter for letter in "lwmc" if letter in found] or list("lwc")
    for name in names or ["-"]:
        data = await process.contents([name])
        counts = {
            "l": data.count(b"\n"),
            "w": len(data.split()),
            "c": len(data),
            "m": len(data.decode(errors="replace")),
        }
        shown = " ".join(str(counts[letter]) for letter in wanted)
        await process.out(f"{shown}{'' if name == '-' else ' ' + name}\n")
    return 0


@program("cut")
async def cut(process: Process, args: list[str]) -> int:
    """Print fields (-f, with -d) or characters (-c, -b) of each line."""
    found, names = options(args, "d:f:c:b:s")
    spec = found.get("f") or found.get("c") or found.get("b")
    if spec is None:
        raise UsageError("you must specify a list of bytes, characters, or fields")
    delimiter = found.get("d", "\t") if "f" in found else ""
    for line in whole_lines(await process.contents(names or ["-"])):
        if delimiter and delimiter not in line:
            await process.out("" if "s" in found else f"{line}\n")
            continue
        pieces = line.split(delimiter) if delimiter else list(line)
        wanted = [piece for index, piece in enumerate(pieces, 1) if _in_ranges(index, spec)]
        await process.out(delimiter.join(wanted) + "\n")
    return 0


def _in_ranges(index: int, spec: str) -> bool:
    for piece in spec.split(","):
        first, dash, last = piece.partition("-")
        low = int(number(first, "field")) if first else 1
        high = low if not dash else int(number(last, "field")) if last else index
        if low <= index <= high:
            return True
    return False


def _members(text: str) -> str:
    """Expand a-z and [:classes:] of tr."""
    text = text.replace("[:upper:]", "A-Z").replace("[:lower:]", "a-z").replace("[:digit:]", "0-9")
    text = text.replace("[:space:]", " \t\n\r\f\v").replace("[:alnum:]", "a-zA-Z0-9").replace("[:alpha:]", "a-zA-Z")
    text = unescape(text)
    return re.sub(
        r"(.)-(.)", lambda m: "".join(chr(code) for code in range(ord(m[1]), ord(m[2]) + 1)), text, flags=re.DOTALL
    )


@program("tr")
async def tr(process: Process, args: list[str]) -> int:
    """Replace, delete (-d) or squeeze (-s) characters; -c takes all others."""
    found, sets = options(args, "dscC", mixed=False)
    if not sets:
        raise UsageError("missing operand")
    text = (await process.read_all()).decode(errors="surrogateescape")
    first, second = _members(sets[0]), _members(sets[1]) if len(sets) > 1 else ""
    chosen = set(text) - set(first) if {"c", "C"} & set(found) else set(first)
    if "d" in found:
        text = "".join(character for character in text if character not in chosen)
    elif second:
        order = first if not {"c", "C"} & set(found) else "".join(sorted(chosen))
        table = {ord(c): second[min(index, len(second) - 1)] for index, c in enumerate(order)}
        text = text.translate(table)
    if "s" in found:
        squeezed = set(second) if second else chosen
        text = "".join(c if c in squeezed else "".join(group) for c, group in groupby(text))
    await process.out(text)
    return 0


@program("sort")
async def sort(process: Process, args: list[str]) -> int:
    """Sort lines; -n -r -u are known, and -k N with -t for one field."""
    found, names = options(args, "nruk:t:")
    lines = whole_lines(await process.contents(names or ["-"]))

    def key(line: str) -> tuple[float, str]:
        field = line
        if "k" in found:
            fields = line.split(found.get("t"))
            index = int(re.split("[,.]", found["k"])[0]) - 1
            field = fields[index] if index < len(fields) else ""
        amount = re.match(r"\s*-?\d+(\.\d+)?", field) if "n" in found else None
        return (float(amount[0]) if amount else 0.0, field)

    lines.sort(key=key, reverse="r" in found)
    await process.out("".join(f"{line}\n" for line in (dict.fromkeys(lines) if "u" in found else lines)))
    return 0


@program("uniq")
async def uniq(process: Process, args: list[str]) -> int:
    """Drop repeated lines; -c counts, -d prints only repeated ones."""
    found, names = options(args, "cdu")
    for line, group in groupby(whole_lines(await process.contents(names[:1] or ["-"]))):
        count = len(list(group))
        if ("d" in found and count == 1) or ("u" in found and count > 1):
            continue
        await process.out(f"{count:7} {line}\n" if "c" in found else f"{line}\n")
    return 0


@program("sha256sum", "sha1sum", "md5sum")
async def checksum(process: Process, args: list[str]) -> int:
    """Print checksums."""
    name_of_sum = process.argv[0].rpartition("/")[2].removesuffix("sum")
    for name in args or ["-"]:
        digest = hashlib.new(name_of_sum, await process.contents([name]), usedforsecurity=False)
        await process.out(f"{digest.hexdigest()}  {name}\n")
    return 0


@program("base64")
async def base64(process: Process, args: list[str]) -> int:
    """Encode, or with -d decode."""
    found, names = options(args, "diw:", ["decode"])
    data = await process.contents(names or ["-"])
    if {"d", "decode"} & set(found):
        try:
            await process.write(1, encoding.b64decode(b"".join(data.split()), validate=True))
        except binascii.Error:
            raise UsageError("invalid input") from None
        return 0
    encoded = encoding.b64encode(data).decode()
    width = count_of(found.get("w", "76")) or len(encoded) or 1
    lines = [encoded[start : start + width] for start in range(0, len(encoded), width)]
    await process.out("\n".join(lines) + ("" if found.get("w") == "0" else "\n"))
    return 0
