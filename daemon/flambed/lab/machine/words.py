"""The words of shell source: quotes, escapes and expansions, from tree-sitter's nodes to `syntax`.

The grammar drops characters between its nodes (the newline in a two-line string, the space in `${x:-a b}`), so
what lies between expansions is read from the source itself.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tree_sitter import Node

from flambed.lab.machine.syntax import Arithmetic, Parameter, Part, Script, Simple, Substitution, Text, Word

_EXPANSIONS = {"simple_expansion", "expansion", "command_substitution", "arithmetic_expansion"}
_QUOTATIONS = {"string", "raw_string", "ansi_c_string", "translated_string"}
_OPERATORS = {":-", "-", ":=", "=", ":+", "+", ":?", "?", "#", "##", "%", "%%"}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b", "0": "\0"}
_BACKQUOTED = re.compile(r"`((?:\\.|[^`\\])*)`", re.DOTALL)


class SourceError(Exception):
    """The source is not shell, or more shell than the lab knows; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class Words:
    """Lowers the words of one source text."""

    def __init__(self, source: bytes) -> None:
        self._source = source

    def script(self, nodes: Iterable[Node]) -> Script:
        """Lower the statements inside $( ); given by the class that knows statements."""
        raise NotImplementedError

    def text(self, node: Node) -> str:
        """Return the source of `node`."""
        return self._slice(node.start_byte, node.end_byte)

    def error(self, node: Node, message: str) -> SourceError:
        """Return an error at `node`."""
        return SourceError(message, node.start_point.row + 1)

    def word(self, node: Node) -> Word:
        """Lower one word."""
        return tuple(self._parts(node, quoted=False))

    def words(self, nodes: Sequence[Node], *, whole: bool = False) -> list[Word]:
        """Lower a run of words; nodes that touch are one word. `whole`: no expansion is split."""
        lowered: list[list[Part]] = []
        end = -1
        for node in nodes:
            pieces = self._blank_separated(node)
            if node.type == "variable_assignment":
                name, value = self.assignment(node)
                pieces = [[Text(f"{name}=", quoted=True), *(replace(part, quoted=True) for part in value)]]
            if node.start_byte == end and lowered:
                lowered[-1] += pieces.pop(0)
            lowered += pieces
            end = node.end_byte
        if whole:
            return [tuple(p if isinstance(p, Text) else replace(p, quoted=True) for p in word) for word in lowered]
        return [tuple(word) for word in lowered]

    def assignment(self, node: Node) -> tuple[str, Word]:
        """Lower name=value."""
        name, value = node.children[0], node.children[2:]
        if name.type != "variable_name" or node.children[1].type != "=" or any(n.type == "array" for n in value):
            raise self.error(node, "the lab's shell has no arrays and no +=")
        return self.text(name), tuple(part for child in value for part in self._parts(child, quoted=False))

    def expression(self, node: Node) -> Word:
        """Lower what stands between the double parentheses of an arithmetic node."""
        first, last = node.children[0], node.children[-1]
        inner = [found for child in node.children[1:-1] for found in _outermost(child, _EXPANSIONS)]
        return tuple(self._between(first.end_byte, last.start_byte, inner, _in_double_quotes, quoted=True))

    def document(self, node: Node, *, literal: bool, strip_tabs: bool) -> Word:
        """Lower the body of a here-document; `literal` where its delimiter was quoted."""
        if literal:
            text = self.text(node)
            return (Text(re.sub(r"^\t+", "", text, flags=re.MULTILINE) if strip_tabs else text, quoted=True),)
        inner = [found for child in node.children for found in _outermost(child, _EXPANSIONS)]
        parts: list[Part] = []
        for part in self._between(node.start_byte, node.end_byte, inner, self._here_text, quoted=True):
            if strip_tabs and isinstance(part, Text):
                parts.append(Text(re.sub(r"\n\t+", "\n", part.text), quoted=True))
            else:
                parts.append(part)
        return tuple(parts)

    # --- parts ---

    def _parts(self, node: Node, *, quoted: bool) -> list[Part]:
        match node.type:
            case "string":
                inner = [child for child in node.named_children if child.type in _EXPANSIONS]
                parts = self._between(node.start_byte + 1, node.end_byte - 1, inner, _in_double_quotes, quoted=True)
                return parts or [Text("", quoted=True)]
            case "translated_string":
                return self._parts(node.named_children[0], quoted=True)
            case "raw_string":
                return [Text(self.text(node)[1:-1], quoted=True)]
            case "ansi_c_string":
                return [Text(_ansi_c(self.text(node)[2:-1]), quoted=True)]
            case "simple_expansion":
                return [Parameter(self.text(node)[1:], quoted=quoted)]
            case "expansion":
                return [self._parameter(node, quoted=quoted)]
            case "command_substitution":
                return [self._substitution(node, quoted=quoted)]
            case "arithmetic_expansion":
                return [Arithmetic(self.expression(node), quoted=quoted)]
            case "process_substitution" | "array" | "subscript":
                raise self.error(node, f"the lab's shell does not know a {node.type.replace('_', ' ')}")
            case _:
                inner = [found for child in node.children for found in _outermost(child, _EXPANSIONS | _QUOTATIONS)]
                literal = _in_double_quotes if quoted else _unquoted
                return self._between(node.start_byte, node.end_byte, inner, literal, quoted=quoted)

    def _between(
        self, start: int, end: int, nodes: Iterable[Node], literal: Callable[[str], list[Part]], *, quoted: bool
    ) -> list[Part]:
        """Lower `nodes`, and what lies around them from `start` to `end` by `literal`."""
        parts: list[Part] = []
        for node in nodes:
            parts += literal(self._slice(start, node.start_byte))
            parts += self._parts(node, quoted=quoted)
            start = node.end_byte
        return parts + literal(self._slice(start, end))

    def _parameter(self, node: Node, *, quoted: bool) -> Part:
        """Lower ${...}."""
        children = node.children[1:-1]
        if len(children) > 1 and children[0].type == "#":
            return Parameter(self.text(children[1]), "length", quoted=quoted)
        name, rest = self.text(children[0]), children[1:]
        if not rest:
            return Parameter(name, quoted=quoted)
        operator = self.text(rest[0])
        if operator not in _OPERATORS:
            raise self.error(node, f"the lab's shell does not know {self.text(node)}")
        inner = [found for child in rest[1:] for found in _outermost(child, _EXPANSIONS | _QUOTATIONS)]
        pattern = operator[0] in "#%"  # a pattern's own quotes decide, not those around the expansion
        literal = _in_double_quotes if quoted and not pattern else _unquoted
        operand = self._between(rest[0].end_byte, node.end_byte - 1, inner, literal, quoted=quoted and not pattern)
        return Parameter(name, operator, tuple(operand), quoted)

    def _substitution(self, node: Node, *, quoted: bool) -> Part:
        if node.children[0].type == "`":
            return _backquoted(self.text(node)[1:-1], quoted=quoted)
        script = self.script(node.children[1:-1])
        match script.items:
            case ((Simple(assignments=(), words=(), redirects=(redirect,)) as simple, False),) if (
                redirect.operator == "<"
            ):  # $(<file)
                script = Script(((replace(simple, words=((Text("cat"),),)), False),))
        return Substitution(script, quoted)

    def _blank_separated(self, node: Node) -> list[list[Part]]:
        """Lower a node that should be one word; the grammar takes `{ }` for one."""
        if node.type == "word" and re.search(r"(?<!\\)[ \t]", self.text(node)):
            return [_unquoted(piece) for piece in re.split(r"(?<!\\)[ \t]+", self.text(node))]
        return [self._parts(node, quoted=False)]

    @staticmethod
    def _here_text(text: str) -> list[Part]:
        """Lower the text of a here-document, in which the grammar does not see backquotes."""
        parts: list[Part] = []
        start = 0
        for found in _BACKQUOTED.finditer(text):
            parts.append(Text(_unescape(text[start : found.start()], r"$`\\"), quoted=True))
            parts.append(_backquoted(found[1], quoted=True))
            start = found.end()
        return [*parts, Text(_unescape(text[start:], r"$`\\"), quoted=True)]

    def _slice(self, start: int, end: int) -> str:
        return self._source[start:end].decode(errors="surrogateescape")


