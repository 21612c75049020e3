"""`python -m tests.simulation SEED [LAST]`: live one life again, and print its story, or only its last lines."""

from __future__ import annotations

import sys

from tests.simulation.life import live

outcome = live(int(sys.argv[1]))
print(outcome.told(int(sys.argv[2]) if len(sys.argv) > 2 else None))  # noqa: T201 - that is what it is for
sys.exit(1 if outcome.violations else 0)
