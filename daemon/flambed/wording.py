"""How messages about files quote what they found, and what they suggest. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shown(value: object, most: int = 60) -> str:
    """Return a value as a message quotes it: `repr`, cut to a length, so that no file makes a message long."""
    text = repr(value[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that an unknown one is most likely a slip of, or None where none is near."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word[:100].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for an unknown word, or which ones are known where none is near."""
    known = tuple(known)
    found = closest(word, known)
    return f"did you mean {found!r}?" if found is not None else f"known are {', '.join(sorted(known))}"
