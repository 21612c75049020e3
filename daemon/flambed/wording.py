"""How messages about files quote what they found, and what they suggest. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shown(value: object, most: int = 60) -> str:
    """Return a value as a message quotes it: `repr`, cut to a length, so that no file makes a message long."""
    text = repr(value[: most + 1] if isinstance(value, str) else value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def nearest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for an unknown word, or which ones are known where none is near."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word[:100].lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[close[0]]!r}?" if close else f"known are {', '.join(sorted(by_lower.values()))}"