def _outermost(node: Node, types: set[str]) -> list[Node]:
    """Return the nodes of `types` at and below `node`, without those inside of one another."""
    if node.type in types:
        return [node]
    return [found for child in node.children for found in _outermost(child, types)]


def _backquoted(source: str, *, quoted: bool) -> Substitution:
    from flambed.lab.machine.parser import parse  # noqa: PLC0415 - the two grammars call each other

    return Substitution(parse(_unescape(source, r"$`\\")), quoted)


def _unescape(text: str, characters: str) -> str:
    """Take away the backslash before each of `characters`, and a backslash with the newline behind it."""
    return re.sub(rf"\\([{characters}\n])", lambda found: found[1].strip("\n"), text)


def _in_double_quotes(text: str) -> list[Part]:
    return [Text(_unescape(text, r'$`"\\'), quoted=True)] if text else []


def _unquoted(text: str) -> list[Part]:
    """Lower literal characters outside quotes: an escaped one is quoted."""
    parts: list[Part] = []
    for found in re.finditer(r"\\\n|\\(.)|'([^']*)'|((?:[^\\']|\\$|'(?![^']*'))+)", text, re.DOTALL):
        if found[3] is not None:
            parts.append(Text(found[3]))
        elif not found[0].startswith("\\\n"):
            parts.append(Text(found[1] if found[1] is not None else found[2], quoted=True))
    return parts


def _ansi_c(text: str) -> str:
    def decoded(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        return _ESCAPES.get(found[2], found[2])

    return re.sub(r"\\(?:x([0-9a-fA-F]{1,2})|(.))", decoded, text, flags=re.DOTALL)
