"""Integer arithmetic of $(( )): C's operators without the bit shifts and commas nobody misses on a pretend host."""

import re
from collections.abc import Callable

_TOKEN = re.compile(r"\s*(0[xX][0-9a-fA-F]+|\d+|[A-Za-z_]\w*|\+\+|--|[-+*/%]=|<=|>=|==|!=|&&|\|\||[-+*/%<>!~()?:=])")


class ReckoningError(Exception):
    """The expression has no value."""


def _number(text: str) -> int:
    try:
        return int(text, 16 if text[:2].lower() == "0x" else 8 if text[0] == "0" else 10)
    except ValueError:
        raise ReckoningError(f'bad number "{text}"') from None


def _divide(left: int, right: int) -> int:
    """Divide towards zero, as C does."""
    if right == 0:
        raise ReckoningError("division by zero")
    return abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)


_ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "%="}
_LEVELS: list[dict[str, Callable[[int, int], int]]] = [
    {"==": lambda a, b: int(a == b), "!=": lambda a, b: int(a != b)},
    {"<=": lambda a, b: int(a <= b), ">=": lambda a, b: int(a >= b), "<": lambda a, b: int(a < b), ">": lambda a, b: int(a > b)},
    {"+": lambda a, b: a + b, "-": lambda a, b: a - b},
    {"*": lambda a, b: a * b, "/": _divide, "%": lambda a, b: a - b * _divide(a, b)},
]  # fmt: skip


def evaluate(source: str, get: Callable[[str], str | None], assign: Callable[[str, str], None]) -> int:
    """Return the value of `source`; variables are read by `get` and written by `assign`.

    Raises ReckoningError for bad syntax, a division by zero, or a variable that is no number.
    """
    return _Evaluation(source, get, assign).result()


class _Evaluation:
    def __init__(self, source: str, get: Callable[[str], str | None], assign: Callable[[str, str], None]) -> None:
        self._get, self._assign = get, assign
        self._tokens: list[str] = []
        self._live = True  # False in the branch that && || ?: do not take: no assignments there
        position = 0
        while source[position:].strip():
            found = _TOKEN.match(source, position)
            if found is None:
                raise ReckoningError(f'bad syntax: "{source.strip()}"')
            self._tokens.append(found[1])
            position = found.end()

    def result(self) -> int:
        """Return the value of the whole."""
        value = self._assignment() if self._tokens else 0
        if self._tokens:
            raise ReckoningError(f'unexpected "{self._tokens[0]}"')
        return value

    def _take(self, *wanted: str) -> str | None:
        if self._tokens and self._tokens[0] in wanted:
            return self._tokens.pop(0)
        return None

    def _assignment(self) -> int:
        if len(self._tokens) > 1 and self._tokens[0].isidentifier() and self._tokens[1] in _ASSIGNMENTS:
            name, operator = self._tokens.pop(0), self._tokens.pop(0)
            value = self._assignment()
            if operator != "=":
                value = next(level[operator[0]] for level in _LEVELS if operator[0] in level)(self._value(name), value)
            return self._store(name, value)
        return self._choice()

    def _choice(self) -> int:
        condition = self._or()
        if not self._take("?"):
            return condition
        first = self._branch(self._assignment, taken=condition != 0)
        if not self._take(":"):
            raise ReckoningError('":" expected')
        second = self._branch(self._assignment, taken=condition == 0)
        return first if condition else second

    def _or(self) -> int:
        value = self._and()
        while self._take("||"):
            right = self._branch(self._and, taken=value == 0)
            value = int(value != 0 or right != 0)
        return value

    def _and(self) -> int:
        value = self._level(0)
        while self._take("&&"):
            right = self._branch(lambda: self._level(0), taken=value != 0)
            value = int(value != 0 and right != 0)
        return value

    def _branch(self, parse: Callable[[], int], *, taken: bool) -> int:
        live, self._live = self._live, self._live and taken
        try:
            return parse()
        finally:
            self._live = live

    def _level(self, level: int) -> int:
        if level == len(_LEVELS):
            return self._unary()
        value = self._level(level + 1)
        while operator := self._take(*_LEVELS[level]):
            right = self._level(level + 1)
            value = _LEVELS[level][operator](value, right if self._live else right or 1)
        return value

    def _unary(self) -> int:
        match self._take("+", "-", "!", "~", "++", "--", "("):
            case None:
                return self._primary()
            case "(":
                value = self._assignment()
                if not self._take(")"):
                    raise ReckoningError('")" expected')
                return value
            case "++" | "--" as step:
                name = self._tokens.pop(0) if self._tokens else ""
                return self._store(name, self._value(name) + (1 if step == "++" else -1))
            case sign:
                value = self._unary()
                return {"+": value, "-": -value, "!": int(not value), "~": ~value}[sign]

    def _primary(self) -> int:
        if not self._tokens:
            raise ReckoningError("a value expected")
        token = self._tokens.pop(0)
        if token[0].isdigit():
            return _number(token)
        if not token.isidentifier():
            raise ReckoningError(f'a value expected, not "{token}"')
        value = self._value(token)
        if step := self._take("++", "--"):
            self._store(token, value + (1 if step == "++" else -1))
        return value

    def _value(self, name: str) -> int:
        text = (self._get(name) or "0").strip()
        if not re.fullmatch(r"[-+]?(0[xX][0-9a-fA-F]+|\d+)", text):
            raise ReckoningError(f'{name} is no number: "{text}"')
        return -_number(text[1:]) if text[0] == "-" else _number(text.lstrip("+"))

    def _store(self, name: str, value: int) -> int:
        if self._live:
            self._assign(name, str(value))
        return value
