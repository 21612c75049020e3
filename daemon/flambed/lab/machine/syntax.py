"""The grammar of the pretend hosts' shell, as values: what the parser makes and the interpreter runs."""

from dataclasses import dataclass

# --- words ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """Characters that stand for themselves; quoted ones are neither split nor patterns."""

    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """$name, or ${name operator operand}; the operator '#' before a name is 'length'."""

    name: str
    operator: str = ""
    operand: "Word" = ()
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Substitution:
    """$(script) or `script`."""

    script: "Script"
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """$((expression)); the expression is expanded as if in double quotes before it is reckoned."""

    expression: "Word"
    quoted: bool = False


@dataclass(slots=True, eq=False)
class Document:
    """A here-document; its word is filled in when the parser gets to the lines below the command."""

    word: "Word" = ()


Part = Text | Parameter | Substitution | Arithmetic | Document
Word = tuple[Part, ...]

# --- commands ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Redirect:
    """descriptor operator target; the target of '<<' is a Document, that of '<<<' the line itself."""

    descriptor: int | None
    operator: str
    target: Word


@dataclass(frozen=True, slots=True)
class Simple:
    """[name=value...] [word...], with redirections around them; `line` counts from 1."""

    assignments: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    line: int
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Redirected:
    """A compound command with redirections behind it."""

    command: "Command"
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """[!] command | command..."""

    commands: tuple["Command", ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class AndOr:
    """left && right, or left || right."""

    left: "Command"
    operator: str
    right: "Command"


@dataclass(frozen=True, slots=True)
class Script:
    """Commands one after the other; those marked True run in the background."""

    items: tuple[tuple["Command", bool], ...]


@dataclass(frozen=True, slots=True)
class Subshell:
    """( script )."""

    body: Script


@dataclass(frozen=True, slots=True)
class Group:
    """{ script; }."""

    body: Script


@dataclass(frozen=True, slots=True)
class If:
    """if/elif conditions with their bodies, and the else body."""

    branches: tuple[tuple[Script, Script], ...]
    otherwise: Script | None


@dataclass(frozen=True, slots=True)
class Loop:
    """while condition; do body; done, or `until`."""

    condition: Script
    body: Script
    until: bool


@dataclass(frozen=True, slots=True)
class For:
    """for variable in words; do body; done; without `in` the words are the positional parameters."""

    variable: str
    words: tuple[Word, ...] | None
    body: Script


@dataclass(frozen=True, slots=True)
class Case:
    """case word in pattern | pattern) script ;; ... esac."""

    word: Word
    items: tuple[tuple[tuple[Word, ...], Script], ...]


@dataclass(frozen=True, slots=True)
class Function:
    """name() command."""

    name: str
    body: "Command"


@dataclass(frozen=True, slots=True)
class Reckon:
    """(( expression )): succeeds unless the value is 0."""

    expression: Word


Command = (
    Simple | Redirected | Pipeline | AndOr | Script | Subshell | Group | If | Loop | For | Case | Function | Reckon
)
