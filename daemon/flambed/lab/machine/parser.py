"""Shell source to `syntax`, by tree-sitter's grammar for bash.

tree-sitter tokenises well and nests loosely: `a && b 2>x | c` comes back as one redirected list. So commands,
operators and redirections are taken from the tree in their order, and put together again by POSIX's precedence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import tree_sitter
import tree_sitter_bash
from tree_sitter import Node

from flambed.lab.machine import syntax
from flambed.lab.machine.syntax import Command, Part, Redirect, Script, Simple, Text, Word
from flambed.lab.machine.words import SourceError, Words

_GRAMMAR = tree_sitter.Language(tree_sitter_bash.language())
_LISTS = {"list", "pipeline", "negated_command"}
_OPERATORS = {"&&", "||", "|", "|&", "!"}
_SEPARATORS = {";", ";;", "\n", "comment"}

Token = Command | Redirect | str | tuple[Part, ...]  # str: an operator; a tuple: a word behind a redirection


@lru_cache(maxsize=512)
def parse(source: str) -> Script:
    """Parse a script, a command line or the inside of `...`; results are kept.

    Raises SourceError, which names the line, for what is not shell or beyond this shell.
    """
    text = source.encode(errors="surrogateescape")
    root = tree_sitter.Parser(_GRAMMAR).parse(text).root_node
    if root.has_error:
        _refuse_errors(root)
    return _Lowering(text).script(root.children)


def _refuse_errors(node: Node) -> None:
    """Raise for the first error below `node`; redirections without a command are no error to us."""
    nameless = node.is_missing and node.parent is not None and node.parent.type == "command_name"
    if node.is_error or (node.is_missing and not nameless):
        words = (node.text or b"").decode(errors="replace").split() or ["end of file"]
        raise SourceError(f'Syntax error: "{words[0]}" unexpected', node.start_point.row + 1)
    for child in node.children:
        if child.has_error or child.is_missing:
            _refuse_errors(child)


class _Lowering(Words):
    """The commands of one source text; the base class does the words."""

    def script(self, nodes: Iterable[Node]) -> Script:
        """Lower a run of statements and separators."""
        items: list[tuple[Command, bool]] = []
        for node in nodes:
            if node.type == "&" and items:
                items[-1] = (items[-1][0], True)
            elif node.type not in _SEPARATORS:
                items.append((self.command(node), False))
        return Script(tuple(items))

    def command(self, node: Node) -> Command:
        """Lower one statement."""
        tokens = self._flat(node)
        command = self._and_or(tokens)
        if tokens:
            raise self.error(node, f'Syntax error: "{tokens[0]}" unexpected')
        return command

    # --- statements: flattened, and nested anew ---

    def _flat(self, node: Node) -> list[Token]:
        if node.type in _OPERATORS:
            return [node.type]
        if node.type == "redirected_statement" or node.type in _LISTS:
            return [token for child in node.children for token in self._flat(child)]
        if node.type == "file_redirect":
            return [*self._file_redirect(node)]
        if node.type == "herestring_redirect":
            return [Redirect(0, "<<<", self.word(node.named_children[-1]))]
        if node.type == "heredoc_redirect":
            return self._here_document(node)
        return [self._primary(node)]

    def _and_or(self, tokens: list[Token]) -> Command:
        command = self._pipeline(tokens)
        while tokens and tokens[0] in {"&&", "||"}:
            operator = str(tokens.pop(0))
            command = syntax.AndOr(command, operator, self._pipeline(tokens))
        return command

    def _pipeline(self, tokens: list[Token]) -> Command:
        negated = False
        while tokens and tokens[0] == "!":
            tokens.pop(0)
            negated = not negated
        commands = [self._unit(tokens)]
        while tokens and tokens[0] in {"|", "|&"}:
            if tokens.pop(0) == "|&":
                commands[-1] = _redirected(commands[-1], [Redirect(2, ">&", (Text("1"),))])
            commands.append(self._unit(tokens))
        return commands[0] if len(commands) == 1 and not negated else syntax.Pipeline(tuple(commands), negated)

    def _unit(self, tokens: list[Token]) -> Command:
        first = tokens.pop(0) if tokens and not isinstance(tokens[0], Redirect) else Simple((), (), 1)
        if isinstance(first, str | tuple | Redirect):
            raise SourceError(f'Syntax error: "{first}" unexpected', 1)
        redirects: list[Redirect] = []
        while tokens and isinstance(tokens[0], Redirect | tuple):
            token = tokens.pop(0)
            if isinstance(token, Redirect):
                redirects.append(token)
            elif isinstance(token, tuple) and isinstance(first, Simple):
                first = replace(first, words=(*first.words, token))
        return _redirected(first, redirects)

    # --- redirections ---

    def _file_redirect(self, node: Node) -> Iterable[Redirect | Word]:
        descriptor: int | None = None
        operator = ""
        targets: list[Node] = []
        for child in node.children:
            if child.type == "file_descriptor":
                descriptor = int(self.text(child))
            elif not operator and not child.is_named:
                operator = child.type
            else:
                targets.append(child)
        if operator in {">&-", "<&-"}:
            yield Redirect(descriptor, operator[:2], (Text("-"),))
            yield from self.words(targets)
            return
        words = self.words(targets)
        yield Redirect(descriptor, operator, words[0])
        yield from words[1:]

    def _here_document(self, node: Node) -> list[Token]:
        descriptor: int | None = None
        operator, delimiter = "<<", ""
        body: Word = ()
        behind: list[Token] = []
        for child in node.children:
            match child.type:
                case "file_descriptor":
                    descriptor = int(self.text(child))
                case "<<" | "<<-":
                    operator = child.type
                case "heredoc_start":
                    delimiter = self.text(child)
                case "heredoc_body":
                    quoted = any(mark in delimiter for mark in "'\"\\")
                    body = self.document(child, literal=quoted, strip_tabs=operator == "<<-")
                case "heredoc_end":
                    pass
                case _ if child.type in _OPERATORS or child.type.endswith(("_redirect", "_statement")):
                    behind += self._flat(child)
                case "list" | "pipeline" | "command" | "subshell" | "test_command":
                    behind += self._flat(child)
                case _:
                    behind.append(self.word(child))
        return [Redirect(descriptor, "<<", body), *behind]

    # --- single commands ---

    def _primary(self, node: Node) -> Command:
        match node.type:
            case "command" | "variable_assignment" | "variable_assignments":
                return self._simple(node)
            case "declaration_command" | "unset_command" | "test_command":
                return self._spelled_out(node)
            case "subshell":
                return syntax.Subshell(self.script(node.children[1:-1]))
            case "compound_statement" if node.children[0].type == "((":
                return syntax.Reckon(self.expression(node))
            case "compound_statement":
                return syntax.Group(self.script(node.children[1:-1]))
            case "if_statement":
                return self._if(node)
            case "while_statement":
                condition, body = self._split(node.children[1:], "do_group")
                loop = body[0].children[1:-1]
                return syntax.Loop(self.script(condition), self.script(loop), node.children[0].type == "until")
            case "for_statement" if node.children[0].type == "for":
                return self._for(node)
            case "case_statement":
                return self._case(node)
            case "function_definition":
                return self._function(node)
            case _:
                raise self.error(node, f"the lab's shell does not know a {node.type.replace('_', ' ')}")

    def _simple(self, node: Node) -> Simple:
        assignments: list[tuple[str, Word]] = []
        words: list[Node] = []
        redirects: list[Redirect] = []
        targets: list[Word] = []
        nodes = [node] if node.type == "variable_assignment" else node.children
        for child in nodes:
            if child.type == "variable_assignment":
                assignments.append(self.assignment(child))
            elif child.type.endswith("_redirect"):
                for token in self._flat(child):
                    if isinstance(token, Redirect):
                        redirects.append(token)
                    elif isinstance(token, tuple):
                        targets.append(token)
            elif child.type == "command_name":
                words += [part for part in child.children if not part.is_missing]
            else:
                words.append(child)
        line = node.start_point.row + 1
        return Simple(tuple(assignments), (*targets, *self.words(words)), line, tuple(redirects))

    def _spelled_out(self, node: Node) -> Simple:
        """Lower export, unset, [ and [[, which the grammar takes apart, back to their words."""
        words: list[Node] = []

        def collect(inner: Node) -> None:
            for child in inner.children:
                if child.type in {"unary_expression", "binary_expression", "parenthesized_expression"}:
                    collect(child)
                else:
                    words.append(child)

        collect(node)
        whole = node.type == "declaration_command" or words[0].type == "[["
        return Simple((), tuple(self.words(words, whole=whole)), node.start_point.row + 1)

    def _if(self, node: Node) -> syntax.If:
        branches: list[tuple[Script, Script]] = []
        otherwise: Script | None = None
        plain = [child for child in node.children if child.type not in {"elif_clause", "else_clause"}]
        for clause in [plain, *(child.children for child in node.children if child.type == "elif_clause")]:
            condition, body = self._split(clause[1:], "then")
            branches.append((self.script(condition), self.script(n for n in body[1:] if n.type != "fi")))
        for child in node.children:
            if child.type == "else_clause":
                otherwise = self.script(child.children[1:])
        return syntax.If(tuple(branches), otherwise)

    def _for(self, node: Node) -> syntax.For:
        variable = self.text(node.children[1])
        head, body = self._split(node.children[2:], "do_group")
        loop = self.script(body[0].children[1:-1])
        if not head or head[0].type != "in":
            return syntax.For(variable, None, loop)
        return syntax.For(variable, tuple(self.words([n for n in head[1:] if n.type not in _SEPARATORS])), loop)

    def _case(self, node: Node) -> syntax.Case:
        subject, items = self._split(node.children[1:-1], "in")
        lowered: list[tuple[tuple[Word, ...], Script]] = []
        for item in items:
            if item.type == "case_item":
                patterns, body = self._split(item.children, ")")
                words = self.words([child for child in patterns if child.type not in {"(", "|"}])
                lowered.append((tuple(words), self.script(body[1:])))
        return syntax.Case(self.word(subject[0]), tuple(lowered))

    def _function(self, node: Node) -> syntax.Function:
        named = node.named_children
        body = self._primary(named[1])
        redirects = [token for child in named[2:] for token in self._flat(child) if isinstance(token, Redirect)]
        return syntax.Function(self.text(named[0]), _redirected(body, redirects))

    @staticmethod
    def _split(nodes: Sequence[Node], at: str) -> tuple[Sequence[Node], Sequence[Node]]:
        """Split before the first node of type `at`."""
        for index, node in enumerate(nodes):
            if node.type == at:
                return nodes[:index], nodes[index:]
        return nodes, ()


def _redirected(command: Command, redirects: Sequence[Redirect]) -> Command:
    if not redirects:
        return command
    if isinstance(command, Simple):
        return replace(command, redirects=(*command.redirects, *redirects))
    return syntax.Redirected(command, tuple(redirects))
