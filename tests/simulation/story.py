"""The story of a life: facts, calls and faults in their order, and what was wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Teller:
    """Writes the story down. Lines are only put into words when somebody reads them."""

    now: Callable[[], float]
    lines: list[tuple[float, str, Callable[[], str]]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def note(self, kind: str, words: Callable[[], str]) -> None:
        """Write a line down."""
        self.lines.append((self.now(), kind, words))

    def violation(self, what: str) -> None:
        """Write down that a promise was broken."""
        if what not in self.violations:
            self.violations.append(what)
            self.note("BROKEN", lambda: what)

    def text(self, last: int | None = None) -> str:
        """Return the story, or its last lines."""
        lines = self.lines[-last:] if last else self.lines
        return "\n".join(f"{at:10.3f} {kind:7} {words()}" for at, kind, words in lines)
