"""Shell source to tokens and words: quotes, escapes, expansions and here-documents (POSIX shell, 2.2, 2.3, 2.6).

Written by hand because it has to be right: tree-sitter's grammar for bash reads `y=$a/$1` as two commands and
`cat <<E; echo` as one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flambed.lab.machine.syntax import Arithmetic, Document, Parameter, Part, Script, Substitution, Text, Word

_OPERATOR = re.compile(r"&>>|<<-|<<<|&&|\|\||\|&|;;|<<|>>|<&|>&|<>|>\||&>|[&|;<>()\n]")
_PARAMETER = re.compile(r"[A-Za-z_]\w*|\d|[?$!#@*-]")
_BRACED_NAME = re.compile(r"[A-Za-z_]\w*|\d+|[?$!#@*-]")
_BRACED_OPERATOR = re.compile(r":?[-=+?]|##?|%%?")
_LITERAL = re.compile(r"[^\\'\"$`\s;&|<>()}]+")
_QUOTED_LITERAL = re.compile(r'[^\\"$`()}]+')
_ANSI_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b"}


class SourceError(Exception):
    """The source is not shell, or more shell than the lab knows; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of source: a word, an operator, a descriptor's number before a redirection, or the end."""

    kind: Literal["word", "operator", "number", "end"]
    text: str  # the source itself
    line: int
    word: Word = ()


@dataclass(slots=True)
class _Pending:
    """A here-document whose body has not been reached yet."""

    document: Document
    delimiter: str
    literal: bool
    strip_tabs: bool


