"""Tokens to `syntax`: the grammar of the POSIX shell (2.10) by recursive descent, with a few things of bash."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from flambed.lab.machine import syntax
from flambed.lab.machine.lexer import Lexer, SourceError, Token
from flambed.lab.machine.syntax import Command, Redirect, Script, Simple, Text, Word

_RESERVED = frozenset(
    {
        "if",
        "then",
        "elif",
        "else",
        "fi",
        "while",
        "until",
        "for",
        "do",
        "done",
        "case",
        "esac",
        "{",
        "}",
        "!",
        "function",
    }
)
_REDIRECTIONS = frozenset({"<", ">", ">>", "<<", "<<-", "<<<", "<&", ">&", "<>", ">|", "&>", "&>>"})
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=")
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_DECLARATIONS = frozenset({"export", "readonly", "local", "declare", "typeset"})


@lru_cache(maxsize=512)
def parse(source: str) -> Script:
    """Parse a script; results are kept, for hosts are sent the same scripts over and over.

    Raises SourceError, which names the line, for what is not shell or beyond this shell. Nothing has run then: a real
    shell would have run the lines above.
    """
    return Parser(source).whole()


class Parser(Lexer):
    """Parses one source text."""

    def __init__(self, source: str, line: int = 1) -> None:
        super().__init__(source, line)
        self._next: Token | None = None

    def whole(self) -> Script:
        """Parse the whole source."""
        script = self._script()
        if self._token().kind != "end":
            raise self._unexpected()
        return script

    def substitution(self) -> Script:
        """Parse up to a closing parenthesis, and take it."""
        outer, self._next = self._next, None
        script = self._script()
        self._expect(")")
        self._next = outer
        return script

    # --- tokens ---

    def _token(self) -> Token:
        """Return the next token without taking it."""
        if self._next is None:
            self._next = self.read_token()
        return self._next

    def _take_token(self) -> Token:
        token = self._token()
        self._next = None
        return token

    def _at(self, *texts: str) -> bool:
        """Whether the next token is one of these operators or reserved words."""
        token = self._token()
        return token.kind in {"operator", "word"} and token.text in texts

    def _accept(self, *texts: str) -> bool:
        if self._at(*texts):
            self._next = None
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._unexpected(text)

    def _unexpected(self, expected: str = "") -> SourceError:
        token = self._token()
        text = token.text if token.kind == "end" else '"newline"' if token.text == "\n" else f'"{token.text}"'
        return SourceError(
            f"Syntax error: {text} unexpected" + (f' (expecting "{expected}")' if expected else ""), token.line
        )

    def _skip_newlines(self) -> None:
        while self._accept("\n"):
            pass

    # --- lists ---

    def _script(self) -> Script:
        """Parse commands up to something that cannot begin one."""
        items: list[tuple[Command, bool]] = []
        self._skip_newlines()
        while not self._ends_list():
            command = self._and_or()
            background = self._accept("&")
            items.append((command, background))
            if not background and not self._accept(";") and not self._at("\n"):
                break
            self._skip_newlines()
        return Script(tuple(items))

    def _ends_list(self) -> bool:
        return self._token().kind == "end" or self._at(
            ")", ";;", "then", "elif", "else", "fi", "do", "done", "esac", "}"
        )

    def _body(self) -> Script:
        """Parse a list that must not be empty."""
        script = self._script()
        if not script.items:
            raise self._unexpected()
        return script

    def _and_or(self) -> Command:
        command = self._pipeline()
        while self._at("&&", "||"):
            operator = self._take_token().text
            self._skip_newlines()
            command = syntax.AndOr(command, operator, self._pipeline())
        return command

    def _pipeline(self) -> Command:
        negated = False
        while self._accept("!"):
            negated = not negated
        commands = [self._command()]
        while self._at("|", "|&"):
            if self._take_token().text == "|&":
                commands[-1] = _redirected(commands[-1], [Redirect(2, ">&", (Text("1"),))])
            self._skip_newlines()
            commands.append(self._command())
        return commands[0] if len(commands) == 1 and not negated else syntax.Pipeline(tuple(commands), negated)

    # --- commands ---

    def _command(self) -> Command:
        compound = self._compound()
        if compound is None:
            return self._simple()
        if isinstance(compound, syntax.Function):
            return compound
        redirects: list[Redirect] = []
        while redirect := self._redirect():
            redirects.append(redirect)
        return _redirected(compound, redirects)

    def _compound(self) -> Command | None:
        token = self._token()
        if token.kind not in {"operator", "word"}:
            return None
        match token.text:
            case "(":
                return self._parenthesis()
            case "{":
                self._take_token()
                return syntax.Group(self._enclosed("}"))
            case "if":
                return self._if()
            case "while" | "until":
                self._take_token()
                condition = self._body()
                return syntax.Loop(condition, self._do(), until=token.text == "until")
            case "for":
                return self._for()
            case "case":
                return self._case()
            case "function":
                self._take_token()
                name = self._take_token().text
                if self._accept("("):
                    self._expect(")")
                return self._function(name)
            case _:
                return None

    def _parenthesis(self) -> Command:
        self._take_token()
        expression = self.arithmetic_command()
        if expression is not None:
            return syntax.Reckon(expression)
        return syntax.Subshell(self._enclosed(")"))

    def _enclosed(self, end: str) -> Script:
        body = self._body()
        self._expect(end)
        return body

    def _if(self) -> syntax.If:
        branches: list[tuple[Script, Script]] = []
        while not branches or self._at("elif"):
            self._take_token()
            condition = self._body()
            self._expect("then")
            branches.append((condition, self._body()))
        otherwise = self._body() if self._accept("else") else None
        self._expect("fi")
        return syntax.If(tuple(branches), otherwise)

    def _do(self) -> Script:
        self._expect("do")
        return self._enclosed("done")

    def _for(self) -> syntax.For:
        self._take_token()
        name = self._take_token()
        if not _NAME.fullmatch(name.text):
            raise SourceError("Syntax error: Bad for loop variable", name.line)
        words: list[Word] | None = None
        self._skip_newlines()
        if self._accept("in"):
            words = []
            while self._token().kind in {"word", "number"}:
                words.append(self._take_token().word)
        self._accept(";")
        self._skip_newlines()
        return syntax.For(name.text, tuple(words) if words is not None else None, self._do())

    def _case(self) -> syntax.Case:
        self._take_token()
        subject = self._word()
        self._skip_newlines()
        self._expect("in")
        self._skip_newlines()
        items: list[tuple[tuple[Word, ...], Script]] = []
        while not self._accept("esac"):
            self._accept("(")
            patterns = [self._word()]
            while self._accept("|"):
                patterns.append(self._word())
            self._expect(")")
            items.append((tuple(patterns), self._script()))
            if not self._accept(";;"):
                self._expect("esac")
                break
            self._skip_newlines()
        return syntax.Case(subject, tuple(items))

    def _function(self, name: str) -> syntax.Function:
        self._skip_newlines()
        body = self._command()
        if isinstance(body, Simple):
            raise self._unexpected("{")
        return syntax.Function(name, body)

    # --- simple commands ---

    def _word(self) -> Word:
        if self._token().kind not in {"word", "number"}:
            raise self._unexpected()
        return self._take_token().word

    def _simple(self) -> Command:
        line = self._token().line
        first = self._token()
        if first.kind == "word" and first.text in _RESERVED:
            raise self._unexpected()
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        declaring = False
        while True:
            if redirect := self._redirect():
                redirects.append(redirect)
                continue
            token = self._token()
            if token.kind != "word" and not (token.kind == "number" and words):
                break
            self._take_token()
            assigned = _ASSIGNMENT.match(token.text)
            if assigned and (declaring or not words):
                value = _without(token.word, assigned[0])
                if declaring:
                    words.append((Text(assigned[0], quoted=True), *_whole(value)))
                else:
                    assignments.append((assigned[1], value))
                continue
            if not words and _NAME.fullmatch(token.text) and self._accept("("):
                self._expect(")")
                return self._function(token.text)
            words.append(token.word)
            declaring = declaring or (len(words) == 1 and token.text in _DECLARATIONS)
            if len(words) == 1 and token.text == "[[":
                words += self._double_brackets()
        if not words and not assignments and not redirects:
            raise self._unexpected()
        return Simple(tuple(assignments), tuple(words), line, tuple(redirects))

    def _double_brackets(self) -> list[Word]:
        """Parse what follows [[: operators are words there, and nothing is split."""
        words: list[Word] = []
        while True:
            token = self._take_token()
            if token.kind == "end":
                raise SourceError('Syntax error: end of file unexpected (expecting "]]")', token.line)
            if token.text != "\n":
                words.append(_whole(token.word) or (Text(token.text, quoted=True),))
            if token.text == "]]":
                return words

    def _redirect(self) -> Redirect | None:
        descriptor: int | None = None
        if self._token().kind == "number":
            descriptor = int(self._take_token().text)
        if self._token().kind != "operator" or self._token().text not in _REDIRECTIONS:
            return None
        operator = self._take_token().text
        target = self._token()
        if target.kind not in {"word", "number"}:
            raise self._unexpected()
        if operator in {"<<", "<<-"}:
            # The document must be asked for before the token behind its delimiter, which may be the newline, is read.
            document = self.here_document(self._take_token(), strip_tabs=operator == "<<-")
            return Redirect(descriptor, "<<", (document,))
        return Redirect(descriptor, operator, self._take_token().word)


def _redirected(command: Command, redirects: Sequence[Redirect]) -> Command:
    if not redirects:
        return command
    if isinstance(command, Simple):
        return replace(command, redirects=(*command.redirects, *redirects))
    return syntax.Redirected(command, tuple(redirects))


def _without(word: Word, prefix: str) -> Word:
    """Take the unquoted `prefix` off a word."""
    first = word[0]
    assert isinstance(first, Text)
    rest = first.text.removeprefix(prefix)
    return (Text(rest), *word[1:]) if rest else word[1:]


def _whole(word: Word) -> Word:
    """Let no expansion in a word be split."""
    return tuple(part if isinstance(part, Text | syntax.Document) else replace(part, quoted=True) for part in word)
