"""The terminal: lines, tables, colours, widths."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final, TextIO

_COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}
_ESCAPE: Final = "\x1b["
_PROSE: Final = 30  # columns that are enough of a table's last one to know what it is about


class Console:
    """Where flambectl prints: documents on stdout, what went wrong on stderr."""

    def __init__(self, out: TextIO, err: TextIO, environ: Mapping[str, str], *, as_json: bool) -> None:
        self._out = out
        self._err = err
        self.as_json = as_json
        dumb = environ.get("TERM", "dumb") == "dumb"
        self.is_terminal = out.isatty()
        self.can_redraw = self.is_terminal and not dumb and not as_json
        self.has_colours = self.can_redraw and not environ.get("NO_COLOR")

    @property
    def width(self) -> int | None:
        """The columns of the terminal; None where stdout is none, and lines are never cut."""
        return shutil.get_terminal_size().columns if self.is_terminal else None

    @property
    def height(self) -> int:
        """The lines of the terminal."""
        return shutil.get_terminal_size().lines

    def line(self, text: str = "") -> None:
        """Print a line for people."""
        self._out.write(f"{text}\n")
        self._out.flush()

    def lines(self, lines: Sequence[str]) -> None:
        """Print lines for people."""
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.flush()

    def document(self, value: Any, *, one_line: bool = False) -> None:
        """Print a document as JSON."""
        self.line(json.dumps(value, ensure_ascii=False, indent=None if one_line else 2))

    def error(self, text: str) -> None:
        """Print a line on stderr; it may quote what others wrote."""
        self._err.write(f"{printable(text)}\n")
        self._err.flush()

    def ask(self, question: str) -> None:
        """Put a question to a person: on stderr, so that stdout holds answers only."""
        self._err.write(question)
        self._err.flush()

    def write(self, text: str) -> None:
        """Write to stdout as it is; for cursor control."""
        self._out.write(text)
        self._out.flush()

    def paint(self, text: str, colour: str) -> str:
        """Return a text in a colour, where the terminal has any."""
        return f"{_ESCAPE}{_COLOURS[colour]}m{text}{_ESCAPE}0m" if self.has_colours and text else text


class Block:
    """Lines that are drawn again in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Draw lines over those of the last time; what the terminal has no room for is left out and counted."""
        room = max(self._console.height - 1, 1)
        if len(lines) > room:
            lines = [*lines[: room - 1], f"... {len(lines) - room + 1} more"]
        width = self._console.width or 80
        up = f"{_ESCAPE}{self._drawn}A" if self._drawn else ""
        body = "".join(f"{_ESCAPE}2K{cut(line, width)}\n" for line in lines)
        self._console.write(f"{up}\r{body}{_ESCAPE}J")
        self._drawn = len(lines)


def printable(text: object) -> str:
    """Return a text in one line that a terminal shows as it is: names and outputs of others hold no escape sequences."""
    return "".join(letter if letter.isprintable() else _spelled(letter) for letter in str(text))


def printable_lines(text: str) -> list[str]:
    """Return the lines of an output, each of them printable; tabs become spaces."""
    return [printable(line) for line in text.expandtabs().replace("\r\n", "\n").split("\n")]


def _spelled(letter: str) -> str:
    return " " if letter in "\n\t" else letter.encode("unicode_escape").decode()


def columns_of(text: str) -> int:
    """Return how many columns a text takes; colours take none, wide letters two, combining marks none."""
    total, letters = 0, iter(text)
    for letter in letters:
        if letter == "\x1b":
            while next(letters, "m") != "m":
                pass
        elif not unicodedata.combining(letter):
            total += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
    return total


def cut(text: str, width: int) -> str:
    """Return a text of at most so many columns; one that is cut ends with an ellipsis."""
    if columns_of(text) <= width:
        return text
    kept, total, letters = [], 0, iter(text)
    for letter in letters:
        if letter == "\x1b":
            kept.append(letter)
            for more in letters:
                kept.append(more)
                if more == "m":
                    break
            continue
        total += columns_of(letter)
        if total > width - 1:
            break
        kept.append(letter)
    return "".join(kept) + "…" + (f"{_ESCAPE}0m" if "\x1b" in text else "")


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, spare: Sequence[str] = ()
) -> list[str]:
    """Return aligned lines.

    Args:
        header: the names of the columns; those without any value are left out.
        rows: the cells of each line.
        width: the columns of the terminal, which lines are cut to; None: they are as long as they are.
        spare: columns that are left out where there is no room, the most dispensable first. The last column is prose:
            it may be cut, but not to less than a few words.
    """
    sizes = {
        index: max(columns_of(row[index]) for row in (header, *rows))
        for index in range(len(header))
        if any(row[index] for row in rows)
    }
    last = len(header) - 1
    for name in spare:
        needed = sum(2 + (min(size, _PROSE) if index == last else size) for index, size in sizes.items()) - 2
        if width is None or needed <= width:
            break
        sizes.pop(header.index(name), None)
    texts = []
    for row in (header, *rows):
        cells = [row[index] + " " * (size - columns_of(row[index])) for index, size in sizes.items()]
        text = "  ".join(cells).rstrip()
        texts.append(cut(text, width) if width else text)
    return texts


def quiet(stream: TextIO) -> None:
    """Make a stream whose reader is gone swallow what is still to be flushed, so that ending says nothing more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