class Lexer:
    """Reads one source text from front to back."""

    def __init__(self, source: str, line: int = 1) -> None:
        self._source = source
        self._position = 0
        self._line = line
        self._pending: list[_Pending] = []

    def substitution(self) -> Script:
        """Read the script of a $( and its closing parenthesis; given by the parser."""
        raise NotImplementedError

    def whole(self) -> Script:
        """Read the whole source as a script; given by the parser."""
        raise NotImplementedError

    def error(self, message: str) -> SourceError:
        """Return an error at the current line."""
        return SourceError(message, self._line)

    def read_token(self) -> Token:
        """Return the next token. Raises SourceError for quotes and expansions that do not end."""
        self._skip_blanks()
        start, line = self._position, self._line
        if start == len(self._source):
            return Token("end", "end of file", line)
        operator = _OPERATOR.match(self._source, start)
        if operator:
            self._position = operator.end()
            if operator[0] == "\n":
                self._line += 1
                self._read_documents()
            return Token("operator", operator[0], line)
        word = tuple(self._parts(self._bare, ends=""))
        text = self._source[start : self._position]
        following = self._source[self._position : self._position + 1]
        return Token("number" if text.isdigit() and following in {"<", ">"} else "word", text, line, word)

    def here_document(self, delimiter: Token, *, strip_tabs: bool) -> Document:
        """Expect a here-document after this line; what is returned is filled when its body is read."""
        document = Document()
        literal = any(not isinstance(part, Text) or part.quoted for part in delimiter.word)
        text = "".join(part.text for part in delimiter.word if isinstance(part, Text))
        self._pending.append(_Pending(document, text, literal, strip_tabs))
        return document

    def arithmetic_command(self) -> Word | None:
        """Read the rest of a (( )) command after its first parenthesis, or None where it is no such command."""
        if not self._source.startswith("(", self._position):
            return None
        return self._arithmetic(self._position + 1)

    def document_word(self) -> Word:
        """Read the whole source as the body of a here-document, in which a double quote is no quote."""
        return tuple(self._parts(lambda: self._inside_quotes("$`\\"), ends=""))

    # --- scanning ---

    def _skip_blanks(self) -> None:
        while True:
            found = re.compile(r"[ \t\r]+|\\\n|#[^\n]*").match(self._source, self._position)
            if not found:
                return
            self._line += found[0].count("\n")
            self._position = found.end()

    def _peek(self, text: str) -> bool:
        return self._source.startswith(text, self._position)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._source, self._position)
        if found is None:
            return ""
        self._position = found.end()
        self._line += found[0].count("\n")
        return found[0]

    def _until(self, end: str, what: str) -> str:
        """Read up to `end`, and over it."""
        place = self._source.find(end, self._position)
        if place < 0:
            raise self.error(f"Syntax error: Unterminated {what}")
        text = self._source[self._position : place]
        self._position = place + len(end)
        self._line += text.count("\n")
        return text

    def _parts(self, read: Callable[[], list[Part] | None], *, ends: str) -> list[Part]:
        """Read parts by `read` until it returns None, or one of the characters `ends` is next."""
        parts: list[Part] = []
        while self._position < len(self._source) and self._source[self._position] not in ends:
            piece = read()
            if piece is None:
                break
            parts += piece
        return parts

    # --- the pieces of a word ---

    def _bare(self) -> list[Part] | None:
        """Read a piece of a word outside quotes; None at its end."""
        literal = self._take(_LITERAL)
        if literal:
            return [Text(literal)]
        match self._source[self._position]:
            case "\\":
                character = self._source[self._position + 1 : self._position + 2]
                self._position += 1 + len(character)
                self._line += character == "\n"
                return [Text(character or "\\", quoted=True)] if character != "\n" else []
            case "'":
                self._position += 1
                return [Text(self._until("'", "quoted string"), quoted=True)]
            case '"':
                return self._double_quoted()
            case "$":
                return [self._dollar(quoted=False)]
            case "`":
                return [self._backquoted(quoted=False)]
            case "}":
                return self._character()
            case _:
                return None

    def _double_quoted(self) -> list[Part]:
        self._position += 1
        parts = self._parts(self._inside_quotes, ends='"')
        if not self._peek('"'):
            raise self.error("Syntax error: Unterminated quoted string")
        self._position += 1
        return parts or [Text("", quoted=True)]

    def _inside_quotes(self, escapable: str = '$`"\\') -> list[Part]:
        """Read a piece of what stands in double quotes."""
        literal = self._take(_QUOTED_LITERAL)
        if literal:
            return [Text(literal, quoted=True)]
        match self._source[self._position]:
            case "\\":
                following = self._source[self._position + 1 : self._position + 2]
                self._position += 1 + len(following)
                if following == "\n":
                    self._line += 1
                    return []
                return [Text(following if following and following in escapable else f"\\{following}", quoted=True)]
            case "$":
                return [self._dollar(quoted=True)]
            case "`":
                return [self._backquoted(quoted=True)]
            case character:  # what ends a word somewhere, and not here
                self._position += 1
                return [Text(character, quoted=True)]

    def _dollar(self, *, quoted: bool) -> Part:
        """Read an expansion from its $ on."""
        self._position += 1
        if self._peek("{"):
            return self._braced(quoted=quoted)
        if self._peek("(("):
            expression = self._arithmetic(self._position + 2)
            if expression is not None:
                return Arithmetic(expression, quoted)
        if self._peek("("):
            self._position += 1
            return Substitution(self.substitution(), quoted)
        if self._peek("'") and not quoted:
            return self._ansi_c()
        name = self._take(_PARAMETER)
        return Parameter(name, quoted=quoted) if name else Text("$", quoted=quoted)

    def _braced(self, *, quoted: bool) -> Part:
        """Read ${...} from its brace on."""
        start = self._position
        self._position += 1
        if self._peek("#") and not self._peek("#}"):
            self._position += 1
            name, operator = self._take(_BRACED_NAME), "length"
        else:
            name, operator = self._take(_BRACED_NAME), self._take(_BRACED_OPERATOR)
        operand: list[Part] = []
        if operator not in {"", "length"}:
            operand = self._operand(quoted=quoted and operator[0] not in "#%")  # a pattern's own quotes decide
        if not name or not self._peek("}"):
            end = self._source.find("}", start)
            raise self.error(f"Bad substitution: ${self._source[start : end + 1 if end > 0 else start + 20]}")
        self._position += 1
        return Parameter(name, operator, tuple(operand), quoted)

    def _operand(self, *, quoted: bool) -> list[Part]:
        """Read the word inside ${name...word}; blanks and operators belong to it."""

        def read() -> list[Part]:
            if self._peek('"'):
                return self._double_quoted()
            piece = self._inside_quotes('$`"\\}') if quoted else self._bare()
            return self._character() if piece is None else piece

        return self._parts(read, ends="}")

    def _character(self) -> list[Part]:
        character = self._source[self._position]
        self._position += 1
        self._line += character == "\n"
        return [Text(character)]

    def _arithmetic(self, start: int) -> Word | None:
        """Read an expression and the )) behind it; None, and nothing read, where single parentheses end it."""
        before = self._position, self._line
        self._position = start
        parts: list[Part] = []
        depth = 0
        while self._position < len(self._source):
            parts += self._parts(self._inside_quotes, ends="()")
            if self._position == len(self._source):
                break
            if self._peek("))") and depth == 0:
                self._position += 2
                return tuple(parts)
            if self._peek(")") and depth == 0:
                break
            depth += 1 if self._peek("(") else -1
            parts += self._character()
        self._position, self._line = before
        return None

    def _backquoted(self, *, quoted: bool) -> Part:
        """Read `script`."""
        line = self._line
        self._position += 1
        text = self._take(re.compile(r"(?:[^`\\]|\\.)*", re.DOTALL))
        if not self._peek("`"):
            raise self.error("Syntax error: EOF in backquote substitution")
        self._position += 1
        source = re.sub(r'\\([$`"\\])' if quoted else r"\\([$`\\])", r"\1", text)
        return Substitution(type(self)(source, line).whole(), quoted)

    def _ansi_c(self) -> Part:
        """Read $'...' from its quote on."""
        text = self._take(re.compile(r"'(?:[^'\\]|\\.)*'", re.DOTALL))
        if not text:
            raise self.error("Syntax error: Unterminated quoted string")

        def decoded(found: re.Match[str]) -> str:
            if found[1] or found[2]:
                return chr(int(found[1], 16) if found[1] else int(found[2], 8))
            return _LETTERS.get(found[3], found[3])

        return Text(_ANSI_ESCAPE.sub(decoded, text[1:-1]), quoted=True)

    # --- here-documents ---

    def _read_documents(self) -> None:
        """Read the bodies of the here-documents that the line just ended asked for."""
        pending, self._pending = self._pending, []
        for each in pending:
            start, lines = self._position, []
            while self._position < len(self._source):
                end = self._source.find("\n", self._position)
                end = len(self._source) if end < 0 else end + 1
                line = self._source[self._position : end]
                self._position = end
                line = line.lstrip("\t") if each.strip_tabs else line
                if line.removesuffix("\n") == each.delimiter:
                    break
                lines.append(line)
            body = "".join(lines)
            if each.literal:
                each.document.word = (Text(body, quoted=True),)
            else:
                each.document.word = type(self)(body, self._line).document_word()
            self._line += self._source.count("\n", start, self._position)
